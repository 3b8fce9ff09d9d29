"""Regression check of the demo: compares the scores of a fresh run with the committed ones.

    python scripts/check_demo.py results_of_the_run [committed_results]

A score may differ by what floating point does to near ties on another machine: two samples of a task, no more. Exit code 1 says which moved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CHANCE = {
    "demo_choice": 0.25,
    "demo_last_word": 0.05,
    "demo_word_problem": 0.05,
    "demo_story_infill": 15.0,
    "demo_code_infill": 0.05,
}
SAMPLES = 2  # samples that may flip


def newest(folder: Path) -> dict[str, dict[str, float]]:
    """Returns task -> metric -> value of the newest results below `folder`, with the number of samples under 'n'."""
    files = sorted(
        folder.rglob("results_*.json"), key=lambda file: json.loads(file.read_text())["date"]
    )
    if not files:
        sys.exit(f"{folder} holds no results")
    results = json.loads(files[-1].read_text())
    scores = {}
    for task, row in results["results"].items():
        metrics = {
            key.split(",")[0]: value
            for key, value in row.items()
            if "," in key and "_stderr" not in key
        }
        scores[task] = {**metrics, "n": results["n-samples"].get(task, {}).get("effective", 0)}
    return scores


def main() -> int:
    fresh = newest(Path(sys.argv[1]) / "tiny")
    root = (
        Path(sys.argv[2])
        if len(sys.argv) > 2
        else Path(__file__).parents[1] / "leaderboards" / "demo"
    )
    committed, faults = newest(root / "tiny"), []
    for task, floor in CHANCE.items():
        if task not in fresh:
            faults.append(f"{task}: missing")
            continue
        headline = next(
            iter({k: v for k, v in fresh[task].items() if k not in ("n", "perplexity")}.items())
        )
        if headline[1] <= 1.5 * floor:
            faults.append(f"{task}: {headline[0]} {headline[1]:.3f} is not clearly above {floor}")
        for metric, value in committed[task].items():
            scale = 100.0 if metric.startswith("rouge") else 1.0
            allowed = (
                0.05 * abs(value)
                if metric == "perplexity"
                else 0
                if metric == "n"
                else SAMPLES * scale / committed[task]["n"]
            )
            if abs(fresh[task][metric] - value) > allowed + 1e-9:
                faults.append(
                    f"{task}: {metric} was {value:.4f}, is {fresh[task][metric]:.4f} (allowed difference {allowed:.4f})"
                )
    print("\n".join(faults) if faults else f"demo: {len(CHANCE)} tasks as committed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

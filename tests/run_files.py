"""Result files with given scores, in lm-eval's format: for statistics on recorded scores, and for files that are hostile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2026-11-29T00-00-00.000000"


def write_run(
    folder: Path,
    scores: Mapping[str, Sequence[float]],
    answers: Sequence[str] = (),
    prompt: str = "",
    shots: int = 0,
    extra: Mapping[str, Any] | None = None,
    errors: Mapping[int, str] | None = None,
    block: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a run of generation tasks, name -> scores of its documents; returns the results file.

    Args:
        answers: texts of the documents; by default one text for all.
        extra: more keys of every sample.
        errors: number of a document -> reason why it has no score.
        block: the block `dlm_eval` of the results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = errors or {}
    tasks: dict[str, Any] = {}
    for task, values in scores.items():
        lines = []
        for number, value in enumerate(values):
            sample = {
                "doc_id": number, "doc": {"number": number}, "target": "t", "filter": "none", "metrics": ["exact_match"],
                "resps": [[answers[number] if answers else "a"]], "exact_match": value, "forwards": 4,
                "arguments": {"gen_args_0": {"arg_0": f"{prompt}{number}"}},
                "doc_hash": hashlib.sha256(f"{task} {number}".encode()).hexdigest(),
                "prompt_hash": hashlib.sha256(f"{prompt}{number}".encode()).hexdigest(),
                **(extra or {}),
            }  # fmt: skip
            if number in errors:
                sample |= {"metrics": [], "error": errors[number]}
                del sample["exact_match"]
            lines.append(json.dumps(sample))
        (folder / f"samples_{task}_{DATE}.jsonl").write_text("\n".join(lines) + "\n")
        kept = [value for number, value in enumerate(values) if number not in errors]
        tasks[task] = {"exact_match,none": sum(kept) / len(kept), "exact_match_stderr,none": 0.1}
    listed = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    document = {
        "results": tasks,
        "configs": {
            task: {"output_type": "generate_until", "metric_list": listed} for task in tasks
        },
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": dict.fromkeys(tasks, shots),
        "n-samples": {
            task: {"original": len(values), "effective": len(values)}
            for task, values in scores.items()
        },
        "higher_is_better": {task: {"exact_match": True} for task in tasks},
        "config": {"model": "hf", "model_args": "pretrained=someone/model"},
        "date": 1_795_900_000.0,
        **({"dlm_eval": block} if block else {}),
    }
    file = folder / f"results_{DATE}.json"
    file.write_text(json.dumps(document))
    return file

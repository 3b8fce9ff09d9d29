"""Votes over steps on `tiny`: accuracy against that of the final text, forwards, and bytes kept.

    python benchmarks/step_votes.py [--task demo_word_problem] [--vote fixed,linear,exp=5]

Prints for each number of steps and block length the accuracy of the final text, and for each weight
the accuracy of the vote, the difference with its 95 % interval over documents (paired), and how many
documents it wins and loses. `bytes` is the JSON of an answer in the journal, with the texts of the steps and without.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dlm_eval import evaluate
from dlm_eval.decoding.step_votes import parse_weights
from dlm_eval.journal import StoredJournal

BLOCKS = (None, 8)
STEPS = (8, 16, 32)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--task", default="demo_word_problem")
    parser.add_argument("--vote", default="fixed,linear,exp=5,exp=11")
    args = parser.parse_args()
    print(
        "steps block | forwards voted, plain, with early exit | bytes with the texts of the steps, without"
    )
    for steps in STEPS:
        for block in BLOCKS:
            decode = {"steps": steps, **({"block_length": block} if block else {})}
            _report(args.task, args.vote, decode)


def _report(task: str, vote: str, decode: dict[str, Any]) -> None:
    """Prints the lines of one setting."""
    voted, long = _run(task, decode, vote)
    plain, short = _run(task, {**decode, "early_exit": False}, None)
    early, _ = _run(task, decode, None)
    spent = [
        one["dlm_eval"]["cost"][task]["forwards"] / len(one["samples"][task])
        for one in (voted, plain, early)
    ]
    samples = voted["samples"][task]
    same = [a["resps"] == b["resps"] for a, b in zip(samples, plain["samples"][task], strict=True)]
    assert all(same), "the final texts differ"
    final = [float(sample["exact_match"]) for sample in samples]
    forwards = ", ".join(f"{value:.1f}" for value in spent)
    print(f"{decode} | {forwards} | {long:.0f}, {short:.0f} | final text {mean(final):.4f}")
    for weight in parse_weights(vote):
        own = [float(sample[f"exact_match_vote@{weight.label}"]) for sample in samples]
        moved = [a - b for a, b in zip(own, final, strict=True)]
        half = 1.96 * stdev(moved) / len(moved) ** 0.5
        wins, losses = sum(m > 0 for m in moved), sum(m < 0 for m in moved)
        print(
            f"    {weight.label:8} {mean(own):.4f}  {mean(moved):+.4f} +- {half:.4f}  {wins} won, "
            f"{losses} lost",
            flush=True,
        )


def _run(task: str, decode: dict[str, Any], vote: str | None) -> tuple[dict[str, Any], float]:
    """Returns a run's results and the mean number of bytes of its answers in the journal."""
    with tempfile.TemporaryDirectory() as folder:
        results = evaluate(
            "tiny", [task], vote=vote, decode=decode, output_path=folder, verbosity="ERROR"
        )
        (path,) = Path(folder).rglob("journal.sqlite")
        answers = [len(json.dumps(row["answer"])) for row in StoredJournal(path).export()]
    return results, mean(answers)


if __name__ == "__main__":
    main()

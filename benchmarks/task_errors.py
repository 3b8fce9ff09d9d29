"""The estimator's part of a task's error ("MC stderr"), against the spread over repetitions with other random numbers.

    python benchmarks/task_errors.py                     # `toy`: 100 questions of 4 choices that differ in a token of 6, 40 seeds: a few minutes

Prints, for accuracy and for the mean score of the first choice over the others, the standard deviation over seeds, what is reported (root mean square), and what
would be if the choices of a question were moved independently.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlm_eval.canvas import Canvas
from dlm_eval.engine import Engine
from dlm_eval.harness.metric_errors import estimator_parts
from dlm_eval.harness.results import likelihood_columns
from dlm_eval.likelihood.auto import Cubature
from dlm_eval.likelihood.patterns import subsets
from dlm_eval.likelihood.target import Target, targets
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise

LENGTH, PAST = 6, 3


class Task:
    """As much of an lm-eval task as scoring needs: the first choice is the right one."""

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
        logs = [result[0] for result in results]
        return {"acc": float(np.argmax(logs) == 0), "gap": logs[0] - float(np.mean(logs[1:]))}

    def aggregation(self) -> dict[str, Any]:
        return dict.fromkeys(("acc", "gap"), np.mean)


def questions(count: int, choices: int) -> list[list[Canvas]]:
    """Returns questions whose choices differ in one token."""
    rng = np.random.default_rng(2)
    found = []
    for number in range(count):
        text = rng.integers(0, 6, PAST + LENGTH).tolist()
        others = [[*text[:-2], (text[-2] + step) % 6, text[-1]] for step in range(choices)]
        found.append(
            [
                Canvas.continuation(own[:PAST], own[PAST:], key=f"question {number}")
                for own in others
            ]
        )
    return found


def parts(
    count: int, choices: int, seeds: int, samples: int
) -> dict[str, tuple[float, float, float]]:
    """Returns metric -> standard deviation over seeds, reported, and reported with independent choices."""
    toy = Toy(ToySettings(inconsistency=0.9, seed=3))
    asked = questions(count, choices)
    known: list[Target] = [targets(toy, canvas)[0] for own in asked for canvas in own]
    everything = subsets(LENGTH)[1:]
    list(Engine(toy).drive([target.measure(everything, everything) for target in known]))
    settings, task = Cubature(max_forwards=samples), Task()
    values: dict[str, list[tuple[float, float, float]]] = {"acc": [], "gap": []}
    for seed in range(seeds):
        noises = [Noise.of(canvas, seed) for own in asked for canvas in own]
        programs = [
            settings.estimate(target, noise) for target, noise in zip(known, noises, strict=True)
        ]
        scores = [outcome.answer for outcome in Engine(toy).drive(programs)]
        logged = []
        for begin in range(0, len(scores), choices):
            own = scores[begin : begin + choices]
            logged.append(
                {
                    "doc": {},
                    "filtered_resps": [(s.logprob, False) for s in own],
                    **likelihood_columns(own),
                }
            )
        alone = [
            {key: column for key, column in s.items() if key != "logprob_correlation"}
            for s in logged
        ]
        together, apart = (
            {
                metric: part and part.stderr
                for metric, part in estimator_parts(task, samples, seed).items()
            }
            for samples in (logged, alone)
        )
        for metric, found in values.items():
            value = float(
                np.mean([task.process_results({}, s["filtered_resps"])[metric] for s in logged])
            )
            found.append((value, together[metric] or 0.0, apart[metric] or 0.0))
    return {metric: _summary(np.array(found)) for metric, found in values.items()}


def _summary(found: Any) -> tuple[float, float, float]:
    return float(found[:, 0].std(ddof=1)), *(
        math.sqrt(float((found[:, part] ** 2).mean())) for part in (1, 2)
    )


def _ratio(reported: float, actual: float) -> str:
    return f"{reported / actual:.2f}" if actual else "-"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--samples", default="8,16")
    args = parser.parse_args()
    print(
        "| forwards | metric | over seeds | reported | ratio | choices moved independently | ratio |\n|---|---|---|---|---|---|---|"
    )
    for samples in map(int, args.samples.split(",")):
        for metric, (actual, reported, alone) in parts(
            args.questions, args.choices, args.seeds, samples
        ).items():
            print(
                f"| {samples} | {metric} | {actual:.4f} | {reported:.4f} | {_ratio(reported, actual)} "
                f"| {alone:.4f} | {_ratio(alone, actual)} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Jobs on real text for the tests of engine, pool and faults, and their answers in a form that can be compared bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.jobs import Answer, FillJob, Job, ScoreJob
from dlm_eval.likelihood.auto import Auto
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.workers import InProcess


def run(engine: Engine, jobs: Sequence[Job]) -> list[Answer]:
    found: dict[int, Answer] = {}
    InProcess(engine).run(jobs, found.__setitem__)
    assert sorted(found) == list(range(len(jobs)))
    return [comparable(found[index]) for index in range(len(jobs))]


def comparable(answer: Answer) -> Answer:
    """Returns the answer without its seconds; NaN (confidence of what was never written) as text, so that it equals itself."""
    value = answer.value
    if isinstance(value, Filling):
        value = replace(value, confidence=tuple(map(str, value.confidence)))  # type: ignore[arg-type]
    return replace(answer, value=value, seconds=0.0)


def mixed(model: Denoiser, count: int = 14) -> list[Job]:
    """Score and fill jobs of many lengths on real text."""
    words = [
        "The",
        "cat",
        "sat",
        "on",
        "the",
        "mat",
        "and",
        "looked",
        "at",
        "the",
        "small",
        "red",
        "bird",
        "that",
        "sang",
        "in",
        "the",
        "old",
        "tree",
    ]
    jobs: list[Job] = []
    for i in range(count):
        prompt = model.encode(" ".join((words * 2)[i : i + 4 + i % 9]))
        jobs.append(
            ScoreJob(
                Canvas.continuation(
                    prompt, model.encode(" " + words[i % len(words)] + " ran"), key=f"s{i}"
                ),
                Auto(max_forwards=6),
                0,
            )
        )
        jobs.append(
            FillJob(
                Canvas.completion(prompt, 6 + i % 4, key=f"f{i}"),
                resolve({"temperature": 1.0 * (i % 2)}),
                0,
            )
        )
    return jobs

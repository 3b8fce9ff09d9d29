"""The engine: batches within budgets, memory that runs out, rows that fail alone; and the same bits whoever shares a batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_jobs import mixed, run
from torch import Tensor

from dlm_eval.answers import journal_key
from dlm_eval.budget import DeviceProfile, fitting, make_engine
from dlm_eval.canvas import Canvas
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.engine.batching import Footprint
from dlm_eval.errors import RunError, UserError
from dlm_eval.jobs import Job, ScoreJob
from dlm_eval.likelihood.auto import Auto
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.workers import InProcess

POISON = 4  # a letter of the toy that `Fragile` cannot bear


class Fragile(Toy):
    """A toy that misbehaves wherever a row holds POISON: `fault` says how."""

    def __init__(self, fault: Callable[[Tensor], Tensor]) -> None:
        super().__init__(ToySettings(vocab=6))
        self.fault = fault

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        logits = super().logits(tokens, valid, positions)
        return self.fault(logits) if bool((tokens == POISON).any()) else logits


def crash(logits: Tensor) -> Tensor:
    raise ValueError("a row that the network cannot bear")


def exhaust(logits: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("a row too long")


def questions(count: int, letters: int = 4, poisoned: Sequence[int] = ()) -> list[Job]:
    """Score jobs over letters below POISON, of several lengths; those at `poisoned` hold it in their context."""
    draw = torch.Generator().manual_seed(1)
    jobs: list[Job] = []
    for i in range(count):
        ids = torch.randint(0, letters, (6 + i % 5,), generator=draw).tolist()
        context = [POISON, *ids[:-3]] if i in poisoned else ids[:-3]
        jobs.append(
            ScoreJob(
                Canvas.continuation(context, ids[-3:], key=f"q{i}"), Auto(max_forwards=8), seed=0
            )
        )
    return jobs


@pytest.mark.parametrize(("fault", "reason"), [(crash, "cannot bear"), (exhaust, "out of memory")])
def test_a_row_that_fails_alone_is_the_error_of_its_sample(
    fault: Callable[[Tensor], Tensor], reason: str
) -> None:
    jobs = questions(12, poisoned=[3, 7])
    answers = run(Engine(Fragile(fault)), jobs)
    assert [i for i, answer in enumerate(answers) if answer.error] == [3, 7]
    assert all(reason in str(answers[i].error) for i in (3, 7))
    clean = run(Engine(Toy(ToySettings(vocab=6))), jobs)
    assert all(answers[i] == clean[i] for i in range(12) if i not in (3, 7))


def test_nan_is_the_error_of_its_sample() -> None:
    answers = run(
        Engine(Fragile(lambda logits: logits * float("nan")), batch_rows=1),
        questions(6, poisoned=[2]),
    )
    assert [i for i, answer in enumerate(answers) if answer.error] == [2] and "NaN" in str(
        answers[2].error
    )


def test_a_model_that_fails_on_everything_ends_the_run() -> None:
    with pytest.raises(RunError, match="cannot bear.*every one of"):
        run(Engine(Fragile(crash)), questions(40, poisoned=range(40)))


def test_a_lost_device_ends_the_run() -> None:
    def lost(logits: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RunError, match="device is lost"):
        run(Engine(Fragile(lost)), questions(3, poisoned=[1]))


def test_out_of_memory_halves_the_budget_for_good_and_changes_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = questions(30)
    roomy, tight = Engine(load_model("toy")), Engine(load_model("toy"), memory_tokens=40)
    assert run(tight, jobs) == run(roomy, jobs)
    assert (
        20 <= tight.batch_tokens <= 40
        and tight.batch_logits == roomy.batch_logits
        and not any("out of memory" in str(answer.error) for answer in run(tight, jobs))
    )
    caplog.clear()
    run(tight, jobs)
    assert not caplog.records  # no batch had to fail again


def test_the_stand_in_for_memory_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DLM_EVAL_MEMORY_TOKENS", "32")
    engine = make_engine(load_model("toy"))
    assert engine.memory_tokens == 32
    run(engine, questions(10))
    assert engine.batch_tokens <= 32
    again = make_engine(load_model("toy"), "auto", DeviceProfile(engine.batch_tokens))
    assert again.batch_tokens == engine.batch_tokens


def test_what_runs_learned_adds_up_and_survives_the_journal() -> None:
    first = DeviceProfile(None, Footprint(2048.0, 512.0))
    both = first.and_then(DeviceProfile(96))
    assert (
        both == DeviceProfile(96, Footprint(2048.0, 512.0))
        and both.and_then(DeviceProfile()) == both
    )
    assert (
        DeviceProfile.of(json.loads(json.dumps(both.plain()))) == both
        and DeviceProfile.of(None) == DeviceProfile()
    )
    engine = make_engine(load_model("toy"), "auto", both)
    assert (
        engine.batch_tokens == 96
        and engine.cached_weight == 0.25
        and InProcess(engine).profile() == first
    )


def test_a_token_budget_takes_half_of_the_free_memory() -> None:
    tokens, logits = fitting(2**34, Footprint(2.0**19, 0.0))
    assert tokens * 2**19 == 2**33 and logits * 4 == 2**31
    assert (
        fitting(2**20, Footprint(2.0**19, 0.0))[0] == 2048
        and fitting(2**44, Footprint(2.0**19, 0.0))[0] == 2**16
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_was_measured_on_a_gpu_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("tiny", device="cuda")
    engine = make_engine(model)
    assert engine.footprint is not None and engine.footprint.token > 0
    monkeypatch.setattr("dlm_eval.budget.measured", lambda *_: pytest.fail("measured again"))
    assert make_engine(model, "auto", InProcess(engine).profile()).footprint == engine.footprint


@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5", "auto:x"])
def test_other_batch_sizes_are_refused(size: str) -> None:
    with pytest.raises(UserError, match="--batch_size"):
        make_engine(load_model("toy"), size)


def test_max_batch_size_bounds_the_rows_of_an_automatic_batch() -> None:
    assert make_engine(load_model("toy"), "auto", most_rows=3).batch_rows == 3
    assert make_engine(load_model("toy"), 8, most_rows=3).batch_rows == 8


def test_a_job_that_raises_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = questions(5)
    # 99: no such id
    jobs[2] = ScoreJob(Canvas((0, 99, 1), (False, True, True), "q"), Auto(max_forwards=4), 0)
    answers = run(Engine(load_model("toy")), jobs)
    assert [i for i, answer in enumerate(answers) if answer.error] == [2]


# -- the same bits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    return load_model("tiny", dtype="float32", device="cpu")


def test_answers_have_the_same_bits_for_any_batch_size(tiny: Denoiser) -> None:
    jobs = mixed(tiny)
    whole = run(Engine(tiny), jobs)
    sizes: tuple[dict[str, Any], ...] = (
        {"batch_rows": 1}, {"batch_rows": 5}, {"batch_tokens": 64}, {"memory_tokens": 100}
    )  # fmt: skip
    for options in sizes:
        assert run(Engine(tiny, **options), jobs) == whole, options
    assert run(Engine(tiny), jobs[5:9]) == whole[5:9]  # as under --limit, or after a resume


@pytest.mark.parametrize(
    "family",
    [
        "diffugpt",
        "diffullama",
        "dream",
        "llada",
        "llada2",
        "lladamoe",
        "mdlm",
        "sdar",
        "sedd",
        "smdm",
        "wedlm",
    ],
)
def test_every_family_gives_the_same_bits_for_any_batch_size(shared: Path, family: str) -> None:
    """Experts, noise levels and heads of odd sizes run in kernels that change with the batch."""
    model = load_model(
        family, pretrained=shared / "goldens" / family, dtype="float32", device="cpu"
    )
    jobs = mixed(model, 3)
    whole = run(Engine(model), jobs)
    assert any(answer.error is None for answer in whole)
    assert (
        run(Engine(model, batch_rows=1), jobs)
        == run(Engine(model, memory_tokens=200), jobs)
        == whole
    )
    assert (
        run(Engine(model), jobs[::-1])[::-1] == whole
        and run(Engine(model), jobs[3:5]) == whole[3:5]
    )


def test_on_a_cpu_nothing_is_padded(tiny: Denoiser) -> None:
    engine = Engine(tiny)
    run(engine, mixed(tiny))
    assert engine.cost.padded_tokens == engine.cost.tokens > 0


def test_journal_keys_tell_all_that_matters_apart(tiny: Denoiser) -> None:
    score, fill = mixed(tiny, 1)
    others: list[Job] = [
        score,
        fill,
        replace(score, seed=1),
        replace(score, greedy=True),
        replace(fill, seed=1),
        replace(score, estimator=Auto(max_forwards=7)),
        replace(fill, settings=resolve({"steps": 3})),
        replace(score, canvas=replace(score.canvas, key="other")),
        replace(
            fill, canvas=Canvas(fill.canvas.tokens, (True, *fill.canvas.open[1:]), fill.canvas.key)
        ),
    ]
    found = {journal_key("model", job) for job in others} | {journal_key("another", score)}
    assert len(found) == len(others) + 1
    assert journal_key("model", score) == journal_key("model", replace(score))

"""Faults that a review of issue 14 found: streaming, dry runs, lm-eval's own models, shards."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import mixed
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval import evaluate
from dlm_eval.answers import Answering
from dlm_eval.cli import main
from dlm_eval.engine import Engine
from dlm_eval.errors import RunError, UserError
from dlm_eval.harness.checks import check_settings
from dlm_eval.harness.dry_run import dry_run
from dlm_eval.harness.run_settings import run_settings
from dlm_eval.jobs import Answer
from dlm_eval.journal import Journal
from dlm_eval.models import load_model
from dlm_eval.variables import checkpoint_seconds, memory_tokens, streams, watchdog_seconds
from dlm_eval.workers import InProcess

VARIABLES = {
    "DLM_EVAL_STREAM": ("2", "no"),
    "DLM_EVAL_CHECKPOINT_SECONDS": ("soon", "-1", "nan"),
    "DLM_EVAL_WATCHDOG": ("late", "0", "nan"),
    "DLM_EVAL_MEMORY_TOKENS": ("many", "-3", "1.5"),
}
SAMPLED = """
task: t_sampled
include: t_write.yaml
repeats: 2
generation_kwargs: {until: ["zz"], max_gen_toks: 6, do_sample: true, temperature: 1.0}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    (folder / "t_sampled.yaml").write_text(SAMPLED)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny", dtype="float32", device="cpu")


class Uncounted:
    """Counts nothing."""

    def grow(self, number: int) -> None:
        pass

    def __call__(self, answer: Answer, known: bool) -> None:
        pass


# -- variables of the environment ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text", [(name, text) for name, texts in VARIABLES.items() for text in texts]
)
def test_14_a_wrong_variable_is_refused_with_the_settings(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before tasks and models are loaded, and in one line."""
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=f"^{name} '{text}' is not allowed; it must be [^\n]+$"):
        check_settings(run_settings({"model": "toy", "tasks": ["no_task"]}))


def test_14_variables_have_defaults_and_an_empty_one_counts_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for text in (None, ""):
        for name in VARIABLES:
            if text is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, text)
        found = streams(), checkpoint_seconds(), watchdog_seconds(), memory_tokens()
        assert found == (True, 30.0, 900.0, None)
    for name, text in zip(VARIABLES, ("0", "inf", "4", "96"), strict=True):
        monkeypatch.setenv(name, text)
    found = streams(), checkpoint_seconds(), watchdog_seconds(), memory_tokens()
    assert found == (False, float("inf"), 4.0, 96)


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [True, False])
def test_14_a_pool_that_ends_too_early_is_an_error_and_no_hang(tiny: Any, background: bool) -> None:
    jobs = mixed(tiny, 3)
    answering = Answering(lambda stream, *_: stream.take() and None, "model", None, background)
    keys = answering.add(jobs, Uncounted())
    with pytest.raises(RunError, match=f"the pool has ended, but {len(set(jobs))} answers are"):
        answering.answers(keys)


def test_14_jobs_may_come_after_all_earlier_ones_were_known(tiny: Any, tmp_path: Path) -> None:
    """The stream is still open then, however many times more come."""
    jobs = mixed(tiny, 6)
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        for _ in range(2):  # the second time, the first jobs are known
            answering = Answering(InProcess(Engine(tiny)).run, "model", journal, True)
            found = answering.answers(answering.add(jobs[:2], Uncounted()))
            for job in jobs[2:]:
                found += answering.answers(answering.add([job], Uncounted()))
            answering.finish()
            assert len(found) == len(jobs) and not any(answer.error for answer in found)
            journal.remove()
            known = Answering(InProcess(Engine(tiny)).run, "model", journal)
            known.answers(known.add(jobs[:2], Uncounted()))


# -- dry runs of models that are not our denoisers -------------------------------------------------


def words(tasks: Path, *more: str, model: str = "tiny-ar") -> list[str]:
    return ["--model", model, "--include_path", str(tasks), *more]


def plan_of(tasks: Path, home: Path, *names: str, **more: Any) -> dict[str, Any]:
    given = {"model": "tiny-ar", "tasks": [*names], "include_path": str(tasks), **more}
    return dry_run(run_settings({**given, "output_path": str(home)})).plain()


def test_14_a_dry_run_knows_what_the_journal_has_of_lm_evals_models(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("t_write", "t_infill", "t_choice", "t_sampled")
    before = plan_of(tasks, tmp_path, *names)["total"]
    assert (before["known"], before["to_ask"]) == (0, 5 + 5 + 15 + 10)
    run = words(tasks, "--tasks", ",".join(names), "--output_path", str(tmp_path))
    assert main([*run, "--limit", "3"]) == 0
    plan = plan_of(tasks, tmp_path, *names)
    total = plan["total"]
    assert (total["requests"], total["known"], total["to_ask"]) == (35, 21, 14)
    capsys.readouterr()
    assert main([*run, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "21 of 35 requests are known" in shown and "to ask" in shown
    assert main(run) == 0
    assert "from journal" in capsys.readouterr().err
    total = plan_of(tasks, tmp_path, *names)["total"]
    assert (total["known"], total["to_ask"]) == (35, 0)
    # Answers of other arguments are not those of this model.
    other = plan_of(tasks, tmp_path, *names, model_args={"max_length": 40})["total"]
    assert (other["known"], other["to_ask"]) == (0, 35)


def test_14_a_dry_run_of_lm_evals_models_counts_its_shard(tasks: Path, tmp_path: Path) -> None:
    parts = [plan_of(tasks, tmp_path, "t_write", "t_choice", shard=f"{i}/2") for i in (1, 2)]
    for name, each in (("t_write", 1), ("t_choice", 3)):
        found = [part["tasks"].get(name, {"documents": 0, "requests": 0}) for part in parts]
        assert sum(part["documents"] for part in found) == len(DOCUMENTS)
        assert all(part["requests"] == each * part["documents"] for part in found)
        assert max(part["documents"] for part in found) < len(DOCUMENTS)


@pytest.mark.parametrize("arguments", [{"pretrained": "/nowhere"}, {"tokenizer": "/nowhere"}])
def test_14_a_dry_run_refuses_a_model_that_the_run_cannot_make(
    tasks: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    model = "hf" if "pretrained" in arguments else "tiny-ar"
    with pytest.raises(UserError, match="--model 'hf' cannot be made"):
        plan_of(tasks, tmp_path, "t_write", model=model, model_args=arguments)


def test_14_a_dry_run_finds_recorded_answers(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.jsonl"
    lines = [json.dumps({"doc_id": i, "resps": ["a"]}) for i in range(len(DOCUMENTS)) if i != 3]
    answers.write_text("\n".join(lines))
    given = ["--model_args", f"answers={answers}", "--dry_run", "--tasks"]
    assert main(words(tasks, *given, "t_write", model="recorded")) == 1
    shown = capsys.readouterr().out
    assert "refused: 1 request: no recorded answer" in shown and "journal" not in shown
    assert main(words(tasks, *given, "t_choice", model="recorded")) == 2
    assert "asks for likelihoods" in capsys.readouterr().err
    answers.unlink()
    assert main(words(tasks, *given, "t_write", model="recorded")) == 2
    assert "answers.jsonl" in capsys.readouterr().err


def test_14_recorded_answers_have_no_trajectories_in_one_true_line(tasks: Path) -> None:
    with pytest.raises(
        UserError, match="--log_trajectories means nothing to --model 'recorded', wh"
    ):
        evaluate(
            "recorded", ["t_write"], model_args={"answers": "a.jsonl"}, include_path=str(tasks),
            log_trajectories=True,
        )  # fmt: skip


def test_14_a_server_that_cannot_be_asked_from_here_is_a_note(tasks: Path, tmp_path: Path) -> None:
    """A package, a key or a tokenizer may be missing on a login node."""
    arguments = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "tokenizer": "/nowhere"}
    plan = plan_of(
        tasks, tmp_path, "t_choice", model="local-completions", model_args=arguments, shard="1/2"
    )
    assert plan["counted"] == "requests" and "would be refused" in plan["notes"][0]
    assert 0 < plan["total"]["documents"] < len(DOCUMENTS)
    assert plan["total"]["requests"] == 3 * plan["total"]["documents"]


def test_14_a_model_with_a_lazy_tokenizer_runs_without_it(tasks: Path, tmp_path: Path) -> None:
    """`dummy` loads a tokenizer from the hub at the first look at it."""
    found = evaluate("dummy", ["t_choice"], include_path=str(tasks), output_path=str(tmp_path))
    assert found["dlm_eval"]["cost"]["t_choice"]["errors"] == 0
    assert plan_of(tasks, tmp_path, "t_choice", model="dummy")["total"]["known"] == 15

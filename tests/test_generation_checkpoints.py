"""A long generation goes on where a killed run has left it, and nothing shows that it was interrupted: not its tokens, not its cost."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks

from dlm_eval.answers import answer_jobs, journal_key
from dlm_eval.canvas import Canvas, Filling, four_digits
from dlm_eval.decoding import resolve
from dlm_eval.decoding.checkpoints import State
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.harness.run import evaluate
from dlm_eval.jobs import Answer, Checkpoint, FillJob
from dlm_eval.journal import Journal, checksum
from dlm_eval.models import load_model, packaged_asset
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.workers import InProcess

HOLE = 24
SETTINGS: dict[str, dict[str, Any]] = {
    "confidence in blocks": {"steps": 24, "block_length": 6},
    "few steps": {"steps": 7},
    "threshold": {"strategy": "threshold", "threshold": 0.3},
    "margin, drawn places": {"strategy": "margin", "alg_temp": 0.5, "steps": 24},
    "random": {"strategy": "random", "temperature": 0.8, "steps": 24, "block_length": 12},
    "entropy, tempered": {"strategy": "entropy", "temperature": 0.7, "top_p": 0.9, "steps": 24},
    "timestep": {"strategy": "timestep", "temperature": 1.0, "steps": 24},
    "ddpm": {"strategy": "ddpm", "temperature": 1.0, "steps": 12, "block_length": 12},
    "guided": {"guidance": 1.0, "steps": 24},
    "rdm": {"strategy": "rdm", "steps": 24, "rdm_noise": 0.3},
    "p2": {"strategy": "p2", "steps": 24, "temperature": 0.5},
    "remask": {"strategy": "remask", "steps": 24, "temperature": 0.9, "eta": 0.1},
    "edit": {"strategy": "edit", "threshold": 0.4, "editing_threshold": 0.5, "block_length": 12},
    "rescored": {"rescore": True, "steps": 24},
    "prefix cache": {"cache": "prefix", "steps": 24, "block_length": 6},
    "dual cache": {"cache": "dual", "steps": 24, "block_length": 6, "temperature": 0.5},
    "early exit": {"steps": 24, "early_exit": True},
}  # fmt: skip
# What stands in the way of a checkpoint: the journal has none, and the canvas is begun anew.
ANEW = {"several samples": {"samples": 2, "temperature": 0.8, "steps": 24}}


UNCACHED = {name: settings for name, settings in SETTINGS.items() if "cache" not in settings}


def jobs_of(settings: dict[str, dict[str, Any]], model: Denoiser) -> dict[str, FillJob]:
    found = {}
    for number, (name, given) in enumerate(settings.items()):
        prompt = [number // 5, number % 5, 1, 2, 3, 4]  # no two alike: equal rows run once
        found[name] = FillJob(
            Canvas.infill(prompt, HOLE, [], name), resolve({"logits_eos_inf": True, **given}), 3
        )
    return found


# A run that the kernel ends at a forward pass: what the journal's own thread has written by then is all that is left of it.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from dlm_eval.engine import Engine
from dlm_eval.answers import answer_jobs, journal_key
from dlm_eval.workers import InProcess
from dlm_eval.journal import Journal
from dlm_eval.models import load_model, packaged_asset
from test_generation_checkpoints import ANEW, UNCACHED, jobs_of

model = load_model("toy")
engine = Engine(model)  # begins all canvases at once; `_next_batch` below runs row by row
journal = Journal(Path(sys.argv[1]))
passes = 0

def on_forward():
    global passes
    passes += 1
    if passes == int(sys.argv[2]):
        time.sleep(2.5)  # the journal writes every second
        os.kill(os.getpid(), signal.SIGKILL)

engine.on_forward = on_forward
# The program that has come least far is next, so that all are under way when the process is killed.
engine._next_batch = lambda queue: [min(queue.values(), key=lambda one: (one.requests[0][0].rows, one.requests[0][0].index))]
jobs = jobs_of(UNCACHED | ANEW, model)
answer_jobs(InProcess(engine).run, list(jobs.values()), "model", journal)
"""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return {**os.environ, "DLM_EVAL_CHECKPOINT_SECONDS": "0", "PYTHONPATH": path}


def stored(path: Path) -> dict[str, Any]:
    with sqlite3.connect(path) as database:
        return {
            key: json.loads(value)
            for key, value in database.execute("SELECT key, value FROM checkpoints")
        }


def test_14_a_killed_run_goes_on_with_half_written_canvases(tmp_path: Path) -> None:
    """SIGKILL while every canvas is under way: resumed tokens, confidences, steps and costs are those of an uninterrupted run, and fewer rows run."""
    model = load_model("toy")
    jobs = jobs_of(UNCACHED | ANEW, model)
    whole = Engine(model, batch_rows=1)
    expected = answer_jobs(InProcess(whole).run, list(jobs.values()), "model", None)
    path = tmp_path / "journal.sqlite"
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), "150"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == -9, ran.stderr
    begun = stored(path)
    earlier = sum(checkpoint["state"]["forwards"] for checkpoint in begun.values())
    journal = Journal(path)
    finished = sum(row["answer"]["rows"] for row in journal.export())
    again = Engine(model, batch_rows=1)
    found = answer_jobs(InProcess(again).run, list(jobs.values()), "model", journal)
    for name, one, other in zip(jobs, expected, found, strict=True):
        assert told(one) == told(other), name
    # not those that end within a few steps, nor the samples
    assert len(begun) >= len(UNCACHED) - 4 and earlier > 60
    assert again.cost.rows == whole.cost.rows - earlier - finished
    journal.close()
    assert stored(path) == {}  # an answer takes the place of its checkpoint


def told(answer: Answer) -> tuple[Any, ...]:
    """Returns an answer but for its seconds, with confidences as the journal stores them."""
    value = answer.value
    assert isinstance(value, Filling), answer.error
    return (
        answer.rows,
        value.tokens,
        value.forwards,
        value.steps,
        [four_digits(p) for p in value.confidence],
        value.step,
        value.exit,
    )


@pytest.mark.parametrize("name", [*SETTINGS])
def test_14_a_filling_can_go_on_from_every_state(name: str) -> None:
    """A state that a canvas offers, through JSON as in the journal, leads to the same answer with the rows that are left (a few of them are tried)."""
    model = load_model("toy" if name in UNCACHED else "tiny")  # which can remember
    job = jobs_of(SETTINGS, model)[name]
    states: list[State] = []
    plain, whole = filled(model, job, states.append)
    assert plain == filled(model, job)[0]  # to offer states changes nothing
    assert len(states) > 2
    for state in {
        state.global_step: state for state in [*states[1 :: len(states) // 3], states[-1]]
    }.values():
        again = State.of(json.loads(json.dumps(vars(state))))
        assert again == state
        answer, rows = filled(model, replace(job, begun=Checkpoint(again, 0.0)))
        assert answer == plain and rows == whole - state.forwards


def test_14_a_block_causal_model_goes_on_with_an_empty_cache() -> None:
    """Its memory is not stored: the first row runs whole, and numbers agree as closely as without a cache."""
    model = load_model(
        "generic", pretrained=str(packaged_asset("tiny")), dtype="float32", device="cpu", attention="block", block_length=8, probe=False,
    )  # fmt: skip
    job = jobs_of({"one": {"temperature": 0.7, "strategy": "random"}}, model)["one"]
    states: list[State] = []
    plain, whole = filled(model, job, states.append)
    for state in states[5::6]:
        answer, rows = filled(model, replace(job, begun=Checkpoint(state, 0.0)))
        assert (
            answer[:4] == plain[:4] and answer[5:] == plain[5:] and rows == whole - state.forwards
        )
        assert answer[4] == pytest.approx(plain[4], rel=1e-4)
    assert len(states) > 20


def filled(model: Denoiser, job: FillJob, keep: Any = None) -> tuple[tuple[Any, ...], int]:
    """Returns a job's answer and the rows that were run for it; `keep` gets every state that is offered."""
    engine = Engine(model, batch_rows=1)
    answers: list[Answer] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_EVAL_CHECKPOINT_SECONDS", "0" if keep else "inf")
        InProcess(engine).run(
            [job],
            lambda _, answer: answers.append(answer),
            lambda _, checkpoint: keep(checkpoint.state),
        )
    return told(answers[0]), engine.cost.rows


def test_14_what_has_no_state_is_named_and_offers_none() -> None:
    model = load_model("toy")
    for name, settings in ANEW.items():
        job = jobs_of(ANEW, model)[name]
        states: list[State] = []
        filled(model, job, states.append)
        assert states == [] and resolve(settings).why_no_checkpoint(model.process) == name
    assert resolve({"length_beam": 3}).why_no_checkpoint("absorbing") == "length_beam"
    assert resolve({"strategy": "euler"}).why_no_checkpoint("gaussian") == "process 'gaussian'"
    # at temperature 0 one is written
    assert resolve({"samples": 4}).why_no_checkpoint("absorbing") is None


def test_14_a_checkpoint_of_another_form_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model("toy")
    job = jobs_of({"one": {"steps": 12}}, model)["one"]
    engine = Engine(model)
    journal = Journal(tmp_path / "journal.sqlite")
    (expected,) = answer_jobs(InProcess(engine).run, [job], "model", None)
    states: list[State] = []
    filled(model, job, states.append)
    key = journal_key("model", job)
    good = {"state": vars(states[3]), "seconds": 1.0}
    odd: list[Any] = [[], None, {"state": {}}, {"state": vars(states[3])}]
    odd += [{**good, "state": {**good["state"], change: value}} for change, value in (
        ("tokens", [1, 2]), ("clock", "3"), ("tokens", ["a"] * HOLE), ("more", 1), ("logprob", [0] * HOLE), ("step", True),
    )]  # fmt: skip
    for data in odd:
        text = json.dumps(data)
        row = (key, text, checksum(key, text), "model", 0.0)
        journal._execute([("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)", [row])])
        caplog.clear()
        (found,) = answer_jobs(InProcess(engine).run, [job], "model", journal)
        assert told(found) == told(expected) and "begun anew" in caplog.text, data
        journal.remove("model")
    journal.close()


def test_14_a_pause_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_EVAL_CHECKPOINT_SECONDS", "soon")
    model = load_model("toy")
    with pytest.raises(UserError, match="DLM_EVAL_CHECKPOINT_SECONDS 'soon' is not allowed"):
        InProcess(Engine(model)).run(
            [jobs_of({"one": {"steps": 12}}, model)["one"]], lambda *_: None
        )


# A whole run that is killed once its journal has been handed some checkpoints.
RUN = """
import os, signal, sys, time
from dlm_eval.harness.run import evaluate
from dlm_eval.journal import Journal

keep, kept = Journal.keep, []

def counted(self, key, checkpoint, model=""):
    keep(self, key, checkpoint, model)
    kept.append(key)
    if len(kept) == 40:
        self.commit()
        os.kill(os.getpid(), signal.SIGKILL)

Journal.keep = counted
evaluate(model="toy", tasks=["t_write"], include_path=sys.argv[1], output_path=sys.argv[2], devices=sys.argv[3] or None,
         decode={"gen_length": "48", "temperature": "0.9", "logits_eos_inf": "true"})
"""


# of one process the quick suite has test_14_a_killed_run_goes_on_with_half_written_canvases
@pytest.mark.parametrize("devices", [pytest.param("", marks=pytest.mark.full), "cpu:2"])
def test_14_a_killed_run_ends_with_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path, devices: str
) -> None:
    """The same through `evaluate`, in one process and with two workers, whose checkpoints come by message."""
    (tmp_path / "tasks").mkdir()
    tasks = write_tasks(tmp_path / "tasks")

    def run(home: str, devices: str = "") -> dict[str, Any]:
        return evaluate(
            model="toy", tasks=["t_write"], include_path=str(tasks), output_path=str(tmp_path / home), devices=devices or None,
            decode={"gen_length": "48", "temperature": "0.9", "logits_eos_inf": "true"},
        )  # fmt: skip

    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(tasks), str(tmp_path / "killed"), devices],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == -9, ran.stderr
    (path,) = (tmp_path / "killed").rglob("journal.sqlite")
    earlier = sum(checkpoint["state"]["forwards"] for checkpoint in stored(path).values())
    assert earlier > 20
    whole, again = run("whole"), run("killed", devices)
    answers = [
        [(s["resps"], s["exact_match"]) for s in results["samples"]["t_write"]]
        for results in (whole, again)
    ]
    assert answers[0] == answers[1] and whole["results"] == again["results"]
    costs = [results["dlm_eval"]["cost"]["t_write"] for results in (whole, again)]
    assert costs[0]["forwards"] == costs[1]["forwards"]
    rows = [
        sum(d["rows"] for d in results["dlm_eval"]["environment"]["devices"])
        for results in (whole, again)
    ]
    assert rows[1] <= rows[0] - earlier


# -- --score_only names what differs ---------------------------------------------------------------


def test_14_answers_that_the_journal_lacks_are_counted_and_the_difference_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tasks").mkdir()
    tasks = write_tasks(tmp_path / "tasks")

    def run(**settings: Any) -> dict[str, Any]:
        caplog.clear()
        given = {
            "tasks": ["t_write"],
            "include_path": str(tasks),
            "output_path": str(tmp_path / "out"),
            "limit": 2,
        }
        return evaluate(model="toy", **(given | settings))

    first = run()
    again = run(score_only=True)
    assert again["results"] == first["results"] and "not in the journal" not in caplog.text
    run(score_only=True, decode={"steps": 3}, num_fewshot=1)
    assert (
        "t_write: 2 of 2 answers are not in the journal; it has answers of a run with"
        in caplog.text
    )
    assert "a run with decode.steps None (now 3), num_fewshot 0 (now 1)\n" in caplog.text
    drawn = {"decode": {"temperature": 1}}
    run(**drawn)
    run(score_only=True, seed=7, **drawn)
    assert "it has answers of a run with seed 0 (now 7)" in caplog.text
    run(score_only=True, limit=4)
    assert (
        "2 of 4 answers are not in the journal; a run with the same settings had fewer documents"
        in caplog.text
    )
    run(score_only=True, tasks=["t_last"])
    assert "which has no finished run of this task" in caplog.text


def test_13_one_sample_is_recorded_where_one_is_written(tmp_path: Path) -> None:
    """At temperature 0 all samples are equal: result, identity and journal are those of one."""
    (tmp_path / "tasks").mkdir()
    tasks = write_tasks(tmp_path / "tasks")
    found = [
        evaluate(
            model="toy",
            tasks=["t_write"],
            include_path=str(tasks),
            limit=2,
            decode={"samples": count, **more},
        )
        for count, more in ((1, {}), (5, {}), (5, {"temperature": 0.5}))
    ]
    blocks = [results["dlm_eval"]["tasks"]["t_write"] for results in found]
    assert [block["decode"]["samples"] for block in blocks] == [1, 1, 5]
    assert blocks[0]["configuration"] == blocks[1]["configuration"] != blocks[2]["configuration"]

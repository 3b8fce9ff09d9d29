"""One bad sample must not cost a run: filters that raise, exit code 1; and what a run prints while it goes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval.canvas import Filling
from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.harness.lm_eval_patches import evaluating
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.harness.saving import Reports, parse_reports, scalars
from dlm_eval.jobs import Answer
from dlm_eval.progress import Progress

FILTER = """
filter_list:
  - name: strict
    filter: [{function: custom, filter_fn: !function picky.pick}]
  - name: plain
    filter: [{function: take_first}]
"""
PICKY = """
def pick(resps, docs):
    for answers, doc in zip(resps, docs):
        if doc["text"] == "fab":
            raise ValueError("no number in it")
        yield answers[0]
"""


def picky_task(folder: Path) -> Path:
    write_tasks(folder)
    file = folder / "t_write.yaml"
    file.write_text(file.read_text() + FILTER)
    (folder / "picky.py").write_text(PICKY)
    return folder


def test_a_filter_that_raises_costs_one_sample(tmp_path: Path) -> None:
    results = evaluate("toy", ["t_write"], include_path=str(picky_task(tmp_path)))
    lines = results["samples"]["t_write"]
    assert {line["doc"]["text"] for line in lines if "error" in line} == {"fab"} and len(
        lines
    ) == 2 * len(DOCUMENTS)
    assert all(
        "filter 'strict' failed: ValueError: no number in it" in line["error"]
        for line in lines
        if "error" in line
    )
    assert {"exact_match,strict", "exact_match,plain"} <= results["results"]["t_write"].keys()
    assert results["dlm_eval"]["cost"]["t_write"]["errors"] == 1


@pytest.mark.parametrize("task", ["t_choice", "t_write", "t_last"])
def test_a_document_without_a_prompt_costs_one_sample(tmp_path: Path, task: str) -> None:
    """A template that does arithmetic on a missing field raises for one document; the others score as they do without it."""
    spoiled = {**DOCUMENTS[1], "text": None, "choices": None}
    (tmp_path / "whole").mkdir()
    (tmp_path / "spoiled").mkdir()
    found = {}
    for name, documents in (
        ("whole", DOCUMENTS),
        ("spoiled", [DOCUMENTS[0], spoiled, *DOCUMENTS[2:]]),
    ):
        file = write_tasks(tmp_path / name, documents) / f"{task}.yaml"
        file.write_text(
            file.read_text().replace('doc_to_text: "{{text}}"', 'doc_to_text: "{{text + text}}"')
        )
        found[name] = evaluate("toy", [task], include_path=str(file.parent))
    whole, lines = found["whole"]["samples"][task], found["spoiled"]["samples"][task]
    assert (
        "could not be built" in lines[1]["error"]
        and found["spoiled"]["dlm_eval"]["cost"][task]["errors"] == 1
    )
    assert [line["resps"] for line in lines if "error" not in line] == [
        line["resps"] for k, line in enumerate(whole) if k != 1
    ]


def test_errors_are_counted_in_the_table_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks").mkdir()
    command = [
        "--model",
        "toy",
        "--tasks",
        "t_write",
        "--include_path",
        str(picky_task(tmp_path / "tasks")),
        "--output_path",
        str(tmp_path / "out"),
    ]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "1 sample could not be answered or scored" in out and list(
        (tmp_path / "out").rglob("results_*.json")
    )


def test_a_task_of_which_every_sample_errs_ends_in_order(tmp_path: Path) -> None:
    documents = [{**document, "word": "a" * 600} for document in DOCUMENTS]
    results = evaluate(
        "toy",
        ["t_last", "t_write"],
        include_path=str(write_tasks(tmp_path, documents)),
        output_path=str(tmp_path / "out"),
    )
    assert results["dlm_eval"]["cost"]["t_last"]["errors"] == len(DOCUMENTS)
    assert "exact_match,none" in results["results"]["t_write"]


def test_a_document_that_a_task_has_twice_is_scored_like_any_other(tmp_path: Path) -> None:
    folder = write_tasks(
        tmp_path,
        [*DOCUMENTS[:2], DOCUMENTS[0], {**DOCUMENTS[0], "word": "a" * 600}] + [DOCUMENTS[0]],
    )
    whole, first = (
        evaluate(
            "toy",
            ["t_last", "t_choice"],
            include_path=str(folder),
            estimator="mask_count,max_forwards=4",
            limit=limit,
        )
        for limit in (5, 1)
    )
    for task in ("t_last", "t_choice"):
        rows = [
            {k: v for k, v in row.items() if k not in ("doc_id", "seconds")}
            for row in whole["samples"][task]
        ]
        assert rows[0] == rows[2] == rows[4] == {k: first["samples"][task][0][k] for k in rows[0]}


def test_equal_documents_that_err_are_counted_one_by_one(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, [*DOCUMENTS[:2], *[{**DOCUMENTS[0], "word": "a" * 600}] * 3])
    results = evaluate("toy", ["t_last"], include_path=str(folder))
    assert results["dlm_eval"]["cost"]["t_last"]["errors"] == 3


def test_a_task_is_recorded_without_addresses_of_memory(tmp_path: Path) -> None:
    configs = evaluate("toy", ["t_write"], include_path=str(picky_task(tmp_path)), limit=1)[
        "configs"
    ]
    assert "picky.pick" in str(configs) and " at 0x" not in str(configs)


# -- what is printed -------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool = False) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("generation", 10, quiet, busy=lambda: [0.0, 0.0]) as progress:
        for index in range(10):
            progress(Answer(Filling((1, 2, 3), 4, 4), None, 4, 0.1), known=index < 5)
    return stream.getvalue()


def test_progress_is_one_line_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = watch(monkeypatch, io.StringIO()).splitlines()
    for part in (
        "generation: 10/10",
        "forwards/s",
        "tokens/s",
        "50% from journal",
        "devices 0% 0%",
        "s left",
    ):
        assert part in line


def test_progress_moves_on_a_terminal_and_is_silent_when_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "\r" in watch(monkeypatch, Terminal()) and "10/10" in watch(monkeypatch, Terminal())
    assert (
        watch(monkeypatch, io.StringIO(), quiet=True)
        == watch(monkeypatch, Terminal(), quiet=True)
        == ""
    )


def test_progress_is_seen_on_a_terminal_that_knows_no_size() -> None:
    program = "from dlm_eval.progress import Progress\nwith Progress('generation', 3):\n    pass\n"
    ours, theirs = os.openpty()  # 0 columns, 0 rows, as in a container
    subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True, timeout=60)
    assert b"generation:" in os.read(ours, 4096)


def test_many_devices_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    spent = [[0.0] * 12, [1e9] * 6 + [0.0] * 6]
    with Progress("generation", 1, busy=lambda: spent.pop(0)) as progress:
        progress(Answer(Filling((1,), 1, 1), None, 1, 0.1), known=False)
    assert "12 devices 0% to 100%" in stream.getvalue()


@pytest.mark.parametrize(("given", "variable", "quiet"), [("ERROR", "", True), ("error", "", True), (None, "ERROR", True), ("INFO", "ERROR", False), (None, "", False)])  # fmt: skip
def test_quiet_is_what_verbosity_says(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str, quiet: bool
) -> None:
    monkeypatch.setenv("LMEVAL_LOG_LEVEL", variable)
    assert RunSettings("toy", ("t",), verbosity=given).quiet == quiet


def test_a_result_says_where_it_was_made(tmp_path: Path) -> None:
    results = evaluate("toy", ["t_write"], include_path=str(write_tasks(tmp_path)), limit=2)
    made = results["dlm_eval"]["environment"]
    assert (
        made["machine"]["cores"] >= 1
        and made["machine"]["memory_bytes"] > 2**28
        and made["machine"]["processor"]
    )
    assert (
        made["torch"] and made["lm_eval"] and made["python"] and made["dlm_eval"] and "git" in made
    )
    (device,) = made["devices"]
    assert device["device"] == made["device"] == "cpu" and device["rows"] > 0
    assert made["peak_device_bytes"] == device["peak_bytes"] > 2**20


def test_progress_in_a_log_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm_eval.progress.LINE_SECONDS", 0.0)
    assert len(watch(monkeypatch, io.StringIO()).splitlines()) >= 10


def test_lm_evals_chatter_is_contained_and_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    import lm_eval.api.metrics as metrics
    import lm_eval.utils as utils

    def bootstrap() -> Any:
        return metrics.bootstrap_stderr(metrics.mean, [0.0, 1.0, 1.0], 1000)

    compiled = utils.env.from_string
    with evaluating():
        inside = bootstrap()
        assert utils.env.from_string("{{a}} b") is utils.env.from_string("{{a}} b")  # compiled once
        assert utils.apply_template("{{a}} b", {"a": 1}) == "1 b"
    assert capsys.readouterr() == ("", "")
    assert bootstrap() == inside and utils.env.from_string == compiled
    assert "bootstrapping" in capsys.readouterr().out


def test_a_child_that_is_ended_does_not_end_its_parent() -> None:
    """lm-eval's bootstrap forks a pool of processes and ends them by SIGTERM, at times before they have begun, which must not count as the user's."""
    program = (
        "import multiprocessing, os, signal, time\nfrom dlm_eval.signals import orderly\n"
        "with orderly():\n"
        "    pool = multiprocessing.get_context('fork').Pool(2)\n    pool.map(abs, [1, 2])\n    pool.terminate()\n"
        "    for _ in range(300):\n"
        "        child = os.fork()\n        if child == 0:\n            time.sleep(1)\n            os._exit(0)\n"
        "        os.kill(child, signal.SIGTERM)\n        os.waitpid(child, 0)\n"
        "    time.sleep(4)\nprint('whole')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "whole\n" and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_busy_main_thread_is_ended_in_time_with_its_duties_done(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A forward pass of a large model can keep the main thread from heeding signals; here a sleep that starts again does. One duty hangs, as on a dead disk."""
    program = (
        "import signal, sys, time\nfrom pathlib import Path\nfrom dlm_eval.signals import last_duty, orderly\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # under nohup it is ignored, and then stops nothing
        f"with orderly(), last_duty(lambda: Path({str(tmp_path / 'duty')!r}).write_text('done')), last_duty(lambda: time.sleep(60)):\n"
        "    limit = time.monotonic() + 30\n"
        "    while time.monotonic() < limit:\n        try:\n            print('ready', flush=True)\n            time.sleep(30)\n        except KeyboardInterrupt:\n            pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=25)  # well before the hanging duty ends
    assert (
        process.returncode == 130
        and "the same command goes on" in errors
        and (tmp_path / "duty").read_text() == "done"
    )


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("| head -c 1", 0),
        ("> /dev/full", 1),
        pytest.param("2>&- | cat", 0, marks=pytest.mark.full),  # each is a whole process
    ],
)
def test_a_run_whose_output_nobody_reads_is_saved_all_the_same(
    tmp_path: Path, place: str, code: int
) -> None:
    (tmp_path / "tasks").mkdir()
    folder, out = write_tasks(tmp_path / "tasks"), tmp_path / "out"
    command = f"{sys.executable} -m dlm_eval --model toy --tasks t_write --include_path {folder} --output_path {out}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {place}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.returncode == code
        and "Traceback" not in done.stderr
        and "Exception" not in done.stderr
    ), done.stderr
    assert (out / "leaderboard.csv").exists() and list(out.rglob("results_*.json"))


# -- trackers --------------------------------------------------------------------------------------


def test_results_are_reported_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed (pip install tensorboard)"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "tasks").mkdir()
    folder = write_tasks(tmp_path / "tasks")
    options = [
        "--model",
        "toy",
        "--tasks",
        "t_write",
        "--limit",
        "2",
        "--include_path",
        str(folder),
    ]
    assert (
        main([*options, "--output_path", str(tmp_path / "out"), "--report_to", "tensorboard"]) == 0
    )
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert {"t_write/exact_match", "t_write/forwards", "total/wall_seconds"} <= set(
        events.Tags()["scalars"]
    )


def test_scalars_are_metrics_and_costs() -> None:
    results = {
        "results": {"t": {"alias": "t", "acc,none": 0.5, "exact_match,strict": 1}},
        "dlm_eval": {"cost": {"t": {"forwards": 7}, "total": {"wall_seconds": 2.0}}},
    }
    assert scalars(results) == {
        "t/acc": 0.5,
        "t/exact_match.strict": 1.0,
        "t/forwards": 7.0,
        "total/wall_seconds": 2.0,
    }


def test_a_tracker_that_fails_costs_a_warning(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    Reports(("wandb",), {"wandb_args": {"no_such_argument": 1}}).send(
        {"results": {}, "samples": {}}, True, tmp_path
    )
    assert "reporting to wandb failed" in caplog.text


@pytest.mark.parametrize(
    ("name", "said"), [("wanbd", "did you mean 'wandb'"), ("tensorboard,mlflow", "mlflow")]
)
def test_other_trackers_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_reports(name, {})


def test_a_tracker_that_is_not_installed_is_said_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    assert parse_reports("none", {}) == Reports()
    with pytest.raises(UserError, match="pip install trackio"):
        parse_reports(None, {"trackio_args": {"project": "x"}})

"""Runs end with what is known: one document, scorer, metric, name or file never costs the others; what the user types wrong is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fuzz_inputs
import pytest
import torch
import yaml
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval.answers import answer_jobs
from dlm_eval.canvas import Canvas
from dlm_eval.cli import main
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.errors import RunError, UserError
from dlm_eval.harness.results import json_value
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.saving import check_tracker, file_name
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.jobs import FillJob, Job
from dlm_eval.journal import Journal, checksum
from dlm_eval.models import load_model
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.workers import InProcess
from dlm_eval.yaml_text import read_yaml_text

SCORERS = """
import sys


def nothing(doc, results):
    return None


def listed(doc, results):
    return [("acc", 1.0)] if doc["text"] == "fab" else {"acc": 1.0}


def numbered(doc, results):
    return {float("nan"): 1.0} if doc["text"] == "fab" else {"acc": 1.0}


def leaves(doc, results):
    if doc["text"] == "fab":
        sys.exit(3)
    return {"acc": 1.0}


def interrupts(doc, results):
    if doc["text"] == "fab":
        raise KeyboardInterrupt
    return {"acc": 1.0}


class Silent(Exception):
    def __str__(self):
        raise ValueError("no text")


def silent(doc, results):
    if doc["text"] == "fab":
        raise Silent
    return {"acc": 1.0}


def several(doc, results):
    return {"good": 1.0, "bad": 0.5, "odd": {(1, 2): object()}, "acc": 0.0}


def fails(items):
    raise ZeroDivisionError("no items of this kind")


def leaves_late(items):
    raise SystemExit(3)


def first(items):
    return items[0]


def text_of(doc):
    if doc["text"] == "fab":
        raise SystemExit("no prompt")
    return doc["text"]


def pick(resps, docs):
    for answers, doc in zip(resps, docs):
        if doc["text"] == "fab":
            sys.exit(3)
        yield answers[0]
"""


def own_task(
    folder: Path, change: dict[str, Any], base: str = "t_write", documents: list[Any] = DOCUMENTS
) -> Path:
    """Writes the task `odd`: a task of harness_tasks with some keys changed, and the functions above beside it; returns the folder."""
    folder.mkdir(exist_ok=True)
    text = (write_tasks(folder, documents) / f"{base}.yaml").read_text()
    for file in folder.glob("*.yaml"):
        file.unlink()
    config = {**yaml.safe_load(text), "task": "odd", **change}
    (folder / "scorers.py").write_text(SCORERS)
    written = yaml.safe_dump(config, allow_unicode=True)
    (folder / "odd.yaml").write_text(
        written.replace("'!function ", "!function ").replace("py_", "scorers.")
    )
    lines = [
        line.rstrip("'") if "!function" in line else line
        for line in (folder / "odd.yaml").read_text().splitlines()
    ]
    (folder / "odd.yaml").write_text("\n".join(lines) + "\n")
    return folder


def function(name: str) -> str:
    return f"!function scorers.{name}"


def errors_of(results: dict[str, Any], task: str = "odd") -> dict[str, str]:
    return {
        sample["doc"]["text"]: sample["error"]
        for sample in results["samples"][task]
        if "error" in sample
    }


# -- 14: one document, one scorer, one metric ------------------------------------------------------


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ("listed", "returned list"),
        ("numbered", "named a metric nan"),
        ("leaves", "SystemExit: 3"),
        ("silent", "Silent"),
    ],
)
def test_14_a_scorer_that_fails_on_one_document_costs_that_document(
    tmp_path: Path, scorer: str, said: str
) -> None:
    folder = own_task(
        tmp_path / "tasks",
        {
            "process_results": function(scorer),
            "metric_list": [{"metric": "acc", "aggregation": "mean"}],
        },
    )
    results = evaluate("toy", "odd", include_path=str(folder))
    assert errors_of(results).keys() == {"fab"} and said in errors_of(results)["fab"]
    assert (
        results["results"]["odd"]["acc,none"] == 1.0
        and results["n-samples"]["odd"]["effective"] == len(DOCUMENTS) - 1
    )


def test_14_a_scorer_may_raise_what_ctrl_c_raises(tmp_path: Path) -> None:
    """On the command line, where a signal of the user's is known from one that a task makes up."""
    folder = own_task(tmp_path / "tasks", {"process_results": function("interrupts")})
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "odd",
                "--include_path",
                str(folder),
                "--output_path",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    (file,) = (tmp_path / "out").rglob("samples_odd_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert ["KeyboardInterrupt" in sample.get("error", "") for sample in samples] == [
        d["text"] == "fab" for d in DOCUMENTS
    ]


def test_14_a_scorer_that_returns_nothing_leaves_a_result_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own_task(tmp_path / "tasks", {"process_results": function("nothing")})
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "odd",
                "--include_path",
                str(folder),
                "--output_path",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    assert "process_results returned NoneType" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("results_*.json"))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"doc_to_text": function("text_of")},
        {
            "filter_list": [
                {"name": "f", "filter": [{"function": "custom", "filter_fn": function("pick")}]}
            ]
        },
    ],
)
def test_14_exit_in_a_prompt_or_a_filter_costs_one_document(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    results = evaluate("toy", "odd", include_path=str(own_task(tmp_path / "tasks", change)))
    assert errors_of(results).keys() == {"fab"} and "SystemExit" in errors_of(results)["fab"]


def test_14_a_document_without_choices_costs_that_document(tmp_path: Path) -> None:
    documents = [DOCUMENTS[0], {**DOCUMENTS[1], "choices": []}, *DOCUMENTS[2:]]
    results = evaluate(
        "toy", "odd", include_path=str(own_task(tmp_path / "tasks", {}, "t_choice", documents))
    )
    assert (
        errors_of(results).keys() == {DOCUMENTS[1]["text"]}
        and "no choice" in errors_of(results)[str(DOCUMENTS[1]["text"])]
    )
    assert results["n-samples"]["odd"]["effective"] == len(DOCUMENTS) - 1


def test_14_a_metric_that_cannot_be_aggregated_is_missing_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = [
        {"metric": "good", "aggregation": "mean"},
        {"metric": "bad", "aggregation": function("fails")},
        {"metric": "odd", "aggregation": function("first")},
        {"metric": "acc", "aggregation": function("leaves_late")},
    ]
    folder = own_task(
        tmp_path / "tasks", {"process_results": function("several"), "metric_list": metrics}
    )
    write_tasks(folder)
    out = tmp_path / "out"
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "odd,t_choice",
                "--include_path",
                str(folder),
                "--output_path",
                str(out),
            ]
        )
        == 1
    )
    said = capsys.readouterr()
    (line,) = [
        line for line in said.err.splitlines() if line.startswith("dlm-eval: error: missing: ")
    ]
    assert (
        "odd: bad,none (ZeroDivisionError: no items of this kind (in scorers.py, line " in line
        and "odd: acc,none (SystemExit: 3 (in scorers.py, line " in line
    )
    (file,) = out.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert (
        results["results"]["odd"]["good,none"] == 1.0
        and "acc,none" in results["results"]["t_choice"]
    )
    assert not {"bad,none", "acc,none"} & results["results"]["odd"].keys()
    assert len(results["dlm_eval"]["missing"]) == 2 and "Traceback" not in said.err


def test_14_what_json_cannot_hold_is_written_as_text() -> None:
    inside: list[Any] = [1]
    inside.append(inside)
    assert json_value({(1, 2): inside, "a": {3}, 5: float("inf")}) == {
        "(1, 2)": [1, "..."],
        "a": [3],
        "5": float("inf"),
    }


def test_14_an_error_behind_the_last_answer_leaves_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.evaluator

    def broken(*args: Any, **options: Any) -> Any:
        raise TypeError("nobody foresaw this")

    monkeypatch.setattr(lm_eval.evaluator, "_process_results", broken)
    folder = own_task(tmp_path / "tasks", {})
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "odd",
                "--include_path",
                str(folder),
                "--output_path",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    assert (
        "error: missing: all scores (TypeError: nobody foresaw this (in test_run_ends.py, line "
        in capsys.readouterr().err
    )
    (file,) = (tmp_path / "out").rglob("samples_odd_*.jsonl")
    assert len(file.read_text().splitlines()) == len(DOCUMENTS)
    journal = Journal(tmp_path / "out" / "journal.sqlite")
    assert journal.summary()[0]["answers"] == len(DOCUMENTS)
    journal.close()


def test_14_an_error_before_the_first_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.evaluator

    monkeypatch.setattr(lm_eval.evaluator, "get_sample_size", lambda *args: 1 / 0)
    with pytest.raises(RunError, match="the run failed: ZeroDivisionError"):
        evaluate("toy", "odd", include_path=str(own_task(tmp_path / "tasks", {})))


def test_14_a_board_that_cannot_be_written_costs_the_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "leaderboard.csv").mkdir(parents=True)
    folder = own_task(tmp_path / "tasks", {})
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "odd",
                "--include_path",
                str(folder),
                "--output_path",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    said = capsys.readouterr()
    assert "error: missing: the board (" in said.err and "exact_match" in said.out
    assert len(list((tmp_path / "out").rglob("results_*.json"))) == 1


def test_14_answers_alone_into_a_fresh_folder(tmp_path: Path) -> None:
    folder = own_task(tmp_path / "tasks", {})
    command = [
        "--model",
        "toy",
        "--tasks",
        "odd",
        "--include_path",
        str(folder),
        "--output_path",
        str(tmp_path / "out"),
    ]
    assert (
        main([*command, "--predict_only"]) == 0
        and not (tmp_path / "out" / "leaderboard.csv").exists()
    )
    assert len(list((tmp_path / "out").rglob("results_*.json"))) == 1


# -- 14: names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "a[1]",
        "[!x]",
        "a!",
        "a\\b",
        "\u202ea",
        "tab\there",
        "n" * 240,
        "\u00e9" * 130,
        "..",
        "a*?",
        'q"<>|:',
    ],
)
def test_14_a_task_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = own_task(tmp_path / "tasks", {"task": name})
    results = evaluate("toy", str(folder / "odd.yaml"), output_path=str(tmp_path / "out"))
    assert results["results"][name]["exact_match,none"] == 0.0
    (file,) = (tmp_path / "out").rglob("samples_*.jsonl")
    assert (
        len(file.read_text().splitlines()) == len(DOCUMENTS) and (tmp_path / "out") in file.parents
    )


def test_14_usual_names_stay_and_odd_ones_are_told_apart() -> None:
    for name in ("gsm8k", "mmlu_pro-law", "a.b", "x+y", "a b", "pass@1"):
        assert file_name(name) == name
    odd = ["a/b", "a:b", "a_b", "n" * 240, "n" * 241]
    assert len({file_name(name) for name in odd}) == len(odd) and all(
        len(file_name(name).encode()) < 200 for name in odd
    )


def test_14_a_checkpoint_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    from dlm_eval.models import packaged_asset

    (tmp_path / "x.json").symlink_to(packaged_asset("tiny"), target_is_directory=True)
    folder = own_task(tmp_path / "tasks", {})
    evaluate(
        "tiny",
        "odd",
        include_path=str(folder),
        model_args={"pretrained": str(tmp_path / "x.json")},
        limit=1,
        output_path=str(tmp_path / "out"),
    )
    assert len([file for file in (tmp_path / "out").rglob("results_*.json") if file.is_file()]) == 1


# -- 14: texts and models --------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["t_write", "t_choice", "t_last"])
def test_14_half_of_a_surrogate_pair_costs_nobody_else(tmp_path: Path, base: str) -> None:
    documents = [DOCUMENTS[0], {**DOCUMENTS[1], "text": "ab\udc80c"}, *DOCUMENTS[2:]]
    folder = own_task(
        tmp_path / "tasks",
        {"dataset_path": None, "custom_dataset": function("documents"), "dataset_kwargs": None},
        base,
        DOCUMENTS,
    )
    source = f"\n\ndef documents(**_):\n    import json\n    return {{'test': Documents(json.loads({json.dumps(json.dumps(documents))}))}}\n"
    listed = "\n\nclass Documents(list):\n    features = {}\n"
    (folder / "scorers.py").write_text(SCORERS + listed + source)
    results = evaluate("toy", "odd", include_path=str(folder), output_path=str(tmp_path / "out"))
    assert results["n-samples"]["odd"]["original"] == len(DOCUMENTS)
    assert (
        set(errors_of(results)) <= {"ab\\udc80c"}
        and len(list((tmp_path / "out").rglob("samples_odd_*"))) == 1
    )


def refuse(method: Any, refused: Any, error: Exception) -> Any:
    """Returns a method of a model that raises over some of its arguments."""

    def refusing(self: Any, given: Any, *args: Any, **options: Any) -> Any:
        if refused(given):
            raise error
        return method(self, given, *args, **options)

    return refusing


@pytest.mark.parametrize(
    ("where", "refused", "error", "count"),
    [
        ("encode", lambda text: "fab" in text, KeyError("a letter that the vocabulary lacks"), 1),
        ("decode", lambda ids: True, OverflowError("ids that spell nothing"), len(DOCUMENTS)),
        (
            "logits",
            lambda tokens: tokens.shape[1] == 11,
            ArithmeticError("a row that is too much"),
            1,
        ),
    ],
)
def test_14_a_models_code_that_raises_costs_its_samples(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    refused: Any,
    error: Exception,
    count: int,
) -> None:
    monkeypatch.setattr(Toy, where, refuse(getattr(Toy, where), refused, error))
    folder = own_task(tmp_path / "tasks", {})
    results = evaluate("toy", "odd", include_path=str(folder), output_path=str(tmp_path / "out"))
    found = errors_of(results)
    assert len(found) == count and all(type(error).__name__ in reason for reason in found.values())
    assert len(list((tmp_path / "out").rglob("results_*.json"))) == 1


# -- 14: found before the model is loaded ----------------------------------------------------------

LOADS = """
import evaluate


def agg(items):
    return helper(items)


def helper(items):
    return evaluate.load("no_such_metric_of_ours").compute(predictions=items, references=items)
"""


def test_14_a_metric_that_a_scorer_loads_is_tried_before_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own_task(
        tmp_path / "tasks",
        {"metric_list": [{"metric": "exact_match", "aggregation": function("agg")}]},
    )
    (folder / "scorers.py").write_text(LOADS)
    for command in (["--model", "no_weights.py", "--tasks", "odd"], ["validate", "odd"]):
        (tmp_path / "no_weights.py").write_text("raise RuntimeError('the model was loaded')\n")
        command = [str(tmp_path / word) if word == "no_weights.py" else word for word in command]
        line = line_of([*command, "--include_path", str(folder)], capsys)
        assert "task 'odd' scores with the metric 'no_such_metric_of_ours'" in line
    command = ["--model", "toy", "--tasks", "odd", "--include_path", str(folder), "--predict_only"]
    assert main([*command, "--output_path", str(tmp_path / "out")]) == 0


def test_14_stock_tasks_that_load_metrics_are_known() -> None:
    """By their source alone; neither data nor metrics are needed."""
    from lm_eval.tasks.squadv2.task import SQuAD2

    from dlm_eval.harness.code_scan import reach
    from dlm_eval.harness.code_tasks import _places

    assert "evaluate.load('squad_v2')" in {hit.name for hit in reach(set(_places(SQuAD2)))}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"push_result_to_hub": True}, "did you mean 'push_results_to_hub'"),
        ({"push_results_to_hub": True}, "need token"),
        ({"gated": "perhaps"}, "true or false"),
        ({"output_path": "x"}, "not known"),
    ],
)
def test_14_what_the_hub_gets_is_checked_before_the_run(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_tracker(arguments)
    with pytest.raises(UserError, match=said):
        evaluate("toy", "no_such_task", hf_hub_log_args=arguments)
    check_tracker({"hub_results_org": "me", "public_repo": True})


# -- 14: interruptions -----------------------------------------------------------------------------


def fills(count: int, length: int = 24, hole: int = 16) -> list[Job]:
    draw = torch.Generator().manual_seed(3)
    prompts = torch.randint(0, 6, (count, length - hole), generator=draw).tolist()
    return [
        FillJob(
            Canvas.infill(ids, hole, [], f"f{i}"), resolve({"steps": 8, "logits_eos_inf": True}), 0
        )
        for i, ids in enumerate(prompts)
    ]


@pytest.mark.parametrize("equal_lengths", [True, False])
def test_14_equal_canvases_end_batch_after_batch(equal_lengths: bool) -> None:
    """An interruption loses the rows of the canvases under way: about a batch of them, however many wait and however equal they are."""
    jobs, at_once = fills(48), 6
    engine = Engine(
        Toy(ToySettings(vocab=6)), batch_tokens=24 * at_once, equal_lengths=equal_lengths
    )
    finished, lost = [0], []
    engine.on_forward = lambda: lost.append(engine.cost.rows - finished[0])

    def done(index: int, answer: Any) -> None:
        finished[0] += answer.rows

    InProcess(engine).run(jobs, done)
    assert (
        engine.cost.rows == finished[0] == 8 * len(jobs)
        and engine.cost.forwards == 8 * len(jobs) / at_once
    )
    assert max(lost) <= 8 * 2 * at_once and sum(lost) / len(lost) <= 8 * at_once


def test_14_the_order_of_batches_changes_no_answer_and_no_forward() -> None:
    model, jobs = load_model("toy"), fills(30) + fills(30, 40)
    found: list[dict[int, Any]] = []
    for tokens in (24 * 5, 24 * 60):
        answers: dict[int, Any] = {}
        InProcess(Engine(model, batch_tokens=tokens)).run(jobs, answers.__setitem__)
        found.append(
            {index: (answer.value.tokens, answer.rows) for index, answer in answers.items()}
        )
    assert found[0] == found[1]


# -- 18: one line ----------------------------------------------------------------------------------


def line_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that the user got wrong; returns its one line of error."""
    assert main(command) == 2
    said = capsys.readouterr().err
    # there may be a progress bar
    (line,) = [line for line in said.splitlines() if line.startswith("dlm-eval: error: ")]
    assert "Traceback" not in said
    return line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"model: caf\xe9\n", "is not UTF-8 text (byte 10 is 0xe9)"),
        (b"[" * 50_000, "more than 100 lists and mappings"),
        (b"model: toy\ntasks: " + b"{a: " * 50_000, "line 2: more than 100"),
        (b"model: toy\n" + b"- " * 50_000, "broken YAML"),
        (b"model: toy\nlimit: 1\nlimit: 2\n", "line 3: key 'limit' is there twice (before in line 2)"),
        (b"verbosity: [[]]\nmodel: toy\ntasks: t\n", "--verbosity '[[]]' is not known"),
        (b"model: toy\ntasks: t\ninclude_path: -1\n", "--include_path '-1' is not allowed"),
        (b"1: 2\n", "must hold settings"),
        (b"date: 2026-13-99\n", "unknown setting|not known|not valid YAML"),
    ],
)  # fmt: skip
def test_18_a_settings_file_that_is_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, said: str
) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    line = line_of(["run", "--config", str(tmp_path / "c.yaml")], capsys)
    assert any(part in line for part in said.split("|")), line


@pytest.mark.parametrize(
    "limit",
    [1e308, float("inf"), float("nan"), True, False, -1, 0, 1.5, 10**40, [1], {"a": 1}, b"2"],
)
def test_18_a_limit_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(UserError, match="--limit"):
        evaluate("toy", "odd", limit=limit)


LONG = "/" + "d" * 5000


@pytest.mark.parametrize(
    "command",
    [
        ["--model", "toy", "--tasks", "t", "--config", LONG],
        ["--model", "toy", "--tasks", "t", "--output_path", LONG],
        ["--model", "toy", "--tasks", "t", "--data_dir", LONG, "--output_path", "OUT"],
        ["--model", "toy", "--tasks", "t", "--include_path", LONG, "--output_path", "OUT"],
        ["--model", "toy", "--tasks", "t", "--samples", LONG],
        ["--model", "toy", "--tasks", LONG + ".yaml", "--output_path", "OUT"],
        ["--model", LONG, "--tasks", "t"],
        ["--model", LONG + ".py", "--tasks", "t"],
        ["--model", "llada", "--model_args", f"pretrained={LONG}", "--tasks", "t_write", "--include_path", "TASKS", "--output_path", "OUT"],
        ["validate", "t", "--include_path", LONG],
        ["validate", "t", "--data_dir", LONG],
        ["ls", "tasks", "--include_path", LONG],
        ["show", "toy", "--include_path", LONG],
        ["cache", "ls", LONG],
        ["cache", "rm", LONG],
        ["cache", "export", LONG],
        ["leaderboard", LONG],
        ["trace", "--model", "toy", "--prompt", "a", "--html", LONG],
        ["trace", "--model", "toy", "--prompt", "a", "--json", LONG],
        ["sweep", "--model", "toy", "--tasks", "t_write", "--include_path", "TASKS", "--decode", "steps=1", "-o", LONG],
    ],
    ids=lambda command: " ".join(word[:12] for word in command),
)  # fmt: skip
def test_18_a_path_of_5000_letters_is_one_short_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    names = {"OUT": str(tmp_path / "out"), "TASKS": str(write_tasks(tmp_path))}
    assert len(line_of([names.get(word, word) for word in command], capsys)) < 2600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_type": None}, "output_type"),
        ({"output_type": "chat"}, "output_type"),
        ({"repeats": "x"}, "repeats"),
        ({"repeats": 0}, "repeats"),
        ({"num_fewshot": "many"}, "num_fewshot"),
        ({"doc_to_text": "{{ nothing.at.all }}"}, "doc_to_text of document 0"),
        ({"doc_to_target": "{{ text | nonsense }}"}, "doc_to_target of document 0"),
        ({"doc_to_text": "{{ 1 // 0 }}"}, "doc_to_text of document 0"),
    ],
)
def test_18_a_task_file_that_is_wrong_says_where(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    folder = own_task(tmp_path / "tasks", change)
    with pytest.raises(UserError, match=said) as caught:
        load_tasks(["odd"], include_path=folder)
    assert "odd" in str(caught.value)


def test_18_a_doubled_key_of_a_task_is_said(tmp_path: Path) -> None:
    folder = own_task(tmp_path / "tasks", {})
    (folder / "odd.yaml").write_text((folder / "odd.yaml").read_text() + "test_split: train\n")
    with pytest.raises(UserError, match=r"odd\.yaml, line \d+: key 'test_split' is there twice"):
        load_tasks(["odd"], include_path=folder)


@pytest.mark.parametrize("command", [["ls", "tasks"], ["show", "toy"], ["validate", "t"]])
def test_18_a_task_file_that_is_nested_too_deeply_ends_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "deep.yaml").write_text("task: " + "[" * 50_000)
    assert "more than 100 lists" in line_of([*command, "--include_path", str(tmp_path)], capsys)


def test_18_a_device_is_not_replaced_by_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [
        "trace",
        "--model",
        "toy",
        "--prompt",
        "a",
        "--length",
        "1",
        "--html",
        str(tmp_path / "pipe"),
    ]
    assert "is no ordinary file" in line_of(command, capsys)


def test_18_aliases_and_merges_are_no_doubled_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: *a, <<: *b, z: 3}\nd: [*a, *a]\n"
    )
    assert read_yaml_text(tmp_path / "a.yaml", "a.yaml").startswith("a:")


def test_18_an_answer_of_another_form_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, jobs = load_model("toy"), fills(6)
    engine = Engine(model)
    journal = Journal(tmp_path / "journal.sqlite")

    def answers() -> list[Any]:
        found = answer_jobs(InProcess(engine).run, jobs, "model", journal)
        return [(answer.value.tokens, answer.error) for answer in found]  # type: ignore[union-attr]

    before, rows = answers(), engine.cost.rows
    keys = [row["key"] for row in journal.export()]
    odd = [
        "[]",
        "{}",
        "null",
        "5",
        '{"kind": "Filling", "value": {}, "error": null, "rows": 1, "seconds": 0}',
    ]
    odd += [
        '{"kind": "Filling", "value": {"tokens": "abc", "forwards": 1, "steps": 1}, "error": null, "rows": 1, "seconds": 0}'
    ]
    for key, text in zip(keys, odd, strict=True):
        journal._execute(
            [
                (
                    "UPDATE answers SET value = ?, checksum = ? WHERE key = ?",
                    [(text, checksum(key, text), key)],
                )
            ]
        )
    assert answers() == before and engine.cost.rows == 2 * rows and "another form" in caplog.text
    journal.note("learned:x", [1])
    from dlm_eval.budget import DeviceProfile

    assert DeviceProfile.of(journal.noted("learned:x")) == DeviceProfile()
    journal.close()


# -- 18: odd values everywhere ---------------------------------------------------------------------

COUNT = int(os.environ.get("DLM_EVAL_FUZZ", "52"))  # tries, of every kind alike


@pytest.mark.parametrize("part", range(2))
def test_18_odd_values_end_in_one_line(
    tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seeded share of all options, settings and task keys with odd values: exit code 0, 1 or 2, and one line of error, never a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    write_tasks(tmp_path / "tasks")
    tries = fuzz_inputs.sample(COUNT, seed=11)[part::2]
    found = [fault for case in tries if (fault := fuzz_inputs.fault(case, tmp_path)) is not None]
    assert not found and len(tries) >= COUNT // 3

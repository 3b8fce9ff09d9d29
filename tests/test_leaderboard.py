"""Leaderboards from true lm-eval result files: lm-eval itself runs its `dummy` model and saves what it likes."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from dlm_eval.cli.leaderboard import add_parser
from dlm_eval.errors import UserError
from dlm_eval.reports import leaderboard, wide
from dlm_eval.reports.board.leaderboard import write
from dlm_eval.reports.files.csv_file import cell, safe_text
from dlm_eval.reports.files.row import COLUMNS
from dlm_eval.reports.files.write import write_files

CONTRACT_COLUMNS = [
    "model", "checkpoint", "revision", "task", "metric", "filter", "value", "stderr", "n", "shots", "estimator",
    "strategy", "steps", "gen_length", "block_length", "forwards_per_sample", "tokens_per_forward",
    "tokens_per_second", "device", "dtype", "date", "fingerprint", "source",
]  # fmt: skip
DAY = 86400.0


def _tasks() -> list[dict]:
    import datasets

    def documents(**_):
        rows = [
            {
                "q": f"What is {i}?",
                "a": "lol" if i % 3 else "no",
                "choices": ["x", "y"],
                "label": i % 2,
            }
            for i in range(7)
        ]
        return {"test": datasets.Dataset.from_list(rows)}

    def metric(name: str, higher: bool = True) -> dict:
        return {"metric": name, "higher_is_better": higher} | (
            {"aggregation": "mean"} if higher else {}
        )

    shared = {"custom_dataset": documents, "test_split": "test", "doc_to_text": "{{q}}"}
    first = {
        "name": "strict",
        "filter": [{"function": "regex", "regex_pattern": "(zz)"}, {"function": "take_first"}],
    }
    return [
        shared | {
            "task": "choice", "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}", "doc_to_target": "label",
            "metric_list": [metric("acc_norm"), metric("acc")],
        },
        shared | {
            "task": "words", "output_type": "generate_until", "doc_to_target": "a",
            "generation_kwargs": {"until": ["\n"]}, "metric_list": [metric("exact_match")],
            "filter_list": [first, {"name": "flexible", "filter": [{"function": "take_first"}]}],
        },
        shared | {
            "task": "text", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}}",
            "metric_list": [metric("word_perplexity", higher=False)],
        },
    ]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict:
    """A result file that lm-eval 0.4.x wrote, parsed; each test gets copies of it."""
    from lm_eval import evaluator, simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.dummy import DummyLM
    from lm_eval.tasks import TaskManager

    out = tmp_path_factory.mktemp("lm_eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DummyLM, "tokenizer", None)  # lm-eval would look for it on the hub
        # three seconds of asking the machine
        patch.setattr(evaluator, "add_env_info", lambda storage: None)
        tracker = EvaluationTracker(output_path=str(out))
        tracker.general_config_tracker.log_experiment_args(
            "dummy", "pretrained=org/dummy", "", "", False
        )
        random.seed(0)
        results = simple_evaluate(
            model="dummy",
            model_args="pretrained=org/dummy",
            tasks=_tasks(),
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=10,
        )
        tracker.save_results_aggregated(results, results.pop("samples"))
    (file,) = out.rglob("results_*.json")
    return json.loads(file.read_text())


def _ours(document: dict, fingerprint: str = "f" * 64, **choice) -> dict:
    """The same file with our block, as harness and runner write it."""
    document = copy.deepcopy(document)
    how = {
        "kind": "likelihood",
        "estimator": "auto",
        "strategy": None,
        "steps": None,
        "gen_length": None,
    }
    written = {
        "kind": "generation",
        "estimator": None,
        "strategy": "confidence",
        "steps": 64,
        "gen_length": 128,
    }
    cost = {
        "samples": 7,
        "errors": 1,
        "requests": 14,
        "forwards": 98,
        "rows": 110,
        "tokens": 49,
        "seconds": 3.5,
    }
    document["dlm_eval"] = {
        "version": "0.1.0",
        "fingerprint": fingerprint,
        "settings": {
            "model": {
                "family": "llada", "checkpoint": "llada-8b-base", "pretrained": "GSAI-ML/LLaDA-8B-Base",
                "revision": "abc123", "dtype": "float32", "device": "cpu",
            },
            "seed": 0,
        },
        "cost": {"choice": cost, "words": cost, "total": cost | {"wall_seconds": 9.0}},
        "tasks": {"choice": how | {"block_length": None}, "words": written | {"block_length": 32} | choice},
        "environment": {"device_name": "Some CPU"},
    }  # fmt: skip
    return document


def _save(directory: Path, document: dict, name: str = "results_1.json", days: float = 0.0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    document = document | {"date": document["date"] + days * DAY}
    path = directory / name
    path.write_text(json.dumps(document))
    return path


def _score(
    table: pandas.DataFrame, task: str, metric: str, pipeline: str = "none"
) -> pandas.Series:
    rows = table[(table.task == task) & (table.metric == metric) & (table["filter"] == pipeline)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_plain_lm_eval_file(plain, tmp_path):
    path = _save(tmp_path, plain)
    table = leaderboard([tmp_path])
    assert (
        list(table.columns) == list(COLUMNS)
        and list(COLUMNS[: len(CONTRACT_COLUMNS)]) == CONTRACT_COLUMNS
    )
    # Five scores: two metrics, one metric under two filters, one perplexity; in metric_list's and filter_list's order.
    assert list(zip(table.task, table.metric, table["filter"], strict=True)) == [
        ("choice", "acc_norm", "none"),
        ("choice", "acc", "none"),
        ("text", "word_perplexity", "none"),
        ("words", "exact_match", "strict"),
        ("words", "exact_match", "flexible"),
    ]
    assert list(table.headline) == [True, False, True, True, False]
    row = _score(table, "words", "exact_match", "flexible")
    assert row["value"] == plain["results"]["words"]["exact_match,flexible"] == pytest.approx(4 / 7)
    assert row["stderr"] == plain["results"]["words"]["exact_match_stderr,flexible"]
    assert (row["model"], row["checkpoint"]) == ("dummy", "org/dummy")
    assert (row["n"], row["n_total"], row["shots"]) == (7, 7, "0")
    assert row["source"].endswith(path.name) and row["date"].endswith("Z")
    for name in (
        "estimator",
        "strategy",
        "steps",
        "gen_length",
        "block_length",
        "fingerprint",
        "device",
        "revision",
    ):
        assert table[name].isna().all(), name
    for name in ("forwards_per_sample", "tokens_per_forward", "tokens_per_second", "errors"):
        assert table[name].isna().all(), name
    perplexity = _score(table, "text", "word_perplexity")
    assert (
        math.isnan(perplexity["stderr"])
        and perplexity["higher_is_better"] is False
        and perplexity["unit"] is None
    )


def test_made_up_model_names_are_no_checkpoint(plain, tmp_path):
    # Without model_args lm-eval names the model by eight random letters.
    document = copy.deepcopy(plain)
    document["config"]["model_args"], document["model_name"] = "", "qwertyui"
    _save(tmp_path, document)
    assert leaderboard([tmp_path])["checkpoint"].isna().all()
    document["config"]["model_args"] = {"dtype": "float32", "pretrained": "org/other"}
    _save(tmp_path, document)
    assert set(leaderboard([tmp_path])["checkpoint"]) == {"org/other"}


def test_our_block_fills_the_cells(plain, tmp_path):
    _save(tmp_path, _ours(plain))
    table = leaderboard([tmp_path])
    row = _score(table, "words", "exact_match", "strict")
    names = (
        "model",
        "checkpoint",
        "revision",
        "dtype",
        "device",
        "fingerprint",
        "strategy",
        "steps",
        "gen_length",
    )
    assert [row[name] for name in names] == [
        "llada", "llada-8b-base", "abc123", "float32", "Some CPU", "f" * 64, "confidence", "64", "128",
    ]  # fmt: skip
    assert row["block_length"] == "32" and row["estimator"] is None and row["errors"] == 1
    assert row["forwards_per_sample"] == 98 / 7
    assert row["tokens_per_forward"] == 49 / 98
    assert row["tokens_per_second"] == 49 / 3.5
    assert _score(table, "choice", "acc")["estimator"] == "auto"
    # A task without a cost entry has none, and is not given the total's.
    assert math.isnan(_score(table, "text", "word_perplexity")["forwards_per_sample"])


def test_cost_of_nothing_is_empty(plain, tmp_path):
    document = _ours(plain)
    document["dlm_eval"]["cost"]["words"] = {
        "samples": 0,
        "forwards": 0,
        "tokens": 0,
        "seconds": 0.0,
    }
    _save(tmp_path, document)
    row = _score(leaderboard([tmp_path]), "words", "exact_match", "strict")
    assert all(
        math.isnan(row[f])
        for f in ("forwards_per_sample", "tokens_per_forward", "tokens_per_second")
    )


def test_headline_is_the_task_files_first_metric(plain, tmp_path):
    document = copy.deepcopy(plain)
    document["results"] = {
        task: dict(reversed(cells.items())) for task, cells in document["results"].items()
    }
    _save(tmp_path, document)
    table = leaderboard([tmp_path])
    assert [tuple(pair) for pair in table[table.headline][["metric", "filter"]].to_numpy()] == [
        ("acc_norm", "none"), ("word_perplexity", "none"), ("exact_match", "strict"),
    ]  # fmt: skip
    # Without a metric_list the order of the file stands; lm-eval happened to write acc before acc_norm.
    assert list(plain["results"]["choice"]).index("acc,none") < list(
        plain["results"]["choice"]
    ).index("acc_norm,none")
    document = copy.deepcopy(plain)
    document["configs"]["choice"]["metric_list"] = None
    _save(tmp_path, document)
    assert leaderboard([tmp_path]).query("task == 'choice' and headline")["metric"].item() == "acc"


def test_groups_sum_documents_and_cost(plain, tmp_path):
    document = _ours(plain)
    document["results"]["both"] = {
        "alias": "both",
        "sample_len": 14,
        "acc,none": 0.25,
        "acc_stderr,none": 0.1,
    }
    document["group_subtasks"] = {"both": ["choice", "inner"], "inner": ["words"]}
    _save(tmp_path, document)
    row = _score(leaderboard([tmp_path]), "both", "acc")
    assert (row["n"], row["n_total"], row["errors"], row["unit"]) == (14, 14, 2, "fraction")
    assert row["forwards_per_sample"] == 14.0
    # A group that contains itself ends.
    document["group_subtasks"]["inner"] = ["both", "words"]
    _save(tmp_path, document)
    assert _score(leaderboard([tmp_path]), "both", "acc")["n"] == 14


def test_newest_of_identical_runs_stays(plain, tmp_path):
    newer = _ours(plain)
    newer["results"]["choice"]["acc,none"] = 0.125
    _save(tmp_path / "a", newer, days=2)
    _save(tmp_path / "b", _ours(plain), days=1)
    _save(tmp_path / "c", _ours(plain, fingerprint="e" * 64), days=0)
    table = leaderboard([tmp_path])
    rows = table[(table.task == "choice") & (table.metric == "acc")]
    assert len(rows) == 2 and set(rows.fingerprint) == {"f" * 64, "e" * 64}
    assert rows[rows.fingerprint == "f" * 64]["value"].item() == 0.125
    assert len(leaderboard([tmp_path], keep_all=True)) == 15 and len(table) == 10
    # Naming a directory twice reads nothing twice, not even with --all.
    assert len(leaderboard([tmp_path, tmp_path / "a"], keep_all=True)) == 15


def test_newest_of_plain_runs_is_told_by_their_settings(plain, tmp_path):
    other = copy.deepcopy(plain)
    other["configs"]["words"]["generation_kwargs"]["until"] = ["END"]
    _save(tmp_path / "a", plain)
    _save(tmp_path / "b", plain | {"pretty_env_info": "another machine"}, days=1)
    _save(tmp_path / "c", other, days=2)
    table = leaderboard([tmp_path])
    assert len(table[table.task == "words"]) == 4  # two settings, two filters
    assert len(table[table.task == "choice"]) == 2  # the same settings three times


def test_a_trial_does_not_replace_a_whole_run(plain, tmp_path):
    trial = _ours(plain)
    trial["n-samples"] = {task: {"original": 7, "effective": 2} for task in trial["n-samples"]}
    _save(tmp_path / "a", _ours(plain))
    _save(tmp_path / "b", trial, days=1)
    table = wide(leaderboard([tmp_path]))
    assert list(table["setting"]) == ["", "n=2"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"results": 3}', b'{"results": {}}', b'{"results": {"t": 1}}',
        b'{"results": {"t": {"acc,none": "high", "acc_stderr,none": 1.0, "alias": "t"}}}',
        b'{"results": {"t": {"bypass,none": 999}}}', b"[" * 100_000, b'{"a": 1' + b"1" * 5000 + b"}",
    ],
)  # fmt: skip
def test_foreign_files_are_named_and_left_out(plain, tmp_path, caplog, content):
    _save(tmp_path, plain)
    (tmp_path / "results_bad\n.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert len(leaderboard([tmp_path])) == 5
    (message,) = (
        record.getMessage() for record in caplog.records if record.name.startswith("dlm_eval")
    )
    assert "results_bad" in message and "\n" not in message


def test_wrongly_typed_cells_are_missing(plain, tmp_path):
    odd = {
        "results": {"t": {"acc,none": 0.5, "acc_stderr,none": [1], "list,none": [1], "flag,none": True}, "u": []},
        "config": 3, "configs": {"t": {"metric_list": "acc", "filter_list": [1]}}, "versions": [], "n-shot": {"t": {}},
        "n-samples": {"t": {"original": -1, "effective": 1e400}}, "higher_is_better": {"t": {"acc": "yes"}},
        "group_subtasks": {"t": 7}, "date": 1e300,
        "dlm_eval": {"settings": [], "cost": {"t": {"samples": "7", "forwards": 10**400}}, "tasks": {"t": []}},
    }  # fmt: skip
    (tmp_path / "results_odd.json").write_text(json.dumps(odd))
    (row,) = leaderboard([tmp_path]).to_dict("records")
    assert (row["task"], row["metric"], row["value"]) == ("t", "acc", 0.5)
    named = {"task", "metric", "filter", "value", "source", "headline"}
    assert all(pandas.isna(value) for name, value in row.items() if name not in named)


def test_nothing_to_read_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        leaderboard([tmp_path / "absent"])
    with pytest.raises(UserError, match="no results_.*with scores"):
        leaderboard([tmp_path])
    (tmp_path / "results_x.json").write_text("{")
    with pytest.raises(UserError, match="no results_.*with scores"):
        leaderboard([tmp_path])


def test_wide_shows_percent_and_tells_settings_apart(plain, tmp_path):
    for steps in (128, 64):
        document = _ours(plain, fingerprint=f"{steps:064d}", steps=steps)
        document["results"]["words"]["exact_match,strict"] = steps / 1000
        _save(tmp_path / str(steps), document)
    _save(tmp_path / "plain", plain)
    table = wide(leaderboard([tmp_path]))
    names = [
        "choice (acc_norm)",
        "text (word_perplexity, lower is better)",
        "words (exact_match,strict)",
    ]
    assert list(table.columns) == ["model", "checkpoint", "revision", "setting", *names]
    first = table.iloc[0]
    assert (first["model"], first["setting"], first["words (exact_match,strict)"]) == (
        "dummy",
        "",
        0,
    )
    ours = table[table.model == "llada"].set_index("setting")
    assert ours.loc["steps=64", "words (exact_match,strict)"] == 6.4
    assert ours.loc["steps=128", "words (exact_match,strict)"] == 12.8
    assert list(ours.index) == ["steps=64", "steps=128"]  # no row is half empty
    assert ours[names].notna().all().all()
    perplexity = plain["results"]["text"]["word_perplexity,none"]
    assert table["text (word_perplexity, lower is better)"].dropna().iloc[0] == float(
        f"{perplexity:.4g}"
    )


def test_a_single_filter_needs_no_name(plain, tmp_path):
    document = copy.deepcopy(plain)
    for kind in ("exact_match", "exact_match_stderr"):
        del document["results"]["words"][f"{kind},strict"]
    _save(tmp_path, document)
    assert "words (exact_match)" in wide(leaderboard([tmp_path])).columns


def test_percent_only_where_the_task_declares_a_fraction(plain, tmp_path):
    document = copy.deepcopy(plain)
    document["results"]["squad"] = {"f1,none": 0.9}  # a Python-class task: of 100
    document["results"]["choice"]["acc_norm,none"] = 55.5  # declared, but no fraction
    _save(tmp_path, document)
    table = wide(leaderboard([tmp_path]))
    assert table["squad (f1)"].item() == 0.9 and table["choice (acc_norm)"].item() == 55.5


def test_csv_gives_every_number_back(plain, tmp_path):
    document = _ours(plain)
    document["results"]["choice"]["acc,none"] = 0.1 + 0.2
    document["results"]["words"]["exact_match,strict"] = float("nan")
    _save(tmp_path, document)
    long = leaderboard([tmp_path])
    beside = write(long, tmp_path / "new" / "board.csv")
    assert beside.name == "board_wide.csv"
    text = (tmp_path / "new" / "board.csv").read_text()
    assert ",0.30000000000000004," in text and ",nan," in text
    back = pandas.read_csv(tmp_path / "new" / "board.csv", float_precision="round_trip")
    for name in (
        "value",
        "stderr",
        "forwards_per_sample",
        "tokens_per_forward",
        "tokens_per_second",
    ):
        assert back[name].equals(long[name]), name
    pandas.testing.assert_frame_equal(wide(back), wide(long))
    words = beside.read_text().splitlines()
    assert words[0].endswith('"words (exact_match,strict)"') and len(words) == 1 + len(wide(long))


def test_tables_do_not_depend_on_the_order_of_reading(plain, tmp_path):
    for index in range(4):
        _save(
            tmp_path / str(index),
            _ours(plain, fingerprint=f"{index:064d}", steps=2**index),
            days=index % 2,
        )
    paths = [tmp_path / str(index) for index in range(4)]
    texts = set()
    for seed in range(3):
        random.Random(seed).shuffle(paths)
        write(leaderboard(paths), tmp_path / "board.csv")
        texts.add(
            ((tmp_path / "board.csv").read_bytes(), (tmp_path / "board_wide.csv").read_bytes())
        )
    assert len(texts) == 1
    settings = [s for s in wide(leaderboard(paths))["setting"] if s.startswith("steps")]
    assert settings == ["steps=1", "steps=2", "steps=4", "steps=8"]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("llada", "llada"), ("a-b=c@d+e", "a-b=c@d+e"), ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "' =1"), ("\r\n=1", "'  =1"), ("  =1", "'  =1"), ("\uff1d1", "'\uff1d1"),
        ("x;=1", "x;'=1"), ("'=1", "''=1"),
        ("x\x1b[31m\u202ey\u2028z\ud800", "x [31m y z "),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(text, safe):
    assert safe_text(text) == safe and cell(text) == safe
    assert cell(-1.5) == "-1.5"  # numbers are not text


def test_hostile_names_stay_in_their_cells(plain, tmp_path):
    document = _ours(plain)
    hostile = {"family": "=HYPERLINK(1)", "checkpoint": 'a",\n"=2', "revision": "7" * 9999}
    document["dlm_eval"]["settings"]["model"] |= hostile
    document["results"]["+evil\n"] = {"acc,none": 1.0}
    _save(tmp_path, document)
    write(leaderboard([tmp_path]), tmp_path / "board.csv")
    for name in ("board.csv", "board_wide.csv"):
        frame = pandas.read_csv(tmp_path / name, dtype=str, keep_default_na=False)
        cells = [*frame.columns, *frame.to_numpy().ravel()]
        assert not [text for text in cells if text[:1] in "=+-@" and text and not _is_number(text)]
        assert set(frame["model"]) == {"'=HYPERLINK(1)"} and set(frame["checkpoint"]) == {'a", "=2'}
        assert not any("\n" in text for text in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_both_tables_are_written_or_neither(plain, tmp_path):
    _save(tmp_path / "results", plain)
    long = leaderboard([tmp_path / "results"])
    board = tmp_path / "board.csv"
    board.write_text("old")
    (tmp_path / "board_wide.csv").mkdir()
    with pytest.raises(UserError, match="board_wide.csv.*directory"):
        write(long, board)
    assert board.read_text() == "old" and not list(tmp_path.glob(".*"))
    (tmp_path / "board_wide.csv").rmdir()
    write(long, board)
    assert board.read_text().startswith("model,") and not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="must end in .csv"):
        write(long, tmp_path / "board.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(long, tmp_path / "file" / "board.csv")


def test_written_files_have_ordinary_permissions(tmp_path):
    write_files({tmp_path / "a.csv": "a\n"})
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "b").stat().st_mode


def _run(args: list[str], capsys) -> str:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["leaderboard", *args])
    assert parsed.main(parsed) == 0
    return capsys.readouterr().out


def test_subcommand(plain, tmp_path, capsys, monkeypatch):
    _save(tmp_path / "results" / "m", _ours(plain))
    _save(tmp_path / "results" / "m", _ours(plain), name="results_2.json", days=1)
    monkeypatch.chdir(tmp_path)
    assert "boards/demo.csv: 5 scores" in _run(["results/", "-o", "boards/demo.csv"], capsys)
    # The table names files from the working directory, not the machine.
    assert set(pandas.read_csv("boards/demo.csv")["source"]) == {"results/m/results_2.json"}
    assert "10 scores" in _run(
        [str(tmp_path / "results"), "-o", "boards/demo.csv", "--all"], capsys
    )
    assert _run(["results/m/results_1.json"], capsys).startswith(
        "model,checkpoint,revision,setting,"
    )


def test_parser_needs_no_pandas():
    code = (
        "import argparse, sys; from dlm_eval.cli.leaderboard import add_parser;"
        "add_parser(argparse.ArgumentParser().add_subparsers());"
        "sys.exit(bool({'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )

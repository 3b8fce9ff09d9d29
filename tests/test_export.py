"""`dlm-eval export` on real runs: what is read back is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
import yaml
from run_files import write_run

from dlm_eval.cli import main
from dlm_eval.harness.run import run
from dlm_eval.harness.run_settings import run_settings


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of one task, and a run on a part of the documents of another."""
    folder = tmp_path_factory.mktemp("results")
    for task, limit in (("demo_last_word", None), ("demo_choice", 5)):
        settings = {"model": "tiny", "tasks": task, "limit": limit, "output_path": str(folder)}
        run(run_settings(settings))
    return folder


def test_json_and_parquet_hold_the_same_data(results: Path, tmp_path: Path) -> None:
    assert main(["export", "json", str(results), "-o", str(tmp_path / "all.json")]) == 0
    assert main(["export", "parquet", str(results), "-o", str(tmp_path / "all")]) == 0
    whole = json.loads((tmp_path / "all.json").read_text())
    assert {name: len(rows) for name, rows in whole.items()} == {
        "runs": 2, "scores": 4, "samples": 105
    }  # fmt: skip
    for name, rows in whole.items():
        frame = pandas.read_parquet(tmp_path / "all" / f"{name}.parquet")
        assert len(frame) == len(rows) and list(frame.columns) == list(rows[0])
    scores = {(row["task"], row["metric"]): row["value"] for row in whole["scores"]}
    first, _ = sorted(results.glob("*/results_*.json"))
    measured = json.loads(first.read_text())["results"]["demo_last_word"]
    assert scores["demo_last_word", "acc"] == pytest.approx(measured["acc,none"], abs=1e-9)


def test_the_hub_gets_whole_runs_with_their_settings(
    results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [
        "export", "hf-eval-results", str(results), "-o", str(tmp_path),
        "--dataset", "demo_last_word=someone/words:last", "--dataset", "demo_choice=someone/choice",
        "--source_url", "https://example.org/runs", "--source_name", "runs",
    ]  # fmt: skip
    assert main(command) == 0
    assert "demo_choice is left out: it has 5 of 100 documents" in caplog.text
    (file,) = tmp_path.rglob("*.yaml")
    assert file.name == "demo_last_word.yaml"
    (entry,) = yaml.safe_load(file.read_text())
    from huggingface_hub import parse_eval_result_entries

    (parsed,) = parse_eval_result_entries([entry])
    assert (parsed.dataset_id, parsed.task_id) == ("someone/words", "last")
    assert parsed.source_url == "https://example.org/runs" and parsed.date is not None
    assert "documents 100" in str(parsed.notes) and "metric perplexity" in str(parsed.notes)


def test_fractions_become_percent_and_texts_are_quoted(tmp_path: Path) -> None:
    run_file = write_run(tmp_path / "run", {"t: [x]": [1.0, 0.0, 1.0, 1.0]})
    name = '--dataset=t: [x]=owner/set:a: "b"'
    assert main(["export", "hf-eval-results", str(run_file), "-o", str(tmp_path / "o"), name]) == 0
    (file,) = (tmp_path / "o").rglob("*.yaml")
    (entry,) = yaml.safe_load(file.read_text())
    assert entry["value"] == 75.0 and entry["dataset"] == {"id": "owner/set", "task_id": 'a: "b"'}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset", "demo_choice=nothing"], "must be TASK=OWNER/NAME"),
        (["--source_url", "example"], "must be a link"),
        (["--source_name", "x"], "needs --source_url"),
        ([], "has a score for the Hub"),
    ],
)
def test_a_mistake_is_one_line(
    results: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "hf-eval-results", str(results), "-o", str(tmp_path), *more]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.rglob("*.yaml"))


def test_options_of_the_hub_mean_nothing_elsewhere(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "json", str(results), "-o", str(tmp_path / "x.json"), "--dataset", "a=b/c"]
    assert main(command) == 2 and "mean nothing to 'json'" in capsys.readouterr().err

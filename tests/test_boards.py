"""Boards from real runs of `tiny` and `tiny-ar`, and from hostile and foreign result files."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml

from dlm_eval import evaluate
from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.reports import leaderboard, wide
from dlm_eval.reports.board.board import MEASURED, PUBLISHED, Board
from dlm_eval.reports.board.board_file import PARTS, board_of, read_board_file
from dlm_eval.reports.board.configurations import configurations
from dlm_eval.reports.board.csv_tables import as_long_csv, as_wide_csv
from dlm_eval.reports.board.make import make_board, read_board
from dlm_eval.reports.board.names import differences
from dlm_eval.reports.board.published import read_published
from dlm_eval.reports.board.ranks import ranks
from dlm_eval.reports.board.repeats import repeated
from dlm_eval.reports.board.text import as_latex, as_markdown, as_text
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.result_file import latest, read_result_file, rows_of
from dlm_eval.reports.files.row import COLUMNS, Row
from dlm_eval.reports.pages.board_files import files_of

ROOT = Path(__file__).resolve().parents[1]
TASKS = ["demo_choice", "demo_last_word", "demo_word_problem"]
CHOICE, WORD = "demo_choice (acc)", "demo_word_problem (exact_match)"
LAST = "demo_last_word (perplexity, lower is better)"
COLD = {"steps": 4}
WARM = {"steps": 4, "temperature": 1.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result files of nine runs; each has a folder of its own."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, model: str, tasks: list[str], **settings: Any) -> None:
        evaluate(model, tasks, output_path=str(folder / name), verbosity="ERROR", bootstrap_iters=10,
                 **{"limit": 6, **settings})  # fmt: skip

    run("cold", "tiny", TASKS, decode=COLD)
    run("one", "tiny", TASKS, decode={"steps": 1})
    for seed in (1, 2, 3):
        run(f"warm{seed}", "tiny", TASKS[2:], decode=WARM, seed=seed)
    run("masks", "tiny", TASKS[:2], estimator="mask_count,max_forwards=8", label="by masks | =1")
    run("pseudo", "tiny", TASKS[:1], estimator="pseudo", limit=None)
    run("ar", "tiny-ar", TASKS)
    return folder


def board(document: str, *paths: Path, published: str = "") -> Board:
    declared = board_of(yaml.safe_load(document))
    files = [
        read_result_file(file, str(file))
        for path in paths
        for file in sorted(path.rglob("results_*.json"))
    ]
    figures = read_published(ROOT / "leaderboards" / "published.csv") if published else ()
    return make_board(declared, latest(files), figures)


def row_named(found: Board, label: str):
    return next(row for row in found.rows if row.label == label)


BASIC = """
tasks:
  - {name: choice, task: demo_choice, metric: acc, chance: 0.25}
  - {name: last, task: demo_last_word, metric: acc, chance: 0}
  - {name: word, task: demo_word_problem, metric: exact_match, chance: 0}
"""


# -- rows ------------------------------------------------------------------------------------------


def test_several_settings_of_one_model_make_full_rows(runs):
    paths = [runs / name for name in ("cold", "one", "warm1", "warm2", "warm3", "masks", "ar")]
    table = wide(leaderboard(paths))
    assert table[[CHOICE, WORD, LAST]].notna().all().all()
    tiny = table[table["model"] == "tiny"]
    settings = list(tiny["setting"])
    # two settings of decoding, one with a temperature, and one other estimator
    assert len(settings) == len(set(settings)) == 4
    assert any("by masks | =1" in text for text in settings)
    assert sum("steps=1" in text.split() for text in settings) == 1
    assert sum("temperature=1.0" in text.split() for text in settings) == 1
    # A likelihood does not depend on decoding: three rows show the same one.
    others = tiny[~tiny["setting"].str.contains("by masks")]
    assert others[LAST].nunique() == 1 and len(others) == 3


def test_generation_does_not_split_on_the_estimator(runs):
    found = configurations(_rows(runs / "cold", runs / "masks"))
    assert len(found) == 2  # and not three: "masks" has no answers of its own
    word = ("demo_word_problem", "exact_match", "strict-match")
    first, second = (each.scores[word].rows[0].source for each in found)
    assert first == second and "cold" in first
    choice = ("demo_choice", "acc", "none")
    assert len({each.scores[choice].rows[0].source for each in found}) == 2


def test_seeds_are_one_row_with_their_mean(runs):
    seeds = [runs / f"warm{seed}" for seed in (1, 2, 3)]
    (found,) = configurations(_rows(*seeds))
    score = found.scores["demo_word_problem", "exact_match", "strict-match"]
    values = [row.value for row in score.rows]
    assert [row.seed.split(",")[0] for row in score.rows] == ["1", "2", "3"]
    assert score.value == pytest.approx(np.mean(values))
    assert score.stderr_seeds == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    (one,) = wide(leaderboard(seeds))[WORD]
    assert one == round(100 * float(np.mean(values)), 2)
    # Each seed is a row of the long table.
    assert len(leaderboard(seeds).query("headline")) == 3


def _row(value: float, stderr: float | None, seed: str, **more: Any) -> Row:
    cells = dict.fromkeys(COLUMNS) | {
        "task": "t", "metric": "acc", "value": value, "stderr": stderr, "seed": seed, "headline": True,
        "source": f"{seed}.json", "unit": "fraction", **more,
    }  # fmt: skip
    return Row(**cells)


def test_the_standard_error_over_seeds_covers_documents_and_seeds():
    """Simulated: the formula is the true standard deviation of a mean over k seeds."""
    rng = np.random.default_rng(0)
    n, k = 200, 4
    means, squared = [], []
    for _ in range(1500):
        rates = rng.beta(0.5, 0.5, n)
        drawn = rng.random((k, n)) < rates
        rows = [
            _row(float(d.mean()), float(d.std(ddof=1) / math.sqrt(n)), str(s))
            for s, d in enumerate(drawn)
        ]
        score = repeated(rows)
        means.append(score.value)
        squared.append(score.stderr**2)
    # The variance of 1500 means is known to 3.7 % (one standard error); four of them are allowed.
    assert np.mean(squared) == pytest.approx(np.var(means, ddof=1), rel=0.15)
    # One run's error is larger, and the error over seeds alone smaller.
    assert np.mean(squared) < 0.9 * 0.25 / n


def test_standard_errors_of_seeds_at_their_limits():
    far = repeated([_row(0.2, 0.01, "1"), _row(0.8, 0.01, "2")])
    assert far.stderr == pytest.approx(far.stderr_seeds) == pytest.approx(0.3)
    other = repeated([
        _row(0.4, 0.1, "0,0,0,1", shots="5"), _row(0.6, 0.1, "0,0,0,2", shots="5"),
    ])  # fmt: skip
    assert other.stderr == pytest.approx(math.sqrt(0.1**2 + 0.02 / 2))
    assert repeated([_row(3.0, None, "1"), _row(5.0, None, "2")]).stderr == pytest.approx(1.0)
    assert repeated([_row(0.5, 0.1, "1")]).stderr_seeds is None


def _rows(*paths: Path) -> list[Row]:
    found = []
    for path in paths:
        for file in sorted(path.rglob("results_*.json")):
            found += [row for row in read_result_file(file, str(file)).rows if row.headline]
    return found


def test_examples_split_rows_only_if_a_task_has_both():
    base = {"model": "m", "setup": "s", "kind": "generation", "options": None}

    def score(task: str, shots: str, source: str) -> Row:
        return _row(0.5, 0.1, "0", **base, task=task, shots=shots, source=source)

    (one,) = configurations([score("mmlu", "5", "a"), score("arc", "0", "b")])
    assert len(one.scores) == 2
    both = [score("mmlu", "5", "a"), score("arc", "0", "b"), score("mmlu", "0", "b")]
    found = configurations(both)
    assert [len(each.scores) for each in found] == [2, 1]
    assert differences(found) == ["shots=0", "shots=5"]


def test_an_older_version_of_a_task_is_a_row_of_its_own():
    base = {"model": "m", "setup": "s", "kind": "likelihood"}
    rows = [
        _row(0.1, 0.1, "0", **base, task="a", configuration="old", date="1", source="1"),
        _row(0.2, 0.1, "0", **base, task="b", configuration="same", date="1", source="1"),
        _row(0.3, 0.1, "0", **base, task="a", configuration="new", date="2", source="2"),
    ]
    found = configurations(rows)
    assert {tuple(s.value for s in each.scores.values()) for each in found} == {
        (0.1, 0.2),
        (0.3, 0.2),
    }
    assert sorted(differences(found)) == ["configuration=new", "configuration=old"]


# -- the board -------------------------------------------------------------------------------------


def test_a_cell_has_value_error_documents_cost_and_file(runs):
    found = board(BASIC, runs / "cold", runs / "ar")
    cell = row_named(found, "tiny").cells["word"]
    (file,) = (runs / "cold").rglob("results_*.json")
    document = json.loads(file.read_text())
    scores, cost = document["results"]["demo_word_problem"], document["dlm_eval"]["cost"]
    assert cell.value == 100 * scores["exact_match,strict-match"]
    assert cell.stderr == 100 * scores["exact_match_stderr,strict-match"]
    assert cell.n == 6 and cell.seeds == 1 and cell.sources == (str(file),)
    spent = cost["demo_word_problem"]
    assert cell.forwards_per_token == pytest.approx(spent["forwards"] / spent["tokens"])
    assert cell.marks == ("n=6 of 60",)
    # a model of lm-eval has no count of forwards
    assert row_named(found, "tiny-ar").cells["word"].forwards_per_token is None


def test_parts_of_a_task_are_marked_or_refused(runs):
    assert len(board(BASIC, runs / "cold").rows) == 1
    refused = board(BASIC + "policy: {partial: refuse}", runs / "cold")
    assert refused.rows == ()
    assert any("choice" in note and "n=6 of 100" in note for note in refused.notes)


def test_a_whole_run_replaces_a_trial_of_the_same_configuration(runs, tmp_path):
    paths = [runs / "cold", runs / "ar", runs / "pseudo"]
    found = board(BASIC, *paths)
    whole = next(row for row in found.rows if row.cells["choice"].n == 100)
    assert "estimator=pseudo" in whole.label
    # A trial of that run, as a second file: no row of its own.
    (file,) = (runs / "pseudo").rglob("results_*.json")
    trial = json.loads(file.read_text())
    trial["n-samples"]["demo_choice"]["effective"] = 10
    (tmp_path / "results_t.json").write_text(json.dumps(trial))
    assert len(board(BASIC, *paths, tmp_path).rows) == len(found.rows)


def test_a_score_that_is_no_likelihood_is_marked_or_refused(runs):
    marked = board(BASIC, runs / "pseudo")
    assert marked.rows[0].cells["choice"].marks == ("a score, no likelihood",)
    assert board(BASIC + "policy: {score: refuse}", runs / "pseudo").rows == ()
    # exact likelihoods are not
    exact = board(BASIC, runs / "cold").rows[0].cells["choice"]
    assert exact.marks == ("n=6 of 100",)


def test_other_shots_and_settings_are_refused_or_marked(runs):
    shots = BASIC.replace("acc, chance: 0.25", "acc, shots: 5, chance: 0.25")
    found = board(shots, runs / "cold")
    assert "choice" not in found.rows[0].cells and "last" in found.rows[0].cells
    assert any("shots=0, not 5" in note for note in found.notes)
    marked = board(shots + "policy: {shots: mark}", runs / "cold")
    assert "shots=0, not 5" in marked.rows[0].cells["choice"].marks
    steps = BASIC.replace(
        "exact_match", "exact_match, require: {steps: 4, temperature: ['0.0', 0]}"
    )
    admitted = board(steps, runs / "cold", runs / "one", runs / "warm1")
    with_word = [row for row in admitted.rows if "word" in row.cells]
    (row,) = with_word
    assert "cold" in row.cells["word"].sources[0]
    assert sum("temperature=1.0, not 0.0 or 0" in note for note in admitted.notes) == 1


def test_averages_are_refused_over_missing_cells(runs):
    declared = (
        BASIC
        + """
averages:
  - {name: mean}
  - {name: normal, of: [choice, word], kind: chance_normalised}
"""
    )
    found = board(declared, runs / "cold", runs / "ar")
    row = row_named(found, "tiny")
    cells = [row.cells[name] for name in ("choice", "last", "word")]
    mean = row.cells["mean"]
    assert mean.value == pytest.approx(np.mean([cell.value for cell in cells]))
    assert mean.stderr == pytest.approx(math.sqrt(sum(cell.stderr**2 for cell in cells)) / 3)
    normal = ((cells[0].value - 25) / 0.75 + cells[2].value) / 2
    assert row.cells["normal"].value == pytest.approx(normal)
    assert mean.marks[0] == "choice: n=6 of 100"
    lone = board(declared, runs / "pseudo").rows[0]
    assert "mean" not in lone.cells and lone.missing["mean"] == "2 of 3 missing: last, word"
    assert "has no mean: 2 of 3 missing" in as_text(board(declared, runs / "pseudo"))


def test_an_average_over_other_units_is_refused(runs):
    declared = """
tasks:
  - {name: choice, task: demo_choice, metric: acc}
  - {name: perplexity, task: demo_last_word, metric: perplexity}
averages: {name: mean}
"""
    row = board(declared, runs / "cold").rows[0]
    assert "mean" not in row.cells and row.missing["mean"] == "not in percent: perplexity"


def test_best_within_one_standard_error(tmp_path):
    for name, value in (("a", 0.9), ("b", 0.88), ("c", 0.8)):
        _foreign(tmp_path, name, value)
    found = board("tasks: [{task: t, metric: acc}]", tmp_path)
    best = {row.label: row.cells["t (acc)"].best for row in found.rows}
    assert best == {"org/a": True, "org/b": True, "org/c": False}
    assert as_markdown(found).count("**") == 4
    assert as_latex(found).count(r"\textbf{") == 2
    lower = [{"value": 1.0}, {"value": 2.0}]
    for place, each in enumerate(lower):
        _foreign(tmp_path / "low", f"l{place}", each["value"], metric="ppl", higher=False)
    down = board("tasks: [{task: t, metric: ppl}]\norder: {by: t (ppl)}", tmp_path / "low")
    assert [(row.label, row.cells["t (ppl)"].best) for row in down.rows] == [
        ("org/l0", True), ("org/l1", False),
    ]  # fmt: skip


def _foreign(
    folder: Path, name: str, value: float, metric: str = "acc", higher: bool = True, **more: Any
) -> Path:
    """Writes a result file as lm-eval 0.4.13 alone writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "results": {"t": {"alias": "t", f"{metric},none": value, f"{metric}_stderr,none": 0.03}},
        "configs": {"t": {"output_type": "multiple_choice", "metric_list": [{"metric": metric}]}},
        "n-shot": {"t": 0}, "versions": {"t": 1.0}, "higher_is_better": {"t": {metric: higher}},
        "n-samples": {"t": {"original": 100, "effective": 100}},
        "config": {
            "model": "hf", "model_args": f"pretrained=org/{name}", "random_seed": 0,
            "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234,
        },
        "model_source": "hf", "model_name": f"org/{name}", "date": 1.7e9, "lm_eval_version": "0.4.13",
        **more,
    }  # fmt: skip
    path = folder / f"results_{name}{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(document))
    return path


def test_seeds_of_lm_evals_own_files_are_one_row(tmp_path):
    for seed in (1, 2):
        config = {
            "model": "vllm", "model_args": "pretrained=org/a", "random_seed": seed,
            "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234,
        }  # fmt: skip
        _foreign(tmp_path, "a", 0.5 + seed / 100, config=config)
    (row,) = board("tasks: [{task: t, metric: acc}]", tmp_path).rows
    cell = row.cells["t (acc)"]
    assert cell.seeds == 2 and cell.value == pytest.approx(51.5) and row.facts["model"] == "vllm"


# -- ranks -----------------------------------------------------------------------------------------


def test_ranks_resample_documents_together(runs):
    declared = BASIC + "ranks: {by: choice, draws: 500}"
    found = board(declared, runs / "cold", runs / "ar")
    ranked = {row.label: row.rank for row in found.rows}
    assert all(rank.paired for rank in ranked.values())
    same = board(declared, runs / "cold", runs / "masks")
    if len({row.cells["choice"].value for row in same.rows}) == 1:
        assert {(row.rank.rank, row.rank.tied) for row in same.rows} == {(1, True)}


def test_ranks_without_documents_are_drawn_from_standard_errors(tmp_path):
    for name, value in (("a", 0.9), ("b", 0.89), ("c", 0.5)):
        _foreign(tmp_path, name, value)
    found = board("tasks: [{name: t, task: t, metric: acc}]\nranks: {by: t}", tmp_path)
    ranked = {row.label: row.rank for row in found.rows}
    assert not any(rank.paired for rank in ranked.values())
    assert [ranked[f"org/{name}"].rank for name in "abc"] == [1, 1, 3]
    assert ranked["org/a"].tied and (ranked["org/a"].low, ranked["org/a"].high) == (1, 2)
    assert (ranked["org/c"].low, ranked["org/c"].high, ranked["org/c"].tied) == (3, 3, False)


def test_paired_ranks_tell_apart_what_unpaired_ones_cannot(tmp_path):
    """One row is right on every document of the other and on five more, of 200."""
    rng = np.random.default_rng(0)
    first = (rng.random(200) < 0.5).astype(float)
    second = first.copy()
    second[np.flatnonzero(first == 0)[:8]] = 1
    for name, values in (("a", first), ("b", second)):
        folder = tmp_path / name
        stderr = float(values.std(ddof=1) / math.sqrt(200))
        results = {"t": {"acc,none": float(values.mean()), "acc_stderr,none": stderr}}
        file = _foreign(folder, name, 0.5, results=results,
                        **{"n-samples": {"t": {"original": 200, "effective": 200}}})  # fmt: skip
        file = file.rename(folder / "results_2026.json")
        lines = [
            {"doc_id": i, "doc_hash": f"{i:064x}", "acc": v, "filter": "none", "metrics": ["acc"],
             "target": "0", "arguments": [], "resps": [], "filtered_resps": []}
            for i, v in enumerate(values)
        ]  # fmt: skip
        text = "\n".join(map(json.dumps, lines))
        (folder / "samples_t_2026.jsonl").write_text(text)
    declared = "tasks: [{name: t, task: t, metric: acc}]\nranks: {by: t}"
    ranked = {row.label: row.rank for row in board(declared, tmp_path).rows}
    assert ranked["org/b"].paired and (ranked["org/b"].rank, ranked["org/a"].rank) == (1, 2)
    for name in "ab":
        (tmp_path / name / "samples_t_2026.jsonl").unlink()
    ranked = {row.label: row.rank for row in board(declared, tmp_path).rows}
    assert {rank.rank for rank in ranked.values()} == {1}


def test_rows_that_show_one_score_are_tied(runs):
    """The likelihoods of `cold` and `one` are one score: nothing is between them."""
    declared = BASIC + "ranks: {by: choice, draws: 200}"
    found = board(declared, runs / "cold", runs / "one", runs / "ar")
    own = [row.rank for row in found.rows if row.facts["model"] == "tiny"]
    assert len(own) == 2 and own[0] == own[1] and own[0].tied


def test_ranks_of_nothing():
    assert ranks([], [], [1.0], 1, 10) == []


# -- published figures -----------------------------------------------------------------------------

LAMBADA = """
tasks: [{name: LAMBADA, task: lambada_diffullama, metric: exact_match}]
published: {paper: DiffuLLaMA, version: v3-type, table: Table 1, row: [model]}
cell: [stderr, deviation]
"""


def _lambada(
    folder: Path, value: float, n: int = 5153, checkpoint: str = "diffugpt-s", shots: int = 0
) -> None:
    document = {
        "results": {"lambada_diffullama": {"exact_match,none": value, "exact_match_stderr,none": 0.0058}},
        "configs": {"lambada_diffullama": {
            "output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}},
        "n-samples": {"lambada_diffullama": {"original": 5153, "effective": n}},
        "n-shot": {"lambada_diffullama": shots},
        "dlm_eval": {"settings": {"model": {
            "family": "diffugpt", "checkpoint": checkpoint, "pretrained": f"diffusionfamily/{checkpoint}"}}},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results_1.json").write_text(json.dumps(document))


def test_a_measured_score_stands_beside_its_published_one(tmp_path):
    _lambada(tmp_path, 0.2231)
    found = board(LAMBADA, tmp_path, published="yes")
    own = next(row for row in found.rows if row.kind == MEASURED).cells["LAMBADA"]
    printed = next(row for row in found.rows if row.kind == PUBLISHED and row.label == "DiffuGPT-S")
    assert printed.cells["LAMBADA"].text == "21.6" and own.published.printed == "21.6"
    stderr = math.hypot(0.0058, math.sqrt(0.216 * 0.784 / 5153))
    assert own.deviation == pytest.approx((0.2231 - 0.216) / stderr)
    # of the Table's rows, each is there once
    labels = [row.label for row in found.rows if row.kind == PUBLISHED]
    assert len(labels) == len(set(labels)) == 9


def test_no_deviation_of_a_trial_or_from_another_protocol(tmp_path):
    _lambada(tmp_path / "part", 0.2231, n=50)
    found = board(LAMBADA, tmp_path / "part", published="yes")
    cell = next(row for row in found.rows if row.kind == MEASURED).cells["LAMBADA"]
    assert cell.published is not None and cell.deviation is None and cell.marks
    _lambada(tmp_path / "shots", 0.2231, shots=3)
    found = board(LAMBADA, tmp_path / "shots", published="yes")
    cell = next(row for row in found.rows if row.kind == MEASURED).cells["LAMBADA"]
    assert cell.deviation is None and cell.marks == ("shots=3, published 0",)
    _lambada(tmp_path / "other", 0.5, checkpoint="sedd-small")
    entry = "rows: [{label: SEDD, match: {checkpoint: sedd-small}, published: {model: SEDD-S}}]"
    found = board(LAMBADA + entry, tmp_path / "other", published="yes")
    cell = next(row for row in found.rows if row.kind == MEASURED).cells["LAMBADA"]
    assert cell.published.protocol == "other" and cell.deviation is None


def test_one_of_several_figures_says_which_and_the_run_chooses_its_own(tmp_path):
    figures = [
        f for f in read_published(ROOT / "leaderboards" / "published.csv") if f.n and f.value
    ]
    first = next(f for f in figures if f.dlm_task == "lambada_diffullama" and f.checkpoint)
    other = replace(first, value=99.0, printed="99.0", setting="shots=3", line=first.line + 1)
    _lambada(tmp_path, 0.99, shots=3)
    declared = board_of(yaml.safe_load(LAMBADA))
    files = [read_result_file(tmp_path / "results_1.json", "r")]
    made = make_board(declared, files, [first, other])
    measured = next(row for row in made.rows if row.kind == MEASURED).cells["LAMBADA"]
    assert measured.published == other and measured.deviation is not None
    printed = next(row for row in made.rows if row.kind == PUBLISHED).cells["LAMBADA"]
    assert printed.published == first and "one of 2 figures" in printed.marks[-1]


@pytest.mark.parametrize(
    ("name", "row"),
    [("diffullama_table1", "tiny"), ("llada21", "tiny"), ("demo", "tiny"), ("d1", "128 tokens")],
)
def test_committed_boards_can_be_made(name, row, tmp_path):
    path = ROOT / "leaderboards" / f"{name}.yaml"
    found = read_board(path, [ROOT / "leaderboards" / "demo", ROOT / "leaderboards" / "measured"])
    assert any(row.kind == MEASURED for row in found.rows)
    assert (name == "demo") == all(row.kind == MEASURED for row in found.rows)
    for text in (as_text(found), as_markdown(found), as_latex(found)):
        assert row in text


def test_recorded_answers_stand_beside_the_figures_of_their_authors():
    """d1's counts on its own recorded answers round to its printed figures; of GSM8K it published
    1130 of 1319 answers.
    """
    found = read_board(ROOT / "leaderboards" / "d1.yaml", [ROOT / "leaderboards" / "measured"])
    rows = {(row.label, row.kind): row.cells for row in found.rows}
    assert [label for label, kind in rows if kind == MEASURED] == ["128 tokens", "256 tokens"]
    counts = {"128 tokens": (783, 130, 53, 240), "256 tokens": (863, 162, 50, 137)}
    for label, right in counts.items():
        measured, printed = rows[label, MEASURED], rows[label, PUBLISHED]
        for column, n, k in zip(measured, (1130, 500, 256, 2048), right, strict=True):
            cell = measured[column]
            assert cell.value == pytest.approx(100 * k / n) and not cell.marks
            if column == "GSM8K":
                assert 0 < abs(cell.deviation) < 1
            else:
                assert f"{cell.value:.1f}" == printed[column].text


def test_committed_tables_are_those_of_the_committed_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("diffullama_table1", "llada21", "d1", "demo"):
        path = Path("leaderboards")
        paths = [path / "demo"] if name == "demo" else [path / "measured"]
        text = as_markdown(read_board(path / f"{name}.yaml", paths))
        assert (path / f"{name}.md").read_text() == text


def test_llada21_has_score_and_tokens_per_forward_in_every_cell_of_a_diffusion_model():
    found = read_board(ROOT / "leaderboards" / "llada21.yaml", [ROOT / "leaderboards" / "measured"])
    rows = [row for row in found.rows if row.kind == PUBLISHED and "LLaDA" in row.label]
    assert [row.label for row in rows] == [
        "LLaDA2.0-flash", "LLaDA2.1-flash mode=S", "LLaDA2.1-flash mode=Q",
        "LLaDA2.0-mini", "LLaDA2.1-mini mode=S", "LLaDA2.1-mini mode=Q",
    ]  # fmt: skip
    cells = [cell for row in rows for cell in row.cells.values()]
    assert len(cells) == 6 * 34 and all(cell.tokens_per_forward for cell in cells)
    assert row_named(found, "LLaDA2.1-flash mode=S").cells["GPQA diamond"].text == "66.67"
    assert (
        row_named(found, "LLaDA2.1-flash mode=S").cells["GPQA diamond"].tokens_per_forward == 3.95
    )


# -- the file of a board ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("taks: []", "key 'taks' is not known; did you mean 'tasks'?"),
        ("tasks: [{task: t, metrc: acc}]", "tasks 1: key 'metrc' is not known; did you mean 'metric'?"),
        ("tasks: [{task: t}]", "tasks 1 needs `task` and `metric`"),
        ("tasks: []", "tasks is missing or empty"),
        ("[1]", "must be keys with values"),
        ("tasks: 3", "tasks 1 '3' is not allowed; it must be keys with values"),
        ("tasks: [{task: t, metric: acc, shots: many}]", "shots 'many' is not allowed; it must be a number"),
        ("tasks: [{task: t, metric: acc, shots: 1.5}]", "shots '1.5' is not allowed; it must be a whole"),
        ("tasks: [{task: t, metric: acc, chance: 1}]", "chance '1.0' is not allowed"),
        ("tasks: [{task: t, metric: acc, chance: .nan}]", "chance 'nan' is not allowed"),
        ("tasks: [{task: t, metric: acc}]\npolicy: {partal: mark}", "did you mean 'partial'?"),
        ("tasks: [{task: t, metric: acc}]\npolicy: {partial: marc}", "did you mean 'mark'?"),
        ("tasks: [{task: t, metric: acc}]\ncell: [stder]", "did you mean 'stderr'?"),
        ("tasks: [{task: t, metric: acc}]\ncolumns: [modle]", "did you mean 'model'?"),
        ("tasks: [{task: t, metric: acc}]\norder: {by: t}", "order: by 't' is not known"),
        ("tasks: [{task: t, metric: acc}]\nranks: {by: mean}", "ranks: by 'mean' is not known"),
        ("tasks: [{task: t, metric: acc}]\naverages: {name: a, of: [x]}", "of 'x' is not known"),
        (
            "tasks: [{name: t, task: t, metric: acc}]\naverages: {name: a, kind: chance_normalised}",
            "task 't' needs its `chance`",
        ),
        ("tasks: [{name: t, task: t, metric: acc}, {name: t, task: u, metric: acc}]", "the name 't'"),
        ("tasks: [{task: t, metric: acc}]\npublished: {papr: x}", "did you mean 'paper'?"),
        ("tasks: [{task: t, metric: acc}]\nrows: [{label: x}]", "needs `label`, and `match`"),
        ("tasks: [{task: t, metric: [[acc]]}]", "must be text or a number"),
        ("tasks: [{task: t, metric: acc}]\norder: {by: t (acc), descending: 3}", "must be true or"),
        ("tasks: [{task: t, metric: acc}]\norder: {descending: true}", "needs `by`"),
        ("tasks: [{task: t, metric: acc}]\nranks: {draws: 500}", "ranks needs `by`"),
        ("tasks: [{task: t, metric: acc}]\nranks: {by: t (acc), draws: 3}", "from 100 to 100000"),
        ("tasks: [{task: demo_choice, metric: ac}]", "metric 'ac' is not known; did you mean 'acc'?"),
        (
            "tasks: [{task: demo_word_problem, metric: exact_match, filter: strict}]",
            "filter 'strict' is not known; did you mean 'strict-match'?",
        ),
        (
            "tasks: [{task: demo_choice, metric: acc, require: {estimtor: auto}}]",
            "require 'estimtor' is not known; did you mean 'estimator'?",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line(document, message, tmp_path, capsys):
    path = tmp_path / "b.yaml"
    path.write_text(document)
    assert main(["leaderboard", str(ROOT / "leaderboards" / "demo"), "--board", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and str(path) in line


def test_published_figures_that_are_not_there(tmp_path):
    start = "tasks: [{name: x, task: t, metric: acc}]\n"
    with pytest.raises(UserError, match="no figure has paper DiffuLLaMA, table Tabel 1"):
        board(start + "published: {paper: DiffuLLaMA, table: Tabel 1}", tmp_path, published="yes")
    with pytest.raises(UserError, match="row 'mod' is not known; did you mean 'mode'"):
        board(start + "published: {paper: LLaDA2.1, row: [model, mod]}", tmp_path, published="yes")
    path = tmp_path / "b.yaml"
    path.write_text(start + "published: {paper: x}")
    with pytest.raises(UserError, match="no '.*published.csv'"):
        read_board(path, [tmp_path])


def test_a_board_that_cannot_be_read(tmp_path):
    for make in (lambda p: None, lambda p: p.mkdir(), lambda p: p.write_bytes(b"\xff"),
                 lambda p: p.write_text("a: 1\na: 2"), lambda p: p.write_text("x" * (2 << 20))):  # fmt: skip
        path = tmp_path / f"b{len(list(tmp_path.iterdir()))}.yaml"
        make(path)
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_board_file(path)


def test_the_documented_example_is_a_board():
    text = (ROOT / "docs" / "guides" / "leaderboards.md").read_text()
    block = "title: My board" + text.partition("title: My board")[2].partition("```")[0]
    found = board_of(yaml.safe_load(block))
    assert [column.name for column in found.columns] == ["GSM8K", "ARC-C"]
    assert found.columns[1].require == {"dtype": ("bfloat16",), "estimator": ("auto", "exact")}
    assert set(found.cell) == set(PARTS) and found.rank == "mean"


def test_a_row_that_matches_by_no_known_setting(runs):
    entry = "rows: [{label: x, match: {stepps: 4}}]"
    with pytest.raises(
        UserError, match=r"row 'x': match 'stepps' is not known; did you mean 'steps'"
    ):
        board(BASIC + entry, runs / "cold")


def test_named_rows_come_first_and_others_can_be_left_out(runs):
    entry = "rows: [{label: one step, match: {steps: 1}}, {label: AR, match: {model: hf*}}]\n"
    found = board(BASIC + entry, runs / "cold", runs / "one", runs / "ar")
    assert [row.label for row in found.rows][:2] == ["one step", "AR"] and len(found.rows) == 3
    found = board(BASIC + entry + "others: leave_out", runs / "cold", runs / "one", runs / "ar")
    assert [row.label for row in found.rows] == ["one step", "AR"]


def test_a_row_without_entry_is_told_from_those_with_one(runs):
    entry = "rows: [{label: My run, match: {steps: 1}}]\n"
    found = board(BASIC + entry, runs / "cold", runs / "one")
    assert [row.label for row in found.rows] == ["My run", "tiny steps=4"]


# -- formats ---------------------------------------------------------------------------------------


def test_output_by_its_name(runs, tmp_path, capsys):
    declared = tmp_path / "b.yaml"
    declared.write_text(BASIC)
    command = ["leaderboard", str(runs / "cold"), str(runs / "ar"), "--board", str(declared)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "tiny-ar" in shown and "n=6 of 100" in shown
    assert main([*command, "-o", str(tmp_path / "out" / "all")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["all.csv", "all.html", "all.md", "all.tex", "all_wide.csv"]
    assert main([*command, "-o", str(tmp_path / "x.markdown")]) == 2
    assert "suffix '.markdown' is not known" in capsys.readouterr().err
    assert main([*command, "-o", ""]) == 2  # as of a shell's variable that is not set
    assert "--output is empty" in capsys.readouterr().err
    long = pandas.read_csv(tmp_path / "out" / "all.csv")
    assert tuple(long.columns) == (*COLUMNS, "board_row", "board_column", "board_kind", "marks")
    assert len(long) == 6 and set(long["board_row"]) == {"tiny", "tiny-ar"}
    table = pandas.read_csv(tmp_path / "out" / "all_wide.csv")
    assert list(table.columns)[:8] == [
        "model", "checkpoint", "revision", "setting", "demo_choice (acc)", "demo_last_word (acc)",
        "demo_word_problem (exact_match)", "kind",
    ]  # fmt: skip
    found = board(BASIC, runs / "cold", runs / "ar")
    assert table["demo_choice (acc)"].iloc[0] == round(found.rows[0].cells["choice"].value, 2)


def test_without_a_board_every_headline_score_is_a_column(runs, tmp_path, capsys):
    for suffix in (".md", ".tex", ".html"):
        assert main(["leaderboard", str(runs / "cold"), "-o", str(tmp_path / f"x{suffix}")]) == 0
    header = (tmp_path / "x.md").read_text().splitlines()[0]
    names = [r"demo\_choice (acc)", r"demo\_last\_word (perplexity)", r"demo\_word\_problem (exact\_match)"]  # fmt: skip
    assert [name for name in names if name in header] == names
    capsys.readouterr()
    assert main(["leaderboard", str(runs / "cold"), "-o", str(tmp_path / "x")]) == 2
    assert "must end in .csv, .md, .tex or .html" in capsys.readouterr().err


HOSTILE = [    "=HYPERLINK(1)", "a|b", "<script>alert(1)</script>", "**x** `y` [z](http://e.com)", r"\input{/etc/passwd}",
    "100% $x$ & #1_2 ^~", "a\x1b[31m\nb\u202e", "x" * 5000, "&lt;b&gt;", "--flag ``q''",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_files_are_escaped(text, tmp_path):
    config = {"model": text, "model_args": {"pretrained": text}, "random_seed": 0}
    _foreign(tmp_path, "h", 0.5, config=config)
    found = board(
        "tasks: [{name: t, task: t, metric: acc}]\ncolumns: [model, checkpoint]", tmp_path
    )
    lines = as_markdown(found).splitlines()
    for line in lines[:3]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 5, line  # four cells
    assert not re.search(
        r"(?<!\\)[<>`\[]", "\n".join(lines).replace("<sup>", "").replace("</sup>", "")
    )
    assert not re.search(r"https?:", "\n".join(lines))
    tex = as_latex(found)
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    (row,) = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(re.findall(r"(?<!\\)&", row)) == 3
    assert not re.search(r"(?<!\\)[%#$_]", re.sub(r"\$\\(pm|hookleftarrow)\$", "", row))
    assert set(re.findall(r"\\([a-zA-Z]+)", row)) <= {
        "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar",
        "textquotedbl", "textasciigrave", "textquotesingle", "pm", "hookleftarrow",
    }  # fmt: skip
    records = list(csv.reader(io.StringIO(as_wide_csv(found))))
    assert len(records) == 2 and not any(cell[:1] in ("=", "+", "-", "@") for cell in records[1])
    for shown in (as_text(found), as_markdown(found), tex, as_wide_csv(found)):
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", shown)
        assert max(map(len, shown.splitlines())) < 6000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_pdflatex_compiles_hostile_names(tmp_path):
    names = [*HOSTILE, "50%_a & b #1 \\ ^ ~ {y}", "→ ← ⇒ ↔ ≤ ≥ × é ü Ω α 10 µs", "<<a>> ,,b'' --c ?`!` ``y''", "[x]"]  # fmt: skip
    for number, text in enumerate(names):
        config = {"model": text, "model_args": {"pretrained": text}, "random_seed": number}
        _foreign(tmp_path, str(number), 0.5, config=config)
    found = board(
        "title: 100% & _all_\nnotes: '# ~ ^ \\ ⇒'\ncolumns: [model]\n"
        "tasks: [{name: '[t]_%&#~^', task: t, metric: acc, note: a_b}]",
        tmp_path,
    )
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{as_latex(found)}\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout


def test_numbers_from_files_are_checked(tmp_path):
    odd = {
        "a": (1e308, 1e308),
        "b": (float("nan"), 0.1),
        "c": (float("inf"), -1),
        "d": (0.5, float("nan")),
    }
    for name, (value, stderr) in odd.items():
        for seed in (1, 2):
            config = {"model": "hf", "model_args": f"pretrained=org/{name}", "random_seed": seed}
            results = {"t": {"acc,none": value, "acc_stderr,none": stderr}}
            _foreign(tmp_path, name, 0.5, config=config, results=results)
    found = board("tasks: [{name: t, task: t, metric: acc}]\nranks: {by: t}", tmp_path)
    assert {row.label for row in found.rows if "t" in row.cells} == {"org/d"}
    assert all("score is" in row.missing["t"] for row in found.rows if row.label != "org/d")
    for write in (as_text, as_markdown, as_latex, as_wide_csv, as_long_csv):
        assert "org/d" in write(found).replace(r"\_", "_")
    assert len(wide(leaderboard([tmp_path]))) == 4


def test_labels_from_files_are_bounded_and_escaped(tmp_path):
    document = {
        "results": {"t": {"acc,none": 0.5}},
        "dlm_eval": {
            "label": "=cmd|'/c calc'!A1 " + "y" * 9999,
            "settings": {"model": {"family": "f"}},
        },
    }
    found = rows_of(Content(document), "s")
    assert len(found.rows[0].label) < 600
    (tmp_path / "results_1.json").write_text(json.dumps(document))
    shown = board("tasks: [{name: t, task: t, metric: acc}]", tmp_path)
    assert next(csv.reader(io.StringIO(as_wide_csv(shown).split("\n")[1])))[3].startswith("'=cmd")


def test_many_hostile_settings_end_soon(tmp_path):
    """Scores that differ in everything make as many rows."""
    rows = [
        _row(0.5, 0.1, str(i), model="m", setup="s", kind="likelihood", options=f"a={i},b={-i}; ",
             configuration=str(i), source=str(i), date=str(i))
        for i in range(400)
    ]  # fmt: skip
    found = configurations(rows)
    assert len(found) == 400 and len(set(differences(found))) == 400


def test_files_of_a_board_are_known_by_their_suffix(runs):
    found = board(BASIC, runs / "cold")
    assert set(files_of(found, Path("x.csv"))) == {Path("x.csv"), Path("x_wide.csv")}
    assert set(files_of(found, Path("x.md"))) == {Path("x.md")}


def test_a_label_is_kept_with_the_results_and_changes_no_digest(runs):
    (file,) = (runs / "masks").rglob("results_*.json")
    document = json.loads(file.read_text())
    assert document["dlm_eval"]["label"] == "by masks | =1"
    assert "label" not in document["dlm_eval"]["settings"]
    with pytest.raises(UserError, match="--label has 81 characters"):
        evaluate("tiny", ["demo_choice"], label="x" * 81)
    with pytest.raises(UserError, match="--label is empty"):
        evaluate("tiny", ["demo_choice"], label="")

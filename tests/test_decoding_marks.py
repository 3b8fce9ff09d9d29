"""What tables say of decoding: an approximate cache, a length that was not told, the positions that were computed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
import yaml

from dlm_eval.cli import main
from dlm_eval.harness.suite_run import plan_suite, run_suite
from dlm_eval.reports.board.leaderboard import leaderboard, wide
from dlm_eval.reports.files.row import WITHOUT_LENGTH
from dlm_eval.reports.run import suite_report

D2 = "gen_length=8,cache=d2,current_k=2"
CACHE = "approximate cache d2"
GROUP = """group: both
task: [one, two]
aggregate_metric_list:
- {metric: exact_match, aggregation: mean, weight_by_size: true, filter_list: [strict-match]}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a group of two tasks: without a cache, with an approximate one, and with DAEDAL."""
    folder = tmp_path_factory.mktemp("marks")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "both.yaml").write_text(GROUP)
    home = Path(__file__).resolve().parents[1] / "task_configs/demo/demo_word_problem.yaml"
    for name in ("one", "two"):
        (tasks / f"{name}.yaml").write_text(f"include: {home}\ntask: {name}\n")
    run = ["run", "--model", "tiny", "--include_path", str(tasks), "--tasks", "both"]
    run += ["--limit", "2", "--device", "cpu"]
    for name, decode in (
        ("plain", "gen_length=8"),
        ("d2", D2),
        ("daedal", "strategy=daedal,max_gen_length=12,gen_length=8"),
    ):
        assert main([*run, "-o", str(folder / name), "--decode", decode]) == 0
    return folder


def test_a_group_is_marked_as_its_tasks_are(runs: Path) -> None:
    long = leaderboard([runs / "plain", runs / "d2", runs / "daedal"])
    group = long[long["task"] == "both"]
    assert sorted(group["approximation"].dropna()) == [CACHE]
    assert group["finds_length"].dropna().tolist() == ["yes"]


def test_the_table_of_a_run_marks_its_groups(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--model", "tiny", "--include_path", str(runs / "tasks"), "--tasks", "both"]
    run += ["--limit", "1", "--device", "cpu", "-o", str(tmp_path), "--decode"]
    assert main([*run, D2]) == 0
    assert f"| both ({CACHE})" in capsys.readouterr().out
    assert main([*run, "strategy=daedal,max_gen_length=12,gen_length=8"]) == 0
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if line.startswith("| both "))
    assert WITHOUT_LENGTH in shown and row.split("|")[-2].strip() == "yes"


def test_the_long_table_counts_computed_positions(runs: Path) -> None:
    long = leaderboard([runs / "plain", runs / "d2"])
    one = long[long["task"] == "one"].set_index("approximation", drop=False)
    cached = one[one["approximation"].notna()]["computed_per_sample"].item()
    whole = one[one["approximation"].isna()]["computed_per_sample"].item()
    assert 0 < cached < whole and one["forwards_per_sample"].nunique() == 1
    for name, found in (("d2", cached), ("plain", whole)):
        (file,) = (runs / name).rglob("results_*.json")
        cost = json.loads(file.read_text())["dlm_eval"]["cost"]["one"]
        assert found == cost["computed_tokens"] / cost["samples"]
    assert WITHOUT_LENGTH not in " ".join(wide(long)["setting"])


def test_compare_says_what_caches_and_lengths_change(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs / "plain"), str(runs / "d2")]) == 0
    shown = capsys.readouterr().out
    assert "computed B / A" in shown and CACHE in shown and "was told" not in shown
    assert main(["compare", str(runs / "plain"), str(runs / "daedal")]) == 0
    shown = capsys.readouterr().out
    told = (
        "the decoder was told the length of the text in the first run, and not told in the second"
    )
    assert f"one: {told}" in shown and f"both: {told}" in shown
    saved = runs / "daedal.baseline.gz"
    assert main(["baseline", "save", str(runs / "daedal"), "-o", str(saved)]) == 0
    capsys.readouterr()
    assert main(["compare", str(saved), str(runs / "daedal")]) == 0
    assert "told the length" not in capsys.readouterr().out


def test_boards_and_exports_name_them(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(runs / name) for name in ("plain", "d2", "daedal")]
    board = tmp_path / "b.yaml"
    board.write_text("tasks:\n- {name: words, task: one, metric: exact_match}\n")
    assert main(["leaderboard", *folders, "--board", str(board)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert sorted((CACHE in row, WITHOUT_LENGTH in row) for row in rows) == [
        (False, False), (False, True), (True, False),
    ]  # fmt: skip
    assert main(["export", "json", *folders, "-o", str(tmp_path / "all.json")]) == 0
    found = json.loads((tmp_path / "all.json").read_text())
    assert all(
        each["computed"] > 0 for each in pandas.DataFrame(found["samples"]).to_dict("records")
    )


def test_the_hub_is_told(tmp_path: Path) -> None:
    run = ["run", "--model", "tiny", "--tasks", "demo_word_problem", "--device", "cpu"]
    run += [
        "-o",
        str(tmp_path / "run"),
        "--decode",
        "strategy=daedal,max_gen_length=6,gen_length=4",
    ]
    assert main(run) == 0
    words = ["export", "hf-eval-results", str(tmp_path / "run"), "-o", str(tmp_path / "hub")]
    assert main([*words, "--dataset", "demo_word_problem=a/b"]) == 0
    (file,) = (tmp_path / "hub").rglob("*.yaml")
    (entry,) = yaml.safe_load(file.read_text())
    assert f"{WITHOUT_LENGTH} yes" in entry["notes"]
    assert "computed positions per sample" in entry["notes"]


def test_a_suite_names_an_approximate_cache(tmp_path: Path) -> None:
    words = D2.replace("=", ": ").replace(",", ", ")
    entry = f"{{entry: cached, task: demo_word_problem, metric: exact_match, decode: {{{words}}}}}"
    (tmp_path / "mine.yaml").write_text(f"suite: mine\nmodels: [tiny]\nentries:\n- {entry}\n")
    plan = plan_suite({"suite": str(tmp_path / "mine.yaml"), "limit": 2, "verbosity": "ERROR"})
    assert CACHE in "\n".join(suite_report.lines(run_suite(plan)))


def test_a_sweep_names_a_cache_of_all_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--model", "tiny", "--tasks", "demo_word_problem", "--limit", "2"]
    words += ["--device", "cpu", "-o", str(tmp_path), "--decode", "steps=4", "--decode_fixed", D2]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"one token per step ({CACHE})" in shown and f"steps=4 ({CACHE})" in shown
    assert set(pandas.read_csv(tmp_path / "sweep.csv")["approximation"]) == {CACHE}

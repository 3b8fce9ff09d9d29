"""Tables say which decoders were not told how long the text is."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.cli import main
from dlm_eval.decoding import resolve
from dlm_eval.decoding.strategy import STRATEGIES
from dlm_eval.harness.decode_config import DecodeOptions, DecodePlans
from dlm_eval.harness.requests import HOLE, Hole, Length
from dlm_eval.harness.suite_run import plan_suite, run_suite
from dlm_eval.models import load_model
from dlm_eval.reports.board.leaderboard import leaderboard, wide
from dlm_eval.reports.run import suite_report

WORDS = "without being told the length"
DAEDAL = "strategy=daedal,max_gen_length=24,gen_length=8"


def test_which_strategies_find_the_length() -> None:
    found = {
        name
        for name, cls in STRATEGIES.listed().items()
        if not isinstance(cls, str) and cls.finds_length
    }
    assert found == {"daedal", "var_generate", "joint_threshold_indel", "d2f", "rho_eos"}


@pytest.mark.parametrize(
    ("decode", "fixed", "oracle"),
    [
        ({"strategy": "daedal", "max_gen_length": 24}, True, False),
        ({"strategy": "var_generate", "block_length": 8}, True, False),
        ({"strategy": "confidence"}, False, False),
        ({"strategy": "confidence", "lengths": (4, 8)}, True, True),  # neither is the hole's
    ],
)
def test_an_oracle_length_is_told_to_every_strategy(
    decode: dict[str, Any], fixed: bool, oracle: bool
) -> None:
    plans = DecodePlans(DecodeOptions(user=decode), load_model("toy"))
    for hole, told in ((Hole(Length(8)), fixed), (Hole(Length(), references=("x",)), oracle)):
        ask = plans.ask({HOLE: hole}, "t")
        assert plans.plan(ask, 8).described["finds_length"] is told
    assert resolve(decode).finds_length(True) is fixed


def test_tables_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--model", "tiny", "--tasks", "demo_word_problem", "--limit", "2", "--device", "cpu"]
    shown = {}
    for name, decode in (("found", DAEDAL), ("told", "gen_length=8,steps=4")):
        words = ["--decode", decode, "-o", str(tmp_path / name)]
        assert main(["run", *run, *words]) == 0
        shown[name] = capsys.readouterr().out
    line = next(each for each in shown["found"].splitlines() if "demo_word_problem" in each)
    assert WORDS in shown["found"] and line.split("|")[-2].strip() == "yes"
    assert WORDS not in shown["told"]

    rows = leaderboard([tmp_path / "found", tmp_path / "told"])
    marked = {
        row["strategy"]: row["finds_length"] for row in rows[rows["headline"]].to_dict("records")
    }
    assert marked == {"daedal": "yes", "confidence": None}
    settings = wide(rows)["setting"].tolist()
    assert sorted(WORDS in setting for setting in settings) == [False, True]

    board = tmp_path / "b.yaml"
    board.write_text(
        "columns: [finds_length]\ntasks:\n- {name: words, task: demo_word_problem, metric: exact_match}\n"
    )
    folders = [str(tmp_path / "found"), str(tmp_path / "told")]
    assert main(["leaderboard", *folders, "--board", str(board)]) == 0
    lines = [each for each in capsys.readouterr().out.splitlines() if each.startswith("tiny")]
    assert sorted(("yes" in each, WORDS in each) for each in lines) == [
        (False, False),
        (True, True),
    ]


def test_a_suite_says_it(tmp_path: Path) -> None:
    entry = "{entry: %s, task: demo_word_problem, metric: exact_match, scale: 1, decode: {%s}}"
    daedal = DAEDAL.replace("=", ": ").replace(",", ", ")
    file = tmp_path / "mine.yaml"
    entries = [entry % ("found", daedal), entry % ("told", "gen_length: 8")]
    file.write_text(
        "suite: mine\nmodels: [tiny]\nentries:\n" + "".join(f"- {e}\n" for e in entries)
    )
    plan = plan_suite({"suite": str(file), "limit": 3, "verbosity": "ERROR"})
    table = next(part for part in suite_report.lines(run_suite(plan)) if WORDS in part)
    rows = {cells[1].strip(): cells for line in table.splitlines() if (cells := line.split("|"))}
    assert rows["found"][-2].strip() == rows["found"][3].strip() != ""
    assert rows["told"][-2].strip() == ""


def test_a_sweep_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "--model", "tiny", "--tasks", "demo_word_problem", "--limit", "2"]
    grids = ["--decode", "strategy=daedal", "max_gen_length=24", "--decode", "steps=4"]
    fixed = ["--decode_fixed", "gen_length=8", "-o", str(tmp_path), "--device", "cpu"]
    assert main([*command, *grids, *fixed]) == 0
    assert WORDS in capsys.readouterr().out
    with (tmp_path / "sweep.csv").open(newline="") as file:
        found = {
            row["decode.strategy"] or row["role"]: row["finds_length"]
            for row in csv.DictReader(file)
        }
    assert found == {"baseline": "", "daedal": "yes", "point": ""}

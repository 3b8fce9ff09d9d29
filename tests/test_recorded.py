"""`--model recorded`: answers of other harnesses and papers are scored like a run's.

The verdicts of d1's parsers were recorded by running its code (dllm-reasoning/d1,
eval/parse_and_get_acc.py, commit 837888f) on the texts below. On 16 000 mutated answers of
../shared/data/local/d1_llada (seed 1) ours and theirs did not differ.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.harness.run import run
from dlm_eval.harness.run_settings import run_settings
from dlm_eval.metrics import d1
from dlm_eval.reports.board.make import read_board
from dlm_eval.reports.board.published import COLUMNS

PUZZLE = "Solve the following Sudoku puzzle: 4320004330100004\n"
GSM8K = [
    ("\\boxed{18}", 1),
    ("\\boxed{...} \\boxed{18 apples}", 1),
    ("\\boxed{17} \\boxed{18}", 0),
    ("\\boxed{eggs} \\boxed{18}", 1),
    ("<answer>3 + 15 = 18</answer>", 1),
    ("<answer>18 of 20</answer>", 0),
    ("\\boxed{\\text{18}}", 1),
    ("\\boxed{1_8}", 1),
    ("\\boxed{$18.00}", 1),
    ("\\boxed{}<answer>18</answer>", 1),
    ("18", 0),
    ("\\boxed{1,018}", 0),
    ("\\boxed{-18}", 0),
    ("\\boxed{\n18}", 0),
]
MATH = [
    ("\\boxed{\\frac{1}{2}}", 1),
    ("\\boxed{1/2}", 1),
    ("\\boxed{0.5}", 1),
    ("\\boxed{.5}", 1),
    ("\\boxed{\\dfrac12}", 1),
    ("\\boxed{x=\\frac12}", 1),
    ("1/2", 1),
    ("\\boxed 1/2$", 1),
    ("\\boxed{\\frac{1}{2}", 0),
    ("<answer>1/2</answer> \\boxed{", 1),
    ("\\boxed{}<answer>1/2</answer>", 1),
    ("\\fbox{1/2}", 0),
    ("\\boxed{50\\%}", 0),
    ("\\boxed{\\frac{1}{2}\\text{ m}}", 1),
    ("\\boxed{\\frac{2}{4}}", 0),
]
COUNTDOWN = [
    ("\\boxed{5+3-7}", 1),
    ("\\boxed{5 + 3 - 7 = 1}", 1),
    ("\\boxed{(5+3)-7}", 1),
    ("\\boxed{5+3-7+0}", 0),
    ("5+3-7", 1),
    ("<answer>5+3-7</answer>\\boxed{", 1),
    ("\\boxed{7-5-3}", 0),
    ("\\boxed{5\\times3-7}", 0),
    ("\\boxed{3**(7-5)}", 0),
    ("\\boxed{5 \\text{+} 3-7}", 0),
    ("\\boxed{3*5//7}", 0),
    ("\\boxed{05+3-7}", 0),
    ("\\boxed{5+3-7.0}", 0),
]
SUDOKU = [  # cells of eight
    ("<answer>\n4321124334122134\n</answer>", 8),
    ("<answer>4321 1243\n3412 2134</answer>", 8),
    ("4321124334122134", 8),
    ("<answer></answer>4321124334122134", 8),
    ("<answer>```\n4321124334122134```", 8),
    ("<answer>4321</answer>", 1),
    ("<answer>4321124334122134", 8),
    ("<answer>43211243341221349999</answer>", 8),
    ("x 4321124334122134 </answer>", 8),
    ("<answer>The grid is 4321124334122134</answer>", 3),
    ("<answer>1111111111111111</answer>", 3),
]


@pytest.mark.parametrize(("text", "right"), GSM8K)
def test_gsm8k_as_d1_scores_it(text: str, right: int) -> None:
    assert d1.gsm8k_results({"ground_truth": 18.0}, [text]) == {"exact_match": right}
    assert d1.gsm8k_results({"ground_truth": None}, [text]) == {"exact_match": 0}


@pytest.mark.parametrize(("text", "right"), MATH)
def test_math_as_d1_scores_it(text: str, right: int) -> None:
    assert d1.math_results({"ground_truth": "\\frac{1}{2}"}, [text]) == {"exact_match": right}


@pytest.mark.parametrize(("text", "right"), COUNTDOWN)
def test_countdown_as_d1_scores_it(text: str, right: int) -> None:
    doc = {"numbers": [3, 5, 7], "target": 1}
    assert d1.countdown_results(doc, [text]) == {"exact_match": right}


@pytest.mark.parametrize(("text", "cells"), SUDOKU)
def test_sudoku_as_d1_scores_it(text: str, cells: int) -> None:
    doc = {"question": PUZZLE, "ground_truth": "4321124334122134"}
    assert d1.sudoku_results(doc, [text]) == {"cell_acc": cells / 8}


HOSTILE = {
    "answer tags": "<answer>" * 125_000,
    "fences": ("<answer>" * 1000 + "```1") * 100,
    "boxes that do not close": "\\boxed{" * 140_000,
    "boxes": "\\boxed{.}" * 110_000,
    "digits": "9" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_is_read_once(name: str) -> None:
    """Each of d1's parsers took minutes for one of these texts."""
    text = HOSTILE[name]
    begun = time.process_time()
    assert d1.gsm8k_answer(text) is None
    assert d1.countdown_results({"numbers": [1], "target": 1}, [text]) == {"exact_match": 0}
    d1.sudoku_answer(text)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9**9", "(" * 900 + "1" + ")" * 900, "-" * 1999 + "1", "1/0", "1//0", "5 5", "2(3)", "()", "...",
        "__import__('os')", "1" * 3000, "9**-9**9", "",
    ],
)  # fmt: skip
def test_an_expression_without_a_value_costs_nothing(expression: str) -> None:
    assert d1.value_of(expression) is None


def test_the_value_of_an_expression_is_pythons() -> None:
    for expression in ("7-(3+5)", "2**3", "7//2", "7/2", "-3 + +4", "(1.5)*2", "-2**2", "10-2-3"):
        assert d1.value_of(expression) == eval(expression)  # noqa: S307  (our own text)


RIGHT = {
    "gsm8k": (783, 863, 1130),
    "math500": (130, 162, 500),
    "countdown": (53, 50, 256),
    "sudoku": (240, 137, 2048),
}
SCORERS = {
    "gsm8k": d1.gsm8k_results,
    "math500": d1.math_results,
    "countdown": d1.countdown_results,
    "sudoku": d1.sudoku_results,
}


@pytest.mark.parametrize("task", RIGHT)
def test_d1s_counts_are_reproduced(shared: Path, task: str) -> None:
    folder = shared / "data" / "local" / "d1_llada"
    short, long, count = RIGHT[task]
    file = folder / f"{task}_128" / "test.jsonl"
    scores = finished(f"answers={file},match=question,text=generation", f"{task}_d1")
    metric = "cell_acc" if task == "sudoku" else "exact_match"
    assert scores["results"][f"{task}_d1"][f"{metric},none"] * count == pytest.approx(short)
    assert scores["dlm_eval"]["environment"]["device"] == "recorded"

    file = folder / f"{task}_256" / "test.jsonl"  # the scorer alone
    texts = [json.loads(line)["generation"] for line in file.read_text().splitlines()]
    score = SCORERS[task]
    pairs = zip(d1.documents(benchmark=task, answers=str(file))["test"], texts, strict=True)
    found = [score(doc, [text])[metric] for doc, text in pairs]
    assert sum(found) / len(found) * count == pytest.approx(long)


def finished(arguments: str, tasks: str, **more: Any) -> dict[str, Any]:
    settings = {"model": "recorded", "model_args": arguments, "tasks": tasks, **more}
    return run(run_settings(settings)).results


def test_results_do_not_say_where_the_answers_lie(tmp_path: Path) -> None:
    """lm-eval passes --model_args and --metadata to every task, and results hold its configuration."""
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in ANSWERS))
    found = finished(
        f"answers={answers},text=mine,match=question", "gsm8k_d1", metadata=f"answers={answers}"
    )
    assert found["configs"]["gsm8k_d1"]["metadata"]["answers"] == "answers.jsonl"
    kept = {key: value for key, value in found.items() if key != "samples"}
    assert str(tmp_path) not in json.dumps(kept, default=str)


def test_a_board_has_one_row_for_files_that_were_written_alike(tmp_path: Path) -> None:
    """Two tasks with a file each, at two lengths: two rows with two columns, beside figures of the
    same settings. Files of other tasks were rows of their own.
    """
    for length, right in ((8, 1), (16, 2)):
        for task in ("gsm8k_d1", "math500_d1"):
            file = tmp_path / f"{task}_{length}.jsonl"
            rows = [
                {"question": f"{i}?", "ground_truth": 4.0 if task == "gsm8k_d1" else "4",
                 "mine": "\\boxed{4}" if i < right else "\\boxed{5}"}
                for i in range(4)
            ]  # fmt: skip
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            arguments = f"answers={file},text=mine,match=question,name=m"
            stated = f"gen_length={length},steps={length // 2},block_length=8,temperature=0"
            finished(f"{arguments},{stated}", task, output_path=str(tmp_path / "out"))
    board = tmp_path / "board.yaml"
    columns = [f"{{name: {t}, task: {t}, metric: exact_match}}" for t in ("gsm8k_d1", "math500_d1")]
    board.write_text(
        f"tasks: [{', '.join(columns)}]\ncell: [n, deviation]\npublished: {{paper: P, row: [model]}}\n"
    )
    keys = ",".join(COLUMNS)
    setting = "gen_length=16; steps=8; block_length=8; temperature=0"
    figure = f"P,,,T,m,,m,G,{setting},accuracy,75,percent,4,gsm8k_d1,exact_match,same,s,direct,"
    (tmp_path / "published.csv").write_text(f"{keys}\n{figure}\n")
    made = read_board(board, [tmp_path / "out"])
    rows = {row.label: row for row in made.rows if row.kind == "measured"}
    assert [sorted(cell.value for cell in row.cells.values()) for row in rows.values()] in (
        [[25.0, 25.0], [50.0, 50.0]], [[50.0, 50.0], [25.0, 25.0]]
    )  # fmt: skip
    cells = [row.cells["gsm8k_d1"] for row in rows.values()]
    same, other = sorted(cells, key=lambda cell: cell.marks)
    assert same.value == 50 and same.deviation is not None and not same.marks
    assert other.deviation is None and "gen_length=8, published 16" in other.marks


ANSWERS = [
    {"question": "one and one?", "ground_truth": 2.0, "mine": "\\boxed{2}"},
    {"question": "two and two?", "ground_truth": 4.0, "mine": "\\boxed{5}"},
    {"question": "three and three?", "ground_truth": 6.0, "mine": "\\boxed{6}"},
]


def write(path: Path, answers: list[Any]) -> Path:
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.jsonl", ANSWERS)


def samples(results: dict[str, Any]) -> list[dict[str, Any]]:
    return list(results["samples"]["gsm8k_d1"])


def test_answers_are_found_by_place_by_number_and_by_field(file: Path, tmp_path: Path) -> None:
    numbered = [{**answer, "doc_id": 2 - i} for i, answer in enumerate(ANSWERS[::-1])]
    shuffled = write(tmp_path / "numbered.jsonl", numbered)
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(ANSWERS, indent=1))
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    for answers, match in ((file, "doc_id"), (file, "question"), (whole, "doc_id"),
                           (packed, "question")):  # fmt: skip
        found = finished(f"answers={answers},text=mine,match={match}", "gsm8k_d1")
        assert [sample["exact_match"] for sample in samples(found)] == [1, 0, 1], (answers, match)
    # documents come in the file's order, answers by their numbers
    found = finished(f"answers={shuffled},text=mine", "gsm8k_d1")
    assert [sample["resps"][0][0] for sample in samples(found)] == [a["mine"] for a in ANSWERS]


def test_surplus_and_doubled_answers_are_counted_and_said(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    doubled = write(tmp_path / "doubled.jsonl", [*ANSWERS, {**ANSWERS[1], "mine": "\\boxed{4}"}])
    with caplog.at_level(logging.WARNING):
        found = finished(f"answers={doubled},text=mine,match=question", "gsm8k_d1", limit=2)
    assert "0 missing, 1 surplus, 1 doubled" in caplog.text
    assert found["dlm_eval"]["settings"]["model"]["counts"] == {
        "answers": 4, "doubled": 1, "missing": 0, "surplus": 1
    }  # fmt: skip
    assert [sample["exact_match"] for sample in samples(found)] == [1, 0]  # the first answer counts


def test_a_missing_answer_is_an_error_or_left_out(file: Path, tmp_path: Path) -> None:
    less = write(tmp_path / "less.jsonl", [ANSWERS[0], ANSWERS[1]])
    options = f"answers={less},text=mine,match=question"
    told = finished(options, "gsm8k_d1", metadata=f"answers={file}")
    assert samples(told)[2]["error"] == "no recorded answer"
    assert told["dlm_eval"]["cost"]["gsm8k_d1"]["errors"] == 1
    skipped = finished(f"{options},missing=skip", "gsm8k_d1", metadata=f"answers={file}")
    assert "error" not in samples(skipped)[2] and samples(skipped)[2]["skipped"] is True
    assert skipped["dlm_eval"]["cost"]["gsm8k_d1"]["errors"] == 0
    assert skipped["dlm_eval"]["cost"]["gsm8k_d1"]["skipped"] == 1
    for found in (told, skipped):  # never scored as wrong
        assert found["results"]["gsm8k_d1"]["exact_match,none"] == 0.5
        assert found["n-samples"]["gsm8k_d1"] == {"original": 3, "effective": 2}


def test_a_runs_own_samples_file_gives_its_scores(tmp_path: Path) -> None:
    task = {"tasks": "demo_word_problem", "limit": 4}
    first = run(run_settings({"model": "tiny", "output_path": str(tmp_path / "a"), **task}))
    (written,) = (tmp_path / "a").glob("*/samples_demo_word_problem_*.jsonl")
    for match in ("doc_id", "prompt_hash"):
        again = finished(f"answers={written},match={match}", "demo_word_problem", limit=4)
        assert again["results"] == first.results["results"]
    # filters and metrics are applied anew, so another limit leaves documents without an answer
    more = finished(f"answers={written},missing=skip", "demo_word_problem", limit=6)
    assert more["dlm_eval"]["cost"]["demo_word_problem"]["skipped"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("text=mine", "needs answers"),
        ("answers={file},txt=mine", "did you mean 'text'"),
        ("answers={file},missing=drop", "missing"),
        ("answers={file}x,text=mine", "cannot be read"),
        ("answers={file},text=yours", "yours"),
        ("answers={file},text=ground_truth", "must be a text"),
        ("answers={broken},text=mine", "line 2 is not JSON"),
        ("answers={listed},text=mine", "line 1 is no JSON object"),
        ("answers={empty},text=mine", "has no answers"),
        ("answers={cut},text=mine", "cannot be read: Compressed file ended"),
        ("answers={bad},text=mine", "cannot be read: Error -3"),
    ],
)
def test_a_mistake_is_one_line(
    file: Path, tmp_path: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"mine": "1"}\n{"mine": \n')
    (tmp_path / "listed.jsonl").write_text("[1]\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    places = {name: tmp_path / f"{name}.jsonl" for name in ("broken", "listed", "empty")}
    places |= {name: tmp_path / f"{name}.jsonl.gz" for name in ("cut", "bad")}
    packed = gzip.compress(b'{"mine": "1"}\n' * 1000)
    places["cut"].write_bytes(packed[:-20])
    places["bad"].write_bytes(packed[:15] + b"\xff" * 40)
    given = arguments.format(file=file, **places)
    command = ["--model", "recorded", "--model_args", given, "--tasks", "demo_word_problem"]
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0], said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tasks": "demo_choice"}, "asks for likelihoods"),
        ({"tasks": "demo_word_problem,demo_story_infill"}, "means one task"),
        ({"devices": "cpu:2"}, "--devices means nothing to --model 'recorded'"),
        ({"gen_kwargs": "until=x"}, "--gen_kwargs means nothing"),
        ({"decode": "steps=4"}, "--decode means nothing"),
        ({"apply_chat_template": True}, "--apply_chat_template means nothing"),
    ],
)
def test_what_a_file_cannot_do_is_refused(file: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finished(f"answers={file},text=mine", **{"tasks": "demo_word_problem", "limit": 1, **more})


def test_d1s_tasks_read_the_benchmark_without_a_file() -> None:
    with pytest.raises(UserError, match="cannot load dataset 'openai/gsm8k'"):
        run(run_settings({"model": "tiny", "tasks": "gsm8k_d1"}))

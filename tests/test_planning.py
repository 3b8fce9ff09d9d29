"""Countdown, Sudoku and trip planning: right and wrong answers, grids with holes, repairs, and d1's documents without a file of answers."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dlm_eval import evaluate, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.cli import main
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.infill import InfillSpec
from dlm_eval.harness.requests import Hole, Length, hole_canvas, hole_length
from dlm_eval.harness.tasks import check_fewshot, load_tasks
from dlm_eval.metrics import d1, planning, sudoku
from dlm_eval.reports.trace.logged import find_logged

PUZZLE = {"input": "0234\n3400\n2143\n4020", "output": "1234\n3412\n2143\n4321"}


# -- Countdown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("44-15=29,79-29=50", 1),
        ("79+15=94,94-44=50", 1),
        ("44-15=29,79-29=50\n\nInput: 3", 1),
        ("44-15=29,79-29=50.0", 0),  # the result must be the goal's text
        ("44-15=29, 79-29=50", 0),  # a space before the second equation
        ("79-29=50", 0),  # 15 and 44 are not used
        ("44-15=28,79-29=50", 0),  # wrong
        ("44-15=29,79-29=50,50*1=50", 0),  # 1 is not given
        ("44-15=29=29,79-29=50", 0),
        ("44-15=29,79-__import__('os').getpid()=50", 0),
        ("44/0=29,79-29=50", 0),
        ("", 0),
    ],
)
def test_countdown_uses_every_number_once(answer: str, right: int) -> None:
    assert planning.countdown_results({"input": "15,44,79,50"}, [answer])["exact_match"] == right


@pytest.mark.parametrize("result", ["0" * 1_000_000 + "2", "2." + "0" * 1_000_000])
def test_a_number_of_a_megabyte_is_read_once(result: str) -> None:
    begun = time.process_time()
    assert planning.countdown_results({"input": "1,1,2"}, ["1+1=" + result])["exact_match"] == 0
    assert time.process_time() - begun < 5


# -- trip planning ---------------------------------------------------------------------------------

TRIP = {"cities": "Tallinn**Porto**Split", "durations": "4**3**5"}
PLAN = """Here is the plan for visiting the 3 European cities for 10 days:

**Day 1-4:** Arriving in Tallinn and visit Tallinn for 4 days.
**Day 4:** Fly from Tallinn to Porto.
**Day 4-6:** Visit Porto for 3 days.
**Day 6:** Fly from Porto to Split.
**Day 6-10:** Visit Split for 5 days."""


@pytest.mark.parametrize(
    ("line", "flight"),
    [
        ("**Day 4:** Fly from Oslo to Rome", (4, "Oslo", "Rome")),
        ("Day 4 and Day 5: from A to B, from C to D", (5, "C", "D")),
        ("Day 4: from A to from B to C", (4, "B", "C")),  # the last that begins
        ("Day 4: from A to B, Day 6", (4, "A", "B")),
        ("from A to B on Day 4", None),
        ("Day 4: from to B", None),
    ],
)
def test_a_flight_is_the_last_of_its_line(line: str, flight: tuple[int, str, str] | None) -> None:
    """The verdicts are those of the authors' pattern `.*Day (\\d+).*from (\\w+) to (\\w+)`."""
    assert planning.trip_plan(f"4-9\n{line}") == ([] if flight is None else [
        (flight[1], flight[0]), (flight[2], 9 - flight[0] + 1),
    ])  # fmt: skip


@pytest.mark.parametrize("line", ["1" * 1999, "Day " + "1" * 1900, "Day 1" * 190 + " from a" * 140])
def test_a_megabyte_of_a_plan_is_read_in_seconds(line: str) -> None:
    begun = time.process_time()
    assert planning.trip_plan(f"{line}\n" * 500) == []
    assert time.process_time() - begun < 5


def test_a_trip_is_its_cities_in_order_with_their_days() -> None:
    assert planning.trip_plan(PLAN) == [("Tallinn", 4), ("Porto", 3), ("Split", 5)]

    def score(answer: str) -> float:
        return planning.trip_results(TRIP, [answer])["exact_match"]

    assert score(PLAN) == 1
    assert score(PLAN + "\n\nTASK: You plan to visit 2 European cities for 5 days") == 1
    assert score(PLAN + "\nAnother plan:\n**Day 1-2:** Visit Split.") == 1  # the plan has ended
    assert score(PLAN.replace("Day 6:", "Day 7:")) == 0
    assert score(PLAN.replace("Porto to Split", "Porto to Oslo")) == 0
    assert score("\n".join(PLAN.split("\n")[:4])) == 0
    assert score("") == 0


# -- Sudoku ----------------------------------------------------------------------------------------


def solutions() -> set[str]:
    """All solutions of PUZZLE, by trying every filling."""
    puzzle = sudoku.cells(PUZZLE["input"])
    found = set()
    for digits in itertools.product("1234", repeat=puzzle.count("0")):
        left = iter(digits)
        grid = "".join(next(left) if cell == "0" else cell for cell in puzzle)
        rows = [grid[i : i + 4] for i in range(0, 16, 4)]
        columns = [grid[i::4] for i in range(4)]
        boxes = [grid[i : i + 2] + grid[i + 4 : i + 6] for i in (0, 2, 8, 10)]
        if all(len(set(part)) == 4 for part in (*rows, *columns, *boxes)):
            found.add(grid)
    return found


def test_a_grid_is_a_solution_if_enumeration_says_so() -> None:
    puzzle, right = sudoku.cells(PUZZLE["input"]), solutions()
    assert right == {sudoku.cells(PUZZLE["output"])}
    for digits in itertools.product("1234", repeat=puzzle.count("0")):
        left = iter(digits)
        grid = "".join(next(left) if cell == "0" else cell for cell in puzzle)
        assert sudoku.is_solution(puzzle, grid) == (grid in right)
    moved = sudoku.cells(PUZZLE["output"]).translate(str.maketrans("1234", "2143"))
    assert sudoku.is_solution("0" * 16, moved) and not sudoku.is_solution(puzzle, moved)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (PUZZLE["output"], 1),
        (PUZZLE["output"].replace("1", " 1"), 1),  # spaces are dropped
        (PUZZLE["output"] + "\n\nInput:\n0000", 1),
        (PUZZLE["output"] + "7", 1),  # what is longer than the puzzle is cut
        ("\n" + PUZZLE["output"], 0),  # then the last digit is cut
        (sudoku.cells(PUZZLE["output"]), 0),
        (PUZZLE["output"].replace("1", "x"), 0),
        (PUZZLE["input"], 0),
        ("", 0),
    ],
)
def test_dreams_reading_of_a_grid(answer: str, right: int) -> None:
    assert sudoku.dream_results(PUZZLE, [answer])["exact_match"] == right


def test_cells_count_only_where_the_givens_are() -> None:
    text = PUZZLE["output"].replace("3412", "3421")  # two of the five empty cells are wrong
    assert sudoku.grid_results(PUZZLE, [text]) == {"exact_match": 0, "cell_acc": 3 / 5}
    assert sudoku.grid_results(PUZZLE, ["1" + text]) == {"exact_match": 0, "cell_acc": 0}
    assert sudoku.grid_results(PUZZLE, [""]) == {"exact_match": 0, "cell_acc": 0}


def test_a_wrong_grid_keeps_the_givens_and_has_two_wrong_cells() -> None:
    wrong = sudoku.cells(sudoku.wrong_grid(PUZZLE))
    puzzle, target = sudoku.cells(PUZZLE["input"]), sudoku.cells(PUZZLE["output"])
    assert all(given in ("0", cell) for given, cell in zip(puzzle, wrong, strict=True))
    assert sum(a != b for a, b in zip(wrong, target, strict=True)) == sudoku.WRONG
    assert sudoku.wrong_grid(dict(PUZZLE)) == sudoku.wrong_grid(PUZZLE)


# -- several holes ---------------------------------------------------------------------------------


def test_holes_stand_between_the_givens() -> None:
    model = load_model("tiny", dtype="float32", device="cpu")
    between = tuple(sudoku.between_holes(PUZZLE))
    assert between == ("234\n34", "", "\n2143\n4", "2")
    hole = Hole(Length(1), sudoku.after_holes(PUZZLE), between=between)
    length = hole_length(model, hole, "")
    canvas = hole_canvas(model, "Output:\n", length, hole, "", "error").canvas
    assert length == sum(canvas.open) == 5
    given = [model.encode(text) if text else [] for text in (*between, hole.suffix)]
    expected: list[int] = list(model.encode("Output:\n"))
    if model.needs_bos:
        expected = [model.bos_id, *expected]
    flags = [False] * len(expected)
    for part in given:
        expected += [BLANK, *part]
        flags += [True] + [False] * len(part)
    assert (list(canvas.tokens), list(canvas.open)) == (expected, flags)
    assert hole.joined(["1", "1", "2", "3", "1"]) + hole.suffix == PUZZLE["output"]


HOLES = """
task: holes
class: !function dlm_eval.harness.infill.InfillTask
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "a = "
doc_to_target: "1"
generation_kwargs: {until: []}
metric_list: [{metric: exact_match}]
metadata: {version: 1, infill: {length: 1, between: gaps}}
"""


def test_documents_with_several_holes_one_hole_and_none_at_all(tmp_path: Path) -> None:
    """Lengths are for one hole; two that adjoin are two. What is no text costs its own document."""
    gaps: list[Any] = [["x"], [""], [], None]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"gaps": g}) + "\n" for g in gaps))
    (tmp_path / "holes.yaml").write_text(HOLES)
    found = evaluate(
        "tiny", [str(tmp_path / "holes.yaml")], decode="lengths=[1,3]", verbosity="ERROR"
    )
    errors = [sample.get("error", "") for sample in found["samples"]["holes"]]
    assert ["needs one hole" in error for error in errors] == [True, True, False, False]
    assert errors[2] == "" and "between is 'None'" in errors[3]


def test_an_error_names_its_task_once(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps({"gaps": ["x"]}))
    wrong = HOLES.replace("{length: 1,", "{length: oracle, reference: gaps,")
    (tmp_path / "holes.yaml").write_text(wrong)
    with pytest.raises(UserError, match="'length' must be the number of tokens") as caught:
        load_tasks(["holes"], include_path=str(tmp_path))
    assert str(caught.value).count("task '") == 1


def test_wrong_settings_of_several_holes_are_one_line() -> None:
    for infill in (
        {"length": "oracle", "reference": "output", "between": "gaps"},
        {"length": 9, "measure": "canvas", "between": "gaps"},
    ):
        with pytest.raises(UserError, match="metadata.infill has texts 'between' several holes"):
            InfillSpec.from_metadata("t", {"infill": infill})
    hole = Hole(Length(1), between=("x" * 900,))
    model = load_model("tiny", dtype="float32", device="cpu")
    with pytest.raises(SampleError, match="does not fit"):
        hole_canvas(model, "", 2, hole, "", "truncate")


TASK = """
task: grid_infill
class: !function dlm_eval.harness.infill.InfillTask
dataset_path: json
dataset_kwargs: {data_files: {test: grids.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Output:\\n{{input.split('0')[0]}}"
doc_to_target: output
process_results: !function dlm_eval.metrics.sudoku.infill_results
generation_kwargs: {until: []}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: cell_acc, aggregation: mean, higher_is_better: true}
metadata:
  version: 1.0
  infill: {length: 1, between: !function dlm_eval.metrics.sudoku.between_holes, suffix: "{{input.split('0')[-1]}}"}
"""


@pytest.fixture
def grids(tmp_path: Path) -> Path:
    (tmp_path / "grid_infill.yaml").write_text(TASK)
    other = {"input": "1203\n3410\n2143\n4301", "output": "1243\n3412\n2143\n4321"}
    (tmp_path / "grids.jsonl").write_text(
        "".join(json.dumps(doc) + "\n" for doc in (PUZZLE, other))
    )
    return tmp_path


def test_a_run_fills_the_holes_and_joins_them_with_the_givens(grids: Path) -> None:
    options: dict[str, Any] = {
        "include_path": str(grids),
        "bootstrap_iters": 0,
        "verbosity": "ERROR",
    }
    answers = {}
    for model in ("tiny", "tiny-ar"):
        done = evaluate(model, ["grid_infill"], **options)
        rows = done["samples"]["grid_infill"]
        answers[model] = [row["resps"][0][0] for row in rows]
        holes = [row["arguments"][0][1]["hole"] for row in rows]
        assert [hole["between"] for hole in holes] == [
            ["234\n34", "", "\n2143\n4", "2"], ["3\n341", "\n2143\n43"]
        ]  # fmt: skip
    for text, hole in zip(answers["tiny"], holes, strict=True):
        rest = text
        for part in hole["between"]:  # the givens are in the answer, in order
            assert part in rest
            rest = rest[rest.index(part) + len(part) :]
    # one position a step: rows are the holes, in a batch as alone
    alone = evaluate("tiny", ["grid_infill"], batch_size=1, **options)
    assert [row["resps"][0][0] for row in alone["samples"]["grid_infill"]] == answers["tiny"]


def test_a_trace_of_several_holes_shows_the_givens_between_them(
    grids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = evaluate("tiny", ["grid_infill"], include_path=str(grids), bootstrap_iters=0, verbosity="ERROR",
                    log_trajectories=True, output_path=str(grids / "out"))  # fmt: skip
    (logged, _) = find_logged(str(grids / "out")).trajectories("grid_infill")
    recording = find_logged(str(grids / "out")).recording(logged)
    assert logged.between == tuple(sudoku.between_holes(PUZZLE))

    def text(ids: Sequence[int]) -> str:
        return "".join(recording.pieces[token][0] for token in ids)

    answer = done["samples"]["grid_infill"][0]["resps"][0][0]
    whole = f"Output:\n{answer}{sudoku.after_holes(PUZZLE)}"
    assert text(recording.steps[-1].tokens).replace("[EOS]", "") == whole
    masks = [token for token in recording.steps[0].tokens if recording.pieces[token][0] == "[MASK]"]
    assert len(masks) == 5 - len(recording.steps[0].written)
    assert main(["trace", "--from", str(grids / "out"), "--task", "grid_infill", "--doc", "0"]) == 0
    line = capsys.readouterr().out.split("step ")[-1].splitlines()[1]
    assert "234" in line and "2143" in line and "…" not in line
    assert json.loads(json.dumps(recording.plain()))["open"] == list(recording.open)


# -- examples --------------------------------------------------------------------------------------


def test_the_first_eight_documents_are_shown_and_not_asked(shared: Path) -> None:
    data = str(shared / "data")
    loaded = load_tasks(["countdown_cd4_dream", "sudoku_givens_10_dream"], data_dir=data)
    check_fewshot(loaded, None)
    for name, task in loaded["tasks"].items():
        path = {
            "countdown_cd4_dream": "countdown/cd4",
            "sudoku_givens_10_dream": "sudoku_4x4/givens_10",
        }[name]
        rows = [json.loads(line) for line in (shared / "data/local" / path / "test.jsonl").open()]
        assert len(task.eval_docs) == len(rows) - 8
        prompt = task.fewshot_context(task.eval_docs[0], 8)
        places = [prompt.index(row["output"]) for row in rows[:8]]
        assert places == sorted(places) and rows[8]["input"] in prompt
        end = "Output: " if name.startswith("count") else "Output:\n "
        assert prompt.endswith(end)
    with pytest.raises(UserError, match="has only 8 examples to show"):
        check_fewshot(loaded, 9)


# -- d1 --------------------------------------------------------------------------------------------


def expression(numbers: list[int], target: int) -> str | None:
    """An expression that uses each number once and gives the target, found by trying."""
    for order in itertools.permutations(numbers):
        for signs in itertools.product("+-*/", repeat=len(order) - 1):
            flat = str(order[0]) + "".join(
                f" {s} {n}" for s, n in zip(signs, order[1:], strict=True)
            )
            first = f"({order[0]} {signs[0]} {order[1]}) {signs[-1]} {order[-1]}"
            last = f"{order[0]} {signs[0]} ({order[1]} {signs[-1]} {order[-1]})"
            for text in (flat, first, last):
                value = d1.value_of(text)
                if value is not None and abs(value - target) < 1e-9:
                    return text
    return None


def test_without_a_file_the_tasks_of_d1_read_the_benchmarks(shared: Path) -> None:
    data = str(shared / "data")
    names = ["gsm8k_d1", "math500_d1", "countdown_d1", "sudoku_d1"]
    tasks = load_tasks(names, data_dir=data)["tasks"]
    found = {name: task.eval_docs for name, task in tasks.items()}
    assert {name: len(docs) for name, docs in found.items()} == dict(
        zip(names, (1319, 500, 256, 256), strict=True)
    )
    recorded = shared / "data/local/d1_llada"
    for name, file in (("gsm8k_d1", "gsm8k_256"), ("math500_d1", "math500_256")):
        known = {doc["question"]: doc["ground_truth"] for doc in found[name]}
        rows = [json.loads(line) for line in (recorded / file / "test.jsonl").open()]
        assert all(known[row["question"]] == row["ground_truth"] for row in rows)
    for doc in list(found["countdown_d1"])[:20]:
        right = expression(doc["numbers"], doc["target"])
        assert right is not None
        assert (
            d1.countdown_results(doc, [rf"<answer>\boxed{{{right}}}</answer>"])["exact_match"] == 1
        )
        assert d1.countdown_results(doc, [rf"\boxed{{{right} + 1}}"])["exact_match"] == 0


RIGHT = {
    "gsm8k": (783, 863, 1130),
    "math500": (130, 162, 500),
    "countdown": (53, 50, 256),
    "sudoku": (240, 137, 2048),
}


@pytest.mark.parametrize(
    "tasks", [["countdown", "sudoku"], pytest.param(list(RIGHT), marks=pytest.mark.full)], ids=len
)
def test_the_suite_d1_scores_a_folder_of_recorded_answers(
    shared: Path, tmp_path: Path, tasks: list[str]
) -> None:
    entries = [f"{task}_{length}" for task in tasks for length in (128, 256)]
    done = evaluate(
        "recorded", entries, suite="d1", output_path=str(tmp_path), bootstrap_iters=0, verbosity="ERROR",
        model_args={
            "answers": str(shared / "data/local/d1_llada"), "match": "question", "text": "generation",
            "name": "llada-8b-instruct",
        },
    )  # fmt: skip
    assert set(done["entries"]) == set(entries)
    for name in tasks:
        *counts, total = RIGHT[name]
        for length, count in zip((128, 256), counts, strict=True):
            entry = done["entries"][f"{name}_{length}"]
            # Sudoku counts cells; each of its 256 puzzles has eight that are empty
            assert round(entry["value"] * total) == count, (name, length)
            # to the digits that are printed; 189 of GSM8K's answers were not recorded
            if name != "gsm8k":
                assert round(100 * entry["value"], 1) == entry["published"]


def test_an_entry_without_answers_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gsm8k_128.jsonl").write_text("")
    arguments = f"answers={tmp_path},match=question,text=generation"
    code = main(
        ["--suite", "d1", "--model", "recorded", "--model_args", arguments, "--tasks", "gsm8k_256"]
    )
    assert code == 2
    assert "has 0 files for entry 'gsm8k_256'" in capsys.readouterr().err


# -- a grid that is revised in place ---------------------------------------------------------------


IN_PLACE = TASK.replace("grid_infill", "grid_in_place").replace("infill_results", "revision_results").replace(
    "generation_kwargs: {until: []}",
    "generation_kwargs: {until: [], strategy: edit, threshold: 0.7, editing_threshold: 0.3}",
).replace("infill: {", "infill: {draft: !function dlm_eval.metrics.sudoku.wrong_cells, ").replace(
    "metadata:\n", "".join(f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n" for name in ("fixed", "kept")) + "metadata:\n"
)  # fmt: skip


@pytest.fixture
def wrong_grids(tmp_path: Path) -> Path:
    other = {"input": "1203\n3410\n2143\n4301", "output": "1243\n3412\n2143\n4321"}
    docs = [{**doc, "wrong": sudoku.wrong_grid(doc)} for doc in (PUZZLE, other)]
    (tmp_path / "grids.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "grid_in_place.yaml").write_text(IN_PLACE)
    return tmp_path


def test_a_wrong_grid_is_revised_where_it_stands(wrong_grids: Path) -> None:
    options: dict[str, Any] = {"include_path": str(wrong_grids), "bootstrap_iters": 0, "verbosity": "ERROR"}  # fmt: skip
    rows = evaluate("tiny", ["grid_in_place"], **options)["samples"]["grid_in_place"]
    drafts = [row["arguments"][0][1]["hole"]["drafts"] for row in rows]
    assert drafts == [sudoku.wrong_cells(row["doc"]) for row in rows]
    # a decoder that never replaces leaves the wrong grid as it is
    kept = evaluate(
        "tiny",
        ["grid_in_place"],
        decode={"strategy": "edit", "threshold": 1.0, "editing_threshold": 1.0},
        **options,
    )
    assert [row["resps"][0][0] for row in kept["samples"]["grid_in_place"]] == [
        _in_holes(row["doc"], row["doc"]["wrong"]) for row in rows
    ]
    scores = kept["results"]["grid_in_place"]
    assert (scores["exact_match,none"], scores["fixed,none"], scores["kept,none"]) == (0, 0, 1)
    # another strategy comes without the task's thresholds
    p2 = evaluate("tiny", ["grid_in_place"], decode={"strategy": "p2", "steps": 2}, batch_size=1, **options)  # fmt: skip
    assert p2["dlm_eval"]["tasks"]["grid_in_place"]["decode"]["strategy"] == "p2"
    for decode, wrong in (({"strategy": "confidence"}, "never changes"), ({"strategy": "random"}, "task 'grid_in_place'")):  # fmt: skip
        with pytest.raises(UserError, match=wrong):
            evaluate("tiny", ["grid_in_place"], decode=decode, **options)
    with pytest.raises(UserError, match="begins with a draft that the model revises in place"):
        evaluate("tiny-ar", ["grid_in_place"], **options)


def _in_holes(doc: dict[str, Any], grid: str) -> str:
    """The part of a grid between its first and its last empty cell."""
    return grid[doc["input"].index("0") : doc["input"].rindex("0") + 1]


def test_revised_cells_are_counted_by_what_they_were() -> None:
    doc = {**PUZZLE, "wrong": sudoku.wrong_grid(PUZZLE)}
    right = _in_holes(doc, PUZZLE["output"])
    assert sudoku.revision_results(doc, [right]) == {"exact_match": 1, "cell_acc": 1, "fixed": 1, "kept": 1}  # fmt: skip
    unchanged = sudoku.revision_results(doc, [_in_holes(doc, doc["wrong"])])
    assert unchanged == {"exact_match": 0, "cell_acc": 3 / 5, "fixed": 0, "kept": 1}
    assert sudoku.revision_results(doc, [""]) == {"exact_match": 0, "cell_acc": 0, "fixed": 0, "kept": 0}  # fmt: skip


def test_wrong_drafts_are_one_line() -> None:
    spec = InfillSpec.from_metadata("t", {"infill": {"length": 1, "between": "gaps", "draft": "begun"}})  # fmt: skip
    with pytest.raises(SampleError, match="draft has 1 text for 2 holes"):
        spec.hole("t", {"gaps": ["x"], "begun": ["a"]})
    with pytest.raises(SampleError, match="draft has 0 texts for 2 holes"):
        spec.hole("t", {"gaps": ["x"], "begun": []})
    nested = InfillSpec.from_metadata("t", {"infill": {"length": "{{n}}", "draft": "a.x"}})
    for doc in ({"n": 1, "a": None}, {"n": 1, "a": {"x": None}}):
        with pytest.raises(SampleError, match="draft is 'None'"):
            nested.hole("t", doc)
    with pytest.raises(SampleError, match="length 'four' must be"):
        nested.hole("t", {"n": "four", "a": {"x": "b"}})
    with pytest.raises(UserError, match="infill draft '3' is not allowed"):
        InfillSpec.from_metadata("t", {"infill": {"length": 1, "draft": 3}})
    model = load_model("tiny", dtype="float32", device="cpu")
    hole = Hole(Length(1), drafts=("a b c d e",))
    with pytest.raises(SampleError, match="the draft 'a b c d e' has . tokens, and its hole 1"):
        hole_canvas(model, "x", 1, hole, "", "error")

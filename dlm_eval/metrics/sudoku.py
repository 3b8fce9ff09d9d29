"""Sudoku 4x4: is a grid a solution, as an answer to a prompt, as a grid with holes, or as a repair.

A document has `input`, four lines of four digits with 0 for an empty cell, and `output`, its
solution (local/sudoku_4x4). Several solutions may exist; any of them is right.

`dream_results` reads answers as Dream's authors do (DreamLM/Dream fac0a7f, eval/sudoku_metric.py
and eval/eval_planning.py:108-126). `grid_results` takes the first 16 digits of an answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from dlm_eval.metrics import planning

SIZE = 4
DIGITS = frozenset("1234")
CELLS = SIZE * SIZE


def is_solution(puzzle: str, grid: str) -> bool:
    """Returns whether 16 digits keep the puzzle's givens, and each row, column and 2x2 box has the
    digits 1 to 4.

    Args:
        puzzle: [16] digits, 0 for an empty cell.
        grid: [16] digits.
    """
    if any(given not in ("0", cell) for given, cell in zip(puzzle, grid, strict=True)):
        return False
    rows = [grid[SIZE * i : SIZE * (i + 1)] for i in range(SIZE)]
    boxes = [
        rows[i][j : j + 2] + rows[i + 1][j : j + 2]
        for i in range(0, SIZE, 2)
        for j in range(0, SIZE, 2)
    ]
    return all(
        set(part) == DIGITS for part in (*rows, *map("".join, zip(*rows, strict=True)), *boxes)
    )


def cells(grid: str) -> str:
    """Returns the digits of a grid without line breaks."""
    return "".join(grid.split())


# -- as Dream's authors read an answer -------------------------------------------------------------


def dream_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether an answer up to its first empty line is a solution.

    Spaces are dropped, and what is longer than the puzzle is cut. Each line must then be four
    digits, in any of Python's notations of a digit.
    """
    answer = results[0].partition("<|endoftext|>")[0].partition("\n\n")[0].replace(" ", "")
    rows = answer[: len(doc["input"])].strip().split("\n")
    try:
        digits = ["".join(str(int(cell)) for cell in row) for row in rows]
    except ValueError:
        return {"exact_match": 0.0}
    right = [len(row) for row in digits] == [SIZE] * SIZE
    return {"exact_match": float(right and is_solution(cells(doc["input"]), "".join(digits)))}


# -- the grid as a text with holes -----------------------------------------------------------------


def before_holes(doc: dict[str, Any]) -> str:
    """Returns the grid's text before its first empty cell."""
    return str(doc["input"]).partition("0")[0]


def between_holes(doc: dict[str, Any]) -> list[str]:
    """Returns the texts between one empty cell and the next."""
    return str(doc["input"]).split("0")[1:-1]


def after_holes(doc: dict[str, Any]) -> str:
    """Returns the grid's text after its last empty cell."""
    return str(doc["input"]).rpartition("0")[2]


def infill_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the scores of the texts in the holes with those between them.

    A model that only continues its prompt writes the givens too; the first 16 digits count.
    """
    return grid_results(doc, [before_holes(doc) + results[0] + after_holes(doc)])


def grid_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the first 16 digits of an answer are a solution, and the share of the empty
    cells that equal those of `output`; 0 if the puzzle's givens are not where they belong.
    """
    puzzle, target = cells(doc["input"]), cells(doc["output"])
    grid = "".join(re.findall("[0-9]", results[0]))[:CELLS].ljust(CELLS, "0")
    empty = [i for i in range(CELLS) if puzzle[i] == "0"]
    in_place = all(given in ("0", cell) for given, cell in zip(puzzle, grid, strict=True))
    return {
        "exact_match": float(is_solution(puzzle, grid)),
        "cell_acc": in_place * sum(grid[i] == target[i] for i in empty) / len(empty),
    }


# -- the repair of a wrong grid --------------------------------------------------------------------

WRONG = 2  # cells of a grid that is to be repaired


def wrong_grid(doc: dict[str, Any]) -> str:
    """Returns the solution with two of the puzzle's empty cells changed.

    Cells and digits are drawn by the document's text, so they are the same in every run.
    """
    puzzle, target = cells(doc["input"]), list(cells(doc["output"]))
    empty = [i for i in range(CELLS) if puzzle[i] == "0"]
    drawn = hashlib.sha256(doc["input"].encode()).digest()
    for byte in drawn[:WRONG]:
        place = empty.pop(byte % len(empty))
        others = sorted(DIGITS - {target[place]})
        target[place] = others[byte // 16 % len(others)]
    return "\n".join("".join(target[SIZE * i : SIZE * (i + 1)]) for i in range(SIZE))


def wrong_cells(doc: dict[str, Any]) -> list[str]:
    """Returns the digits of the wrong grid in the puzzle's empty cells, in order."""
    pairs = zip(cells(doc["input"]), cells(doc["wrong"]), strict=True)
    return [wrong for given, wrong in pairs if given == "0"]


def revision_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the scores of a wrong grid that was revised in place: those of `infill_results`,
    which are 0 and the share of right cells if nothing is changed; `fixed`, the share of the wrong
    cells that are right now; and `kept`, that of the right ones that still are.
    """
    target, begun = cells(doc["output"]), cells(doc["wrong"])
    grid = "".join(re.findall("[0-9]", before_holes(doc) + results[0] + after_holes(doc)))
    grid = grid[:CELLS].ljust(CELLS, "0")
    empty = [i for i, given in enumerate(cells(doc["input"])) if given == "0"]
    wrong = [i for i in empty if begun[i] != target[i]]
    right = [i for i in empty if begun[i] == target[i]]
    shares = {
        name: sum(grid[i] == target[i] for i in at) / len(at)
        for name, at in (("fixed", wrong), ("kept", right))
        if at
    }
    return {**infill_results(doc, results), **shares}


def repair_asked(dataset: Any) -> Any:
    """Returns the documents that are asked, with a column `wrong`, the grid to repair."""
    return planning.asked(dataset).map(_with_wrong_grid)


def repair_examples(dataset: Any) -> Any:
    """Returns the documents that are shown as examples, likewise."""
    return planning.examples(dataset).map(_with_wrong_grid)


def _with_wrong_grid(doc: dict[str, Any]) -> dict[str, str]:
    return {"wrong": wrong_grid(doc)}

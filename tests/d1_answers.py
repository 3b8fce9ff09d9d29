"""Scores of LLaDA-8B-Instruct's answers that the authors of d1 recorded: real pairs of runs for the statistics.

The answers are beside the repository (`shared` of conftest.py). The GSM8K scores have the authors' totals. The Sudoku scores are our own reading.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTHS = (128, 256)
BOXED = re.compile(r"\\boxed\{(.*?)\}")
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*")


def rows(shared: Path, task: str, length: int) -> list[dict]:
    folder = shared / "data" / "local" / "d1_llada" / f"{task}_{length}"
    return [json.loads(line) for line in (folder / "test.jsonl").open(encoding="utf-8")]


def gsm8k_score(row: dict) -> float:
    """1.0 if the first boxed number, else the number in <answer>, is the true one."""
    if row["ground_truth"] is None:
        return 0.0
    found = None
    for text in BOXED.findall(row["generation"]):
        if text.strip() and text.strip() != "...":
            found = NUMBER.search(text)
            break
    if found is None and (answer := ANSWER.search(row["generation"])):
        found = NUMBER.search(answer[1])
    return float(found is not None and float(found[0]) == float(row["ground_truth"]))


def sudoku_score(row: dict) -> float:
    """The share of the puzzle's empty cells that are right."""
    puzzle = re.search(r"[0-9]{16}", row["question"])[0]
    answer = ANSWER.search(row["generation"])
    text = answer[1] if answer else row["generation"]
    found = re.findall(r"\d{16}", re.sub(r"\s", "", text))
    written = found[-1] if found else "".join(re.findall(r"\d", text))[:16]
    empty = [i for i, cell in enumerate(puzzle) if cell == "0"]
    right = sum(i < len(written) and written[i] == row["ground_truth"][i] for i in empty)
    return right / len(empty)


def pair(shared: Path, task: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the scores of the same questions at 128 and at 256 tokens."""
    score = {"gsm8k": gsm8k_score, "sudoku": sudoku_score}[task]
    by_length = [{row["question"]: score(row) for row in rows(shared, task, n)} for n in LENGTHS]
    common = [question for question in by_length[0] if question in by_length[1]]
    first, second = (np.array([each[q] for q in common]) for each in by_length)
    return first, second

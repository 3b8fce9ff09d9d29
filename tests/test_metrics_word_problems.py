"""Answers to word problems and Countdown: what is found in a text, and what is right."""

from __future__ import annotations

import pytest

from dlm_eval.metrics.countdown import countdown_results
from dlm_eval.metrics.word_problems import (
    chain_of_thought_examples,
    letter_of,
    letter_results,
    letters,
    number_of,
    number_results,
    numbers,
    same_number,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 43.", "43"),
        (" 70 - 27 = 43. The answer is 43.0.", "43"),
        ("so the answer is: $1,200.50", "1200.5"),
        ("The answer is 7 apples.", "7"),
        ("The answer is -3.", "-3"),
        ("The answer is 12%.", "12"),
        ("The answer is .5", "0.5"),
        ("\\boxed{15}", "15"),
        ("5 and 8 make 13", "13"),  # without the phrase, the last number
        ("The answer is 3. The answer is 4.", "4"),
        ("The answer is 3 or 4.", ""),  # two numbers behind the phrase are none
        ("The answer is blue. 7", ""),
        ("nothing", ""),
        ("", ""),
    ],
)
def test_the_number_of_a_solution(text: str, number: str) -> None:
    assert number_of(text) == number


@pytest.mark.parametrize(
    ("written", "wanted", "right"),
    [
        ("43", 43.0, True),
        ("1.8333", 1.83333, True),  # within 1e-4 of it
        ("1.83", 1.83333, False),
        ("0.43", 43.0, True),  # a percentage
        ("4300", 43.0, True),
        ("430", 43.0, False),
        ("0", 0.0, True),
        ("", 0.0, False),
    ],
)
def test_numbers_are_compared_as_numbers(written: str, wanted: float, right: bool) -> None:
    assert same_number(written, wanted) is right
    assert number_results({"answer": wanted}, [written]) == {"exact_match": float(right)}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (" The answer is (B).", "B"),
        ("the answer is c", "C"),
        ("Final Answer: The final answer is (D).", "D"),
        ("The right choice is (A)", "A"),
        ("The answer is (A). No, the answer is (B).", "A"),
        ("Problem: the answer is (A)", ""),  # of the next problem
        ("(B)", ""),
        ("The answer is 4", ""),
    ],
)
def test_the_letter_of_a_solution(text: str, letter: str) -> None:
    assert letter_of(text) == letter
    assert letter_results({"gold": [1]}, [letter]) == {"exact_match": float(letter == "B")}


def test_filters_answer_per_text() -> None:
    assert numbers([["The answer is 3.", "4"], ["x"]], None) == [["3", "4"], [""]]
    assert letters([["The answer is (A)."], ["y", "answer is b"]], None) == [["A"], ["", "B"]]


def test_the_examples_end_with_their_answers() -> None:
    shown = chain_of_thought_examples()
    assert [one["answer"] for one in shown] == ["6", "5", "39", "8", "9", "29", "33", "8"]
    assert all(one["solution"].endswith(f"The answer is {one['answer']}.") for one in shown)


@pytest.mark.parametrize(
    ("text", "right", "all_used"),
    [
        ("3+4=7,9-5=4,7*4=28", 1, 1),
        (" 9-5=4, 3+4=7, 4*7=28 ", 1, 1),
        ("4*7=28", 1, 0),  # right by Ye et al., whatever was used
        ("3+4=7,7*4=28", 1, 0),  # 4 is used twice
        ("3+4=7,9-5=4,7+4=11", 0, 0),
        ("3+4=8,9-5=4,8*4=28", 0, 0),
        ("3+4=7,9-5=4,7*4=28,", 0, 0),
        ("03+4=7,9-5=4,7*4=28", 1, 1),  # Python's own notation has no 03, which is no reason
        ("9/0=28", 0, 0),
        ("28", 0, 0),
        ("", 0, 0),
    ],
)
def test_countdown(text: str, right: int, all_used: int) -> None:
    found = countdown_results({"input": "3,4,9,5,28"}, [text])
    assert found == {"exact_match": right, "all_numbers_used": all_used}

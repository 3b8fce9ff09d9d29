"""Answers as OpenCompass reads them: letters, numbers, programs, LaTeX; its documents."""

from __future__ import annotations

import random

import datasets
import pytest

from dlm_eval.metrics import opencompass as oc
from dlm_eval.metrics import opencompass_math as om


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        (" B.", "B"),
        ("(D) iron", "D"),
        ("The answer is (B), not the other.", "B"),
        ("The answer is (B), not A.", "A"),  # a letter at the end goes before
        ("A or B? The correct answer is C", "C"),
        ("answer: d, so ANSWER: A", "A"),  # a small letter is none; the next pattern decides
        ("The correct answer is \\boxed{D}", "D"),
        ("答案是B，不是A", "B"),
        ("A solid conducts heat, so C", "C"),
        ("A solid conducts heat.", "A"),
        ("none of these", ""),
        ("", ""),
    ],
)
def test_the_letter_that_is_named(text: str, letter: str) -> None:
    assert oc.option_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("It is 3 + 4 = 7", "#### 7", 1.0),
        ("It is 7.0 dollars", "#### 7", 1.0),
        ("7\nQuestion: and 8?", "#### 7", 1.0),
        ("It is 1,007", "#### 1,007", 0.0),  # a comma ends a number of the answer
        ("It is 1007", "#### 1,007", 1.0),
        ("It is -7", "#### 7", 0.0),
        ("no number", "#### 7", 0.0),
    ],
)
def test_the_last_number(text: str, answer: str, right: float) -> None:
    assert oc.number_results({"answer": answer}, [oc.last_number(text)])["exact_match"] == right


CODE = "def f(x):\n    return x + 1"


@pytest.mark.parametrize(
    "text",
    [
        f"[BEGIN]\n '{CODE}' \n[DONE] \n\n ",
        f"[BEGIN]\n{CODE}\n[DONE]",
        f"BEGIN '{CODE}' DONE",
        f"Here:\n```python\n{CODE}\n```\nas asked",
        f"```\n{CODE}",
        f"[BEGIN]\n '{CODE}",
        f"'{CODE}'\n[DONE]\nmore",
    ],
)
def test_programs_of_mbpp(text: str) -> None:
    assert oc.marked_program(text) == CODE


def test_what_is_lost_of_programs_of_mbpp() -> None:
    assert oc.marked_program(f"{CODE}\n```") == ""  # the fence is read as an opening one
    assert oc.marked_program("def f():\n    return 'a'") == "def f():\n    return 'a"


def test_programs_of_humaneval() -> None:
    doc = {"prompt": "def f(x):\n"}
    (found,) = oc.humaneval_programs(
        [[f"So:\n```python\n{CODE}\n```\n```\nno\n```", "    return 1", f"```\n{CODE}"]], [doc]
    )
    assert found[0] == f"{doc['prompt']}{CODE}\n"
    assert found[1] == "def f(x):\nreturn 1"  # a body alone loses its indentation
    assert found[2].endswith(f"```\n{CODE}")  # the fence is not closed


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("\\dfrac12", "\\frac{1}{2}"),
        ("3/4", "\\frac34"),
        ("\\sqrt3", "\\sqrt{3}"),
        ("x = 5", "5"),
        ("5\\text{ cm}", "5"),
        ("10,000", "10000"),
        ("90^\\circ", "90"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("7.00", "7"),
        ("50\\%", "50"),
        ("\\text{(B)}", "B"),
        ("x/2", "x/2"),
        ("infinity", "\\infty"),
    ],
)
def test_equal_answers_of_math(written: str, right: str) -> None:
    assert om.equal(written, right)
    assert not om.equal(written, right + "1") and not om.equal("qqq", right)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So \\boxed{3} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("So \\boxed{{7}}.", "7"),
        ("First. Then the final answer is $12$. More", "12"),
        ("Only 5 apples. More", "Only5apples"),
        ("open \\boxed{3", "oxed{3"),
    ],
)
def test_the_answer_in_a_solution(text: str, found: str) -> None:
    assert om.answer(text).endswith(found)


def test_a_solution_without_a_box_is_an_error() -> None:
    with pytest.raises(ValueError, match="no boxed answer"):
        om.results({"solution": "five"}, ["5"])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("So it is \\boxed{1250}.", 1),
        ("\\boxed{1,250}", 1),
        ("\\boxed{1250 \\text{ dollars}}", 1),
        ("\\boxed{\\$1250}", 1),
        ("\\boxed{1250.00}", 1),
        ("\\boxed{1250\\%}", 1),
        ("The answer is x=1250.", 1),
        ("We get 1250", 0),
        ("1250 dollars. Fine", 1),
        ("\\boxed{1251}", 0),
        ("answer is: 1,250", 1),
        ("\\boxed{-1250}", 0),
    ],
)
def test_gsm8k_compared_as_math(text: str, right: int) -> None:
    """Verdicts of OpenCompass in the copy of SDAR's authors (JetAstra/SDAR c2041a8)."""
    assert om.number_results({"answer": "#### 1,250"}, [om.answer(text)]) == {"exact_match": right}


def test_math_verify_as_opencompass_calls_it() -> None:
    """Verdicts of its MATHVerifyEvaluator in the copy of SDAR's authors."""
    pytest.importorskip("math_verify")
    half = "\\frac{1}{2}"
    for text, right, verdict in [
        (f"It is $\\boxed{{{half}}}$.", half, 1),
        ("It is $\\boxed{0.5}$.", half, 1),
        ("\\boxed{2x+x}", "3x", 1),
        ("The answer is $7$.", "7", 1),
        ("The answer is 7.", "7", 0),  # lm-eval's call finds it
        ("So $x = 7$ fits", "7", 0),
        ("\\boxed{8} and \\boxed{7}", "7", 0),  # the first box counts
        ("\\boxed{(2,1)}", "(1,2)", 0),
        ("\\boxed{7 \\text{ cm}}", "7", 1),
        ("\\boxed{\\text{Monday}}", "\\text{Monday}", 1),
        ("nothing", "7", 0),
        ("7", "7", 0),
    ]:
        doc = {"solution": f"Plainly $\\boxed{{{right}}}$."}
        assert om.verified_results(doc, [text]) == {"math_verify": verdict}, text


def test_documents() -> None:
    choices = {"text": list("wxyz"), "label": list("1234")}
    three = {"text": list("wxy"), "label": list("ABC")}
    arc = [{"choices": choices, "answerKey": "3"}, {"choices": three, "answerKey": "A"}]
    assert [doc["letter"] for doc in oc.four_choices(datasets.Dataset.from_list(arc))] == ["C"]

    right, wrong = "Correct Answer", [f"Incorrect Answer {n}" for n in (1, 2, 3)]
    rows = [
        {right: f"r{n}", **{name: f"w{n}{i}" for i, name in enumerate(wrong)}} for n in range(40)
    ]
    shuffled = list(oc.gpqa_choices(datasets.Dataset.from_list(rows)))
    rng = random.Random(0)
    for doc in shuffled:
        texts = [doc[right], *(doc[name] for name in wrong)]
        rng.shuffle(texts)
        assert doc["choices"] == texts and texts["ABCD".index(doc["letter"])] == doc[right]

    (pro,) = oc.mmlu_pro_choices(datasets.Dataset.from_list([{"options": ["a", "N/A", "c"]}]))
    assert pro["options_text"] == "A. a\nC. c"
    graded = oc.category_results({"answer": "C", "category": "law"}, ["c"])
    assert graded == {"acc": 0.0, "acc_macro": ("law", 0.0)}

"""Answers as WeDLM's authors read them: verdicts of their code (Tencent/WeDLM 0216110, evaluation/evaluators) on answers that we wrote."""

from __future__ import annotations

import datasets
import pytest

from dlm_eval.metrics import wedlm

LETTERS = [  # answer; letter if there are three, four, five choices
    ("E", "", "", "E"),
    (" e. iron", "", "", "E"),
    ("(E) iron", "", "", "E"),
    ("It is E", "", "", "E"),
    ("The answer is E, not B", "B", "B", "B"),  # only A to D are looked for in sentences
    ("the answer: D", "A", "D", "D"),  # D is no choice, and the first letter that is one is an a
    ("Perhaps B or C", "B", "B", "B"),
    ("none", "", "", "E"),
    ("only ice", "C", "C", "C"),
    ("Answer: A or E", "A", "A", "A"),
    ("is d", "", "D", "D"),
    ("", "", "", ""),
]


@pytest.mark.parametrize(("text", "three", "four", "five"), LETTERS)
def test_the_letter_of_a_choice(text: str, three: str, four: str, five: str) -> None:
    docs = [{"choices": {"text": ["x"] * count}} for count in (3, 4, 5)]
    assert wedlm.choice_letters([[text]] * 3, docs) == [[three], [four], [five]]
    assert wedlm.letters([[text]], [{}]) == [[four]]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7 eggs, 8", "7"),
        ("#### none 12", "12"),
        ("#### 1,250\nQuestion: 9", "1250"),
        ("he has .5 left", ".5"),
        ("-3.50 and -4", "-4"),
        ("#### $1,250.00", "1250.00"),
        ("7 #### #### 8. 9", "8."),
        ("no", "NULL"),
    ],
)
def test_the_number_of_gsm8k(text: str, number: str) -> None:
    assert wedlm.number(text) == number
    assert wedlm.number_results({"answer": "#### 1,250"}, [number]) == {
        "exact_match": float(number in ("1250", "1250.00"))
    }


MATH = [  # answer, right one, verdict
    ("\\boxed{\\dfrac12}", "\\frac12", 1),
    ("\\boxed{\\frac{1}{2}}", "\\dfrac{1}{2}", 1),
    ("\\boxed{1,250}", "1250", 1),
    ("\\boxed{\\$7}", "7", 1),
    ("\\boxed{50\\%}", "50", 1),
    ("\\boxed{x = 7}", "7", 0),
    ("\\boxed{{7}}", "7", 1),
    ("\\boxed 7", "7", 0),
    ("so 7", "7", 0),
    ("\\boxed{7}\n\nProblem:\nNext \\boxed{8}", "7", 1),
    ("\\boxed{8} or \\boxed{7}", "7", 1),
    ("\\fbox{7}", "7", 1),
    ("\\fbox{7} \\boxed{8}", "7", 0),
    ("\\boxed{7", "7", 0),
    ("\\boxed{0.5}", "\\frac{1}{2}", 0),
    ("\\boxed{\\left( 1, 2 \\right)}", "(1,2)", 1),
    ("\\boxed{30^\\circ}", "30", 1),
    ("\\boxed{7.}", "7", 0),
]


@pytest.mark.parametrize(("text", "right", "verdict"), MATH)
def test_an_answer_to_math(text: str, right: str, verdict: int) -> None:
    doc = {"solution": f"Plainly $\\boxed{{{right}}}$."}
    assert wedlm.math_results(doc, [text]) == {"exact_match": verdict}


def test_minerva_s_examples_have_the_source_s_lines_and_boxes() -> None:
    pytest.importorskip("math_verify")  # lm-eval's module with the examples needs it
    prompt = wedlm.math_prompt({"problem": "What is 1 + 1?"})
    assert prompt.endswith("Problem:\nWhat is 1 + 1?\nSolution:\n")
    *solved, last = prompt.split("\n\n")
    assert [text.count("\n") for text in solved] == [4] * 4 and last.count("\n") == 3
    for text in solved:
        final = text.splitlines()[-1]
        assert final.startswith("Final Answer: The final answer is $\\boxed{")
        assert wedlm.boxed(text) == wedlm.boxed(final) != ""


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("so 3\n#### D", 1),
        ("####D\n#### B", 1),  # what stands between the first two marks
        ("#### D\n\nQuestion: next\n#### A", 1),
        ("#### (D)", 0),
        ("#### d", 0),
        ("#### D.", 0),
        ("#### ", 0),
        ("The answer is D", 0.25),  # the authors draw a letter
        ("", 0.25),
    ],
)
def test_the_letter_of_gpqa(text: str, score: float) -> None:
    assert wedlm.gpqa_results({"letter": "D"}, [text]) == {"exact_match": score}


def test_the_solved_questions_of_gpqa_are_those_of_the_data_set() -> None:
    rows = [
        {
            "Question": f"Q{n}?\n",
            "Correct Answer": f"right {n}",
            **{f"Incorrect Answer {k}": f"wrong {k}\n" for k in (1, 2, 3)},
            "Explanation": f"Since {n}.",
        }
        for n in range(7)
    ]
    docs = wedlm.gpqa_documents(datasets.Dataset.from_list(rows))
    (examples,) = set(docs["examples"])
    assert examples.count("Question: ") == 5
    assert examples.startswith(
        "Question: Q0?\nA) wrong 1\nB) wrong 2\nC) wrong 3\nD) right 0\nAnswer:\nSince 0.\n#### D\n\n"
        "Question: Q1?\nA) wrong 1\nB) wrong 2\nC) right 1\nD) wrong 3\nAnswer:\nSince 1.\n#### C\n\n"
    )
    assert [doc["choices"][3] for doc in docs] == [f"right {n}" for n in range(7)]


BODIES = [  # answer, body
    ("    return x\n", "    return x"),
    ("return x", "    return x"),
    ("    a = 1\n\n    return a\n\n\ndef g():\n    pass", "    a = 1\n    return a"),
    ("    a = 1\n# note\n    return a\nx", "    a = 1\n# note\n    return a"),
    ("import math\n    return math.pi", "    return math.pi"),
    ("    import math\n    return math.pi", "    return math.pi"),  # the function's own import too
    ("def f(a,\n      b):\n  return a\nx = 1", "  return a"),
    ("def f(a: int) -> int:\n    return a", "    return a"),
    ("def f(a\n    return a", "    return a"),  # a header without an end is one line
    ("Sure.\n```python\n    return x\n```\nDone.", "    return x"),
    ("```python\ndef f(x):\n    return x\n```", "    def f(x):\n        return x"),
    ("~~~\nreturn x\n~~~", "    return x"),
    ("    return x\n```\nnot code", "    return x"),
    ("  return x\n y", "  return x"),
    ("# only\n'text'", "# only\n'text'"),
    ("x = 1\ndef\tf(y):\n\treturn y", "    x = 1\n    def\tf(y):\n    \treturn y"),
    ("", ""),
    ("```\n```", ""),
]


@pytest.mark.parametrize(("text", "body"), BODIES)
def test_the_body_of_a_function(text: str, body: str) -> None:
    assert wedlm.body(text) == body
    assert wedlm.completions([[text]], [{"prompt": "def f(x):"}]) == [[f"def f(x):\n{body}"]]

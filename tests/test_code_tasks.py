"""Our own tasks of generated code: prompts, the program in an answer, verdicts; gold passes, wrong answers do not."""

from __future__ import annotations

import functools
import json
import random

import datasets
import pytest
import stock_code_data as data
from stock_code_truth import changed, entry_of, scores

from dlm_eval.harness.code_scan import package_root
from dlm_eval.harness.code_tasks import ways
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics.code import METRIC, pass_at_1
from dlm_eval.metrics.code_answers import (
    continued,
    fenced,
    humaneval_plus_documents,
    longest_valid,
    longest_valid_completions,
    needed,
    plus_documents,
)

HUMANEVAL = (
    "humaneval_fenced", "humaneval_plus_fenced", "humaneval_longest_valid",
    "humaneval_plus_longest_valid", "humaneval_instruct_longest_valid",
)  # fmt: skip
MBPP = (
    "mbpp", "mbpp_instruct", "mbpp_fenced", "mbpp_sanitized", "mbpp_sanitized_fenced",
    "mbpp_plus", "mbpp_plus_instruct", "mbpp_plus_fenced",
)  # fmt: skip


CRUXEVAL = ("cruxeval_output", "cruxeval_output_cot", "cruxeval_input", "cruxeval_input_cot")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return data.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tasks(folder):
    return load_tasks(["humaneval_plus", *HUMANEVAL, *MBPP, *CRUXEVAL], data_dir=folder)["tasks"]


def document(name: str) -> dict:
    if name.startswith("humaneval"):
        return data.PLUS if "plus" in name else data.HUMANEVAL
    return (
        data.SANITIZED if "sanitized" in name else data.MBPP_PLUS if "plus" in name else data.MBPP
    )


def written(name: str, doc: dict, code: str) -> str:
    """Returns a model's answer with this program: a fence of its own where the task has no prefix for one."""
    if name.endswith("_fenced"):
        return f"Here it is:\n\n```python\n{code}\n```\nIt works.\n```\nf()\n```"
    return f"{code}\n```\nIt works." if "instruct" in name else code


# -- the tasks -------------------------------------------------------------------------------------


def test_every_task_is_judged_in_the_sandbox(tasks):
    assert {name for name, way in ways(tasks).items() if way.sandboxed} == {
        "humaneval_plus",
        *HUMANEVAL,
        *MBPP,
        *CRUXEVAL,
    }


@pytest.mark.parametrize("name", [*HUMANEVAL, *MBPP])
def test_a_right_answer_passes_and_wrong_ones_do_not(tasks, name):
    doc = document(name)
    right = doc["canonical_solution" if name.startswith("humaneval") else "code"]
    body = "    " if name.startswith("humaneval") else ""
    wrong = [right.replace("return ", "return 1 + "), f"{body}pass", f"{body}exit(0)", ""]
    answers = [written(name, doc, code) for code in (right, *wrong)]
    assert scores(name, tasks[name], [doc] * 5, answers) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert ("numpy" in METRIC.protections(name)) == ("plus" in name)


def test_code_that_sets_up_the_tests_is_run(tasks):
    for name in ("mbpp", "mbpp_instruct", "mbpp_fenced"):
        answer = written(name, data.SETUP, data.SETUP["code"])
        wrong = answer.replace("pair.a +", "pair.a -")
        assert scores(name, tasks[name], [data.SETUP] * 2, [answer, wrong]) == [1.0, 0.0]


def test_mbpp_plus_runs_the_tests_of_evalplus(tasks):
    """lm-eval's tasks of these names run tests that the prompt shows."""
    lax = "def add(a, b):\n    return abs(a + b)"
    for name in MBPP[-3:]:
        answer = written(name, data.MBPP_PLUS, lax)
        assert scores(name, tasks[name], [data.MBPP_PLUS], [answer]) == [0.0]
    assert scores("mbpp", tasks["mbpp"], [data.MBPP], [lax]) == [1.0]


MATCHES = """
def assertion(out, exp, atol):
    if isinstance(out, bool):
        exact_match = out == exp
    else:
        exact_match = exp == (out is not None)

for inp, exp in zip([["ab"], ["cd"]], [True, False]):
    assertion(starts(*inp), exp, 0)
"""


def test_tests_of_mbpp_plus_that_assert_nothing_can_fail():
    """Three of its problems have tests of this form; EvalPlus's own judge fails the wrong program."""
    (doc,) = plus_documents(datasets.Dataset.from_list([{"test": MATCHES}]))
    right = "import re\ndef starts(text):\n    return re.match('a', text)"
    wrong = right.replace("'a'", "'b'")
    for tests, verdicts in ((MATCHES, [1.0, 1.0]), (doc["test"], [1.0, 0.0])):
        assert [pass_at_1([tests], [program]) for program in (right, wrong)] == verdicts
    assert list(plus_documents(datasets.Dataset.from_list([doc]))) == [doc]


ZERO = """
def _poly(xs, x):
    return sum(coeff * x**i for i, coeff in enumerate(xs))

def check(candidate):
    inputs, results = [[[2, 1]], [[-6, 1]]], [-2.0, 6.0]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assert _poly(*candidate(*inp), inp) <= 0.0001
"""


def test_the_test_of_humaneval_plus_that_nothing_passes(tasks):
    """Problem 32's; EvalPlus's own judge asks whether the polynomial is 0 at the result."""
    right, wrong = "    return -xs[0] / xs[1]\n", "    return xs[0] / xs[1] - 9\n"
    doc = {
        **data.PLUS, "prompt": "def find_zero(xs):\n", "entry_point": "find_zero", "test": ZERO,
    }  # fmt: skip
    (mended,) = humaneval_plus_documents(datasets.Dataset.from_list([doc]))
    for given, verdicts in ((doc, [0.0, 0.0]), (dict(mended), [1.0, 0.0])):
        found = scores("humaneval_plus", tasks["humaneval_plus"], [given] * 2, [right, wrong])
        assert found == verdicts


@pytest.mark.parametrize("name", ["mbpp", "mbpp_instruct", "mbpp_plus", "mbpp_plus_instruct"])
def test_prompts_of_mbpp_are_lm_evals(tasks, folder, name):
    file = str(package_root("lm_eval") / "tasks" / "mbpp" / f"{name}.yaml")
    stock = load_tasks([file], data_dir=folder)["tasks"][name]
    prompts = []
    for task in (tasks[name], stock):
        task.build_all_requests(limit=None, rank=0, world_size=1)
        prompts.append([instance.args for instance in task.instances])
    assert prompts[0] == prompts[1] and prompts[0]


def test_outputs_that_are_texts_keep_their_quotes(tasks):
    """lm-eval's task strips them: the right answer to 371 of its 800 problems is wrong there."""
    code = "def f(x):\n    return x + '#=1'"
    doc = {"id": "ours", "code": code, "input": "'a'", "output": "'a#=1'"}
    answers = {
        "assert f('a') == 'a#=1'\n": 1.0, "'a#=1'": 1.0, "assert f('a') == a#=1": 0.0,
        "assert f('a') == f('a')": 0.0, "": 0.0, "assert f('a') == exit()": 0.0,
        "assert f('a') == 'a#=1' # done": 1.0,
    }  # fmt: skip
    for name in CRUXEVAL[:2]:
        found = scores(name, tasks[name], [doc] * len(answers), list(answers))
        assert found == list(answers.values())
    reasoned = "It is f('a') == 1?\n[/THOUGHT]\n[ANSWER]\nassert f('a') == 'a#=1'"
    assert scores("x", tasks["cruxeval_output_cot"], [doc], [reasoned]) == [1.0]


def test_any_argument_with_the_output_is_right(tasks):
    doc = {
        "id": "ours",
        "code": "def f(x, y=0):\n    return abs(x) + y",
        "input": "3",
        "output": "3",
    }
    answers = {
        "assert f(3) == 3": 1.0, "assert f(-3) == 3": 1.0, "f(1, y=2)": 1.0, "f(4)": 0.0, "3": 0.0,
        "assert f(3) + 0 == 4": 1.0, "assert f() == 3": 0.0, "assert 3 == 3": 0.0, "": 0.0,
    }  # fmt: skip
    for name in CRUXEVAL[2:]:
        found = scores(name, tasks[name], [doc] * len(answers), list(answers))
        assert found == list(answers.values())


def test_the_prompt_of_cruxeval_has_its_examples_with_quotes(tasks):
    doc = data.CRUXEVAL
    said = tasks["cruxeval_output"].doc_to_text(doc)
    assert said.endswith(
        f"[PYTHON]\n{doc['code']}\nassert f({doc['input']}) == ??\n[/PYTHON]\n[ANSWER]\n"
    )
    assert 'assert f("x9j") == "x9ja"\n[/ANSWER]' in said
    assert tasks["cruxeval_input_cot"].doc_to_text(doc).endswith("\n[/PYTHON]\n[THOUGHT]\n")


def test_a_run_ends_with_a_score_per_task(folder):
    names = ["mbpp_sanitized", "humaneval_plus_longest_valid"]
    found = evaluate(
        "tiny", names, data_dir=folder, limit=1, bootstrap_iters=0, confirm_run_unsafe_code=True,
        decode="gen_length=8,steps=2",
    )  # fmt: skip
    assert found["results"]["mbpp_sanitized"]["pass_at_1,none"] == 0.0
    assert found["results"]["humaneval_plus_longest_valid"]["pass@1,longest_valid"] == 0.0
    assert set(found["dlm_eval"]["environment"]["sandbox"]) == {*names}


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("humaneval_fenced", "{},fenced"),
        ("mbpp", "{},none"),
        ("cruxeval_output", "{},assertion"),
        ("humaneval", "{},create_test"),
    ],
)
def test_pass_at_k_of_repeated_answers(folder, tmp_path, name, metric):
    """One of four is right: pass@1 is 1/4, pass@2 is 1 - (3/4)(2/3), pass@4 is 1."""
    doc = data.CRUXEVAL if name.startswith("cruxeval") else document(name)
    right = doc.get("canonical_solution") or written(name, doc, doc.get("code", ""))
    right = f"assert f(3) == {doc['output']}" if name.startswith("cruxeval") else right
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"doc_id": 0, "resps": ["1 +", right, "", "x = 1"]}) + "\n")
    file = str(package_root("lm_eval") / "tasks" / "humaneval" / "humaneval.yaml")
    task = file if name == "humaneval" else name  # by file: no index is read
    found = evaluate(
        "recorded", [task], model_args={"answers": str(answers)}, data_dir=folder, repeats=4,
        confirm_run_unsafe_code=True, bootstrap_iters=0, verbosity="ERROR",
    )["results"][name]  # fmt: skip
    first = "pass_at_1" if name == "mbpp" else "pass@1"
    prefix = "pass_at_1_" if name == "mbpp" else ""
    assert found[metric.format(first)] == 0.25
    assert found[metric.format(f"{prefix}pass@2")] == 0.5
    assert found[metric.format(f"{prefix}pass@4")] == 1.0


# -- the program in an answer ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f(): pass\n```\nmore\n```", "def f(): pass\n"),
        ("\ndef f(): pass\n```", "\ndef f(): pass\n"),
        ("def f(): pass", "def f(): pass"),  # the canvas ended before the fence
        ("import re\n```", "import re\n"),  # lm-eval takes `import` for the language of the fence
        ("```python\nx = 1\n```", "x = 1\n"),
        ("", ""),
    ],
)
def test_an_answer_that_goes_on_in_a_fence(answer, code):
    assert continued(answer) == code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure:\n```python\nx = 1\n```\nand\n```\ny = 2\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\n    return x```", "    return x"),
        ("```python\nx = 1", "x = 1"),
        ("```python\r\nx = 1\r\n```", "x = 1\r\n"),
        ("x = 1", "x = 1"),
        ("```x = 1```", "```x = 1```"),  # no line for a language: no fence
        ("", ""),
    ],
)
def test_the_first_fence(answer, code):
    assert fenced(answer) == code


def test_the_longest_valid_code_is_that_of_a_search_over_all_parts():
    """Against the definition: among all runs of lines that parse, the first with the most lines that are not blank."""
    choice = random.Random(0)
    lines = [
        "def f(x):", "    return x", "", "x = 1", "(", ")", "if x:", "    y = 2", "text here", "import re", "  z", "'''",
    ]  # fmt: skip
    for _ in range(300):
        chosen = choice.choices(lines, k=choice.randrange(9))
        best, found = 0, ""
        for start in range(len(chosen)):
            for end in range(start + 1, len(chosen) + 1):
                part = "\n".join(chosen[start:end])
                count = sum(bool(line.strip()) for line in chosen[start:end])
                try:
                    compile(part, "", "exec", flags=0x400)  # parse alone
                except SyntaxError:
                    continue
                if count > best:
                    best, found = count, part
        assert longest_valid("\n".join(chosen)) == found


def test_the_longest_valid_code_of_answers_with_none_and_with_much():
    for line in ("x = 1 +", "if x:", "\x00", "(" * 300, "some prose here"):
        assert longest_valid("\n".join([line] * 400)) == ""
    half = ["x = [i for i in range(10) if i % 2 == 0] + [f(x, y=3)[1:2]]"] * 49
    assert longest_valid("\n".join([*half, "(", *half])).count("\n") == 48
    assert longest_valid("\n".join(["x = 1"] * 150)).count("\n") == 99


def test_dreams_script_reads_behind_the_first_python_fence():
    doc = {"prompt": 'def f(x):\n    """Doubles."""\n', "entry_point": "f"}
    right = 'def f(x):\n    """Doubles."""\n    return x + x'
    answers = {
        "    return x + x\n": right,
        "\treturn x + x\r\nprint(f(1))": right,
        "Sure:\n```python\ndef f(x):\n    return x + x\n```\nOK": "def f(x):\n    return x + x",
        "    return x + x\n```python\n": "",  # nothing is behind it
        "    return x + x\n```\nprose": right,
    }
    found = longest_valid_completions([list(answers)], [doc])
    assert found == [list(answers.values())]


def test_definitions_that_a_function_needs():
    code = """
import re
limit, other = 1, 2
size = 3
class Box:
    pass
def helper(x):
    return Box() if x else size
def quiet(x):
    print(x)
def unused():
    return 1
def f(x):
    return 0
def f(x):
    def inner():
        return re.sub("a", "b", helper(x))
    return inner()
print(f(1))
"""
    kept = needed(code, "f")
    names: dict = {}
    exec(compile(kept, "", "exec"), names)  # our own text
    assert {"helper", "Box", "size", "f"} <= set(names)
    assert not {"limit", "quiet", "unused"} & set(names)
    assert kept.index("import re") < kept.index("size") and "print" not in kept
    assert kept.count("def f(") == 1 and "return 0" not in kept
    assert (
        needed("def f(x):\n    return Box().run()\nclass Box:\n    pass", "f").count("class") == 0
    )


# -- truth: the benchmarks' own files --------------------------------------------------------------

REAL = {
    "mbpp": 500, "mbpp_instruct": 500, "mbpp_fenced": 500, "mbpp_sanitized": 257, "mbpp_sanitized_fenced": 257,
    "humaneval_fenced": 164, "humaneval_longest_valid": 164, "humaneval_instruct_longest_valid": 164,
}  # fmt: skip
# Problems whose last `return` can change unseen, see tests/test_generated_code.py (KNOWN)
WEAK = {
    "mbpp": (20, 29, 34, 177, 189, 351, 382, 404, 485),
    "mbpp_sanitized": (20, 82, 85, 404),
    "humaneval": (),
}
# Its tests call `encode_shift` of the prompt. Dream's script leaves it out, since the solution does not use it.
UNSOLVABLE = "HumanEval/50"


@functools.cache
def real(shared, name):
    return load_tasks([name], data_dir=shared / "data")["tasks"][name]


def benchmark(name: str) -> str:
    return next(kind for kind in ("humaneval", "mbpp_sanitized", "mbpp") if name.startswith(kind))


def solved(doc: dict, name: str, wrong: bool = False) -> str:
    """Returns the answer of a right model, or one with a changed `return`."""
    human = name.startswith("humaneval")
    program = doc["prompt"] + doc["canonical_solution"] if human else doc["code"]
    tests = "" if human else doc["test_list"][0]
    if not wrong:
        return written(name, doc, doc["canonical_solution"] if human else program)
    entry = doc["entry_point"] if human else entry_of(tests, program)
    code = changed(program, entry)
    assert code is not None
    return written(name, doc, f"    pass\n{code}" if human else code)


@pytest.mark.parametrize("name", REAL)
def test_solutions_pass_and_changed_ones_fail_on_some_real_problems(shared, name):
    task = real(shared, name)
    docs = [doc for doc in task.test_docs() if doc["task_id"] not in WEAK[benchmark(name)]]
    docs = random.Random(1).sample(docs, 6)
    answers = [solved(doc, name, wrong) for doc in docs for wrong in (False, True)]
    twice = [doc for doc in docs for _ in range(2)]
    assert scores(name, task, twice, answers) == [1.0, 0.0] * 6


@pytest.mark.full
@pytest.mark.parametrize("name", REAL)
def test_every_solution_passes_and_every_changed_one_fails(shared, name):
    task = real(shared, name)
    docs = list(task.test_docs())
    assert len(docs) == REAL[name]
    right = scores(name, task, docs, [solved(doc, name) for doc in docs])
    failed = [doc["task_id"] for doc, score in zip(docs, right, strict=True) if not score]
    assert failed == ([UNSOLVABLE] if name.endswith("longest_valid") else [])
    found = scores(name, task, docs, [solved(doc, name, wrong=True) for doc in docs])
    passed = [doc["task_id"] for doc, score in zip(docs, found, strict=True) if score]
    assert tuple(passed) == WEAK[benchmark(name)]


def test_lm_evals_examples_are_in_the_data_sets_own_split(shared):
    """mbpp_sanitized has its examples from there."""
    file = shared / "data/google-research-datasets/mbpp/sanitized/prompt.jsonl"
    own = [json.loads(line)["task_id"] for line in file.open(encoding="utf-8")]
    assert own[:3] == [2, 3, 4]

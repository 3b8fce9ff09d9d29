"""Generated code runs in the sandbox, or the task is refused: for every task of lm-eval, ours, and the user's own."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import random
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pandas
import pytest
import stock_code_data as data
from stock_code_truth import changed, entry_of, scores

from dlm_eval import sandbox
from dlm_eval.cli import main
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.code_scan import (
    LM_EVAL,
    MODULE,
    NOT_OF_TASKS,
    NOTHING_RUN,
    ROWS,
    SCRIPT,
    Hit,
    Means,
    package_root,
    reach,
    row_of,
    scan,
)
from dlm_eval.harness.code_tasks import is_replaced, way_of, ways
from dlm_eval.harness.lm_eval_patches import judge_in_sandbox
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics.code import METRIC, CodeEval, Program, imports_numpy, run_programs

TASKS = package_root("lm_eval") / "tasks"
SANDBOXED = {
    "humaneval", "humaneval_64", "humaneval_64_instruct", "humaneval_instruct", "humaneval_plus",
    "mbpp", "mbpp_instruct", "mbpp_plus", "mbpp_plus_instruct",
    "humaneval_multi_line_infilling", "humaneval_single_line_infilling",
    "humaneval_random_span_infilling", "humaneval_random_span_infilling_light",
    "cruxeval_input", "cruxeval_input_08", "cruxeval_input_cot",
    "cruxeval_output", "cruxeval_output_08", "cruxeval_output_cot",
}  # fmt: skip
REFUSED = {f"longproc_countdown_{length}" for length in data.LENGTHS} | {
    f"longproc_pseudo_to_code_{length}" for length in ("0.5k", "2k")
}


@functools.cache
def marked() -> dict[str, str]:
    """Returns lm-eval's tasks that are marked unsafe_code, by their files and those they include: name -> file."""
    includes, names, unsafe = {}, {}, set()
    for folder, _, files in os.walk(TASKS):
        for file in (
            os.path.join(folder, name) for name in files if "yaml" in name or name.endswith(".yml")
        ):
            text = Path(file).read_text(encoding="utf-8", errors="replace")
            if re.search(r"^unsafe_code:\s*[Tt]rue", text, re.M):
                unsafe.add(file)
            included = re.findall(r"^include:\s*['\"]?([^\s'\"]+)", text, re.M)
            includes[file] = {os.path.normpath(os.path.join(folder, name)) for name in included}
            names[file] = [
                name
                for name in re.findall(r"^task:\s*['\"]?([\w.+-]+)", text, re.M)
                if name != "null"
            ]
    while grown := {
        file for file, others in includes.items() if file not in unsafe and unsafe & others
    }:
        unsafe |= grown
    return {name: file for file in sorted(unsafe) for name in names[file]}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Every task of lm-eval that is marked unsafe, loaded on documents of ours (by file: no index of all tasks is read)."""
    folder = data.write(tmp_path_factory.mktemp("data"))
    return load_tasks(sorted(marked().values()), data_dir=folder)["tasks"]


def write_task(folder: Path, name: str, scorer: str, *lines: str) -> Path:
    """Writes a generation task whose `process_results` is the given Python text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.jsonl").write_text(json.dumps({"text": "a b", "word": "c"}) + "\n")
    (folder / f"{name}_score.py").write_text(scorer)
    (folder / f"{name}.yaml").write_text(
        "\n".join([
            f"task: {name}", "dataset_path: json",
            f"dataset_kwargs: {{data_files: {{test: {folder / 'documents.jsonl'}}}}}",
            "output_type: generate_until", "test_split: test", 'doc_to_text: "{{text}}"', 'doc_to_target: "{{word}}"',
            "generation_kwargs: {until: [], max_gen_toks: 4}",
            f"process_results: !function {name}_score.process_results",
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]", *lines, "",
        ])
    )  # fmt: skip
    return folder


EVALS = "def process_results(doc, results):\n    return {'acc': float(eval('1') == 1)}\n"
RUN = ("--model", "tiny", "--limit", "1", "--no_resume")


# -- every task, every place -----------------------------------------------------------------------


def test_01_every_task_that_is_marked_unsafe_is_judged_in_the_sandbox_or_refused(stock):
    assert set(stock) == set(marked())
    found = ways(stock)
    assert {name for name, way in found.items() if way.sandboxed} == SANDBOXED
    assert {name for name, way in found.items() if not way.sandboxed} == REFUSED
    rest = set(marked()) - SANDBOXED - REFUSED  # marked, and run nothing
    assert len(rest) == 11 and all(name.startswith("longproc_") for name in rest)


def test_01_every_place_in_task_code_is_listed():
    """A new release of lm-eval may bring a place that nobody has read: read it, then add a row to code_scan.py."""
    unlisted, used = [], set()
    root = package_root("lm_eval")
    ours = [package_root("dlm_eval") / "metrics", package_root("dlm_eval").parent / "task_configs"]
    for top, folder in [(root, root), *((folder.parent, folder) for folder in ours)]:
        for file in sorted(folder.rglob("*.py")):
            short = file.relative_to(top).as_posix()
            if any(
                Path(short).match(pattern) or short.startswith(pattern[:-1])
                for pattern in NOT_OF_TASKS
            ):
                continue
            for hit in scan(file):
                row = row_of(short, hit.inside, hit.name)
                used.add(row)
                if row is None:
                    unlisted.append((short, hit.inside, hit.name))
    assert unlisted == [], (
        f"table of lm-eval {LM_EVAL}, this is {importlib.metadata.version('lm_eval')}"
    )
    assert [row for row in ROWS if row not in used] == []
    assert all(row.reason for row in ROWS)


def test_01_tasks_that_run_answers_without_being_marked_are_found():
    """SCORE's math tasks give the model's answer to sympy's parse_expr, which is eval()."""
    assert not any("robustness_math" in name for name in marked())
    file = str(TASKS / "score" / "math" / "utils_math.py")
    found = reach([(file, "process_results")])
    rows = {
        row_of(Path(hit.file).relative_to(package_root("lm_eval")).as_posix(), hit.inside, hit.name)
        for hit in found
    }
    assert any(row is not None and row.means is Means.REFUSED for row in rows)


def test_01_places_are_told_from_their_likes(tmp_path):
    (tmp_path / "judge.py").write_text("def run(text):\n    return [eval][0](text)\n")
    file = tmp_path / "task.py"
    file.write_text(
        "import re, subprocess as sp\nfrom judge import run as go\nfrom os import system\nimport evaluate as e\n"
        "metric = e.load('code_eval')\n"
        "pattern = re.compile('a')\n"
        "def plain(doc):\n    return pattern.match(doc.eval) and model.compile()\n"
        "def shell(doc):\n    sp.run(doc)\n"
        "def listed(doc):\n    for f in [exec, system]:\n        f(doc)\n"
        "def far(doc):\n    return near(doc)\n"
        "def near(doc):\n    return go(doc)\n"
        "class Task:\n    def score(self):\n        return shell(1)\n"
        "if __name__ == '__main__':\n    exec('')\n"
    )
    own = {(hit.inside, hit.name) for hit in scan(file)}
    assert own == {
        (MODULE, "evaluate.load('code_eval')"), ("shell", "subprocess.run"),
        ("listed", "exec"), ("listed", "os.system"), (SCRIPT, "exec"),
    }  # fmt: skip

    def reached(name):
        return {hit.name for hit in reach([(str(file), name)])} - {"evaluate.load('code_eval')"}

    assert reached("plain") == set()
    assert reached("far") == {"eval"} and Hit(str(tmp_path / "judge.py"), "run", "eval") in reach(
        [(str(file), "far")]
    )
    assert reached("Task") == {"subprocess.run"}


# -- the metric ------------------------------------------------------------------------------------


def test_01_the_metric_has_the_interface_of_code_eval():
    metric = CodeEval()
    scores_, details = metric.compute(
        references=["assert f(1) == 2", "assert g() is None"],
        predictions=[["def f(x): return x + 1", "def f(x): return x"], ["def g(): pass", "def g(): return 1"]],
        k=[1, 2, 10], num_workers=2, timeout=3.0,
    )  # fmt: skip
    assert scores_ == {"pass@1": 0.5, "pass@2": 1.0}  # no pass@10 of two samples
    assert [(number, said["passed"]) for number, said in details[0]] == [(0, True), (1, False)]
    assert details[0][1][1] == {
        "task_id": 0,
        "passed": False,
        "result": "failed: AssertionError",
        "completion_id": 1,
    }
    with pytest.raises(ValueError, match="2 references"):
        metric.compute(references=["a", "b"], predictions=[["c"]])
    with pytest.raises(ValueError, match="references"):
        metric.compute(references="assert True", predictions=[["c"]])


def test_01_the_time_that_is_asked_for_is_kept():
    loop = [Program("while True: pass", "", 1.0), Program("import time; time.sleep(60)", "", 0.1)]
    endless, asleep = run_programs(loop)
    assert (endless.reason, asleep.reason) == ("cpu limit", "timed out")
    assert endless.seconds < 10 and asleep.seconds < 10


LONG = pytest.param("humaneval_plus", marks=pytest.mark.full)  # an endless loop has a minute there


OTHER = pytest.param("humaneval_single_line_infilling", marks=pytest.mark.full)


@pytest.mark.parametrize("name", ["humaneval", LONG, "mbpp", OTHER])
def test_01_right_answers_pass_and_wrong_or_hostile_ones_do_not(stock, tmp_path, name):
    canary = tmp_path / "canary"
    hostile = f"open({str(canary)!r}, 'w').write('here')\n"
    if name == "mbpp":
        doc, right, wrong = data.MBPP, data.MBPP["code"], "def add(a, b):\n    return a - b"
        hostile = hostile + right
    else:
        doc = data.PLUS if name == "humaneval_plus" else data.HUMANEVAL
        right, wrong = doc["canonical_solution"], "    return x\n"
        hostile = f"    {hostile}{right}"
    answers = [right, wrong, hostile, "    while True: pass\n"]
    assert scores(name, stock[name], [doc] * 4, answers) == [1.0, 0.0, 0.0, 0.0]
    assert not canary.exists()
    held = METRIC.protections(name)
    assert ("numpy" in held) == (name == "humaneval_plus") and "files" in held


def test_01_all_programs_of_a_task_are_noted_and_run_together(stock, monkeypatch):
    batches = []
    run_many = sandbox.run_many
    monkeypatch.setattr(
        sandbox,
        "run_many",
        lambda texts, *rest: batches.append(len(texts)) or run_many(texts, *rest),
    )
    answers = [f"def add(a, b):\n    return a + b + {number}" for number in (0, 1, 2, 0)]
    assert scores("mbpp", stock["mbpp"], [data.MBPP] * 4, answers) == [1.0, 0.0, 0.0, 1.0]
    assert batches == [3]  # one batch, equal programs once


def test_01_an_error_of_the_sandbox_is_no_wrong_answer(stock, monkeypatch):
    broken = sandbox.Verdict(False, "sandbox error: the server ended or hung", 0.0, ran=False)
    monkeypatch.setattr(sandbox, "run_many", lambda texts, *rest: [broken for _ in texts])
    for name, doc, answer in (
        ("mbpp", data.MBPP, "x = 1"),
        ("cruxeval_output", data.CRUXEVAL, "6"),
    ):
        with pytest.raises(SampleError, match="server ended"):
            scores(name, stock[name], [doc], [answer])
    monkeypatch.undo()
    # asked again, run again
    assert scores("mbpp", stock["mbpp"], [data.MBPP], [data.MBPP["code"]]) == [1.0]


def test_01_cruxeval_judges_as_before_and_in_the_sandbox(stock, tmp_path):
    spec = importlib.util.spec_from_file_location(
        "cruxeval_as_it_is", TASKS / "cruxeval" / "utils.py"
    )
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    sys.modules[spec.name] = original  # its processes look there
    try:
        programs = [
            "def f(x):\n    return x\nassert f(1)==1", "assert False", "1 +", "import sys\nsys.exit(0)", "raise Exception",
            "f = print\nassert f(1) is None",
        ]  # fmt: skip
        before = [original.check_correctness(program) for program in programs]
    finally:
        del sys.modules[spec.name]
    module = stock["cruxeval_output"]._metric_fn_list["pass_at_k"].__wrapped__.__globals__
    assert before == [True, False, False, False, False, True]
    assert [module["check_correctness"](program) for program in programs] == before
    answers = ["6", "7", "exit()", "[open('/etc/passwd')]"]
    assert scores("cruxeval_output", stock["cruxeval_output"], [data.CRUXEVAL] * 4, answers) == [
        1.0,
        0.0,
        0.0,
        0.0,
    ]
    assert scores(
        "cruxeval_input", stock["cruxeval_input"], [data.CRUXEVAL] * 2, ["f(3)", "f(4)"]
    ) == [1.0, 0.0]


def test_01_a_module_that_was_loaded_with_another_code_eval_is_put_right():
    import evaluate
    from datasets import Features, Value

    class Theirs(evaluate.Metric):
        def _info(self):
            features = Features({"predictions": Value("string"), "references": Value("string")})
            return evaluate.MetricInfo(description="", citation="", features=features)

    module = ModuleType("loaded_before_us")
    module.__file__, module.__mtime__, module.compute_ = "/nowhere/loaded_before_us.py", 0, Theirs()
    module.compute_._metric_name = None
    type(module.compute_).name = property(lambda self: "code_eval")
    sys.modules[module.__name__] = module
    try:
        assert not is_replaced(module.__file__)
        judge_in_sandbox({})
        assert module.compute_ is METRIC and is_replaced(module.__file__)
    finally:
        del sys.modules[module.__name__]


# -- numpy -----------------------------------------------------------------------------------------


def test_01_tests_that_import_numpy_have_it_and_no_other_program():
    uses = "import numpy as np\nassert np.arange(3).sum() == 3"
    assert [v.passed for v in run_programs([Program("", uses), Program(uses, ""), Program(uses, "assert True")])] == [
        True, False, False,
    ]  # fmt: skip
    assert imports_numpy("from numpy.linalg import inv") and imports_numpy(
        "def check(f):\n    import numpy, math"
    )
    assert not any(
        map(imports_numpy, ("import numpyro", "x = 'import numpy'", "import numpy ("))
    ), "text is no import"


@pytest.mark.parametrize("kind", sandbox.KINDS)
def test_01_numpy_is_there_to_read_and_nothing_beside_it(kind):
    box = sandbox.Sandbox(kind, sandbox.link.numpy_files())
    try:
        held = box.protections()
    except sandbox.Unavailable as refusal:
        pytest.skip(str(refusal))
    assert held[1] == "numpy" and "read-only package" in held
    without = sandbox.Sandbox(kind)
    assert set(held) - {"numpy", "read-only package"} == set(without.protections())
    right = "import numpy.testing, numpy.fft, numpy.polynomial\nimport numpy as np\nassert np.ones((9, 9)).sum() == 81"
    assert box.run(right).reason == "passed"
    assert "No module named 'numpy'" in without.run(right).reason
    for attempt in (
        "import numpy, os\nos.remove(numpy.__file__)",
        "import numpy, os\nos.mkdir(os.path.join(os.path.dirname(numpy.__file__), 'x'))",
        "import scipy", "import dlm_eval", "import torch",
        "import numpy as np\nnp.ones(1 << 28)",
    ):  # fmt: skip
        assert not box.run(attempt).passed, attempt
    seeded = "import numpy as np\nassert False, np.random.rand()"
    assert (
        box.run(seeded).reason
        == box.run(seeded).reason
        == "failed: AssertionError: 0.5488135039273248"
    )
    threads = "import threading\nassert len(__import__('os').listdir('/proc/self/task')) == 1"
    assert box.run(threads).passed or "proc" in box.run(threads).reason
    box.close()
    without.close()


# -- what the user is told -------------------------------------------------------------------------


def cli(capsys, *options: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*RUN, *options])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_01_stock_tasks_load_without_confirmation_and_run_with_it(stock, tmp_path, capsys):
    folder = str(data.write(tmp_path / "data"))
    # by file: no index is read
    tasks, out = (f"{marked()['mbpp']},{marked()['humaneval_plus']}", str(tmp_path / "out"))
    assert main(["validate", marked()["mbpp"], "--data_dir", folder]) == 0
    code, _, error = cli(capsys, "--tasks", tasks, "--data_dir", folder, "--output_path", out)
    assert (
        code == 2
        and len(error.splitlines()) == 1
        and "(in a sandbox); add --confirm_run_unsafe_code" in error
    )
    options = (
        "--tasks",
        tasks,
        "--data_dir",
        folder,
        "--output_path",
        out,
        "--confirm_run_unsafe_code",
    )
    # humaneval_plus asks for more tokens than tiny has positions
    options += ("--decode", "gen_length=16,steps=4")
    code, printed, _ = cli(capsys, *options)
    assert code == 0 and "UNSANDBOXED" not in printed
    (file,) = (tmp_path / "out").rglob("results_*.json")
    said = json.loads(file.read_text())["dlm_eval"]["environment"]["sandbox"]
    assert set(said) == {"mbpp", "humaneval_plus"} and "network" in said["mbpp"]
    assert "numpy" in said["humaneval_plus"] and "numpy" not in said["mbpp"]


@pytest.mark.parametrize(
    "scorer",
    [
        "import functools\ndef outer(f):\n    @functools.wraps(f)\n    def inner(*a):\n        eval('1')\n        return f(*a)\n"
        "    return inner\n@outer\ndef process_results(doc, results):\n    return {'acc': 1.0}\n",
        "import functools\n@functools.cache\ndef process_results(doc, results):\n    eval('1')\n",
        "class Score:\n    def __call__(self, doc, results):\n        eval('1')\nprocess_results = Score()\n",
        "class Score:\n    def run(self, doc, results):\n        eval('1')\nprocess_results = Score().run\n",
        "def process_results(doc, results):\n    eval('1')\nprocess_results = process_results.__call__\n",
    ],
    ids=["decorator", "cached", "object", "method", "call"],
)
def test_01_every_kind_of_callable_is_followed(tmp_path, scorer):
    folder = write_task(tmp_path, "t_eval", scorer)
    way = way_of(load_tasks(["t_eval"], include_path=folder)["tasks"]["t_eval"])
    assert way is not None and not way.sandboxed and "eval in" in way.reason


@pytest.mark.parametrize("mark", [(), ("unsafe_code: true",)])
@pytest.mark.parametrize("options", [(), ("--confirm_run_unsafe_code",), ("--unsandboxed",)])
def test_01_a_task_that_runs_answers_by_itself_is_refused_by_name(tmp_path, capsys, mark, options):
    folder = write_task(tmp_path / "tasks", "t_eval", EVALS, *mark)
    out = ("--include_path", str(folder), "--output_path", str(tmp_path / "out"))
    code, _, error = cli(capsys, "--tasks", "t_eval", *out, *options)
    assert code == 2 and len(error.splitlines()) == 1, error
    assert "t_eval would run generated code outside the sandbox: eval in" in error
    assert "--unsandboxed and --confirm_run_unsafe_code" in error


def test_01_results_table_and_board_say_that_it_ran_outside(tmp_path, capsys, caplog):
    folder = write_task(tmp_path / "tasks", "t_eval", EVALS)
    write_task(folder, "t_safe", EVALS.replace("eval('1')", "int('1')"))
    (folder / "t_both.yaml").write_text(
        "group: t_both\ntask: [t_eval, t_safe]\naggregate_metric_list: [{metric: acc, aggregation: mean}]\n"
    )
    out = tmp_path / "out"
    options = (
        "--include_path",
        str(folder),
        "--output_path",
        str(out),
        "--unsandboxed",
        "--confirm_run_unsafe_code",
    )
    with caplog.at_level(logging.WARNING):
        code, printed, error = cli(capsys, "--tasks", "t_both", *options)
    assert code == 0, error
    assert (
        "t_eval (UNSANDBOXED)" in printed
        and "t_both (UNSANDBOXED)" in printed
        and "t_safe (" not in printed
    )
    (file,) = out.rglob("results_*.json")
    said = json.loads(file.read_text())["dlm_eval"]["environment"]["sandbox"]
    assert (
        list(said) == ["t_eval"]
        and said["t_eval"][0] == "UNSANDBOXED"
        and "eval in" in said["t_eval"][1]
    )
    board = pandas.read_csv(out / "leaderboard.csv", keep_default_na=False)
    assert dict(zip(board["task"], board["code"], strict=True)) == {
        "t_eval": "UNSANDBOXED", "t_safe": "", "t_both": "UNSANDBOXED",
    }  # fmt: skip
    wide = pandas.read_csv(out / "leaderboard_wide.csv", keep_default_na=False)
    assert "UNSANDBOXED" in set(wide["setting"])


def test_01_a_marked_task_of_unknown_ways_is_not_called_sandboxed(tmp_path):
    folder = write_task(
        tmp_path,
        "t_marked",
        "def process_results(doc, results):\n    return {'acc': 1.0}\n",
        "unsafe_code: true",
    )
    way = way_of(load_tasks(["t_marked"], include_path=folder)["tasks"]["t_marked"])
    assert way is not None and not way.sandboxed and "not known" in way.reason


def test_01_a_task_that_uses_our_sandbox_asks_and_says_so(tmp_path):
    scorer = "from dlm_eval import sandbox\ndef process_results(doc, results):\n    return {'acc': float(sandbox.run('').passed)}\n"
    folder = write_task(tmp_path, "t_box", scorer)
    options = {"include_path": str(folder), "limit": 1, "bootstrap_iters": 0}
    with pytest.raises(UserError, match="confirm_run_unsafe_code"):
        evaluate("tiny", ["t_box"], **options)
    results = evaluate("tiny", ["t_box"], confirm_run_unsafe_code=True, **options)
    assert results["results"]["t_box"]["acc,none"] == 1.0
    assert "network" in results["dlm_eval"]["environment"]["sandbox"]["t_box"]


def test_01_answers_alone_run_nothing_and_claim_nothing(tmp_path):
    folder = write_task(tmp_path, "t_eval", EVALS, "unsafe_code: true")
    options = {"include_path": str(folder), "limit": 1, "bootstrap_iters": 0, "predict_only": True}
    results = evaluate("tiny", ["t_eval"], **options)
    assert "sandbox" not in results["dlm_eval"]["environment"]


def test_01_functions_that_are_listed_as_running_nothing_exist(stock):
    for file, name in NOTHING_RUN:
        path = package_root("lm_eval") / file
        assert f"def {name}(" in path.read_text()
        assert not any(hit.runs for hit in reach([(str(path), name)]))


# -- truth: the benchmarks' own solutions ----------------------------------------------------------

BENCHMARKS = {
    "humaneval": "openai/openai_humaneval/openai_humaneval",
    "humaneval_plus": "evalplus/humanevalplus/default",
    "mbpp": "google-research-datasets/mbpp/full",
    "mbpp sanitized": "google-research-datasets/mbpp/sanitized",
}

SAMPLE = 8  # of each benchmark where the whole is not asked for


def problems(shared: Path, name: str) -> list[tuple[dict, str, str, str]]:
    """Returns (document, what a right model would write, the whole program, its function) of a benchmark."""
    rows = [
        json.loads(line)
        for line in (shared / "data" / BENCHMARKS[name] / "test.jsonl").open(encoding="utf-8")
    ]
    if not name.startswith("mbpp"):
        return [
            (d, d["canonical_solution"], d["prompt"] + d["canonical_solution"], d["entry_point"])
            for d in rows
        ]
    found = []
    for doc in rows:
        # lm-eval gives the tests alone: what they need beside the answer stands around it, as a model may write it
        imports, setup = "\n".join(doc.get("test_imports", ())), doc.get("test_setup_code") or ""
        program = f"{imports}\n{doc['code']}\n{setup}"
        found.append((doc, program, program, entry_of(doc["test_list"][0], doc["code"])))
    return found


def score_of(shared: Path, name: str, chosen: list[tuple[dict, str]]) -> list[str]:
    """Returns the ids of the documents whose answer scores 1."""
    if not chosen:
        return []
    task_name = name.split()[0]
    task = load_tasks([marked()[task_name]], data_dir=shared / "data")["tasks"][task_name]
    found = scores(task_name, task, [doc for doc, _ in chosen], [answer for _, answer in chosen])
    return [
        str(doc["task_id"]) for (doc, _), score in zip(chosen, found, strict=True) if score == 1
    ]


def changes(name: str, chosen: list, place: int = -1) -> list[tuple[dict, str]]:
    """Returns documents and answers with one changed `return`, without those that have none there."""
    # what the task puts before it ends in an open function
    before = "" if name.startswith("mbpp") else "    pass\n"
    wrong = [(doc, changed(program, entry, place)) for doc, _, program, entry in chosen]
    return [(doc, before + text) for doc, text in wrong if text is not None]


def answers(chosen: list) -> list[tuple[dict, str]]:
    return [(doc, answer) for doc, answer, _, _ in chosen]


def ids(chosen: list) -> list[str]:
    return [str(doc["task_id"]) for doc, *_ in chosen]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_01_reference_solutions_pass_and_changed_ones_fail(shared, name):
    known = KNOWN.get(name, Known())
    odd = {*known.wrong, *known.slow, *known.weak}
    sound = [item for item in problems(shared, name) if str(item[0]["task_id"]) not in odd]
    some = random.Random(0).sample(sound, SAMPLE)
    assert score_of(shared, name, answers(some)) == ids(some)
    assert score_of(shared, name, changes(name, some)) == []


@pytest.mark.full
@pytest.mark.parametrize("name", BENCHMARKS)
def test_01_every_reference_solution_passes_and_every_changed_one_fails(shared, name):
    known = KNOWN.get(name, Known())
    chosen = problems(shared, name)
    assert (
        len(chosen)
        == {"humaneval": 164, "humaneval_plus": 162, "mbpp": 500, "mbpp sanitized": 257}[name]
    )
    assert len(changes(name, chosen)) == len(chosen)
    due = [item for item in chosen if str(item[0]["task_id"]) not in {*known.wrong, *known.slow}]
    assert score_of(shared, name, answers(due)) == ids(due)
    assert (
        score_of(
            shared,
            name,
            answers([item for item in chosen if str(item[0]["task_id"]) in known.wrong]),
        )
        == []
    )
    assert score_of(shared, name, changes(name, chosen)) == list(known.weak)


@pytest.mark.full
@pytest.mark.parametrize("name", ["mbpp", "mbpp sanitized"])
def test_01_a_change_that_the_tests_come_to_is_seen(shared, name):
    """Where the tests never come to the last `return`, they do come to another."""
    unreached = [number for number, why in KNOWN[name].weak.items() if why != TOLERANT]
    chosen = [item for item in problems(shared, name) if str(item[0]["task_id"]) in unreached]
    seen = set()
    for place in range(5):
        some = changes(name, chosen, place)
        seen |= {*ids(some)} - {*score_of(shared, name, some)}
    assert seen == {*unreached}


@dataclass(frozen=True)
class Known:
    """Problems of a benchmark that are known not to tell right from wrong, each read and run in a plain Python too.

    Attributes:
        wrong: The solution fails its own tests, in a plain Python too.
        slow: The solution computes for longer than the limit, in seconds of a plain Python on a slow CPU.
        weak: The solution with its last `return` changed passes its tests, and why.
    """

    wrong: tuple[str, ...] = ()
    slow: dict[str, float] = field(default_factory=dict)
    weak: dict[str, str] = field(default_factory=dict)


TOLERANT = "compared with a relative tolerance of 1e-3, and the change is smaller"
KNOWN = {
    "humaneval_plus": Known(
        wrong=tuple(
            f"HumanEval/{n}"
            for n in (22, 44, 49, 64, 76, 91, 95, 97, 111, 122, 123, 124, 125, 132, 140, 150)
        ),
        # the first two, which recur without memory, were ended after 220 s; 96, 139 and 39 pass after 21, 16 and 25 s
        slow={"HumanEval/55": math.inf, "HumanEval/63": math.inf, "HumanEval/127": 496.0},
    ),
    "mbpp": Known(
        weak={
            "20": "no test has an odd number that is not a Woodall number",
            "29": "an element of odd count is in every list",
            "34": "an element is missing in every list",
            "177": "twice the lower bound is within every range",
            "189": "a number below n is missing in every list",
            "351": "an element occurs k times in every list",
            "382": "equivalent: the loop ends by itself for no list that is sorted and rotated",
            "404": "the first number is the smaller one in every test",
            "485": "a palindrome is in every list",
        }
    ),
    "mbpp sanitized": Known(
        weak={
            "20": "no test has an odd number that is not a Woodall number",
            "82": TOLERANT,
            "85": TOLERANT,
            "404": "the first number is the smaller one in every test",
        }
    ),
}

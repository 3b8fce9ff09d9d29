"""Odd values for every option, setting, task key, and key of a board or of rules, and what may become of a command that gets one: exit code 0, 1 or 2 (3 of `check`), and one line of error."""

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

from run_files import write_run

from dlm_eval.cli import build_parser, main
from dlm_eval.errors import DlmEvalError
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.reports.board.board_file import read_board_file

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
    """One try: a command line, the settings of `evaluate`, or a file's key and value."""

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
    "merge",
    "compare",
    "check",
    "baseline save",
    "baseline show",
    "baseline update",
    "view",
    "export",
)
BOARD = {
    "title": "a board", "notes": "a note",
    "tasks": [{"name": "T", "task": "t", "metric": "exact_match", "chance": 0.1}, {"name": "U", "task": "u", "metric": "exact_match", "chance": 0.1}],
    "rows": [{"label": "R", "match": {"model": "*"}}], "others": "show", "columns": ["model"], "cell": ["stderr"],
    "require": {}, "policy": {}, "averages": [{"name": "mean", "of": ["T", "U"], "kind": "macro"}], "order": {"by": "mean"}, "ranks": {"by": "mean", "draws": 100},
}  # fmt: skip
BOARD_TASK = ("task", "metric", "filter", "name", "shots", "chance", "require", "note", "published")
RULES = ("alpha", "margin", "strict", "tasks", "x")
TASK_RULES = ("floor", "max_drop", "margin", "max_forwards", "min_forwards_ratio", "max_forwards_ratio", "x")  # fmt: skip


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
    for value in VALUES:
        for key in (*BOARD, "published", "x"):
            yield Case("board", key, value)
        for key in BOARD_TASK:
            yield Case("board", f"tasks.{key}", value)
        for key in ("rows", "averages"):
            for part in BOARD[key][0]:
                yield Case("board", f"{key}.{part}", value)
        for key in RULES:
            yield Case("rules", key, value)
        for key in TASK_RULES:
            yield Case("rules", f"t.{key}", value)
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
    with_results(home)
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
    allowed = (0, 1, 2, 3) if case.kind in ("check", "rules") else (0, 1, 2)
    if code not in allowed or (code == 2 and len(lines) != 1 and case.kind != "evaluate"):
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
        "leaderboard": ["leaderboard", str(home / "runs")],
        "merge": ["merge", str(home / "shards"), "--include_path", tasks, "--output_path", str(home / "merged")],
        "compare": ["compare", str(home / "runs" / "a"), str(home / "runs" / "b")],
        "check": ["check", str(home / "runs" / "b"), "--baseline", str(home / "a.gz")],
        "baseline save": ["baseline", "save", str(home / "runs" / "a"), "--output", str(home / "o.gz")],
        "baseline show": ["baseline", "show", str(home / "a.gz")],
        "baseline update": ["baseline", "update", str(home / "runs" / "b"), "--output", str(home / "b.gz")],
        "view": ["view", str(home / "runs"), "--output", str(home / "site")],
        "export": ["export", "json", str(home / "runs"), "--output", str(home / "o.json")],
    }  # fmt: skip
    if case.kind in base:
        words = list(base[case.kind])
        if case.kind == "leaderboard" and case.name == "--output":
            words += ["--board", str(home / "board.yaml")]
        if case.kind == "trace" and case.name in ("--from", "--task", "--doc", "--answer", "--jsonl"):  # fmt: skip
            words = ["trace", "--from", str(home / "traced"), "--doc", "0"]
        if case.name in words:
            at = words.index(case.name)
            del words[at : at + 2]
        if case.name == "":
            words[len(case.kind.split()) + (case.kind == "export")] = case.value
            return main(words)
        if case.name in (
            "--output",
            "--output_path",
            "--html",
            "--json",
            "--jsonl",
            "--junit",
            "--markdown",
        ) and case.value[:1] not in ("", "/"):
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
    if case.kind in ("board", "rules"):
        return _file(case, home)
    return _task(case, home)


def with_results(home: Path) -> None:
    """Writes what commands read below `home`: two runs, baselines, a board, a run with trajectories, shards."""
    if (home / "runs").exists():
        return
    for name, scores in (("a", [1.0, 0.0, 1.0, 1.0]), ("b", [1.0, 0.0, 0.0, 1.0])):
        write_run(home / "runs" / name, {"t": scores, "u": scores})
    for name in ("a.gz", "b.gz"):
        main(["baseline", "save", str(home / "runs" / "a"), "-o", str(home / name)])
    (home / "board.yaml").write_text(json.dumps(BOARD))
    assert read_board_file(home / "board.yaml")
    run = ["run", "--model", "toy", "--tasks", "t_write", "--include_path", str(home / "tasks"), "--limit", "2"]  # fmt: skip
    main([*run, "--log_trajectories", "--output_path", str(home / "traced")])
    for shard in ("1/2", "2/2"):
        main([*run, "--shard", shard, "--output_path", str(home / "shards")])


def _file(case: Case, home: Path) -> int:
    """Tries a board or rules with an odd value."""
    import yaml

    task = {"floor": 0.1, "max_drop": 0.9}
    document: dict[str, Any] = (
        json.loads(json.dumps(BOARD))
        if case.kind == "board"
        else {"alpha": 0.01, "tasks": {"t": task}}
    )
    place, _, key = case.name.rpartition(".")
    inside = document["tasks"]["t"] if place == "t" else document[place][0] if place else document
    inside[key] = case.value
    file = home / "odd.yaml"
    try:
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    except (yaml.YAMLError, UnicodeError):
        return 0
    if case.kind == "board":
        return main(
            ["leaderboard", str(home / "runs"), "--board", str(file), "-o", str(home / "o")]
        )
    return main(["check", str(home / "runs" / "b"), "--baseline", str(home / "a.gz"), "--rules", str(file)])  # fmt: skip


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

"""`dlm-eval compare`: what moved between runs, and what that did to their scores."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import path_of
from dlm_eval.output import one_line, table
from dlm_eval.printable import counted, decimals, printable, shortened

if TYPE_CHECKING:
    from dlm_eval.reports.files.baseline import Noise
    from dlm_eval.reports.files.runs import Run
    from dlm_eval.reports.regression.compare import Comparison, Moved, TaskComparison

DESCRIPTION = """
Compares runs with the first one, document by document: the settings that moved, the difference of
every task's headline score with its 95 % interval and p-value, the documents that flipped, equal
answers, cost, and signs of collapse (docs/guides/compare.md). A run is a result file, or a folder whose
newest run is taken.
"""
LONGEST = 400  # characters of a text that --show prints
WIDEST = 40  # characters of a setting's value
MOST_ALONE = 8  # settings of one run alone that have a row each


def add_parser(subparsers: Any) -> None:
    """Adds `compare`."""
    parser = subparsers.add_parser(
        "compare", help="what moved between runs, and what that did to the scores",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "runs",
        nargs="+",
        type=path_of("RUN"),
        metavar="RUN",
        help="two or more result files, folders or baselines",
    )
    parser.add_argument(
        "--show", type=int, default=0, metavar="N",
        help="print prompt, target and answers of N documents per task that became worse, and of N "
             "that became better",
    )  # fmt: skip
    parser.add_argument(
        "--noise_floor", nargs=2, type=path_of("--noise_floor"), metavar=("RUN1", "RUN2"),
        help="show beside each difference what these two runs of one configuration differ by",
    )  # fmt: skip
    parser.add_argument(
        "--other_prompts", action="store_true",
        help="compare although shots, chat template or prompts differ",
    )  # fmt: skip
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints the comparison of each run with the first one; returns 0.

    Raises:
        UserError: fewer than two runs, or runs that cannot be compared.
    """
    from dlm_eval.errors import UserError
    from dlm_eval.reports.files.baseline import open_run
    from dlm_eval.reports.regression.compare import compare, noise_floor

    if len(args.runs) < 2:
        raise UserError("compare needs two or more runs")
    if args.show < 0:
        raise UserError(f"--show '{args.show}' is not allowed; it must be 0 or more")
    first, *others = map(open_run, args.runs)
    noise = noise_floor(*map(open_run, args.noise_floor)) if args.noise_floor else {}
    for number, other in enumerate(others):
        comparison = compare(first, other, args.other_prompts)
        print("\n".join([*([""] if number else []), *lines(comparison, noise, args.show)]))
    return 0


def lines(comparison: Comparison, noise: Mapping[str, Noise], show: int = 0) -> Iterator[str]:
    """Yields the lines of a report of one comparison."""
    yield _run_line("A", comparison.first)
    yield _run_line("B", comparison.second)
    yield ""
    yield "What moved"
    yield from _moved_lines(comparison.moved, "no setting")
    if comparison.environment:
        yield ""
        yield "Environment"
        yield from _moved_lines(comparison.environment, "")
    yield ""
    yield from _score_lines(comparison.tasks, noise)
    yield ""
    yield from _answer_lines(comparison.tasks)
    yield from _flag_lines(comparison.tasks)
    for task in comparison.tasks:
        for note in task.notes:
            yield one_line(f"{task.task}: {note}")
    yield from map(one_line, comparison.alone)
    for task in comparison.tasks if show else ():
        yield from _shown(comparison, task, show)


def _run_line(letter: str, run: Run) -> str:
    return one_line(f"{letter}  {run.model or 'unknown model'}  {run.source}  {run.date or ''}")


def _moved_lines(moved: Sequence[Moved], nothing: str) -> list[str]:
    if not moved:
        return [f"  {nothing}"]
    alone: list[Moved] = [each for each in moved if None in (each.first, each.second)]
    alone = alone if len(alone) > MOST_ALONE else []
    rows = [
        [each.name, _short(each.first), _short(each.second), ", ".join(each.tasks)]
        for each in moved
        if each not in alone
    ]
    headers = ["setting", "A", "B", "tasks"]
    if not any(row[3] for row in rows):
        rows, headers = [row[:3] for row in rows], headers[:3]
    found = table(rows, headers).splitlines() if rows else []
    for letter, own in (
        ("A", [each for each in alone if each.second is None]),
        ("B", [each for each in alone if each.second is not None]),
    ):
        if own:
            names = dict.fromkeys(
                f"{each.name} {_short(each.first or each.second)}" for each in own
            )
            text = one_line(
                f"only {letter} has {counted(len(names), 'setting')}: {', '.join(names)}"
            )
            found += textwrap.wrap(text, 100, subsequent_indent="  ")
    return found


def _short(value: str | None) -> str:
    return shortened("-" if value is None else value, WIDEST)


def _score_lines(tasks: Sequence[TaskComparison], noise: Mapping[str, Noise]) -> list[str]:
    headers = ["task", "metric", "n", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "test"]
    rows = []
    for task in tasks:
        row = [
            task.task,
            task.metric + (" (difference in nats)" if task.scale == "nats" else ""),
            "" if task.n is None else str(task.n),
            number(task.first),
            number(task.second),
            signed(task.difference),
            "" if math.isnan(task.low) else f"{signed(task.low)} to {signed(task.high)}",
            p_text(task.p),
            p_text(task.adjusted),
            task.pairs.test if task.pairs else "unpaired",
        ]
        if noise:
            found = noise.get(task.task)
            row.append(
                f"{signed(found.difference)}, {found.flips} of {found.n} flipped" if found else ""
            )
        rows.append(row)
    return table(rows, [*headers, *(["noise floor"] if noise else [])]).splitlines()


def _answer_lines(tasks: Sequence[TaskComparison]) -> list[str]:
    from dlm_eval.reports.regression.compare import COSTS

    headers = ["task", "better", "worse", "equal answers", "margin B - A (nats)", "MC stderr"]
    costs = [name for name in COSTS if any(name in (task.cost or {}) for task in tasks)]
    headers += [f"{name} B / A" for name in costs]
    rows = []
    for task in tasks:
        if task.pairs is None:
            continue
        margin = task.margin
        cost = task.cost or {}
        rows.append([
            task.task,
            str(len(task.better)),
            str(len(task.worse)),
            "" if task.equal is None else f"{100 * task.equal:.1f} %",
            f"{signed(margin.difference)} ({signed(margin.low)} to {signed(margin.high)})"
            if margin else "",
            "" if task.margin_stderr is None else number(task.margin_stderr),
            *(f"{cost[name]:.2f}" if name in cost else "" for name in costs),
        ])  # fmt: skip
    return [*table(rows, headers).splitlines(), ""] if rows else []


def _flag_lines(tasks: Sequence[TaskComparison]) -> list[str]:
    names = list(dict.fromkeys(name for task in tasks for flags in task.flags for name in flags))
    rows = [
        [
            task.task,
            *(" / ".join(str(flags.get(name, 0)) for flags in task.flags) for name in names),
        ]
        for task in tasks
        if any(task.flags)
    ]
    headers = ["signs of collapse, A / B", *names]
    return [*table(rows, headers).splitlines(), ""] if rows else []


def _shown(comparison: Comparison, task: TaskComparison, most: int) -> Iterator[str]:
    if task.task not in comparison.first.tasks:  # a group; its tasks are shown
        return
    first = comparison.first.tasks[task.task].documents or {}
    second = comparison.second.tasks[task.task].documents or {}
    for word, keys in (("worse", task.worse), ("better", task.better)):
        for key in keys[:most]:
            one, two = first[key], second[key]
            yield ""
            yield one_line(f"{task.task}, document {one.doc_id}: {word} in B")
            texts = one.texts or two.texts
            if texts:
                yield f"  prompt   {_tail(texts.prompt)}"
                yield f"  target   {_head(texts.target)}"
            for letter, document in (("A", one), ("B", two)):
                answers = document.texts.answers if document.texts else ("(not stored)",)
                yield f"  {letter}        {_head(' | '.join(answers))}"


def _head(text: str) -> str:
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _tail(text: str) -> str:
    return printable(text if len(text) <= LONGEST else f"…{text[-LONGEST:]}")


def number(value: float) -> str:
    """Returns a score as text."""
    return "" if math.isnan(value) else decimals(value)


def signed(value: float) -> str:
    """Returns a difference as text with its sign."""
    return "" if math.isnan(value) else decimals(value, "+")


def p_text(value: float) -> str:
    """Returns a p-value as text."""
    return "" if math.isnan(value) else f"{value:.4f}" if value >= 1e-4 else f"{value:.1e}"

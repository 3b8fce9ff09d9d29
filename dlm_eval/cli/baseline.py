"""`dlm-eval baseline save|show|update`: the file that `dlm-eval check` compares runs with."""

from __future__ import annotations

import argparse
from typing import Any

from dlm_eval.cli.options import add_run, path_of
from dlm_eval.output import one_line, table
from dlm_eval.printable import counted


def add_parser(subparsers: Any) -> None:
    """Adds `baseline` with the verbs save, show and update."""
    parser = subparsers.add_parser(
        "baseline", help="the committed file that `check` compares runs with", description=__doc__
    )
    verbs = parser.add_subparsers(dest="verb", metavar="save|show|update", required=True)
    save = verbs.add_parser("save", help="make a baseline from a run")
    update = verbs.add_parser("update", help="replace a baseline by a newer run; print what moved")
    for sub, main in ((save, _save), (update, _update)):
        add_run(sub)
        sub.add_argument(
            "-o",
            "--output",
            type=path_of("--output"),
            required=True,
            metavar="FILE.jsonl.gz",
            help="the baseline that is written",
        )
        sub.add_argument(
            "--noise_floor", type=path_of("--noise_floor"), metavar="RUN2",
            help="a second run of the same configuration: how many answers differ by chance",
        )  # fmt: skip
        sub.set_defaults(main=main)
    show = verbs.add_parser("show", help="print what a baseline holds")
    show.add_argument("file", type=path_of("FILE"), metavar="FILE")
    show.set_defaults(main=_show)


def _save(args: argparse.Namespace) -> int:
    from dlm_eval.reports.files.baseline import Baseline, save_baseline
    from dlm_eval.reports.files.runs import read_run
    from dlm_eval.reports.regression.compare import noise_floor

    run = read_run(args.run)
    noise = noise_floor(run, read_run(args.noise_floor)) if args.noise_floor else {}
    size = save_baseline(Baseline(run, noise), args.output)
    documents = sum(len(task.documents or ()) for task in run.tasks.values())
    print(
        one_line(
            f"{args.output}: {counted(len(run.tasks), 'task')}, {counted(documents, 'document')}, "
            f"{size} bytes"
        )
    )
    return 0


def _update(args: argparse.Namespace) -> int:
    from dlm_eval.cli.compare import lines
    from dlm_eval.reports.files.baseline import read_baseline
    from dlm_eval.reports.files.runs import read_run
    from dlm_eval.reports.regression.compare import compare

    old = read_baseline(args.output)
    print("\n".join(lines(compare(old.run, read_run(args.run), other_prompts=True), {})))
    return _save(args)


def _show(args: argparse.Namespace) -> int:
    from dlm_eval.reports.files.baseline import read_baseline

    baseline = read_baseline(args.file)
    run = baseline.run
    print(one_line(f"{run.model or 'unknown model'}  {run.source}  {run.date or ''}"))
    print(one_line(", ".join(f"{name} {value}" for name, value in run.environment.items())))
    print(f"batch invariant: {one_line(run.batch_invariant)}\n")
    rows = []
    for task in run.tasks.values():
        costs = [document.forwards for document in (task.documents or {}).values()]
        known = [cost for cost in costs if cost is not None]
        noise = baseline.noise.get(task.name)
        for row in task.rows:
            rows.append([
                task.name,
                row.metric if row.filter in (None, "none") else f"{row.metric},{row.filter}",
                f"{row.value:.4f}",
                str(len(costs)),
                f"{sum(known) / len(known):.1f}" if known else "",
                f"{noise.answers} of {noise.n} answers" if noise else "",
                task.digests.get("configuration", "")[:12],
            ])  # fmt: skip
    headers = ["task", "metric", "value", "documents", "forwards", "noise floor", "configuration"]
    print(table(rows, headers))
    return 0

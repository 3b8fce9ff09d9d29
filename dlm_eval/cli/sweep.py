"""`dlm-eval sweep`: runs a grid of decode settings on one loaded model. The result is quality
against speed, as CSV files and a plot.

    options -> plan (reports/sweep/plan.py, all checks that need no model) -> one run per combination
    -> points (run_points.py) -> tables, plot
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from dlm_eval.cli.options import add_options, path_of
from dlm_eval.errors import RunError, UserError
from dlm_eval.output import one_line, set_verbosity
from dlm_eval.printable import counted


def add_parser(subparsers: Any) -> None:
    """Adds `sweep`."""
    text = "run a grid of decode settings on one loaded model; write sweep.csv, aup.csv and sweep.png (docs/guides/sweep.md)"
    parser = subparsers.add_parser(
        "sweep",
        help="quality against speed over a grid of decode settings",
        description=text,
        allow_abbrev=False,
    )
    add_options(parser, "--model", "--model_args")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=[],
        help="tasks that generate text; each is a panel of the plot",
    )
    parser.add_argument(
        "--decode", nargs="+", metavar="k=v1,v2", action="append", required=True,
        help="commas separate alternatives, all combinations are run: steps=8,16,32 "
             "strategy=confidence,random; a second --decode adds another grid",
    )  # fmt: skip
    parser.add_argument(
        "--decode_fixed",
        nargs="+",
        metavar="k=v,...",
        help="decode settings of every point, the baseline included",
    )
    parser.add_argument(
        "--templates", nargs="+", metavar="TASK", default=[],
        help="tasks or YAML files that word one question differently; their scores are averaged",
    )  # fmt: skip
    parser.add_argument(
        "--sweep",
        choices=("templates",),
        help="templates: all of --tasks are wordings of one question",
    )
    parser.add_argument("--metric", help="metric to plot (default: each task's first)")
    parser.add_argument(
        "--y_max",
        type=float,
        metavar="PERCENT",
        help="best accuracy known, for AUP (default: the best of the sweep)",
    )
    parser.add_argument(
        "--no_baseline", action="store_true", help="leave out the one-token-per-step baseline"
    )
    parser.add_argument(
        "-o", "--output_path", type=path_of("--output_path", str), default="results/sweep", metavar="DIR",
        help="for results, journal, tables and plot (default: results/sweep)",
    )  # fmt: skip
    parser.add_argument("--limit", help="documents of each task, or a share of them below 1")
    add_options(
        parser, *("--num_fewshot", "--batch_size", "--device", "--devices", "--seed", "--data_dir", "--include_path"),
        *("--metadata", "--confirm_run_unsafe_code", "--unsandboxed", "--sandbox", "--no_resume"),
    )  # fmt: skip
    parser.add_argument(
        "--apply_chat_template", nargs="?", const=True, default=False, help="as in `run`"
    )
    parser.add_argument("--system_instruction", help="text of the system message")
    parser.add_argument(
        "--verbosity", default="WARNING", help="DEBUG, INFO, WARNING (default), ERROR or CRITICAL"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Runs the grid; returns 0, or 1 if samples failed."""
    from dlm_eval.harness import frontier
    from dlm_eval.harness.open_model import open_model
    from dlm_eval.harness.run import run
    from dlm_eval.harness.run_settings import output_directory
    from dlm_eval.reports.files.write import write_files
    from dlm_eval.reports.run.report import reasons
    from dlm_eval.reports.run.suite_report import frontier_lines
    from dlm_eval.reports.sweep.curves import Sweep
    from dlm_eval.reports.sweep.plan import make_plan
    from dlm_eval.reports.sweep.plot import draw
    from dlm_eval.reports.sweep.points import words_of
    from dlm_eval.reports.sweep.run_points import points_of
    from dlm_eval.reports.sweep.text import sweep_lines

    set_verbosity(args.verbosity)
    plan = make_plan(vars(args))
    home = output_directory(args.output_path)
    errors = 0
    missing: list[str] = []
    failed: list[str] = []
    with open_model(plan.settings, home) as loaded:
        if loaded.model is None:
            raise UserError(
                f"--model '{args.model}' is not a diffusion language model of dlm_eval; decode"
                " settings mean nothing to it"
            )
        combinations, left_out = plan.fitting(loaded.model)
        for line in left_out:
            print(line, file=sys.stderr)
        sweep = Sweep(loaded.name, y_max=args.y_max)
        samples: list[frontier.Point] = []
        for number, (decode, baseline) in enumerate(combinations):
            title = "baseline" if baseline else words_of(decode)
            print(one_line(f"[{number + 1}/{len(combinations)}] {title}"), file=sys.stderr)
            settings = dataclasses.replace(plan.settings, decode={**plan.fixed, **decode})
            finished = run(settings, shared=loaded)
            errors += finished.errors
            missing += finished.missing
            if finished.errors:
                count = counted(finished.errors, "sample")
                failed += [one_line(f"{title}: {count} could not be answered or scored:")]
                failed += [reasons(finished.results)]
            sweep.points.extend(points_of(finished, plan, decode, baseline))
            samples += frontier.points_of(settings.decode, finished.results)
            # Write after each combination, so that tables can be read during the sweep and an
            # interruption loses nothing.
            write_files({home / "sweep.csv": sweep.csv(), home / "aup.csv": sweep.aup_csv()})
    draw(sweep, home / "sweep.png")
    files = [one_line(str(home / name)) for name in ("sweep.csv", "aup.csv", "sweep.png")]
    notes = ["", *left_out, *failed] if left_out or failed else []
    for line in (*sweep_lines(sweep), "", *files, *notes, *frontier_lines(samples)):
        print(line)
    if missing:
        raise RunError(f"missing: {'; '.join(dict.fromkeys(missing))}; everything else is saved")
    return 1 if errors else 0

"""`dlm-eval sweep`: a grid of decode settings on one loaded model: quality against speed, as CSV and a plot."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import RunError, UserError

if TYPE_CHECKING:
    from dlm_eval.boards.sweep import Sweep


def add_parser(subparsers: Any) -> None:
    """Adds `sweep`."""
    text = "run a grid of decode settings on one loaded model; write sweep.csv, aup.csv and sweep.png (docs/sweep.md)"
    parser = subparsers.add_parser(
        "sweep", help="quality against speed over a grid of decode settings", description=text, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="family or named checkpoint (`dlm-eval ls models`)")
    parser.add_argument("--model_args", nargs="+", metavar="k=v,...", help="the model's own options")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=[],
        help="tasks in which the model writes; each is a panel of the plot",
    )
    parser.add_argument(
        "--decode", nargs="+", metavar="k=v1,v2", action="append", required=True,
        help="commas separate alternatives, all combinations are run: steps=8,16,32 strategy=confidence,random; a second --decode adds another grid",
    )  # fmt: skip
    parser.add_argument(
        "--decode_fixed", nargs="+", metavar="k=v,...", help="decode settings of every point, the baseline included"
    )
    parser.add_argument(
        "--templates",
        nargs="+",
        metavar="TASK",
        default=[],
        help="tasks or YAML files that word one question differently: averaged over",
    )
    parser.add_argument(
        "--sweep", choices=("templates",), help="templates: all of --tasks are wordings of one question"
    )
    parser.add_argument("--metric", help="metric to plot (default: each task's first)")
    parser.add_argument(
        "--y_max", type=float, metavar="PERCENT", help="best accuracy known, for AUP (default: the best of the sweep)"
    )
    parser.add_argument("--no_baseline", action="store_true", help="leave out the one-token-per-step baseline")
    parser.add_argument(
        "-o",
        "--output_path",
        default="results/sweep",
        metavar="DIR",
        help="for results, journal, tables and plot (default: results/sweep)",
    )
    parser.add_argument("--limit", help="documents of each task, or a share of them below 1")
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--batch_size")
    parser.add_argument("--device")
    parser.add_argument("--devices", metavar="0,1|cpu:2|auto", help="one worker process per device")
    parser.add_argument("--seed")
    parser.add_argument("--data_dir", metavar="DIR", help="datasets from local files before the hub")
    parser.add_argument("--include_path", help="further folder of task YAMLs")
    parser.add_argument("--apply_chat_template", nargs="?", const=True, default=False)
    parser.add_argument("--system_instruction")
    parser.add_argument(
        "--confirm_run_unsafe_code", action="store_true", help="tasks may run generated code (in a sandbox)"
    )
    parser.add_argument(
        "--unsandboxed",
        action="store_true",
        help="with --confirm_run_unsafe_code: tasks that the sandbox cannot hold may run generated code, with no protection",
    )
    parser.add_argument(
        "--sandbox", choices=("auto", "namespaces", "plain"), help="kind of sandbox for them (default: the best here)"
    )
    parser.add_argument(
        "--no_resume", dest="resume", action="store_false", help="compute everything again, and keep no journal"
    )
    parser.add_argument("--verbosity", default="WARNING")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Runs the grid; returns 0, or 1 where samples erred."""
    from dlm_eval.boards.csv_file import write_files
    from dlm_eval.boards.sweep import Sweep
    from dlm_eval.boards.sweep_plot import draw
    from dlm_eval.commands.run import _verbosity
    from dlm_eval.harness.run import open_model, run
    from dlm_eval.harness.run_settings import output_directory
    from dlm_eval.harness.sweep_plan import make_plan, points_of
    from dlm_eval.output import one_line

    _verbosity(args.verbosity)
    plan = make_plan(vars(args))
    home = output_directory(args.output_path)
    errors = 0
    missing: list[str] = []
    with open_model(plan.settings, home) as loaded:
        if not loaded.ours:
            raise UserError(
                f"--model '{args.model}' is not a diffusion language model of ours: decode settings mean nothing to it"
            )
        combinations = plan.combinations(loaded.lm.model.process)
        sweep = Sweep(loaded.name, y_max=args.y_max)
        for number, (decode, baseline) in enumerate(combinations):
            words = ", ".join(f"{k}={v}" for k, v in decode.items())
            print(one_line(f"[{number + 1}/{len(combinations)}] {'baseline' if baseline else words}"), file=sys.stderr)
            settings = dataclasses.replace(plan.settings, decode={**plan.fixed, **decode})
            finished = run(settings, shared=loaded)
            errors += finished.errors
            missing += finished.missing
            sweep.points.extend(points_of(finished, plan, decode, baseline))
            # After each point: whoever waits can look, and what is interrupted has lost nothing.
            write_files({home / "sweep.csv": sweep.csv(), home / "aup.csv": sweep.aup_csv()})
    draw(sweep, home / "sweep.png")
    _report(sweep, home)
    if missing:
        raise RunError(f"missing: {'; '.join(dict.fromkeys(missing))}; everything else is saved")
    return 1 if errors else 0


def _report(sweep: Sweep, home: Path) -> None:
    from dlm_eval.output import one_line, table

    def shown(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for task in sweep.tasks():
        front = sweep.front(task)
        rows: list[Sequence[str]] = []
        for p in sweep.of(task):
            score = shown(p.value, 4) + (f" ± {p.stderr:.4f}" if p.stderr is not None else "")
            spread = f"{p.low:.4f} to {p.high:.4f}" if p.low is not None and p.high is not None else ""
            name = p.curve if p.baseline else ", ".join(f"{k}={v}" for k, v in p.decode.items())
            per_sample = shown(p.forwards / p.samples if p.samples else None, 1)
            rows.append(
                [
                    name,
                    score,
                    spread,
                    per_sample,
                    shown(p.tokens_per_forward, 3),
                    shown(p.tokens_per_second, 1),
                    "*" if p in front else "",
                ]
            )
        metric = sweep.of(task)[0].metric
        headers = ["decode", metric, "worst to best wording", "forwards/sample", "tokens/forward", "tokens/s", "Pareto"]
        if all(not row[2] for row in rows):
            rows, headers = [[*row[:2], *row[3:]] for row in rows], [*headers[:2], *headers[3:]]
        print(f"\n{one_line(f'{sweep.model} on {task}')}\n{table(rows, headers)}")
        for curve in sweep.curves(task):
            if curve.aup is not None:
                print(
                    f"AUP {curve.aup:.2f}  {one_line(curve.name or 'sweep')}  (y_max {curve.y_max:.2f} %, {'given' if sweep.y_max is not None else 'best of this sweep'})"
                )
    print("\n" + "\n".join(one_line(str(home / name)) for name in ("sweep.csv", "aup.csv", "sweep.png")))

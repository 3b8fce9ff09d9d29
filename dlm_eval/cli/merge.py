"""`dlm-eval merge`: merges the shards of a run (`dlm-eval run --shard I/N`) to one result."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dlm_eval.cli.options import add_options, path_of
from dlm_eval.output import set_verbosity

DESCRIPTION = """
Makes one result from the shards of a run (`dlm-eval run ... --shard I/N`). The answers of all shards
go into one journal, and filters and metrics run once. The model's weights are not loaded. Results,
samples and journal are those of one run of all documents. A shard that is missing, not finished,
given twice or of another run is an error.
"""
EXAMPLES = """
examples:
  dlm-eval merge results/llada                    all shards below the folder; the result is written there
  dlm-eval merge node1/llada node2/llada -o all   shards that were copied from several machines
"""


def add_parser(subparsers: Any) -> None:
    """Adds `merge`."""
    parser = subparsers.add_parser(
        "merge", help="one result from the shards of a run (run --shard)", description=DESCRIPTION,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "paths",
        nargs="+",
        type=path_of("DIR", str),
        metavar="DIR",
        help="folder of a shard, a folder with shards below it, or a shard.json",
    )
    parser.add_argument(
        "-o", "--output_path", type=path_of("--output_path", str), metavar="DIR",
        help="where the result goes (default: the folder that holds all shards)",
    )  # fmt: skip
    add_options(
        parser, "--data_dir", "--include_path", "--confirm_run_unsafe_code", "--sandbox", "--unsandboxed",
        "--report_to", "--no_log_samples", "--log_trajectories",
    )  # fmt: skip
    parser.add_argument(
        "--verbosity", metavar="LEVEL", help="DEBUG, INFO, WARNING (default), ERROR or CRITICAL"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Merges the shards and prints the table; returns 0, or 1 if samples failed.

    Raises:
        RunError: the result is saved, but a metric, the leaderboard or a report is missing.
    """
    from dlm_eval.cli.run import ask_user, show
    from dlm_eval.harness.saving import parse_reports

    reports = parse_reports(args.report_to, {})
    set_verbosity(args.verbosity)
    from dlm_eval.harness.merge import merge, merge_settings
    from dlm_eval.harness.shards import find_shards

    shards = find_shards(args.paths)
    names = (
        "output_path",
        "data_dir",
        "include_path",
        "sandbox",
        "unsandboxed",
        "log_samples",
        "log_trajectories",
        "verbosity",
    )
    given = {
        name: value for name, value in vars(args).items() if name in names and value is not None
    }
    given |= {"confirm_run_unsafe_code": True} if args.confirm_run_unsafe_code else {}
    if given.get("log_samples") is False:
        given["log_trajectories"] = False  # they would be in the samples files
    settings = merge_settings(shards, given)
    finished = merge(
        shards, settings, ask=ask_user if sys.stdin is not None and sys.stdin.isatty() else None
    )
    return show(finished, settings, reports)

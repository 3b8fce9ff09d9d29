"""`dlm-eval export`: results as JSON, Parquet, or evaluation results of the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any

from dlm_eval.cli.options import path_of

FORMATS = {
    "json": "one object with the lists runs, scores and samples (docs/reference/results.md)",
    "parquet": "runs.parquet, scores.parquet and samples.parquet in a folder",
    "hf-eval-results": "one YAML file per model and task, for .eval_results/ of its repository",
}


def add_parser(subparsers: Any) -> None:
    """Adds `export`."""
    parser = subparsers.add_parser(
        "export", help="results as json, parquet or hf-eval-results", description=__doc__,
        epilog="\n".join(f"{name:16} {about}" for name, about in FORMATS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "format", choices=FORMATS, metavar="|".join(FORMATS), help="what is written: see below"
    )
    parser.add_argument(
        "paths",
        type=path_of("PATH"),
        nargs="+",
        metavar="PATH",
        help="result files, baselines, or folders",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=path_of("--output"),
        required=True,
        metavar="FILE or FOLDER",
        help="what is written: a file for json, else a folder",
    )
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="TASK=OWNER/NAME[:TASK_ID]",
        help="hf-eval-results: the benchmark's dataset, if the task loads another one",
    )  # fmt: skip
    parser.add_argument(
        "--source_url", default="", metavar="URL", help="hf-eval-results: link to the runs"
    )
    parser.add_argument(
        "--source_name", default="", metavar="TEXT", help="hf-eval-results: text of the link"
    )
    parser.set_defaults(main=_main)


def _main(args: argparse.Namespace) -> int:
    from dlm_eval.errors import UserError
    from dlm_eval.printable import counted
    from dlm_eval.reports.files.export import (
        HubOptions,
        write_eval_results,
        write_json,
        write_parquet,
    )
    from dlm_eval.reports.files.load import load_results, load_runs

    hub = HubOptions.of(args.dataset, args.source_url, args.source_name)
    if args.format == "hf-eval-results":
        files = write_eval_results(load_runs(args.paths), args.output, hub)
        print(f"{args.output}: {counted(len(files), 'file')}")
        return 0
    if args.dataset or args.source_url:
        raise UserError(f"--dataset and --source_url mean nothing to '{args.format}'")
    results = load_results(args.paths)
    (write_json if args.format == "json" else write_parquet)(results, args.output)
    sizes = (len(results.runs), len(results.scores), len(results.samples))
    named = zip(sizes, ("run", "score", "sample"), strict=True)
    print(f"{args.output}: {', '.join(counted(number, name) for number, name in named)}")
    return 0

"""`dlm-eval view`: results as web pages, served on this machine or written to a folder."""

from __future__ import annotations

import argparse
from typing import Any

from dlm_eval.cli.options import add_paths, path_of
from dlm_eval.errors import UserError
from dlm_eval.output import one_line
from dlm_eval.printable import counted

PORT = 8642
DESCRIPTION = """
Shows results as web pages: the table of all scores, score against forwards per token, and every
document with its texts, score, cost and order of writing (docs/guides/view.md). Without -o the pages are
served on this machine only, and follow a running run.
"""


def add_parser(subparsers: Any) -> None:
    """Adds `view`."""
    parser = subparsers.add_parser(
        "view", help="results as web pages: scores, charts, samples",
        description=DESCRIPTION, allow_abbrev=False,
    )  # fmt: skip
    add_paths(parser)
    parser.add_argument(
        "-o", "--output", type=path_of("--output"), metavar="DIR",
        help="write the pages to DIR (index.html, samples/) instead of serving them",
    )  # fmt: skip
    parser.add_argument(
        "--board", type=path_of("--board"), metavar="BOARD.yaml",
        help="what the table shows (docs/guides/leaderboards.md; default: each task's headline score)",
    )  # fmt: skip
    parser.add_argument(
        "--texts", action="append", default=[], metavar="[TASK=]none|own|all",
        help="texts that pages show, of the tasks that TASK (with *) names: none, what the model "
             "wrote, or all (default: all, of restricted datasets none)",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="show older runs of the same settings too"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"port (default: {PORT}; 0: a free one)"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Serves the pages until Ctrl-C, or writes them.

    Raises:
        UserError: --port with --output; see also `read_site`, `write_pages` and `serve`.
    """
    from dlm_eval.reports.pages.site import parse_texts, read_site
    from dlm_eval.reports.pages.viewer import Viewer, serve, write_pages

    if args.output is not None and args.port is not None:
        raise UserError("--port and --output exclude each other: written pages are not served")
    texts = parse_texts(args.texts)
    if args.output is None:
        port = PORT if args.port is None else args.port
        serve(Viewer(args.paths, args.board, texts, args.all), port)
        return 0
    count = write_pages(read_site(args.paths, args.board, texts, args.all), args.output)
    print(f"{one_line(str(args.output / 'index.html'))}: {counted(count, 'page')}")
    return 0

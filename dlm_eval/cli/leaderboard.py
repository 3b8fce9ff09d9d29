"""`dlm-eval leaderboard`: tables of all scores in result files."""

from __future__ import annotations

import argparse

from dlm_eval.cli.options import add_paths, path_of
from dlm_eval.output import one_line
from dlm_eval.printable import counted

BOARD_SUFFIXES = (".md", ".tex", ".html")  # `-o` in these formats writes a board


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Adds `leaderboard` to the subcommands and returns its parser."""
    parser = subparsers.add_parser(
        "leaderboard",
        help="tables of all scores in result files",
        description="Collect the scores of result files (lm-eval's format) in a long CSV and a "
        "wide one.",
    )
    add_paths(parser)
    parser.add_argument(
        "-o", "--output", type=path_of("--output"), metavar="FILE",
        help="write the long table to FILE.csv and the wide one to FILE_wide.csv (default: print "
             "the wide one), or a table to FILE.md, FILE.tex or FILE.html; with --board all of them if FILE has no suffix",
    )  # fmt: skip
    parser.add_argument(
        "--board", type=path_of("--board"), metavar="BOARD.yaml",
        help="the tasks, rows, columns, required settings and averages (docs/guides/leaderboards.md; "
             "default: each task's headline score)",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="keep older runs of the same settings too"
    )
    parser.set_defaults(main=main)
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs `dlm-eval leaderboard`; returns the exit code.

    Raises:
        UserError: see `leaderboard` and `write`.
    """
    from dlm_eval.reports.board.leaderboard import leaderboard, wide_csv, write

    if args.board is not None or (args.output and args.output.suffix in BOARD_SUFFIXES):
        return _board(args)
    long = leaderboard(args.paths, keep_all=args.all)
    if args.output is None:
        print(wide_csv(long), end="")
        return 0
    beside = write(long, args.output)
    print(
        f"{one_line(str(args.output))}: {counted(len(long), 'score')}; {one_line(str(beside))}: "
        "models by tasks"
    )
    return 0


def _board(args: argparse.Namespace) -> int:
    from dlm_eval.reports.board.make import read_board
    from dlm_eval.reports.board.text import as_text
    from dlm_eval.reports.files.write import write_files
    from dlm_eval.reports.pages.board_files import files_of

    board = read_board(args.board, args.paths, args.all)
    if args.output is None:
        print(as_text(board), end="")
        return 0
    files = files_of(board, args.output)
    write_files(files)
    print(f"{counted(len(board.rows), 'row')}: {', '.join(one_line(str(path)) for path in files)}")
    return 0

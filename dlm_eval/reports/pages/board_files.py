"""A board as files: CSV, Markdown, LaTeX and a web page, chosen by the suffix of `-o`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.reports.board.board import Board
from dlm_eval.reports.board.csv_tables import as_long_csv, as_wide_csv
from dlm_eval.reports.board.text import as_latex, as_markdown
from dlm_eval.reports.pages.index import index_page
from dlm_eval.reports.pages.site import Site

Writer = Callable[[Board, Path], dict[Path, str]]


def _csv_files(board: Board, path: Path) -> dict[Path, str]:
    wide = path.with_name(f"{path.stem}_wide.csv")
    return {path: as_long_csv(board), wide: as_wide_csv(board)}


WRITERS: dict[str, Writer] = {
    ".csv": _csv_files,
    ".md": lambda board, path: {path: as_markdown(board)},
    ".tex": lambda board, path: {path: as_latex(board)},
    ".html": lambda board, path: {path: index_page(Site(board, {}, ()))},
}


def files_of(board: Board, output: Path) -> dict[Path, str]:
    """Returns path -> text of the files that `-o` asks for: one format by its suffix, or all formats
    if the name has none.

    Raises:
        UserError: there is no such format.
    """
    if not output.name:
        raise UserError(f"output '{output}' must be the name of a file")
    if not output.suffix:
        found: dict[Path, str] = {}
        for suffix, writer in WRITERS.items():
            found |= writer(board, output.with_name(output.name + suffix))
        return found
    if output.suffix not in WRITERS:
        raise unknown_name_error(f"output '{output}': suffix", output.suffix, WRITERS)
    return WRITERS[output.suffix](board, output)

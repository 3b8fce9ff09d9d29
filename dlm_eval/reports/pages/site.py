"""What the pages of results show: a board, and the samples of each of its scores.

    PATHS -> result files -> Board -> SamplesPage (one per run and task)

Only result files are read here. Samples files are read when their page is made
(`samples_page`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import yaml

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.reports.board.board import Board, BoardRow, Cell
from dlm_eval.reports.board.board_file import read_board_file
from dlm_eval.reports.board.headlines import headline_board
from dlm_eval.reports.board.make import figures_beside, make_board
from dlm_eval.reports.files.find import read_result_files
from dlm_eval.reports.files.json_values import nested
from dlm_eval.reports.files.result_file import latest
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.samples_file import digest, samples_beside

NONE, OWN, ALL = "none", "own", "all"
TEXTS = (NONE, OWN, ALL)
RESTRICTED = Path(__file__).with_name("restricted.yaml")


@dataclass(frozen=True)
class SamplesPage:
    """The page of one task of one run.

    Attributes:
        id: its name below `samples/`, without ".html": a digest of the result file's path and task.
        label: name of its row of the board, with the seed if the row has several.
        task: name of the task.
        row: the score that the page is about.
        samples: the samples file.
        kind: lm-eval's output type of the task (`generate_until`, ...).
        texts: what is shown of texts: `none`; `own`: what the model wrote; or `all`.
        why: why texts are not shown; "" if they are, or if the user chose it.
    """

    id: str
    label: str
    task: str
    row: Row
    samples: Path
    kind: str
    texts: str
    why: str = ""


@dataclass(frozen=True)
class Site:
    """All pages of results.

    Attributes:
        board: the table of the index page.
        pages: (result file, task) -> page, in the order of the board.
        paths: folders and files that were read.
    """

    board: Board
    pages: Mapping[tuple[str, str], SamplesPage]
    paths: tuple[Path, ...]

    def peers(self, page: SamplesPage) -> list[SamplesPage]:
        """Returns the other pages of a page's task."""
        return [each for each in self.pages.values() if each.task == page.task and each != page]


def parse_texts(given: Iterable[str]) -> dict[str, str]:
    """Returns pattern of task names -> what is shown, of words like `all` and `gpqa*=none`.

    Raises:
        UserError: a word is not of this form.
    """
    found = {}
    for words in given:
        for word in words.split(","):
            task, _, what = word.rpartition("=")
            if what not in TEXTS:
                raise unknown_name_error("--texts", what, TEXTS)
            found[task or "*"] = what
    return found


def read_site(
    paths: Sequence[Path],
    board_file: Path | None = None,
    texts: Mapping[str, str] | None = None,
    keep_all: bool = False,
) -> Site:
    """Returns the pages of all runs at and below the paths.

    Args:
        paths: result files, or folders to search for them.
        board_file: declares the table; by default it has the headline score of every task.
        texts: see `parse_texts`. The last pattern that fits a task counts.
        keep_all: whether older runs of the same settings are shown too.

    Raises:
        UserError: a path does not exist, or the board's file is wrong.
    """
    read = {file.rows[0].source: (path, content.part("configs"), file)
            for path, content, file in read_result_files(paths) if file.rows}  # fmt: skip
    files = [file for _, _, file in read.values()]
    shown = files if keep_all else latest(files)
    declared = read_board_file(board_file) if board_file else headline_board(shown)
    board = make_board(declared, shown, figures_beside(board_file, declared) if board_file else ())
    pages: dict[tuple[str, str], SamplesPage] = {}
    for line, cell, row in _scores(board):
        key = (row.source, row.task)
        if key not in pages:
            path, configs, _ = read[row.source]
            label = f"{line.label} seed {row.seed}" if cell.seeds > 1 and row.seed else line.label
            config = nested(configs, row.task)
            if (page := _page(label, row, path, config, texts or {})) is not None:
                pages[key] = page
    return Site(board, pages, tuple(paths))


def _scores(board: Board) -> Iterator[tuple[BoardRow, Cell, Row]]:
    """Yields every score of a board with its row and cell."""
    for line in board.rows:
        for cell in line.cells.values():
            for row in cell.scores:
                yield line, cell, row


def _page(
    label: str, row: Row, results: Path, config: Mapping[str, Any], texts: Mapping[str, str]
) -> SamplesPage | None:
    """Returns the page of a task; None if the run has no samples file of it."""
    samples = samples_beside(results, row.task)
    if samples is None:
        return None
    chosen = [what for task, what in texts.items() if fnmatch.fnmatchcase(row.task, task)]
    why = "" if chosen else restricted(config)
    return SamplesPage(
        id=digest([row.source, row.task]),
        label=label,
        task=row.task,
        row=row,
        samples=samples,
        kind=str(config.get("output_type") or "generate_until"),
        texts=chosen[-1] if chosen else NONE if why else ALL,
        why=why,
    )


def restricted(config: Mapping[str, Any]) -> str:
    """Returns why the texts of a task are not to be published, of its YAML; "" if they are free.

    A task says it itself with `metadata: {restricted: true}`.
    """
    if nested(config, "metadata").get("restricted"):
        return "the task is restricted"
    if any(nested(config, "dataset_kwargs").get(name) for name in ("token", "use_auth_token")):
        return "the dataset is loaded with a token"
    path = str(config.get("dataset_path") or "")
    hub_id = "/".join(PurePath(path).parts[-2:])  # also of a copy in a folder
    names = [hub_id.lower(), f"{hub_id}:{config.get('dataset_name')}".lower()]
    why = (why for name, why in _restricted().items() if fnmatch.filter(names, name.lower()))
    return f"the dataset {path} is restricted ({reason})" if (reason := next(why, "")) else ""


@cache
def _restricted() -> dict[str, str]:
    """Returns pattern of hub ids -> why the texts are not to be published."""
    found = yaml.safe_load(RESTRICTED.read_text(encoding="utf-8"))
    return {str(name): str(why) for name, why in found.items()}


def check_has_scores(site: Site) -> None:
    """Raises UserError if there is nothing to show."""
    if not site.board.rows:
        listed = ", ".join(repr(str(path)) for path in site.paths)
        raise UserError(f"paths {listed} hold no results_*.json with scores")

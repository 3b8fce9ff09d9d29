"""What the pages of results show: a board, and the samples of each of its scores.

    PATHS -> result files -> Board -> SamplesPage (one per run and task)

Only result files are read here. Samples files are read when their page is made
(`samples_page`).
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.reports.board.board import Board, make_board, published_beside
from dlm_eval.reports.board.board_file import MARK, POLICY, BoardFile, Column, read_board_file
from dlm_eval.reports.board.configurations import natural
from dlm_eval.reports.board.leaderboard import latest
from dlm_eval.reports.board.published import read_published
from dlm_eval.reports.files.find import find_result_files, shown_path
from dlm_eval.reports.files.result_file import ResultFile, Row, load_document, nested, rows_of
from dlm_eval.reports.files.samples_file import digest, samples_beside

log = logging.getLogger(__name__)

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
    files: list[ResultFile] = []
    places: dict[str, Path] = {}
    configs: dict[str, Mapping[str, Any]] = {}
    for path in find_result_files(paths):
        source = shown_path(path)
        try:
            document = load_document(path)
            files.append(rows_of(document, source))
        except (OSError, ValueError, RecursionError, MemoryError) as reason:
            log.warning("%s is skipped: %s", repr(str(path)), reason)
            continue
        places[source], configs[source] = path, nested(document, "configs")
    shown = files if keep_all else latest(files)
    declared = read_board_file(board_file) if board_file else headline_board(shown)
    figures = (
        read_published(published_beside(board_file)) if board_file and declared.published else ()
    )
    board = make_board(declared, shown, figures)
    pages: dict[tuple[str, str], SamplesPage] = {}
    for line in board.rows:
        for cell in line.cells.values():
            for row in cell.scores:
                key = (row.source, row.task)
                if key in pages or row.source not in places:
                    continue
                seeded = cell.seeds > 1 and row.seed
                label = f"{line.label} seed {row.seed}" if seeded else line.label
                config = nested(configs[row.source], row.task)
                page = _page(label, row, places[row.source], config, texts or {})
                if page is not None:
                    pages[key] = page
    return Site(board, pages, tuple(paths))


def headline_board(files: Sequence[ResultFile]) -> BoardFile:
    """Returns the board of the headline score of every task. It refuses nothing and marks all."""
    names = {
        (row.task, row.metric, row.filter or "none"): None
        for file in files
        for row in file.rows
        if row.headline
    }
    filters: dict[tuple[str, str], int] = {}
    for task, metric, _ in names:
        filters[task, metric] = filters.get((task, metric), 0) + 1
    columns = []
    for task, metric, pipeline in sorted(names, key=lambda name: [natural(part) for part in name]):
        several = filters[task, metric] > 1
        name = f"{task} ({metric}, {pipeline})" if several else f"{task} ({metric})"
        columns.append(
            Column(name, task, metric, pipeline if several else None, None, None, {}, {}, "")
        )
    return BoardFile(
        title="", notes=(), columns=tuple(columns), rows=(), others=True, facts=(),
        cell=("stderr",), policy=dict.fromkeys(POLICY, MARK), published=(), averages=(),
        order="label", descending=None, rank="", draws=0,
    )  # fmt: skip


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
    listed = any(fnmatch.fnmatchcase(path.lower(), each.lower()) for each in _restricted())
    return f"the dataset {path} is restricted" if listed else ""


@cache
def _restricted() -> tuple[str, ...]:
    return tuple(map(str, yaml.safe_load(RESTRICTED.read_text(encoding="utf-8"))))


def check_has_scores(site: Site) -> None:
    """Raises UserError if there is nothing to show."""
    if not site.board.rows:
        listed = ", ".join(repr(str(path)) for path in site.paths)
        raise UserError(f"paths {listed} hold no results_*.json with scores")

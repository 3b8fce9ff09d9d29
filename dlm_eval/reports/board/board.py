"""A board as plain data: scores of many runs beside published figures, in rows and columns.

`make.py` makes it, and `text.py`, `csv_tables.py` and the web pages write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dlm_eval.reports.board.configurations import Configuration
from dlm_eval.reports.board.published import Published
from dlm_eval.reports.files.row import Row

MEASURED, PUBLISHED = "measured", "published"


@dataclass(frozen=True)
class Rank:
    """A row's rank.

    Attributes:
        rank: 1 + the number of rows that are better in 97.5 % of the draws. Rows that cannot be
            told apart from the best have rank 1.
        low, high: 95 % interval of the position, from the draws.
        tied: whether another row has the same rank.
        paired: whether documents were resampled, for all rows together.
    """

    rank: int
    low: int
    high: int
    tied: bool
    paired: bool


@dataclass(frozen=True)
class Cell:
    """One score of a row.

    Attributes:
        value: as it is shown: fractions in percent, all others as in the file.
        text: the digits that a paper printed; "" for a measured score.
        stderr: standard error of `value` in the same scale; None if unknown.
        stderr_seeds: standard error over seeds alone; None for one seed.
        n: documents; None if unknown.
        seeds: runs with different seeds that `value` is the mean of; 0 for a published figure.
        tokens_per_forward: None if unknown.
        marks: what makes the score less comparable (`n=20 of 5153`), in words.
        sources: its result files, or where it was printed.
        scores: the scores behind it, one per seed; empty for a published figure.
        published: the figure that it is put beside; for a published row, the figure itself.
        deviation: (measured - published) in standard errors of the difference; None unless the
            board shows it, the protocol is `same` or `near`, n is known, the settings are those of
            the figure, and nothing is marked.
        best: whether it is within one standard error of the best measured score of its column.
    """

    value: float
    text: str = ""
    stderr: float | None = None
    stderr_seeds: float | None = None
    n: int | None = None
    seeds: int = 0
    tokens_per_forward: float | None = None
    marks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    scores: tuple[Row, ...] = ()
    published: Published | None = None
    deviation: float | None = None
    best: bool = False

    @property
    def forwards_per_token(self) -> float | None:
        """Forwards per token; None if unknown."""
        return 1 / self.tokens_per_forward if self.tokens_per_forward else None


@dataclass(frozen=True)
class BoardColumn:
    """A column of a board.

    Attributes:
        name: its header.
        task, metric: which score; "" for averages and columns of published figures alone.
        higher_is_better: False if lower values are better.
        percent: whether values are in percent.
        two_decimals: whether values are shown with two decimals (percent, or a value of 10 or more);
            if not, with four digits.
        chance: score of guessing in the scale of the cells; None if not declared.
        note: a footnote, or "".
        average: whether it is an average over other columns.
    """

    name: str
    task: str = ""
    metric: str = ""
    higher_is_better: bool = True
    percent: bool = False
    two_decimals: bool = True
    chance: float | None = None
    note: str = ""
    average: bool = False

    @property
    def scale(self) -> int:
        """Factor from a score in a result file to a cell."""
        return 100 if self.percent else 1

    @property
    def sign(self) -> int:
        """1 if higher values are better, -1 if lower ones are."""
        return 1 if self.higher_is_better else -1


@dataclass(frozen=True)
class BoardRow:
    """A row of a board.

    Attributes:
        label: its name.
        kind: `measured` or `published`.
        facts: model, checkpoint, revision, dtype, device, seeds, finds_length ("yes" if no score of
            generated text was told its length).
        cells: name of a column -> its score; a column without one is absent.
        missing: name of a column -> why it has no cell.
        rank: its rank in the board's ranking; None if it has none.
        model: the configuration behind a measured row.
    """

    label: str
    kind: str
    facts: Mapping[str, str]
    cells: Mapping[str, Cell]
    missing: Mapping[str, str] = field(default_factory=dict)
    rank: Rank | None = None
    model: Configuration | None = None

    def with_cell(self, column: str, cell: Cell) -> BoardRow:
        """Returns the row with another cell."""
        return replace(self, cells={**self.cells, column: cell})


@dataclass(frozen=True)
class Board:
    """A table of measured and published scores.

    Attributes:
        title: its title, or "".
        columns: scores, then averages.
        rows: in the order of the board.
        facts: facts of rows that have a column.
        cell: parts of a cell behind its value, see `board_file.PARTS`.
        notes: the board's notes, then what was left out and why.
        ranked_by: name of the column that ranks are of, or "".
    """

    title: str
    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]
    facts: tuple[str, ...] = ()
    cell: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ranked_by: str = ""

"""Ranks of rows with bootstrap intervals and ties.

Rows that were scored on the same documents are resampled together, so that a hard document counts
for all of them. Without the documents' scores, values are drawn from their standard errors.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError
from dlm_eval.reports.board.board import Cell, Rank
from dlm_eval.reports.files.row import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dlm_eval.reports.files.runs import Run

log = logging.getLogger(__name__)

LEVEL = 0.95
BATCH_NUMBERS = 2_000_000  # random numbers that are held at once

Reader = Callable[[str], "Run | None"]


def ranks(
    values: Sequence[float],
    cells: Sequence[Sequence[Cell]],
    scales: Sequence[float],
    sign: int,
    draws: int,
) -> list[Rank]:
    """Returns the ranks of rows by the mean of their cells.

    Args:
        values: [rows] what is ranked.
        cells: [rows][columns] the scores that `values` are means of.
        scales: [columns] factor of each column in the mean.
        sign: 1 if higher values are better, -1 if lower ones are.
        draws: bootstrap draws.
    """
    import numpy as np

    if not cells:
        return []
    shifts, paired = _shifts(cells, scales, draws)
    drawn = sign * (np.asarray(values) + shifts)  # [draws, rows]
    found = [_place(drawn, row) for row in range(len(values))]
    firsts = [rank for rank, _, _ in found]
    return [Rank(rank, low, high, firsts.count(rank) > 1, paired) for rank, low, high in found]


def _shifts(
    cells: Sequence[Sequence[Cell]], scales: Sequence[float], draws: int
) -> tuple[NDArray[Any], bool]:
    """Returns [draws, rows] deviations of the means, and whether documents were resampled for all."""
    import numpy as np

    read, rng = lru_cache(maxsize=None)(_run), np.random.default_rng(0)
    shifts, paired = np.zeros((draws, len(cells))), True
    for number, scale in enumerate(scales):
        column = [row[number] for row in cells]
        documents = _documents(column, read)
        paired = paired and documents is not None
        shift = (
            _normal(column, draws, rng) if documents is None else _resampled(documents, draws, rng)
        )
        shifts += scale * shift / len(scales)
    return shifts, paired


def _place(drawn: NDArray[Any], row: int) -> tuple[int, int, int]:
    """Returns rank and interval of the position of a row of [draws, rows] values."""
    import numpy as np

    better = np.delete(drawn, row, axis=1) > drawn[:, [row]]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(1 + better.sum(1), (tail, 1 - tail), method="inverted_cdf")
    return 1 + int((better.mean(0) >= 1 - tail).sum()), int(low), int(high)


def _normal(column: Sequence[Cell], draws: int, rng: np.random.Generator) -> NDArray[Any]:
    """Returns [draws, rows] deviations drawn from the standard errors.

    Rows that show the same scores deviate together.
    """
    import numpy as np

    errors = np.array([cell.stderr or 0.0 for cell in column])
    first: dict[tuple[int, ...], int] = {}
    places = [
        first.setdefault(tuple(map(id, cell.scores)), place) for place, cell in enumerate(column)
    ]
    drawn: NDArray[Any] = rng.standard_normal((draws, len(column)))[:, places] * errors
    return drawn


def _resampled(documents: NDArray[Any], draws: int, rng: np.random.Generator) -> NDArray[Any]:
    """Returns [draws, rows] deviations of means over resampled documents.

    Args:
        documents: [rows, documents] scores.
    """
    import numpy as np

    n = documents.shape[1]
    centred = documents - documents.mean(1, keepdims=True)
    parts = []
    batch = max(1, BATCH_NUMBERS // n)
    for start in range(0, draws, batch):
        size = min(batch, draws - start)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size)
        parts.append(counts @ centred.T / n)
    return np.concatenate(parts)


def _documents(column: Sequence[Cell], read: Reader) -> NDArray[Any] | None:
    """Returns [rows, documents] scores if all rows have them for the same documents."""
    import numpy as np

    found: list[Mapping[str, float]] = []
    for cell in column:
        if len({id(row) for row in cell.scores}) != len(cell.scores) or not cell.scores:
            return None
        own = [_values(row, read) for row in cell.scores]
        first = own[0]
        if first is None or any(each is None or each.keys() != first.keys() for each in own):
            return None
        known = [each for each in own if each is not None]
        found.append({key: sum(each[key] for each in known) / len(known) for key in first})
    keys = sorted(found[0])
    if len(keys) < 2 or any(each.keys() != found[0].keys() for each in found):
        return None
    scale = [100.0 if cell.scores[0].unit == "fraction" else 1.0 for cell in column]
    return np.array(
        [[by * each[key] for key in keys] for by, each in zip(scale, found, strict=True)]
    )


def _values(row: Row, read: Reader) -> Mapping[str, float] | None:
    """Returns document -> score from the samples file of a score; None if there is none."""
    run = read(row.source)
    task = run.tasks.get(row.task) if run is not None else None
    measure = task.measures.get(row.measure) if task else None
    return measure.values if measure is not None and measure.scale == "mean" else None


def _run(source: str) -> Run | None:
    """Returns the run of a result file with its documents; None if they cannot be read."""
    from dlm_eval.reports.files.runs import read_run

    if not os.path.isfile(source):
        return None
    try:
        return read_run(Path(source))
    except UserError as reason:
        log.warning("ranks by standard errors, not by documents: %s", reason)
        return None

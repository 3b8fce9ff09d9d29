"""The score of one configuration over runs with different seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dlm_eval.reports.board.natural import natural
from dlm_eval.reports.files.row import Row


@dataclass(frozen=True)
class Repeats:
    """The score of one configuration: of one run, or the mean over runs with other seeds.

    Attributes:
        value: the mean over seeds.
        stderr: standard error of `value` over documents and seeds (`repeated`); None if unknown.
        stderr_seeds: standard error over seeds on the same documents; None for one seed.
        n: documents.
        tokens_per_forward: the mean over seeds; None if unknown.
        rows: the scores, one per seed, in the order of seeds.
    """

    value: float
    stderr: float | None
    stderr_seeds: float | None
    n: int | None
    tokens_per_forward: float | None
    rows: tuple[Row, ...]


def repeated(rows: Sequence[Row]) -> Repeats:
    """Returns the score of k runs of one configuration with different seeds.

    With the standard errors s_i over documents and the variance V of the values over seeds, the
    squared standard error of the mean is

        mean(s_i^2) - (1 - 1/k) V      but at least V / k.

    s_i^2 has the part of the documents and the part of the seed. Averaging over k seeds divides
    only the latter by k, and V estimates it. If the runs were shown different examples, V also has
    a part that all documents share, and the result is mean(s_i^2) + V / k, which on average is
    not too small. Without s_i it is V / k.
    """
    ordered = sorted(rows, key=lambda row: (natural(row.seed or ""), row.source))
    values = [row.value for row in ordered]
    errors = [row.stderr for row in ordered if row.stderr is not None]
    costs = [row.tokens_per_forward for row in ordered if row.tokens_per_forward is not None]
    first, k = ordered[0], len(ordered)
    mean = sum(values) / k  # sum and not fsum, which raises at huge numbers
    seeds, stderr = None, first.stderr
    if k > 1:
        spread = sum((value - mean) * (value - mean) for value in values) / (k - 1)
        seeds = math.sqrt(spread / k)
        squared = spread / k
        if len(errors) == k:
            documents = sum(error * error for error in errors) / k
            squared = (
                documents + spread / k
                if _other_examples(ordered)
                else max(documents - (1 - 1 / k) * spread, spread / k)
            )
        stderr = math.sqrt(squared)
    return Repeats(
        value=mean,
        stderr=stderr,
        stderr_seeds=seeds,
        n=first.n,
        tokens_per_forward=sum(costs) / k if len(costs) == k else None,
        rows=tuple(ordered),
    )


def _other_examples(rows: Sequence[Row]) -> bool:
    """Returns whether the runs had few-shot examples drawn with different seeds."""
    drawn = {(row.seed or "").rpartition(",")[2] for row in rows}
    return len(drawn) > 1 and any(row.shots not in (None, "0") for row in rows)

"""BrierLM: a proper score from samples alone (Shao et al. 2025, arXiv 2510.27688, section 4).

The Brier score of a distribution P at the outcome y is 2 P(y) - sum over x of P(x)^2. It is largest
in expectation if P is the true distribution, unlike a judge's perplexity, which rewards texts that
repeat. For two independent samples a and b, 1{a=y} + 1{b=y} - 1{a=b} is an unbiased estimate of it
(equation 10), so no likelihood is needed, and models of any kind compare. Brier-n takes the first n
tokens of a continuation as one outcome. BrierLM is 100 times the geometric mean of Brier-1 to
Brier-4; it is 0 if one of them is not above 0, which happens with few samples.

Tokens are the judge's, so that models with different vocabularies compare.

A passage can be asked about at several places: after its first 32 words, and after further words of
the original. Its score is the mean over its places, which is unbiased for the mean of their Brier
scores and varies less than that of one place. Errors are over passages, since the places of one
passage are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dlm_eval.metrics.samples import Judge

LONGEST = 4  # tokens of the longest outcome


def process_results(
    doc: Mapping[str, Any], results: Sequence[Sequence[str]], judge: Judge
) -> dict[str, Any]:
    """Returns Brier-1 to Brier-4 of one passage, and all four for `brier_lm` below.

    Args:
        doc: a passage (`samples.passages`).
        results: two independent samples for each of its places.
        judge: the model whose tokens count; its weights are not loaded.
    """
    each = [
        _at_place(context, truth, pair, judge)
        for (context, truth), pair in zip(places(doc, len(results)), results, strict=True)
    ]
    found = tuple(sum(values) / len(values) for values in zip(*each, strict=True))
    return {f"brier_{n}": value for n, value in enumerate(found, 1)} | {"brier_lm": found}


def _at_place(context: str, truth: str, pair: Sequence[str], judge: Judge) -> tuple[float, ...]:
    first, second = (judge.tokens(context, text) for text in pair)
    return scores(first, second, judge.tokens(context, truth))


def places(doc: Mapping[str, Any], count: int) -> list[tuple[str, str]]:
    """Returns (context, original continuation) at `count` places of a passage.

    The first context is `prefix`. The others end further on in `truth`, evenly spaced; their
    continuations reach into `suffix`.
    """
    words, more = doc["truth"].split(), (doc["truth"] + doc["suffix"]).split()
    ends = [place * len(words) // count for place in range(count)]
    return [
        (
            " ".join([doc["prefix"], *more[:end]]),
            "".join(f" {word}" for word in more[end : end + len(words)]),
        )
        for end in ends
    ]


def scores(a: Sequence[int], b: Sequence[int], truth: Sequence[int]) -> tuple[float, ...]:
    """Returns the estimates of Brier-1 to Brier-4 (-1 to 1) from two samples.

    A text that ends before its n-th token is an outcome of its own.
    """
    found = []
    for n in range(1, LONGEST + 1):
        x, y, wanted = tuple(a[:n]), tuple(b[:n]), tuple(truth[:n])
        found.append(float(x == wanted) + float(y == wanted) - float(x == y))
    return tuple(found)


def brier_lm(items: Sequence[Sequence[float]]) -> float:
    """Returns 100 times the geometric mean of the means over contexts (equation 12)."""
    if not items:
        return math.nan
    means = [sum(values) / len(items) for values in zip(*items, strict=True)]
    return 0.0 if min(means) <= 0 else 100 * math.prod(means) ** (1 / len(means))

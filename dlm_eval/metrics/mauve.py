"""MAUVE of samples against real texts (Pillutla et al. 2021, arXiv 2102.01454), by mauve-text.

The judge (metrics/samples.py) reads each text, context and sample together; its last hidden state
is the text's feature. The library clusters the features of both sets, with a tenth as many clusters
as texts, and its score is from 0 (different) to 1 (equal).

It depends on the number of texts: the fewer there are, the higher it is in the mean, and the
noisier (the library's README; the paper compares 5000). So it compares models only at equal numbers,
and its standard error (metrics/jackknife.py, from halves) is that of repeating it with as many
other texts, not the distance from MAUVE of infinitely many.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dlm_eval.canvas import FilledText
from dlm_eval.metrics.samples import Judge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 25  # the library's default, of its clustering


class Features(float):
    """NaN, the MAUVE of a single sample, with the features [H] of the sample and the real text."""

    of_sample: NDArray[np.float32]
    of_real: NDArray[np.float32]


def process_results(doc: Mapping[str, Any], results: Sequence[str], judge: Judge) -> dict[str, Any]:
    """Returns `mauve` of one sample for `mauve` below; and `exit_step`, of our models only.

    Args:
        doc: `prefix` is the context of the sample, `truth` the original text.
        results: the sample.
        judge: the model that reads both.
    """
    item = Features(math.nan)
    item.of_sample = judge.features(doc["prefix"] + results[0])
    item.of_real = judge.features(doc["prefix"] + doc["truth"])
    scores: dict[str, Any] = {"mauve": item}
    if isinstance(results[0], FilledText):
        scores["exit_step"] = float(results[0].steps)
    return scores


def mauve(items: Sequence[Features]) -> float:
    """Returns MAUVE (0 to 1) of all samples against all real texts; NaN for a single one."""
    import numpy as np
    from mauve import compute_mauve

    if len(items) < 2:
        return math.nan
    with _silent():
        found = compute_mauve(
            p_features=np.stack([item.of_real for item in items]),
            q_features=np.stack([item.of_sample for item in items]),
            seed=SEED,
            verbose=False,
        )
    return float(found.mauve)


@contextmanager
def _silent() -> Iterator[None]:
    """Discards what faiss writes to the standard error while it clusters: a line for each clustering
    of few texts, hundreds in all, which no setting turns off.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

"""The exact early exit: decoding ends when visible text can no longer change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlm_eval.models.denoiser import Denoiser

Ints = NDArray[np.int64]


class EarlyExit:
    """Checks after each step whether visible text is final.

    Visible text ends at the first end-of-text token of a hole at the end of the canvas, and at the
    first stop string if there is only one hole. If all positions before such an end are written,
    later tokens are invisible. Only for strategies that never rewrite a token.

    Args:
        model: for its end-of-text ids and its tokenizer.
        positions: [n] positions of the holes, ascending.
        ends_with_hole: whether no given text follows the last hole.
        until: stop strings.
    """

    def __init__(self, model: Denoiser, positions: Ints, ends_with_hole: bool, until: Sequence[str]) -> None:
        self._model = model
        self._until = tuple(stop for stop in until if stop)
        self._ends_with_hole = ends_with_hole
        self._reached = 0
        self.follow(positions)

    def follow(self, positions: Ints) -> None:
        """Sets the positions of the holes, which a step may change."""
        self._positions = positions
        breaks = np.nonzero(np.diff(positions) > 1)[0]
        self._one_hole = len(breaks) == 0
        # If given text follows, an end-of-text token inside the hole does not end the text.
        begin = int(breaks[-1]) + 1 if len(breaks) else 0
        self._last_hole = begin if self._ends_with_hole else len(positions)

    def reason(self, tokens: Ints, open_: NDArray[np.bool_]) -> str | None:
        """Returns 'eos' or 'stop' if visible text is final after this step, else None."""
        waiting = np.nonzero(open_[self._positions])[0]
        written_to = int(waiting[0]) if len(waiting) else len(self._positions)
        if written_to == self._reached:
            return None
        self._reached = written_to
        written = tokens[self._positions[:written_to]]
        if np.isin(written[self._last_hole :], self._model.eos_ids).any():
            return "eos"
        if self._until and self._one_hole:
            text = self._model.decode([int(token) for token in written])
            if any(stop in text for stop in self._until):
                return "stop"
        return None

"""The exact early exit: when nothing that is visible can change any more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import Canvas
from dlm_eval.models.denoiser import Denoiser


class Front:
    """The written text that has nothing open before it, followed step by step.

    Visible text ends at the first end-of-text token of a hole that the canvas ends with, and at the first stop string
    of a lone hole. Once either stands in the front, no later token can be seen. Only for strategies that never rewrite
    a token.
    """

    def __init__(self, model: Denoiser, canvas: Canvas, until: Sequence[str]) -> None:
        self._model = model
        self._until = tuple(stop for stop in until if stop)
        self._positions = np.array(canvas.open_positions)
        breaks = np.nonzero(np.diff(self._positions) > 1)[0]
        self._lone = len(breaks) == 0
        # Where given text follows, an end-of-text token inside the hole ends nothing.
        self._last_hole = (int(breaks[-1]) + 1 if len(breaks) else 0) if canvas.open[-1] else len(self._positions)
        self._reached = 0

    def reason(self, tokens: NDArray[np.int64], open_: NDArray[np.bool_]) -> str | None:
        """Returns 'eos' or 'stop' where visible text is final after this step, else None."""
        waiting = np.nonzero(open_[self._positions])[0]
        front = int(waiting[0]) if len(waiting) else len(self._positions)
        if front == self._reached:
            return None
        self._reached = front
        written = tokens[self._positions[:front]]
        if np.isin(written[self._last_hole :], self._model.eos_ids).any():
            return "eos"
        if self._until and self._lone:
            text = self._model.decode([int(token) for token in written])
            if any(stop in text for stop in self._until):
                return "stop"
        return None

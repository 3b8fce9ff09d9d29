"""The texts of the steps: what a canvas would read after each step if its candidates were all written.

The text of a step has the tokens that are written, and at open positions the candidates of the step.
A vote over steps reads them (`step_votes`). They are kept only under `--decode step_texts=true`, as
changes from one step to the next, since successive texts are mostly equal.

Shape letters: n = positions of the answer, W = positions that a step reads.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from dlm_eval.canvas import BLANK
from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.errors import SampleError

MOST = 2**22  # numbers of one answer; its JSON has about 20 MB then


class StepTexts:
    """The texts of one canvas, step by step.

    `packed` has for each step the number of positions that changed, and then each position with its
    token: [1, 3, 77] is a step whose text has token 77 at position 3, and elsewhere the tokens of the
    step before. Before the first step all are `BLANK`, and so is an open position for as long as no
    step has read a candidate there.

    Args:
        n: positions of the answer.
        packed: texts of the steps before.

    Raises:
        ValueError: as `unpacked`.
    """

    def __init__(self, n: int, packed: Sequence[int] = ()) -> None:
        before = unpacked(packed, n)
        self._kept: Ints = np.array(before[-1] if before else [BLANK] * n, dtype=np.int64)
        self._now = self._kept.copy()
        self._packed = array("i", packed)

    @property
    def packed(self) -> array[int]:
        """The texts of all steps."""
        return self._packed

    def read(self, at: Ints, tokens: Ints) -> None:
        """Takes the candidates [W] of a step at the positions `at` [W] of the answer."""
        self._now[at] = tokens

    def end_step(self, tokens: Ints, is_open: Bools) -> None:
        """Keeps the text of a step. If it has read no candidates, those before count.

        Args:
            tokens, is_open: [n] the answer before the step writes.

        Raises:
            SampleError: the texts take too much room.
        """
        self._now = np.where(is_open, self._now, tokens)
        changed = np.nonzero(self._now != self._kept)[0]
        self._packed.append(len(changed))
        self._packed.extend(np.stack([changed, self._now[changed]], axis=1).ravel().tolist())
        if len(self._packed) > MOST:
            raise SampleError(
                f"decode step_texts: the texts of all steps take more than {MOST} numbers; use fewer "
                "steps, or a shorter hole"
            )
        self._kept = self._now.copy()


def read_packed(numbers: Sequence[int], n: int) -> array[int]:
    """Returns the packed texts of an answer of n positions from plain data.

    Raises:
        TypeError, ValueError: they are no such texts.
    """
    try:
        packed = array("i", numbers)
    except OverflowError as error:
        raise ValueError("a number has more than 32 bits") from error
    unpacked(packed, n)
    return packed


def unpacked(packed: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """Returns the text [n] of each step.

    Raises:
        ValueError: `packed` has no texts of an answer of n positions.
    """
    texts: list[tuple[int, ...]] = []
    tokens, at = [BLANK] * n, 0
    while at < len(packed):
        end = at + 1 + 2 * packed[at]
        if packed[at] < 0 or end > len(packed):
            raise ValueError("the text of a step is cut off")
        for place, token in zip(packed[at + 1 : end : 2], packed[at + 2 : end : 2], strict=True):
            if not 0 <= place < n:
                raise ValueError("the text of a step has another length")
            tokens[place] = token
        texts.append(tuple(tokens))
        at = end
    return texts

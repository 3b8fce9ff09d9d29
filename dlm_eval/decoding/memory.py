"""What a walk need not run again, because it remembers keys and values: one mechanism, exact for some models and an approximation for others.

exact           a prefix that has settled (a block-causal model's finished blocks, the known front of a causal one) has the keys and values that it
                would have in any later row. It runs once, with the first row that finds it settled. Always on.
prefix, dual    Fast-dLLM (Wu et al. 2025, arXiv 2505.22618) for full attention: the first row of a block runs whole; the others remember what
                stands before the block ('prefix') or on both sides of it ('dual') as it was then. An approximation: only when asked for.

Shape letters: L = positions of the canvas, W = positions of a look.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dlm_eval.errors import UserError
from dlm_eval.memory import Memory
from dlm_eval.models.denoiser import Denoiser, Remembering, remembering

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Cache = Literal["exact", "none", "prefix", "dual"]


class Recollection(Protocol):
    """What the rows of one canvas remember.

    Attributes:
        first_alone: whether the first step of a block writes its first position and no other.
        of_block: whether what is remembered is of the block's first row, so that a block cannot go on without it.
    """

    first_alone: bool
    of_block: bool

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns `memory`, `live` and `keep` of the next row (see `rows.Row`).

        Args:
            tokens: [L] what the row shows.
            open_: [L] whether a position is open.
            at: [W] positions that it reads, ascending.
            block: positions of the block that is being filled, ascending.
        """
        ...


class Forgetful:
    """Every row runs whole."""

    first_alone = of_block = False

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class Settled:
    """Remembers what has settled, for as long as the tokens there stay as they were."""

    first_alone = of_block = False

    def __init__(self, model: Remembering) -> None:
        assert model.settles is not None
        self._memory, self._unit, self._lag = Memory(), model.settles, model.lag
        self._mask_id = model.mask_id

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what runs: all behind the remembered front, and what is read."""
        unknown = open_ | (tokens == self._mask_id)  # a mask can also be given, or written where that is allowed
        front = int(unknown.argmax()) if unknown.any() else len(tokens)
        settled = front // self._unit * self._unit
        known = self._memory.agrees(tokens) // self._unit * self._unit
        begin = max(0, min(known, int(at[0]) - self._lag))
        live = (begin, len(tokens)) if begin else None
        return {"memory": self._memory, "live": live, "keep": settled if settled > known else 0}


class Refreshed:
    """Remembers the surroundings of a block as they were in the block's first row.

    A shifted model reads a block's first token before the block, where later rows do not run: as in the authors' code for Dream, the first row
    writes that one and nothing else.
    """

    of_block = True

    def __init__(self, model: Remembering, both_sides: bool) -> None:
        self._memory, self._both_sides, self._lag = Memory(), both_sides, model.lag
        self.first_alone = model.lag > 0
        self._block = -1  # where the block begins whose surroundings are remembered

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what runs: everything in a block's first row; then the block, and without `both_sides` all behind it."""
        first, last = int(block[0]), int(block[-1])
        if self._block != first:
            self._block = first
            return {"memory": self._memory, "keep": len(tokens) if self._both_sides else first}
        begin = max(0, min(first, int(at[0]) - self._lag))
        end = last + 1 if self._both_sides else len(tokens)
        return {"memory": self._memory, "live": (begin, end) if (begin, end) != (0, len(tokens)) else None}


def recollection(model: Denoiser, cache: Cache, guided: bool) -> Recollection:
    """Returns what the rows of a canvas remember under `cache`.

    Args:
        model: the denoiser.
        cache: 'exact' where the model allows it, 'none', or Fast-dLLM's 'prefix' or 'dual'.
        guided: whether rows have an unconditional twin, which nothing is remembered of.

    Raises:
        UserError: 'prefix' or 'dual' with a model that cannot, or that needs no approximation.
    """
    able = remembering(model) if cache != "none" else None
    if cache in ("prefix", "dual"):
        if model.attention != "full" or (able is not None and able.settles is not None):
            raise UserError(f"decode cache '{cache}' is for full attention; {model.name} has an exact one, cache=exact")
        if able is None:
            raise UserError(f"decode cache '{cache}' is not possible: {model.name} cannot remember; leave it out")
        return Refreshed(able, cache == "dual")
    if able is None or able.settles is None or guided:
        return Forgetful()
    return Settled(able)


def seen_end(model: Denoiser, open_: Bools, last: int) -> int:
    """Returns the end of what position `last` sees: its block of a block-causal model; of a causal one, itself or the last known token."""
    if model.block_length is not None:
        return min(len(open_), (last // model.block_length + 1) * model.block_length)
    if getattr(model, "settles", None) == 1:
        return max(last, int(np.nonzero(~open_)[0].max(initial=0))) + 1
    return len(open_)

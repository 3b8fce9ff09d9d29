"""Certainty prior of d2Cache: confident candidates near known text first."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm_eval.decoding.certainty import certainty_density
from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class CertaintyPrior(Unmasking, name="certainty_prior"):
    """the highest probabilities times the density of known text around (d2Cache)

    Jiang et al. 2025, arXiv 2509.23094, section 4.1; github.com/Kamichanw/d2Cache 72feb60,
    src/generation/vanilla.py with `sigma`, alg=maskgit_plus. The density is that of
    `certainty.certainty_density` in the part from the first open position on. The authors use it with
    `cache=d2` and no blocks; it works with every cache.

    `threshold` and the prior together compare the product with the threshold, as in their code.
    Their `factor` and `gamma` are not options here.
    """

    sigma: float = option(
        10.0, above=0, help="standard deviation of the certainty density (positions)"
    )
    num_transfer_tokens: int = option(
        1, least=1, help="minimum number of tokens that a step writes", speed=True
    )
    threshold: float | None = option(
        None,
        least=0,
        most=1,
        help="all candidates whose product is at least this are written too",
        speed=True,
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return -(-n // self.num_transfer_tokens)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Reads the positions that are computed anyway, and ranks them by the product."""
        at = state.computed_next(view.position)
        token, logprob, score = yield from state.read(at, self.query(view, op, state.model))
        begin = int((~state.given).argmax())
        density = certainty_density(~state.open[begin:], self.sigma)
        product = np.exp(score) * density[at - begin]
        chosen: Bools = highest(product, self.num_transfer_tokens)
        if self.threshold is not None:
            sure = product >= self.threshold
            chosen = sure if np.count_nonzero(sure) >= self.num_transfer_tokens else chosen
        return Edit(at[chosen], token[chosen], logprob[chosen])

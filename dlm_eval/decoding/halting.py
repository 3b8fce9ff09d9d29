"""Halting: criteria that end the diffusion of a canvas before its last step (Vaina et al. 2024,
arXiv 2305.10818).

The paper names the criteria. Its thresholds were never published, so they are options here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlm_eval.decoding.strategy import Strategy
from dlm_eval.errors import UserError
from dlm_eval.options import option

Criterion = Literal["none", "entropy", "patience", "kl", "fixed", "confident"]


@dataclass(frozen=True, kw_only=True)
class Halting(Strategy):
    """The options of strategies that can halt."""

    halt: Criterion = option(
        "none",
        help="criterion that ends decoding before its last step. 'entropy', 'kl': its mean is below the threshold"
        " (nats; KL from the step before). 'patience': no token has changed for so many steps. 'fixed': so many steps are"
        " done. 'confident': 'entropy', and no token has changed since the step before",
    )
    halt_threshold: float = option(0.0, least=0, help="threshold of halt, in nats or steps")
    halt_min_steps: int = option(0, least=0, help="minimum number of steps before halting")

    def check(self) -> None:
        super().check()
        if (self.halt != "none") != (self.halt_threshold > 0):
            raise UserError(
                f"decode halt '{self.halt}' and halt_threshold '{self.halt_threshold}' need each other (nats, or steps)"
            )


class Halt:
    """The halting criterion of one canvas.

    * entropy: the mean entropy of p(x0 | x_t, t) over open positions is below the threshold (nats).
    * kl: the mean KL(p_t || p_t-1) over open positions is below the threshold (nats), from the
      second step on.
    * patience: no most probable token has changed for as many steps as the threshold.
    * fixed: the number of steps has reached the threshold.
    * confident: the mean entropy is below the threshold (nats), and no most probable token has
      changed since the step before.
    """

    def __init__(self, options: Halting) -> None:
        self._rule, self._threshold, self._least = options.halt, options.halt_threshold, options.halt_min_steps
        self._tokens: NDArray[np.int64] | None = None
        self._calm = 0

    def reason(self, done: int, tokens: NDArray[np.int64], entropy: float, kl: float | None) -> str | None:
        """Returns the criterion's name if it ends decoding after `done` steps, else None.

        Args:
            done: steps so far, this one included.
            tokens: [n] most probable tokens now.
            entropy: mean entropy, nats.
            kl: mean divergence from the step before, nats; None at the first step.
        """
        unchanged = self._tokens is not None and np.array_equal(tokens, self._tokens)
        self._tokens, self._calm = tokens, self._calm + 1 if unchanged else 0
        if self._rule == "none" or done < self._least:
            return None
        says_stop = {
            "entropy": entropy < self._threshold,
            "kl": kl is not None and kl < self._threshold,
            "patience": self._calm >= self._threshold,
            "fixed": done >= self._threshold,
            "confident": entropy < self._threshold and unchanged,
        }
        return self._rule if says_stop[self._rule] else None

"""Optional: inputs besides tokens.

Shape letters: B = rows of a batch, L = positions, N = wanted positions of the batch, V = vocabulary, D =
embedding size, H = hidden size.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.models.denoiser.outputs import KeepingOp, LogitsOp


class SoftInputs(Protocol):
    """A denoiser that reads mixtures of tokens (`models.soft_inputs`)."""

    def soft_logits(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor | None,
        inputs: Tensor,
        time: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits at wanted positions.

        Args:
            inputs: [B, L, 2 k] the k tokens of each position's mixture, then their probabilities; 0
                where the position's own token is read.
        """
        ...


class EmbeddingDenoiser(Protocol):
    """What a denoiser of the gaussian process has besides.

    Its `logits` also take `inputs` [B, L, 2 D + 1] float32 (x_t, the estimate of x_0, whether a
    position is open; zero if it is not) and `time` [B]. `embedding_size` is D.
    """

    @property
    def embedding_size(self) -> int: ...

    def times(self, steps: int) -> NDArray[np.float64]:
        """Returns [steps + 1] noise levels, from the largest to the smallest."""
        ...

    def interpolator(self, score_temperature: float, divergence: bool) -> LogitsOp | KeepingOp:
        """Returns what reads (token, log-probability [nats], entropy [nats], E[x_0] of shape [D]).

        With `divergence` it also reads KL(now || last step) [nats]; the log-probabilities [V] stay
        on the device.
        """
        ...


class CanvasDenoiser(Protocol):
    """What a denoiser of process 'canvas' has besides (DiffusionGemma).

    Its `logits` also take `inputs` [B, L, H + 1] float32: the self-conditioning of each position (0
    before the first step), and 1 from where the canvas begins.
    """

    canvas_length: int
    state_size: int

    def soft_embeddings(self, probability: Tensor) -> Tensor:
        """Returns the self-conditioning [N, H] of distributions [N, V]."""
        ...

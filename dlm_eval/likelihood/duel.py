"""Reveals the true tokens in the order of a deterministic policy: DUEL, and lm-eval's `is_greedy`.

If a deterministic policy chooses the next positions from the text so far, the sampler has an exact
likelihood (DUEL, arXiv 2603.01367). Start fully masked, then repeat: run a forward, let the policy
pick positions, add log p of the true tokens there, and reveal these tokens.

Shape letters: V = vocabulary, N = wanted positions of a batch, n = open tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.errors import SampleError
from dlm_eval.likelihood.estimator import Guided
from dlm_eval.options import option
from dlm_eval.uncertainty import EXACT

if TYPE_CHECKING:
    from torch import Tensor

    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.patterns import Bools, Floats
    from dlm_eval.likelihood.target import Target
    from dlm_eval.rng import Noise

Policy = Literal["confidence", "entropy", "margin", "left_to_right"]


@dataclass(frozen=True, kw_only=True)
class Duel(Guided, name="duel"):
    """Likelihood of a deterministic unmasking policy (arXiv 2603.01367)."""

    kind = "exact"
    cost = "n / tokens_per_step"
    policy: Policy = option("confidence", help="order in which tokens are revealed")
    tokens_per_step: int = option(1, least=1, help="tokens that are revealed per forward")

    def budget(self, n: int) -> int:
        return -(-n // self.tokens_per_step)

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        total, _ = yield from reveal(target, self.policy, self.tokens_per_step)
        return self.score(total, EXACT)


def _confidence(logs: Tensor, places: Tensor) -> Tensor:
    return logs.max(-1).values


def _entropy(logs: Tensor, places: Tensor) -> Tensor:
    import torch

    entropy: Tensor = torch.special.entr(logs.exp()).sum(-1)
    return entropy.neg()


def _margin(logs: Tensor, places: Tensor) -> Tensor:
    top = logs.exp().topk(2, dim=-1).values
    return top[:, 0] - top[:, 1]


def _left_to_right(logs: Tensor, places: Tensor) -> Tensor:
    return -places.to(logs.dtype)


# Priority of each position, from log-probabilities [N, V] and indices among the open tokens [N].
PRIORITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "confidence": _confidence,
    "entropy": _entropy,
    "margin": _margin,
    "left_to_right": _left_to_right,
}


@dataclass(frozen=True)
class PolicyReader:
    """Reads log p(true token), whether it is the likeliest, and the policy's priority.

    The payload [N, 2] long holds the true token and its index among the open tokens.
    """

    policy: Policy

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        logs = logits.log_softmax(-1)
        truth, places = payload.unbind(-1)
        own = logs.gather(-1, truth[:, None]).squeeze(-1)
        return own.double(), logs.argmax(-1) == truth, PRIORITY[self.policy](logs, places).double()


def reveal(
    target: Target, policy: Policy, per_step: int = 1, stop_at_mismatch: bool = False
) -> Program[tuple[float, bool]]:
    """Returns the policy's log-likelihood (nats), and whether the model would write this text.

    Args:
        target: the tokens.
        policy: which hidden position comes next (ties: the leftmost).
        per_step: positions revealed per forward.
        stop_at_mismatch: end with the first step that has a token which is not the likeliest; the
            log-likelihood then includes the steps so far.
    """
    hidden = np.ones(target.n, dtype=bool)
    reader = PolicyReader(policy)
    total, greedy = 0.0, True
    while hidden.any():
        places = np.flatnonzero(hidden)
        payload = np.stack([target.truth[places], places], 1)
        ((logs, likeliest, priority),) = yield [target.row(hidden, hidden, reader, payload)]
        if np.isnan(logs).any():
            raise SampleError("the model returned log-probabilities that are NaN")
        chosen = np.argsort(-priority, kind="stable")[:per_step]
        total += float(logs[chosen].sum())
        greedy = greedy and bool(likeliest[chosen].all())
        if stop_at_mismatch and not greedy:
            break
        hidden[places[chosen]] = False
    return total, greedy


def read_ahead(target: Target, many: int) -> Program[tuple[Floats, Bools]]:
    """Returns log p of each token (nats) given the text before it, and whether it is the likeliest.

    For models that predict the next tokens (`models.denoiser.NextTokens`).

    Args:
        target: [n] the tokens, which end the text.
        many: masks behind the text before each.
    """
    rows = [
        target.next_row(place, many, PolicyReader("left_to_right")) for place in range(target.n)
    ]
    found = yield from target.ask(rows)
    logs, likeliest = (np.concatenate([output[i] for output in found]) for i in (0, 1))
    if np.isnan(logs).any():
        raise SampleError("the model returned log-probabilities that are NaN")
    return logs, likeliest

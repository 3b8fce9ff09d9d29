"""Candidates of open positions: the token, its log-probability, and the model's confidence.

Shape letters: N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["probability", "margin", "entropy"]
TopPRule = Literal["inclusive", "exclusive", "after_top_k"]
CHUNK = 2**24  # maximum number of float64 values (N x V) formed at once while sampling


@dataclass(frozen=True)
class Draw:
    """LogitsOp of candidates: (token [N] long, its log-probability [N] float64 nats, score [N]
    float64).

    The payload is one uniform number in [0, 1) for each position. It is used if `temperature` is
    not 0.

    Attributes:
        measure: the score: log-probability of the token, its lead over the runner-up, or the
            negative entropy (nats).
        temperature: 0 takes the most probable token; otherwise one is drawn from softmax(logits /
            temperature).
        top_p, top_k: restrict the distribution that is drawn from; 1 and 0 turn them off.
        top_p_rule: which tokens belong to the nucleus (see `DecodeSettings`).
        logits_temp: divides the logits first.
        of_drawn: whether probability and score are of the distribution drawn from (tempered and
            restricted) or of the model's own.
        banned: ids that cannot be written.
        zero_confidence_ids: ids whose probability counts as 0 after the token is drawn.
    """

    measure: Measure = "probability"
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    top_p_rule: TopPRule = "inclusive"
    logits_temp: float = 1.0
    of_drawn: bool = False
    banned: tuple[int, ...] = ()
    zero_confidence_ids: tuple[int, ...] = ()

    def prepared(self, logits: Tensor) -> Tensor:
        """Returns [N, V] the logits that everything is read from: scaled, without banned ids."""
        return without(logits / self.logits_temp if self.logits_temp != 1 else logits, self.banned)

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        logits = drawn = self.prepared(logits)
        if self.temperature > 0 or self.of_drawn:
            drawn = restrict(
                logits / (self.temperature or 1.0), self.top_p, self.top_k, self.top_p_rule
            )
        token = inverse_cdf(drawn, payload) if self.temperature > 0 else logits.argmax(-1)
        judged = without(drawn if self.of_drawn else logits, self.zero_confidence_ids)
        logprob, score = judge(judged, token, self.measure)
        return token, logprob, score


def without(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Returns a copy of `logits` [N, V] with minus infinity at `ids`."""
    if not ids:
        return logits
    return logits.index_fill(-1, torch.tensor(ids, device=logits.device), -torch.inf)


def restrict(
    logits: Tensor, top_p: float, top_k: int, top_p_rule: TopPRule = "inclusive"
) -> Tensor:
    """Returns `logits` [N, V], minus infinity outside the nucleus (Holtzman et al. 2020) and
    outside the k largest.

    The token with which the probability first exceeds `top_p` belongs to the nucleus, except under
    'exclusive'. The first token always does.
    """
    if top_p_rule == "after_top_k":
        return _nucleus(_largest(logits, top_k), top_p, exclusive=False)
    return _largest(_nucleus(logits, top_p, top_p_rule == "exclusive"), top_k)


def _nucleus(logits: Tensor, top_p: float, exclusive: bool) -> Tensor:
    if top_p >= 1:
        return logits
    ordered, ids = logits.sort(-1, descending=True)
    outside = ordered.softmax(-1).cumsum(-1) > top_p
    outside = outside if exclusive else outside.roll(1, -1)
    outside[:, 0] = False
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, ids, outside), -torch.inf)


def _largest(logits: Tensor, top_k: int) -> Tensor:
    if not 0 < top_k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Returns a token [N] drawn from softmax(logits) by each `uniform` [N] in [0, 1), in float64.

    The distribution is that of Gumbel-max with float64 noise, with one random number instead of V.
    Low precision would sharpen it (arXiv 2409.02908).
    """
    tokens = []
    rows = max(1, CHUNK // logits.shape[-1])
    for start in range(0, len(logits), rows):
        part, draws = logits[start : start + rows], uniform[start : start + rows]
        mass = (part - part.amax(-1, keepdim=True)).double().exp().cumsum(-1)
        total = mass[:, -1]
        # Always below the total, so that the token found has positive mass.
        point = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
        tokens.append(torch.searchsorted(mass, point[:, None], right=True).squeeze(-1))
    return torch.cat(tokens)


def judge(logits: Tensor, token: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
    """Returns (log-probability of `token`, score by `measure`), each [N] float64.

    Exponentials relative to the largest logit are float32, sums float64. Near-certain tokens then
    keep their order, which float32 probabilities lose.
    """
    top = logits.amax(-1, keepdim=True)
    below = logits - top
    mass = below.exp()
    total = mass.sum(-1, dtype=torch.float64)
    logprob = below.gather(-1, token[:, None]).squeeze(-1).double() - total.log()
    if measure == "margin":
        second = logits.topk(2).values[:, 1] - top.squeeze(-1)
        return logprob, -second.double().expm1() / total
    if measure == "entropy":
        return logprob, torch.xlogy(mass, mass).sum(-1, dtype=torch.float64) / total - total.log()
    return logprob, logprob

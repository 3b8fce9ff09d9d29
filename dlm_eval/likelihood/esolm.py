"""The evidence lower bound of models that write in two phases (Eso-LM).

Diffusion writes each of n tokens with probability alpha_0, in random order, and the others are then
written from left to right. With the share of hidden tokens a = 1 - alpha_t (arXiv 2506.01928;
s-sahoo/Eso-LMs 92e7982, algo.py `EsoLM.nll`, `_reconstruction_loss`),

    log p >= E_S [ sum over i in S of log p(x_i | x without S, x_<i) ]
             + integral over a from 1 - alpha_0 to 1 of E [ sum over hidden i of log p(x_i | rest) ] / a da

where S is what diffusion leaves, each token with probability 1 - alpha_0. By the number z of hidden
tokens, the integral is a sum: with R(z) the mean of log p(x_i | rest) over hidden sets of z tokens and
their tokens i,

    sum over z = 1..n of P(Binomial(n, 1 - alpha_0) < z) R(z),

the weights of which add up to n alpha_0. At alpha_0 = 1 this is MDLM's bound, at 0 the chain rule.
Expectations are also over the order in which the network sees the tokens: given text from the left,
then shown tokens, then masks, each in random order (the text of S from the left).

Shape letters: n = open tokens, K = rows, L = positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood.estimator import Budgeted, writes_in_order
from dlm_eval.likelihood.mc_error import deviations, draws_error, echo, neighbours
from dlm_eval.likelihood.patterns import Bools, Floats, Ints, smallest, uniforms
from dlm_eval.uncertainty import EXACT, summed

if TYPE_CHECKING:
    from dlm_eval.engine.rows import ForwardRow, Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.models.denoiser import Denoiser, WritingOrder
    from dlm_eval.rng import Noise


@dataclass(frozen=True, kw_only=True)
class TwoPhases(Budgeted, name="esolm"):
    """The evidence lower bound of Eso-LM: masked diffusion of a share of the tokens, then left to right.

    The forwards are shared between the phases, at least one each. The numbers of hidden tokens are
    stratified. With alpha_0 = 0 there is one forward, and the score is exact. A forward of the second
    phase holds the text twice.
    """

    kind = "lower bound"
    cost = "max_forwards, at least 2"

    def budget(self, n: int) -> int:
        return max(2, self.max_forwards)

    def check_model(self, model: Denoiser) -> None:
        if not writes_in_order(model):
            raise UserError(
                f"estimator '{self.name}' is not possible with {model.name}: it is for models that "
                "write in two phases (Eso-LM); use auto"
            )

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        alpha, n = _order(target).alpha_0, target.n
        left = binomial(n, 1 - alpha)
        if alpha == 0:
            (chain,) = yield from _chains(target, [np.ones(n, dtype=bool)], np.zeros((1, n)))
            return self.score(float(chain), EXACT, kind="exact")
        diffused = self.max_forwards if alpha == 1 else max(1, self.max_forwards // 2)
        chained = 0 if alpha == 1 else max(1, self.max_forwards - diffused)
        parts = [(yield from _diffusion(target, noise, diffused, np.cumsum(left)[:-1]))]
        if chained:
            sizes = _stratified(noise, "left", chained, left)
            remains = smallest(uniforms(noise, "left tokens", chained, n), sizes)
            order = uniforms(noise, "left order", chained, n)
            parts.append((yield from _chains(target, list(remains), order)))
        strata = [neighbours(len(part)) for part in parts]
        error = summed(draws_error(*both) for both in zip(parts, strata, strict=True))
        spread = [deviations(*both) / len(both[0]) for both in zip(parts, strata, strict=True)]
        total = float(sum(part.mean() for part in parts))
        return self.score(total, error, echo=echo(np.concatenate(spread), error))


def binomial(n: int, chance: float) -> Floats:
    """Returns [n + 1] the probabilities of 0 to n successes."""
    found = np.ones(1)
    for _ in range(n):
        found = np.append(found * (1 - chance), 0.0) + np.append(0.0, found * chance)
    return found


def _stratified(noise: Noise, stream: str, count: int, chances: Floats) -> Ints:
    """Returns [count] indices drawn by `chances`, one in each of `count` equal intervals."""
    place = (np.arange(count) + noise.uniforms(stream, 0, count)) / count
    ends = np.cumsum(chances)
    found = np.searchsorted(ends, place * ends[-1], side="right")
    return np.asarray(found.clip(0, len(chances) - 1), dtype=np.int64)


def _diffusion(target: Target, noise: Noise, count: int, weights: Floats) -> Program[Floats]:
    """Returns [count] draws of the diffusion phase's part of the bound (nats).

    Args:
        weights: [n] those of 1 to n hidden tokens.
    """
    n = target.n
    sizes = 1 + _stratified(noise, "hidden", count, weights)
    hidden = smallest(uniforms(noise, "hidden tokens", count, n), sizes)
    order = uniforms(noise, "order", count, n) + hidden  # masks last
    rows = []
    for pattern, ranks in zip(hidden, order, strict=True):
        own = target.places[ranks.argsort()]
        masks = int(pattern.sum())
        places = np.concatenate([_given(target), own])
        tokens, is_mask = target.tokens[places], np.arange(len(places)) >= len(places) - masks
        truth = tokens[is_mask]
        shown = np.where(is_mask, target.mask_id, tokens)
        visible = _order(target).visible(is_mask)
        rows.append(_row(target, shown, np.flatnonzero(is_mask), truth, places, visible))
    means = np.array([float(logs.mean()) for logs in (yield from _logs(rows))])
    return np.asarray(weights.sum() * means)


def _chains(target: Target, remains: Sequence[Bools], order: Floats) -> Program[Floats]:
    """Returns [K] the log-probability (nats) of the tokens that are written from left to right.

    Args:
        remains: K arrays [n] bool, those tokens.
        order: [K, n] ranks of the tokens that diffusion has written.
    """
    rows, sums = [], np.zeros(len(remains))
    for pattern, ranks in zip(remains, order, strict=True):
        own = np.flatnonzero(~pattern)
        written = target.places[own[ranks[own].argsort()]]
        shown = np.concatenate([_given(target), written])
        left = target.places[pattern]
        if not len(left):
            continue
        places = np.concatenate([shown, left, left])
        tokens = target.tokens[places]
        masks = np.arange(len(shown) + len(left), len(places))
        tokens[masks] = target.mask_id
        visible = _order(target).visible_from_left(len(shown), len(left))
        rows.append(_row(target, tokens, masks, target.tokens[left], places, visible))
    some = np.array([bool(pattern.any()) for pattern in remains])
    sums[some] = [float(logs.sum()) for logs in (yield from _logs(rows))]
    return sums


def _given(target: Target) -> Ints:
    """Returns the places of the given text."""
    return np.setdiff1d(np.arange(len(target.tokens)), target.places)


def _row(
    target: Target, tokens: Ints, read: Ints, truth: Ints, places: Ints, visible: Bools
) -> ForwardRow:
    from dlm_eval.engine.rows import ForwardRow, Layout, LogProbs

    layout = Layout(places, visible)
    row = ForwardRow(tokens, read, LogProbs(), truth, layout=layout)
    target.asked[tokens.tobytes() + layout.key, b"", 0.0] = row.passes
    return row


def _logs(rows: list[ForwardRow]) -> Program[list[Floats]]:
    """Returns what each row reads.

    Raises:
        SampleError: the model returned NaN.
    """
    found = [logs for (logs,) in ((yield rows) if rows else [])]
    if any(np.isnan(logs).any() for logs in found):
        raise SampleError("the model returned log-probabilities that are NaN")
    return found


def _order(target: Target) -> WritingOrder:
    return cast("WritingOrder", target.model)

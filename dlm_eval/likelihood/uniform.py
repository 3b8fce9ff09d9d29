"""Estimators for models of uniform noise that are told the noise level (Duo).

`models.uniform_state` has the loss of a token that was seen at signal alpha. With a = 1 - alpha and
x_a the text whose open tokens were replaced by random ones with probability a each, the evidence
lower bound is

    -log p(text) <= integral over a from 0 to a_1 of E[sum of losses(x_a, alpha)] / alpha da + prior

The integral does not depend on how a grows with time; the schedule only tells the network which
noise level a has. The prior is KL(q(x_1 | text) || uniform), since a_1 is a little less than 1.

At small a almost nothing is replaced, and rarely a token, whose loss is then about 1/a. Plain draws
of x_a would have an infinite variance. So the mean is split: the text as it is, with the
probability that nothing was replaced; and texts in which something was, drawn as such.

Shape letters: n = open tokens, K = noisy texts, V = vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood.estimator import Budgeted, is_told_noise
from dlm_eval.likelihood.masks import some_hidden
from dlm_eval.likelihood.mc_error import deviations, draws_error, echo, neighbours
from dlm_eval.likelihood.patterns import Floats, Ints, uniforms
from dlm_eval.options import option
from dlm_eval.uncertainty import EXACT, FEWEST, summed

if TYPE_CHECKING:
    from torch import Tensor

    from dlm_eval.engine.rows import ForwardRow, Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.models.denoiser import Denoiser, NoiseLevels
    from dlm_eval.rng import Noise

T_MIN = 1e-3  # smallest t of Duo's loss
MIDDLE = 0.5  # share of noise where the two pieces of the quadrature meet
POWER = 4  # of the substitution that removes the logarithmic singularity at no noise
FEWEST_SPLIT = 8  # forwards from which on the text as it is has draws of its own
CLEAN_SHARE = 4  # one of so many forwards reads the text as it is
# Cells of the density of noise levels, the first one's end, and where its peak at 0 is cut off.
CELLS, LEAST_LEVEL, PEAK = 400, 1e-8, 3e-7


@dataclass(frozen=True)
class LossReader:
    """LogitsOp of the loss (float64, nats per unit of -log alpha).

    The payload is [N, 3] float64: the true token, the token that was seen, and alpha.
    """

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        from dlm_eval.models.uniform_state import losses

        return (losses(logits, payload[:, 0].long(), payload[:, 1].long(), payload[:, 2]),)


@dataclass(frozen=True)
class GreedyStep:
    """LogitsOp of the most probable token after a reverse step from `now` to `after` (alpha).

    The payload [N] long holds the tokens that were seen.
    """

    now: float
    after: float

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        from dlm_eval.models.uniform_state import log_reverse

        return (log_reverse(logits.log_softmax(-1), payload, self.now, self.after).argmax(-1),)


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Budgeted):
    """Base: the integral of the expected loss over the share of noise."""

    nodes: int | None = option(
        None,
        least=2,
        most=100,  # from about 118 on 1 - a of the lowest level is 1 in float64, and its loss NaN
        help="nodes of Gauss-Legendre quadrature in each of two pieces of the noise, with all V^n noisy "
        "texts at each: no noise in the score, up to the quadrature's own error. 2 nodes V^n forwards, "
        "which have to fit max_forwards. None draws noise levels and texts",
    )

    def budget(self, n: int) -> int:
        return self.max_forwards  # each text has its own noise level

    def check_model(self, model: Denoiser) -> None:
        if not is_told_noise(model):
            raise UserError(
                f"estimator '{self.name}' is not possible with {model.name}: it is for models that "
                "undo uniform noise and are told the noise level; use auto"
            )


@dataclass(frozen=True, kw_only=True)
class UniformBound(UniformNoise, name="uniform"):
    """The evidence lower bound under uniform noise (UDLM, Duo): the loss over all noise, and the prior.

    Noise levels are stratified. Of 8 forwards and more, one in 4 reads the text as it is, the others
    texts in which at least one token was replaced.
    """

    kind = "lower bound"
    cost = "max_forwards"

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        last = _share(target, 1.0)
        prior = target.n * _prior(1 - last, _model(target).vocab_size)
        if self.nodes is not None:
            levels, weights = quadrature(0.0, last, self.nodes)
            mean = yield from _enumerated(target, levels, weights, self.max_forwards)
            return self.score(-mean - prior, EXACT)
        if self.max_forwards < FEWEST_SPLIT:
            return (yield from _plain(self, target, noise, 0.0, last, last, prior))
        return (yield from _split(self, target, noise, last, prior))


@dataclass(frozen=True, kw_only=True)
class Duo(UniformNoise, name="duo"):
    """Duo's loss: its mean over t in [0.001, 1], without the prior.

    Near to the lower bound (`uniform`), and none itself: what is below t = 0.001 has the mean of the
    rest. Draws of t are stratified.
    """

    cost = "max_forwards"

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        first, last = _share(target, T_MIN), _share(target, 1.0)
        width = 1 - T_MIN
        if self.nodes is None:
            scale = (last - first) / width
            return (yield from _plain(self, target, noise, first, last, scale, 0.0))
        levels, weights = quadrature(first, last, self.nodes)
        mean = yield from _enumerated(target, levels, weights, self.max_forwards)
        return self.score(-mean / width, EXACT)


def quadrature(first: float, last: float, nodes: int) -> tuple[Floats, Floats]:
    """Returns noise levels a and weights of an integral over a from `first` to `last`.

    Gauss-Legendre in two pieces. Below `MIDDLE` it is in log a; from a = 0 on in the fourth root of
    a, which removes the logarithmic singularity there. Above, it is in log(1 - a), since the noise
    level that the network is told changes fast near a = 1.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    points, weights = (points + 1) / 2, weights / 2
    middle = min(MIDDLE, last)
    if first > 0:
        low = first * (middle / first) ** points
        low_weights = weights * low * math.log(middle / first)
    else:
        low = middle * points**POWER
        low_weights = weights * middle * POWER * points ** (POWER - 1)
    span = math.log((1 - middle) / (1 - last))
    signal = (1 - middle) * np.exp(-span * points)
    return np.concatenate([low, 1 - signal]), np.concatenate([low_weights, weights * signal * span])


def _enumerated(target: Target, levels: Floats, weights: Floats, budget: int) -> Program[float]:
    """Returns the integral with every noisy text at every level.

    Raises:
        SampleError: they do not fit the budget.
    """
    size, n = _model(target).vocab_size, target.n
    rows = len(levels) * size**n
    if rows > budget:
        raise SampleError(
            f"nodes={len(levels) // 2} needs 2 x {len(levels) // 2} x {size}^{n} = {rows:.4g} forwards "
            f"and max_forwards is {budget}; leave nodes out"
        )
    total = 0.0
    texts = np.array(list(itertools.product(range(size), repeat=n)), dtype=np.int64)
    right = (texts == target.truth).sum(1)
    for level, weight in zip(levels, weights, strict=True):
        kept, moved = 1 - level + level / size, level / size
        chance = kept**right * moved ** (n - right)
        values = yield from _values(target, texts, np.full(len(texts), level))
        total += weight * float(chance @ values)
    return total


def _plain(
    estimator: Budgeted,
    target: Target,
    noise: Noise,
    first: float,
    last: float,
    scale: float,
    prior: float,
) -> Program[Score]:
    """Returns the score of `scale` times the mean loss over a in [first, last], texts drawn plainly."""
    count = estimator.max_forwards
    levels = first + (last - first) * _strata(noise, "noise level", count)
    replaced = uniforms(noise, "replaced", count, target.n) < levels[:, None]
    size = _model(target).vocab_size
    random = np.floor(uniforms(noise, "random", count, target.n) * size).astype(np.int64)
    values = scale * (yield from _values(target, np.where(replaced, random, target.truth), levels))
    stratum = neighbours(count)
    error = draws_error(values, stratum)
    return estimator.score(
        -float(values.mean()) - prior, error, echo=echo(deviations(values, stratum), error)
    )


def _split(
    estimator: Budgeted, target: Target, noise: Noise, last: float, prior: float
) -> Program[Score]:
    """Returns the score with draws of the text as it is, and of texts in which a token changed."""
    size, n = _model(target).vocab_size, target.n
    clean = max(FEWEST, estimator.max_forwards // CLEAN_SHARE)
    moved = estimator.max_forwards - clean
    changes = (size - 1) / size  # a random token may be the one that was there
    still, still_weights = drawn_levels(
        noise, "clean level", clean, last, lambda a: (1 - changes * a) ** n
    )
    levels, weights = drawn_levels(
        noise, "noise level", moved, last, lambda a: -np.expm1(n * np.log1p(-changes * a))
    )
    first = noise.uniforms("first changed", 0, moved)
    changed, chance = some_hidden(changes * levels, first, uniforms(noise, "changed", moved, n))
    steps = 1 + np.floor(uniforms(noise, "random", moved, n) * (size - 1)).astype(np.int64)
    noisy = np.where(changed, (target.truth + steps) % size, target.truth)
    texts = np.concatenate([np.tile(target.truth, (clean, 1)), noisy])
    values = yield from _values(target, texts, np.concatenate([still, levels]))
    untouched = still_weights * (1 - changes * still) ** n
    parts = [untouched * values[:clean], weights * chance * values[clean:]]
    strata = [neighbours(len(part)) for part in parts]
    error = summed(draws_error(*both) for both in zip(parts, strata, strict=True))
    spread = [deviations(*both) / len(both[0]) for both in zip(parts, strata, strict=True)]
    return estimator.score(
        -float(sum(part.mean() for part in parts)) - prior,
        error,
        echo=echo(np.concatenate(spread), error),
    )


def drawn_levels(
    noise: Noise, stream: str, count: int, last: float, chance: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    """Returns shares of noise a [count] in (0, last], stratified, and 1 / their density.

    Half of the density is proportional to `chance`, half to chance / a. The loss of a token that
    was not replaced is about 1 / (a + V p) if the network gives it the probability p without seeing
    it; the latter half meets that peak, down to V p = `PEAK`. Below it, what is rarely drawn would
    weigh too much. The density is constant within cells, so that it is exact.
    """
    edges = np.concatenate([[0.0], last * np.geomspace(LEAST_LEVEL, 1.0, CELLS)])
    width, middle = np.diff(edges), (edges[1:] + edges[:-1]) / 2
    flat = chance(middle) * width
    sharp = flat / (middle + PEAK)
    mass = (flat / flat.sum() + sharp / sharp.sum()) / 2
    ends = np.cumsum(mass)
    place = _strata(noise, stream, count) * ends[-1]
    cell = np.searchsorted(ends, place, side="right").clip(0, len(mass) - 1)
    left = ((ends[cell] - place) / mass[cell]).clip(0, 1)
    levels = (edges[cell] + width[cell] * left).clip(edges[1] * 1e-9, last)
    return levels, width[cell] / mass[cell]


def _strata(noise: Noise, stream: str, count: int) -> Floats:
    """Returns [count] numbers in [0, 1), one in each of `count` equal intervals."""
    return np.asarray((np.arange(count) + noise.uniforms(stream, 0, count)) / count)


def _values(target: Target, texts: Ints, levels: Floats) -> Program[Floats]:
    """Returns the summed losses [K] of noisy texts [K, n] at shares of noise [K], per unit of a.

    Raises:
        SampleError: the model returned NaN.
    """
    rows = [
        _row(target, text, LossReader(), _payload(target, text, 1 - level), float(level))
        for text, level in zip(texts, levels, strict=True)
    ]
    outputs = (yield rows) if rows else []
    values = np.array([float(found.sum()) for (found,) in outputs]) / (1 - levels)
    if np.isnan(values).any():
        raise SampleError("the model returned log-probabilities that are NaN")
    return values


def _payload(target: Target, text: Ints, alpha: float) -> Floats:
    return np.stack([target.truth, text, np.full(target.n, alpha)], axis=1).astype(np.float64)


def _row(target: Target, text: Ints, reader: Any, payload: Any, level: float) -> ForwardRow:
    head = cast("Callable[..., Any]", _levels(target).logits_at)
    return target.noisy_row(text, reader, payload, head, -math.log1p(-level))


def written_greedily(target: Target, noise: Noise) -> Program[bool]:
    """Returns whether greedy reverse steps from random tokens, one for each token, write the target.

    They are those of strategy `ancestral` at temperature 0, the last one to the text without noise.
    """
    size, n = _model(target).vocab_size, target.n
    text = (noise.uniforms("start", 0, len(target.tokens)) * size).astype(np.int64)[target.places]
    schedule = _levels(target).schedule
    signal = [math.exp(-schedule.sigma(1 - step / n)) for step in range(n)] + [1.0]
    for now, after in itertools.pairwise(signal):
        ((text,),) = yield [_row(target, text, GreedyStep(now, after), text, 1 - now)]
    return bool((text == target.truth).all())


def _share(target: Target, t: float) -> float:
    """Returns the share of noise a at time t."""
    return -math.expm1(-_levels(target).schedule.sigma(t))


def _prior(alpha: float, size: int) -> float:
    """Returns KL(q(x_1 | token) || uniform) of a token at signal `alpha`, in nats."""
    rest = 1 - alpha
    high = alpha * size + rest
    return (high * math.log(high) + (size - 1) * rest * math.log(rest)) / size


def _model(target: Target) -> Denoiser:
    assert target.model is not None
    return target.model


def _levels(target: Target) -> NoiseLevels:
    return cast("NoiseLevels", target.model)

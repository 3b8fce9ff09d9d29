"""The standard error of a cubature rule, from the spread of the log-probabilities that it reads.

A rule's tokens are relabelled at random. Its variance therefore depends only on how
log-probabilities vary between contexts, and can be estimated from one run. The model of token i
with the set S revealed is

    l(S, i) = level_i + slope_i t(S) + s [ f_i(S) + share of g(S) ].

t(S) is the size of S, scaled to -1..1. The function g is common to all tokens. f_i and g are
Gaussian processes. Their covariance is one of `SHAPES` (interactions of one, two or three revealed
tokens) plus noise of one of `ROUGH`. Both grow or fall with the number of revealed tokens
(`GAINS`). The data determine the model as follows:

* the restricted likelihood of all tokens together weights the covariances;
* the squared residuals about each token's line give s;
* the products of different tokens' residuals give the share of g.

The variance of the rule is known for each covariance of unit size. Its estimate is the mean over
the covariances, weighted by their likelihoods.

Shape letters: n = open tokens, R = mask patterns, D = draws (runs of one rule), G = gains, B =
basis of covariances, T = tokens in the likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dlm_eval.likelihood.patterns import Bools, Floats, Ints
from dlm_eval.uncertainty import FEWEST, UNKNOWN, Error

# Amounts of interactions of one, two and three tokens; the first shape is almost additive.
SHAPES = np.array([[1, 0.003, 0], [1, 0.15, 0], [1, 0.7, 0.3], [1, 1, 3]])
ROUGH = (1e-4, 0.01, 0.1, 1.0)  # amounts of noise added; noise alone is one more
GAINS = (-4.0, 0.0, 3.0)  # how fast variances fall with the share of shown tokens
ALONE = 5.0  # prior weight of noise alone, against 1 for each of the others
# [mixtures, B] amounts of each covariance: the shapes, each with all amounts of noise, and noise
# alone; and the logarithms of their prior weights.
MIXTURES = np.array(
    [[*shape, rough] for shape in SHAPES for rough in ROUGH] + [[0.0, 0.0, 0.0, 1.0]]
)
PRIOR = np.array([0.0] * (len(MIXTURES) - 1) + [math.log(ALONE)])
TOKENS, ROWS = 16, 96  # maximum tokens, and patterns per token, in the likelihood
SLOPES = 8  # minimum number of patterns to fit a slope per token
# Few patterns miss much of the variation: variances are multiplied by 1 + (CAUTION / patterns)^2.
CAUTION = 4.0
# `Error.least` of an interval in standard errors: on all canvases of a model, the variation may
# differ from the covariance that fits best.
DOUBT = 1.4
# With up to SMALL tokens there are few different estimates: at most 120 (one per order) with up to
# TINIEST. With fewer patterns than tokens, a token may be read only in one kind of context, and its
# log-probability then seems certain.
SMALL, TINIEST = 8, 5
# Almost certain tokens say little about the relative variation of others. So ALMOST_CERTAIN nats
# are added to levels, and WIDEST is the maximum factor by which an interval is widened.
ALMOST_CERTAIN, WIDEST = 0.1, 3.0
TINY = 1e-9  # nats: smaller errors are rounding


@dataclass(frozen=True, eq=False)
class Lines:
    """Each token's line over sizes: its regressors, residuals and part in the variance.

    Attributes:
        hidden: [R, n] patterns.
        constant: [R, n] unit vectors, one per token (0 if it is shown).
        slope: [R, n] likewise, orthogonal to the constants; 0 if there are fewer than `SLOPES`
            patterns, or if all patterns that hide the token have the same size.
        place: [R] number of shown tokens, scaled to -1..1.
        bend: [R, n] a common curve, minus each token's line; of unit length, or 0.
    """

    hidden: Bools
    constant: Floats
    slope: Floats
    place: Floats
    bend: Floats

    @classmethod
    def of(cls, hidden: Bools) -> Lines:
        count, n = hidden.shape
        place = 2 * (n - hidden.sum(1)) / max(1, n - 1) - 1.0
        constant = hidden / np.sqrt(np.maximum(1, hidden.sum(0)))
        slope = np.zeros(hidden.shape)
        if count >= SLOPES:
            slope = hidden * place[:, None] - constant * (constant * place[:, None]).sum(0)
            length = np.sqrt((slope**2).sum(0))
            slope = np.where(length > 1e-6, slope / np.maximum(length, 1e-6), 0.0)
        plain = cls(hidden, constant, slope, place, np.zeros(hidden.shape))
        bend = plain.residuals(np.broadcast_to(place[:, None] ** 2, hidden.shape)[None])[0]
        length = math.sqrt(float((bend**2).sum()))
        return plain if length < 1e-6 else cls(hidden, constant, slope, place, bend / length)

    def residuals(self, logs: Floats) -> Floats:
        """Returns log-probabilities [D, R, n] minus each token's line and the common curve.

        They are 0 for shown tokens.
        """
        found = np.where(self.hidden, logs, 0.0)
        for unit in (self.constant, self.slope):
            found = found - unit * (unit * found).sum(1, keepdims=True)
        return np.asarray(found - self.bend * (self.bend * found).sum((1, 2), keepdims=True))

    def freedom(self) -> int:
        """Returns the degrees of freedom of the residuals."""
        used = (self.constant**2).sum() + (self.slope**2).sum() + (self.bend**2).sum()
        return round(float(self.hidden.sum() - used))

    def fitted(self, logs: Floats) -> tuple[Floats, Floats]:
        """Returns each token's level and slope [D, n] (nats, at place 0)."""
        read = np.where(self.hidden, logs, 0.0)
        count = np.maximum(1, self.hidden.sum(0))
        steep = (self.slope * self.place[:, None]).sum(0)  # of a line of slope 1
        slopes = np.where(
            steep > 0, (self.slope * read).sum(1) / np.where(steep > 0, steep, 1.0), 0.0
        )
        middle = (self.hidden * self.place[:, None]).sum(0) / count
        return read.sum(1) / count - slopes * middle, slopes

    def variance(self, weight: Floats, logs: Floats, noise: Floats) -> Floats:
        """Returns the variance [D] of a rule with `weight` [R, n] due to levels and slopes.

        It comes from their variance between tokens, minus the part that is due to `noise` [D].
        """
        n = self.hidden.shape[1]
        count = np.maximum(1, self.hidden.sum(0))
        steep = (self.slope * self.place[:, None]).sum(0)
        middle = (self.hidden * self.place[:, None]).sum(0) / count
        doubt = np.where(steep > 0, 1 / np.where(steep > 0, steep, 1.0) ** 2, 0.0)
        own = np.array(
            [
                [(1 / count + middle**2 * doubt).mean(), -(middle * doubt).mean()],
                [0.0, doubt.mean()],
            ]
        )
        fits = np.stack(self.fitted(logs), 1)
        missed = np.stack([weight.sum(0) - 1, (weight * self.place[:, None]).sum(0)])
        apart, uneven = fits - fits.mean(2, keepdims=True), missed - missed.mean(1, keepdims=True)
        between = np.einsum("dai,dbi->dab", apart, apart) / n - noise[:, None, None] * (
            own + np.triu(own, 1).T
        )
        varied = (between * (uneven @ uneven.T)).sum((1, 2)) * n / max(1, n - 1)
        return np.asarray(np.maximum(0.0, varied) + (fits.mean(2) @ missed.sum(1)) ** 2)


@dataclass(frozen=True, eq=False)
class Gain:
    """Moments of a rule under processes of one gain.

    Attributes:
        offset: offset of the restricted log-likelihood.
        own: [B] variance of the estimate for each covariance of unit size, tokens independent.
        common: [B] likewise, if all tokens share one function.
        squares: [B] expected sum of squared residuals, tokens independent.
        shared: [B] likewise, if all tokens share one function.
        products: [B] expected sum of products of different tokens' residuals, if all tokens share
            one function.
    """

    offset: float
    own: Floats
    common: Floats
    squares: Floats
    shared: Floats
    products: Floats


@dataclass(frozen=True, eq=False)
class Turned:
    """Linear transforms that make the values of a token independent under each process.

    Attributes:
        rows: [T, r] patterns that hide each token, padded.
        matrix: [T, G * shapes * v, r] the transforms; 0 at padding.
        variance: [G, shapes, T, v] variances of the transformed values without noise.
        counts: [T, v] bool, false at padding.
    """

    rows: Ints
    matrix: Floats
    variance: Floats
    counts: Bools

    def likelihoods(self, read: Floats) -> Floats:
        """Returns the restricted log-likelihoods [G, mixtures, D] of values [D, R, n] (0 if shown).

        The scale is the one of maximum likelihood. `Gain.offset` is not included.
        """
        gathered = read[:, self.rows, np.arange(len(self.rows))[:, None]]
        found = (self.matrix @ gathered.transpose(1, 2, 0)) ** 2
        # [T, G, shapes, v, D]
        squares = found.reshape(len(self.rows), *self.variance.shape[:2], -1, len(read))
        degrees = max(1, int(self.counts.sum()))

        def likelihood(variance: Floats) -> Floats:
            scale = (
                np.einsum("gstv,tgsvd->gsd", self.counts / variance, squares, optimize=True)
                / degrees
            )
            logs = (np.log(variance) * self.counts).sum((2, 3))
            return np.asarray(-(degrees * np.log(np.maximum(1e-300, scale)) + logs[..., None]) / 2)

        # [G, shapes, rough, D]
        noisy = np.stack([likelihood(self.variance + rough) for rough in ROUGH], 2)
        alone = likelihood(np.ones(self.variance.shape))[:, :1]
        return np.concatenate([noisy.reshape(len(GAINS), -1, len(read)), alone], 1)


@dataclass(frozen=True, eq=False)
class Spread:
    """The uncertainty of a rule.

    Attributes:
        weight: [R, n] weights of the rule.
        lines: lines of its tokens.
        gains: moments for each gain.
        turned: transforms for the likelihoods.
    """

    weight: Floats
    lines: Lines
    gains: list[Gain]
    turned: Turned

    def error(self, logs: Floats) -> Error:
        """Returns the error (nats) of the estimate from log-probabilities [R, n].

        It is unknown if there are fewer than `FEWEST` patterns, or if all patterns agree.
        """
        if len(logs) < FEWEST:
            return UNKNOWN
        variance = float(self.variance(logs[None])[0])
        if variance <= TINY**2:
            return UNKNOWN
        stderr = math.sqrt(variance)
        return Error(stderr, freedom(len(logs)), least=stderr * float(self.doubt(logs[None])[0]))

    def variance(self, logs: Floats) -> Floats:
        """Returns the variance [D] (nats^2) of the estimate from log-probabilities [D, R, n]."""
        residuals = self.lines.residuals(logs)
        squares = (residuals**2).sum((1, 2))
        products = (residuals.sum(2) ** 2).sum(1) - squares
        left = self.lines.freedom()
        if left < 1:
            return np.zeros(len(logs))
        weights = self.turned.likelihoods(np.where(self.lines.hidden, logs, 0.0))
        weights += np.array([gain.offset for gain in self.gains])[:, None, None] + PRIOR[:, None]
        weights = np.exp(weights - weights.max((0, 1)))
        variances = np.stack([_processes(gain, squares, products) for gain in self.gains])
        process = (weights * variances).sum((0, 1)) / weights.sum((0, 1))
        total = process + self.lines.variance(self.weight, logs, squares / left)
        return np.asarray(total * (1 + (CAUTION / len(self.weight)) ** 2))

    def doubt(self, logs: Floats) -> Floats:
        """Returns [D] `Error.least` in standard errors, from log-probabilities [D, R, n].

        Few tokens or few patterns do not show how a token varies in other contexts. So every token
        is assumed to vary, relative to its level, as much as all tokens do on average. This widens
        an interval at most `WIDEST` times.
        """
        count, n = self.lines.hidden.shape
        if n > SMALL and count > n:
            return np.full(len(logs), DOUBT)
        times = self.lines.hidden.sum(0)
        squares = (self.lines.residuals(logs) ** 2).sum(1)
        left = np.maximum(
            0.5, times - (self.lines.constant**2).sum(0) - (self.lines.slope**2).sum(0)
        )
        levels = ALMOST_CERTAIN + np.abs(
            np.where(self.lines.hidden, logs, 0.0).sum(1)
        ) / np.maximum(1, times)
        share = (squares / levels).sum(1) / (left * levels).sum(1)  # of squared levels
        expected, found = share * (levels**2).mean(1), (squares / left).mean(1)
        least = 2 * DOUBT if n <= TINIEST else DOUBT
        return np.asarray(
            least * np.sqrt(np.clip(expected / np.maximum(found, TINY**2), 1.0, WIDEST**2))
        )


def _processes(gain: Gain, squares: Floats, products: Floats) -> Floats:
    """Returns the variances [mixtures, D] of an estimate under processes of one gain.

    `squares` and `products` [D] are the sums of squares and of products of its residuals.
    """
    own, common, alone, shared, crossed = (
        (MIXTURES @ of)[:, None]
        for of in (gain.own, gain.common, gain.squares, gain.shared, gain.products)
    )
    together = np.where(crossed > 0, products / np.where(crossed > 0, crossed, 1.0), 0.0)
    together = np.clip(together, 0.0, squares / np.maximum(shared, 1e-300))
    single = np.maximum(0.0, squares - together * shared) / np.maximum(alone, 1e-300)
    return np.asarray(single * own + together * common)


def freedom(count: int) -> float:
    """Returns the degrees of freedom of the error of a rule of `count` patterns.

    They are a quarter of the patterns, since these also determine the weights of the covariances.
    """
    return max(4.0, count / 4)


def spread(hidden: Bools, weight: Floats) -> Spread:
    """Returns the spread of the rule with patterns `hidden` [R, n] and weights [R, n]."""
    lines = Lines.of(hidden)
    some = range(min(hidden.shape[1], max(TOKENS // 2, min(TOKENS, 1024 // len(hidden)))))
    rows = [_some(np.flatnonzero(hidden[:, i])) for i in some]
    turned, offsets = _turn(lines, rows)
    return Spread(
        weight,
        lines,
        [_gain(lines, weight, gain, own) for gain, own in zip(GAINS, offsets, strict=True)],
        turned,
    )


def _some(rows: Ints) -> Ints:
    """Returns at most `ROWS` of the rows, evenly spaced."""
    return (
        rows if len(rows) <= ROWS else rows[np.linspace(0, len(rows) - 1, ROWS).round().astype(int)]
    )


def _alike(hidden: Bools) -> Floats:
    """Returns the similarity [R, R] of patterns, from 1 if equal to -1 if opposite."""
    revealed = (~hidden).astype(np.float64)
    sizes = revealed.sum(1)
    return np.asarray(
        1 - 2 * (sizes[:, None] + sizes[None] - 2 * revealed @ revealed.T) / hidden.shape[1]
    )


def _damping(hidden: Bools, gain: float) -> Floats:
    """Returns [R] the relative standard deviation of each pattern's values."""
    n = hidden.shape[1]
    return np.asarray(np.exp(-gain * (n - hidden.sum(1)) / (2 * n)))


def _turn(lines: Lines, rows: list[Ints]) -> tuple[Turned, list[float]]:
    """Returns the transforms of the first tokens, and each gain's log-likelihood offset."""
    alike = _alike(lines.hidden)
    kernels = [sum(a * alike**power for power, a in enumerate(amounts, 1)) for amounts in SHAPES]
    most = max(len(own) for own in rows)
    shape = len(GAINS), len(SHAPES), len(rows), most
    matrix, variance = np.zeros((*shape, most)), np.ones(shape)
    counts = np.zeros((len(rows), most), dtype=bool)
    offsets = [0.0] * len(GAINS)
    fixed = 2 if lines.slope.any() else 1
    for g, gain in enumerate(GAINS):
        damping = _damping(lines.hidden, gain)
        for t, own in enumerate(rows):
            given = (
                np.stack([np.ones(len(own)), lines.place[own]], 1)[:, :fixed] / damping[own, None]
            )
            basis, triangle = np.linalg.qr(given, mode="complete")
            corner = np.abs(np.diag(triangle))
            free = basis[:, fixed:]
            size = free.shape[1]
            counts[t, :size] = True
            offsets[g] -= float(np.log(damping[own]).sum() + np.log(corner[corner > 1e-9]).sum())
            for number, kernel in enumerate(kernels):
                values, vectors = np.linalg.eigh(free.T @ kernel[np.ix_(own, own)] @ free)
                matrix[g, number, t, :size, : len(own)] = (free @ vectors).T / damping[own]
                variance[g, number, t, :size] = np.maximum(values, 0.0)
    padded = np.stack([np.pad(own, (0, most - len(own))) for own in rows])
    return Turned(
        padded, matrix.transpose(2, 0, 1, 3, 4).reshape(len(rows), -1, most), variance, counts
    ), offsets


def _gain(lines: Lines, weight: Floats, gain: float, offset: float) -> Gain:
    hidden = lines.hidden
    n = hidden.shape[1]
    sizes = n - hidden.sum(1)
    damping, alike = _damping(hidden, gain), _alike(hidden)
    among = [alike**power * np.outer(damping, damping) for power in (1, 2, 3)] + [
        np.diag(damping**2)
    ]
    fits = lines.constant @ lines.constant.T + lines.slope @ lines.slope.T
    bend = lines.bend.sum(1)
    total = np.diag(hidden.sum(1).astype(np.float64)) - fits - np.outer(bend, bend)
    crossed = total @ total - total
    found = [
        _moments(n, weight, sizes, one, power, gain)
        for power, one in zip((1, 2, 3, 0), among, strict=True)
    ]
    return Gain(
        offset,
        np.array([own for own, _ in found]),
        np.array([common for _, common in found]),
        np.array([_squares(lines, one) for one in among]),
        np.array([float((total * one).sum()) for one in among]),
        np.array([float((crossed * one).sum()) for one in among]),
    )


def _squares(lines: Lines, among: Floats) -> float:
    """Returns the expected sum of squared residuals of processes with covariance `among` [R, R]."""
    fitted = sum(
        float((unit * (among @ unit)).sum()) for unit in (lines.constant, lines.slope, lines.bend)
    )
    return float(lines.hidden.sum(1) @ np.diag(among)) - fitted


def _moments(
    n: int, weight: Floats, sizes: Ints, among: Floats, power: int, gain: float
) -> tuple[float, float]:
    """Returns the variance of an estimate for a process of covariance `among` [R, R].

    First for one process per token, then for one that all tokens share.
    """
    own, own_mean, every, every_sum = _expected_sums(n, power, gain)
    total = weight.sum(1)
    each = float((weight * (among @ weight)).sum() - 2 * (total * own[sizes]).sum() + n * own_mean)
    one = float(total @ among @ total - 2 * (total * every[sizes]).sum() + every_sum)
    return max(0.0, each), max(0.0, one)


@lru_cache(maxsize=256)
def _expected_sums(n: int, power: int, gain: float) -> tuple[Floats, float, Floats, float]:
    """Returns [n] the mean of each row of `_expected` of n - 1 tokens, and its mean; [n] the sums
    of n tokens, and their sum. They are the same for all rules of n tokens.
    """
    own, every = _expected(n, n - 1, power, gain), _expected(n, n, power, gain)[:n, :n]
    return own.mean(1), float(own.mean()), every.sum(1), float(every.sum())


def _expected(n: int, others: int, power: int, gain: float) -> Floats:
    """Returns the mean covariance of random sets of s and k of `others` tokens, by s and k.

    Power 0 is noise: two sets are correlated only if they are equal.
    """
    s = np.arange(others + 1, dtype=np.float64)
    damping = np.exp(-gain * s / (2 * n))
    if power == 0:
        sets = [math.comb(others, int(size)) for size in s]
        # Beyond the range of floats two sets are never equal (above 1030 tokens).
        equal = [
            d / n if n.bit_length() < 1000 else 0.0 for d, n in zip(damping**2, sets, strict=True)
        ]
        return np.diag(np.array(equal))
    # factorial moments of the number of tokens in both sets (hypergeometric)
    falling = [np.ones((others + 1, others + 1))]
    for order in range(3):
        left = max(1, others - order)
        falling.append(
            falling[-1] * np.maximum(0, s - order)[:, None] * np.maximum(0, s - order)[None] / left
        )
    once, twice, thrice = (
        falling[1],
        falling[2] + falling[1],
        falling[3] + 3 * falling[2] + falling[1],
    )
    base, step = 1 - 2 * (s[:, None] + s[None]) / n, 4 / n  # alike = base + step * tokens in both
    raw = {
        1: base + step * once,
        2: base**2 + 2 * base * step * once + step**2 * twice,
        3: base**3 + 3 * base**2 * step * once + 3 * base * step**2 * twice + step**3 * thrice,
    }[power]
    return np.asarray(raw * np.outer(damping, damping))

"""The estimators: each one a walk from a target with at least one token to its score.

Shape letters: n = open tokens, R = mask patterns, P = orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.engine import Ints, Walk
from dlm_eval.noise import Noise
from dlm_eval.scoring.cubature import Rule, relabelled
from dlm_eval.scoring.echo import echo
from dlm_eval.scoring.orders import (
    bracket,
    chain_patterns,
    log_mean_exp,
    log_mean_exp_error,
    mean_error,
    pair_count,
    population,
    random_orders,
    upper_bound,
)
from dlm_eval.scoring.patterns import BUILDERS, deviations, draws_error, enumerable, exact
from dlm_eval.scoring.registry import ESTIMATORS, EstimatorSettings
from dlm_eval.scoring.reveal import reveal
from dlm_eval.scoring.score_entropy import sedd
from dlm_eval.scoring.subsets import sampler_log_likelihood
from dlm_eval.scoring.target import Floats, Target, measure
from dlm_eval.uncertainty import EXACT, UNKNOWN, Error

Estimate = Callable[[Target, EstimatorSettings, Noise], Walk[Score]]


def linear(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of a plan of weighted mask patterns (patterns.py)."""
    plan = BUILDERS[settings.name](target.n, settings, noise)
    logs = yield from measure(target, plan.hidden, plan.weight != 0)
    values = plan.replicates(logs)
    kind = ESTIMATORS[settings.name].kind
    error = draws_error(values, plan.stratum)
    if target.n == 1 and np.ptp(values) == 0:  # there is one pattern, and it was run
        error = EXACT
    return _score(float(values.mean()), error, kind, settings, echo=echo(deviations(values, plan.stratum), error))


def enumerated(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the ELBO without noise, with the exact likelihood of the random-order sampler as lower and upper bound (or the other way round)."""
    plan = exact(target.n, settings, noise)
    logs = yield from measure(target, plan.hidden, plan.hidden)
    likelihood = sampler_log_likelihood(logs)
    truth = Bounds(likelihood, EXACT, likelihood, EXACT, (likelihood, likelihood))
    if settings.report == "likelihood" or target.n == 1:
        return _score(likelihood, EXACT, "exact", settings, truth)
    return _score(float(plan.replicates(logs)[0]), EXACT, "lower bound", settings, truth)


def order_count(n: int, settings: EstimatorSettings) -> int:
    """Returns how many orders a chain estimator draws: as asked, else as many antithetic pairs as fit the samples."""
    if settings.permutations is not None:
        return settings.permutations
    if settings.antithetic:
        return 2 * pair_count(n, settings.samples)
    return max(1, (settings.samples - 1) // max(1, n - 1))


def all_orders(n: int, count: int, settings: EstimatorSettings) -> bool:
    """Returns whether `count` orders are all there are, or cost as much as all patterns, which have all orders in them."""
    budget = count * (n - 1) + 1
    return enumerable(n, budget if settings.permutations is not None else max(budget, settings.samples))


def chain_log_likelihoods(target: Target, orders: Ints) -> Walk[tuple[Floats, float]]:
    """Returns the [P] log-likelihoods (nats) of the tokens revealed in each of `orders` [P, n], and a bound that no order exceeds on average.

    All orders begin with all tokens hidden, and no later step has a probability above 1: log p is at most the log of the mean first probability.
    """
    hidden, read = chain_patterns(orders)
    first = hidden.sum(1) == hidden.shape[1]
    logs = yield from measure(target, hidden, read | first[:, None])
    chains: Floats = logs[read].reshape(orders.shape).sum(1)
    return chains, log_mean_exp(logs[first.argmax()])


def chain(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the ELBO as the mean over random orders of the chain's log-likelihood; beside it a tighter lower and an upper bound.

    An order and its reverse are one draw, and no draw is made twice. Where all orders cost no more than the budget, they are run and nothing is drawn.
    """
    count = order_count(target.n, settings)
    if all_orders(target.n, count, settings):
        found = yield from enumerated(target, _as_exact(settings), noise)
        return replace(found, estimator=settings.name)
    orders = random_orders(noise, target.n, count, settings.antithetic)
    chains, certain = yield from chain_log_likelihoods(target, orders)
    return chain_score(chains, certain, target.n, settings)


def _as_exact(settings: EstimatorSettings) -> EstimatorSettings:
    return EstimatorSettings("exact", report=settings.report, cfg_scale=settings.cfg_scale)


def chain_score(chains: Floats, certain: float, n: int, settings: EstimatorSettings) -> Score:
    """Returns the score of the log-likelihoods [P] of random orders of n tokens (antithetic neighbours, if so set), none above `certain` on average."""
    group = np.arange(len(chains)) // (2 if settings.antithetic else 1)
    draws = population(n, settings.antithetic)
    bounds = chain_bounds(chains, group, draws, certain)
    value, error = float(chains.mean()), mean_error(chains, group, draws)
    if settings.report == "likelihood":
        value, error = bounds.lower, bounds.lower_error
    return _score(value, error, "lower bound", settings, bounds, echo(deviations(chains, 0 * group), error))


def chain_bounds(chains: Floats, group: Ints, draws: int, certain: float) -> Bounds:
    """Returns the multi-sample lower and the tangent upper bound of the log-likelihoods [P] of orders in draws `group` [P], and what holds log p."""
    tighter, error = log_mean_exp(chains), log_mean_exp_error(chains, group, draws)
    upper, upper_error = upper_bound(chains, group, draws, certain)
    return Bounds(tighter, error, upper, upper_error, bracket(chains, group, draws, certain))


def tube(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the tangent upper bound on the log-likelihood of the random-order sampler. At least two pairs of orders are drawn."""
    count = max(order_count(target.n, settings), 4)
    if all_orders(target.n, count, settings):
        found = yield from enumerated(target, EstimatorSettings("exact", report="likelihood"), noise)
        assert found.upper is not None
        return _score(found.upper, EXACT, "upper bound", settings, Bounds.of(found))
    chains, certain = yield from chain_log_likelihoods(target, random_orders(noise, target.n, count))
    bounds = chain_bounds(chains, np.arange(count) // 2, population(target.n), certain)
    assert bounds.upper is not None
    return _score(bounds.upper, bounds.upper_error, "upper bound", settings, bounds)


def duel(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the exact log-likelihood of the sampler that reveals `tokens` positions per forward in the order of `policy`."""
    total, _ = yield from reveal(target, settings.policy, settings.tokens)
    return _score(total, EXACT, "exact", settings)


def cubature(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the ELBO from all log-probabilities of `samples` forwards, by a rule of least variance (cubature.py)."""
    if enumerable(target.n, settings.samples):
        return replace((yield from enumerated(target, _as_exact(settings), noise)), estimator="cubature")
    rule, order = relabelled(target.n, settings.samples, noise)
    return rule_score(rule, (yield from rule_logs(target, rule, order)), settings)


def rule_logs(target: Target, rule: Rule, order: Ints) -> Walk[Floats]:
    """Returns log-probabilities [R, n] of the patterns of `rule`, column j being token order[j]; nan where not hidden."""
    hidden = rule.hidden[:, order.argsort()]
    logs: Floats = (yield from measure(target, hidden, hidden))[:, order]
    return logs


def rule_score(rule: Rule, logs: Floats, settings: EstimatorSettings) -> Score:
    """Returns the ELBO and its error by a cubature rule from its log-probabilities [R, n]."""
    error = rule.error(logs)
    return _score(rule.estimate(logs), error, "lower bound", settings, echo=echo(rule.deviations(logs), error))


def auto(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of the estimator with the lowest variance known for n and the budget (docs/likelihood.md has the evidence)."""
    name = choose(target.n, settings.samples)
    chosen = (
        replace(settings, name=name)
        if "samples" in ESTIMATORS[name].options
        else EstimatorSettings(name, cfg_scale=settings.cfg_scale)
    )
    return (yield from ESTIMATES[name](target, chosen, noise))


def choose(n: int, samples: int) -> str:
    """Returns the name of the estimator that `auto` uses for n open tokens."""
    return "exact" if enumerable(n, samples) else "cubature"


@dataclass(frozen=True)
class Bounds:
    """Bounds on a log-likelihood, each with its error, and what holds it at 95 % (nats; None where there is none)."""

    lower: float
    lower_error: Error
    upper: float | None
    upper_error: Error
    bracket: tuple[float | None, float | None]

    @classmethod
    def of(cls, score: Score) -> Bounds:
        """Returns the bounds of an exact score."""
        assert score.lower is not None
        return cls(score.lower, EXACT, score.upper, EXACT, score.bracket)


def _score(
    logprob: float,
    error: Error,
    kind: str,
    settings: EstimatorSettings,
    bounds: Bounds | None = None,
    echo: tuple[float, ...] = (),
) -> Score:
    """Returns the score; where no bounds are given, those that its kind makes it. Under guidance it is none."""
    plain = Score(
        logprob, error.stderr, kind, 0, None, settings.name, freedom=error.freedom, echo=echo, rough_stderr=error.rough
    )
    if settings.cfg_scale:
        return replace(plain, kind="score")
    if bounds is None and kind not in ("lower bound", "exact"):
        return plain
    if bounds is None:
        exactly = kind == "exact"
        low, high = plain.interval or (None, None)
        bounds = Bounds(
            logprob,
            error,
            logprob if exactly else None,
            error if exactly else UNKNOWN,
            (low, high if exactly else None),
        )
    return replace(
        plain,
        lower=bounds.lower,
        lower_stderr=bounds.lower_error.stderr,
        upper=bounds.upper,
        upper_stderr=bounds.upper_error.stderr,
        bracket=bounds.bracket,
    )


ESTIMATES: dict[str, Estimate] = {
    **dict.fromkeys(BUILDERS, linear),
    "exact": enumerated,
    "chain": chain,
    "cubature": cubature,
    "tube": tube,
    "sedd": sedd,
    "duel": duel,
    "auto": auto,
}

"""The estimators: each one a walk from a target with at least one token to its score.

Shape letters: n = open tokens, R = mask patterns, P = orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.engine import Ints, Walk
from dlm_eval.noise import Noise
from dlm_eval.scoring.cubature import relabelled
from dlm_eval.scoring.orders import chain_patterns, log_mean_exp, pair_count, random_orders, tangent_bound
from dlm_eval.scoring.patterns import BUILDERS, exact, standard_error
from dlm_eval.scoring.registry import ESTIMATORS, EstimatorSettings
from dlm_eval.scoring.reveal import reveal
from dlm_eval.scoring.score_entropy import sedd
from dlm_eval.scoring.subsets import sampler_log_likelihood
from dlm_eval.scoring.target import Floats, Target, measure

Estimate = Callable[[Target, EstimatorSettings, Noise], Walk[Score]]


def linear(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of a plan of weighted mask patterns (patterns.py)."""
    plan = BUILDERS[settings.name](target.n, settings, noise)
    logs = yield from measure(target, plan.hidden, plan.weight != 0)
    values = plan.replicates(logs)
    kind = ESTIMATORS[settings.name].kind
    elbo = float(values.mean())
    lower = elbo if kind in ("lower bound", "exact") else None
    upper = elbo if kind == "exact" else None
    return _score(elbo, standard_error(values, plan.stratum), kind, settings, lower, upper)


def enumerated(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the ELBO without noise, with the exact likelihood of the random-order sampler as lower and upper bound (or the other way round)."""
    plan = exact(target.n, settings, noise)
    logs = yield from measure(target, plan.hidden, plan.hidden)
    likelihood = sampler_log_likelihood(logs)
    if settings.report == "likelihood" or target.n == 1:
        return _score(likelihood, 0.0, "exact", settings, likelihood, likelihood)
    return _score(float(plan.replicates(logs)[0]), 0.0, "lower bound", settings, likelihood, likelihood)


def order_count(n: int, settings: EstimatorSettings) -> int:
    """Returns how many orders a chain estimator draws: as asked, else as many antithetic pairs as fit the samples."""
    if settings.permutations is not None:
        return settings.permutations
    if settings.antithetic:
        return 2 * pair_count(n, settings.samples)
    return max(1, (settings.samples - 1) // max(1, n - 1))


def chain_log_likelihoods(target: Target, orders: Ints) -> Walk[Floats]:
    """Returns the [P] log-likelihoods (nats) of the tokens revealed in each of `orders` [P, n]."""
    hidden, read = chain_patterns(orders)
    logs = yield from measure(target, hidden, read)
    chains: Floats = logs[read].reshape(orders.shape).sum(1)
    return chains


def chain(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the ELBO as the mean over random orders of the chain's log-likelihood; beside it a tighter lower and an upper bound.

    An order and its reverse are one draw. A single pair counts as two independent draws: their errors cancel in part, so this overstates the
    standard error.
    """
    orders = random_orders(noise, target.n, order_count(target.n, settings), settings.antithetic)
    chains = yield from chain_log_likelihoods(target, orders)
    return chain_score(chains, settings)


def chain_score(chains: Floats, settings: EstimatorSettings) -> Score:
    """Returns the score of the log-likelihoods [P] of random orders (antithetic neighbours, if so set)."""
    group = np.arange(len(chains)) // (2 if settings.antithetic else 1)
    elbo, tighter = float(chains.mean()), log_mean_exp(chains)
    tangent = tangent_bound(chains, group)
    upper = None if tangent is None else tangent[0]
    if settings.report == "likelihood":
        relative = (
            np.exp(chains - tighter) if np.isfinite(tighter) else chains
        )  # the error of a logarithm is the relative one
        return _score(tighter, _chain_error(relative, group), "lower bound", settings, tighter, upper)
    return _score(elbo, _chain_error(chains, group), "lower bound", settings, tighter, upper)


def _chain_error(values: Floats, group: Ints) -> float:
    """Returns the standard error of the mean of `values` [P], one per chain; chains of one group are one draw, unless there is no other group."""
    draws = values
    if len(values) > 2 and np.isfinite(values).all():
        draws = np.bincount(group, weights=values) / np.bincount(group)
    return standard_error(draws, np.zeros(len(draws), dtype=np.int64))


def tube(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the tangent upper bound on the log-likelihood of the random-order sampler. At least two pairs of orders are drawn."""
    count = max(order_count(target.n, settings), 4)
    chains = yield from chain_log_likelihoods(target, random_orders(noise, target.n, count))
    tangent = tangent_bound(chains, np.arange(count) // 2)
    assert tangent is not None
    return _score(*tangent, "upper bound", settings, log_mean_exp(chains), tangent[0])


def duel(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the exact log-likelihood of the sampler that reveals `tokens` positions per forward in the order of `policy`."""
    total, _ = yield from reveal(target, settings.policy, settings.tokens)
    return _score(total, 0.0, "exact", settings, total, total)


def cubature(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the ELBO from all log-probabilities of `samples` forwards, by a rule of least variance (cubature.py)."""
    if 2 ** min(target.n, 30) - 1 <= settings.samples:
        return replace(
            (yield from enumerated(target, EstimatorSettings("exact", cfg_scale=settings.cfg_scale), noise)),
            estimator="cubature",
        )
    rule, order = relabelled(target.n, settings.samples, noise)
    columns = order.argsort()
    hidden = rule.hidden[:, columns]
    logs = yield from measure(target, hidden, hidden)
    own = logs[:, order]
    elbo = rule.estimate(own)
    return _score(elbo, rule.standard_error(own), "lower bound", settings, elbo, None)


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
    return "exact" if 2 ** min(n, 30) - 1 <= samples else "cubature"


def _score(
    logprob: float, stderr: float, kind: str, settings: EstimatorSettings, lower: float | None, upper: float | None
) -> Score:
    if settings.cfg_scale:
        return Score(logprob, stderr, "score", 0, None, settings.name)
    return Score(logprob, stderr, kind, 0, None, settings.name, lower, upper)


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

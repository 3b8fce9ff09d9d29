"""Chains: estimators that reveal the tokens in random orders and score each one as it appears.

orders.py computes the estimates and bounds.

Shape letters: n = open tokens, P = orders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.likelihood.estimator import MOST_FORWARDS, Bounds, Budgeted, Guided
from dlm_eval.likelihood.exact import Exact, Report, as_estimator, enumerated
from dlm_eval.likelihood.mc_error import deviations, echo
from dlm_eval.likelihood.orders import (
    FEW,
    bracket,
    chain_patterns,
    log_mean_exp,
    log_mean_exp_error,
    mean_error,
    pair_count,
    population,
    random_orders,
    steps_deviation,
    upper_bound,
)
from dlm_eval.likelihood.patterns import Floats, Ints, enumerable
from dlm_eval.options import option
from dlm_eval.uncertainty import EXACT

if TYPE_CHECKING:
    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.rng import Noise


@dataclass(frozen=True, kw_only=True)
class Orders(Budgeted, Guided):
    """An estimator that runs chains along random orders."""

    permutations: int | None = option(
        None,
        least=1,
        most=MOST_FORWARDS,
        help="chains, in place of as many as max_forwards pays for",
    )

    def order_count(self, n: int) -> int:
        """Returns the number of orders: `permutations`, else as many pairs as fit the budget."""
        return (
            2 * pair_count(n, self.max_forwards) if self.permutations is None else self.permutations
        )

    def all_orders(self, n: int) -> bool:
        """Returns whether the orders cost at least as much as all mask patterns."""
        budget = self._cost(n)
        return enumerable(
            n, budget if self.permutations is not None else max(budget, self.max_forwards)
        )

    def budget(self, n: int) -> int:
        return (1 << n) - 1 if n < 2 or self.all_orders(n) else self._cost(n)

    def _cost(self, n: int) -> int:
        """Returns the forwards of the orders, of which the first one is common to all."""
        return self.order_count(n) * (n - 1) + 1


@dataclass(frozen=True, kw_only=True)
class Chain(Orders, name="chain"):
    """Chain rule along random orders, each with its reverse; also gives tighter bounds.

    An order and its reverse are one draw. Draws are without replacement. If all mask patterns fit
    the budget, they are all run and nothing is drawn. At least one pair is run.
    """

    kind = "lower bound"
    cost = "<= 1 + (n - 1) per order"
    antithetic: bool = option(True, help="whether each permutation comes with its reverse")
    report: Report = option(
        "elbo", help="what logprob is: the ELBO, or the multi-sample lower bound on the likelihood"
    )

    def order_count(self, n: int) -> int:
        if self.permutations is not None or self.antithetic:
            return super().order_count(n)
        return max(1, (self.max_forwards - 1) // max(1, n - 1))

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        if target.n == 1:
            return enumerated(self, target, noise)
        if self.all_orders(target.n):
            exact = Exact(report=self.report, cfg_scale=self.cfg_scale)
            return as_estimator(exact.estimate(target, noise), self)
        return self._sampled(
            target, random_orders(noise, target.n, self.order_count(target.n), self.antithetic)
        )

    def _sampled(self, target: Target, orders: Ints) -> Program[Score]:
        steps, certain = yield from step_log_likelihoods(target, orders)
        return self.from_chains(steps.sum(1), certain, target.n, steps_deviation(steps, orders))

    def from_chains(self, chains: Floats, certain: float, n: int, least: float = 0.0) -> Score:
        """Returns the score from the log-likelihoods [P] of random orders of n tokens.

        With `antithetic`, an order is followed by its reverse.

        Args:
            chains: [P] log-likelihoods, nats.
            certain: upper bound on log p, nats.
            n: open tokens.
            least: smallest standard deviation (nats) that the interval assumes if there are fewer
                than `FEW` draws.
        """
        group = np.arange(len(chains)) // (2 if self.antithetic else 1)
        draws = population(n, self.antithetic)
        bounds = chain_bounds(chains, group, draws, certain)
        value, error = float(chains.mean()), mean_error(chains, group, draws)
        if error.best and group[-1] + 1 < FEW:
            error = replace(error, least=least)
        if self.report == "likelihood":
            value, error = bounds.lower, bounds.lower_error
        return self.score(
            value, error, bounds=bounds, echo=echo(deviations(chains, 0 * group), error)
        )


@dataclass(frozen=True, kw_only=True)
class Tube(Orders, name="tube"):
    """Tangent upper bound on the random-order sampler's likelihood, from chains (arXiv 2605.24292).

    At least two pairs of orders are drawn.
    """

    kind = "upper bound"
    cost = "<= 1 + (n - 1) per order"

    def order_count(self, n: int) -> int:
        return max(super().order_count(n), 4)

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        count = self.order_count(target.n)
        if self.all_orders(target.n):
            found = yield from Exact(report="likelihood").estimate(target, noise)
            assert found.upper is not None
            return self.score(found.upper, EXACT, bounds=Bounds.of(found))
        steps, certain = yield from step_log_likelihoods(
            target, random_orders(noise, target.n, count)
        )
        bounds = chain_bounds(steps.sum(1), np.arange(count) // 2, population(target.n), certain)
        assert bounds.upper is not None
        return self.score(bounds.upper, bounds.upper_error, bounds=bounds)


def step_log_likelihoods(target: Target, orders: Ints) -> Program[tuple[Floats, float]]:
    """Returns log-likelihoods [P, n] (nats) of the steps along `orders` [P, n], and an upper bound
    on log p.

    Every order begins with all tokens hidden, and no later step has a probability above 1. So log p
    is at most the log of the mean first probability.
    """
    hidden, read = chain_patterns(orders)
    first = hidden.sum(1) == hidden.shape[1]
    logs = yield from target.measure(hidden, read | first[:, None])
    steps: Floats = logs[read].reshape(orders.shape)
    return steps, log_mean_exp(logs[first.argmax()])


def chain_bounds(chains: Floats, group: Ints, draws: int, certain: float) -> Bounds:
    """Returns the multi-sample lower bound, the tangent upper bound, and an interval of log p.

    Args:
        chains: [P] log-likelihoods of the orders, nats.
        group: [P] the draw that each order belongs to.
        draws: number of different draws that exist.
        certain: upper bound on log p, nats.
    """
    tighter, error = log_mean_exp(chains), log_mean_exp_error(chains, group, draws)
    upper, upper_error = upper_bound(chains, group, draws, certain)
    return Bounds(tighter, error, upper, upper_error, bracket(chains, group, draws, certain))

"""How often the intervals of likelihood estimators hold the truth, and how large standard errors are against actual errors.

    python benchmarks/coverage.py                                   # all cells, 2000 draws each: about an hour on a busy core
    python benchmarks/coverage.py --estimators cubature --n 8,12 --budgets 16,128 --draws 300
    python benchmarks/coverage.py --estimators bracket              # of log p, from chains

The models are made up (contexts.py): their log-probabilities are quick functions of the pattern. The true ELBO is enumerated up to n = 16; beyond, it is the
mean of 8192 cubature runs of 128 forwards with seeds of their own (10^6 patterns; unbiased, as the enumerable cells show). Draws depend on --seed alone. A cell reads

    rms reported / rms actual error | share of intervals that hold the truth, % | median width over that of an ideal interval, 2 * 1.96 * sd

"-" is a cell where all patterns fit the budget (exact) or where fewer than 4 independent draws do (no error is reported). A cell is marked with * if the
coverage is below 93 %, the ratio is outside 0.85 to 1.5, or the width is above 2. Figures of cells in which the standard deviation is below 1e-6 nats are left out.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from contexts import KINDS, Contexts

from dlm_eval.likelihood.chains import Chain
from dlm_eval.likelihood.cubature.design import variants
from dlm_eval.likelihood.cubature.rule import rule
from dlm_eval.likelihood.cubature.spread import freedom
from dlm_eval.likelihood.exact import sampler_log_likelihood
from dlm_eval.likelihood.masks import plan_error, some_hidden
from dlm_eval.likelihood.mc_error import neighbours
from dlm_eval.likelihood.orders import (
    bracket,
    chain_patterns,
    log_mean_exp,
    population,
    random_orders,
    steps_deviation,
)
from dlm_eval.likelihood.patterns import (
    Bools,
    Floats,
    Plan,
    enumerable,
    grid_sizes,
    smallest,
    subsets,
)
from dlm_eval.rng import Noise, digest
from dlm_eval.uncertainty import Error, half_width, student

BATCH, RUNS = 128, 8192  # runs at a time; runs of a reference
ENUMERATED = 16


@dataclass(frozen=True, eq=False)
class Draws:
    """What D runs said: errors of the estimate, standard errors (nan: not known) and half widths of the intervals, [D] nats."""

    errors: Floats
    stderr: Floats
    half: Floats

    def figures(self) -> tuple[float, float, float] | None:
        """Returns ratio, coverage and width; None where no error is reported, or there is none."""
        known = ~np.isnan(self.stderr)
        actual = math.sqrt(float((self.errors**2).mean()))
        if not known.any() or actual < 1e-6:
            return None
        ratio = math.sqrt(float((self.stderr[known] ** 2).mean())) / actual
        held = float((np.abs(self.errors[known]) <= self.half[known]).mean())
        return ratio, held, float(np.median(self.half[known])) / 1.96 / actual

    def certain_and_wrong(self) -> int:
        """Returns in how many draws the standard error is below 1e-6 and the error above 1e-3."""
        return int(((self.stderr < 1e-6) & (np.abs(self.errors) > 1e-3)).sum())


def elbo(model: Contexts) -> float:
    """Returns the true ELBO, or the mean of 10^6 patterns of unbiased rules."""
    if model.n > ENUMERATED:
        return float(
            np.concatenate([run[0] for run in cubature_runs(model, 128, RUNS, 10**6, False)]).mean()
        )
    total = 0.0
    hidden = subsets(model.n)[1:]
    weight = np.array([1 / (k * math.comb(model.n, k)) for k in range(1, model.n + 1)])[
        hidden.sum(1) - 1
    ]
    for begin in range(0, len(hidden), 8192):
        part = slice(begin, begin + 8192)
        total += float(
            (weight[part, None] * np.where(hidden[part], model.logs(hidden[part]), 0.0)).sum()
        )
    return total


def cubature_runs(
    model: Contexts, samples: int, draws: int, seed: int, errors: bool = True
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Yields estimates, standard errors and the least that intervals assume, of rules with random orders of the tokens, some at a time."""
    rng = np.random.default_rng([seed, model.n, samples])
    chosen = rng.integers(0, variants(model.n, samples), draws)
    for variant in np.unique(chosen):
        own = rule(model.n, samples, int(variant))
        left = int((chosen == variant).sum())
        while left:
            order = rng.random((min(left, BATCH), model.n)).argsort(1)
            left -= len(order)
            hidden = own.hidden[:, order.argsort(1)].transpose(1, 0, 2)
            logs = np.take_along_axis(model.logs(hidden), order[:, None, :], 2)
            values = (own.weight * np.where(own.hidden, logs, 0.0)).sum((1, 2))
            stderr = np.sqrt(own.spread.variance(logs)) if errors else values
            yield values, stderr, stderr * own.spread.doubt(logs) if errors else values


def cubature(
    models: list[Contexts], samples: int, draws: int, seed: int, truths: list[float]
) -> list[Draws]:
    found = []
    for model, truth in zip(models, truths, strict=True):
        runs = list(cubature_runs(model, samples, draws, seed))
        values, stderr, least = (np.concatenate([run[part] for run in runs]) for part in (0, 1, 2))
        stderr = np.where(stderr > 1e-9, stderr, np.nan)
        half = np.maximum(student(freedom(samples)) * stderr, student(math.inf) * least)
        found.append(Draws(values - truth, stderr, half))
    return found


def plans(name: str, n: int, samples: int, draws: int, seed: int) -> Iterator[tuple[Bools, Floats]]:
    """Yields hidden [D, K, n] and the weight of each pattern [D, K], as masks.py makes them but for where the noise comes from."""
    rng = np.random.default_rng([seed, len(name), n, samples])
    for begin in range(0, draws, BATCH):
        count = min(BATCH, draws - begin)
        noise = rng.random((count, samples, n))
        if name == "mask_count":
            sizes = np.stack([grid_sizes(n, samples, float(shift)) for shift in rng.random(count)])
            yield smallest(noise.reshape(-1, n), sizes.ravel()).reshape(noise.shape), n / sizes
        else:
            times = (np.arange(samples) + 1 - rng.random((count, samples))) / samples
            hidden, chance = some_hidden(times, rng.random((count, samples)), noise)
            yield hidden, chance / times


def by_plans(
    name: str, models: list[Contexts], samples: int, draws: int, seed: int, truths: list[float]
) -> list[Draws]:
    """Returns the draws of `mask_count` or `mask_rate`, each plan read on all models."""
    rows: list[list[tuple[float, ...]]] = [[] for _ in models]
    stratum = neighbours(samples)
    for hidden, weight in plans(name, models[0].n, samples, draws, seed):
        for model, truth, own in zip(models, truths, rows, strict=True):
            for one, weights, logs in zip(hidden, weight, model.logs(hidden), strict=True):
                plan = Plan(one, one * weights[:, None], np.arange(samples), stratum)
                own.append(
                    _row(float(plan.replicates(logs).mean()) - truth, plan_error(plan, logs))
                )
    return [Draws(*np.array(own).T) for own in rows]


def _row(off: float, error: Error) -> tuple[float, float, float]:
    """Returns how far an estimate is off, its standard error and half its interval; nan where they are not known."""
    half = half_width(error)
    return (
        (off, math.nan, math.nan)
        if half is None or error.stderr is None
        else (off, error.stderr, half)
    )


def chains(
    models: list[Contexts], samples: int, draws: int, seed: int
) -> Iterator[tuple[int, Floats, float]]:
    """Yields (model number, [P] log-likelihoods of the orders, their least deviation) of each draw."""
    n = models[0].n
    count = Chain(max_forwards=samples).order_count(n)
    for draw in range(draws):
        orders = random_orders(Noise(digest("coverage", seed, "chain", n, samples, draw)), n, count)
        hidden, read = chain_patterns(orders)
        for number, model in enumerate(models):
            steps = model.logs(hidden)[read].reshape(orders.shape)
            yield number, steps.sum(1), steps_deviation(steps, orders)


def chain(
    models: list[Contexts], samples: int, draws: int, seed: int, truths: list[float]
) -> list[Draws]:
    rows: list[list[tuple[float, ...]]] = [[] for _ in models]
    for number, own, least in chains(models, samples, draws, seed):
        score = Chain(max_forwards=samples).from_chains(own, 0.0, models[0].n, least)
        rows[number].append(_row(score.logprob - truths[number], score.error))
    return [Draws(*np.array(own).T) for own in rows]


def brackets(
    models: list[Contexts], samples: int, draws: int, seed: int
) -> list[tuple[float, float, float]]:
    """Returns for each model how often the bracket of the chains holds log p, the median width, and how often its high end is from the draws."""
    everything = subsets(models[0].n)[1:]
    truths = [
        sampler_log_likelihood(np.where(everything, model.logs(everything), np.nan))
        for model in models
    ]
    certain = [log_mean_exp(model.logs(everything[-1])) for model in models]
    found: list[list[tuple[bool, float, bool]]] = [[] for _ in models]
    for number, own, _ in chains(models, samples, draws, seed):
        group = np.arange(len(own)) // 2
        low, high = bracket(own, group, population(models[0].n), certain[number])
        found[number].append(
            (low - 1e-9 <= truths[number] <= high + 1e-9, high - low, high < certain[number])
        )
    return [
        (
            float(np.mean([r[0] for r in own])),
            float(np.median([r[1] for r in own])),
            float(np.mean([r[2] for r in own])),
        )
        for own in found
    ]


def is_exact(name: str, n: int, samples: int) -> bool:
    """Returns whether the estimator enumerates in this cell, or draws too little for any error (then too there is nothing to check)."""
    if name in ("chain", "bracket"):
        settings = Chain(max_forwards=samples)
        return settings.all_orders(n) or (name == "chain" and settings.order_count(n) < 8)
    return enumerable(n, samples)


def shown(figures: tuple[float, float, float] | None) -> str:
    if figures is None:
        return "-"
    ratio, held, width = figures
    bad = held < 0.93 or not 0.85 <= ratio <= 1.5 or width > 2
    return f"{ratio:.2f} {100 * held:.1f} {width:.2f}{' *' if bad else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--estimators", default="cubature,mask_count,mask_rate,chain,bracket")
    parser.add_argument("--n", default="3,4,5,6,7,8,9,10,11,12,16,32,64")
    parser.add_argument("--budgets", default="8,16,32,128")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument(
        "--seed",
        type=int,
        default=3,
        help="of models and draws (0 to 2 were used while the method was chosen)",
    )
    args = parser.parse_args()
    names, budgets, start = (
        args.estimators.split(","),
        [int(k) for k in args.budgets.split(",")],
        time.perf_counter(),
    )
    wrong = 0
    print(f"| estimator | n | forwards | {' | '.join(KINDS)} |\n|{'---|' * (3 + len(KINDS))}")
    for n in map(int, args.n.split(",")):
        models = [Contexts.draw(kind, n, args.seed) for kind in KINDS]
        truths = [elbo(model) for model in models] if set(names) - {"bracket"} else []
        for name in names:
            for samples in budgets:
                if is_exact(name, n, samples) or (name == "bracket" and n > 12):
                    continue
                if name == "bracket":
                    cells = [
                        f"{100 * held:.1f} {width:.2f} {100 * drawn:.0f}"
                        for held, width, drawn in brackets(models, samples, args.draws, args.seed)
                    ]
                else:
                    run = {"cubature": cubature, "chain": chain}.get(name)
                    found = (run or (lambda *rest, name=name: by_plans(name, *rest)))(
                        models, samples, args.draws, args.seed, truths
                    )
                    wrong += sum(draws.certain_and_wrong() for draws in found)
                    cells = [shown(draws.figures()) for draws in found]
                print(f"| {name} | {n} | {samples} | {' | '.join(cells)} |", flush=True)
    print(
        f"\n{args.draws} draws a cell; standard error below 1e-6 and error above 1e-3: {wrong} draws ({time.perf_counter() - start:.0f} s)"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Estimators against the truth on `toy`, by an independent implementation: averages over all reveal orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dlm_eval.canvas import Canvas
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.likelihood import Estimator, parse_estimator, score, score_outcomes
from dlm_eval.likelihood.authors import LLaDA
from dlm_eval.likelihood.auto import Auto, Cubature
from dlm_eval.likelihood.chains import Chain
from dlm_eval.likelihood.masks import MaskCount, MaskRate
from dlm_eval.likelihood.target import targets
from dlm_eval.models import load_model
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise, digest

ALPHA_Z = 4.42  # two-sided alpha = 1e-5 for each z-test


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(ToySettings(inconsistency=0.7, seed=3))


def log_prob(model: Toy, tokens: list[int], hidden: set[int], place: int) -> float:
    """Returns log p(token at place | what is not hidden), straight from the model."""
    row = [model.mask_id if i in hidden else token for i, token in enumerate(tokens)]
    return float(
        model.logits(torch.tensor([row]))[0, place].double().log_softmax(-1)[tokens[place]]
    )


def order_log_likelihoods(model: Toy, canvas: Canvas) -> list[float]:
    """Returns the log-likelihood of the open tokens under every reveal order."""
    tokens, places = list(canvas.tokens), canvas.open_positions
    known: dict[tuple[frozenset[int], int], float] = {}

    def step(hidden: frozenset[int], place: int) -> float:
        if (hidden, place) not in known:
            known[hidden, place] = log_prob(model, tokens, set(hidden), place)
        return known[hidden, place]

    return [
        sum(step(frozenset(order[j:]), place) for j, place in enumerate(order))
        for order in itertools.permutations(places)
    ]


CANVASES = [
    Canvas.continuation([0, 1], [4]),
    Canvas.continuation([0, 1], [4, 2]),
    Canvas.infill([3], [1, 1, 5], [2, 0]),
    Canvas.continuation([], [2, 0, 3, 3, 1]),
    Canvas((1, 2, 3, 4, 5, 0), (True, False, True, True, False, True)),
]


@pytest.mark.parametrize("canvas", CANVASES, ids=lambda c: f"n={sum(c.open)}")
def test_exact_is_the_mean_over_all_orders(toy: Toy, canvas: Canvas) -> None:
    orders = order_log_likelihoods(toy, canvas)
    elbo = float(np.mean(orders))
    likelihood = math.log(np.mean(np.exp(orders)))
    (found,) = score(toy, [canvas], "exact")
    assert found.logprob == pytest.approx(elbo, abs=1e-6)
    assert found.stderr == 0.0
    assert found.lower == pytest.approx(likelihood, abs=1e-6)
    assert found.upper == pytest.approx(likelihood, abs=1e-6)
    (sampler,) = score(toy, [canvas], "exact,report=likelihood")
    assert sampler.kind == "exact"
    assert sampler.logprob == pytest.approx(likelihood, abs=1e-6)
    assert elbo <= likelihood + 1e-9


def test_a_consistent_model_has_no_gap() -> None:
    toy = Toy(ToySettings(seed=5))
    text = [1, 4, 0, 2, 2, 3]
    for estimator in (
        "exact",
        "exact,report=likelihood",
        "chain,permutations=2",
        "left_to_right",
        "duel",
        "tube",
    ):
        (found,) = score(toy, [Canvas.continuation([], text)], estimator)
        assert found.logprob == pytest.approx(toy.log_joint(text), abs=1e-5), estimator


def test_left_to_right_and_pseudo(toy: Toy) -> None:
    canvas = CANVASES[3]
    tokens, places = list(canvas.tokens), canvas.open_positions
    reading = sum(log_prob(toy, tokens, set(places[j:]), place) for j, place in enumerate(places))
    alone = sum(log_prob(toy, tokens, {place}, place) for place in places)
    assert score(toy, [canvas], "left_to_right")[0].logprob == pytest.approx(reading, abs=1e-6)
    assert score(toy, [canvas], "duel,policy=left_to_right")[0].logprob == pytest.approx(
        reading, abs=1e-6
    )
    assert score(toy, [canvas], "pseudo")[0].logprob == pytest.approx(alone, abs=1e-6)
    assert score(toy, [canvas], "pseudo")[0].kind == "score"


@pytest.mark.parametrize("policy", ["confidence", "entropy", "margin"])
@pytest.mark.parametrize("per_step", [1, 2])
def test_duel_follows_the_policy(toy: Toy, policy: str, per_step: int) -> None:
    canvas = CANVASES[3]
    tokens, hidden, total = list(canvas.tokens), set(canvas.open_positions), 0.0
    while hidden:
        row = [toy.mask_id if i in hidden else token for i, token in enumerate(tokens)]
        probs = toy.logits(torch.tensor([row]))[0].double().softmax(-1).numpy()
        wish = {}
        for place in hidden:
            p = np.sort(probs[place])[::-1]
            entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
            wish[place] = {"confidence": p[0], "entropy": -entropy, "margin": p[0] - p[1]}[policy]
        for place in sorted(hidden, key=lambda i: -wish[i])[:per_step]:
            total += math.log(probs[place, tokens[place]])
            hidden.remove(place)
    (found,) = score(toy, [canvas], f"duel,policy={policy},tokens_per_step={per_step}")
    assert found.logprob == pytest.approx(total, abs=1e-5)
    assert found.kind == "exact"
    assert found.rows == math.ceil(5 / per_step)


def repeats(
    toy: Toy, canvas: Canvas, estimator: Estimator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns estimates and standard errors of `count` independent runs (independent by their keys)."""
    canvases = [Canvas(canvas.tokens, canvas.open, f"run {i}") for i in range(count)]
    scores = [outcome.answer for outcome in score_outcomes(Engine(toy), canvases, estimator)]
    # nan: unknown
    return np.array([s.logprob for s in scores]), np.array([s.stderr for s in scores], dtype=float)


@pytest.mark.parametrize(
    "settings",
    [
        MaskCount(max_forwards=12),
        MaskRate(max_forwards=12),
        Chain(permutations=2),
        Chain(permutations=4),
        Chain(permutations=3, antithetic=False),
        LLaDA(max_forwards=12, batch=4),
        Auto(max_forwards=4),
        Auto(max_forwards=12),
        Cubature(max_forwards=12),
        Cubature(max_forwards=2),
        Cubature(max_forwards=3),
    ],
    ids=str,
)
def test_sampled_estimators_are_unbiased(toy: Toy, settings: Estimator) -> None:
    canvas = CANVASES[3]
    truth = float(np.mean(order_log_likelihoods(toy, canvas)))
    values, errors = repeats(toy, canvas, settings, 400)
    spread = values.std(ddof=1)
    assert abs(values.mean() - truth) < ALPHA_Z * spread / np.sqrt(len(values))
    if np.isnan(errors).all():  # too few draws to know
        return
    # The reported error is the spread between runs, or above it: merged strata overstate.
    reported = np.sqrt(np.nanmean(errors**2))
    assert 0.85 * spread < reported < 2.5 * spread


def test_bounds_bracket_the_truth(toy: Toy) -> None:
    canvas = CANVASES[3]
    truth = math.log(np.mean(np.exp(order_log_likelihoods(toy, canvas))))
    canvases = [Canvas(canvas.tokens, canvas.open, f"run {i}") for i in range(300)]
    scores = score(toy, canvases, "chain,permutations=6")
    for bound, side in (("logprob", -1), ("lower", -1), ("upper", 1)):
        values = np.array([getattr(s, bound) for s in scores])
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert side * (values.mean() - truth) > -ALPHA_Z * error, bound
    means = [
        np.mean([getattr(s, bound) for s in scores]) for bound in ("logprob", "lower", "upper")
    ]
    assert means[0] < means[1] < truth < means[2]  # the multi-sample bound is tighter than the ELBO
    tube = score(toy, canvases[:1], "tube,permutations=6")[0]
    assert tube.kind == "upper bound"
    assert tube.logprob == pytest.approx(scores[0].upper)


@pytest.mark.parametrize(
    "estimator", ["mask_count,max_forwards=12", "mask_rate,max_forwards=12", "auto,max_forwards=8"]
)
def test_blocks_err_on_their_own(estimator: str) -> None:
    """Errors of blocks add in squares, so blocks must not share their draws: the reported error is 0.8 of the spread of 200 runs at least."""

    class Blocks(Toy):
        attention = "block"
        block_length = 3

    model = Blocks(ToySettings(inconsistency=1.5, seed=3))
    values, errors = repeats(model, CANVASES[3], parse_estimator(estimator), 200)
    assert np.sqrt(np.nanmean(errors**2)) > 0.8 * values.std(ddof=1)  # nan: a block's draws agreed


class Chain4(Toy):
    """A consistent chain, read in blocks of four."""

    attention = "block"
    block_length = 4


@pytest.mark.parametrize(
    ("context", "target", "shown"),
    [
        ([0, 1], [4], [6]),  # EOS, and a mask in the fourth place
        ([0, 1], [4, 2], [2]),  # EOS is in the next block
        ([0, 1, 3], [5, 2, 2], []),  # the rest of the target is in the next block
        ([0, 1, 3, 2], [5, 2], [2, 6]),
        ([], [1, 2, 0, 3, 4, 4], [2, 0, 3]),
    ],
)
def test_fast_dllm_v2_is_the_conditional_of_the_first_token(
    context: list[int], target: list[int], shown: list[int]
) -> None:
    """By enumeration of the first token: p(token, what its block shows) / sum over all tokens."""
    model = Chain4(ToySettings(seed=5))
    assert model.eos_ids == (6,)
    joint = [model.log_joint([*context, token, *shown]) for token in range(7)]
    truth = joint[target[0]] - float(np.logaddexp.reduce(joint))
    (found,) = score(model, [Canvas.continuation(context, target)], "fast_dllm_v2")
    assert found.logprob == pytest.approx(truth, abs=1e-6)
    assert (found.kind, found.stderr, found.rows, found.lower) == ("score", 0.0, 1, None)


def test_fast_dllm_v2_runs_one_row_for_choices_that_differ_in_their_first_token() -> None:
    engine = Engine(Chain4(ToySettings(seed=5)))
    choices = [Canvas.continuation([0, 1], [token, 3], "question") for token in range(4)]
    found = score(engine.model, choices, "fast_dllm_v2", engine=engine)
    assert engine.cost.rows == 1 and len({one.logprob for one in found}) == 4


def test_fast_dllm_v2_needs_blocks(toy: Toy) -> None:
    with pytest.raises(UserError, match="fills the last block.*has no blocks; use auto"):
        score(toy, CANVASES[:1], "fast_dllm_v2")


def test_a_multi_sample_bound_knows_its_error(toy: Toy) -> None:
    settings = Chain(permutations=16, report="likelihood")
    values, errors = repeats(toy, Canvas.continuation([], [2, 0, 3, 3, 1, 4, 0]), settings, 300)
    assert 0.75 < np.sqrt(np.mean(errors**2)) / values.std(ddof=1) < 1.5


@pytest.mark.parametrize(
    "estimator",
    [
        "auto",
        "mask_count",
        "mask_rate",
        "chain,permutations=1",
        "chain,report=likelihood",
        "cubature",
    ],
)
def test_a_single_token_has_no_error(toy: Toy, estimator: str) -> None:
    (found,) = score(toy, CANVASES[:1], estimator, max_forwards=1)
    assert found.logprob == pytest.approx(log_prob(toy, [0, 1, 4], {2}, 2), abs=1e-6)
    assert (found.stderr, found.rows, found.estimator) == (
        0.0,
        1,
        "exact" if estimator == "auto" else estimator.split(",")[0],
    )


@pytest.mark.parametrize("n, samples", [(8, 4), (12, 6), (12, 12)])
def test_small_budgets_know_their_error(toy: Toy, n: int, samples: int) -> None:
    """The reported error of a few forwards of a long target: not below 0.8 of the spread of 200 runs (good to 5 %), nor above 2 of it."""
    canvas = Canvas.continuation([1, 5], [2, 0, 3, 3, 1, 4, 0, 2, 5, 1, 1, 4, 3, 2, 0, 5][:n])
    values, errors = repeats(toy, canvas, Auto(max_forwards=samples), 200)
    assert 0.8 * values.std(ddof=1) < np.sqrt(np.mean(errors**2)) < 2 * values.std(ddof=1)


def test_more_open_tokens_than_a_float_can_count_sets_of() -> None:
    """C(1100, 550) is no float: `auto` ended with an OverflowError above 1030 open tokens."""
    toy = Toy(ToySettings(max_length=2048))
    canvas = Canvas.continuation([1], [2] * 1100)
    (found,) = score(toy, [canvas], Auto(max_forwards=8))
    (plain,) = score(toy, [canvas], MaskCount(max_forwards=64))
    assert found.kind == plain.kind and found.stderr is not None and plain.stderr is not None
    error = np.hypot(found.stderr, plain.stderr)
    assert abs(found.logprob - plain.logprob) < 6 * error  # alpha = 2e-9 if the errors are right


@pytest.mark.parametrize("n, samples", [(3, 7), (5, 16), (6, 8), (7, 32), (8, 4)])
def test_auto_never_has_a_larger_error_than_k(toy: Toy, n: int, samples: int) -> None:
    """One-sided F-test of equal variances at alpha = 1e-3: 200 against 200 runs, critical ratio 1.55."""
    canvas = Canvas.continuation([1, 5], [2, 0, 3, 3, 1, 4, 0, 2][:n])
    auto, _ = repeats(toy, canvas, Auto(max_forwards=samples), 200)
    plain, _ = repeats(toy, canvas, MaskCount(max_forwards=samples), 200)
    assert auto.var(ddof=1) <= 1.55 * plain.var(ddof=1)


def test_a_quarter_of_llada_s_forwards_and_a_fifth_of_its_variance() -> None:
    """On a trained model, 8 tokens: 150 runs against 150 (the F ratio of equal variances exceeds 1.7 with probability 7e-4); measured: 0.1 and 0.002."""
    tiny = load_model("tiny")
    ids = tiny.encode("Anna had a red hat. Anna lost the hat at the park. Ben found it.")
    (target,) = targets(tiny, Canvas.continuation(ids[:8], ids[8:16]))

    def variance(name: str, samples: int) -> float:
        settings = parse_estimator(name, {"max_forwards": samples})
        programs = [settings.estimate(target, Noise(digest(run))) for run in range(150)]
        return float(
            np.var([outcome.answer.logprob for outcome in Engine(tiny).drive(programs)], ddof=1)
        )

    reference = variance("llada", 128)
    assert variance("auto", 32) < reference / 1.7
    assert variance("auto", 128) < reference / 5 / 1.7

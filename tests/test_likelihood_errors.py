"""What scores say of their own errors, against models whose truth is known (benchmarks/contexts.py) and against `toy`.

The reduced version of benchmarks/coverage.py: fixed seeds, each comparison at alpha = 1e-4 or less.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_tasks import write_tasks
from scipy.stats import chi2

from dlm_eval import evaluate
from dlm_eval.answers import decode_answer, encode_answer
from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.metric_errors import _part, estimator_parts
from dlm_eval.jobs import Answer, Scores
from dlm_eval.likelihood import parse_estimator, score, score_outcomes
from dlm_eval.likelihood.chains import Chain
from dlm_eval.likelihood.cubature.kept import Kept, array_bytes
from dlm_eval.likelihood.cubature.rule import rule
from dlm_eval.likelihood.exact import sampler_log_likelihood
from dlm_eval.likelihood.masks import some_hidden
from dlm_eval.likelihood.orders import log_mean_exp, population, random_orders, upper_bound
from dlm_eval.likelihood.patterns import subsets
from dlm_eval.likelihood.target import merge
from dlm_eval.models import load_model
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.reports.run.report import render
from dlm_eval.rng import Noise, digest
from dlm_eval.uncertainty import Error, half_width, summed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from contexts import KINDS, Contexts  # a script beside the benchmark, not a part of the package
from coverage import brackets, by_plans, chain, chains, cubature, elbo
from task_errors import parts

SEED = 5  # of models and draws; another than the benchmark's


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(ToySettings(inconsistency=0.9, seed=3))


def runs(toy: Toy, canvas: Canvas, estimator: str, count: int) -> list[Score]:
    """Returns scores of independent runs (independent by their keys)."""
    canvases = [Canvas(canvas.tokens, canvas.open, f"{canvas.key} run {i}") for i in range(count)]
    outcomes = score_outcomes(Engine(toy), canvases, parse_estimator(estimator))
    return [outcome.answer for outcome in outcomes if isinstance(outcome.answer, Score)]


def log_likelihood(toy: Toy, canvas: Canvas) -> float:
    found = score(toy, [canvas], "exact")[0].lower
    assert found is not None
    return found


# -- 1: chains -------------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [True, False])
def test_01_orders_are_drawn_without_replacement(antithetic: bool) -> None:
    """As many draws as there are give every order once; fewer give each equally often (chi-square with 11 degrees of freedom, alpha 1e-5: 44)."""
    every = random_orders(Noise(digest(0)), 4, 24, antithetic)
    assert {tuple(order) for order in every.tolist()} == set(itertools.permutations(range(4)))
    assert population(4, antithetic) == (12 if antithetic else 24)
    if antithetic:
        assert (every[::2] == every[1::2, ::-1]).all()
        seen: dict[frozenset[tuple[int, ...]], int] = {}
        for run in range(600):
            orders = random_orders(Noise(digest("run", run)), 4, 4)
            pairs = [
                frozenset({tuple(a), tuple(b)})
                for a, b in zip(orders[::2].tolist(), orders[1::2].tolist(), strict=True)
            ]
            assert len(set(pairs)) == 2
            for pair in pairs:
                seen[pair] = seen.get(pair, 0) + 1
        assert len(seen) == 12 and sum((count - 100) ** 2 / 100 for count in seen.values()) < 44


@pytest.mark.parametrize(
    "n, estimator, rows",
    [
        (3, "chain,permutations=4", 7),
        (4, "chain", 15),
        (5, "tube", 31),
        (4, "chain,permutations=24", 15),
    ],
)
def test_01_all_orders_where_they_cost_no_more(toy: Toy, n: int, estimator: str, rows: int) -> None:
    canvas = Canvas.continuation([0, 1], [4, 2, 0, 3, 1][:n])
    (found,), truth = score(toy, [canvas], estimator), log_likelihood(toy, canvas)
    assert (found.rows, found.stderr, found.lower_stderr, found.upper_stderr) == (
        rows,
        0.0,
        0.0,
        0.0,
    )
    assert found.lower == found.upper == pytest.approx(truth) and found.bracket == pytest.approx(
        (truth, truth)
    )
    whole = score(toy, [canvas], "exact")[0]
    assert found.logprob == pytest.approx(truth if estimator == "tube" else whole.logprob)


def test_01_draws_that_agree_prove_nothing() -> None:
    """A chain is never certain and wrong; few draws know no error, and what is exact knows that it is (2000 draws in the benchmark)."""
    for n, samples in ((4, 13), (5, 21), (6, 32), (8, 128)):
        models = [Contexts.draw(kind, n, SEED) for kind in KINDS]
        for draws in chain(models, samples, 200, SEED, [elbo(model) for model in models]):
            assert draws.certain_and_wrong() == 0
            if n < 8:  # fewer than 4 pairs
                assert np.isnan(draws.stderr).all()


def test_01_a_consistent_model_is_not_called_certain() -> None:
    """All orders have one sum there, which a few of them cannot know."""
    toy = Toy(ToySettings(seed=5))
    (found,) = score(
        toy, [Canvas.continuation([], [1, 4, 0, 2, 2, 3, 1, 0])], "chain,permutations=8"
    )
    assert found.interval is None or found.interval[0] < found.interval[1]
    assert found.bracket[0] is not None and found.bracket[0] < found.logprob


# -- 2: standard error and interval ----------------------------------------------------------------


def test_02_student_and_satterthwaite() -> None:
    assert half_width(Error(2.0, 4.0)) == pytest.approx(2 * 2.7764, rel=1e-4)
    assert half_width(Error(2.0)) == pytest.approx(2 * 1.95996, rel=1e-4)
    assert half_width(Error(None)) is None and half_width(Error(0.0)) == 0.0
    two = summed([Error(3.0, 4.0), Error(4.0, 4.0)])
    assert two.stderr == pytest.approx(5.0) and two.freedom == pytest.approx(
        25**2 / ((81 + 256) / 4)
    )
    assert summed([Error(1.0), Error(None)]).stderr is None


@pytest.mark.parametrize(
    "estimator",
    [
        "mask_count,max_forwards=3",
        "mask_rate,max_forwards=3",
        "cubature,max_forwards=3",
        "chain,permutations=4",
        "tube,permutations=4",
    ],
)
def test_02_few_draws_do_not_know_their_error(toy: Toy, estimator: str) -> None:
    (found,) = score(toy, [Canvas.continuation([0, 1], [4, 2, 0, 3, 1, 5])], estimator)
    assert found.stderr is None and found.interval is None
    whole = merge([found, Score(-1.0, 0.1, "lower bound", 1)])
    assert (
        whole.stderr is None
        and whole.interval is None
        and whole.logprob == pytest.approx(found.logprob - 1)
    )


def test_02_errors_of_few_draws_add_up(toy: Toy) -> None:
    """Two pairs of orders do not tell their error, but many of them tell that of their sum: 24 texts, 60 runs; a mean square is good to 18 %."""
    rng = np.random.default_rng(8)
    texts = [
        Canvas.continuation([0], rng.integers(0, 6, 6).tolist(), key=f"text {t}") for t in range(24)
    ]
    found = [runs(toy, text, "chain,permutations=4", 60) for text in texts]
    assert all(one.stderr is None and one.rough_stderr for own in found for one in own)
    wholes = [merge(parts) for parts in zip(*found, strict=True)]
    known = [whole.stderr for whole in wholes if whole.stderr is not None]
    assert len(known) > 50  # a few sums rest on one text alone
    actual = np.var([whole.logprob for whole in wholes], ddof=1)
    assert 0.5 < np.mean([whole.error.best**2 for whole in wholes]) / actual < 1.9
    assert 0.5 < np.mean(np.square(known)) / actual < 1.9


def test_02_cubature_knows_its_error() -> None:
    """300 draws a cell; a coverage of 93 % falls below 87.5 % with probability 1e-4. Small budgets overstate (docs/design/likelihood-checks.md has the figures)."""
    for n, samples, most in ((6, 16, 2.0), (8, 32, 1.8), (12, 32, 1.8), (12, 8, 3.5)):
        models = [Contexts.draw(kind, n, SEED) for kind in KINDS]
        for kind, draws in zip(
            KINDS, cubature(models, samples, 300, SEED, [elbo(m) for m in models]), strict=True
        ):
            figures = draws.figures()
            assert figures is not None and draws.certain_and_wrong() == 0
            assert figures[1] > 0.875 and 0.75 < figures[0] < most, (kind, n, samples, figures)


@pytest.mark.parametrize("name, samples", [("mask_count", 16), ("mask_rate", 16)])
def test_02_stratified_draws_know_their_error(name: str, samples: int) -> None:
    """300 draws: the same bound; the standard error is unbiased by design, and its mean square good to some 12 %."""
    models = [Contexts.draw(kind, 8, SEED) for kind in KINDS]
    for draws in by_plans(name, models, samples, 300, SEED, [elbo(model) for model in models]):
        figures = draws.figures()
        assert figures is not None and figures[1] > 0.875 and 0.75 < figures[0] < 1.5, figures


@pytest.mark.parametrize(
    "name, n, forwards, kind, seed",
    [
        # 84.6 % of the intervals held the truth, before they had a least width
        ("mask_count", 4, 8, "peaked", 0),
        ("mask_count", 8, 32, "dense", 3),  # 87.9 %
        ("cubature", 7, 8, "peaked", 1),  # 56.1 %
        ("cubature", 8, 128, "peaked", 1),  # 68.4 %
        ("cubature", 5, 16, "dense", 3),  # 76.5 %
        ("chain", 16, 128, "peaked", 3),  # 82.5 %
    ],
)
def test_02_draws_that_agree_by_chance_have_a_wide_interval(
    name: str, n: int, forwards: int, kind: str, seed: int
) -> None:
    """250 draws: a coverage of 93 % falls below 87 % with probability 5e-4."""
    model = Contexts.draw(kind, n, seed)
    own = {"cubature": cubature, "chain": chain}.get(name)
    run = own or functools.partial(by_plans, name)
    (draws,) = run([model], forwards, 250, SEED, [elbo(model)])
    figures = draws.figures()
    assert figures is not None and figures[1] > 0.87, figures


@pytest.mark.parametrize("name", ["mask_count", "mask_rate"])
def test_02_random_patterns_are_enumerated_if_they_fit(toy: Toy, name: str) -> None:
    canvas = Canvas.continuation([0, 1], [4, 2, 0])
    (truth,), (found,) = score(toy, [canvas], "exact"), score(toy, [canvas], name, max_forwards=7)
    assert (found.logprob, found.stderr, found.rows) == (pytest.approx(truth.logprob), 0.0, 7)
    assert (found.estimator, found.kind) == (name, "lower bound")
    (drawn,) = score(toy, [canvas], name, max_forwards=6)
    assert drawn.logprob != pytest.approx(truth.logprob) and drawn.stderr


def test_02_patterns_that_hide_something_have_the_law_of_independent_tokens() -> None:
    """Chi-square of 20 000 draws of 3 tokens over the 7 patterns; alpha 1e-3."""
    rng, draws, rate = np.random.default_rng(5), 20_000, 0.3
    hidden, chance = some_hidden(np.full(draws, rate), rng.random(draws), rng.random((draws, 3)))
    counts = np.bincount(hidden @ (1 << np.arange(3)), minlength=8)
    sizes = subsets(3).sum(1)
    expected = draws * rate**sizes * (1 - rate) ** (3 - sizes) / chance[0]
    assert chance == pytest.approx(1 - 0.7**3) and counts[0] == 0
    assert ((counts - expected)[1:] ** 2 / expected[1:]).sum() < chi2.isf(1e-3, 6)


def test_02_patterns_that_hide_something_at_the_ends() -> None:
    ends = np.array([1.0, 1e-12, 1e-300])
    hidden, chance = some_hidden(ends, np.array([0.9, 0.4, 0.6]), np.full((3, 2), 0.5))
    assert hidden.tolist() == [[True, True], [True, False], [False, True]]
    assert chance == pytest.approx([1.0, 2e-12, 2e-300])


def test_02_the_least_width_of_an_interval_adds_up() -> None:
    few = Error(0.1, 4.0, least=3.0)
    assert half_width(few) == pytest.approx(3 * 1.95996, rel=1e-4)
    assert summed([few, Error(4.0)]).least == pytest.approx(5.0) and few.scaled(-2).least == 6.0
    assert summed([Error(1.0), Error(2.0)]).least == 0.0
    found = merge(
        [Score(-1.0, 0.1, "score", 1, freedom=4.0, least_stderr=3.0), Score(-2.0, 4.0, "score", 1)]
    )
    assert found.stderr == pytest.approx(
        math.hypot(0.1, 4.0)
    ) and found.least_stderr == pytest.approx(5.0)
    assert found.interval == pytest.approx((-3 - 5 * 1.95996, -3 + 5 * 1.95996), rel=1e-4)


def test_02_intervals_of_a_trained_model_are_no_nonsense() -> None:
    """Tokens that are almost certain vary a lot compared with their level, which says little of the others.

    The widest of these intervals was once 5.4 times 1.96 standard errors, of 20 held-out texts 99 times.
    """
    tiny = load_model("tiny")
    ids = tiny.encode(
        "Anna had a red hat. Anna lost the hat at the park. Ben found it. Ben gave the hat to Anna. "
        * 2
    )
    canvases = [
        Canvas.continuation(ids[: 6 + 3 * i], ids[6 + 3 * i : 22 + 3 * i]) for i in range(5)
    ]
    found = score(tiny, canvases, "cubature", max_forwards=8)
    wide = [
        (half_width(one.error) or math.nan) / (1.96 * (one.stderr or math.nan)) for one in found
    ]
    assert np.median(wide) < 3 and max(wide) < 4.3, wide


def test_02_journals_keep_the_least_width(toy: Toy) -> None:
    (found,) = score(toy, [Canvas.continuation([0, 1], [4, 2, 0, 3])], "mask_count", max_forwards=8)
    assert found.least_stderr > 0
    row = json.loads(json.dumps(encode_answer(Answer(found, None, found.rows, 0.1))))
    assert decode_answer(row).value == found
    del row["value"]["least_stderr"]  # an answer from before there was one
    assert decode_answer(row).value == replace(found, least_stderr=0.0)


# -- 3: bounds -------------------------------------------------------------------------------------


def test_03_the_bracket_holds_the_likelihood() -> None:
    """200 draws a cell; 95 % falls below 88.5 % with probability 1e-4. Some cells have an end from the draws, the others one that is certain."""
    drawn = 0.0
    for n, samples in ((4, 8), (6, 32), (8, 128)):
        for held, width, share in brackets(
            [Contexts.draw(kind, n, SEED) for kind in KINDS], samples, 200, SEED
        ):
            assert held > 0.885 and math.isfinite(width)
            drawn += share
    assert 0 < drawn < 15


def test_03_bounds_carry_errors() -> None:
    toy = Toy(ToySettings(inconsistency=0.25, seed=3))
    canvas = Canvas.continuation([0, 1], [4, 2, 0, 3, 1, 5, 2, 2])
    truth = log_likelihood(toy, canvas)
    scores = runs(toy, canvas, "chain,permutations=16", 60)
    for bound, side in (("lower", -1), ("upper", 1)):
        values = np.array([getattr(one, bound) for one in scores])
        reported = math.sqrt(
            float(np.mean([getattr(one, f"{bound}_stderr") ** 2 for one in scores]))
        )
        # 60 runs: good to 10 %, and to some 20 % more for long tails
        assert 0.6 < reported / values.std(ddof=1) < 1.8
        assert side * (values.mean() - truth) > -4 * values.std(ddof=1) / math.sqrt(len(values))
    held = [low <= truth <= high for low, high in (one.bracket for one in scores)]
    assert np.mean(held) > 0.85  # 95 %: alpha 1e-3
    tube = runs(toy, canvas, "tube,permutations=16", 1)[0]
    assert tube.stderr == tube.upper_stderr == scores[0].upper_stderr


def test_03_a_long_tail_has_no_bound_of_a_million_nats() -> None:
    """Orders that differ by 15 nats: the tangent bound is told to be worthless, and what is certain takes its place."""
    model = Contexts.draw("peaked", 8, 1)
    everything = subsets(8)[1:]
    certain = log_mean_exp(model.logs(everything[-1]))
    assert sampler_log_likelihood(np.where(everything, model.logs(everything), np.nan)) < certain
    for _, own, _ in chains([model], 128, 200, SEED):
        upper, error = upper_bound(own, np.arange(len(own)) // 2, population(8), certain)
        assert upper <= certain and (error.stderr or 0.0) <= 1
    rng = np.random.default_rng(0)
    light = rng.normal(-20, 0.2, 16)
    upper, error = upper_bound(light, np.arange(16) // 2, 10**6, -3.0)
    assert (
        upper == pytest.approx(-20, abs=0.3) and error.stderr is not None and 0 < error.stderr < 0.2
    )


def test_03_an_impossible_order_makes_no_nan() -> None:
    """The ELBO is infinite and known; the likelihood is carried by the other orders."""
    settings = Chain()
    some = settings.from_chains(np.array([-math.inf, -5.0, *[-4.0, -5.0] * 8]), -1.0, 9)
    assert (some.logprob, some.stderr) == (-math.inf, 0.0) and some.lower == pytest.approx(
        -4.4, abs=0.2
    )
    low, high = some.bracket
    assert (
        low is not None
        and some.lower is not None
        and high is not None
        and low < some.lower < high <= -1.0
    )
    none = settings.from_chains(np.full(18, -math.inf), -1.0, 9)
    assert none.lower == -math.inf and none.bracket == (-math.inf, -1.0)


def test_03_what_a_journal_keeps_comes_back_whole(toy: Toy) -> None:
    (found,) = score(
        toy, [Canvas.continuation([0, 1], [4, 2, 0, 3, 1, 5, 2])], "cubature,max_forwards=12"
    )
    assert found.echo and found.interval is not None
    for answer in (Answer(found, None, 12, 0.5), Answer(Scores((found, found)), None, 24, 0.5)):
        assert decode_answer(json.loads(json.dumps(encode_answer(answer)))) == answer


# -- 4: tasks --------------------------------------------------------------------------------------


def test_04_choices_err_together() -> None:
    """The estimator's part against the spread over 24 seeds (good to 15 %): 16 questions, two choices that differ in one token of 6."""
    found = parts(16, 2, 24, samples=12)
    for actual, reported, _ in found.values():
        assert 0.6 < reported / actual < 1.7
    _, reported, alone = found["gap"]
    assert alone > 1.15 * reported  # the same numbers, moved independently


def test_04_a_perplexity_has_an_interval() -> None:
    """Texts whose log-likelihood has an error of 3 nats a word: the perplexity is between a few and many, not 200 +- 3500."""

    def weighted_perplexity(items: list[tuple[float, float]]) -> float:
        logs, words = zip(*items, strict=True)
        return math.exp(-sum(logs) / sum(words))

    class Text:
        def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
            return {"word_perplexity": (results[0], 10.0)}

        def aggregation(self) -> dict[str, Any]:
            return {"word_perplexity": weighted_perplexity}

    samples = [{"doc": {}, "filtered_resps": [-53.0], "logprob_stderr": [30.0]}]
    part = estimator_parts(Text(), samples)["word_perplexity"]
    assert part is not None and part.interval is not None
    low, high = part.interval
    assert 0 < low < math.exp(5.3) < high and math.log(high / low) == pytest.approx(
        2 * 2.045 * 3, rel=0.5
    )


def test_04_what_is_not_known_is_a_dash_and_null(tmp_path: Path) -> None:
    options = {
        "include_path": str(write_tasks(tmp_path)),
        "verbosity": "ERROR",
        "bootstrap_iters": 0,
    }
    results = evaluate("toy", ["t_roll"], estimator="chain,permutations=4", **options)
    assert results["dlm_eval"]["estimator_stderr"]["t_roll"]["word_perplexity"] is None
    assert (
        None in results["samples"]["t_roll"][0]["logprob_stderr"]
        and None in results["samples"]["t_roll"][0]["logprob_interval"]
    )
    (line,) = [row for row in render(results).splitlines() if "word_perplexity" in row]
    assert "-" in [cell.strip() for cell in line.strip("|").split("|")]
    low, high = results["samples"]["t_roll"][0]["logprob_bracket"][0]
    assert low < high


# -- found in review -------------------------------------------------------------------------------


def test_02_nothing_to_score_is_known_without_error(toy: Toy) -> None:
    (found,) = score(toy, [Canvas.continuation([0, 1], [])])
    assert (found.logprob, found.stderr, found.lower_stderr, found.upper_stderr) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )
    assert found.interval == found.bracket == (0.0, 0.0)


class Blocks(Toy):
    """`toy` that writes block after block."""

    attention = "block"
    block_length = 3


def test_03_a_bound_that_is_the_score_errs_as_the_score_does() -> None:
    """Ten blocks of three draws each: none knows its error, the sum does, and so does its lower bound."""
    model = Blocks(ToySettings(inconsistency=0.9, seed=3))
    text = Canvas.continuation([0, 1, 2], [(3 * i * i + i) % 5 for i in range(30)])
    (found,) = score(model, [text], "mask_count,max_forwards=30")
    assert found.stderr is not None and found.rough_stderr is None and found.interval is not None
    assert found.lower_stderr == found.stderr and found.bracket == (found.interval[0], None)


def test_05_whether_a_choice_is_greedy_costs_no_row_twice(toy: Toy) -> None:
    """A question that is never decided early costs what it costs without early stopping; the fully masked row is common."""
    text = [1, 2, 3, 4, 0, 1, 3, 2, 4, 0]
    twice = [Canvas.continuation([0, 1], text, "q")] * 2
    whole = score(toy, twice, "auto", greedy=True)
    raced = score(toy, twice, "auto,stop_at_error_rate=0.05", greedy=True)
    assert [one.rows for one in raced] == [one.rows for one in whole] == [128, 128]
    assert [one.greedy for one in raced] == [one.greedy for one in whole] == [False, False]


def test_06_rules_that_are_kept_have_a_bound() -> None:
    """Rounds of many texts make thousands of rules; the memory that they take does not grow without end."""
    kept = Kept(most=2000)
    made: list[int] = []

    def array(number: int) -> np.ndarray[Any, Any]:
        made.append(number)
        return np.zeros(100)

    for number in (0, 1, 0, 2, 0, 3, 1):  # two fit
        assert len(kept.get(number, lambda number=number: array(number))) == 100
        assert kept.bytes <= 2000
    assert made == [0, 1, 2, 3, 1]
    full = rule(9, 32)
    assert rule(9, 32) is full and array_bytes(full) > full.hidden.nbytes + full.weight.nbytes


def test_06_a_budget_that_no_rule_can_have_is_refused_at_once(toy: Toy) -> None:
    """It was a hang, or all of the machine's memory: a rule takes time with the third power of its forwards."""
    text = Canvas.continuation([0, 1], [1, 2, 3, 4, 0] * 4)
    for estimator in (
        "auto,max_forwards=1000000",
        "cubature,max_forwards=2049",
        "auto,max_forwards=9999,precision=1",
    ):
        with pytest.raises(
            SampleError, match=r"cubature of 20 open tokens takes 2048 forwards at most, not \d+"
        ):
            score(toy, [text], estimator)
    assert (
        score(toy, [Canvas.continuation([0], [1, 2, 3])], "auto,max_forwards=1000000")[0].rows == 7
    )
    for estimator in ("mask_count,max_forwards=1000000000000", "chain,permutations=1000000000000"):
        with pytest.raises(
            UserError, match=r"'1000000000000' is not allowed; it must be 1 to 1048576"
        ):
            parse_estimator(estimator)


def test_04_a_metric_that_no_draw_moves_has_no_error() -> None:
    """The mean of thirty thirds is not a third in floating point: the table had an error of 5.6e-17."""
    draws = np.full(30, 1 / 3)
    assert draws.std(ddof=1) > 0
    assert _part(1 / 3, draws, exponential=False).stderr == 0.0
    assert _part(1 / 3, draws, exponential=True).stderr == 0.0

"""Settings, canvases and models that cannot be used are one clear line; windows; early stopping."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.engine import Engine
from dlm_eval.engine.rows import together
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood import ESTIMATORS, parse_estimator, score, score_outcomes, windows
from dlm_eval.likelihood.chains import Chain
from dlm_eval.likelihood.cubature.design import (
    draw_sets,
    size_counts,
    size_totals,
    spread_out,
    variants,
)
from dlm_eval.likelihood.cubature.nested import Parts, budgets, nested
from dlm_eval.likelihood.cubature.prior import kernel
from dlm_eval.likelihood.cubature.rule import relabelled, rule
from dlm_eval.likelihood.early import Rounds
from dlm_eval.likelihood.estimator import KINDS, about
from dlm_eval.likelihood.exact import Exact
from dlm_eval.likelihood.masks import MaskCount
from dlm_eval.likelihood.target import targets
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.options import describe_options
from dlm_eval.rng import Noise


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(ToySettings(inconsistency=0.5))


@pytest.mark.parametrize(
    "text, words",
    [
        ("chian", "did you mean 'chain'"),
        ("chain,permutation=4", "did you mean 'permutations'"),
        ("exact,permutations=4", "permutations"),
        ("mask_count,max_forwards=0", "1 to 1048576"),
        ("mask_count,max_forwards=many", "whole number"),
        ("duel,policy=best", "one of confidence, entropy, margin, left_to_right"),
        ("k,samples", "key=value"),
        ("auto,stop_at_error_rate=2", "between 0 and 1"),
        ("auto,target_stderr=0", "above 0"),
    ],
)
def test_bad_estimators_are_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_estimator(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_every_estimator() -> None:
    assert parse_estimator("chain,permutations=4") == Chain(permutations=4)
    # the text wins
    assert parse_estimator("mask_count,max_forwards=7", {"max_forwards": 128}) == MaskCount(
        max_forwards=7
    )
    assert parse_estimator("exact", {"max_forwards": 7}) == Exact()  # its cost is fixed
    with pytest.raises(TypeError):
        MaskCount(policy="margin")  # type: ignore[call-arg]
    assert len(ESTIMATORS.names()) == 19
    for name in ESTIMATORS.names():
        cls = ESTIMATORS.find(name)
        assert parse_estimator(name).name == name and parse_estimator(name) == cls()
        assert cls.kind in KINDS and cls.cost and about(cls)
        assert all(facts["meaning"] for facts in describe_options(cls).values())


def test_the_list_of_estimators_needs_no_torch() -> None:
    code = "import sys; from dlm_eval.likelihood import ESTIMATORS, parse_estimator, windows; ESTIMATORS.listed(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_canvases_that_cannot_be_scored(toy: Toy) -> None:
    with pytest.raises(UserError, match="blank"):
        score(toy, [Canvas.completion([0], 3)])
    with pytest.raises(SampleError, match="canvas 1: 600 tokens do not fit"):
        score(toy, [Canvas.continuation([0], [1]), Canvas.continuation([0] * 599, [1])])
    with pytest.raises(SampleError, match="vocabulary"):
        score(toy, [Canvas.continuation([0], [99])])
    with pytest.raises(SampleError, match=r"2\^20-1"):
        score(toy, [Canvas.continuation([0], [1] * 20)], "exact")
    with pytest.raises(UserError, match="blank"):
        score(toy, [Canvas((BLANK, 1), (False, True))])


def test_models_that_cannot_score(toy: Toy) -> None:
    class Uniform(Toy):
        process = "uniform"

    class Gaussian(Toy):
        process = "gaussian"

    class Shifted(Toy):
        needs_bos = True

    for kind in (Uniform, Gaussian):
        for estimator in ("auto", "exact", "llada", "auto,stop_at_error_rate=0.05"):
            with pytest.raises(
                UserError, match=f"no likelihood estimator is known for a '{kind.process}' process"
            ):
                score(
                    kind(ToySettings()),
                    [Canvas.continuation([0], [1]), Canvas.continuation([0], [2])],
                    estimator,
                )
    with pytest.raises(SampleError, match="BOS"):
        score(Shifted(ToySettings()), [Canvas.continuation([], [1, 2])])
    assert score(Shifted(ToySettings()), [Canvas.continuation([8], [1, 2])])[0].rows == 3
    with pytest.raises(UserError, match="log-scores"):
        score(toy, [Canvas.continuation([0], [1])], "sedd")


def test_dream_without_an_eos_is_one_line() -> None:
    model = Toy(ToySettings())
    model.eos_ids = ()
    with pytest.raises(UserError, match="eos=false"):
        score(model, [Canvas.continuation([0], [1, 2])], "dream")
    assert score(model, [Canvas.continuation([0], [1, 2])], "dream,eos=false")[0].kind == "score"


def test_nothing_to_score_costs_nothing(toy: Toy) -> None:
    engine = Engine(toy)
    (found,) = score(toy, [Canvas.continuation([0, 1], [])], engine=engine, greedy=True)
    assert (found.logprob, found.stderr, found.kind, found.rows, found.greedy) == (
        0.0,
        0.0,
        "exact",
        0,
        True,
    )
    assert engine.cost.rows == 0


def test_the_mask_token_inside_real_text(toy: Toy) -> None:
    """A mask id that natural text contains is scored and seen like any other token: what is open is told by booleans alone."""

    class Word(Toy):
        mask_is_regular_token = True

    model = Word(ToySettings())
    shown = Canvas((0, model.mask_id, 2, 1), (False, False, True, True))
    assert score(model, [shown], "exact")[0].rows == 3


@pytest.mark.parametrize(
    "n, samples", [(2, 1), (5, 3), (9, 9), (12, 16), (21, 8), (40, 32), (33, 64)]
)
def test_rules_are_unbiased_by_construction(n: int, samples: int) -> None:
    """Over the equally likely size choices, the weights of each size add up to 1 on average; within one they add up to n in all."""
    totals = np.zeros(n)
    count = variants(n, samples)
    for variant in range(count):
        counts = size_counts(n, samples, variant)
        assert counts.sum() == samples
        found = rule(n, samples, variant)
        assert len({row.tobytes() for row in found.hidden}) == len(found.hidden) == samples
        assert not found.weight[~found.hidden].any()
        assert found.weight.sum() == pytest.approx(n, rel=1e-6)
        # A pattern that hides a token or two has a narrow cell: no log-probability counts for many.
        assert samples < 8 or size_totals(n, samples, variant)[0] <= max(1, n / samples / 4)
        totals += np.bincount(found.hidden.sum(1) - 1, weights=found.weight.sum(1), minlength=n)
    np.testing.assert_allclose(totals / count, 1.0, rtol=1e-6)


@pytest.mark.parametrize("n, samples", [(6, 63), (9, 9), (12, 40), (20, 32), (33, 64)])
def test_sets_that_repel_each_other(n: int, samples: int) -> None:
    """Spreading out keeps sizes, makes no pattern twice, and lowers the energy of every design that has more sets to choose from than it takes."""
    counts = size_counts(n, samples, 0)
    assert counts.sum() == samples and counts.min() >= 1
    before = draw_sets(n, counts, np.random.default_rng(0))
    weight = 1 / counts[before.sum(1) - 1]
    after = spread_out(before, weight)
    assert (after.sum(1) == before.sum(1)).all() and len(
        {row.tobytes() for row in after}
    ) == samples

    def energy(hidden: np.ndarray) -> float:
        shown = (~hidden).sum(1)
        apart = (hidden[:, None] != hidden[None]).sum(-1)
        return float(weight @ kernel(shown[:, None], shown[None], apart, n) @ weight)

    if samples == 2**n - 1:
        assert (after == before).all()
    else:
        assert energy(after) < 0.97 * energy(before)


def test_windows_score_every_token_once_with_the_most_context() -> None:
    text = list(range(100, 123))
    for stride in (None, 1, 3, 7):
        canvases = windows([9, *text], 8, stride, given=1, key="doc")
        scored = [token for canvas in canvases for token in canvas.target]
        assert scored == text
        assert all(
            canvas.tokens[0] == 9 and not canvas.open[0] and len(canvas) <= 8 for canvas in canvases
        )
        step = 7 if stride is None else stride
        for canvas in canvases[1:]:
            assert len(canvas) == 8 and sum(canvas.open) <= step
        assert len({canvas.key for canvas in canvases}) == len(canvases)
    assert windows([9], 8, given=1) == []
    with pytest.raises(UserError, match="from 1 to 7"):
        windows([9, *text], 8, 8, given=1)


def test_windows_add_up_to_the_likelihood_of_the_text() -> None:
    toy = Toy(ToySettings(seed=2))
    text = [1, 4, 0, 2, 2, 3, 5, 1, 0, 3, 3]
    whole = score(toy, windows(text, 4, 1), "exact")
    # A Markov chain: one token of past is as good as all of it.
    assert sum(s.logprob for s in whole) == pytest.approx(toy.log_joint(text), abs=1e-5)


def test_target_stderr_and_precision_stop_early(toy: Toy) -> None:
    canvas = Canvas.continuation([0, 1], [1, 2, 3, 4, 0, 1, 2, 3, 4, 5])
    full = score(toy, [canvas], "auto")[0]
    for loose in ("target_stderr=2.5", "precision=0.25"):
        found = score(toy, [canvas], f"auto,{loose}")[0]
        assert found.rows in (8, 16, 32) and found.stderr is not None and found.stderr <= 2.5
    tight = score(toy, [canvas], "auto,target_stderr=0.0001")[0]
    assert (tight.logprob, tight.stderr, tight.rows) == (full.logprob, full.stderr, full.rows)


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 8, 11, 12, 13, 24, 40, 100])
@pytest.mark.parametrize("n", [1, 3, 4, 10, 14])
def test_rounds_that_run_to_the_end_are_the_full_budget(toy: Toy, n: int, samples: int) -> None:
    canvas = Canvas.continuation([0, 1], [i % 6 for i in range(n)])
    for estimator in ("auto", "cubature"):
        plain = score(toy, [canvas], estimator, max_forwards=samples)[0]
        assert score(toy, [canvas], f"{estimator},precision=1e-12", max_forwards=samples)[
            0
        ] == replace(plain, seconds=pytest.approx(plain.seconds, abs=60))


@pytest.mark.parametrize(
    "n, samples", [(4, 15), (6, 63), (9, 100), (12, 128), (30, 128), (40, 24), (140, 128)]
)
def test_each_round_has_the_patterns_of_the_one_before(n: int, samples: int) -> None:
    rules, order = nested(n, samples, Noise.of(Canvas.continuation([0], [1] * n), 3))
    assert [len(rule.hidden) for rule in rules[:1]] == [min(8, budgets(n, samples)[0])]
    patterns = [{row.tobytes() for row in rule.hidden} for rule in rules]
    for smaller, larger in pairwise(patterns):
        assert smaller < larger
    full, same = relabelled(n, samples, Noise.of(Canvas.continuation([0], [1] * n), 3))
    assert rules[-1] is full or np.array_equal(rules[-1].weight, full.weight)
    assert np.array_equal(order, same)


@pytest.mark.parametrize("n, samples", [(9, 100), (20, 128), (24, 16)])
def test_every_size_has_its_share_of_the_weights_on_average(n: int, samples: int) -> None:
    """Over a fine even grid of offsets, and all variants of the full rule, the weights of each size add up to 1 in every round: this is why no part is biased."""
    grid = 1000
    for place in range(len(budgets(n, samples)) - 1):
        totals = [
            list(parts.shares(samples, (i + 0.5) / grid))[place][1]
            for parts in (
                Parts(rule(n, samples, variant), (n, samples, variant))
                for variant in range(variants(n, samples))
            )
            for i in range(grid)
        ]
        assert np.abs(np.mean(totals, 0) - 1).max() < 0.01


def test_a_part_has_the_weights_that_are_its_share() -> None:
    for n, samples in ((9, 100), (20, 128), (24, 16)):
        parts = Parts(rule(n, samples, 0), (n, samples, 0))
        for own, (counts, totals) in zip(
            parts.rules(samples, 0.3), parts.shares(samples, 0.3), strict=False
        ):
            sizes = own.hidden.sum(1) - 1
            assert np.bincount(sizes, minlength=n).tolist() == counts.tolist()
            assert np.bincount(sizes, weights=own.weight.sum(1), minlength=n) == pytest.approx(
                totals, abs=1e-9
            )


def test_an_unknown_error_settles_nothing(toy: Toy) -> None:
    """Three forwards do not tell their own error: the question goes on although one choice seems far better."""
    canvases = [
        Canvas.continuation([0, 1], [i % 6 for i in range(10)], key="q"),
        Canvas.continuation([0, 1], [3] * 10, key="q"),
    ]
    settings = parse_estimator("auto,max_forwards=3,stop_at_error_rate=0.5")
    choices = [Rounds(targets(toy, canvas), settings, Noise.of(canvas, 0)) for canvas in canvases]
    Engine(toy).drive([together([choice.next() for choice in choices])])
    _, error = choices[0].lead(choices[1], 1.0, 1.0)
    assert error.stderr is None


def test_decide_answers_like_the_full_budget_at_the_stated_error(toy: Toy) -> None:
    """30 questions of three choices at ALPHA = 0.05: more than 5 errors against the exact best one have probability 3e-3."""
    rng = np.random.default_rng(0)
    canvases = []
    for question in range(30):
        context = rng.integers(0, 6, 3).tolist()
        for length in rng.integers(6, 8, 3):
            canvases.append(
                Canvas.continuation(
                    context, rng.integers(0, 6, length).tolist(), key=f"question {question}"
                )
            )
    truth = np.array([s.logprob for s in score(toy, canvases, "exact")]).reshape(30, 3)
    saving, plain = Engine(toy), Engine(toy)
    early = np.array(
        [
            s.logprob
            for s in score(
                toy, canvases, "auto,stop_at_error_rate=0.05,max_forwards=48", engine=saving
            )
        ]
    ).reshape(30, 3)
    full = np.array(
        [s.logprob for s in score(toy, canvases, "auto,max_forwards=48", engine=plain)]
    ).reshape(30, 3)
    assert (early.argmax(1) != truth.argmax(1)).sum() <= 5
    assert (full.argmax(1) != truth.argmax(1)).sum() <= 5
    assert saving.cost.rows < 0.6 * plain.cost.rows


def test_decide_on_single_tokens_and_with_lengths(toy: Toy) -> None:
    from dlm_eval.likelihood import question_program, score_program

    canvases = [Canvas.continuation([0], [letter], key="q") for letter in range(4)]
    engine = Engine(toy)
    scores = score(toy, canvases, "auto,stop_at_error_rate=0.01", engine=engine, greedy=True)
    assert engine.cost.rows <= 2 and all(s.stderr == 0 for s in scores)
    assert [s.logprob for s in scores] == pytest.approx([s.logprob for s in score(toy, canvases)])
    settings = parse_estimator("auto,stop_at_error_rate=0.01")
    program = question_program(
        toy, canvases, settings, Noise.of(canvases[0], 0), lengths=[1.0, 2.0, 3.0, 4.0]
    )
    (outcome,) = Engine(toy).drive([program])
    assert [s.logprob for s in outcome.answer] == pytest.approx([s.logprob for s in scores])
    with pytest.raises(UserError, match="all choices"):
        score_program(toy, canvases[0], settings, Noise.of(canvases[0], 0))
    with pytest.raises(UserError, match="lengths"):
        question_program(toy, canvases, settings, Noise.of(canvases[0], 0), lengths=[1.0])


def test_errors_come_with_their_canvas(toy: Toy) -> None:
    outcomes = score_outcomes(
        Engine(toy),
        [Canvas.continuation([0] * 599, [1], key="q"), Canvas.continuation([0], [1], key="q")],
        parse_estimator("auto,stop_at_error_rate=0.1"),
    )
    assert all(isinstance(outcome.answer, SampleError) for outcome in outcomes)

"""A score is a function of (model, canvas, estimator, seed): not of order, batch, batch mates or padding. And each row runs once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dlm_eval.canvas import Canvas
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError
from dlm_eval.likelihood import parse_estimator, score, score_outcomes
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.families.toy import Toy, ToySettings

ESTIMATORS = [
    "auto",
    "exact",
    "mask_count",
    "mask_rate",
    "chain",
    "cubature",
    "tube",
    "duel",
    "pseudo",
    "llada",
    "dream",
    "mdlm",
]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(ToySettings(inconsistency=0.5))


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    return load_model("tiny")


def test_order_batches_mates_and_padding(tiny: Denoiser) -> None:
    texts = [
        "Anna had a red ball.",
        "One day the dog ran away to the park.",
        "She ate bread.",
        "Ben has 3 pens and buys 4 more pens.",
    ]
    canvases = []
    for number, text in enumerate(texts):
        ids = tiny.encode(text)
        canvases.append(
            Canvas.continuation(ids[: number + 2], ids[number + 2 :][:9], key=f"doc {number}")
        )
    for estimator in ("auto,max_forwards=16", "chain,max_forwards=80", "duel"):
        together = score(tiny, canvases, estimator, greedy=True)
        backwards = score(tiny, canvases[::-1], estimator, greedy=True)[::-1]
        alone = [score(tiny, [canvas], estimator, greedy=True)[0] for canvas in canvases]
        small = score(tiny, canvases, estimator, greedy=True, batch_tokens=40)
        for other in (backwards, alone, small):
            for one, two in zip(together, other, strict=True):
                assert two.logprob == pytest.approx(one.logprob, rel=1e-6, abs=5e-6)
                assert two.stderr == pytest.approx(one.stderr, rel=1e-4, abs=1e-6)
                assert (two.kind, two.rows, two.greedy) == (one.kind, one.rows, one.greedy)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_seed_and_key_alone_decide(toy: Toy, estimator: str) -> None:
    canvas = Canvas.continuation([0, 1], [2, 3, 4, 4, 1], key="question")
    options = "" if estimator in ("exact", "duel", "pseudo") else ",max_forwards=9"
    first, second = score(toy, [canvas, canvas], estimator + options)
    assert first.logprob == second.logprob
    again = score(toy, [canvas], estimator + options)[0]
    assert again.logprob == pytest.approx(first.logprob, rel=1e-12)
    assert (again.interval is None) == (first.interval is None)
    for one, two in zip(
        (first.interval or ()) + first.bracket, (again.interval or ()) + again.bracket, strict=True
    ):
        assert one == (two if two is None else pytest.approx(two, rel=1e-12))


def test_single_token_choices_share_one_forward(toy: Toy) -> None:
    choices = [Canvas.continuation([0, 1, 2], [letter], key="question") for letter in range(5)]
    engine = Engine(toy)
    scores = score(toy, choices, engine=engine, greedy=True)
    assert engine.cost.rows == 1
    assert [s.rows for s in scores] == [1] * 5
    assert {s.kind for s in scores} == {"exact"}
    assert sum(np.exp(s.logprob) for s in scores) < 1
    assert sum(bool(s.greedy) for s in scores) <= 1
    conditional = toy.logits(torch.tensor([[0, 1, 2, toy.mask_id]]))[0, 3].log_softmax(-1)
    assert [s.logprob for s in scores] == pytest.approx(conditional[:5].tolist(), abs=1e-6)


def test_choices_of_equal_length_share_the_fully_masked_row(toy: Toy) -> None:
    engine = Engine(toy)
    canvases = [Canvas.continuation([0, 1], [a, 2, 3], key="question") for a in range(3)]
    scores = score(toy, canvases, "exact", engine=engine)
    # Patterns: {1,2,3} is common to all; {2},{3},{2,3} show the first token, which differs; {1},{1,2},{1,3} hide it.
    assert engine.cost.rows == 3 * 3 + 4
    assert all(s.rows == 7 for s in scores)


def test_greedy_costs_nothing_when_not_asked_for_and_ends_at_the_first_mismatch(toy: Toy) -> None:
    canvas = Canvas.continuation([0, 1], [5, 5, 5, 5, 5, 5, 5, 5])
    plain, asked = Engine(toy), Engine(toy)
    without = score(toy, [canvas], "mask_count,max_forwards=4", engine=plain)[0]
    found = score(toy, [canvas], "mask_count,max_forwards=4", engine=asked, greedy=True)[0]
    assert without.greedy is None and found.greedy is False
    assert asked.cost.rows <= plain.cost.rows + 2
    best = [0, 1]
    filled = torch.tensor([[*best, *[toy.mask_id] * 3]])
    for _ in range(3):  # what the model writes, most confident first
        probs = toy.logits(filled)[0].softmax(-1)
        hidden = [i for i in range(5) if filled[0, i] == toy.mask_id]
        place = max(hidden, key=lambda i: float(probs[i].max()))
        filled[0, place] = probs[place].argmax()
    own = Canvas.continuation(best, filled[0, 2:].tolist())
    assert score(toy, [own], greedy=True)[0].greedy is True


def test_common_random_numbers_of_a_question(toy: Toy) -> None:
    """Choices that differ in one token: the difference has less noise with a common key than with keys of their own."""
    spread = {}
    for shared in (True, False):
        pairs = []
        for run in range(80):
            keys = (f"run {run}", f"run {run}") if shared else (f"a {run}", f"b {run}")
            pairs += [
                Canvas.continuation([0, 1], [last, 2, 4, 0, 2, 1, 3, 1], key=key)
                for last, key in zip((3, 1), keys, strict=True)
            ]
        values = np.array(
            [
                s.logprob
                for s in score(
                    Toy(ToySettings(inconsistency=0.2)), pairs, "mask_count,max_forwards=6"
                )
            ]
        ).reshape(-1, 2)
        spread[shared] = (values[:, 0] - values[:, 1]).std()
    assert spread[True] < 0.7 * spread[False]


class Broken(Toy):
    """A toy whose letter 3 can never be, and which gives NaN where letter 5 stands."""

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        full = super().logits(tokens, valid)
        full[..., 3] = -torch.inf
        full[(tokens == 5).any(1)] = torch.nan
        if positions is None:
            return full
        return full[positions] if positions.dtype == torch.bool else full[:, positions]


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "left_to_right", "exact,report=likelihood"])
def test_an_impossible_token_stays_impossible(estimator: str) -> None:
    broken = Broken(ToySettings())
    found = score(
        broken, [Canvas.continuation([0, 1], [2, 3, 1, 1, 0])], estimator, max_forwards=64
    )[0]
    assert found.logprob == -np.inf
    assert found.stderr == 0.0


def test_nan_is_the_fault_of_one_sample() -> None:
    broken = Broken(ToySettings())
    canvases = [
        Canvas.continuation([0], [1, 2]),
        Canvas.continuation([5], [1, 2]),
        Canvas.continuation([1], [2]),
    ]
    outcomes = score_outcomes(Engine(broken), canvases, parse_estimator("auto"))
    assert "NaN" in str(outcomes[1].answer)
    assert outcomes[0].rows == 3 and outcomes[2].rows == 1
    with pytest.raises(SampleError, match="canvas 1: .*NaN"):
        score(broken, canvases)

"""Strategies that rewrite, samples that compete, and the uniform process, against plain loops and known laws."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import TraceStep, fill, fill_outcomes, hit_at_k, resolve, vote
from dlm_eval.decoding.samples import mean_logprob
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.models.families.toy import Toy, ToySettings

ALPHA = 1e-3  # of every statistical test here; seeds are fixed


def crooked(vocab: int = 6) -> Toy:
    return Toy(ToySettings(vocab=vocab, inconsistency=0.9, seed=3))


def asked(count: int = 6) -> list[Canvas]:
    return [
        Canvas.infill([i % 6], 10, [(i + 1) % 6] if i % 2 else (), key=f"q{i}")
        for i in range(count)
    ]


def plain_rdm(
    model: Toy, canvas: Canvas, steps: int, rate: Any, cond: bool
) -> tuple[list[int], int]:
    """RDM in plain words: score every position, mask the lowest, write the rest; also returns how many were masked again."""
    tokens = [model.mask_id if o else t for t, o in zip(canvas.tokens, canvas.open, strict=True)]
    places, written, again = canvas.open_positions, {}, 0
    for t in range(1, steps + 1):
        scores, candidates = (
            model.logits(torch.tensor([tokens]))[0].double().log_softmax(-1).max(-1)
        )
        order = sorted(float(scores[p]) for p in places)
        border = order[int(np.float32(len(places)) * np.float32(rate(t / steps)))]
        for p in places:
            low = float(scores[p]) < border
            if p not in written and not low:
                tokens[p], written[p] = int(candidates[p]), float(scores[p])
            elif p in written and low:
                if cond and not (tokens[p] == int(candidates[p]) and float(scores[p]) < written[p]):
                    continue
                tokens[p], again = model.mask_id, again + 1
                del written[p]
    return [tokens[p] for p in places], again


@pytest.mark.parametrize("condition", ["uncond", "cond"])
@pytest.mark.parametrize(
    ("schedule", "rate"),
    [("linear", lambda t: 1 - t), ("cosine", lambda t: math.cos(t * math.pi / 2))],
)
def test_rdm_masks_the_lowest_again(condition: str, schedule: str, rate: Any) -> None:
    model, again = crooked(), 0
    for canvas in asked():
        filling = fill(model, [canvas], "rdm", steps=5, schedule=schedule, rdm_condition=condition)[
            0
        ]
        tokens, masked = plain_rdm(model, canvas, 5, rate, condition == "cond")
        assert list(filling.tokens) == tokens
        assert filling.forwards <= 5
        again += masked
    assert again > 0 or condition == "cond"  # otherwise this would not test rewriting


def test_rdm_runs_no_step_that_can_change_nothing() -> None:
    filling = fill(crooked(), [asked()[0]], "rdm", steps=60)[0]
    assert filling.forwards < 60 and BLANK not in filling.tokens


@pytest.mark.parametrize("remask", ["cap", "rescale", "conf"])
def test_remask_masks_again_and_ends_full(remask: str) -> None:
    steps: list[TraceStep] = []
    options = {
        "remask": remask,
        "steps": 30,
        "temperature": 1.0,
        **({} if remask == "conf" else {"eta": 0.2}),
    }
    fillings = fill(
        crooked(), asked(), "remask", trace=lambda _, step: steps.append(step), **options
    )
    assert all(BLANK not in filling.tokens and filling.exit == "full" for filling in fillings)
    assert sum(len(step.erased) for step in steps) > 0
    assert all(set(step.erased).isdisjoint(step.written) for step in steps)


def test_remask_keeps_the_marginal_of_open_positions() -> None:
    """ReMDM keeps the share of open positions at t after each step, however much it masks again (binomial z-test)."""
    model, steps, canvases = (
        crooked(),
        10,
        [Canvas.completion((), 20, key=f"q{i}") for i in range(60)],
    )
    still: Counter[int] = Counter()
    last: dict[int, tuple[bool, ...]] = {}
    events: dict[int, dict[int, tuple[bool, ...]]] = {}

    def trace(index: int, step: TraceStep) -> None:
        events.setdefault(index, {})[step.step] = step.open

    fill(model, canvases, "remask", steps=steps, eta=0.3, eps=1e-5, trace=trace)
    for index in range(len(canvases)):
        last[index] = (True,) * 20
        for step in range(steps):
            last[index] = events.get(index, {}).get(step, last[index])
            still[step] += sum(last[index])
    for step in range(steps - 1):
        t, n = 1 - (step + 1) / steps, 20 * len(canvases)
        assert abs(still[step] - n * t) / math.sqrt(n * t * (1 - t)) < stats.norm.ppf(1 - ALPHA / 2)
    assert still[steps - 1] == 0


def test_no_remasking_without_strength_is_ancestral_sampling() -> None:
    model, steps = crooked(), []
    options = {"steps": 12, "eta": 0.0, "temperature": 1.0}
    fill(model, asked(), "remask", trace=lambda _, step: steps.append(step), **options)
    assert not any(step.erased for step in steps)


def test_edit_replaces_written_tokens() -> None:
    steps: list[TraceStep] = []
    options = {"threshold": 0.3, "editing_threshold": 0.35, "max_post_steps": 4}
    fillings = fill(crooked(), asked(), "edit", trace=lambda _, step: steps.append(step), **options)
    assert sum(len(step.written) for step in steps) > sum(
        len(filling.tokens) for filling in fillings
    )
    assert all(BLANK not in filling.tokens for filling in fillings)


REWRITERS: list[dict[str, Any]] = [
    {"strategy": "rdm", "steps": 6, "rdm_noise": 0.5},
    {"strategy": "p2", "steps": 6, "p2_eta": 2.0},
    {"strategy": "remask", "steps": 12, "eta": 0.2},
    {"strategy": "remask", "steps": 12, "remask": "loop"},
    {"strategy": "edit", "threshold": 0.5, "editing_threshold": 0.4, "max_post_steps": 3},
    {"strategy": "confidence", "samples": 3},
]


@pytest.mark.parametrize(
    "options", REWRITERS, ids=["-".join(str(v) for v in options.values()) for options in REWRITERS]
)
def test_rewriting_does_not_depend_on_company(options: dict[str, Any]) -> None:
    model, canvases = crooked(), asked()
    settings = resolve({"temperature": 0.9, "early_exit": False, **options})
    together = [outcome.answer for outcome in fill_outcomes(Engine(model), canvases, settings)]
    alone = [
        fill_outcomes(Engine(model, batch_tokens=1), [canvas], settings)[0].answer
        for canvas in canvases[::-1]
    ]
    assert alone[::-1] == together


def test_the_best_of_several_samples() -> None:
    model, canvas = crooked(), asked()[1]
    best = fill(model, [canvas], temperature=1.5, samples=6, early_exit=False)[0]
    one = fill(model, [canvas], temperature=1.5, early_exit=False)[0]
    assert mean_logprob(best) >= mean_logprob(one)
    assert best.forwards == 6 * one.forwards
    # The first of the samples is the one that is drawn alone, so more samples never make the best worse.
    ranks = [
        mean_logprob(fill(model, [canvas], temperature=1.5, samples=k, early_exit=False)[0])
        for k in (1, 4, 16)
    ]
    assert ranks == sorted(ranks) and len(set(ranks)) > 1


def test_vote_and_hit() -> None:
    assert vote(["a", "b", "b", "c"]) == "b" and vote(["z", "a"]) == "z"
    assert hit_at_k([True, False, False, False], 1) == pytest.approx(0.25)
    assert hit_at_k([True, False, False, False], 2) == pytest.approx(0.5)
    assert hit_at_k([False, False], 2) == 0 and hit_at_k([True, False], 2) == 1


# -- uniform process -------------------------------------------------------------------------------


class Noisy(Toy):
    """A model of the uniform process that sees no mask token and predicts every position from `start` alone."""

    process = "uniform"

    def __init__(self) -> None:
        super().__init__(ToySettings(vocab=5, seed=4))
        self.vocab_size = self.letters
        self.seen: list[Any] = []

    def logits(self, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        assert int(tokens.max()) < self.letters  # rows of one length: no padding
        self.seen.append(tokens.clone())
        return torch.from_numpy(np.log(self.start)).float().expand(int(positions.sum()), -1)


def test_uniform_process_rewrites_a_random_canvas() -> None:
    model, steps = Noisy(), []
    canvases = [Canvas.infill([0, 1], 8, [2], key=f"q{i}") for i in range(100)]
    fillings = fill(
        model,
        canvases,
        "rewrite",
        steps=4,
        temperature=0.5,
        trace=lambda i, step: steps.append((i, step)),
    )
    assert all(filling.forwards == 4 for filling in fillings) and len(steps) == 400
    assert all(step.written == tuple(canvases[0].open_positions) for _, step in steps)
    first = Counter(torch.cat(model.seen)[: len(canvases), 2:10].flatten().tolist())
    # random tokens to begin with
    assert stats.chisquare([first[t] for t in range(6)]).pvalue > ALPHA
    law = model.start**2 / (model.start**2).sum()
    final = Counter(token for filling in fillings for token in filling.tokens)
    assert stats.chisquare([final[t] for t in range(6)], law * 800).pvalue > ALPHA
    assert fill(model, canvases[:1], preset="ar2diff")[0].forwards == 8 * 10


def test_strategies_keep_to_their_process() -> None:
    with pytest.raises(UserError, match="not for models of process 'absorbing'"):
        fill(crooked(), asked(), "rewrite", steps=2)
    with pytest.raises(UserError, match="not for models of process 'uniform'"):
        fill(Noisy(), asked(), "margin")

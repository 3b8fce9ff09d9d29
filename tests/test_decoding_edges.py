"""What a filling records, and canvases at the edge of what can be filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import TraceStep, fill, fill_outcomes, resolve
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError
from dlm_eval.models.families.toy import Toy, ToySettings


def crooked(vocab: int = 6) -> Toy:
    """A toy whose orders disagree, as a trained network's do."""
    return Toy(ToySettings(vocab=vocab, inconsistency=0.7, seed=3))


def test_trace_tells_the_whole_story() -> None:
    model = crooked()
    asked = [Canvas.infill([i], 4 + 4 * i, [2] * i) for i in range(3)]
    story: list[tuple[int, TraceStep]] = []
    fillings = fill(
        model,
        asked,
        steps=2,
        early_exit=False,
        trace=lambda index, step: story.append((index, step)),
    )
    for index, (canvas, filling) in enumerate(zip(asked, fillings, strict=True)):
        steps = [step for owner, step in story if owner == index]
        assert len(steps) == filling.steps == 2
        assert sorted(p for step in steps for p in step.written) == canvas.open_positions
        assert tuple(steps[-1].tokens[p] for p in canvas.open_positions) == filling.tokens
        assert not any(steps[-1].open)
        told = {p: (c, s.step) for s in steps for p, c in zip(s.written, s.confidence, strict=True)}
        assert [told[p] for p in canvas.open_positions] == list(
            zip(filling.confidence, filling.step, strict=True)
        )


def test_confidence_is_the_probability_of_the_token() -> None:
    model = crooked()
    canvas = Canvas.completion([1, 2], 3)
    filling = fill(model, [canvas], steps=1, early_exit=False)[0]
    logits = model.logits(torch.tensor([[1, 2] + [model.mask_id] * 3]))[0, 2:].double()
    assert filling.tokens == tuple(logits.argmax(-1).tolist())
    assert np.allclose(filling.confidence, logits.softmax(-1).max(-1).values.numpy(), atol=1e-6)


def test_an_empty_hole_costs_nothing() -> None:
    filling = fill(crooked(), [Canvas.completion([1, 2], 0)], steps=5)[0]
    assert (filling.tokens, filling.forwards, filling.steps) == ((), 0, 0)


def test_several_holes_and_given_text_stays() -> None:
    model = crooked()
    canvas = Canvas((3, BLANK, 4, BLANK, BLANK, 5), (False, True, False, True, True, False))
    seen: list[TraceStep] = []
    filling = fill(model, [canvas], trace=lambda _, step: seen.append(step))[0]
    assert len(filling.tokens) == 3 and BLANK not in filling.tokens
    assert all((s.tokens[0], s.tokens[2], s.tokens[5]) == (3, 4, 5) for s in seen)


def test_the_mask_token_in_given_text_is_not_a_hole() -> None:
    model = crooked()
    canvas = Canvas.infill([1, model.mask_id, 2], 2, [])
    steps: list[TraceStep] = []
    filling = fill(model, [canvas], early_exit=False, trace=lambda _, step: steps.append(step))[0]
    assert len(filling.tokens) == 2 and filling.forwards == 2
    assert steps[-1].tokens[1] == model.mask_id


def test_a_sample_that_cannot_be_filled_is_told_apart() -> None:
    model = Toy(ToySettings(max_length=10))
    model.needs_bos = True
    asked = [Canvas.completion([1], 20), Canvas.completion([1], 4), Canvas.completion([], 4)]
    long, good, headless = fill_outcomes(Engine(model), asked, resolve({"early_exit": False}))
    assert isinstance(long.answer, SampleError) and "21 positions" in str(long.answer)
    assert not isinstance(good.answer, SampleError) and good.rows == 4
    assert isinstance(headless.answer, SampleError) and "position 0" in str(headless.answer)
    with pytest.raises(SampleError):
        fill(model, asked)


@pytest.mark.parametrize(("convention", "factor"), [("llada", 2.5), ("dream", 1.5)])
def test_guidance_mixes_logits_by_its_convention(convention: str, factor: float) -> None:
    model = crooked()
    model.logits = _finite(model.logits)  # type: ignore[method-assign]
    canvas = Canvas.infill([1, 2], 2, [3])
    filling = fill(
        model, [canvas], steps=1, guidance=1.5, guidance_convention=convention, early_exit=False
    )[0]
    own = model.logits(torch.tensor([[1, 2, model.mask_id, model.mask_id, 3]]))[0, 2:4]
    plain = model.logits(torch.full((1, 5), model.mask_id))[0, 2:4]
    assert filling.tokens == tuple((plain + factor * (own - plain)).argmax(-1).tolist())
    assert filling.forwards == 2


def _finite(logits: Any) -> Any:
    return lambda *args: logits(*args).clamp_min(-30)


def test_end_of_text_can_be_forbidden_or_doubted() -> None:
    model = crooked(vocab=2)
    end = model.eos_ids[0]
    asked = [Canvas.completion([i % 2, i // 2 % 2, i // 4], 6) for i in range(8)]
    plain = fill(model, asked, early_exit=False)
    assert any(end in f.tokens for f in plain)
    assert not any(end in f.tokens for f in fill(model, asked, logits_eos_inf=True))
    for filling in fill(model, asked, confidence_eos_eot_inf=True, early_exit=False):
        words = [s for t, s in zip(filling.tokens, filling.step, strict=True) if t != end]
        ends = [
            (s, c)
            for t, s, c in zip(filling.tokens, filling.step, filling.confidence, strict=True)
            if t == end
        ]
        assert all(c == 0 for _, c in ends)
        assert len(words) + len(ends) == 6


def test_guidance_keeps_impossible_tokens_impossible() -> None:
    """The toy rules special tokens out with -inf in both passes; their difference must not become NaN."""
    toy = Toy(ToySettings())
    (filling,) = fill(
        toy, [Canvas.completion(toy.encode("abc"), 5)], guidance=1.5, early_exit=False
    )
    assert filling.forwards == 10 and all(0 <= token < toy.letters for token in filling.tokens)

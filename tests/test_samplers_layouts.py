"""Samplers of 2025-26: answers depend on the canvas alone, and what a sampler needs is said in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.decoding import STRATEGIES, TraceStep, Unmasking
from dlm_eval.engine import Engine, ForwardRow, Layout, LogProbs
from dlm_eval.errors import SampleError
from dlm_eval.models import packaged_asset
from dlm_eval.models.families.toy import Toy, ToySettings

# Options with which a sampler's own rules matter on a small network. What is asked of every sampler of
# the package (order, resuming, workers, the plan) is in tests/test_samplers.py.
OPTIONS: dict[str, dict[str, Any]] = {
    "prophet": {"answer_start": 2, "early_exit_thresholds": (4.0, 3.0, 2.0), "block_length": 4},
    "slowfast": {
        "k_exploration_steps": 2,
        "cycle_len_confidence_threshold": 0.2,
        "high_confidence_threshold": 0.4,
        "block_length": 6,
    },
    "slowfast_dream": {"n_cycle_discovery_steps": 2, "conf_threshold_cycle_len_pred": 0.2},
    "localleap": {"threshold": 0.5, "relaxed_threshold": 0.2, "radius": 2, "block_length": 6},
    "wino": {"threshold": 0.2, "threshold_back": 0.3, "block_length": 6},
}
SAMPLERS = list(OPTIONS)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny")


def canvases(count: int = 6) -> list[Canvas]:
    """Completions and infillings of several lengths."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        prefix = rng.integers(30, 200, 3 + i % 3).tolist()
        suffix = rng.integers(30, 200, i % 4).tolist() if i % 2 else ()
        made.append(Canvas.infill(prefix, 12 if i % 3 else 24, suffix, key=f"q{i}"))
    return made


def settings_of(name: str, **more: Any) -> dict[str, Any]:
    return {"strategy": name, "early_exit": False, **OPTIONS.get(name, {}), **more}


# -- independence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.full), 0.7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_of_several_lengths_share_batches_with_padding(
    name: str, temperature: float, tiny: Any
) -> None:
    asked, options = canvases(4), settings_of(name, temperature=temperature)

    def told(fillings: list[Any]) -> list[tuple[Any, ...]]:
        return [(f.tokens, f.step, f.forwards, f.exit) for f in fillings]

    three = Engine(tiny, batch_rows=3, equal_lengths=False)
    together = told(fill(tiny, asked[::-1], engine=three, **options))[::-1]
    assert [told(fill(tiny, [canvas], **options))[0] for canvas in asked] == together


# -- what they need --------------------------------------------------------------------------------


def blockwise() -> Toy:
    toy = Toy(ToySettings())
    toy.attention, toy.block_length = "block", 4  # type: ignore[assignment]
    return toy


def shifted() -> Any:
    """tiny's weights, each token read one position to the left."""
    folder = str(packaged_asset("tiny"))
    options = {"mask_id": load_model("tiny").mask_id, "shift": True, "probe": False}
    return load_model("generic", pretrained=folder, device="cpu", **options)


@pytest.mark.parametrize("name", ["prophet", "slowfast", "slowfast_dream", "wino"])
def test_what_a_sampler_cannot_use_is_refused(name: str, tiny: Any) -> None:
    canvas = Canvas.completion([1, 2], 8)
    with pytest.raises(UserError, match=f"'{name}' .*; it needs full attention"):
        fill(blockwise(), [canvas], name)
    with pytest.raises(UserError, match=f"'{name}' .*no approximate cache"):
        fill(tiny, [canvas], name, cache="dual")
    with pytest.raises(UserError, match="schedule is not used by strategy"):
        fill(tiny, [canvas], name, schedule="even")


def test_what_single_samplers_cannot_use_is_refused(tiny: Any) -> None:
    canvas = Canvas.completion([1, 2], 8)
    with pytest.raises(UserError, match="early_exit_thresholds .* it must be three numbers"):
        fill(tiny, [canvas], "prophet", early_exit_thresholds=(1.0, 2.0))
    with pytest.raises(UserError, match="'slowfast_dream', which has no blocks"):
        fill(tiny, [canvas], "slowfast_dream", block_length=4)

    class Plain(Toy):
        supports_layouts = False  # type: ignore[assignment]

    with pytest.raises(UserError, match="its rows cannot say where each token stands"):
        fill(Plain(ToySettings()), [canvas], "wino")
    with pytest.raises(UserError, match="predictions at a token's own position"):
        fill(shifted(), [canvas], "wino")


# -- Prophet's constraints ------------------------------------------------------------------------


def test_constraints_are_tokens_of_the_hole(tiny: Any) -> None:
    """Written before the first step, they are what given tokens in their places are."""
    prompt, options = tiny.encode("Tom has a red kite."), {"block_length": 5, "steps": 20}
    options |= {"strategy": "prophet", "early_exit_thresholds": (9.0, 7.0, 3.0)}
    told = tiny.encode(" He") + tiny.encode(" is")
    assert len(told) == 2
    given = [BLANK] * 20
    given[9], given[11] = told
    canvas = Canvas((*prompt, *given), (*[False] * len(prompt), *(t == BLANK for t in given)))
    (of_canvas,) = fill(tiny, [canvas], answer_start=13, early_exit=False, **options)
    assert of_canvas.exit == "answer_gap"
    steps: list[TraceStep] = []
    (of_option,) = fill(
        tiny,
        [Canvas.completion(prompt, 20)],
        constraints_text="9:He|11: is",
        early_exit=False,
        trace=lambda _, step: steps.append(step),
        **options,
    )
    expected = list(of_canvas.tokens)
    expected[9:9], expected[11:11] = told[:1], told[1:]
    assert list(of_option.tokens) == expected
    assert (of_option.forwards, of_option.exit) == (of_canvas.forwards, of_canvas.exit)
    assert {len(prompt) + 9, len(prompt) + 11} < set(steps[0].written)
    for wrong in ("9", "x:He", "9:", "-1:He"):
        with pytest.raises(UserError, match="constraints_text .* POSITION:TEXT"):
            fill(tiny, [canvas], "prophet", constraints_text=wrong)
    with pytest.raises(SampleError, match="constraints_text: 'He' does not fit at position 9"):
        fill(tiny, [canvas], "prophet", constraints_text="9:He")
    behind = fill(tiny, [Canvas.completion(prompt, 8)], "prophet", constraints_text="25:He")
    assert behind[0].tokens == fill(tiny, [Canvas.completion(prompt, 8)], "prophet")[0].tokens
    (overlapping,) = fill(
        tiny, [Canvas.completion(prompt, 8)], "prophet", constraints_text="3:is|3:He"
    )
    assert overlapping.tokens[3] == told[0]


# -- rows with a layout ----------------------------------------------------------------------------


def logprobs(model: Any, rows: list[ForwardRow], **limits: Any) -> list[np.ndarray]:
    def program(row: ForwardRow) -> Any:
        return (yield [row])[0][0]

    engine = Engine(model, **limits)
    return [outcome.answer for outcome in engine.drive([program(row) for row in rows])]


def reading(tokens: Any, at: Any, said: Any, layout: Layout | None = None) -> ForwardRow:
    return ForwardRow(np.array(tokens), np.array(at), LogProbs(), np.array(said), layout=layout)


@pytest.mark.parametrize("name", ["tiny", "toy"])
def test_a_layout_is_what_it_says(name: str, tiny: Any) -> None:
    """A row in any order, with other texts beside it, gives what the plain rows give."""
    model = tiny if name == "tiny" else Toy(ToySettings(vocab=6, inconsistency=0.7))
    rng = np.random.default_rng(1)
    parts = [rng.integers(0, 6, n) for n in (9, 5, 12)]
    for part in parts:
        part[1::3] = model.mask_id
    plain = [reading(part, range(len(part)), np.zeros(len(part), int)) for part in parts]
    places = np.concatenate([np.arange(len(part)) for part in parts])
    owner = np.repeat(np.arange(3), [len(part) for part in parts])
    order = rng.permutation(len(places))
    layout = Layout(places[order], owner[order, None] == owner[order])
    row = reading(
        np.concatenate(parts)[order], range(len(order)), np.zeros(len(order), int), layout
    )
    (found,) = logprobs(model, [row])
    back = np.empty_like(found)
    back[order] = found
    np.testing.assert_allclose(back, np.concatenate(logprobs(model, plain)), atol=2e-5)


def test_rows_with_layouts_share_batches_and_keep_their_bits(tiny: Any) -> None:
    rng = np.random.default_rng(2)
    rows = []
    for length in (8, 11, 8, 14):
        tokens, visible = rng.integers(30, 200, length), rng.random((length, length)) < 0.6
        np.fill_diagonal(visible, True)
        layout = Layout(rng.integers(0, length, length), visible)
        rows.append(reading(tokens, range(length), np.zeros(length, int), layout))
        rows.append(reading(tokens, range(length), np.zeros(length, int)))
    alone = [logprobs(tiny, [row])[0] for row in rows]
    for one, other in zip(logprobs(tiny, rows), alone, strict=True):
        np.testing.assert_array_equal(one, other)
    padded = logprobs(tiny, rows, equal_lengths=False)
    for one, other in zip(padded, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert not np.allclose(alone[0], alone[1], atol=1e-2)  # the layout matters
    assert not np.allclose(alone[4], alone[0], atol=1e-2)


def test_a_network_that_ignores_layouts_is_found_out() -> None:
    for lost in ("attention_mask", "position_ids"):
        model = load_model("tiny")
        assert model.supports_layouts
        inner = model.backbone

        class Deaf(torch.nn.Module):
            def forward(
                self,
                input_ids: Any,
                attention_mask: Any = None,
                position_ids: Any = None,
                **more: Any,
            ) -> Any:
                given = {"attention_mask": attention_mask, "position_ids": position_ids, **more}
                del given[lost]  # noqa: B023
                return inner(input_ids=input_ids, **given)  # noqa: B023

        del vars(model)["no_layout_reason"]
        model.backbone = Deaf()
        assert "with a layout its logits move" in model.no_layout_reason
        with pytest.raises(UserError, match="its rows cannot say where each token stands"):
            fill(model, [Canvas.completion([40, 41], 4)], "wino")


# -- truth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold,threshold_back", [(0.25, 0.6), (0.1, 0.3), (0.4, 0.35)])
def test_wino_by_rows_of_one_text_each(threshold: float, threshold_back: float) -> None:
    """The shadow gives what plain rows give that mask one written token each."""
    toy = Toy(ToySettings(vocab=5, inconsistency=1.0, seed=4))
    revoked = 0
    for canvas in [Canvas.infill([1, i], 14, [i % 3, 2], f"q{i}") for i in range(6)]:
        steps: list[TraceStep] = []
        options = {"threshold": threshold, "threshold_back": threshold_back, "block_length": 7}
        (filling,) = fill(
            toy,
            [canvas],
            "wino",
            early_exit=False,
            trace=lambda _, s, to=steps: to.append(s),
            **options,
        )
        text = np.where(canvas.open, toy.mask_id, canvas.tokens)
        number = 0
        for block in (range(2, 9), range(9, 16)):
            accepted = 30
            while (text[list(block)] == toy.mask_id).any():
                open_ = [i for i in block if text[i] == toy.mask_id]
                done = [i for i in block if text[i] != toy.mask_id]
                p = toy.logits(torch.tensor(text)[None])[0].double().softmax(-1).numpy()
                best = {i: float(p[i].max()) for i in open_}
                sure = [i for i in open_ if best[i] > threshold]
                most = min(max(int(0.7 * len(open_)), 5), 20)
                ranked = sorted(open_, key=lambda i: -best[i])
                write = ranked[:most] if len(sure) > most else sure or ranked[:1]
                back: list[int] = []
                if len(write) > 1:
                    said = {}
                    for i in done:
                        other = text.copy()
                        other[i] = toy.mask_id
                        q = toy.logits(torch.tensor(other)[None])[0].double().softmax(-1)
                        said[i] = float(q[i, text[i]])
                    back = [i for i in done if said[i] < threshold_back]
                    if len(back) >= accepted:
                        back = sorted(done, key=lambda i: said[i])[: accepted - 1]
                for i in write:
                    text[i] = int(p[i].argmax())
                text[back] = toy.mask_id
                step = steps[number]
                assert (sorted(step.written), sorted(step.erased)) == (sorted(write), sorted(back))
                accepted, number, revoked = len(write), number + 1, revoked + len(back)
        assert number == len(steps) == filling.forwards
        assert list(filling.tokens) == text[2:16].tolist()
    assert revoked


@pytest.mark.parametrize("threshold,relaxed,radius", [(0.5, 0.25, 1), (0.4, 0.3, 3), (0.3, 0.4, 2)])
def test_localleap_in_plain_words(threshold: float, relaxed: float, radius: int) -> None:
    """Also with a second threshold above the first one, as the authors' code allows."""
    toy = Toy(ToySettings(vocab=5, inconsistency=1.0, seed=4))
    leaps = 0
    for canvas in [Canvas.infill([1, i], 16, [i % 3, 2], f"q{i}") for i in range(6)]:
        options = {"threshold": threshold, "relaxed_threshold": relaxed, "radius": radius}
        (filling,) = fill(toy, [canvas], "localleap", early_exit=False, block_length=8, **options)
        text, forwards = np.where(canvas.open, toy.mask_id, canvas.tokens), 0
        for block in (range(2, 10), range(10, 18)):
            while (text[list(block)] == toy.mask_id).any():
                p = toy.logits(torch.tensor(text)[None])[0].double().softmax(-1).numpy()
                open_ = [i for i in block if text[i] == toy.mask_id]
                best = {i: p[i].max() for i in open_}
                anchors = [i for i in open_ if best[i] >= threshold]
                near = [i for i in open_ if any(abs(i - a) <= radius for a in anchors)]
                write = [i for i in open_ if best[i] >= (relaxed if i in near else threshold)]
                write.append(max(open_, key=lambda i: best[i]))
                leaps += len(set(write) - set(anchors)) > 1
                for i in write:
                    text[i] = p[i].argmax()
                forwards += 1
        assert list(filling.tokens) == text[2:18].tolist() and filling.forwards == forwards
    assert leaps or relaxed > threshold


def test_every_sampler_is_in_the_table() -> None:
    assert set(OPTIONS) <= set(SAMPLERS)
    assert all(issubclass(STRATEGIES.find(name), Unmasking) for name in SAMPLERS)

"""Canvases that begin with a draft: what a strategy that revises makes of it, step by step in plain words; batches, resumed canvases, costs, and who refuses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import test_models_ar2diff
from strategy_options import NEEDED
from test_decoding_cache import blockwise

from dlm_eval.answers import answer_jobs, journal_key
from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding import STRATEGIES, fill, resolve
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.filling import fill_program, fits, most_forwards
from dlm_eval.decoding.step import TraceStep
from dlm_eval.decoding.strategy import FillRequest, Strategy
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.jobs import FillJob
from dlm_eval.models import load_model
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise
from dlm_eval.workers import InProcess

V, N = 4, 6
toy = Toy(ToySettings(vocab=V, seed=5))
MASK = toy.mask_id


def conditionals(text: list[int]) -> np.ndarray:
    """[L, V] the true p(token at i | the other visible tokens, and that it is a letter), by
    enumeration of the joint. The toy's end of text is one more state of its chain.
    """
    found = np.zeros((len(text), V))
    for i in range(len(text)):
        hidden = [j for j, token in enumerate(text) if token == MASK and j != i]
        for token in range(V):
            for others in itertools.product(range(V + 1), repeat=len(hidden)):
                whole = list(text)
                whole[i] = token
                for j, other in zip(hidden, others, strict=True):
                    whole[j] = other
                found[i, token] += np.exp(toy.log_joint(whole))
        found[i] /= found[i].sum()
    return found


def drafted(text: list[int], prefix: int = 1, key: str = "") -> Canvas:
    return Canvas.infill(text[:prefix], text[prefix:-1], text[-1:], key, draft=True)


TEXTS = [list(text) for text in np.random.default_rng(2).integers(0, V, (12, N)).tolist()]


# -- truth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0.0, 0.5, 0.9])
def test_edit_replaces_tokens_by_likelier_ones_until_nothing_changes(least: float) -> None:
    changed = 0
    for text in TEXTS:
        expected, steps, rows = list(text), 0, 1  # the row that reads the draft
        written = [0] * N
        for step in range(1, 17):
            p, rows = conditionals(expected), rows + 1
            better = [
                i
                for i in range(1, N - 1)
                if p[i].max() > least and int(p[i].argmax()) != expected[i]
            ]
            for i in better:
                expected[i], written[i] = int(p[i].argmax()), step
            if not better:
                break
            steps += 1
        (found,) = fill(
            toy,
            [drafted(text)],
            "edit",
            threshold=0.9,
            editing_threshold=least,
            logits_eos_inf=True,
        )
        changed += expected != text
        assert list(found.tokens) == expected[1:-1]
        assert list(found.step) == written[1:-1]
        assert found.steps == steps and found.forwards <= rows
    assert changed


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_p2_masks_the_least_likely_of_the_draft_and_fills_them(steps: int) -> None:
    n, remasked = N - 2, 0
    for text in TEXTS:
        expected = list(text)
        for step in range(steps):
            p = conditionals(expected)
            at = range(1, N - 1)
            score = {i: np.log(p[i].max()) for i in at}
            stay = sorted(at, key=lambda i: score[i])[: n * (steps - 1 - step) // steps]
            for i in at:
                if i in stay:
                    remasked += expected[i] != MASK
                    expected[i] = MASK
                elif expected[i] == MASK:
                    expected[i] = int(p[i].argmax())
        (found,) = fill(toy, [drafted(text)], "p2", steps=steps, logits_eos_inf=True)
        assert list(found.tokens) == expected[1:-1]
    assert (remasked > 0) == (steps > 1)


def test_the_drafts_confidence_is_the_models_in_the_whole_draft() -> None:
    """Nothing is remasked at eta 0: the draft stays, with its conditional probabilities."""
    for text in TEXTS:
        (found,) = fill(toy, [drafted(text)], "remask", eta=0.0, steps=4, temperature=1.0)
        others = [
            np.exp([toy.log_joint([*text[:i], t, *text[i + 1 :]]) for t in range(V + 1)])
            for i in range(N)
        ]
        assert list(found.tokens) == text[1:-1] and found.step == (0,) * (N - 2)
        assert found.confidence == pytest.approx(
            [others[i][text[i]] / others[i].sum() for i in range(1, N - 1)], rel=1e-5
        )
        assert (found.forwards, found.steps) == (1, 0)


def test_what_a_draft_lacks_begins_open() -> None:
    """A draft of nothing is no draft; one with a gap keeps what it has and gets the rest."""
    text = TEXTS[0]
    blank = Canvas.infill(text[:1], [BLANK] * (N - 2), text[-1:], draft=True)
    plain = Canvas.infill(text[:1], N - 2, text[-1:])
    options: dict[str, Any] = {"threshold": 0.4, "editing_threshold": 1.0}
    one, other = fill(toy, [blank, plain], "edit", **options)
    assert replace(one, seconds=0) == replace(other, seconds=0)
    gap = Canvas.infill(text[:1], [text[1], BLANK, text[3], BLANK], text[-1:], draft=True)
    (found,) = fill(toy, [gap], "edit", **options)
    assert (found.tokens[0], found.tokens[2]) == (text[1], text[3]) and BLANK not in found.tokens
    assert found.step[0] == found.step[2] == 0 < min(found.step[1], found.step[3])


def test_two_holes_with_drafts() -> None:
    canvas = Canvas.holes([1], 2, [[2]], [3], drafts=[[0, 1], [3]])
    assert canvas.tokens == (1, 0, 1, 2, 3, BLANK, 3) and canvas.draft
    assert canvas.open == (False, True, True, False, True, True, False)
    with pytest.raises(UserError, match="drafts '1' is not allowed; the canvas has 2 holes"):
        Canvas.holes([1], 2, [[2]], [3], drafts=[[0, 1]])
    with pytest.raises(UserError, match="length -1"):
        Canvas.holes([1], -1, [[2]], [3])


def test_rewriting_goes_on_from_a_text_as_from_its_own(tmp_path_factory: Any) -> None:
    """m steps from random tokens and k from what they wrote are m + k steps, at temperature 0."""
    folder = test_models_ar2diff.checkpoint(tmp_path_factory.mktemp("m"))
    model = load_model("ar2diff", pretrained=folder)
    canvas = Canvas.infill([3, 4, 5], 8, [6, 7], "a")
    for m, k in ((1, 2), (2, 3)):
        (first,) = fill(model, [canvas], steps=m)
        begun = Canvas.infill([3, 4, 5], list(first.tokens), [6, 7], "a", draft=True)
        assert (
            fill(model, [begun], steps=k)[0].tokens == fill(model, [canvas], steps=m + k)[0].tokens
        )
    other = Canvas.infill([3, 4, 5], [8] * 8, [6, 7], "a", draft=True)
    row = _first_row(model, other, "rewrite", steps=2)
    assert row.tokens.tolist() == list(other.tokens)


def _first_row(model: Any, canvas: Canvas, strategy: str, **options: Any) -> Any:
    settings = resolve({"strategy": strategy, **options})
    program = fill_program(FillRequest(model, canvas, settings, Noise.of(canvas, 0)))
    (row,) = next(program)
    return row


# -- independence ----------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "edit": {"strategy": "edit", "threshold": 0.4, "editing_threshold": 0.3},
    "edit, blocks": {"strategy": "edit", "threshold": 0.4, "editing_threshold": 0.3, "block_length": 2},
    "edit, drawn": {"strategy": "edit", "threshold": 0.4, "editing_threshold": 0.3, "temperature": 1.0},
    "edit, guided": {"strategy": "edit", "threshold": 0.4, "editing_threshold": 0.3, "guidance": 1.0},
    "rdm": {"strategy": "rdm", "steps": 3, "rdm_condition": "cond", "rdm_noise": 0.5},
    "p2": {"strategy": "p2", "steps": 3, "temperature": 0.7},
    "p2, blocks": {"strategy": "p2", "steps": 4, "block_length": 2},
    "remask": {"strategy": "remask", "steps": 4, "eta": 0.5, "temperature": 1.0},
    "remask conf": {"strategy": "remask", "remask": "conf", "steps": 4, "temperature": 1.0},
    "samples": {"strategy": "p2", "steps": 2, "temperature": 1.0, "samples": 3, "rerank": "score"},
}  # fmt: skip


def canvases() -> list[Canvas]:
    return [drafted(text, key=str(i)) for i, text in enumerate(TEXTS)]


def written(found: list[Filling]) -> list[Filling]:
    return [replace(one, seconds=0.0) for one in found]


@pytest.mark.parametrize("way", WAYS)
def test_no_batch_and_no_order_changes_a_revision(way: str) -> None:
    asked = canvases()
    together = written(fill(toy, asked, **WAYS[way]))
    alone = [written(fill(toy, [one], **WAYS[way]))[0] for one in asked]
    back = written(fill(toy, asked[::-1], **WAYS[way], engine=Engine(toy, batch_tokens=13)))[::-1]
    assert together == alone == back
    for canvas, filling in zip(asked, together, strict=True):
        most = most_forwards(toy, canvas, resolve(WAYS[way]))
        assert most is not None and filling.forwards <= most


def test_block_causal_models_revise_block_by_block_with_and_without_a_cache() -> None:
    model = blockwise()
    draw = np.random.default_rng(0)
    for suffix in (0, 3):
        text = [model.bos_id, *draw.integers(5, 200, 20).tolist()]
        canvas = Canvas.infill(text[:4], text[4:], text[1 : 1 + suffix], "a", draft=True)
        options: dict[str, Any] = {"threshold": 0.3, "editing_threshold": 0.05}
        with_cache, without = (
            fill(model, [canvas], "edit", cache=cache, **options)[0] for cache in ("exact", "none")
        )
        assert with_cache.tokens == without.tokens and with_cache.step == without.step
        assert with_cache.tokens != canvas.target and max(with_cache.step) > 1


# -- a canvas that is resumed ----------------------------------------------------------------------


@pytest.mark.parametrize("way", [name for name in WAYS if name != "samples"])
def test_a_revision_goes_on_from_every_checkpoint(way: str) -> None:
    settings = resolve(WAYS[way])
    for canvas in canvases()[:4]:
        request = FillRequest(toy, canvas, settings, Noise.of(canvas, 3))
        states: list[State] = []
        whole = _run(replace(request, offer=lambda state, to=states: to.append(state())))
        assert states and all(fits(toy, canvas, settings, state) for state in states)
        for state in states:
            state = State.of(
                {k: list(v) if isinstance(v, tuple) else v for k, v in vars(state).items()}
            )
            assert _run(replace(request, begun=state)) == whole


def _run(request: FillRequest) -> Filling:
    (outcome,) = Engine(request.model).drive([fill_program(request)])
    assert isinstance(outcome.answer, Filling)
    return outcome.answer


# -- the trace, and keys ---------------------------------------------------------------------------


def test_the_trace_begins_with_the_draft_and_ends_with_the_answer() -> None:
    for canvas in canvases()[:4]:
        steps: list[TraceStep] = []
        settings = resolve(WAYS["p2"])
        noise = Noise.of(canvas, 0)
        found = _run(FillRequest(toy, canvas, settings, noise, partial(list.append, steps)))
        assert steps[0].step == 0 and steps[0].tokens == canvas.tokens
        assert steps[0].written == tuple(canvas.open_positions)
        shown = {place: MASK for place in canvas.open_positions}
        for step in steps:
            for place in step.erased:
                shown[place] = MASK
            for place in step.written:
                shown[place] = step.tokens[place]
        assert tuple(shown.values()) == found.tokens


def test_the_journal_tells_a_draft_from_a_text_to_be_replaced() -> None:
    settings = resolve(WAYS["edit"])
    draft = drafted(TEXTS[0], key="a")
    jobs = [FillJob(canvas, settings, 0) for canvas in (draft, replace(draft, draft=False))]
    assert len({journal_key("m", job) for job in jobs}) == 2
    answers = answer_jobs(InProcess(Engine(toy)).run, jobs, "m", None)
    assert answers[0].value.tokens == fill(toy, [draft], **WAYS["edit"])[0].tokens  # type: ignore[union-attr]


# -- who refuses -----------------------------------------------------------------------------------


def test_strategies_that_never_revise_refuse_in_one_line() -> None:
    refused = []
    for name, cls in STRATEGIES.listed().items():
        if isinstance(cls, str) or cls.revises or "absorbing" not in cls.processes:
            continue
        refused.append(name)
        with pytest.raises(UserError, match="never changes a written token") as error:
            fill(toy, [drafted(TEXTS[0])], name, **NEEDED.get(name, {}))
        assert "\n" not in str(error.value) and "rdm, p2, remask, edit" in str(error.value)
    assert {"confidence", "threshold", "first_hitting", "ddpm", "window"} <= set(refused)
    with pytest.raises(UserError, match="revises 'perhaps' is not allowed"):
        type("Odd", (Strategy,), {"revises": "perhaps"}, name="odd_reviser")


def test_a_draft_that_no_model_can_read_is_one_line() -> None:
    with pytest.raises(SampleError, match="token 99 at position 1 is outside"):
        fill(toy, [Canvas.infill([1], [99], [2], draft=True)], **WAYS["edit"])
    with pytest.raises(SampleError, match="is to be revised and holds the mask token"):
        fill(toy, [Canvas.infill([1], [MASK], [2], draft=True)], **WAYS["edit"])
    for how in ({"lengths": (2, 3)}, {"length_beam": 2}):
        with pytest.raises(SampleError, match="begins with a draft"):
            fill(toy, [drafted(TEXTS[0])], **WAYS["edit"], **how)

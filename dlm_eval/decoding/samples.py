"""Several fillings of one canvas: samples, or one for each of several predicted lengths.

The best by the model is kept, or the most frequent answer. Under `length_beam` the model's length
head proposes lengths: prompt -> `length_logits` -> the K most probable lengths -> one filling for
each -> highest mean log-probability (DiffusionLLM, Ye et al. 2023, section 3.2: length beam). Under
`lengths` the user names them, for models without such a head and for holes inside a text.

Shape letters: N = wanted positions of a batch, C = lengths that the head knows, K = size of the
beam.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, replace
from math import inf, log
from typing import TypeVar, cast

import numpy as np
from torch import Tensor

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.checkpoints import no_offer
from dlm_eval.decoding.exits import StopSearch
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import ForwardRow, LogProbs, Program
from dlm_eval.engine.rows import together
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser, LengthHead
from dlm_eval.rng import Noise, digest

A = TypeVar("A", bound=Hashable)


def repeat(noise: Noise, number: int) -> Noise:
    """Returns the noise of sample `number` of a canvas.

    Sample 0 equals the answer with one sample.
    """
    return noise if number == 0 else Noise(digest("repeat", noise.key, number))


def best_program(
    model: Denoiser, canvas: Canvas, programs: Sequence[Program[Filling]], by: str
) -> Program[Filling]:
    """Returns the program that runs all samples and returns the best; `forwards` counts all.

    Args:
        model: the denoiser.
        canvas: what the samples fill.
        programs: one for each sample.
        by: 'probability', the mean log-probability of the tokens as they were written; 'text', the
            same without those that begin, end or pad a text (DiffusionLLM's length beam); or
            'score', the mean log-probability of the tokens given the filled canvas (AR2Diff; one
            more row each).
    """
    fillings = yield from together(programs)
    forwards = sum(filling.forwards for filling in fillings)
    aside = _special(model) if by == "text" else {BLANK}
    ranks = [mean_logprob(filling, aside) for filling in fillings]
    if by == "score" and canvas.open_positions:
        outputs = yield [_score_row(model, canvas, filling) for filling in fillings]
        ranks = [float(np.mean(output[0])) for output in outputs]
        forwards += len(fillings)
    return replace(fillings[int(np.argmax(ranks))], forwards=forwards)


def mean_logprob(filling: Filling, aside: Set[int | None] = frozenset({BLANK})) -> float:
    """Returns the mean log-probability (nats) of tokens as written, without those in `aside`.

    A filling without any other token is -inf, so that an empty text never wins by having nothing
    that could be unlikely.
    """
    logs = [
        log(max(p, 1e-300))
        for p, token in zip(filling.confidence, filling.tokens, strict=True)
        if token not in aside
    ]
    return sum(logs) / len(logs) if logs else -inf


def _special(model: Denoiser) -> set[int | None]:
    """Returns the ids of tokens that begin, end or pad a text, and `BLANK`."""
    return {BLANK, model.bos_id, model.pad_id, *model.eos_ids}


def seen_part(model: Denoiser, filling: Filling, until: Sequence[str]) -> Filling:
    """Returns the tokens of a filling that a reader of its text sees: those before the first
    end-of-text token or `BLANK`, up to the one that completes the first stop string.
    """
    tokens, stops = filling.tokens, StopSearch(model, until)
    ends = (i for i, token in enumerate(tokens) if token in model.eos_ids or token == BLANK)
    seen = next(ends, len(tokens))
    if stops:
        before = np.array(tokens[:seen], dtype=np.int64)
        seen = next((n for n in range(1, seen + 1) if stops.found_in(before[:n])), seen)
    return replace(filling, tokens=tokens[:seen], confidence=filling.confidence[:seen])


def _score_row(model: Denoiser, canvas: Canvas, filling: Filling) -> ForwardRow:
    tokens = np.array(canvas.tokens, dtype=np.int64)
    at = np.array(canvas.open_positions)
    written = np.array(filling.tokens, dtype=np.int64)
    tokens[at] = np.where(written == BLANK, model.mask_id, written)
    seen = written != BLANK
    return ForwardRow(tokens, at[seen], LogProbs(), written[seen])


def vote(answers: Sequence[A]) -> A:
    """Returns the most frequent answer, the earliest of equals (Wang et al. 2022)."""
    return Counter(answers).most_common(1)[0][0]


def hit_at_k(right: Sequence[bool], k: int) -> float:
    """Returns the unbiased probability that one of k samples is right (Chen et al. 2021)."""
    n, wrong = len(right), sum(not is_right for is_right in right)
    if wrong < k:
        return 1.0
    return 1.0 - float(np.prod([(wrong - i) / (n - i) for i in range(k)]))


# -- predicted lengths -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TopLengths:
    """LogitsOp of the K most probable lengths [N, K], the most probable first.

    Class i is the length i + 1.
    """

    count: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        return (logits.topk(min(self.count, logits.shape[-1])).indices + 1,)


def beam_program(
    request: FillRequest, fill: Callable[[FillRequest], Program[Filling]]
) -> Program[Filling]:
    """Returns the program that fills the canvas at each length of the beam and returns the best
    filling.

    The hole must be at the end of the canvas; its own length is ignored. `forwards` counts the
    prediction of lengths and all fillings.

    Args:
        request: prompt and hole, with `length_beam`, for a denoiser with `length_logits`.
        fill: returns the program that fills a canvas of one of the lengths.

    Raises (when run):
        SampleError: text follows the hole, or no position is left for it.
    """
    model, canvas, settings = request.model, request.canvas, request.settings
    prompt = [
        token for token, is_open in zip(canvas.tokens, canvas.open, strict=True) if not is_open
    ]
    room = model.max_length - len(prompt)
    if not prompt or any(canvas.open[: len(prompt)]):
        raise SampleError(
            "a length can be predicted only for a hole after a prompt, with no text after the hole"
        )
    if room < 1:
        raise SampleError(f"the prompt fills all {model.max_length} positions of {model.name}")
    tokens, first, op = (
        np.array(prompt, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        TopLengths(settings.length_beam),
    )
    ask = ForwardRow(tokens, first, op, np.zeros(1), head=cast(LengthHead, model).length_logits)
    proposed = (yield [ask])[0][0][0]
    one = replace(settings, length_beam=0)
    sizes = list(dict.fromkeys(min(int(size), room) for size in proposed))
    programs = [
        fill(
            replace(
                request,
                canvas=_resized(canvas, len(prompt), size),
                settings=one.fitted(size),
                offer=no_offer,
            )
        )
        for size in sizes
    ]
    best = yield from best_program(model, canvas, programs, "text")
    return replace(best, forwards=best.forwards + ask.passes)


# -- lengths that are tried ------------------------------------------------------------------------


def lengths_program(
    request: FillRequest, fill: Callable[[FillRequest], Program[Filling]]
) -> Program[Filling]:
    """Returns the program that fills the hole at each of `lengths` and returns the best filling:
    that with the highest mean log-probability of its tokens as they were written, up to the end of
    the text and without those that begin, end or pad it.

    The hole's own length is ignored, so nothing of the answer is told. `forwards` counts all
    fillings.

    Raises (when run):
        SampleError: there is more than one hole, or no length fits the model.
    """
    programs = [
        fill(replace(request, canvas=canvas, settings=settings, offer=no_offer))
        for canvas, settings in at_lengths(request.model, request.canvas, request.settings)
    ]
    fillings = yield from together(programs)
    aside, until = _special(request.model), request.settings.until
    ranks = [mean_logprob(seen_part(request.model, one, until), aside) for one in fillings]
    forwards = sum(filling.forwards for filling in fillings)
    return replace(fillings[int(np.argmax(ranks))], forwards=forwards)


def at_lengths(
    model: Denoiser, canvas: Canvas, settings: DecodeSettings
) -> list[tuple[Canvas, DecodeSettings]]:
    """Returns the canvas with its hole at each of `lengths` that fits the model, with the settings
    for it.

    Raises:
        SampleError: as `lengths_program`.
    """
    places = canvas.open_positions
    first, given = places[0], len(canvas) - len(places)
    if places[-1] - first + 1 != len(places):
        raise SampleError("decode lengths needs one hole, and this text has several")
    sizes = [size for size in dict.fromkeys(settings.lengths) if size <= model.max_length - given]
    if not sizes:
        raise SampleError(
            f"decode lengths: {given} given positions leave no room for a hole of "
            f"{min(settings.lengths)} in the {model.max_length} of {model.name}"
        )
    one = replace(settings, lengths=())
    return [(_resized(canvas, first, size), one.fitted(size)) for size in sizes]


def _resized(canvas: Canvas, before: int, size: int) -> Canvas:
    """Returns the canvas with `size` open positions after the first `before`, in place of its own."""
    after = before + len(canvas.open_positions)
    tokens = canvas.tokens[:before] + (BLANK,) * size + canvas.tokens[after:]
    is_open = canvas.open[:before] + (True,) * size + canvas.open[after:]
    return replace(canvas, tokens=tokens, open=is_open)

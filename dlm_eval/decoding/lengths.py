"""Predicted lengths: the model's length head proposes some, each is filled, and the best filling is
kept.

prompt -> `length_logits` -> the K most probable lengths -> one filling for each -> highest mean
log-probability (DiffusionLLM, Ye et al. 2023, section 3.2: length beam).

Shape letters: N = wanted positions of a batch, C = lengths that the head knows, K = size of the
beam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.checkpoints import no_offer
from dlm_eval.decoding.samples import best_program
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import ForwardRow, Program
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import LengthHead, offers


@dataclass(frozen=True)
class TopLengths:
    """LogitsOp of the K most probable lengths [N, K], the most probable first.

    Class i is the length i + 1.
    """

    count: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        return (logits.topk(min(self.count, logits.shape[-1])).indices + 1,)


def beam_program(request: FillRequest, fill: Callable[[FillRequest], Program[Filling]]) -> Program[Filling]:
    """Returns the program that fills the canvas at each length of the beam and returns the best
    filling.

    The hole must be at the end of the canvas; its own length is ignored. `forwards` counts the
    prediction of lengths and all fillings.

    Args:
        request: prompt and hole, with `length_beam`, for a denoiser with `length_logits`.
        fill: returns the program that fills a canvas of one of the lengths.

    Raises (when run):
        UserError: the model predicts no lengths.
        SampleError: text follows the hole, or no position is left for it.
    """
    model, canvas, settings = request.model, request.canvas, request.settings
    if not offers(model, LengthHead):
        raise UserError(
            f"decode length_beam '{settings.length_beam}' is not possible: {model.name} has no length head; leave it out"
        )
    prompt = [token for token, is_open in zip(canvas.tokens, canvas.open, strict=True) if not is_open]
    room = model.max_length - len(prompt)
    if not prompt or any(canvas.open[: len(prompt)]):
        raise SampleError("a length can be predicted only for a hole after a prompt, with no text after the hole")
    if room < 1:
        raise SampleError(f"the prompt fills all {model.max_length} positions of {model.name}")
    ask = ForwardRow(
        np.array(prompt, dtype=np.int64), np.zeros(1, dtype=np.int64), TopLengths(settings.length_beam), np.zeros(1),
        head="length_logits",
    )  # fmt: skip
    proposed = (yield [ask])[0][0][0]
    one = replace(settings, length_beam=0)
    sizes = list(dict.fromkeys(min(int(size), room) for size in proposed))
    programs = [
        fill(replace(request, canvas=_resized(canvas, len(prompt), size), settings=one.fitted(size), offer=no_offer))
        for size in sizes
    ]
    best = yield from best_program(model, canvas, programs, "text")
    return replace(best, forwards=best.forwards + ask.passes)


def _resized(canvas: Canvas, prompt: int, size: int) -> Canvas:
    return Canvas(canvas.tokens[:prompt] + (BLANK,) * size, canvas.open[:prompt] + (True,) * size, canvas.key)

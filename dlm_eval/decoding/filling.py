"""`fill`: fills canvases with one model in this process; and the program that fills one canvas."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dlm_eval.bars import counting
from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.blocks import block_grid, split_blocks, whole_blocks
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.layers import resolve
from dlm_eval.decoding.samples import at_lengths, beam_program, lengths_program
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.step import TraceStep
from dlm_eval.decoding.step_texts import read_packed, unpacked
from dlm_eval.decoding.strategy import FillRequest, default_strategy, not_revising
from dlm_eval.engine import Engine, Outcome, Program
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import (
    Denoiser,
    LengthHead,
    check_ids,
    embedding_rows,
    offers,
    reads_context,
    runs_whole_blocks,
    tokens_ahead,
)
from dlm_eval.printable import counted
from dlm_eval.rng import Noise


def fill(
    model: Denoiser,
    canvases: Sequence[Canvas],
    strategy: str | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    engine: Engine | None = None,
    trace: Callable[[int, TraceStep], None] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> list[Filling]:
    """Fills the open positions of each canvas.

    Args:
        model: the denoiser.
        canvases: what to fill. Their rows share batches; no answer depends on other canvases.
        strategy: name of a strategy (`dlm-eval ls strategies`), or `path/to/file.py:Class`. None is
            the default of the model's process: 'confidence' for masked models, 'rewrite' for
            'uniform' ('ancestral' if the model is told the noise level), 'euler' for 'gaussian',
            'renoise' for 'canvas'.
        steps, block_length, temperature: see `DecodeSettings`.
        seed: of the canvases' own random numbers.
        engine: runs the rows; by default one with default budgets.
        trace: called as trace(index of the canvas, step) after every step that changed something.
        progress: whether to show a bar of the canvases that are done; None: in notebooks, if there
            are several.
        options: further settings, general ones (`DecodeSettings`) or the strategy's own, or
            `preset`. Arguments that are not at their defaults override the preset.

    Raises:
        UserError: a setting is unknown, not allowed or does not fit a canvas.
        SampleError: the model cannot fill a canvas.
    """
    named: dict[str, Any] = {"strategy": strategy, "steps": steps, "block_length": block_length}
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if temperature != 0:
        given["temperature"] = temperature
    settings = resolve({"strategy": default_strategy(model.process, model)}, {**given, **options})
    fillings = []
    drawn, done = counting("fill", len(canvases), progress)
    with drawn:
        found = fill_outcomes(
            engine or Engine(model), canvases, settings, seed, done=done, trace=trace
        )
    for outcome in found:
        if isinstance(outcome.answer, SampleError):
            raise outcome.answer
        fillings.append(replace(outcome.answer, seconds=outcome.seconds))
    return fillings


def fill_outcomes(
    engine: Engine,
    canvases: Sequence[Canvas],
    settings: DecodeSettings,
    seed: int = 0,
    *,
    done: Callable[[int, Outcome[Filling]], None] | None = None,
    trace: Callable[[int, TraceStep], None] | None = None,
) -> list[Outcome[Filling]]:
    """Returns the outcome of each canvas: its filling or its SampleError.

    Args:
        engine: runs the rows.
        canvases: what to fill.
        settings: how to fill them.
        seed: of the canvases' own random numbers.
        done: called as done(index, outcome) when each ends.
        trace: called as trace(index, step) after every step that changed something.

    Raises:
        UserError: the settings do not fit a canvas. Raised before anything is run.
    """
    for canvas in canvases:
        settings.check(sum(canvas.open), engine.model.block_length)
    programs = (
        fill_program(
            FillRequest(
                engine.model,
                canvas,
                settings,
                Noise.of(canvas, seed),
                partial(trace, index) if trace else None,
            )
        )
        for index, canvas in enumerate(canvases)
    )
    return engine.drive(programs, done)


def fill_program(request: FillRequest) -> Program[Filling]:
    """Returns the program that fills the canvas of `request`.

    Raises (when run):
        SampleError: the canvas is longer than the model allows, it has an id that the model lacks,
            or position 0 is open and the model cannot predict it.
        UserError: a setting has no meaning for the model.
    """
    if not request.canvas.open_positions:
        return Filling((), 0, 0)
    _refuse(request.model, request.canvas, request.settings)
    if request.settings.length_beam:
        return (yield from beam_program(request, fill_program))
    if request.settings.lengths:
        return (yield from lengths_program(request, fill_program))
    return (yield from request.settings.strategy.program(request))


def most_forwards(model: Denoiser, canvas: Canvas, settings: DecodeSettings) -> int | None:
    """Returns the maximum number of rows that filling `canvas` runs; None if it is not known.

    Raises:
        SampleError, UserError: as `fill_program`.
    """
    if not canvas.open_positions:
        return 0
    _refuse(model, canvas, settings)
    if settings.lengths:
        tried = [
            settings.strategy.most_forwards(model, *one)
            for one in at_lengths(model, canvas, settings)
        ]
        return None if None in tried else sum(most for most in tried if most is not None)
    if not settings.length_beam:
        return settings.strategy.most_forwards(model, canvas, settings)
    prompt = [t for t, is_open in zip(canvas.tokens, canvas.open, strict=True) if not is_open]
    room = model.max_length - len(prompt)
    if room < 1:
        return 0  # the program refuses it
    longest, one = Canvas.completion(prompt, room), replace(settings, length_beam=0).fitted(room)
    most = settings.strategy.most_forwards(model, longest, one)
    return None if most is None else 1 + settings.length_beam * most  # and the row of the lengths


def fits(model: Denoiser, canvas: Canvas, settings: DecodeSettings, state: State) -> bool:
    """Returns whether a checkpoint, perhaps of another program, is valid for the canvas."""
    if not canvas.open_positions or settings.why_no_checkpoint(model.process) is not None:
        return False
    grid = block_grid(model, canvas, settings)
    whole = whole_blocks(canvas, grid)
    blocks = sum(1 for _ in split_blocks(np.array(whole.open_positions), settings, grid))
    given = {place for place, is_open in enumerate(whole.open) if not is_open}
    ids = {model.mask_id, *range(max(embedding_rows(model), model.vocab_size))}
    return state.fits_canvas(given, len(whole), blocks, model.max_length, ids) and _fits_step_texts(
        state, settings, ids
    )


def _fits_step_texts(state: State, settings: DecodeSettings, ids: Container[int]) -> bool:
    """Returns whether a checkpoint has the text of each of its steps if they are kept, else none."""
    try:
        texts = unpacked(read_packed(state.step_texts, len(state.tokens)), len(state.tokens))
    except ValueError:
        return False
    known = all(token == BLANK or token in ids for text in texts for token in text)
    return known and len(texts) == (state.global_step if settings.step_texts else 0)


def _refuse(model: Denoiser, canvas: Canvas, settings: DecodeSettings) -> None:
    """Raises SampleError if the model cannot fill the canvas, UserError for the settings."""
    if canvas.draft and not settings.strategy.revises:
        raise not_revising(settings.strategy)
    if canvas.draft and not settings.uses_own_length:
        raise SampleError(
            "decode lengths and length_beam change the length of a hole, and this one begins with a "
            "draft; leave them out"
        )
    if len(canvas) > model.max_length and not settings.length_beam and not settings.lengths:
        raise SampleError(
            f"{counted(len(canvas), 'position')}, but {model.name} has {model.max_length}"
        )
    if model.needs_bos and canvas.open[0]:
        raise SampleError(
            f"position 0 is open, but {model.name} needs its begin-of-text token there"
        )
    if (fault := check_ids(model, canvas, scored=False)) is not None:
        raise fault
    if settings.strategy.completes_only and not canvas.is_completion:
        raise SampleError(
            f"strategy '{settings.strategy.name}' fills a hole at the end of a text; here text "
            "follows a hole"
        )
    if tokens_ahead(model) is not None and not canvas.is_completion:
        raise SampleError(f"text follows a hole, but {model.name} predicts the next tokens only")
    refuse_settings(model, settings)


def _refuse_step_texts(model: Denoiser) -> None:
    """Raises UserError if steps of the model have no candidates of all open positions."""
    reason = None
    if model.process != "absorbing":
        reason = f"a model of process '{model.process}' has no masks"
    elif model.attention != "full":
        reason = "without full attention, later blocks have no candidates yet"
    if reason is not None:
        raise UserError(f"decode step_texts (--vote) is not possible with {model.name}: {reason}")


def refuse_settings(model: Denoiser, settings: DecodeSettings) -> None:
    """Raises UserError if the settings mean nothing to the model, or are not possible with it."""
    if runs_whole_blocks(model) and settings.block_length not in (None, model.block_length):
        raise UserError(
            f"decode block_length '{settings.block_length}' is not allowed; {model.name} routes "
            f"blocks of {model.block_length} as one, so leave it out"
        )
    if not settings.align_inputs_to_blocks and not reads_context(model):
        counted_from = (
            "counts its blocks from position 0" if model.block_length else "has no blocks"
        )
        raise UserError(
            "decode align_inputs_to_blocks 'False' is for models that are told where the prompt ends "
            f"(E2D2); {model.name} {counted_from}: leave it out"
        )
    if settings.length_beam and not offers(model, LengthHead):
        raise UserError(
            f"decode length_beam '{settings.length_beam}' is not possible: {model.name} has no "
            "length head; leave it out"
        )
    if tokens_ahead(model) is not None and settings.guidance_factor != 1:
        raise UserError(
            f"decode guidance '{settings.guidance}' is not possible; {model.name} predicts the next "
            "tokens, and a text without its beginning has none: leave it out"
        )
    if settings.step_texts:
        _refuse_step_texts(model)
    settings.strategy.refuse_model(model, settings)
    settings.check_process(model.process)

"""Decoding: writing the open positions of canvases. One loop for masked models (`loop`), and one each for the processes 'uniform', 'gaussian' and 'canvas'.

fill: canvases -> walks (`loop`) -> engine -> fillings
a step: read candidates (`draw`) -> where to write (`strategies`, how many: `schedules`) -> write -> stop? (`exits`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding.checks import check_process
from dlm_eval.decoding.layers import expand, resolve
from dlm_eval.decoding.loop import fill_walk
from dlm_eval.decoding.presets import Preset, presets
from dlm_eval.decoding.registry import STRATEGY_NAMES, default_strategy, describe_strategies
from dlm_eval.decoding.samples import hit_at_k, vote
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.steps import Trace, TraceStep
from dlm_eval.engine import Engine, Outcome
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise

__all__ = [
    "STRATEGY_NAMES", "DecodeSettings", "Preset", "Trace", "TraceStep", "check_process", "default_strategy", "describe_strategies", "expand",
    "fill", "fill_outcomes", "fill_walk", "hit_at_k", "presets", "resolve", "vote",
]  # fmt: skip


def fill(
    model: Denoiser,
    canvases: Sequence[Canvas],
    strategy: str = "confidence",
    steps: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    engine: Engine | None = None,
    trace: Callable[[int, TraceStep], None] | None = None,
    **options: Any,
) -> list[Filling]:
    """Returns what was written into the open positions of each canvas.

    Args:
        model: the denoiser.
        canvases: what to fill; their rows share batches, and no answer depends on the others.
        strategy, steps, block_length, temperature: see `DecodeSettings`. The default strategy stands for a model's own where its
            process is another than masking: 'rewrite' for 'uniform', 'euler' for 'gaussian'.
        seed: of the canvases' own random numbers.
        engine: runs the rows; by default one with default budgets.
        trace: called as trace(index of the canvas, step) after every step that wrote something.
        options: further fields of `DecodeSettings`, or `preset`; a preset yields to every argument that is not at its
            default.

    Raises:
        UserError: a setting that is not known, not allowed or does not fit a canvas.
        SampleError: a canvas that this model cannot fill.
    """
    named = {"strategy": strategy, "steps": steps, "block_length": block_length, "temperature": temperature}
    defaults = {field.name: field.default for field in fields(DecodeSettings)}
    given = {key: value for key, value in named.items() if value != defaults[key]}
    settings = resolve({"strategy": default_strategy(model.process)}, {**given, **options})
    fillings = []
    for outcome in fill_outcomes(engine or Engine(model), canvases, settings, seed, trace=trace):
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
    """Returns the outcome of each canvas: its filling, or the SampleError that it met.

    Args:
        engine: runs the rows.
        canvases: what to fill.
        settings: how.
        seed: of the canvases' own random numbers.
        done: called as done(index, outcome) as each ends.
        trace: called as trace(index, step) after every step that wrote something.

    Raises:
        UserError: settings that do not fit a canvas, before anything is run.
    """
    for canvas in canvases:
        settings.check(sum(canvas.open), engine.model.block_length)
    walks = (
        fill_walk(engine.model, canvas, settings, Noise.of(canvas, seed), partial(trace, index) if trace else None)
        for index, canvas in enumerate(canvases)
    )
    return engine.drive(walks, done)

"""A trace of filling one canvas: every step, and the text of every token.

`record` makes a trace; `logged.py` reads one from a samples file. `terminal.py` and `page.py` show it.

Shape letters: L = positions of the canvas, n = open positions, K = positions written in a step.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import DecodeSettings, TraceStep, fill_outcomes
from dlm_eval.decoding.blocks import block_grid, whole_blocks
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.trajectories import pieces
from dlm_eval.models.denoiser import Denoiser


@dataclass(frozen=True)
class Recording:
    """The trace of filling one canvas.

    Attributes:
        model: the model's name.
        settings: decode settings by name, the strategy's too.
        seed: seed of the random numbers.
        start: [L] ids before the first step; open positions have the mask token. The last block of
            a block-causal model is padded with open positions, so L can exceed the canvas length.
        open: the open positions, ascending.
        steps: all steps, in order.
        filling: the result.
        text: the text of `filling` up to its end-of-text token.
        pieces: id -> (text, whether it is a special token) of every id that occurs.
    """

    model: str
    settings: Mapping[str, Any]
    seed: int
    start: tuple[int, ...]
    open: tuple[int, ...]
    steps: tuple[TraceStep, ...]
    filling: Filling
    text: str
    pieces: dict[int, tuple[str, bool]]

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return str(self.settings.get("strategy", ""))

    def _repr_html_(self) -> str:
        """Returns the web page of the trace in a frame of its own, which notebooks show."""
        from dlm_eval.reports.trace.page import page

        # Scripts run, but without the origin of the notebook: they reach nothing of it.
        return (
            '<iframe sandbox="allow-scripts" style="width: 100%; height: 28em; border: 0" '
            f'srcdoc="{html.escape(page(self))}"></iframe>'
        )

    def replaced(self) -> list[tuple[int, ...]]:
        """Returns, for each step, the positions where it replaced one token by another."""
        found, before, covered = [], self.start, set(self.open)
        for step in self.steps:
            found.append(
                tuple(p for p in step.written if p not in covered and step.tokens[p] != before[p])
            )
            before, covered = step.tokens, {p for p, is_open in enumerate(step.open) if is_open}
        return found

    def changed(self) -> list[tuple[int, ...]]:
        """Returns, for each step, the positions where it wrote a new token."""
        found, before = [], tuple(None if p in self.open else t for p, t in enumerate(self.start))
        for step in self.steps:
            now = tuple(
                None if is_open else t for t, is_open in zip(step.tokens, step.open, strict=True)
            )
            found.append(tuple(p for p in step.written if now[p] != before[p]))
            before = now
        return found

    def plain(self) -> dict[str, Any]:
        """Returns everything as plain data for JSON: numbers, texts, lists and dicts; no NaN."""
        steps = [
            {
                "step": step.step,
                "written": list(step.written),
                "tokens": [step.tokens[p] for p in step.written],
                "confidence": [_finite(c) for c in step.confidence],
                "erased": list(step.erased),
                "replaced": list(replaced),
            }
            for step, replaced in zip(self.steps, self.replaced(), strict=True)
        ]
        filling = asdict(self.filling) | {
            "confidence": [_finite(c) for c in self.filling.confidence]
        }
        return {
            "format": 1,
            "model": self.model,
            "settings": dict(self.settings),
            "seed": self.seed,
            "start": list(self.start),
            "open": list(self.open),
            "steps": steps,
            "filling": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in filling.items()
            },
            "text": self.text,
            "pieces": {
                str(i): {"text": text, "special": special}
                for i, (text, special) in self.pieces.items()
            },
        }


def aligned(
    steps: Sequence[TraceStep], length: int, mask_id: int
) -> tuple[list[TraceStep], list[int]]:
    """Returns the steps of a canvas of varying length in one common layout, and the places of
    inserted positions in this layout.

    The layout has a place for every position that ever existed, in reading order. A position that
    is not yet inserted, or is deleted, is shown as open.

    Args:
        length: number of positions of the original canvas.
        mask_id: the token of open positions.
    """
    order = list(range(length))
    for step in steps:
        if step.positions and step.positions[0] not in order:
            order.insert(0, step.positions[0])
        for before, position in pairwise(step.positions):
            if position not in order:
                order.insert(order.index(before) + 1, position)
    place = {position: number for number, position in enumerate(order)}
    found = []
    for step in steps:
        tokens, is_open = [mask_id] * len(order), [True] * len(order)
        for position, token, still in zip(
            step.positions or range(length), step.tokens, step.open, strict=True
        ):
            tokens[place[position]], is_open[place[position]] = token, still
        written, erased = (
            tuple(place[position] for position in ids) for ids in (step.written, step.erased)
        )
        found.append(
            dataclasses.replace(
                step,
                tokens=tuple(tokens),
                open=tuple(is_open),
                written=written,
                erased=erased,
                positions=(),
            )
        )
    return found, [place[position] for position in order if position >= length]


def record(model: Denoiser, canvas: Canvas, settings: DecodeSettings, seed: int = 0) -> Recording:
    """Returns the recording of filling `canvas`.

    Raises:
        UserError: the settings ask for several samples, or the model cannot use the canvas or the
            settings.
    """
    if settings.samples > 1:
        raise UserError(
            f"decode samples '{settings.samples}' is not allowed here; a trace shows one sample"
            " (--seed chooses another)"
        )
    steps: list[TraceStep] = []
    (outcome,) = fill_outcomes(
        Engine(model), [canvas], settings, seed, trace=lambda _, step: steps.append(step)
    )
    if isinstance(outcome.answer, SampleError):
        raise UserError(f"--model {model.name}: {outcome.answer}")
    filling = dataclasses.replace(outcome.answer, seconds=outcome.seconds)
    resized = any(step.positions for step in steps)
    whole = whole_blocks(canvas, block_grid(model, canvas, settings)) if steps else canvas
    extra = len(whole) - len(canvas)
    if resized:
        steps, inserted = aligned(steps, len(canvas) + extra, model.mask_id)
    start = [
        model.mask_id if is_open else t
        for t, is_open in zip(canvas.tokens, canvas.open, strict=True)
    ]
    start += [model.mask_id] * extra
    is_open = [*canvas.open, *[True] * extra]
    if resized:
        for place in inserted:
            start.insert(place, model.mask_id)
            is_open.insert(place, True)
    ids = sorted({*start, *(step.tokens[p] for step in steps for p in step.written)})
    return Recording(
        model=model.name,
        settings=settings.identity(),
        seed=seed,
        start=tuple(start),
        open=tuple(p for p, hole in enumerate(is_open) if hole),
        steps=tuple(steps),
        filling=filling,
        text=model.decode(list(_before_end(filling.tokens, model.eos_ids))),
        pieces=pieces(model, ids),
    )


def _before_end(tokens: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
    for token in tokens:
        if token in ends:
            return
        if token >= 0:  # negative: left open by an early exit
            yield token


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

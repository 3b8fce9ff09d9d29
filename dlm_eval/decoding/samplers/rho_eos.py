"""Rho-EOS: the text grows or shrinks with every step, by the density of predicted ends.

Yang et al. 2026, arXiv 2601.22527; github.com/yjyddq/rho-EOS 9cb20c6, models/LLaDA_rho_EOS.py,
`generate`.

Shape letters: n = positions of the answer now.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dlm_eval.canvas import Canvas
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.end_tokens import end_token
from dlm_eval.decoding.samplers.daedal import WINDOW, EndReader, Reading, check_ends, sure_or_best
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Bools, Edit, Query, StepState
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

# Constants of the authors' code: steps in which the length changes, width of a segment of densities
# outside the range, maximum factor of `expansion_factor`.
MOST_CHANGES, SEGMENT, MOST_TIMES = 64, 0.1, 8


@dataclass
class Progress:
    """What is kept of a canvas.

    Attributes:
        steps: steps so far.
        begin: first position of the window, from the begin of the answer; all before it are written.
    """

    steps: int = 0
    begin: int = 0


@dataclass(frozen=True, kw_only=True)
class RhoEos(Unmasking, name="rho_eos"):
    """all surer than a threshold in a window; the text grows and shrinks at its end (rho-EOS)

    A window of `block_length` (32) moves from left to right. A step writes all its candidates above
    `high_conf_threshold`, at least the surest one, never the mask. What it has read also says how
    densely ends of text are predicted. Below `low_density_threshold` masks are put at the end of the
    text, above `high_density_threshold` as many of its last positions are cut off, written tokens
    too: `expansion_factor` times the number of tenths that the density is away (`linear`), 2 to the
    power of that less one (`exp`), at most 8, or 1 (`const`). The length stays as it is from step 65
    on, and at `max_gen_length`.

    Equal to the authors' code, one text at a time. The density of their README is the share of open
    positions where the end is the most probable token; their code has that function, but does not
    call it, and takes DAEDAL's certainty of the end: the sum of the end's probabilities at the last
    `eos_check_tokens` positions where it is the most probable token, divided by `eos_check_tokens`.
    `density` says which. Their `initial_gen_length` (64) is the length of the hole. As theirs, it
    ends after `max_gen_length` steps, and what is open then stays open. Left out are options that
    their function takes, but does not read: `low_conf_threshold`, `eos_confidence_threshold`,
    `expand_eos_confidence_threshold`. Under guidance theirs also hides the tokens that were written
    when the length last changed; ours the given ones.
    """

    max_gen_length: int = option(2048, least=1, help="maximum number of positions of the answer")
    high_conf_threshold: float = option(
        0.9, least=0, most=1, help="probability above which a candidate is written", speed=True
    )
    expansion_factor: int = option(
        8, least=1, help="positions that the text grows or shrinks by, times a number of 1 to 8"
    )
    eos_token_id: int | None = option(None, least=0, help="the end token; None: the model's")
    eos_check_tokens: int = option(
        32, least=1, help="predictions of the end token that make its certainty"
    )
    low_density_threshold: float = option(
        0.4, least=0, most=1, help="density of ends below which the text grows"
    )
    high_density_threshold: float = option(
        0.6, least=0, most=1, help="density of ends above which the text shrinks"
    )
    scheduler: Literal["const", "linear", "exp"] = option(
        "exp", help="how much faster the length changes if the density is farther away"
    )
    density: Literal["certainty", "share"] = option(
        "certainty",
        help="density of ends: the certainty of the end over eos_check_tokens (the authors' code), "
        "or the share of open positions where the end is the most probable token (their README)",
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    resizes = True
    shows_whole: ClassVar[str] = "changes the length of the canvas"
    owns_blocks: ClassVar[bool] = True
    completes_only: ClassVar[bool] = True
    finds_length: ClassVar[bool] = True
    keeps_state: ClassVar[bool] = True
    ends: ClassVar[Ends] = "own"
    keeps_tokens: ClassVar[bool | None] = False  # they can be cut off

    def check(self) -> None:
        if self.low_density_threshold > self.high_density_threshold:
            raise UserError(
                f"decode low_density_threshold '{self.low_density_threshold}' is not allowed; it must "
                f"be at most high_density_threshold, {self.high_density_threshold}"
            )

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        check_ends(self.name, self.eos_token_id, self.max_gen_length, model)

    def most_open(self, canvas: Canvas) -> int:
        return max(sum(canvas.open), self.max_gen_length)

    def most_steps(self, n: int, steps: int) -> int | None:
        return self.max_gen_length

    def memory(self, state: DecodeState) -> Progress:
        return Progress()

    def stops(self, state: DecodeState) -> bool:
        """Returns whether the window is behind the end of the text, or all steps are done."""
        progress: Progress = state.memory
        done = progress.begin >= int(state.in_hole.sum())
        return done or progress.steps >= self.max_gen_length

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Writes tokens in the window, and changes the length by what the same row says."""
        progress: Progress = state.memory
        at = np.nonzero(state.in_hole)[0]
        n = len(at)
        if n > self.max_gen_length:
            raise SampleError(
                f"strategy '{self.name}': the hole has {n} positions, max_gen_length is "
                f"{self.max_gen_length}"
            )
        end = end_token(self.name, self.eos_token_id, state.model)
        query = Query(EndReader(op, end, state.model.mask_id))
        reading = Reading(*(yield from state.read(at, query)))
        is_open = state.open[at]
        window = state.settings.block_length or WINDOW
        waiting = np.nonzero(is_open)[0]
        waiting = waiting[waiting < progress.begin + window]
        written = waiting[
            sure_or_best(reading, waiting, self.high_conf_threshold, state.model.mask_id)
        ]
        progress.steps += 1
        change = 0
        if progress.steps <= MOST_CHANGES and n < self.max_gen_length:
            change = min(self.change(self._density(reading, is_open)), self.max_gen_length - n)
        length = max(0, n + change)
        is_open[written] = False
        progress.begin = min(first_window(is_open, progress.begin, window), length)
        kept = written[written < length]
        return Edit(
            at[kept],
            reading.other[kept],
            reading.other_logprob[kept],
            insert=np.full(change, int(at[-1]) + 1) if change > 0 else NONE,
            delete=at[length:],
        )

    def _density(self, reading: Reading, is_open: Bools) -> float:
        """Returns the density of ends, of 0 to 1."""
        if self.density == "certainty":
            return reading.certainty(self.eos_check_tokens)
        return int((reading.ends & is_open).sum()) / max(1, int(is_open.sum()))

    def change(self, density: float) -> int:
        """Returns by how many positions the text grows, negative if it shrinks.

        Densities are float32 as in the authors' code, where a density of 0 is four tenths below 0.4.
        """
        found = np.float32(density)
        low, high = np.float32(self.low_density_threshold), np.float32(self.high_density_threshold)
        if low <= found <= high:
            return 0
        away = low - found if found < low else found - high
        tenths = max(1, ceil(float(away / np.float32(SEGMENT))))
        times = {"const": 1, "linear": tenths, "exp": 1 << (tenths - 1)}[self.scheduler]
        change = min(times, MOST_TIMES) * self.expansion_factor
        return int(change if found < low else -change)


def first_window(is_open: Bools, begin: int, window: int) -> int:
    """Returns the begin of the first window from `begin` on with an open position, else n.

    Args:
        is_open: [n].
        begin: of the window now, a number of positions.
        window: its length.
    """
    while begin < len(is_open) and not is_open[begin : begin + window].any():
        begin = min(begin + window, len(is_open))
    return begin

"""DAEDAL: the text grows until the model puts its end inside, and where the model is unsure.

Li et al. 2025, arXiv 2508.00819; github.com/Li-Jinsong/DAEDAL 303c9e9, models/LLaDA_DAEDAL.py,
`generate`.

Shape letters: n = positions of the answer now, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.canvas import Canvas
from dlm_eval.decoding.draw import Draw, without
from dlm_eval.decoding.end_tokens import check_end, end_token
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Bools, Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option, value_error

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

WINDOW = 32  # the authors' block_length


@dataclass(frozen=True)
class EndReader:
    """LogitsOp of (candidate, its log-probability [nats], whether the end token is the most
    probable, its probability, the most probable token but the mask, its log-probability if the mask
    is ruled out [nats]).

    The last two are those of the candidate where it is not the mask.

    Attributes:
        draw: reads candidates.
        end: the end token.
        mask: the mask token.
    """

    draw: Draw
    end: int
    mask: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        token, _, _ = self.draw(logits, payload)
        logits = self.draw.prepared(logits)
        total = logits.logsumexp(-1)
        logprob = logits.gather(-1, token[:, None]).squeeze(-1) - total
        ends, chance = logits.argmax(-1) == self.end, (logits[:, self.end] - total).exp()
        other, sure = token.clone(), logprob.clone()
        stuck = (token == self.mask).nonzero().squeeze(-1)
        if len(stuck):
            sure[stuck], other[stuck] = without(logits[stuck], (self.mask,)).log_softmax(-1).max(-1)
        return token, logprob.double(), ends, chance.double(), other, sure.double()


@dataclass(frozen=True)
class Reading:
    """What a step reads at the n positions of the answer (see `EndReader`)."""

    token: Ints
    logprob: Floats
    ends: Bools
    end_chance: Floats
    other: Ints
    other_logprob: Floats

    def certainty(self, count: int) -> float:
        """Returns the sum of the end token's probabilities at the last `count` positions where it is
        the most probable token, divided by `count`. Missing ones count as 0.
        """
        return float(self.end_chance[self.ends][-count:].sum()) / count


def sure_or_best(reading: Reading, waiting: Ints, threshold: float, mask: int) -> Bools:
    """Returns [W] bool, true at the open positions `waiting` [W] whose candidate is surer than
    `threshold`, at least at the surest one.

    A candidate that is the mask counts only where all are; then the best other token does.
    """
    is_mask = reading.token[waiting] == mask
    chosen: Bools = (np.exp(reading.logprob[waiting]) > threshold) & ~is_mask
    if len(waiting) and not chosen.any():
        rank = np.where(is_mask, -np.inf, reading.logprob[waiting])
        rank = reading.other_logprob[waiting] if is_mask.all() else rank
        chosen[rank.argmax()] = True
    return chosen


def check_ends(strategy: str, asked: int | None, longest: int, model: Denoiser) -> None:
    """Raises UserError if the model has not this end token, or not the `longest` answer's positions."""
    if longest > model.max_length:
        allowed = f"at most the {model.max_length} positions of {model.name}"
        raise value_error("decode max_gen_length", longest, allowed)
    check_end(end_token(strategy, asked, model), model)


@dataclass(frozen=True, kw_only=True)
class Daedal(Unmasking, name="daedal"):
    """all surer than a threshold in a window; the text grows while its end is not in sight (DAEDAL)

    First the hole, all masks, grows by `expansion_factor` until the end token is predicted in it
    (`eos_confidence_threshold`). Half of `eos_check_tokens` visible end tokens follow it. Then a
    window of `block_length` (32) moves from left to right. In it all candidates above
    `high_conf_threshold` are written, at least the surest one, never the mask. If the end is not
    sure enough (`expand_eos_confidence_threshold`), the least sure open position of the window, if
    below `low_conf_threshold`, becomes `expansion_factor` masks. At `max_gen_length` the end of the
    text is cut off, written tokens too.

    Equal to the authors' code, except that a canvas is not run twice in succession: theirs runs the
    hole once more if no end token could be put behind it. Their `initial_gen_length` (64) is the
    length of the hole.
    """

    max_gen_length: int = option(2048, least=1, help="maximum number of positions of the answer")
    high_conf_threshold: float = option(
        0.9, least=0, most=1, help="probability above which a candidate is written", speed=True
    )
    low_conf_threshold: float = option(
        0.1, least=0, most=1, help="probability below which a position can become several"
    )
    expansion_factor: int = option(
        8, least=1, help="masks that a position becomes, and that the hole grows by at first"
    )
    eos_token_id: int | None = option(
        None,
        least=0,
        help="the end token; None: the model's. The authors evaluate with the end of a turn",
    )
    eos_confidence_threshold: float = option(
        0.5, least=0, most=1, help="certainty of the end at which the hole stops growing at first"
    )
    expand_eos_confidence_threshold: float = option(
        0.9, least=0, most=1, help="certainty of the end from which no position becomes several"
    )
    eos_check_tokens: int = option(
        32, least=1, help="predictions of the end token that make its certainty"
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    resizes = True
    shows_whole: ClassVar[str] = "changes the length of the canvas"
    owns_blocks: ClassVar[bool] = True
    completes_only: ClassVar[bool] = True
    finds_length: ClassVar[bool] = True

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        check_ends(self.name, self.eos_token_id, self.max_gen_length, model)

    def most_open(self, canvas: Canvas) -> int:
        return max(sum(canvas.open), self.max_gen_length)

    def most_steps(self, n: int, steps: int) -> int | None:
        # Each step grows the hole, or writes a token. Only the step that reaches the maximum cuts
        # tokens off, fewer than it inserts.
        longest = max(n, self.max_gen_length)
        return -(-(longest - n) // self.expansion_factor) + longest + self.expansion_factor

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Grows the hole, or writes tokens in the window and grows one position of it.

        Nothing is kept between steps: the hole grows until a token is written, and all positions
        before the window are.
        """
        at = np.nonzero(state.in_hole)[0]
        n, end = len(at), end_token(self.name, self.eos_token_id, state.model)
        if n > self.max_gen_length:
            raise SampleError(
                f"strategy '{self.name}': the hole has {n} positions, max_gen_length is "
                f"{self.max_gen_length}"
            )
        query = Query(EndReader(op, end, state.model.mask_id))
        reading = Reading(*(yield from state.read(at, query)))
        certainty = reading.certainty(self.eos_check_tokens)
        room = self.max_gen_length - n
        if room and state.open[at].all():
            behind = int(at[-1]) + 1
            if certainty < self.eos_confidence_threshold:
                return Edit(insert=np.full(min(self.expansion_factor, room), behind))
            if tail := min(self.eos_check_tokens // 2, room):
                return Edit(insert=np.full(tail, behind), inserted=np.full(tail, end))
        return self._fill(
            state, at, reading, grows=certainty < self.expand_eos_confidence_threshold
        )

    def _fill(self, state: DecodeState, at: Ints, reading: Reading, grows: bool) -> Edit:
        """Returns what is written in the window, and what it grows by."""
        window = state.settings.block_length or WINDOW
        waiting = np.nonzero(state.open[at])[0]  # counted from the begin of the answer
        waiting = waiting[waiting < (waiting[0] // window + 1) * window]
        sure = np.exp(reading.logprob[waiting])
        chosen = sure_or_best(reading, waiting, self.high_conf_threshold, state.model.mask_id)
        unsure = ~chosen & (sure < self.low_conf_threshold)
        n, written = len(at), waiting[chosen]
        insert = delete = NONE
        if grows and n < self.max_gen_length and unsure.any():
            place = int(waiting[np.where(unsure, sure, np.inf).argmin()])
            length = min(n + self.expansion_factor - 1, self.max_gen_length)
            masks = min(self.expansion_factor, length - place)
            kept = length - masks + 1  # positions up to `place`, and those that still fit behind
            insert = np.full(masks - 1, at[place] + 1)
            delete, written = at[kept:], written[written < kept]
        return Edit(
            at[written],
            reading.other[written],
            reading.other_logprob[written],
            insert=insert,
            delete=delete,
        )

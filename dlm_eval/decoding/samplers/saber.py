"""Saber: writes what is surer than the tokens before, and takes back those that lost confidence.

Shape letters: N = wanted positions of a batch, W = positions that a step considers, n = positions of
the hole.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure, judge
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Floats, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option

SHARE = 8  # one of so many tokens that a step writes is taken back; the authors' constant


@dataclass
class Confidences:
    """What is kept of a hole of n positions.

    Attributes:
        reached: positions from the left that the current block and those before it have.
        last: [n] probability of the candidate in the step before, -inf where none was read (0
            before the first step).
        written: [n] probability with which a token was last written, -inf where none was; it stays
            if the token is taken back.
    """

    reached: int
    last: Floats
    written: Floats


def surer_than_before(confidence: Floats, is_open: Bools, written: Floats, least: int) -> Bools:
    """Returns [W] bool, true at the open positions that are written: those above the mean confidence
    of what was written so far, else the `least` best.

    Args:
        confidence: probability of each candidate.
        is_open: whether each position is open.
        written: probabilities of tokens when they were written, -inf if there was none.
        least: minimum number, if as many are open.
    """
    before = written[written > -np.inf]
    chosen: Bools = is_open & (confidence > (before.mean() if len(before) else 1.0))
    if chosen.sum() >= least:
        return chosen
    least = min(least, int(is_open.sum()))
    return highest(np.where(is_open, confidence, -np.inf), least)


@dataclass(frozen=True, kw_only=True)
class _Revocable(Unmasking):
    """What both have in common: a step takes back fewer tokens than it has written."""

    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    owns_blocks: ClassVar[bool] = True
    keeps_tokens: ClassVar[bool | None] = False
    keeps_state: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"


@dataclass(frozen=True, kw_only=True)
class Saber(_Revocable, name="saber"):
    """all surer than the mean of those before; takes back those that lost most confidence (Saber)

    Dong et al. 2025, arXiv 2510.18165; github.com/zhaoyMa/Saber 2f061e2, decoding.py
    `generate_with_saber`. In blocks of `block_length` (the hole) a step writes all k candidates
    surer than the mean probability with which the tokens so far were written, at least `n`. If the
    block is not full then, the step takes max(`n` // 2, k / 8 rounded up) tokens back, fewer than it
    wrote: those, of this block and all before it, where the probability of the candidate has changed
    by the least (has fallen most) since the step before. A position that was not read before is not
    among them.

    Equal to the authors' code, except where less than `n` positions are open: theirs also picks
    positions of equal score, -inf, and writes them: of the prompt, later blocks, or written ones.
    Ours writes the open ones. A mask token that is written counts as written; theirs runs up to 1024
    steps on it.
    """

    n: int = option(2, least=1, help="minimum number of tokens that a step writes", speed=True)
    shows_whole: ClassVar[str] = "takes back tokens of earlier blocks"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n  # each step leaves at least one token more, or fills the block

    def memory(self, state: DecodeState) -> Confidences:
        count = len(state.block_positions)
        return Confidences(0, np.zeros(count), np.full(count, -np.inf))

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        kept: Confidences = state.memory
        size = state.settings.block_length or len(view.position)
        while not view.open[: kept.reached].any():  # the block is full
            kept.reached += size
        part = slice(kept.reached)
        at, is_open = view.position[part], view.open[part]
        token, logprob, score = yield from state.read(at, Query(op))
        confidence = np.exp(score)
        gain = confidence - kept.last[part]
        kept.last[:] = -np.inf
        kept.last[part] = confidence
        chosen = surer_than_before(confidence, is_open, kept.written[part], self.n)
        kept.written[part][chosen] = confidence[chosen]
        back = self._taken_back(gain, is_open & ~chosen, int(chosen.sum()))
        stays = chosen & ~back
        return Edit(at[stays], token[stays], logprob[stays], erase=at[back & ~chosen])

    def _taken_back(self, gain: Floats, waits: Bools, count: int) -> Bools:
        """Returns [W] bool, true at positions that are masks after the step though they were
        written, in this step or before.

        Args:
            gain: change of each candidate's probability since the step before, inf where there was
                none.
            waits: positions that are open after the step has written.
            count: tokens that it has written.
        """
        if not waits.any():
            return waits
        eligible = ~waits & np.isfinite(gain)
        most = min(max(self.n // 2, -(-count // SHARE)), count - 1, int(eligible.sum()))
        return highest(np.where(eligible, -gain, -np.inf), most)


# -- Dream -----------------------------------------------------------------------------------------

LEAST = 2  # tokens that a step writes; the authors' constant


@dataclass(frozen=True)
class AlsoNow:
    """LogitsOp of candidates, and the log-probability [N] (nats) that the model itself gives to the
    token at each position, the candidate where there is none.

    The payload [N, 2] holds the random number of the draw and that token, -1 where there is none.
    """

    draw: Draw

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        token, logprob, score = self.draw(logits, payload[:, 0])
        current = payload[:, 1].long()
        current = torch.where(current < 0, token, current)
        now, _ = judge(self.draw.prepared(logits), current, "probability")
        return token, logprob, score, now


@dataclass(frozen=True, kw_only=True)
class SaberDream(_Revocable, name="saber_dream"):
    """all surer than the mean of those before; takes back the least probable tokens (Saber for Dream)

    Dong et al. 2025, arXiv 2510.18165; github.com/zhaoyMa/Saber 2f061e2, Dream/generation_utils.py
    `_sample`. A step writes all k candidates surer than the mean probability with which positions
    were first written, at least two. If positions are open then, it takes k / 8 tokens back, rounded
    up, and fewer than it wrote: those that are least probable by what the same row says. There are
    no blocks.

    Equal to the authors' code with `eos_penalty=0`, its default; a penalty is left out. Their code
    ends with an IndexError after more than `steps` + 1 steps; ours has no `steps`. Above temperature
    0 their confidence is `confidence_from=sampling`.
    """

    takes_block_length: ClassVar[bool] = False
    shows_whole: ClassVar[str] = "takes back tokens anywhere in the hole"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n  # each step leaves at least one token more, or fills the hole

    def memory(self, state: DecodeState) -> Floats:
        """Returns [n] the probability with which each position was first written, -inf before."""
        return np.full(len(state.block_positions), -np.inf)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        first: Floats = state.memory
        at, is_open = view.position, view.open
        payload = np.stack([state.uniforms(at), np.where(is_open, -1, view.current)], 1)
        row = state.row(at, Query(AlsoNow(op)), payload=payload)
        token, logprob, score, now = (yield from state.run([row]))[0]
        confidence = np.exp(score)
        chosen = surer_than_before(confidence, is_open, first, LEAST)
        fresh = chosen & (first == -np.inf)
        first[fresh] = confidence[fresh]
        waits, count = is_open & ~chosen, int(chosen.sum())
        back = highest(np.where(waits, -np.inf, -now), -(-count // SHARE)) & waits.any()
        stays = chosen & ~back
        return Edit(at[stays], token[stays], logprob[stays], erase=at[back & ~chosen])

"""SlowFast: explores how far the model is sure, then fills that far and looks no further."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Floats, Ints, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option


@dataclass
class Cycle:
    """A sub-cycle of a block. Places are counted in the block, from 0.

    Attributes:
        size: positions of the block.
        begin: first place of the sub-cycle; all before it are written.
        end: the end that the last estimates give.
        fixed: whether the end stays.
        lengths: ends that the steps of the exploration have estimated, the last one last.
        explored, filled: forwards of the two phases so far.
    """

    size: int
    begin: int = 0
    end: int = 0
    fixed: bool = False
    lengths: list[int] = field(default_factory=list)
    explored: int = 0
    filled: int = 0


class Rule(NamedTuple):
    """Writes all of at least this probability if there are `least` of them, else the best one."""

    probability: float
    least: int

    def chosen(self, logprob: Floats) -> Bools:
        """Returns [W] bool of candidates with these log-probabilities [W]."""
        sure: Bools = np.exp(logprob) >= self.probability
        return sure if sure.sum() >= self.least else highest(logprob, 1)


@dataclass(frozen=True, kw_only=True)
class TwoPhases(Unmasking):
    """What both versions of SlowFast share.

    A version says how many steps explore (`explores`), the least probability of a place that the
    sub-cycle reaches (`reach`), what the two phases write (`slow`, `fast`), and how an exploration's
    estimates become the end of the sub-cycle (`settle`).
    """

    reads: ClassVar[Measure | None] = "probability"
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    keeps_state: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "cuts the canvas behind a sub-cycle"
    full_attention: ClassVar[bool] = True

    @property
    def explores(self) -> int:
        raise NotImplementedError

    @property
    def reach(self) -> float:
        raise NotImplementedError

    @property
    def slow(self) -> Rule:
        raise NotImplementedError

    @property
    def fast(self) -> Rule:
        raise NotImplementedError

    def settle(self, cycle: Cycle) -> None:
        """Sets `cycle.end`, and `cycle.fixed` if it stays, after a new estimate."""
        raise NotImplementedError

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def block_memory(self, state: DecodeState) -> Cycle:
        return Cycle(len(state.block_positions))

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        cycle: Cycle = state.memory
        if cycle.explored == self.explores and not self._open(state, cycle, cycle.end).any():
            cycle = state.memory = Cycle(cycle.size, begin=cycle.end)
        exploring = cycle.explored < self.explores
        places = np.nonzero(self._open(state, cycle, cycle.size if exploring else cycle.end))[0]
        at = state.block_positions[cycle.begin + places]
        query = self.query(view, op, state.model)
        if exploring or not cycle.filled:
            token, logprob, score = yield from state.read(at, query)
        else:
            row = state.row(at, query, tokens=self._cut(state, cycle))
            token, logprob, score = (yield from state.run([row]))[0]
        if exploring:
            self._explore(cycle, cycle.begin + places, score)
        else:
            cycle.filled += 1
        chosen = (self.slow if exploring else self.fast).chosen(score)
        return Edit(at[chosen], token[chosen], logprob[chosen])

    def _open(self, state: DecodeState, cycle: Cycle, end: int) -> Bools:
        """Returns whether each place from the sub-cycle's begin to `end` is open."""
        return state.open[state.block_positions[cycle.begin : end]]

    def _explore(self, cycle: Cycle, places: Ints, logprob: Floats) -> None:
        """Adds the estimate of one forward, which has read the open `places` of the block."""
        cycle.explored += 1
        if cycle.fixed:
            return
        sure = places[np.exp(logprob) >= self.reach]
        cycle.lengths.append(int(sure[-1]) + 1 if len(sure) else cycle.begin + 1)
        self.settle(cycle)

    def _cut(self, state: DecodeState, cycle: Cycle) -> Ints:
        """Returns the canvas up to the sub-cycle's end, or whole if given text follows."""
        end = int(state.block_positions[cycle.end - 1]) + 1
        return state.tokens[:end] if not state.given[end:].any() else state.tokens


@dataclass(frozen=True, kw_only=True)
class SlowFast(TwoPhases, name="slowfast"):
    """explores how far the model is sure, then fills that far without the rest (SlowFast, LLaDA)

    Wei et al. 2025, arXiv 2506.10848; github.com/LiangrunFlora/Slow-Fast-Sampling dd9958f,
    generate_slow_fast_sampling.py. A sub-cycle explores for `k_exploration_steps` forwards, each
    with an estimate of where it ends: behind the last place of at least
    `cycle_len_confidence_threshold`. It ends at the last estimate if the last few are stable, else
    at their mean. It is then filled; from the second of these forwards on the model sees nothing
    behind its end.

    Differs from the authors' code: their exploration goes on for its number of forwards when the
    block is full, ours does not; no limit of 256 sub-cycles in a block; text that follows the hole
    is never cut off (their canvases end with the hole).
    """

    k_exploration_steps: int = option(6, least=1, help="forwards that explore, per sub-cycle")
    cycle_len_confidence_threshold: float = option(
        0.3, least=0, most=1, help="probability of the farthest place that a sub-cycle reaches"
    )
    cycle_length_stability_window: int = option(
        2, least=1, help="number of estimates that have to agree"
    )
    cycle_length_stability_std_dev_threshold: float = option(
        1.0, least=0, help="standard deviation of the estimates below which they agree (positions)"
    )
    high_confidence_threshold: float = option(
        0.9,
        least=0,
        most=1,
        help="probability from which two or more tokens are written at once",
        speed=True,
    )

    @property
    def explores(self) -> int:
        return self.k_exploration_steps

    @property
    def reach(self) -> float:
        return self.cycle_len_confidence_threshold

    @property
    def slow(self) -> Rule:
        return Rule(self.high_confidence_threshold, 2)

    @property
    def fast(self) -> Rule:
        return self.slow

    def settle(self, cycle: Cycle) -> None:
        window = cycle.lengths[-self.cycle_length_stability_window :]
        whole = len(window) == self.cycle_length_stability_window
        if whole and np.std(window) < self.cycle_length_stability_std_dev_threshold:
            cycle.end, cycle.fixed = window[-1], True
        else:
            cycle.end = int(np.mean(window))


@dataclass(frozen=True, kw_only=True)
class SlowFastDream(TwoPhases, name="slowfast_dream"):
    """as slowfast, without blocks and with the rules of its Dream code (SlowFast, Dream)

    dream_generation_utils.py, _slow_fast_sample, of the same repository. The window of estimates
    begins as zeros, so that the first ends are short. The end is the last estimate if the unbiased
    variance is at most `cycle_len_variance_threshold`, else the mean, rounded to the nearest even
    number. If a short exploration puts it before the begin, nothing is filled and the next
    sub-cycle begins there, as in the authors' code.
    """

    n_cycle_discovery_steps: int = option(6, least=1, help="forwards that explore, per sub-cycle")
    conf_threshold_cycle_len_pred: float = option(
        0.1, least=0, most=1, help="probability of the farthest place that a sub-cycle reaches"
    )
    stabilize_count: int = option(2, least=1, help="number of estimates that have to agree")
    cycle_len_variance_threshold: float = option(
        1.0, least=0, help="maximum variance of the estimates that agree (positions squared)"
    )
    high_conf_for_parallel_decode_discovery: float = option(
        0.8, least=0, most=1, help="probability from which exploration writes several tokens"
    )
    min_tokens_for_parallel_decode_discovery: int = option(
        2, least=1, help="number of them; if there are fewer, the best token is written"
    )
    high_conf_for_cycle_decode: float = option(
        0.9,
        least=0,
        most=1,
        help="probability from which filling writes several tokens",
        speed=True,
    )
    min_decode_in_cycle_fallback: int = option(
        2, least=1, help="number of them; if there are fewer, the best token is written"
    )

    @property
    def explores(self) -> int:
        return self.n_cycle_discovery_steps

    @property
    def reach(self) -> float:
        return self.conf_threshold_cycle_len_pred

    @property
    def slow(self) -> Rule:
        return Rule(
            self.high_conf_for_parallel_decode_discovery,
            self.min_tokens_for_parallel_decode_discovery,
        )

    @property
    def fast(self) -> Rule:
        return Rule(self.high_conf_for_cycle_decode, self.min_decode_in_cycle_fallback)

    @classmethod
    def refused_settings(cls) -> dict[str, str]:
        return {**super().refused_settings(), "block_length": "has no blocks"}

    def settle(self, cycle: Cycle) -> None:
        count, number = self.stabilize_count, len(cycle.lengths)
        # float32, and in the order of the authors' ring, as thresholds are compared exactly
        ring = torch.zeros(count)
        for step in range(max(0, number - count), number):
            ring[step % count] = cycle.lengths[step]
        if count == 1 or bool(ring.var(unbiased=True) <= self.cycle_len_variance_threshold):
            cycle.end, cycle.fixed = cycle.lengths[-1], True
        else:
            cycle.end = max(1, round(float(ring.mean())))

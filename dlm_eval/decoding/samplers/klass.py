"""KLASS: tokens that are confident, and whose distribution no longer changes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dlm_eval.decoding.draw import CHUNK, Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option

TINY = 1e-12  # is added to probabilities in the authors' logarithms


@dataclass(frozen=True)
class WithDivergence:
    """KeepingOp of candidates and D_t = KL(p_t || p_t-1) in nats, p_0 = 0 everywhere.

    Returns what `draw` returns, D_t [N], and the largest of the last `history` values of D [N],
    which begin as 0. Keeps the logits of p_t and these values, [N, V + history] float32.
    """

    draw: Draw
    history: int

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        vocab = logits.shape[-1]
        if before is None:
            before = logits.new_zeros(len(logits), vocab + self.history, dtype=torch.float32)
        prepared = self.draw.prepared(logits).float()
        now = divergence(prepared, before[:, :vocab], known)
        ring = torch.cat([before[:, vocab + 1 :], now[:, None].float()], -1)
        kept = torch.cat([prepared, ring], -1)
        return *self.draw(logits, payload), now, ring.amax(-1).double(), kept


def divergence(logits: Tensor, last: Tensor, known: Tensor) -> Tensor:
    """Returns KL(p || p_last) [N] of softmax distributions, float64 nats.

    Probabilities are float64, since small divergences are compared with each other.

    Args:
        logits: [N, V].
        last: [N, V] logits of the last distribution.
        known: [N] bool; p_last is 0 where false.
    """
    rows, found = max(1, CHUNK // logits.shape[-1]), []
    for begin in range(0, len(logits), rows):
        part = slice(begin, begin + rows)
        p, before = logits[part].double().softmax(-1), last[part].double().softmax(-1)
        before = before * known[part, None]
        found.append(torch.linalg.vecdot(p, (p + TINY).log() - (before + TINY).log()))
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class Klass(Unmasking, name="klass"):
    """all confident candidates whose distribution is stable from step to step (KLASS)

    Kim et al. 2025, arXiv 2511.05664; github.com/shkim0116/KLASS ad87ecb, llada_klass.py and
    dream_klass.py. A candidate is ready if its probability is above `conf_threshold` and all of its
    last `kl_history_length` divergences KL(p_t || p_t-1) are below `kl_threshold`. If none is, the
    most probable ones are written: the schedule's quota of them (LLaDA's code: `schedule=even`), or
    one if there is no schedule (Dream's code).

    Without a schedule a probability equal to `conf_threshold` is enough, as in Dream's code. What is
    open after `steps` stays open. LLaDA's code writes over visible tokens if a quota exceeds the
    open positions of a block; ours writes the open ones. Divergences need the last distribution of
    all open positions, also of later blocks. Block-causal models and `cache=dual` read their own
    block only.
    """

    conf_threshold: float = option(
        0.9, least=0, most=1, help="minimum probability of a token that is ready", speed=True
    )
    kl_threshold: float = option(
        0.01, above=0, help="the last divergences of a ready token are below it (nats)", speed=True
    )
    kl_history_length: int = option(
        2, least=1, help="number of last divergences that have to be below kl_threshold"
    )
    unmask_strategy: Literal["all", "max_conf", "min_kl", "random"] = option(
        "all",
        help="which of the ready tokens are written: all, the most probable, the one with the least "
        "divergence, or one at random",
    )
    reads: ClassVar[Measure | None] = "probability"
    ends: ClassVar[Ends] = "limit"
    keeps_state: ClassVar[bool] = True

    @property
    def is_random(self) -> bool:
        return self.unmask_strategy == "random"

    def most_steps(self, n: int, steps: int) -> int | None:
        return steps  # one that writes nothing runs too

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        return Query(WithDivergence(op, self.kl_history_length), keeps=True)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Reads all open positions, and decides in the block."""
        alone = state.model.block_length is not None or state.settings.cache.block_alone
        at = view.position if alone else np.nonzero(state.open)[0]
        read = yield from state.read(at, self.query(view, op, state.model))
        inside = np.isin(at, view.position)
        token, logprob, score, *more = (values[inside] for values in read)
        chosen = self.commit(view.with_candidates(token, score, tuple(more)))
        return Edit(view.position[chosen], token[chosen], logprob[chosen])

    def commit(self, view: StepState) -> Bools:
        probability, (now, largest) = np.exp(view.score), view.more
        sure = probability > self.conf_threshold
        if view.schedule is None:
            sure = probability >= self.conf_threshold
        ready: Bools = sure & (largest < self.kl_threshold)
        # Values that an earlier block has left in the history do not count.
        if view.step < self.kl_history_length - 1 or not ready.any():
            return highest(view.score, view.quota if view.schedule else 1)
        if self.unmask_strategy == "all":
            return ready
        rank = view.uniform("order") if self.is_random else view.score
        if self.unmask_strategy == "min_kl":
            rank = -now
        return highest(np.where(ready, rank, -np.inf), 1)

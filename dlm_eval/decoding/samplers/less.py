"""LESS: tokens that are confident, have stayed the same, and whose distribution no longer changes.

Mohamed et al. 2026, arXiv 2606.16908; github.com/amr-mohamedd/LESS-Is-More 4bfb672,
llada_sampling/llada_less.py `stable_less_decode` and less_core.py `coarse_topk_js`.

Shape letters: N = wanted positions of a batch, V = vocabulary, K = probabilities that are kept, P =
candidates that are kept.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option

LARGEST = 8  # the authors' DRIFT_TOPK
TINY = 1e-12  # is added to probabilities in the authors' logarithms


@dataclass(frozen=True)
class WithDrift:
    """KeepingOp of candidates, whether each was the candidate in the last `count` steps too [N], and the
    drift of its distribution since the last step [N] (nats; 1 in the first step).

    Keeps the last candidates, and ids and probabilities of the K most probable tokens,
    [N, count + 2 K] float32 (-1: no candidate yet).
    """

    draw: Draw
    count: int

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        probability, ids = (
            self.draw.prepared(logits).softmax(-1).topk(min(LARGEST, logits.shape[-1]))
        )
        if before is None:
            before = probability.new_zeros(len(logits), self.count + 2 * ids.shape[1])
        last, largest = before[:, : self.count], before[:, self.count :]
        last_ids, last_probability = largest[:, : ids.shape[1]], largest[:, ids.shape[1] :]
        last = torch.where(known[:, None], last, -1.0)
        token, *judged = self.draw(logits, payload)
        stays = (last == token[:, None]).all(-1)
        moved = drift(ids, probability, last_ids.long(), last_probability)
        moved = torch.where(known, moved, torch.ones_like(moved))
        ring = torch.cat([last[:, 1:], token[:, None].float()], 1)
        kept = torch.cat([ring, ids.float(), probability.float()], 1)
        return token, *judged, stays, moved.double(), kept


def drift(ids: Tensor, p: Tensor, other_ids: Tensor, q: Tensor) -> Tensor:
    """Returns the Jensen-Shannon divergence [N] (nats) of two distributions of which the K most probable
    tokens `ids` [N, K] are known; all others are one outcome.
    """
    same = ids[:, :, None] == other_ids[:, None, :]
    at_p, at_q = (same * q[:, None, :]).sum(2), (same * p[:, :, None]).sum(1)
    rest_p, rest_q = ((1 - each.sum(1, keepdim=True)).clamp(min=0) for each in (p, q))
    found = _to_middle(p, at_p) + _to_middle(q, at_q)
    return ((found + _to_middle(rest_p, rest_q) + _to_middle(rest_q, rest_p)) / 2).clamp(min=0)


def _to_middle(p: Tensor, q: Tensor) -> Tensor:
    """Returns [N] the sum of p log(p / m), m the mean of p and q [N, K]."""
    return (p * ((p + TINY).log() - ((p + q) / 2 + TINY).log())).sum(1)


@dataclass(frozen=True, kw_only=True)
class Less(Unmasking, name="less"):
    """all confident candidates that have not changed and hardly drift (LESS)

    A candidate is accepted if its probability is at least `conf_threshold`, it was the candidate in the
    last `persistence_len` steps of the block too, and its distribution (8 most probable tokens, and
    all others as one) has drifted by at most `drift_threshold` since the last step. If none is, the
    schedule's quota of the most probable ones is written, at least one. What is open after the steps of
    a block stays open.

    Equal to the authors' code for LLaDA at temperature 0; above it that code takes the softmax of noisy
    values, and is left out. Their code for Dream has other rules: `less_dream`.
    """

    conf_threshold: float = option(
        0.75, least=0, most=1, help="minimum probability of an accepted candidate", speed=True
    )
    drift_threshold: float = option(
        0.04,
        least=0,
        help="maximum drift of its distribution since the last step (nats)",
        speed=True,
    )
    persistence_len: int = option(
        2, least=1, help="number of steps before in which it was the candidate too"
    )
    reads: ClassVar[Measure | None] = "probability"
    default_schedule: ClassVar[str | None] = "even"
    ends: ClassVar[Ends] = "limit"
    keeps_state: ClassVar[bool] = True

    @classmethod
    def refused_settings(cls) -> dict[str, str]:
        return {**super().refused_settings(), "temperature": "takes the most probable tokens"}

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(n, steps)

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        return Query(WithDrift(op, self.persistence_len), keeps=True)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Reads the block also if the quota is 0, since a step writes one token at least."""
        token, logprob, score, *more = yield from state.read(
            view.position, self.query(view, op, state.model)
        )
        chosen = self.commit(view.with_candidates(token, score, tuple(more)))
        return Edit(view.position[chosen], token[chosen], logprob[chosen])

    def commit(self, view: StepState) -> Bools:
        stays, moved = view.more
        accepted: Bools = (
            stays.astype(bool)
            & (np.exp(view.score) >= self.conf_threshold)
            & (moved <= self.drift_threshold)
        )
        if accepted.any():
            return accepted
        return highest(view.score, max(1, view.quota))

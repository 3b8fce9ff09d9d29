"""FreeDave (Wu and Zhang 2025, arXiv 2510.00294): drafts of the next steps, verified in one step.

Shape letters: W = open positions of the block, D = drafted tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option


class Candidates(NamedTuple):
    """What a row says of the open positions `at` [W]: token, its log-probability, and its rank."""

    at: Ints
    token: Ints
    logprob: Floats
    score: Floats

    @property
    def best(self) -> int:
        """Index of the candidate that the one-token decoder writes."""
        return int(self.score.argmax())

    def written(self, place: int) -> tuple[int, int]:
        """Returns the position and the token of a candidate."""
        return int(self.at[place]), int(self.token[place])

    def highest(self, count: int) -> Candidates:
        """Returns the `count` candidates with the highest scores, in that order."""
        order = np.argsort(-self.score, kind="stable")[:count]
        return Candidates(self.at[order], self.token[order], self.logprob[order], self.score[order])

    def first(self, count: int) -> Candidates:
        """Returns the first `count` candidates."""
        return Candidates(
            self.at[:count], self.token[:count], self.logprob[:count], self.score[:count]
        )


@dataclass(frozen=True, kw_only=True)
class FreeDave(Unmasking, name="freedave"):
    """one token per step, with the next ones drafted and verified in the same step (FreeDave)"""

    # arXiv 2510.00294, github.com/cychomatica/FreeDave 8b48121 generation/core.py
    # (block_decode_with_full_attention_FreeDave, eager_acceptance_mode=False). The tokens are those
    # of `confidence` at one token per step, also at temperature > 0, since a token is drawn with
    # the random number of its own step. Each draft is a row: `forwards` counts all of them, and
    # `steps` the rounds. On a device whose outputs depend on the batch, two equal candidates may
    # change places.

    draft_steps: int = option(
        4, least=1, help="tokens that are drafted at most; 1 drafts nothing", speed=True
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "probability"
    keeps_state: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "shows each draft in a row of its own"

    def most_steps(self, n: int, steps: int) -> int | None:
        return 1 + n * self.draft_steps  # rows, if every draft but the first is wrong

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        known: Candidates | None = state.memory  # of the canvas as it is
        if known is None or not np.array_equal(known.at, view.position):
            first = state.row(view.position, Query(op), payload=state.uniforms(view.position))
            known = Candidates(view.position, *(yield from state.run([first]))[0][:3])
        draft = known.highest(self.draft_steps)
        rows = [
            self._row(state, op, known, draft.first(count))
            for count in range(1, min(len(draft.at), len(known.at) - 1) + 1)
        ]
        found = (yield from state.run(rows)) if rows else []
        after = [Candidates(r.wanted, *out[:3]) for r, out in zip(rows, found, strict=True)]
        logprob = [draft.logprob[0]]
        # What the one-token decoder writes first is certain. The next draft is right if it writes
        # the same after those before it.
        for count in range(1, len(draft.at)):
            place = after[count - 1].best
            if after[count - 1].written(place) != draft.written(count):
                break
            logprob.append(after[count - 1].logprob[place])
        right = len(logprob)
        state.memory = after[right - 1] if right <= len(after) else None
        state.global_step += right - 1  # as many steps of the one-token decoder
        return Edit(draft.at[:right], draft.token[:right], np.array(logprob))

    @staticmethod
    def _row(state: DecodeState, op: Draw, known: Candidates, draft: Candidates) -> ForwardRow:
        """Returns the row that reads the open positions after the tokens of `draft` [D]."""
        tokens = state.tokens.copy()
        tokens[draft.at] = draft.token
        left = np.setdiff1d(known.at, draft.at)
        return state.row(left, Query(op), tokens, state.uniforms(left, len(draft.at)))

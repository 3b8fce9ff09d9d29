"""SDLM's two ways to write the next tokens (Liu et al. 2025, arXiv 2509.24007): the longest sure
prefix of D predictions, and D predictions that are verified in the next step.

OpenGVLab/SDLM 7e8a26e `sdlm_generator.py`: `conf_generate` and `self_speculative_generate`. The
text ends with the hole (theirs can be up to D - 1 tokens longer), and the end token belongs to it.
Other models than SDLM are read at the first D open positions, and see all of the canvas.

Shape letters: W = open positions of the block, D = predicted tokens.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from torch import Tensor

from dlm_eval.canvas import Canvas
from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Bools, Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, tokens_ahead
from dlm_eval.options import option

AHEAD = 4  # tokens at once of a model that does not say


@dataclass(frozen=True)
class Certainty:
    """Reads candidates, with 1 - entropy / log V as the score."""

    draw: Draw

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        token, logprob, score = self.draw(logits, payload)
        return token, logprob, 1 + score / math.log(logits.shape[-1])


@dataclass(frozen=True, kw_only=True)
class NextTokensSampler(Unmasking):
    """What both have: the next D open positions."""

    n_future_tokens: int | None = option(
        None,
        least=1,
        help="tokens that are predicted at once; None: as many as the model says, or 4",
        speed=True,
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    in_order: ClassVar[bool] = True

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        if tokens_ahead(model) is not None and settings.block_length is not None:
            raise UserError(
                f"decode block_length '{settings.block_length}' is not used with {model.name}, which "
                "predicts the next tokens wherever the text ends; leave it out (n_future_tokens is "
                "their number)"
            )

    def ahead(self, model: Denoiser) -> int:
        """Returns D."""
        return self.n_future_tokens or tokens_ahead(model) or AHEAD

    def next_row(
        self, state: DecodeState, op: Draw | Certainty, waiting: Ints, draft: Ints
    ) -> ForwardRow:
        """Returns the row that reads the next D of the positions `waiting` [W] behind `draft`.

        Each token is drawn with the random number of the step in which one token at a time would
        write it.

        Args:
            draft: tokens at the first of these positions; fewer than W.
        """
        many = self.ahead(state.model)
        at = waiting[len(draft) : len(draft) + many]
        steps = range(len(draft), len(draft) + len(at))
        drawn = np.array([state.uniforms(at, ahead)[i] for i, ahead in enumerate(steps)])
        tokens = None
        if len(draft):
            tokens = state.tokens.copy()
            tokens[waiting[: len(draft)]] = draft
        if tokens_ahead(state.model) is None:
            return state.row(at, Query(op), tokens, drawn)
        # As many masks as ever, also behind the end of the hole.
        return state.row(at, Query(op), tokens, drawn, beyond=many - len(at))


@dataclass(frozen=True, kw_only=True)
class LongestPrefix(NextTokensSampler, name="longest_prefix"):
    """the longest prefix of the next tokens whose confidence is above a threshold (SDLM)

    At least one token is written in each step.
    """

    alg: Literal["prob_conf", "entropy_conf"] = option(
        "prob_conf",
        help="confidence: probability of the token, or 1 - entropy / log(vocabulary). In the "
        "authors' `generate`, 'entropy_conf' has no effect (`==` where `=` is meant); here it has",
    )
    threshold: float = option(
        0.9, least=0, most=1, help="confidence above which the prefix goes on", speed=True
    )
    only_first_token_keep: bool = option(False, help="write one token in each step")

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    @property
    def reads(self) -> Measure:  # type: ignore[override]
        return "entropy" if self.alg == "entropy_conf" else "probability"

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        by_entropy = self.alg == "entropy_conf"
        row = self.next_row(state, Certainty(op) if by_entropy else op, view.position, NONE)
        token, logprob, score = (yield from state.run([row]))[0]
        sure: Bools = (score if by_entropy else np.exp(score)) > self.threshold
        doubtful = np.nonzero(~sure)[0]
        right = max(1, int(doubtful[0]) if len(doubtful) else len(sure))
        if self.only_first_token_keep:
            right = 1
        return Edit(row.wanted[:right], token[:right], logprob[:right])


class Guess(NamedTuple):
    """Predicted next tokens [D] and their log-probabilities (nats)."""

    token: Ints
    logprob: Floats


@dataclass(frozen=True, kw_only=True)
class SelfSpeculative(NextTokensSampler, name="self_speculative"):
    """the next tokens of one step, as far as the next step predicts them too (SDLM)

    The tokens are those of `longest_prefix` with `only_first_token_keep`, also at temperature > 0,
    since a token is drawn with the random number of its own step. Each row reads D tokens behind a
    part of the guess. `forwards` counts rows, `steps` rounds; rows whose answers nobody needs, at
    the end of the hole, are not run.
    """

    reads: ClassVar[Measure | None] = "probability"
    keeps_state: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "shows each guess in a row of its own"

    def most_steps(self, n: int, steps: int) -> int | None:
        return 1 + n * (self.n_future_tokens or AHEAD)  # rows, if only first tokens are right

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        known = replace(self, n_future_tokens=self.ahead(model))
        return super(SelfSpeculative, known).most_forwards(model, canvas, settings)

    def block_memory(self, state: DecodeState) -> None:
        return None

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        waiting, guess = view.position, state.memory
        if guess is None:
            row = self.next_row(state, op, waiting, NONE)
            guess = Guess(*(yield from state.run([row]))[0][:2])
        rows = [
            self.next_row(state, op, waiting, guess.token[:count])
            for count in range(1, min(len(guess.token), len(waiting) - 1) + 1)
        ]
        found = (yield from state.run(rows)) if rows else []
        after = [Guess(*output[:2]) for output in found]
        logprob = [guess.logprob[0]]
        for count in range(1, len(guess.token)):
            if after[count - 1].token[0] != guess.token[count]:
                break
            logprob.append(after[count - 1].logprob[0])
        right = len(logprob)
        state.memory = after[right - 1] if right <= len(after) else None
        state.global_step += right - 1  # as many steps of one token
        return Edit(waiting[:right], guess.token[:right], np.array(logprob))

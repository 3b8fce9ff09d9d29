"""I-DLM's strided decoding (Yu et al. 2026, arXiv 2604.11035): guesses at masks, verified by the row
that makes the next ones.

Shape letters: W = open positions of the hole, N = positions of a block.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.models.denoiser import Denoiser, is_autoregressive
from dlm_eval.options import option


class Autoregressive(Unmasking):
    """A sampler that writes what an autoregressive model writes one token at a time, in fewer rounds.

    A token is drawn with the random number of its own step of the one-token decoder, so the tokens
    are the same at any temperature.
    """

    takes_schedule: ClassVar[bool] = False
    takes_block_length: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "probability"
    keeps_state: ClassVar[bool] = True

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        if is_autoregressive(model):
            return None
        return "it is not read autoregressively, as I-DLM is, and Nemotron with attention=causal"


def own_dice(state: DecodeState, at: Ints) -> Floats:
    """Returns [W] uniform numbers: for the k-th position those of the k-th step from now."""
    if state.settings.temperature == 0:
        return np.zeros(len(at))
    return np.concatenate([state.uniforms(at[k : k + 1], k) for k in range(len(at))])


def right_ones(guess: Ints, token: Ints) -> int:
    """Returns how many guesses, from the left, are the tokens that were read."""
    wrong = np.flatnonzero(guess != token[: len(guess)])
    return int(wrong[0]) if len(wrong) else len(guess)


@dataclass(frozen=True, kw_only=True)
class BlockN(Autoregressive, name="block_n"):
    """guesses of the next tokens at masks, verified by the next row (I-DLM's strided decoding)"""

    # arXiv 2604.11035, github.com/thuEcstasy/I-DLM 3342a17
    # inference/sglang/sglang/srt/dllm/algorithm/idlm_blockN.py (IDLMBlockN.run). A first row reads
    # the token behind the text, which theirs takes from the prefill: `forwards` is theirs + 1. At a
    # temperature theirs guesses the most probable token and accepts it with min(1, p / (alpha q)),
    # which does not give p; here a guess is right if the row that verifies it draws the same token.
    # Not built: fast_verify, confidence_accept_threshold, output_correction and the adapter that
    # their LoRA checkpoint applies at masks alone.

    gen_block_size: int = option(
        3,
        least=2,
        help="tokens of a round at most: one is certain, the others are guesses",
        speed=True,
    )
    verify_num_specs: int | None = option(
        None,
        least=1,
        help="guesses of a round that are verified; the others are accepted unseen. None: all",
    )
    shows_whole: ClassVar[str] = "shows guesses beside the text"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n + 1

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        at, payload = view.position, own_dice(state, view.position)
        shown: Ints = np.zeros(0, dtype=np.int64)  # tokens at the first positions of `at`
        sure: list[float] = []  # log-probability of those that are certain
        if state.memory is None:
            row = state.row(at[:1], Query(op), payload=payload[:1])
            token, logprob, *_ = (yield from state.run([row]))[0]
            shown, sure = token, [logprob[0]]
            if len(at) == 1:
                return Edit(at, token, logprob)
        else:
            shown = state.memory[: len(at)]
        certain, guessed = len(sure), len(shown)
        # The positions of the guesses, of the token behind them, and of the next guesses.
        read = at[certain : guessed + self.gen_block_size]
        tokens = state.tokens.copy()
        tokens[at[:guessed]] = shown
        row = state.row(read, Query(op), tokens, payload[certain : guessed + self.gen_block_size])
        token, logprob, *_ = (yield from state.run([row]))[0]
        guess = shown[certain:]
        verified = guess[: self.verify_num_specs]
        right = right_ones(verified, token)
        if right == len(verified):
            right = len(guess)
            state.memory = token[right + 1 :]
        else:
            state.memory = guess[:0]
        # Those that are right, and the token behind them: the next one, or the correction.
        after = token[right : right + 1]
        written = np.concatenate([shown[: certain + right], after])
        state.global_step += len(written) - 1
        return Edit(
            at[: len(written)], written, np.concatenate([sure, logprob[: right + len(after)]])
        )

"""`toy`: a weightless denoiser over a small vocabulary whose joint distribution is known exactly.
For tests.

The truth is a Markov chain x_1 .. x_L with a random transition matrix. The conditional of a masked
token given any revealed tokens follows exactly, by passing messages along the chain. Such
conditionals agree with each other, so every reveal order gives the same likelihood; `inconsistency`
disturbs them by a fixed function of what is revealed, as a trained network would, so that orders
disagree and bounds have a gap.

With `process=uniform` the same chain is seen through uniform noise: every token is random with
probability 1 - alpha. The model gives each token's distribution given the others (leave-one-out),
which makes the bound of `models.uniform_state` tight.

Shape letters: B = rows, L = positions, V = vocabulary without the special tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import NO_MASK, Attention, LogLinear, NoiseSchedule, Process

LETTERS = "abcdefghijklmnopqrstuvwxyz"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ToySettings:
    """Options of `toy`.

    Attributes:
        vocab: vocabulary size V.
        seed: of the chain.
        inconsistency: disturbance of the conditionals (standard deviation of logits).
        max_length: positions of a sequence at most.
        process: absorbing (open positions hold the mask) or uniform (random tokens, told how many).
    """

    vocab: int = 6
    seed: int = 0
    inconsistency: float = 0.0
    max_length: int = 512
    process: Literal["absorbing", "uniform"] = "absorbing"


class Toy:
    """Denoiser of a Markov chain: ids below V are letters, V eos, V+1 mask, V+2 bos and pad."""

    mask_is_regular_token = False
    needs_bos = False
    attention: Attention = "full"
    block_length = None
    process: Process = "absorbing"
    device = "cpu"
    bos_id: int | None

    def __init__(self, settings: ToySettings) -> None:
        for name, least, most in (
            ("vocab", 1, 4096),
            ("seed", 0, None),
            ("inconsistency", 0, None),
            ("max_length", 1, None),
        ):
            value = getattr(settings, name)
            if value < least or (most is not None and value > most):
                raise UserError(
                    f"model_args {name} '{value}' is not allowed; it must be {least} "
                    f"{f'to {most}' if most else 'or more'}"
                )
        self.settings = settings
        v = settings.vocab
        self.name = (
            f"toy (vocabulary {v}, seed {settings.seed}, inconsistency {settings.inconsistency})"
        )
        self.letters, self.mask_id, self.pad_id, self.bos_id = v + 1, v + 1, v + 2, v + 2
        self.eos_ids = (v,)
        self.vocab_size = v + 3
        self.max_length = settings.max_length
        rng = np.random.default_rng(settings.seed)
        self.start: Floats = rng.dirichlet(np.ones(v + 1))
        self.step: Floats = rng.dirichlet(np.full(v + 1, 0.5), size=v + 1) * 0.98 + 0.02 / (v + 1)

    def encode(self, text: str) -> list[int]:
        """Returns one id per character: letters by alphabet, others by code point, modulo V."""
        v = self.settings.vocab
        return [(LETTERS.index(c) if c in LETTERS else ord(c)) % v for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i % 26] for i in ids if i < self.settings.vocab)

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return "\n".join(message["content"] for message in messages) + "\n" * add_generation_prompt

    def describe(self) -> dict[str, Any]:
        return {"family": "toy", **vars(self.settings)}

    def log_joint(self, tokens: Sequence[int]) -> float:
        """Returns the chain's log-probability of a text in nats: every order's if consistent."""
        logs = [np.log(self.start[tokens[0]])]
        logs += [np.log(self.step[a, b]) for a, b in zip(tokens, tokens[1:], strict=False)]
        return float(np.sum(logs))

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        rows = []
        for i, row in enumerate(tokens.cpu().numpy()):
            length = len(row) if valid is None else int(valid[i].sum())
            logs = np.full((len(row), self.vocab_size), -np.inf)
            logs[:, 0] = 0.0  # padding positions need some distribution; nobody reads it
            logs[:length] = self._conditionals(row[:length])
            rows.append(logs)
        return _wanted(torch.from_numpy(np.stack(rows)).float(), positions)

    @property
    def supports_layouts(self) -> bool:
        """Whether rows may have a layout."""
        return True

    def logits_in_layout(
        self, tokens: Tensor, positions: Tensor, places: Tensor, visible: Tensor
    ) -> Tensor:
        """Returns logits at wanted positions (see `LayoutDenoiser.logits_in_layout`).

        A position predicts its place in the text that the tokens which it sees reveal.
        """
        found: list[Floats] = []
        known_texts: dict[bytes, Floats] = {}
        for i, column in positions.cpu().nonzero().tolist():
            seen = visible[i, column].cpu()
            place, token = places[i].cpu()[seen].numpy(), tokens[i].cpu()[seen].numpy()
            text = np.full(int(place.max()) + 1, self.mask_id)
            known = token != self.mask_id  # a mask says nothing beside a token at its place
            text[place[known]] = token[known]
            key = text.tobytes()  # most positions see the same
            if key not in known_texts:
                known_texts[key] = self._conditionals(text)
            found.append(known_texts[key][int(places[i, column])])
        return torch.from_numpy(np.stack(found)).float()

    def _conditionals(self, row: NDArray[np.int64], alpha: float = 1.0) -> Floats:
        """Returns [L, vocab_size] log p(token at i | the revealed tokens other than i).

        Args:
            row: [L] tokens.
            alpha: probability that a token is the true one; else it is a random one.
        """
        length, v = len(row), self.letters
        evidence = np.ones((length, v))
        for i, token in enumerate(row):
            if token < v:
                evidence[i] = alpha * (np.arange(v) == token) + (1 - alpha) / v
        left, right = np.empty((length, v)), np.ones((length, v))
        left[0] = self.start
        for i in range(1, length):
            message = (left[i - 1] * evidence[i - 1]) @ self.step
            left[i] = message / message.sum()
        for i in range(length - 2, -1, -1):
            message = self.step @ (right[i + 1] * evidence[i + 1])
            right[i] = message / message.sum()
        logs = np.full((length, self.vocab_size), -np.inf)
        logs[:, :v] = np.log(left * right)
        if self.settings.inconsistency:
            logs[:, :v] += self.settings.inconsistency * self._disturbance(row)
        return logs

    def _disturbance(self, row: NDArray[np.int64]) -> Floats:
        """Returns [L, V] standard normal numbers, a function of what the row reveals and where."""
        seed = hashlib.sha256(row.astype("<i8").tobytes()).digest()[:8]
        return np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(
            (len(row), self.letters)
        )


class UniformToy(Toy):
    """The chain under uniform noise; all ids are letters or eos."""

    process: Process = "uniform"
    schedule: NoiseSchedule = LogLinear()

    def __init__(self, settings: ToySettings) -> None:
        super().__init__(settings)
        self.name = f"{self.name[:-1]}, process uniform)"
        self.vocab_size, self.mask_id, self.bos_id = self.letters, NO_MASK, None
        self.pad_id = self.eos_ids[0]

    def logits_at(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns log p(token | the noisy tokens at other positions) at total noise `time` [B]."""
        rows = []
        for i, row in enumerate(tokens.cpu().numpy()):
            length = len(row) if valid is None else int(valid[i].sum())
            logs = np.zeros((len(row), self.vocab_size))
            logs[:length] = self._conditionals(row[:length], math.exp(-float(time[i])))
            rows.append(logs)
        return _wanted(torch.from_numpy(np.stack(rows)).float(), positions)


def _wanted(out: Tensor, positions: Tensor | None) -> Tensor:
    """Returns the wanted positions of `out` [B, L, V] (see `Denoiser.logits`)."""
    if positions is None:
        return out
    return out[positions.cpu()] if positions.dtype == torch.bool else out[:, positions.cpu()]


def load(settings: ToySettings) -> Toy:
    """Returns the toy denoiser."""
    return (UniformToy if settings.process == "uniform" else Toy)(settings)

"""Trajectories (`--log_trajectories`): the step at which each token of an answer was committed, and
its confidence.

Every decoder returns both with its `Filling`, and the journal stores them with the answer. A
trajectory can therefore be logged for answers of earlier runs too, and no decoder does more work
for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dlm_eval.canvas import BLANK, Filling, four_digits
from dlm_eval.models.denoiser import Denoiser, token_name
from dlm_eval.printable import valid_unicode
from dlm_eval.redaction import redact_text


class TokenTexts:
    """The texts of a model's tokens, each decoded once."""

    def __init__(self, model: Denoiser) -> None:
        self._model = model
        self._names = {model.mask_id: "[MASK]", **dict.fromkeys(model.eos_ids, "[EOS]")}
        # sentencepiece drops the space of a text's first token
        self._anchor = model.encode("a")[-1:]
        self._head = model.decode(self._anchor)
        self._known: dict[int, tuple[str, bool]] = {}

    def of(self, token: int) -> tuple[str, bool]:
        """Returns the token's text inside a longer text, and whether it is a special token.

        A token that is only a part of a character has no text; the tokenizer's name of the token is
        used instead.
        """
        if token not in self._known:
            self._known[token] = self._decoded(token)
        return self._known[token]

    def _decoded(self, token: int) -> tuple[str, bool]:
        model = self._model
        text = model.decode([*self._anchor, token])
        text = text[len(self._head) :] if text.startswith(self._head) else model.decode([token])
        if text and "\ufffd" not in text and token != model.mask_id:
            return text, False
        name = self._names.get(token) or token_name(model, token) or f"[{token}]"
        return name, not text or token == model.mask_id


def pieces(model: Denoiser, ids: Sequence[int]) -> dict[int, tuple[str, bool]]:
    """Returns id -> (its text, whether it is a special token); see `TokenTexts.of`."""
    texts = TokenTexts(model)
    return {token: texts.of(token) for token in ids}


def trajectory(filling: Filling, texts: TokenTexts) -> dict[str, Any] | None:
    """Returns the trajectory of an answer as plain data, or None.

    It is None if the decoder reports no steps, and if the answer has a secret, which its tokens
    would spell out.

    Returns:
        tokens: [n] ids from left to right, -1 at positions left open by an early exit.
        text: [n] their texts, "" at open positions.
        step: [n] step, from 0, of the token's last commit, -1 at open positions.
        confidence: [n] probability at that step, four significant digits; None if there is none.
        forwards: rows that this answer took.
    """
    n = len(filling.tokens)
    if len(filling.step) != n or len(filling.confidence) != n:
        return None
    shown = [
        "" if token == BLANK else valid_unicode(texts.of(token)[0]) for token in filling.tokens
    ]
    whole = "".join(shown)
    if redact_text(whole) != whole:
        return None
    return {
        "tokens": list(filling.tokens),
        "text": shown,
        "step": list(filling.step),
        "confidence": [
            four_digits(value) if math.isfinite(value) else None for value in filling.confidence
        ],
        "forwards": filling.forwards,
    }

"""Ends of decoding before its last step: the exact early exit, and halting.

The early exit ends it when visible text can no longer change. Halting (Vaina et al. 2024, arXiv
2305.10818) ends the diffusion of a canvas by a criterion. The paper names the criteria. Its
thresholds were never published, so they are options here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.decoding.strategy import Strategy
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, TokenBytes, offers
from dlm_eval.options import option
from dlm_eval.printable import is_text


class EarlyExit:
    """Checks after each step whether visible text is final.

    Visible text ends at the first end-of-text token of a hole at the end of the canvas, and at the
    first stop string if there is only one hole. If all positions before such an end are written,
    later tokens are invisible. Only for strategies that never rewrite a token.

    Args:
        model: for its end-of-text ids and its tokenizer.
        positions: [n] positions of the holes, ascending.
        ends_with_hole: whether no given text follows the last hole.
        until: stop strings.
    """

    def __init__(
        self, model: Denoiser, positions: Ints, ends_with_hole: bool, until: Sequence[str]
    ) -> None:
        self._eos = frozenset(model.eos_ids)
        self._until = StopSearch(model, until)
        self._ends_with_hole = ends_with_hole
        self._reached = 0
        self.follow(positions)

    def follow(self, positions: Ints) -> None:
        """Sets the positions of the holes, which a step may change."""
        self._positions, self._moved = positions, True
        breaks = np.nonzero(np.diff(positions) > 1)[0]
        self._one_hole = len(breaks) == 0
        # If given text follows, an end-of-text token inside the hole does not end the text.
        begin = int(breaks[-1]) + 1 if len(breaks) else 0
        self._last_hole = begin if self._ends_with_hole else len(positions)

    def reason(self, tokens: Ints, open_: Bools) -> str | None:
        """Returns 'eos' or 'stop' if visible text is final after this step, else None."""
        stays = not self._moved and self._reached < len(self._positions)
        if stays and open_[self._positions[self._reached]]:
            return None
        self._moved = False
        waiting = np.nonzero(open_[self._positions])[0]
        written_to = int(waiting[0]) if len(waiting) else len(self._positions)
        if written_to == self._reached:
            return None
        self._reached = written_to
        written = tokens[self._positions[:written_to]]
        if not self._eos.isdisjoint(written[self._last_hole :].tolist()):
            return "eos"
        if self._until and self._one_hole and self._until.found_in(written):
            return "stop"
        return None


class StopSearch:
    """Looks for stop strings in a text that grows at its end.

    If the model's text is the bytes of its tokens in a row (`TokenBytes`), each token is read once:
    UTF-8 has no character's bytes inside those of others, so a text contains a string if and only
    if the bytes do. Otherwise the whole text is decoded at every call.

    Args:
        model: for its texts.
        until: stop strings.
    """

    def __init__(self, model: Denoiser, until: Sequence[str]) -> None:
        self._model = model
        self._token_bytes = (
            cast(TokenBytes, model).token_bytes if offers(model, TokenBytes) else None
        )
        self._stops = tuple(stop for stop in until if stop)
        # U+FFFD is not the text of its own bytes only; half of a surrogate pair has no bytes.
        plain = self._token_bytes is not None and all(
            is_text(stop) and "\ufffd" not in stop for stop in self._stops
        )
        self._as_bytes = tuple(stop.encode() for stop in self._stops) if plain else ()
        self._overlap = max(map(len, self._as_bytes), default=1) - 1
        self._read: Ints = np.zeros(0, dtype=np.int64)
        self._end = b""

    def __bool__(self) -> bool:
        return bool(self._stops)

    def found_in(self, tokens: Ints) -> bool:
        """Returns whether the text of `tokens` contains a stop string.

        It is made for calls with more and more tokens; other ones are only slower.
        """
        more = self._new_bytes(tokens) if self._as_bytes else None
        if more is None:
            text = self._model.decode([int(token) for token in tokens])
            return any(stop in text for stop in self._stops)
        text_end = self._end + more
        found = any(stop in text_end for stop in self._as_bytes)
        # A text with a stop string is read anew the next time.
        self._read = self._read[:0] if found else tokens.copy()
        self._end = text_end[max(0, len(text_end) - self._overlap) :]
        return found

    def _new_bytes(self, tokens: Ints) -> bytes | None:
        """Returns the bytes of tokens not read yet, None if they are unknown."""
        before = len(self._read)
        if len(tokens) < before or not np.array_equal(tokens[:before], self._read):
            before = 0
        if before == 0:
            self._end = b""
        assert self._token_bytes is not None
        parts = [self._token_bytes(int(token)) for token in tokens[before:]]
        return b"".join(part for part in parts if part is not None) if None not in parts else None


# -- halting: a strategy's own criterion -----------------------------------------------------------


Criterion = Literal["none", "entropy", "patience", "kl", "fixed", "confident"]


@dataclass(frozen=True, kw_only=True)
class Halting(Strategy):
    """The options of strategies that can halt."""

    halt: Criterion = option(
        "none",
        help="criterion that ends decoding before its last step. 'entropy', 'kl': its mean is "
        "below the threshold"
        " (nats; KL from the step before). 'patience': no token has changed for so many steps. "
        "'fixed': so many steps are"
        " done. 'confident': 'entropy', and no token has changed since the step before",
    )
    halt_threshold: float = option(0.0, least=0, help="threshold of halt, in nats or steps")
    halt_min_steps: int = option(0, least=0, help="minimum number of steps before halting")

    def check(self) -> None:
        super().check()
        if (self.halt != "none") != (self.halt_threshold > 0):
            raise UserError(
                f"decode halt '{self.halt}' and halt_threshold '{self.halt_threshold}' need each "
                "other (nats, or steps)"
            )


class Halt:
    """The halting criterion of one canvas.

    * entropy: the mean entropy of p(x0 | x_t, t) over open positions is below the threshold (nats).
    * kl: the mean KL(p_t || p_t-1) over open positions is below the threshold (nats), from the
      second step on.
    * patience: no most probable token has changed for as many steps as the threshold.
    * fixed: the number of steps has reached the threshold.
    * confident: the mean entropy is below the threshold (nats), and no most probable token has
      changed since the step before.
    """

    def __init__(self, options: Halting) -> None:
        self._rule, self._threshold, self._least = (
            options.halt,
            options.halt_threshold,
            options.halt_min_steps,
        )
        self._tokens: Ints | None = None
        self._calm = 0

    def reason(self, done: int, tokens: Ints, entropy: float, kl: float | None) -> str | None:
        """Returns the criterion's name if it ends decoding after `done` steps, else None.

        Args:
            done: steps so far, this one included.
            tokens: [n] most probable tokens now.
            entropy: mean entropy, nats.
            kl: mean divergence from the step before, nats; None at the first step.
        """
        unchanged = self._tokens is not None and np.array_equal(tokens, self._tokens)
        self._tokens, self._calm = tokens, self._calm + 1 if unchanged else 0
        if self._rule == "none" or done < self._least:
            return None
        says_stop = {
            "entropy": entropy < self._threshold,
            "kl": kl is not None and kl < self._threshold,
            "patience": self._calm >= self._threshold,
            "fixed": done >= self._threshold,
            "confident": entropy < self._threshold and unchanged,
        }
        return self._rule if says_stop[self._rule] else None

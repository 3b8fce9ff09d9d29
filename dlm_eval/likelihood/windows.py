"""Splits long texts into windows that score every token once, with as much context as fits."""

from __future__ import annotations

from collections.abc import Sequence

from dlm_eval.canvas import Canvas
from dlm_eval.errors import UserError


def windows(
    tokens: Sequence[int],
    max_length: int,
    stride: int | None = None,
    *,
    given: int = 0,
    key: str = "",
) -> list[Canvas]:
    """Returns canvases whose log-likelihoods add up to that of the text (chain rule over windows).

    The first window scores as many tokens as fit. Each later one scores the next `stride` tokens,
    after as much of the past as fits. The last one scores the rest. A window has no tokens after
    those that it scores, since a likelihood must not condition on the future.

    Args:
        tokens: ids of the whole text.
        max_length: maximum number of positions of a window.
        stride: tokens scored by each later window; None for `max_length - given` (the fewest
            windows; later ones then have no past).
        given: number of leading tokens (such as BOS) that are not scored; every window begins with
            them.
        key: identity for random numbers; each window appends its number.

    Raises:
        UserError: the stride is below 1 or too large for a window.
    """
    head, body = tuple(tokens[:given]), tuple(tokens[given:])
    room = max_length - len(head)
    stride = room if stride is None else stride
    if room < 1 or not 1 <= stride <= room:
        raise UserError(
            f"stride '{stride}' is not allowed; it must be from 1 to {max(room, 1)} (window "
            f"{max_length}, {len(head)} given)"
        )
    canvases: list[Canvas] = []
    begin = 0
    while begin < len(body):
        end = min(len(body), begin + (stride if begin else room))
        past = body[max(0, end - room) : begin]
        name = f"{key}/window {len(canvases)}" if key else ""
        canvases.append(Canvas.continuation((*head, *past), body[begin:end], name))
        begin = end
    return canvases

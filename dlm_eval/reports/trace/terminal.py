"""A trace in a terminal, step by step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from dlm_eval.decoding import TraceStep
from dlm_eval.printable import printable
from dlm_eval.reports.trace.recording import Recording

MASK, ERASED = "░", "▒"
DIM, UNDERLINE, LOST = "2", "4", "31"
Paint = Callable[[str, str], str]


def lines(recording: Recording, colour: bool) -> Iterator[str]:
    """Yields the recording line by line.

    Args:
        colour: whether to colour tokens by confidence (ANSI). Otherwise new tokens are in ‹ ›.
    """
    paint: Paint = (
        (lambda text, code: f"\x1b[{code}m{text}\x1b[0m") if colour else (lambda text, code: text)
    )
    filling = recording.filling
    yield f"{printable(recording.model)}: {printable(recording.strategy)}, {len(recording.open)} open positions, seed {recording.seed}"
    yield paint(_given(recording), DIM)
    if colour:
        yield f"confidence: {paint('90 %', '1;32')} {paint('50 %', '1;33')} {paint('less', '1;31')}"
    for step, replaced, changed in zip(
        recording.steps, recording.replaced(), recording.changed(), strict=True
    ):
        yield ""
        yield paint(_headline(step, replaced, changed), DIM)
        yield "  " + _hole(recording, step, replaced, changed, colour, paint)
        pairs = ((p, c) for p, c in zip(step.written, step.confidence, strict=True) if p in changed)
        yield "  " + "  ".join(
            f"{_new(_piece(recording, step.tokens[p]), c, colour, paint)} {c:.2f}" for p, c in pairs
        )
    yield ""
    seconds = f"{filling.seconds:.2f} s, " if filling.seconds else ""
    yield f"{filling.forwards} forwards, {filling.steps} steps, {seconds}ended: {printable(filling.exit)}"
    yield printable(recording.text)


def _given(recording: Recording) -> str:
    """Returns the text around the hole, with … for the hole."""
    holes, shown = set(recording.open), ""
    for position, token in enumerate(recording.start):
        shown += (
            ("" if shown.endswith("…") else "…") if position in holes else _piece(recording, token)
        )
    return shown


def _headline(step: TraceStep, replaced: Collection[int], changed: Collection[int]) -> str:
    kept = len(step.written) - len(changed)
    parts = [f"{len(changed) - len(replaced)} written"]
    parts += [f"{len(replaced)} replaced"] * bool(replaced) + [f"{kept} kept"] * bool(kept)
    parts += [f"{len(step.erased)} masked again"] * bool(step.erased)
    return f"step {step.step}: {', '.join(parts)}, {sum(step.open)} open"


def _hole(
    recording: Recording,
    step: TraceStep,
    replaced: Collection[int],
    changed: Collection[int],
    colour: bool,
    paint: Paint,
) -> str:
    sure = {p: c for p, c in zip(step.written, step.confidence, strict=True) if p in changed}
    shown = []
    holes = set(recording.open)
    for p in range(recording.open[0], recording.open[-1] + 1) if holes else ():
        if p not in holes:  # given, between two holes
            shown.append(paint(_piece(recording, step.tokens[p]), DIM))
        elif p in step.erased and step.open[p]:
            shown.append(paint(ERASED, LOST))
        elif step.open[p]:
            shown.append(paint(MASK, DIM))
        elif p in sure:
            shown.append(
                _new(_piece(recording, step.tokens[p]), sure[p], colour, paint, p in replaced)
            )
        else:
            shown.append(_piece(recording, step.tokens[p]))
    return "".join(shown)


def _new(text: str, confidence: float, colour: bool, paint: Paint, replaced: bool = False) -> str:
    if not colour:
        return f"‹{text}›"
    code = "1;32" if confidence >= 0.9 else "1;33" if confidence >= 0.5 else "1;31"
    return paint(text, f"{code};{UNDERLINE}" if replaced else code)


def _piece(recording: Recording, token: int) -> str:
    return printable(recording.pieces[token][0])

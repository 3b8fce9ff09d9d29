"""Makes the pictures of the documentation, docs/pictures/*.svg, from runs of the packaged model `tiny`.

python scripts/pictures.py [NAME ...] [--out DIR]

Every number in a picture comes from a run of this script (fixed seeds, CPU). Text stays text. The
colours follow the reader's light or dark mode (`THEME`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dlm_eval.cli import main as dlm_eval

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures"

PAPER, INK, SOFT, CELL, LINE = "#ffffff", "#1f2328", "#59636e", "#eaeef2", "#d1d9e0"
SURE, LIKELY, UNSURE, BLUE = "#9be9a8", "#ffe28a", "#ffc1ba", "#0969da"
THEME = {  # light -> dark
    PAPER: "#0d1117", INK: "#e6edf3", SOFT: "#9198a1", CELL: "#262c36", LINE: "#3d444d",
    SURE: "#1a6b33", LIKELY: "#7a5b00", UNSURE: "#8c2f2a", BLUE: "#58a6ff",
}  # fmt: skip
SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dlm_eval",  # the same names of clips in every run
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


def run(*words: str) -> str:
    """Returns what `dlm-eval WORDS` prints.

    Raises:
        RuntimeError: the command failed.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = dlm_eval(list(words))
    if code:
        raise RuntimeError(f"dlm-eval {' '.join(words)}: exit code {code}")
    return printed.getvalue()


def themed(svg: str) -> str:
    """Returns the picture with a style sheet for the dark mode."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in THEME.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    head, tag, rest = svg.partition(" <defs>")
    return head + f" {style}\n" + tag + rest


def saved(figure: Figure) -> str:
    """Returns the figure as SVG and closes it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return themed("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n")


def canvas_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of `width` x `height` (in 1/72 inch) and axes in these units, from the top."""
    figure = plt.figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """Draws a filled box with round corners."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=3", fc=colour, ec="none"
        )
    )


def label(axes: Axes, x: float, y: float, text: str, colour: str = INK, **style: Any) -> None:
    """Writes a text, centred in height."""
    axes.text(x, y, text, color=colour, va="center", **style)


# --- a text being written ---------------------------------------------------------------------

PROMPT = "Anna had a red dog."
SUFFIX = " They saw the dog at the park. Anna was happy to have the red dog."


def confidence_colour(confidence: float) -> str:
    """Returns the colours of `dlm-eval trace`: from 90 %, from 50 %, below."""
    return SURE if confidence >= 0.9 else LIKELY if confidence >= 0.5 else UNSURE


def trace() -> str:
    """A canvas over the steps of decoding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        run(
            "trace", "--model", "tiny", "--prompt", PROMPT, "--infill", SUFFIX, "--length", "18",
            "--decode", "steps=6", "--json", str(path),
        )  # fmt: skip
        data = json.loads(path.read_text(encoding="utf-8"))
    hole, pieces = data["open"], data["pieces"]
    final = [pieces[str(token)]["text"].strip() for token in data["filling"]["tokens"]]
    widths = [max(14.0, 6.6 * len(text) + 8) for text in final]
    left, top, pitch = 62.0, 52.0, 25.0
    starts = [left + sum(widths[:i]) + 3 * i for i in range(len(widths))]
    width = starts[-1] + widths[-1] + 14
    figure, axes = canvas_axes(width, top + pitch * (len(data["steps"]) + 1) + 34)
    label(axes, 14, 18, PROMPT, weight="bold")
    box(axes, 140, 9, 110, 18, CELL)
    label(axes, 195, 18, f"{len(hole)} open positions", SOFT, ha="center")
    label(axes, 260, 18, SUFFIX.strip(), weight="bold")
    written: dict[int, tuple[str, float]] = {}
    for row, step in enumerate([None, *data["steps"]]):
        y = top + pitch * row
        now = {} if step is None else dict(zip(step["written"], step["confidence"], strict=True))
        if step is not None:
            for place, token, sure in zip(
                step["written"], step["tokens"], step["confidence"], strict=True
            ):
                written[place] = (pieces[str(token)]["text"].strip(), sure)
        label(axes, 14, y, "start" if step is None else f"step {step['step'] + 1}", SOFT)
        for place, x, w in zip(hole, starts, widths, strict=True):
            if place not in written:
                box(axes, x, y - 9, w, 18, CELL)
                continue
            if place in now:
                box(axes, x, y - 9, w, 18, confidence_colour(now[place]))
            label(axes, x + w / 2, y, written[place][0], ha="center")
    y = top + pitch * (len(data["steps"]) + 1)
    x = left
    for colour, text in (
        (CELL, "open"),
        (SURE, "written, confidence 90 % or more"),
        (LIKELY, "50 to 90 %"),
        (UNSURE, "less"),
    ):
        box(axes, x, y - 6, 12, 12, colour)
        label(axes, x + 17, y, text, SOFT)
        x += 34 + 5.6 * len(text)
    return saved(figure)


PICTURES: dict[str, Callable[[], str]] = {"trace": trace}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the named pictures, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(PICTURES)):
        parser.error(f"no picture '{unknown[0]}'; there are {', '.join(PICTURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(SETTINGS):
        for name in options.names or PICTURES:
            (options.out / f"{name}.svg").write_text(PICTURES[name](), encoding="utf-8")


if __name__ == "__main__":
    main()

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
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dlm_eval import Canvas, Score, fill, load_model, score
from dlm_eval.cli import main as dlm_eval

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures"

PAPER, INK, SOFT, CELL, LINE = "#ffffff", "#1f2328", "#59636e", "#eaeef2", "#d1d9e0"
SURE, LIKELY, UNSURE = "#9be9a8", "#ffe28a", "#ffc1ba"
BLUE, WARM = "#0969da", "#bc4c00"
THEME = {  # light -> dark
    PAPER: "#0d1117", INK: "#e6edf3", SOFT: "#9198a1", CELL: "#262c36", LINE: "#3d444d",
    SURE: "#1a6b33", LIKELY: "#7a5b00", UNSURE: "#8c2f2a", BLUE: "#58a6ff", WARM: "#f0883e",
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


# --- canvases ----------------------------------------------------------------------------------

CANVASES = (  # name, given before, open, given after, what is asked of the open positions
    ("question", "Anna had a red dog.", 6, "", "write them"),
    ("choice", "Anna was happy to have the red", " dog", ".", "how probable is this text here?"),
    ("infill", "Anna had a red dog.", 6, " They saw the dog at the park.", "write them"),
    ("chat", "<user>Who had a dog?<assistant>", 6, "", "write them"),
)


def canvases() -> str:
    """Four requests as canvases, cut into tokens by the tokenizer of `tiny`."""
    model = load_model("tiny")
    figure, axes = canvas_axes(640, 42 * len(CANVASES) + 30)
    for row, (name, before, middle, after, ask) in enumerate(CANVASES):
        y = 24 + 42 * row
        label(axes, 14, y, name, weight="bold")
        x = 80.0
        hole = [""] * middle if isinstance(middle, int) else _pieces(model, middle)
        for text, is_open in (
            *((text, False) for text in _given(model, before)),
            *((text, True) for text in hole),
            *((text, False) for text in _given(model, after)),
        ):
            width = max(16.0, 6.4 * len(text) + 8)
            box(axes, x, y - 9, width, 18, LIKELY if is_open else CELL)
            label(axes, x + width / 2, y, text, ha="center")
            x += width + 3
        label(axes, 80, y + 17, ask, SOFT, fontsize=8.5)
    return saved(figure)


def _given(model: Any, text: str) -> list[str]:
    """Returns the pieces of a given text; the tokens of a chat template are one piece each."""
    parts = re.split(r"(<[a-z]+>)", text)
    return [
        piece
        for part in parts
        for piece in ([part] if part.startswith("<") else _pieces(model, part))
    ]


def _pieces(model: Any, text: str) -> list[str]:
    return [model.decode([token]).strip() for token in model.encode(text)] if text else []


# --- likelihoods and their errors ---------------------------------------------------------------

CONTEXT = (
    "<|bos|>Anna had a red hat. One day she lost the hat at the park."
    " Anna was sad and asked Ben for help."
)
TARGET = " Anna and Ben went back to the park."


def scored(model: Any, estimator: str, seeds: Sequence[int] = (0,), most: int = 512) -> list[Score]:
    """Returns the scores of TARGET after CONTEXT, one for each seed."""
    canvas = Canvas.continuation(model.encode(CONTEXT), model.encode(TARGET))
    return [score(model, [canvas], estimator, most, seed)[0] for seed in seeds]


def bracket() -> str:
    """The 95 % bounds of a text's log-likelihood from 1 to 64 orders, and the exact value."""
    model = load_model("tiny")
    (exact,) = scored(model, "exact")
    figure, axes = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    orders = (1, 2, 4, 8, 16, 32, 64)
    found = [scored(model, f"chain,permutations={k}")[0] for k in orders]
    axes.axhline(exact.lower, color=INK, lw=1)
    for place, one in enumerate(found):
        low, high = one.bracket
        axes.plot([place, place], [low, high], color=LINE, lw=9, solid_capstyle="round")
        axes.plot(place, low, "^", color=BLUE, ms=6)
        axes.plot(place, high, "v", color=WARM, ms=6)
    axes.text(-0.2, found[0].bracket[0], "lower bound", color=BLUE, ha="right", va="center")
    axes.text(-0.2, found[0].bracket[1], "upper bound", color=WARM, ha="right", va="center")
    axes.text(-0.2, exact.lower + 0.2, f"exact: {exact.lower:.2f}", ha="right", va="bottom")
    axes.set_xticks(
        range(len(found)), [f"{one.rows}\n({k})" for k, one in zip(orders, found, strict=True)]
    )
    axes.set(
        xlim=(-1.5, len(found) - 0.5), ylim=(-14, 0.5), xlabel="forwards (orders)",
        ylabel="log-likelihood of one text,\nnats",
    )  # fmt: skip
    return saved(figure)


def intervals() -> str:
    """The 95 % intervals of twenty estimates of one bound, by two estimators, and the truth."""
    model = load_model("tiny")
    (exact,) = scored(model, "exact")
    figure, axes = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
    for first, name, colour in ((0, "mask_count", WARM), (23, "cubature", BLUE)):
        found = scored(model, f"{name},max_forwards=32", range(20))
        places = [first + i for i in range(20)]
        halves = [(one.interval[1] - one.interval[0]) / 2 for one in found if one.interval]
        values = [one.logprob for one in found]
        axes.errorbar(places, values, halves, fmt="o", color=colour, ms=3, lw=1.2)
        axes.text(first + 9.5, -3.6, f"{name}, 20 seeds", color=colour, ha="center")
    axes.axhline(exact.logprob, color=INK, lw=1)
    axes.text(21, exact.logprob + 0.1, "exact", color=INK, ha="center")
    axes.set(xticks=[], ylim=(-14, -3), ylabel="ELBO of one text, nats")
    return saved(figure)


# --- quality and cost ---------------------------------------------------------------------------

NAMES = ("Anna", "Ben", "Cora", "Dan", "Ella", "Finn", "Gina", "Hugo")
ANIMALS = ("dog", "cat", "horse")


def quality() -> str:
    """How probable the model finds what it wrote, by forwards, for two strategies."""
    model = load_model("tiny")
    holes = [
        (
            model.encode(f"<|bos|>{name} had a red {animal}."),
            model.encode(f" They saw the {animal} at the park."),
        )
        for name in NAMES
        for animal in ANIMALS
    ]
    figure, axes = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    for strategy, colour in (("confidence", BLUE), ("random", WARM)):
        points = []
        for steps in (1, 2, 4, 8, 18):
            written = fill(model, [Canvas.infill(a, 18, b) for a, b in holes], strategy, steps)
            asked = [
                Canvas.infill(a, one.tokens, b) for (a, b), one in zip(holes, written, strict=True)
            ]
            values = [one.logprob / 18 for one in score(model, asked, "left_to_right")]
            error = stdev(values) / len(values) ** 0.5
            points.append((mean(one.forwards for one in written), mean(values), error))
        x, y, errors = zip(*points, strict=True)
        axes.errorbar(x, y, errors, fmt="o-", color=colour, ms=4, lw=1.2)
        axes.text(x[-1] * 1.06, y[-1], strategy, color=colour, va="center")
    axes.set(
        xscale="log", xlim=(0.9, 34), xlabel="forwards for each text of 18 tokens",
        ylabel="log-likelihood of what was\nwritten, nats per token",
    )  # fmt: skip
    axes.set_xticks([1, 2, 4, 8, 18], ["1", "2", "4", "8", "18"])
    axes.minorticks_off()
    return saved(figure)


# --- the way of a request -------------------------------------------------------------------------


def request() -> str:
    """The way of one document of a run, with what it was at each place."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            "--model", "tiny", "--tasks", "demo_story_infill", "--limit", "1", "-o", folder,
            "--decode", "steps=4",
        )  # fmt: skip
        (path,) = Path(folder).rglob("samples_*.jsonl")
        sample = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    doc = sample["doc"]
    length = len(load_model("tiny").encode(doc["middle"]))
    answer = sample["resps"][0][0]
    stages = (
        ("document", "a row of the task's data", f"{doc['prefix'].split('. ')[-1]} [ ]"),
        ("canvas", "token ids; some positions are open", f"{length} open positions"),
        ("job", "canvas, settings and seed; the journal's key", "steps=4"),
        ("rows", "one sequence of a forward, in a shared batch", f"{sample['forwards']} forwards"),
        ("tokens", "the strategy writes; into the journal", f"{sample['tokens']} tokens"),
        ("text", "tokens decoded, cut at stop strings", answer.strip()),
        ("score", "lm-eval's filters and metrics", f"rouge1 {sample['rouge1']:.1f}"),
    )  # fmt: skip
    figure, axes = canvas_axes(640, 44 * len(stages) + 16)
    for row, (name, what, value) in enumerate(stages):
        y = 28 + 44 * row
        box(axes, 14, y - 15, 84, 30, CELL)
        label(axes, 56, y, name, ha="center", weight="bold")
        label(axes, 112, y, what, SOFT)
        label(axes, 390, y, value)
        if row + 1 < len(stages):
            arrow = {"arrowstyle": "->", "color": SOFT, "lw": 1}
            axes.annotate("", (56, y + 29), (56, y + 15), arrowprops=arrow)
    return saved(figure)


PICTURES: dict[str, Callable[[], str]] = {
    "trace": trace,
    "canvases": canvases,
    "bracket": bracket,
    "intervals": intervals,
    "quality": quality,
    "request": request,
}


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

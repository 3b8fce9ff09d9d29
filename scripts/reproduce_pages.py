"""Writes the pages of docs/reproduce that are made from data: all suites, memory, and a page for each suite.

python scripts/reproduce_pages.py

Suites are task_configs/suites/*.yaml, sizes are those of checkpoints.yaml, measured figures are read
from leaderboards/*.csv. Memory is computed, not measured.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from dlm_eval.decoding.presets import presets
from dlm_eval.harness.suites import Entry, Suite, suites
from dlm_eval.models.catalog import baselines, checkpoints, own_families

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reproduce"
BYTES = 2  # of a weight in bfloat16 or float16
Measured = dict[tuple[str, str, str], tuple[float, str]]

INDEX = """# Reproduce a paper

A *suite* is a paper's evaluation in one command: its tasks with its prompts, examples, decoding and
metrics. At the end you see a table with the measured and the published figure of every entry, and their
difference in standard errors ([suites](suites.md)).

```bash
dlm-eval --suite demo --model tiny      # on a laptop, seconds
```

Choose a suite from the table, look whether its model fits your GPU, and open its page: it has the
command, every published figure with its table in the paper, the settings, and what differs from the
source. The data sets come from the Hugging Face Hub, or from a folder (`--data_dir`).

## All suites

| suite | what | largest model | weights, computed | figures | measured here |
|---|---|---|---|---|---|
"""
NOTES = """
## Where the numbers come from

* **Memory** is that of 16-bit weights, computed and not measured
  ([what comes on top, and each checkpoint](memory.md)). "-": the number of parameters is not known.
* **Published** figures are quoted from the sources that the suite's YAML names.
  [`leaderboards/published.csv`](../../leaderboards/README.md) has {published} figures in all.
* **Measured** is empty where nothing was run: this project has had no GPU with the checkpoints at hand,
  so it has run no released weights. What it has measured are its own models (`demo`) and answers that
  authors recorded (`d1`).
* **Protocol** says how close an entry is to its source: `same`, `near` (with named departures) or
  `other`. Only `same` and `near` get a difference.

This page, [memory](memory.md) and the pages of the suites are made by `scripts/reproduce_pages.py`.
"""
MEMORY = """# Memory of each checkpoint

Which GPU does a model need? More than its weights, which are **computed and not measured**: parameters x 2
bytes in 16-bit formats, x 4 in float32. A mixture of experts needs all of its weights.

On top come, for each row of a batch:

* float32 logits: open positions x vocabulary x 4 bytes. 1024 positions with LLaDA's 126464 tokens are 0.52 GB;
* activations, and the KV cache of block-causal models.

`--dry_run` prints what is known of these for your tasks ([guide](../guides/dry-run.md)).

| checkpoint | family | parameters, 10^9 | 16-bit weights | 32-bit weights |
|---|---|---|---|---|
"""
NOT_RUN = "<!-- not run: elsewhere, tests/test_suites_tasks.py runs every entry -->\n\n"


def gigabytes(size: float | None, bytes_each: int = BYTES) -> str:
    """Returns the memory of a model's weights, in GB; at least two digits."""
    if size is None:
        return "-"
    found = size * bytes_each / 1e9
    return f"{found:.1f} GB" if found >= 1 else f"{found:.2g} GB"


def size_of(model: str) -> float | None:
    """Returns the parameters of a checkpoint, a family's default or a baseline, or None."""
    known, families = checkpoints(), own_families()
    if model in baselines():
        return float(baselines()[model]["size"])
    name = model if model in known else families[model].default if model in families else None
    return known[name].size if name is not None else None


def measured() -> Measured:
    """Returns the figures measured here: (task, checkpoint, tokens of the canvas or '') -> value, n."""
    found = {}
    for name in ("demo", "d1"):
        text = (ROOT / "leaderboards" / f"{name}.csv").read_text(encoding="utf-8")
        for row in csv.DictReader(text.splitlines()):
            if row.get("board_kind") == "published":
                continue
            length = row["gen_length"] if name == "d1" else ""
            metric = f"{row['task']} {row['metric']}"
            found[metric, row["checkpoint"], length] = float(row["value"]), row["n"]
    return found


def measured_figure(entry: Entry, model: str, known: Measured) -> str:
    """Returns the measured figure of one entry as printed; empty if there is none."""
    rows = checkpoints()
    known_as = rows[model].options.get("pretrained", model) if model in rows else model
    length = str((entry.conditions.decode or {}).get("gen_length", ""))
    for name in (model, known_as):
        for tokens in (length, ""):
            if found := known.get((f"{entry.task} {entry.metric}", name, tokens)):
                return f"{found[0] * entry.scale:.2f} (n={found[1]})"
    return ""


def row(*cells: str) -> str:
    """Returns a row of a table; a bar in a cell does not end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(heads: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([row(*heads), "|" + "---|" * len(heads), *rows]) + "\n"


def index(known: Measured) -> str:
    """Returns the page of all suites."""
    lines = (ROOT / "leaderboards" / "published.csv").read_text(encoding="utf-8").splitlines()
    published = sum(1 for _ in csv.DictReader(lines))
    rows = [overview(suite, known) for suite in suites().values()]
    return INDEX + "\n".join(rows) + "\n" + NOTES.format(published=published)


def overview(suite: Suite, known: Measured) -> str:
    """Returns the suite's row of the table of all suites."""
    sizes = [(size_of(model) or 0.0, model) for model in suite.models]
    largest, model = max(sizes)
    figures = [(entry, name) for entry in suite.entries for name in entry.published]
    done = sum(bool(measured_figure(*one, known)) for one in figures)
    return row(
        f"[`{suite.suite}`](suite/{suite.suite}.md)",
        _sentence(suite.about).rstrip("."),
        f"`{model}`",
        gigabytes(largest or None),
        str(len(figures) or ""),
        f"{done} of {len(figures)}" if done else "",
    )


def memory() -> str:
    """Returns the page of memory per checkpoint."""
    rows = [
        row(
            f"`{one.name}`",
            one.family,
            f"{one.size / 1e9:.3g}",
            gigabytes(one.size),
            gigabytes(one.size, 2 * BYTES),
        )
        for one in checkpoints().values()
        if one.size is not None
    ]
    return MEMORY + "\n".join(rows) + "\n"


def suite_page(suite: Suite, known: Measured) -> str:
    """Returns the page of one suite."""
    code = " --confirm_run_unsafe_code" if any(entry.code for entry in suite.entries) else ""
    sizes = [
        row(f"`{model}`", "-" if size is None else f"{size / 1e9:.3g}", gigabytes(size))
        for model, size in ((model, size_of(model)) for model in suite.models)
    ]
    parts = [
        f"# {suite.suite}\n\n{_sentence(suite.about)} Source: {suite.source}.\n",
        f"{NOT_RUN}```bash\ndlm-eval --suite {suite.suite}{code}\n```\n",
        "The first model is the default of `--model`. Weights are [computed](../memory.md) for 16 bits.\n",
        table(("model", "parameters, 10^9", "weights, computed"), sizes),
        *figures(suite, known),
        "## Entries\n\n`--tasks NAME` runs one of them. `tested with` says which documents our tests use: the real "
        "files, `ours` (made for the tests), or none (`hub`).\n",
        table(
            ("entry", "task", "settings", "metric", "tested with"),
            [settings(entry) for entry in suite.entries],
        ),
        *presets_of(suite),
        *departures(suite),
    ]
    return "\n".join(parts)


def figures(suite: Suite, known: Measured) -> list[str]:
    """Returns the section of published figures, empty without any."""
    every = [(entry, model) for entry in suite.entries for model in entry.published]
    if not every:
        return []
    sources = {entry.sources.get("published", suite.source) for entry, _ in every}
    heads = ("entry", "metric", "model", "published", "measured", "protocol")
    rows = []
    for entry, model in every:
        cells = [
            entry.entry,
            metric_of(entry),
            f"`{model}`",
            f"{entry.published[model]:g}",
            measured_figure(entry, model, known),
            entry.protocol or "",
        ]
        if len(sources) > 1:
            cells.append(entry.sources.get("published", suite.source))
        rows.append(row(*cells))
    where = f"Published: {sources.pop()}. " if len(sources) == 1 else ""
    text = (
        f"## Figures\n\n{where}[Where the numbers come from](../index.md#where-the-numbers-come-from) "
        "says what an empty cell and `protocol` mean.\n"
    )
    return [text, table(heads if where else (*heads, "published in"), rows)]


def metric_of(entry: Entry) -> str:
    return ",".join(filter(None, (entry.metric, entry.filter)))


def settings(entry: Entry) -> str:
    """Returns the entry's row of the table of settings."""
    own = entry.conditions
    found = [f"{own.num_fewshot}-shot"] if own.num_fewshot is not None else []
    found += ["chat"] if own.apply_chat_template else []
    found += [f"{key}={value}" for key, value in (own.decode or {}).items()]
    found += [own.estimator] if own.estimator else []
    found += [f"repeats={own.repeats}"] if own.repeats else []
    found += [f"limit={own.limit}"] if own.limit else []
    return row(entry.entry, f"`{entry.task}`", ", ".join(found), metric_of(entry), entry.data or "")


def presets_of(suite: Suite) -> list[str]:
    """Returns the section of the presets that entries name, empty without any."""
    names = dict.fromkeys((entry.conditions.decode or {}).get("preset") for entry in suite.entries)
    rows = []
    for found in (presets()[name] for name in names if name in presets()):
        values = ", ".join(f"{key}={value}" for key, value in found.settings.items())
        rows.append(row(f"`{found.name}`", values, found.source))
    text = (
        "## Presets\n\nWhat the presets of the entries stand for. A setting that is not named has its default "
        "([decoding](../../reference/decoding.md)).\n"
    )
    return [text, table(("preset", "settings", "source"), rows)] if rows else []


def departures(suite: Suite) -> list[str]:
    """Returns what differs from the source, and what is out of reach."""
    found = [f"* All entries: {text}" for text in suite.departures]
    for text in dict.fromkeys(text for entry in suite.entries for text in entry.departures):
        names = [entry.entry for entry in suite.entries if text in entry.departures]
        found.append(f"* {', '.join(names)}: {text}")
    parts = ["## What differs from the source\n\n" + "\n".join(found) + "\n"] if found else []
    if suite.out_of_reach:
        lines = [f"* {one.benchmark}: {one.reason}" for one in suite.out_of_reach]
        parts.append("## Out of reach\n\n" + "\n".join(lines) + "\n")
    return parts


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def pages() -> dict[Path, str]:
    """Returns all pages of today by their path."""
    known = measured()
    return {
        FOLDER / "index.md": index(known),
        FOLDER / "memory.md": memory(),
        **{
            FOLDER / "suite" / f"{one.suite}.md": suite_page(one, known)
            for one in suites().values()
        },
    }


if __name__ == "__main__":
    made = pages()
    (FOLDER / "suite").mkdir(exist_ok=True)
    for path in set((FOLDER / "suite").glob("*.md")) - set(made):
        path.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {FOLDER}", file=sys.stderr)

"""Writes docs/reproduce/index.md: each suite with its command, memory, published and measured figures.

python scripts/reproduce_page.py

Suites are task_configs/suites/*.yaml, sizes are those of checkpoints.yaml, measured figures are read
from leaderboards/*.csv. Memory is computed, not measured.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from dlm_eval.harness.suites import Entry, Suite, suites
from dlm_eval.models.catalog import baselines, checkpoints, own_families

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reproduce" / "index.md"
BYTES = 2  # of a weight in bfloat16 or float16
POSITIONS, VOCABULARY = 1024, 157184  # of a row's logits: the largest vocabulary known (LLaDA2)
LOGITS = POSITIONS * VOCABULARY * 4  # float32
HEAD = f"""# Reproduce a paper

A [suite](suites.md) is a paper's evaluation in one command. This page lists all of them. It is made
by `scripts/reproduce_page.py` from the suites and from `leaderboards/`.

* **Memory** is computed, not measured: parameters x {BYTES} bytes (16-bit weights), plus
  {LOGITS / 1e9:.2f} GB for the float32 logits of one row with {POSITIONS} open positions and
  {VOCABULARY} tokens (the largest vocabulary here). Activations, KV cache and further rows of a batch
  come on top; `--dry_run` prints what is known of them. "-": the number of parameters is not known.
* **Measured**: this project has run no released weights, because it has had no GPU with the checkpoints
  at hand. What it has measured are its own models (`demo`) and answers that authors recorded (`d1`).
* **Published** figures are quoted from the sources in the suite's YAML; `dlm-eval show SUITE` prints
  them with departures. `leaderboards/published.csv` has {{published}} figures in all.

The data sets come from the Hugging Face Hub, or from a folder (`--data_dir`).

## All suites

`dlm-eval --suite NAME` runs one.

| suite | what | largest model | memory, computed | entries | with a figure | measured here |
|---|---|---|---|---|---|---|
"""


def gigabytes(size: float | None) -> str:
    """Returns the memory of a model with `size` parameters, in GB."""
    return "-" if size is None else f"{(size * BYTES + LOGITS) / 1e9:.1f} GB"


def size_of(model: str) -> float | None:
    """Returns the parameters of a checkpoint, a family's default or a baseline, or None."""
    known, families = checkpoints(), own_families()
    if model in baselines():
        return float(baselines()[model]["size"])
    name = model if model in known else families[model].default if model in families else None
    return known[name].size if name is not None else None


def measured() -> dict[tuple[str, str, str], tuple[float, str]]:
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


def measured_figure(
    entry: Entry, model: str, known: dict[tuple[str, str, str], tuple[float, str]]
) -> str:
    """Returns the measured figure of one entry as printed, or the reason why there is none."""
    rows = checkpoints()
    known_as = rows[model].options.get("pretrained", model) if model in rows else model
    length = str((entry.conditions.decode or {}).get("gen_length", ""))
    for name in (model, known_as):
        for tokens in (length, ""):
            if found := known.get((f"{entry.task} {entry.metric}", name, tokens)):
                return f"{found[0] * entry.scale:.2f} (n={found[1]})"
    return "not measured here: no GPU and weights"


def overview(suite: Suite, known: dict[tuple[str, str, str], tuple[float, str]]) -> str:
    """Returns the suite's row of the first table."""
    sizes = [(size_of(model) or 0.0, model) for model in suite.models]
    largest, model = max(sizes)
    figures = [(entry, name) for entry in suite.entries for name in entry.published]
    done = [one for one in figures if measured_figure(*one, known)[0].isdigit()]
    cells = (
        f"[`{suite.suite}`](suites.md)", suite.about, f"`{model}`", gigabytes(largest or None), str(len(suite.entries)), str(len(figures)),
        f"{len(done)} of {len(figures)}" if figures else "-",
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def figures(suite: Suite, known: dict[tuple[str, str, str], tuple[float, str]]) -> str:
    """Returns the table of the suite's published figures."""
    rows = [
        f"| {entry.entry} | `{model}` | {figure:g} | {entry.sources.get('published', suite.source)} "
        f"| {entry.protocol or '-'} | {measured_figure(entry, model, known)} |"
        for entry in suite.entries
        for model, figure in entry.published.items()
    ]
    if not rows:
        return ""
    memory = ", ".join(f"`{model}` {gigabytes(size_of(model))}" for model in suite.models)
    command = f"```bash\ndlm-eval --suite {suite.suite} --confirm_run_unsafe_code\n```\n"
    return (
        f"### {suite.suite}\n\n{suite.about}. Source: {suite.source}.\n\n{command}\n"
        f"Memory, computed: {memory}.\n\n"
        "| entry | model | published | source | protocol | measured |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def models() -> str:
    """Returns the table of memory per checkpoint."""
    rows = [
        f"| `{one.name}` | {one.family} | {one.size / 1e9:.3g} | {gigabytes(one.size)} "
        f"| {(one.size * BYTES * 2 + LOGITS) / 1e9:.1f} GB |"
        for one in checkpoints().values()
        if one.size is not None
    ]
    return (
        "## Memory of each checkpoint\n\nComputed as above; the last column is for 32-bit weights. A "
        "mixture of experts needs all of its weights.\n\n"
        "| checkpoint | family | parameters, 10^9 | 16-bit weights and a row | 32-bit |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def page() -> str:
    """Returns the page of today."""
    known = measured()
    lines = (ROOT / "leaderboards" / "published.csv").read_text(encoding="utf-8").splitlines()
    published = sum(1 for _ in csv.DictReader(lines))
    every = suites().values()
    tables = [figures(suite, known) for suite in every]
    return (
        HEAD.format(published=published)
        + "\n".join(overview(suite, known) for suite in every)
        + "\n\n"
        + models()
        + "\n## Published figures, by suite\n\n"
        + "\n".join(filter(None, tables))
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)

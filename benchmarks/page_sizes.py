"""Sizes of the web pages of results in kB: the table of docs/guides/view.md.

    python benchmarks/page_sizes.py

The packaged models are those of leaderboards/demo; other result files are written with drawn scores
and texts of fixed length. Nothing is run.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from run_files import write_run  # noqa: E402

from dlm_eval.reports.pages.index import index_page  # noqa: E402
from dlm_eval.reports.pages.samples import samples_page  # noqa: E402
from dlm_eval.reports.pages.site import Site, read_site  # noqa: E402

MODELS, TASKS, DOCUMENTS = 20, 20, 50
GSM8K, PROMPT, ANSWER = 1319, 1000, 600  # documents; characters


def text(draw: random.Random, length: int) -> str:
    """Returns drawn letters and spaces."""
    return "".join(draw.choices("etaoinshrdlu ", k=length))


def write_model(folder: Path, number: int, tasks: list[str], n: int, answer: int) -> None:
    """Writes a run of a model with its costs, so that it is in charts."""
    draw = random.Random(number)
    scores = {task: [float(draw.random() < 0.5) for _ in range(n)] for task in tasks}
    cost = {
        "samples": n, "requests": n, "errors": 0, "forwards": (1 + number) * n, "rows": 1,
        "tokens": 8 * n, "seconds": 1.0,
    }  # fmt: skip
    block = {
        "label": f"model{number}",
        "settings": {"model": {"family": "made", "pretrained": f"model{number}"}},
        "cost": dict.fromkeys(tasks, cost),
    }
    answers = [text(draw, answer) for _ in range(n)]
    prompt = text(random.Random(0), PROMPT)
    file = write_run(folder / f"m{number}", scores, answers=answers, prompt=prompt, block=block)
    document = json.loads(file.read_text())
    document["config"]["model_args"] = f"pretrained=model{number}"  # or all are one configuration
    file.write_text(json.dumps(document))


def site_of(folder: Path, tasks: list[str], n: int, answer: int) -> Site:
    """Returns the site of 20 models."""
    for number in range(MODELS):
        write_model(folder, number, tasks, n, answer)
    return read_site([folder])


def show(what: str, page: str) -> None:
    print(f"{what}: {len(page.encode()) / 1000:.0f} kB")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show(
            "index of the packaged models", index_page(read_site([ROOT / "leaderboards" / "demo"]))
        )
        page = index_page(
            site_of(folder / "many", [f"task_{n}" for n in range(TASKS)], DOCUMENTS, 10)
        )
        show(f"index of {MODELS} models by {TASKS} tasks, {page.count('<figure')} charts", page)
        site = site_of(folder / "gsm8k", ["gsm8k"], GSM8K, ANSWER)
        first = next(iter(site.pages.values()))
        show(f"samples of GSM8K, {len(site.peers(first))} other runs", samples_page(site, first))


if __name__ == "__main__":
    main()

"""The pages of docs/reproduce that are made from data are what scripts/reproduce_pages.py writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "reproduce_pages.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce_pages", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date() -> None:
    module = load()
    made = module.pages()
    assert len(made) > 25
    assert set((module.FOLDER / "suite").glob("*.md")) <= set(made), "a page of no suite"
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run python scripts/reproduce_pages.py"


def test_measured_figures_stand_beside_the_published_ones() -> None:
    module = load()
    known = module.measured()
    demo, llada = module.suites()["demo"], module.suites()["llada_base"]
    assert "| choice | acc | `tiny` | 76 | 76.00 (n=100) | same |" in module.suite_page(demo, known)
    assert "| 10 of 10 |" not in module.overview(llada, known)
    assert module.overview(demo, known).endswith("| 10 | 10 of 10 |")
    assert module.overview(llada, known).endswith("| 20 |  |")


def test_memory_is_that_of_the_weights() -> None:
    module = load()
    assert module.size_of("llada-8b-base") == 8.0e9
    assert module.gigabytes(8.0e9) == "16.0 GB" and module.gigabytes(3.4e6) == "0.0068 GB"
    assert module.gigabytes(None) == "-"

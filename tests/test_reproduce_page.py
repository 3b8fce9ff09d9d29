"""docs/reproduce/index.md is what scripts/reproduce_page.py writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "reproduce_page.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce_page", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    module = load()
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def test_memory_is_weights_and_one_row_of_logits() -> None:
    module = load()
    assert module.size_of("llada-8b-base") == 8.0e9
    assert module.gigabytes(8.0e9) == "16.6 GB"  # 16 + 1024 * 157184 * 4 / 1e9
    assert module.gigabytes(None) == "-"

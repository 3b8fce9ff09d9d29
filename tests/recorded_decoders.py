"""Recorded outputs of published decoders (goldens/decoders), and the checkpoints that they are of."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.models import load_model

BOTH = pytest.mark.parametrize("model", ["llada", "dream"])


@cache
def loaded(folder: Path) -> Any:
    return load_model(folder.name, pretrained=str(folder), dtype="float32", device="cpu")


def recorded(shared: Path, decoder: str, model: str) -> tuple[dict[str, Any], Any]:
    path = shared / "goldens" / "decoders" / f"{decoder}_{model}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record, loaded(shared / "goldens" / model)

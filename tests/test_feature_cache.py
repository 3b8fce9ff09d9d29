"""dLLM-Cache: the tokens of the authors' hooks, what is computed, and independence of batch mates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_eval import Canvas, UserError, decoding, load_model
from dlm_eval.engine import Engine
from dlm_eval.models.feature_cache import FeatureCache, FeaturePass

WHOLE = {"early_exit": False}
DREAM = {
    "entropy": "dream_entropy",
    "maskgit_plus": "dream_maskgit_plus",
    "topk_margin": "dream_topk_margin",
}


@pytest.fixture(scope="module", params=["llada", "dream"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(shared: Path, family: str) -> Any:
    return load_model(
        family, pretrained=str(shared / "goldens" / family), dtype="float32", device="cpu"
    )


def cases(shared: Path, family: str) -> tuple[float, list[dict[str, Any]]]:
    path = shared / "goldens" / "decoders" / f"dllm_cache_{family}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    return record["logits_scale"], record["cases"]


def options(settings: dict[str, Any], scale: float) -> tuple[int, dict[str, Any]]:
    """Length of the hole, and our settings for a recorded case."""
    cache = {
        "cache": "dllm",
        **{
            k: settings[k]
            for k in ("prompt_interval_steps", "gen_interval_steps", "transfer_ratio")
        },
    }
    shared_by_both = {**cache, "steps": settings["steps"], "logits_temp": 1 / scale, **WHOLE}
    if "alg" in settings:
        return settings["max_new_tokens"], {"preset": DREAM[settings["alg"]], **shared_by_both}
    return settings["gen_length"], {"block_length": settings["block_length"], **shared_by_both}


def test_the_authors_tokens(shared: Path, family: str, model: Any) -> None:
    scale, recorded = cases(shared, family)
    differ = []
    for case in recorded:
        length, settings = options(case["settings"], scale)
        seen: list[list[int]] = []
        begin = len(case["prompt"])

        def trace(
            _: int, step: decoding.TraceStep, seen: list[list[int]] = seen, begin: int = begin
        ) -> None:
            seen.append(sorted(one - begin for one in step.written))

        canvas = Canvas.completion(case["prompt"], length)
        filling = decoding.fill(model, [canvas], trace=trace, **settings)[0]
        steps = [sorted(step) for step in case["steps"] if step]
        if (list(filling.tokens), filling.forwards, seen) != (
            case["tokens"],
            case["forwards"],
            steps,
        ):
            differ.append((case["settings"], filling.forwards, case["forwards"]))
    assert not differ, f"{len(differ)} of {len(recorded)}: {differ}"

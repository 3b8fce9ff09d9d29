"""Checkpoints of random weights for suites of models that are no LLaDA, with room for 2048 positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models_builders as build
import test_models_ar2diff
import test_models_ddlm
import test_models_diffusionllm
from safetensors.torch import save_file

POSITIONS = 2048


def ddlm(folder: Path) -> Path:
    model = test_models_ddlm.network(max_position_embeddings=POSITIONS)
    return test_models_ddlm.checkpoint(folder, model)


def ar2diff(folder: Path) -> Path:
    model = build.llama(is_causal=True, max_position_embeddings=POSITIONS)
    return test_models_ar2diff.checkpoint(folder, model)


def diffusionllm(folder: Path) -> Path:
    """XLM-R with a length head; four positions are <s>, </s> and the two before the first."""
    model, head = test_models_diffusionllm.network(positions=POSITIONS + 4)
    model.save_pretrained(folder)
    test_models_diffusionllm.tokenizer().save_pretrained(folder)
    save_file(head.state_dict(), folder / test_models_diffusionllm.LENGTH_FILE)
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "ar2diff": ar2diff,
    "ddlm": ddlm,
    "diffusionllm": diffusionllm,
}

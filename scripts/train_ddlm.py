"""Trains a small DDLM (CDCD) end to end on generated stories: continuous diffusion over embeddings.

    python scripts/train_ddlm.py --out DIR
    dlm-eval --model ddlm --model_args pretrained=DIR --tasks ...

Seeded, about three minutes of one core; more --steps teach it more. Writes config.json, model.safetensors in float16 and the tokenizer of `tiny`. Dieleman et al. 2022 (CDCD): cross-entropy on noisy
normalised embeddings, self-conditioning in half of the steps, given tokens clean, noise levels drawn by a time warp fitted to the loss.
B rows per batch, L positions, D embedding size, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from train_sundae import story_rows, train_phase
from train_tiny import BOS_ID, EOS_ID, PAD_ID, Row, collate
from transformers import PreTrainedTokenizerFast

from dlm_eval.models import packaged_asset
from dlm_eval.models.families.ddlm import CDCD, CDCDConfig

BINS = 32  # knots of the time warp
FLAT = 0.2  # share of noise levels drawn evenly in log t, so that no level is forgotten


@dataclass(frozen=True)
class Plan:
    """What a training run is made of."""

    steps: int = 1500
    rows: int = 20
    lr: float = 4e-3
    seed: int = 0


class Warp:
    """The loss as a function of the noise level, and noise levels drawn where it rises (CDCD 3.4: uniform in entropy)."""

    def __init__(self, config: CDCDConfig) -> None:
        self.edges = np.exp(np.linspace(np.log(config.t_min), np.log(config.t_max), BINS + 1))
        self.loss = np.zeros(BINS)
        self.seen = np.zeros(BINS)

    def cdf(self) -> np.ndarray:
        """Returns [BINS + 1] the share of noise levels below each edge."""
        even = np.linspace(0, 1, BINS + 1)
        if (self.seen < 20).any():
            return even
        # The loss rises with the noise; what does not rise is sampling noise.
        rise = np.diff(np.maximum.accumulate(self.loss), prepend=0.0)
        return FLAT * even + (1 - FLAT) * np.concatenate([[0], np.cumsum(rise) / rise.sum()])

    def draw(self, uniform: Tensor) -> Tensor:
        """Returns noise levels [B] from uniforms [B]."""
        return torch.from_numpy(np.interp(uniform.numpy(), self.cdf(), self.edges)).float()

    def note(self, level: Tensor, loss: Tensor) -> None:
        """Takes in losses [B] at noise levels [B]."""
        bins = np.clip(np.searchsorted(self.edges, level.numpy()) - 1, 0, BINS - 1)
        for place, value in zip(bins, loss.tolist(), strict=True):
            rate = max(0.02, 1 / (self.seen[place] + 1))
            self.loss[place] += rate * (value - self.loss[place])
            self.seen[place] += 1


def build_model(plan: Plan, vocab_size: int) -> CDCD:
    """A network of about 0.45 million parameters; its blocks do nothing at first."""
    torch.manual_seed(plan.seed)
    model = CDCD(CDCDConfig(vocab_size, 32, 80, 64, layers=3, heads=4, max_position_embeddings=128))
    for block in model.blocks:
        torch.nn.init.zeros_(block.adaLN_modulation.weight)
        torch.nn.init.zeros_(block.adaLN_modulation.bias)
    return model


def denoising_loss(model: CDCD, batch: list[Row], generator: torch.Generator, warp: Warp) -> Tensor:
    """Nats per open token, from noisy embeddings at noise levels drawn by the warp."""
    tokens, valid, open_ = collate(batch)
    share = (
        torch.randperm(len(batch), generator=generator) + torch.rand(1, generator=generator)
    ) / len(batch)
    level = warp.draw(share)
    clean = model.table[tokens]
    x = clean + level[:, None, None] * torch.randn(clean.shape, generator=generator)
    place, mask = torch.arange(tokens.shape[1])[None], valid[:, None, None, :]
    estimate = torch.zeros_like(clean)
    if torch.rand(1, generator=generator) < 0.5:
        with torch.no_grad():
            guess = model.head(model(x, estimate, clean, open_, level, place, mask)).softmax(-1)
            estimate = guess @ model.table
    states = model(x, estimate, clean, open_, level, place, mask)
    loss = F.cross_entropy(model.head(states[open_]), tokens[open_], reduction="none")
    rows = torch.arange(len(tokens))[:, None].expand_as(tokens)[open_]
    mean = torch.zeros(len(tokens)).index_add(0, rows, loss.detach()) / open_.sum(1)
    warp.note(level, mean)
    return loss.mean()


def save(model: CDCD, warp: Warp, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the folder that --model ddlm reads; the weights appear whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().half().contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").chmod(0o644)
    os.replace(folder / "model.safetensors.part", folder / "model.safetensors")
    knots = {"warp_times": warp.edges.round(5).tolist(), "warp_cdf": warp.cdf().round(5).tolist()}
    special = {"pad_token_id": PAD_ID, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    config = {"model_type": "ddlm", "dtype": "float16", **asdict(model.config), **knots, **special}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)


def train(plan: Plan, folder: Path) -> None:
    """Trains and writes the folder."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(packaged_asset("tiny"))
    model = build_model(plan, len(tokenizer))
    print(
        json.dumps(
            {"parameters": sum(p.numel() for p in model.parameters()), "vocab": len(tokenizer)}
        ),
        flush=True,
    )
    warp, rows = Warp(model.config), story_rows(tokenizer, plan.seed)
    train_phase(model, lambda m, b, g: denoising_loss(m, b, g, warp), rows, plan, "ddlm")
    save(model, warp, tokenizer, folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("steps", "rows", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name))
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(replace(Plan(), steps=args.steps, rows=args.rows, lr=args.lr, seed=args.seed), args.out)


if __name__ == "__main__":
    main()

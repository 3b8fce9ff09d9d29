"""Trains a small AR2Diff model end to end on generated stories: autoregressive first, then SUNDAE on random tokens.

    python scripts/train_sundae.py --out DIR
    dlm-eval --model ar2diff --model_args pretrained=DIR --tasks ...

Seeded, about three minutes of one core; more --steps teach it more. Writes a hub-style folder in float16. Savinov et al. 2022 (SUNDAE, L(1:2)); Han et al. 2024 (AR2Diff 4.1: tokens of the answer alone are
corrupted, the unrolled step takes the most probable tokens). As `tiny`, it learns whole stories at middling noise first, then holes in them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tiny_text import training_documents
from train_tiny import (
    BASE_RATES,
    BASE_SHARE,
    BOS_ID,
    EOS_ID,
    PAD_ID,
    Row,
    Settings,
    collate,
    learning_rate,
    make_row,
    next_token_loss,
    save,
    split_units,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dlm_eval.models import packaged_asset

LENGTH = 96
Loss = Callable[[Any, list[Row], torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """What a training run is made of."""

    ar_steps: int = 150
    steps: int = 1200
    rows: int = 20
    lr: float = 4e-3
    seed: int = 0


def build_model(plan: Plan, vocab_size: int) -> LlamaForCausalLM:
    """A Llama of about 0.4 million parameters."""
    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    return model


def sundae_loss(
    model: LlamaForCausalLM, batch: list[Row], generator: torch.Generator
) -> torch.Tensor:
    """Nats per open token: a random share of them is replaced by random tokens and undone, then the model's own guess is undone.

    Every open token counts, whether it was replaced or not; the rest of a row is given and stays.
    """
    tokens, valid, open_ = collate(batch)
    even = (
        torch.randperm(len(batch), generator=generator) + torch.rand(1, generator=generator)
    ) / len(batch)
    low, high = torch.tensor([row.rates for row in batch]).T
    share = low + (high - low) * even
    hit = open_ & (torch.rand(tokens.shape, generator=generator) < share[:, None])
    noise = torch.randint(model.config.vocab_size, tokens.shape, generator=generator)
    current, total = torch.where(hit, noise, tokens), torch.zeros(())
    for _ in range(2):
        states = model.model(current, attention_mask=valid.long()).last_hidden_state
        logits = model.lm_head(states[open_]).float()
        total = total + F.cross_entropy(logits, tokens[open_]) / 2
        current = current.masked_scatter(open_, logits.argmax(-1))
    return total


def story_rows(tokenizer: PreTrainedTokenizerFast, seed: int, whole: int = 0) -> Iterator[Row]:
    """Endless rows of stories as `tiny` learns them: the first `whole` are open from end to end, of the others parts are."""
    encode = lru_cache(50_000)(lambda text: tokenizer.encode(text, add_special_tokens=False))
    rng, seen = random.Random(f"stories-{seed}"), 0
    for document in training_documents(seed):
        if document.family == "story":
            units = [encode(unit) for unit in split_units(document)]
            row = make_row(document, units, rng)
            if seen < whole:
                tokens = [BOS_ID, *itertools.chain(*units), EOS_ID]
                row = Row(tokens, range(1, len(tokens)), BASE_RATES)
            if len(row.tokens) <= LENGTH:
                seen += 1
                yield row


def train_phase(
    model: torch.nn.Module, loss_of: Loss, rows: Iterator[Row], plan: Any, name: str
) -> None:
    """Trains as `plan` says (steps, rows, lr, seed) and prints one JSON line per 100 steps."""
    schedule = Settings(steps=plan.steps, lr=plan.lr)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    generator = torch.Generator().manual_seed(plan.seed)
    total, began = 0.0, time.monotonic()
    for step in range(1, plan.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        loss = loss_of(model, list(itertools.islice(rows, plan.rows)), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % 100 == 0:
            minutes = round((time.monotonic() - began) / 60, 2)
            print(
                json.dumps(
                    {"phase": name, "step": step, "loss": round(total / 100, 4), "minutes": minutes}
                ),
                flush=True,
            )
            total = 0.0


def train(plan: Plan, folder: Path) -> None:
    """Trains both phases and writes the folder."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(packaged_asset("tiny"))
    model = build_model(plan, len(tokenizer))
    print(
        json.dumps(
            {"parameters": sum(p.numel() for p in model.parameters()), "vocab": len(tokenizer)}
        ),
        flush=True,
    )
    rows = story_rows(
        tokenizer, plan.seed, int(plan.rows * (plan.ar_steps + BASE_SHARE * plan.steps))
    )
    train_phase(model, next_token_loss, rows, replace(plan, steps=plan.ar_steps), "autoregressive")
    model.config.is_causal = False
    train_phase(model, sundae_loss, rows, plan, "sundae")
    save(model, tokenizer, folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("ar_steps", "steps", "rows", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name))
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(Plan(args.ar_steps, args.steps, args.rows, args.lr, args.seed), args.out)


if __name__ == "__main__":
    main()

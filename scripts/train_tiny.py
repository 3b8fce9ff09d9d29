"""Trains the two models that travel with dlm_eval, on text from tiny_text.py: one CPU core, seeded, half an hour each.

    python scripts/train_tiny.py --model tiny        # masked diffusion, bidirectional, no shift
    python scripts/train_tiny.py --model tiny-ar     # its autoregressive twin: same text, size, steps and tokens

Each writes a hub-style folder (config.json, model.safetensors in float16, tokenizer files) under dlm_eval/assets/.
B rows per batch, L positions, V vocabulary.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_text import Document, training_documents
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, MASK = "<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>"
PAD_ID, BOS_ID, EOS_ID, MASK_ID = range(4)
MAX_LENGTH = 128
# A newline, a digit and an indent stand alone and a space goes with the word after it, so a text cut before a space or
# after a newline has the tokens of its halves.
PIECES = Regex(r"\n| ?\d| ?_?[A-Za-z]+| ?[^\sA-Za-z0-9]+| +(?! )|\s")


@dataclass(frozen=True)
class Settings:
    """What a training run is made of; the shipped checkpoints use the defaults."""

    model: str = "tiny"
    steps: int = 5000
    batch_tokens: int = 2048
    lr: float = 2e-3
    seed: int = 0
    again: bool = False
    bf16: bool = True
    compile: bool = True
    hidden: int = 256
    layers: int = 4


@dataclass(frozen=True)
class Row:
    """One training sequence: tokens, the positions of it that may be masked, and the range of the rate at which they are."""

    tokens: list[int]
    maskable: Collection[int]
    rates: tuple[float, float] = (0.0, 1.0)


def train_tokenizer(seed: int, documents: int = 20000) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 1024 tokens over the generated text; nothing is added to a text on encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[PAD, BOS, EOS, MASK],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = (document.text for document in itertools.islice(training_documents(seed), documents))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        mask_token=MASK,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def build_model(settings: Settings, vocab_size: int) -> LlamaForCausalLM:
    """A Llama of about 3.4 million parameters; `tiny` differs from `tiny-ar` by is_causal=False and its mask id."""
    diffusion = settings.model == "tiny"
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        intermediate_size=settings.hidden * 11 // 4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        rms_norm_eps=1e-5,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        use_cache=not diffusion,
    )
    if diffusion:
        config.is_causal = False
        config.mask_token_id = MASK_ID
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # for rows this short the quickest way back on a CPU
    return model


def split_units(document: Document) -> list[str]:
    """The document as units that a task may ask for: sentences, lines, or prompt and answer."""
    if document.family == "story":
        first, *rest = document.parts["sentences"]
        return [first, *(" " + sentence for sentence in rest)]
    if document.family == "function":
        return list(document.parts["lines"])
    return [document.prompt, document.text[len(document.prompt) :]]


BASE_SHARE = 0.6  # of the training is spent on whole documents, 15 to 70 % masked, before holes in the shape of tasks
BASE_RATES = (0.15, 0.7)
# After that, how often each family is seen: whole; with a scattered third of it open; completed to the end (with eos); completed
# and cut off; with a hole in the middle.
MODES = {
    "story": (0.10, 0.40, 0.05, 0.25, 0.20),
    "problem": (0.05, 0.25, 0.55, 0.10, 0.05),
    "function": (0.05, 0.35, 0.10, 0.05, 0.45),
}


def make_row(document: Document, units: list[list[int]], rng: random.Random) -> Row:
    """One row for the diffusion model. A quarter of the rows has no bos, so that the model can do without."""
    head = [BOS_ID] if rng.random() < 0.75 else []
    tokens = head + [token for unit in units for token in unit]
    edges = [
        len(head) + edge for edge in itertools.accumulate((len(unit) for unit in units), initial=0)
    ]
    mode = rng.choices(("whole", "scattered", "complete", "cut", "hole"), MODES[document.family])[0]
    unit = rng.randrange(1, len(units))
    start, end = edges[unit], edges[unit + 1]
    if mode == "whole":
        return Row([*tokens, EOS_ID], range(len(head), len(tokens) + 1))
    if mode == "scattered":
        share = rng.uniform(0.1, 0.5)
        return Row(
            [*tokens, EOS_ID],
            [at for at in range(len(head), len(tokens)) if rng.random() < share] or [start],
        )
    if mode == "complete":  # further eos, so that a canvas longer than the answer ends in eos
        tokens += [EOS_ID] * (1 + rng.choice((rng.randint(0, 4), rng.randint(0, 24))))
        return Row(tokens, range(start, len(tokens)))
    if rng.random() < 0.4:  # any span inside the unit
        start = rng.randrange(start, end)
        end = rng.randint(start + 1, end)
    if mode == "cut":  # often without the full stop, often only the last word
        end = end - 1 if end - start > 1 and rng.random() < 0.3 else end
        return Row(tokens[:end], range(end - 1 if rng.random() < 0.2 else start, end))
    return Row([*tokens, *([EOS_ID] if rng.random() < 0.5 else [])], range(start, end))


def rows(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Iterator[Row]:
    """Endless rows; both models see the same documents in the same order."""
    encode = lru_cache(200_000)(lambda text: tokenizer.encode(text, add_special_tokens=False))
    rng, seen = random.Random(f"rows-{settings.seed}"), 0
    for document in training_documents(settings.seed):
        units = [encode(unit) for unit in split_units(document)]
        base = (
            rng.random() < 0.5
            if settings.again
            else seen < BASE_SHARE * settings.steps * settings.batch_tokens
        )
        if settings.model == "tiny" and base:
            tokens = [*([BOS_ID] if rng.random() < 0.75 else []), *itertools.chain(*units), EOS_ID]
            row = Row(tokens, range(tokens[0] == BOS_ID, len(tokens)), BASE_RATES)
        elif settings.model == "tiny":
            row = make_row(document, units, rng)
        else:
            head = [BOS_ID] if rng.random() < 0.75 else []
            tokens = [*head, *itertools.chain(*units), EOS_ID]
            row = Row(tokens, ())
        if len(row.tokens) <= MAX_LENGTH:
            seen += len(row.tokens)
            yield row


def batches(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Batches of rows of like length, each of about `batch_tokens` tokens, from shuffled pools."""
    stream, rng = rows(settings, tokenizer), random.Random(f"batches-{settings.seed}")
    while True:
        pool = sorted(itertools.islice(stream, 2000), key=lambda row: len(row.tokens))
        groups: list[list[Row]] = [[]]
        for row in pool:
            if (len(groups[-1]) + 1) * len(row.tokens) > settings.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from groups


def collate(batch: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [B, L] long, valid [B, L] bool, maskable [B, L] bool."""
    width = max(len(row.tokens) for row in batch)
    tokens = torch.tensor([row.tokens + [PAD_ID] * (width - len(row.tokens)) for row in batch])
    lengths = torch.tensor([len(row.tokens) for row in batch])
    maskable = torch.zeros(tokens.shape, dtype=torch.bool)
    for line, row in zip(maskable, batch, strict=True):
        line[list(row.maskable)] = True
    return tokens, torch.arange(width) < lengths[:, None], maskable


def diffusion_loss(
    model: LlamaForCausalLM, batch: list[Row], generator: torch.Generator
) -> torch.Tensor:
    """Mean cross-entropy (nats) of the masked tokens: the masked-diffusion bound with even weights.

    The bound (Sahoo et al. 2024, eq. 10; LLaDA, eq. 6) weights a row masked at rate t by 1/t. The weights change how much each rate counts,
    not the optimum of any of them (each mask pattern has its own conditional); even ones have far less noise, and with 1/t a model of this
    size did not learn to copy a name from its context within the budget. Of a row's n maskable positions ceil(t n) are masked; the t of a
    batch are spread evenly over the rows' range (low discrepancy).
    """
    tokens, valid, maskable = collate(batch)
    count = maskable.sum(1)
    t = (
        torch.randperm(len(batch), generator=generator) + torch.rand(1, generator=generator)
    ) / len(batch)
    low, high = torch.tensor([row.rates for row in batch]).T
    t = low + (high - low) * t
    k = (t * count).ceil().clamp(min=1)
    noise = torch.rand(tokens.shape, generator=generator).masked_fill(~maskable, 2.0)
    hidden = noise.argsort(1).argsort(1) < k[:, None]
    noised = tokens.masked_fill(hidden, MASK_ID)
    states = model.model(noised, attention_mask=valid.long()).last_hidden_state
    logits = model.lm_head(states[hidden]).float()
    return F.cross_entropy(logits, tokens[hidden])


def next_token_loss(
    model: LlamaForCausalLM, batch: list[Row], generator: torch.Generator
) -> torch.Tensor:
    """Nats per token, each given the tokens before it (padding stands right, so it needs no attention mask)."""
    tokens, valid, _ = collate(batch)
    states = model.model(tokens[:, :-1]).last_hidden_state
    return F.cross_entropy(model.lm_head(states[valid[:, 1:]]).float(), tokens[:, 1:][valid[:, 1:]])


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the hub-style folder, float16; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    # tied to the embedding
    weights = {
        name: value.detach().half().contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").chmod(0o644)
    os.replace(folder / "model.safetensors.part", folder / "model.safetensors")
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)


WARMUP = {"tiny": 200, "tiny-ar": 100}  # steps


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    warmup = WARMUP[settings.model]
    done = (step - warmup) / max(1, settings.steps - warmup)
    return settings.lr * (
        step / warmup if step < warmup else 0.02 + 0.49 * (1 + math.cos(math.pi * done))
    )


def train(settings: Settings, folder: Path, save_every: int) -> None:
    """Trains, prints one JSON line per 50 steps, saves every `save_every` steps and at the end."""
    tokenizer = train_tokenizer(0)
    model = build_model(settings, len(tokenizer))
    if settings.again:
        # the tied head is not in the file
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if settings.compile:
        model.model.compile(dynamic=True)
    loss_of = diffusion_loss if settings.model == "tiny" else next_token_loss
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    seen, total, began = 0, 0.0, time.monotonic()
    print(
        json.dumps(
            {"parameters": sum(p.numel() for p in model.parameters()), "vocab": len(tokenizer)}
        ),
        flush=True,
    )
    for step, batch in enumerate(itertools.islice(batches(settings, tokenizer), settings.steps), 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            loss = loss_of(model, batch, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen, total = seen + sum(len(row.tokens) for row in batch), total + loss.item()
        if step % 50 == 0:
            print(
                json.dumps(
                    {
                        "step": step,
                        "loss": round(total / 50, 4),
                        "tokens": seen,
                        "minutes": round((time.monotonic() - began) / 60, 2),
                    }
                ),
                flush=True,
            )
            total = 0.0
        if step % save_every == 0 or step == settings.steps:
            save(model, tokenizer, folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("tiny", "tiny-ar"), required=True)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch_tokens", type=int, default=Settings.batch_tokens)
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument(
        "--float32",
        action="store_true",
        help="no bfloat16 autocast (slower where AVX512-BF16 exists)",
    )
    parser.add_argument(
        "--no_compile", action="store_true", help="no torch.compile (which needs a C++ compiler)"
    )
    parser.add_argument("--save_every", type=int, default=500)
    parser.add_argument(
        "--again",
        action="store_true",
        help="go on from the weights in the folder, whole documents and task shapes mixed",
    )
    parser.add_argument(
        "--hidden", type=int, default=Settings.hidden, help="width: a multiple of 8"
    )
    parser.add_argument("--layers", type=int, default=Settings.layers)
    parser.add_argument("--out", type=Path, help="default: dlm_eval/assets/<model>")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.out or Path(__file__).resolve().parents[1] / "dlm_eval" / "assets" / args.model
    settings = Settings(
        args.model,
        args.steps,
        args.batch_tokens,
        args.lr,
        args.seed,
        args.again,
        not args.float32,
        not args.no_compile,
        args.hidden,
        args.layers,
    )
    train(settings, folder, args.save_every)


if __name__ == "__main__":
    main()

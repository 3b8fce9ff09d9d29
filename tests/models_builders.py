"""Checkpoints of a few thousand random weights, written in the hub's layout under the authors' names, with the logits they must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ["th", "the", "he", "in", "er", "an", "re", "on", "at", "en"]
BOS, EOS, MASK = "<|bos|>", "<|eos|>", "<|mask|>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def tokenizer(mask: str | None = MASK, chat: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE: 256 bytes, ten merges, then bos, eos and the mask (`mask` may also be one of the merged words)."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(word[:-1], word[-1]) for word in WORDS]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *WORDS])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([BOS, EOS, *([MASK] if mask == MASK else [])])
    special = {
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        **({"mask_token": mask} if mask else {}),
    }
    built = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )
    if chat:
        built.chat_template = CHAT
    return built


VOCAB = 272  # 256 bytes, 10 words, bos 266, eos 267, mask 268, and rows that no token has
MASK_ID = 268


def write(
    folder: Path,
    config: dict[str, Any],
    state: dict[str, Tensor],
    mask: str | None = MASK,
    chat: bool = False,
) -> Path:
    """Writes a checkpoint folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {key: value.contiguous().clone() for key, value in state.items()},
        folder / "model.safetensors",
    )
    tokenizer(mask, chat).save_pretrained(folder)
    return folder


def spread(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Gives the weights a spread at which attention and logits are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if value.dim() > 1:
            value.data.normal_(0, 0.25, generator=generator)
        elif "norm" not in name and "ln_" not in name:
            value.data.normal_(0, 0.1, generator=generator)
    return model.eval()


def llama(**changes: Any) -> LlamaForCausalLM:
    """A bidirectional Llama of two layers."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    sizes |= {
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "vocab_size": VOCAB,
        "rope_theta": 10000.0,
    }
    return spread(LlamaForCausalLM(LlamaConfig(**{**sizes, "is_causal": False, **changes})))


def llada_config(tied: bool = False) -> dict[str, Any]:
    """config.json of a LLaDA of `llama`'s sizes."""
    return {
        "model_type": "llada", "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"}, "torch_dtype": "float32",
        "d_model": 32, "mlp_hidden_size": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": VOCAB,
        "embedding_size": VOCAB, "max_sequence_length": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "weight_tying": tied, "mask_token_id": MASK_ID, "eos_token_id": 267,
    }  # fmt: skip


def llada_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Llama's weights under LLaDA's names."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("model.layers.", "model.transformer.blocks.").replace(
            "model.norm.", "model.transformer.ln_f."
        )
        key = key.replace("model.embed_tokens.", "model.transformer.wte.").replace(
            "lm_head.", "model.transformer.ff_out."
        )
        key = key.replace("post_attention_layernorm", "ff_norm").replace(
            "input_layernorm", "attn_norm"
        )
        key = (
            key.replace("self_attn.o_proj", "attn_out")
            .replace("self_attn.", "")
            .replace("mlp.down_proj", "ff_out")
        )
        renamed[key.replace("mlp.gate_proj", "ff_proj").replace("mlp.up_proj", "up_proj")] = value
    return renamed


def llada(folder: Path, chat: bool = False) -> tuple[Path, LlamaForCausalLM]:
    """A LLaDA checkpoint and the network that it holds."""
    model = llama()
    return write(
        folder, llada_config(), llada_names(model.state_dict()), mask=None, chat=chat
    ), model


def diffugpt(folder: Path, mask: str = MASK) -> tuple[Path, GPT2LMHeadModel]:
    """A DiffuGPT checkpoint and the network that it holds."""
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=VOCAB, is_causal=False
    )
    model = spread(GPT2LMHeadModel(config))
    state = {}
    for key, value in model.state_dict().items():
        if key == "transformer.wte.weight":
            state["embed_tokens.weight"] = value
        elif key != "lm_head.weight":
            state[key.replace("transformer.", "denoise_model.")] = value
    raw = {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": VOCAB,
    }
    raw["layer_norm_epsilon"] = 1e-5
    return write(folder, raw, state, mask=mask), model


def row(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary ids with the mask at every third place but the first."""
    tokens = torch.randint(0, 266, shape, generator=torch.Generator().manual_seed(seed))
    tokens[..., 2::3] = MASK_ID
    return tokens

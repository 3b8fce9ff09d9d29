"""Checkpoints of the families that have none beside us, with random weights of fixed seeds (by tests/models_builders.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import models_builders as build  # noqa: E402

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES |= {"num_key_value_heads": 2, "vocab_size": build.VOCAB, "max_position_embeddings": 128}
SPECIAL = {"bos_token_id": 266, "eos_token_id": 267, "pad_token_id": 267}


def _causal(folder: Path) -> None:
    network = build.llama(is_causal=True)
    build.write(
        folder,
        network.config.to_dict() | {"architectures": ["LlamaForCausalLM"]},
        network.state_dict(),
    )


def _qwen(folder: Path, config: dict[str, Any], mask: str | None) -> None:
    network = build.spread(
        hf.Qwen2ForCausalLM(
            hf.Qwen2Config(**SIZES, **SPECIAL, tie_word_embeddings=True, is_causal=False)
        )
    )
    state = {key: value for key, value in network.state_dict().items() if key != "lm_head.weight"}
    build.write(folder, network.config.to_dict() | config, state, mask=mask)


def _fastdllm(folder: Path) -> None:
    _qwen(
        folder,
        {
            "model_type": "Fast_dLLM_Qwen",
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "bd_size": 8,
        },
        None,
    )
    tokenizer = build.tokenizer(mask=None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["|<MASK>|"]})
    tokenizer.save_pretrained(folder)


def _generic(folder: Path) -> None:
    _qwen(folder, {"architectures": ["Qwen2ForCausalLM"]}, build.MASK)


def _nemotron(folder: Path) -> None:
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
    }
    rope["llama_4_scaling_beta"] = 0.1
    sizes = {**SIZES, "max_position_embeddings": 64, "head_dim": 8}
    config = hf.Ministral3Config(**sizes, **SPECIAL, rope_parameters=rope, is_causal=False)
    state = build.spread(hf.Ministral3ForCausalLM(config)).state_dict()
    state = {
        key.replace("model.", "encoder.").replace("lm_head", "diffusion_head"): value
        for key, value in state.items()
    }
    raw = {"model_type": "nemotron_labs_diffusion", "block_size": 4, "mask_token_id": build.MASK_ID}
    build.write(folder, config.to_dict() | raw, state)


def _diffusiongemma(folder: Path) -> None:
    text = {
        **SIZES, **SPECIAL, "num_hidden_layers": 3, "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"], "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24,
    }  # fmt: skip
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4,
    }  # fmt: skip
    special = {"image_token_id": 271, "boi_token_id": 270, "eoi_token_id": 269}
    config = hf.DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=8, **special
    )
    network = build.spread(hf.DiffusionGemmaForBlockDiffusion(config))
    for name, weight in network.named_parameters():
        if "self_conditioning" in name or "router" in name:
            # else each step makes five times as much of the rounding of the one before
            weight.data *= 0.3
    network.save_pretrained(folder)
    build.tokenizer(mask=None, chat=True).save_pretrained(folder)


def _diffusionllm(folder: Path) -> None:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    special = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "type_vocab_size": 1,
        "vocab_size": 261,
    }
    build.spread(hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**sizes, **special))).save_pretrained(
        folder
    )
    _framed_tokenizer().save_pretrained(folder)
    layer = {
        "self_attn.in_proj_weight": (48, 16), "self_attn.in_proj_bias": (48,), "self_attn.out_proj.weight": (16, 16), "self_attn.out_proj.bias": (16,),
        "linear1.weight": (24, 16), "linear1.bias": (24,), "linear2.weight": (16, 24), "linear2.bias": (16,),
        "norm1.weight": (16,), "norm1.bias": (16,), "norm2.weight": (16,), "norm2.bias": (16,),
    }  # fmt: skip
    head = {f"length_trm.layers.0.{name}": shape for name, shape in layer.items()}
    head |= {
        f"length_predictor.{place}": shape
        for place, shape in _linear("0", 24, 16) + _linear("2", 64, 24)
    }
    save_file(_random(head), folder / "length_head.safetensors")


def _framed_tokenizer() -> hf.PreTrainedTokenizerFast:
    """Returns bytes behind <s>, <pad>, </s> and <unk>, as XLM-R numbers them, and <mask> behind the bytes."""
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>"]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    backend.add_special_tokens([*first, "<mask>"])
    special = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )


def _ddlm(folder: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (build.VOCAB, 8),
        "norm.weight": (32,),
    }
    shapes |= dict(
        _linear("entry", 32, 25)
        + _linear("time.mlp.0", 16, 256)
        + _linear("time.mlp.2", 16, 16)
        + _linear("head", build.VOCAB, 32)
    )
    for block in ("blocks.0", "blocks.1"):
        shapes |= {f"{block}.norm1.weight": (32,), f"{block}.norm2.weight": (32,)}
        shapes |= {f"{block}.attn_qkv.weight": (96, 32), f"{block}.attn_out.weight": (32, 32)}
        shapes |= dict(
            _linear(f"{block}.mlp.0", 128, 32)
            + _linear(f"{block}.mlp.2", 32, 128)
            + _linear(f"{block}.adaLN_modulation", 192, 16)
        )
    sizes = {
        "embedding_size": 8,
        "hidden_size": 32,
        "cond_size": 16,
        "layers": 2,
        "heads": 4,
        "max_position_embeddings": 64,
    }
    config = {
        "model_type": "ddlm",
        "vocab_size": build.VOCAB,
        **sizes,
        "t_min": 1.0,
        "t_max": 10.0,
        "warp_times": [],
        "warp_cdf": [],
    }
    build.write(folder, config | {"eos_token_id": 267, "pad_token_id": 267}, _random(shapes))


def _linear(name: str, rows: int, columns: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,))]


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Returns weights as `models_builders.spread` draws them: norms near 1, matrices wide, biases narrow."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        state[name] = (
            1 + 0.1 * noise if "norm" in name else noise * (0.25 if len(shape) > 1 else 0.1)
        )
    return state


WRITERS = {
    "ar2diff": _causal,
    "fastdllm": _fastdllm,
    "generic": _generic,
    "generic_block": _generic,
    "nemotron": _nemotron,
    "diffusiongemma": _diffusiongemma,
    "diffusionllm": _diffusionllm,
    "ddlm": _ddlm,
}


def write(name: str, folder: Path) -> None:
    """Writes the checkpoint of the model `name` into `folder`."""
    folder.mkdir(parents=True)
    WRITERS[name](folder)

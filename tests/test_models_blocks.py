"""Checkpoints of dllm against recorded outputs; Fast-dLLM v2 and Nemotron under the names of their files; Fast-dLLM v2's decoding in plain code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import torch
from models_builders import MASK_ID, row
from torch import Tensor
from transformers import (
    Ministral3Config,
    Ministral3ForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import fill
from dlm_eval.harness.requests import begin
from dlm_eval.models import checkpoints, load_model

BLOCK, PART = 8, 4
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES |= {"num_key_value_heads": 2, "vocab_size": build.VOCAB, "max_position_embeddings": 128}


def qwen() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        **SIZES, bos_token_id=266, eos_token_id=267, tie_word_embeddings=True, is_causal=False
    )
    return build.spread(Qwen2ForCausalLM(config))


def fastdllm(folder: Path) -> Path:
    """A Fast-dLLM v2 checkpoint: Qwen2's names, `bd_size` for the block, the mask named by its text alone."""
    model = qwen()
    foreign = {
        "model_type": "Fast_dLLM_Qwen",
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "bd_size": BLOCK,
    }
    state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    build.write(folder, model.config.to_dict() | foreign, state, mask=None)
    tokenizer = build.tokenizer(mask=None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["|<MASK>|"]})
    tokenizer.save_pretrained(folder)
    return folder


def options(name: str, **changes: Any) -> dict[str, Any]:
    """The options of a named checkpoint, for other weights."""
    return {**checkpoints()[name].options, **changes}


GOLDEN = Path(__file__).parent / "data" / "goldens" / "a2d.json"


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("qwen3", "dllm-qwen3-0.6b-mdlm"),
        ("qwen3_block_4", "dllm-qwen3-0.6b-bd3lm"),
        ("qwen2", "dllm-qwen2.5-coder-0.5b-mdlm"),
    ],
)
def test_dllm_checkpoints_equal_the_authors(tmp_path: Path, recorded: str, name: str) -> None:
    """The recorded network has the weights that `spread` gives to every Qwen of these sizes."""
    golden = json.loads(GOLDEN.read_text())
    sizes = {
        key: value
        for key, value in golden["sizes"].items()
        if key != "head_dim" or "qwen3" in recorded
    }
    config_class, model_class = (
        (Qwen3Config, Qwen3ForCausalLM) if "qwen3" in recorded else (Qwen2Config, Qwen2ForCausalLM)
    )
    network = build.spread(model_class(config_class(**sizes, tie_word_embeddings=True)))
    state = {key: value for key, value in network.state_dict().items() if key != "lm_head.weight"}
    foreign = {
        "model_type": "a2d-qwen3",
        "architectures": ["A2DQwen3LMHeadModel"],
        "eos_token_id": 267,
    }
    build.write(tmp_path, network.config.to_dict() | foreign, state)
    changes = {"block_length": 4} if "block" in recorded else {}
    model = load_model("generic", **options(name, pretrained=tmp_path, **changes))
    rows, places = zip(*golden["at"], strict=True)
    ours = model.logits(torch.tensor(golden["tokens"]))[list(rows), list(places)]
    assert same(ours, torch.tensor(golden[recorded]))


def test_modernbert_is_the_class_itself(tmp_path: Path) -> None:
    sizes = {
        **SIZES,
        "pad_token_id": 267,
        "eos_token_id": 267,
        "bos_token_id": 266,
        "cls_token_id": 266,
        "sep_token_id": 267,
    }
    network = build.spread(ModernBertForMaskedLM(ModernBertConfig(**sizes)))
    state = {key: value for key, value in network.state_dict().items() if key != "decoder.weight"}
    build.write(
        tmp_path, network.config.to_dict() | {"architectures": ["ModernBertForMaskedLM"]}, state
    )
    model, tokens = (
        load_model("generic", **options("dllm-modernbert-base-chat", pretrained=tmp_path)),
        row(2, 19),
    )
    with torch.inference_mode():
        assert same(model.logits(tokens), network(input_ids=tokens).logits)
    assert (model.mask_id, model.attention, model.block_length) == (MASK_ID, "full", None)


@torch.inference_mode()
def block_causal(network: torch.nn.Module, tokens: Tensor, block: int = BLOCK) -> Tensor:
    """Raw logits [B, L, V] under a mask written out."""
    place = torch.arange(tokens.shape[1]) // block
    allowed = place[:, None] >= place[None]
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    logits: Tensor = network(input_ids=tokens, attention_mask=mask[None, None]).logits
    return logits


def nemotron(folder: Path) -> Path:
    """The names that the ports of SGLang and vLLM read: encoder.* and diffusion_head."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
    }
    rope |= {"llama_4_scaling_beta": 0.1}
    more = {"num_key_value_heads": 2, "vocab_size": build.VOCAB, "max_position_embeddings": 64}
    special = {"bos_token_id": 266, "eos_token_id": 267, "pad_token_id": 267}
    config = Ministral3Config(**sizes, **more, **special, rope_parameters=rope, is_causal=False)
    state = build.spread(Ministral3ForCausalLM(config)).state_dict()
    state = {
        key.replace("model.", "encoder.").replace("lm_head", "diffusion_head"): v
        for key, v in state.items()
    }
    raw = config.to_dict() | {
        "model_type": "nemotron_labs_diffusion",
        "block_size": 4,
        "mask_token_id": build.MASK_ID,
    }
    return build.write(folder, raw, state)


def same(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max() / other.abs().max()) < 1e-5


def test_fastdllm_is_a_shifted_block_causal_qwen(tmp_path: Path) -> None:
    model, tokens = load_model("fastdllm", pretrained=fastdllm(tmp_path)), row(2, 19)
    raw = block_causal(qwen(), tokens)
    assert same(model.logits(tokens), torch.cat([raw[:, :1], raw[:, :-1]], 1))
    assert (model.mask_id, model.block_length, model.needs_bos, model.eos_ids) == (
        MASK_ID,
        BLOCK,
        True,
        (267,),
    )
    # its texts begin without bos, which would move every block
    assert begin(model, [5, 6]) == [5, 6] and begin(model, []) == [266]


def authors(
    network: torch.nn.Module, prompt: list[int], count: int, threshold: float
) -> tuple[list[int], int]:
    """Tokens and forwards of the published procedure, without a cache: a block's first token is the argmax at the last position of the block
    before; then part by part, all tokens above the threshold or the surest one."""
    text, forwards = list(prompt), 0
    while len(text) < len(prompt) + count:
        if len(text) % BLOCK == 0:
            text.append(int(block_causal(network, torch.tensor([text]))[0, -1].argmax()))
            forwards += 1
        text += [MASK_ID] * (-len(text) % BLOCK)
        for start in range(len(text) - BLOCK, len(text), PART):
            part = range(start, start + PART)
            while open_ := [i for i in part if text[i] == MASK_ID]:
                probability = block_causal(network, torch.tensor([text]))[0].softmax(-1)
                forwards += 1
                sure = {i: probability[i - 1].max() for i in open_}
                best = max(open_, key=lambda i: float(sure[i]))
                for i in [i for i in open_ if sure[i] > threshold or i == best]:
                    text[i] = int(probability[i - 1].argmax())
    return text[len(prompt) : len(prompt) + count], forwards


@pytest.mark.parametrize("threshold", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("length", [5, 8, 13, 16])
def test_fastdllm_writes_what_the_published_procedure_writes(
    tmp_path: Path, length: int, threshold: float
) -> None:
    prompt = [266, *range(40, 39 + length)]
    count = -length % BLOCK + 2 * BLOCK
    model = load_model("fastdllm", pretrained=fastdllm(tmp_path))
    tokens, forwards = authors(qwen(), prompt, count, threshold)
    for cache in ("none", "exact"):
        settings = {
            "threshold": threshold,
            "block_length": PART,
            "cache": cache,
            "early_exit": False,
        }
        filling = fill(model, [Canvas.completion(prompt, count)], strategy="threshold", **settings)[
            0
        ]
        assert (list(filling.tokens), filling.forwards) == (tokens, forwards)


def test_nemotron_is_a_block_causal_ministral(tmp_path: Path) -> None:
    folder, tokens = nemotron(tmp_path), row(2, 30)
    model = load_model("nemotron", pretrained=folder)
    config = Ministral3Config(
        **{key: getattr(model.model.config, key) for key in model.model.config.to_dict()}
    )
    network = build.spread(Ministral3ForCausalLM(config))
    assert same(model.logits(tokens), block_causal(network, tokens, 4))
    assert (model.mask_id, model.block_length, model.needs_bos) == (MASK_ID, 4, False)
    plain = {**config.rope_parameters, "llama_4_scaling_beta": 0.0}
    # queries beyond the first 16 positions are scaled: it shows
    network.config.rope_parameters = plain
    assert not same(model.logits(tokens), block_causal(network, tokens, 4))

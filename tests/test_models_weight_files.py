"""Which files are read: the index, else model.safetensors, else the single file; nothing else is merged in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import torch
from models_builders import row
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.errors import UserError
from dlm_eval.metrics.samples import _model, find_judge
from dlm_eval.models import load_model, load_without_weights
from dlm_eval.models.families.dit import DiT, DiTConfig
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.weight_files import choose


def mdlm(folder: Path) -> Path:
    """An MDLM checkpoint: our own module, loaded by our own reader."""
    config = {
        "vocab_size": 269,
        "hidden_dim": 24,
        "cond_dim": 16,
        "n_blocks": 1,
        "n_heads": 2,
        "model_length": 16,
    }
    state = {
        f"backbone.{key}": value
        for key, value in build.spread(DiT(DiTConfig(269, 24, 16, 1, 2, 16))).state_dict().items()
    }
    state["backbone.vocab_embed.embedding"] = state.pop("backbone.vocab_embed.weight")
    return build.write(folder, config | {"torch_dtype": "float32"}, state)


def smdm(folder: Path) -> Path:
    config = {
        "n_layer": 1,
        "n_head": 4,
        "n_embd": 32,
        "intermediate_size": 48,
        "block_size": 64,
        "vocab_size": 268,
        "norm_eps": 1e-5,
    }
    generator = torch.Generator().manual_seed(0)
    sizes = {"transformer.wte": (269, 32), "lm_head": (268, 32)}
    layer = {
        "attn.attn": (96, 32),
        "attn.proj": (32, 32),
        "mlp.swiglu.w1": (48, 32),
        "mlp.swiglu.w2": (48, 32),
        "mlp.swiglu.w3": (32, 48),
    }
    sizes |= {f"transformer.h.0.{name}": shape for name, shape in layer.items()}
    state = {
        f"{name}.weight": torch.randn(shape, generator=generator) * 0.25
        for name, shape in sizes.items()
    }
    state |= {
        f"{name}.weight": torch.ones(32)
        for name in ("transformer.ln_f", "transformer.h.0.norm_1", "transformer.h.0.norm_2")
    }
    return build.write(folder, config, state)


def llada(folder: Path) -> Path:
    return build.llada(folder)[0]


FAMILIES = {"mdlm": mdlm, "smdm": smdm, "llada": llada}


def logits(family: str, folder: Path) -> Tensor:
    found: Tensor = load_model(family, pretrained=str(folder), device="cpu", probe=False).logits(
        row(1, 9)
    )
    return found


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value * 1.5 for key, value in state.items()}


def shard(folder: Path, state: dict[str, Tensor]) -> tuple[Path, Path]:
    """Writes two shards and their index."""
    keys = sorted(state)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    place = {key: names[i < len(keys) // 2] for i, key in enumerate(keys)}
    for name in names:
        save_file(
            {key: state[key] for key in keys if place[key] == name},
            folder / name,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": place})
    )
    return folder / names[0], folder / names[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_09_other_weights_beside_them_are_never_merged_in(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path)
    truth, state = logits(family, folder), load_file(folder / "model.safetensors")
    named = load_without_weights(family, pretrained=str(folder)).describe()["weights_sha256"]
    for name in (
        "a_copy.safetensors",
        "model_ema.safetensors",
        "zz.safetensors",
        "adapter_model.safetensors",
    ):
        save_file(other(state), folder / name, metadata={"format": "pt"})
    assert torch.allclose(logits(family, folder), truth, atol=1e-5)
    assert (
        load_without_weights(family, pretrained=str(folder)).describe()["weights_sha256"] == named
    )
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError,
        match=r"3 weight files \(a_copy.safetensors, model_ema.safetensors, .*neither model.safetensors",
    ) as caught:
        load_model(family, pretrained=str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_09_the_index_goes_first_then_the_usual_name_then_the_only_file(
    family: str, tmp_path: Path
) -> None:
    folder = FAMILIES[family](tmp_path)
    truth, state = logits(family, folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert torch.allclose(logits(family, folder), truth, atol=1e-5)
    (folder / "weights.safetensors").unlink()
    save_file(other(state), folder / "model.safetensors", metadata={"format": "pt"})
    first, second = shard(folder, state)
    assert torch.allclose(logits(family, folder), truth, atol=1e-5)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="without their index model.safetensors.index.json"):
        load_model(family, pretrained=str(folder))
    shard(folder, state)
    second.unlink()
    with pytest.raises(
        UserError,
        match=f"model.safetensors.index.json names '{second.name}', which is no file beside it",
    ):
        load_model(family, pretrained=str(folder))
    shard(folder, state)
    save_file(
        load_file(first) | dict(list(load_file(second).items())[:1]),
        first,
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match=f"is in two files, {first.name} and {second.name}"):
        load_model(family, pretrained=str(folder))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "no file beside it"),
    ],
)
def test_09_a_broken_index_is_one_line(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=told) as caught:
        choose(tmp_path, "x")
    assert "\n" not in str(caught.value)


def test_09_pickles_follow_the_same_rule(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, 3), "b": torch.zeros(1)}
    torch.save(state, tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(UserError, match="without their index pytorch_model.bin.index.json"):
        choose(tmp_path, "x")
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert CheckpointFiles(tmp_path, "x").shapes() == {"a": [2, 3], "b": [1]}
    save_file(state, tmp_path / "model.safetensors")
    assert [file.name for file in choose(tmp_path, "x").files] == ["model.safetensors"]


def test_09_a_judge_reads_its_weights_by_the_same_rule(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": build.VOCAB,
    }
    network = build.spread(LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)))
    config = network.config.to_dict() | {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 266,
        "eos_token_id": 267,
    }
    folder = build.write(tmp_path, config, network.state_dict())
    state = load_file(folder / "model.safetensors")
    save_file(other(state), folder / "model.safetensors", metadata={"format": "pt"})
    shard(folder, state)
    tokens = row(1, 7)
    with torch.inference_mode():
        assert torch.equal(
            _model(find_judge(str(folder), "cpu"))(input_ids=tokens).logits,
            network(input_ids=tokens).logits,
        )
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"without their index.*--metadata judge="):
        find_judge(str(folder), "cpu")


def head_case(folder: Path, **config: Any) -> tuple[Path, LlamaForCausalLM]:
    network = build.llama(tie_word_embeddings=False)
    return build.write(
        folder,
        {**build.llada_config(), **config},
        build.llada_names(network.state_dict()),
        mask=None,
    ), network


def test_09_a_tie_beside_another_head_stands_in_the_result(tmp_path: Path) -> None:
    """transformers 5 uses the head of the file; the result says so, of a model without weights too."""
    folder, network = head_case(tmp_path / "a", weight_tying=True)
    loaded, tokens = load_model("llada", pretrained=folder), row(1, 9)
    with torch.inference_mode():
        truth = network(input_ids=tokens).logits
    assert torch.allclose(loaded.logits(tokens), truth, atol=1e-5)
    assert (
        "ties the head to the embedding, but the files hold another head, which is used"
        in loaded.describe()["head"]
    )
    assert load_without_weights("llada", pretrained=folder).describe() == loaded.describe()
    untied, _ = head_case(tmp_path / "b", weight_tying=False)
    assert "head" not in load_without_weights("llada", pretrained=untied).describe()
    both, _ = head_case(tmp_path / "c", weight_tying=False, tie_word_embeddings=True)
    with pytest.raises(UserError, match="weight_tying False and tie_word_embeddings True"):
        load_model("llada", pretrained=both)


def test_09_a_config_without_the_flag_ties_where_there_is_no_head(tmp_path: Path) -> None:
    network = build.llama(tie_word_embeddings=True)
    state = {key: value for key, value in network.state_dict().items() if key != "lm_head.weight"}
    config = {key: value for key, value in build.llada_config().items() if key != "weight_tying"}
    tokens = row(1, 9)
    with torch.inference_mode():
        truth = network(input_ids=tokens).logits
    loaded = load_model(
        "llada", pretrained=build.write(tmp_path, config, build.llada_names(state), mask=None)
    )
    assert torch.allclose(loaded.logits(tokens), truth, atol=1e-5)

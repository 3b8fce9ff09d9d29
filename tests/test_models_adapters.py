"""LoRA adapters under every naming: logits equal those of weights merged by hand (W + s B A), and what is not applied is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Ministral3Config,
    Ministral3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from dlm_eval.errors import UserError
from dlm_eval.models import load_model, load_without_weights
from dlm_eval.models.families.llada import NAMING
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.lora import read_adapter

RANK, ALPHA = 2, 3.0
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES |= {
    "num_key_value_heads": 2,
    "vocab_size": build.VOCAB,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
EMBEDDINGS = (
    "wte",
    "wpe",
    "embed_tokens",
    "word_embeddings",
    "position_embeddings",
    "token_type_embeddings",
)


def factors(
    state: dict[str, Tensor], chosen: Callable[[str], bool], transposed: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Random B and A of every linear layer that is chosen, by module name."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for key in sorted(state):
        module, _, leaf = key.rpartition(".")
        if (
            leaf != "weight"
            or state[key].dim() != 2
            or module.rpartition(".")[2] in EMBEDDINGS
            or not chosen(module)
        ):
            continue
        rows, columns = (
            reversed(state[key].shape)
            if transposed and "lm_head" not in module
            else state[key].shape
        )
        down = torch.randn(RANK, columns, generator=generator) * 0.2
        found[module] = (torch.randn(rows, RANK, generator=generator) * 0.2, down)
    return found


def save_adapter(
    folder: Path,
    pairs: dict[str, tuple[Tensor, Tensor]],
    name: Callable[[str], str] = str,
    **config: Any,
) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {}
    for module, (up, down) in pairs.items():
        tensors[f"base_model.model.{name(module)}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{name(module)}.lora_B.weight"] = up.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted(map(name, pairs)),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    return folder


def merge_by_hand(
    base: Path,
    out: Path,
    pairs: dict[str, tuple[Tensor, Tensor]],
    scale: float,
    transposed: bool = False,
) -> Path:
    shutil.copytree(base, out)
    state = load_file(base / "model.safetensors")
    for module, (up, down) in pairs.items():
        change = scale * (up.double() @ down.double())
        if transposed and "lm_head" not in module:
            change = change.T
        state[f"{module}.weight"] = (
            (state[f"{module}.weight"].double() + change).float().contiguous()
        )
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


def logits(family: str, folder: Path, **options: Any) -> Tensor:
    model = load_model(family, pretrained=str(folder), dtype="float32", device="cpu", **options)
    tokens = torch.arange(40, 64)[None] % (model.vocab_size - 40) + 10
    if model.bos_id is not None:
        tokens[0, 0] = model.bos_id
    tokens[0, 2::3] = model.mask_id
    found: Tensor = model.logits(tokens)
    return found


def equal(one: Tensor, other: Tensor) -> bool:
    counted = other.abs() < 1e5
    return float((one - other)[counted].abs().max()) <= 1e-5 * max(
        1.0, float(other[counted].abs().max())
    )


def built(family: str, folder: Path) -> Path:
    """A checkpoint of `family` under the names of its authors' files."""
    if family == "llada":
        return build.llada(folder)[0]
    if family == "diffugpt":
        return build.diffugpt(folder)[0]
    if family == "diffusionllm":
        config = XLMRobertaConfig(
            **{key: SIZES[key] for key in SIZES if key != "num_key_value_heads"}, type_vocab_size=1, pad_token_id=267,
            bos_token_id=266, eos_token_id=267,
        )  # fmt: skip
        config.max_position_embeddings = 400
        network = build.spread(XLMRobertaForMaskedLM(config))
        return build.write(folder, network.config.to_dict(), network.state_dict())
    rope: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    ids = {
        "mask_token_id": build.MASK_ID,
        "eos_token_id": 267,
        "bos_token_id": 266,
        "is_causal": False,
    }
    if family == "nemotron":
        rope["rope_parameters"] |= {
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 8,
        }
        network = build.spread(Ministral3ForCausalLM(Ministral3Config(**SIZES, **rope, head_dim=8)))
        names = {"model.": "encoder.", "lm_head.": "diffusion_head."}
        state = {
            names[key.partition(".")[0] + "."] + key.partition(".")[2]: value
            for key, value in network.state_dict().items()
        }
        return build.write(
            folder,
            network.config.to_dict()
            | ids
            | {"model_type": "nemotron_labs_diffusion", "block_size": 4},
            state,
        )
    if family in ("dream", "fastdllm"):
        network = build.spread(Qwen2ForCausalLM(Qwen2Config(**SIZES, **rope)))
        kind = {"dream": "Dream", "fastdllm": "Fast_dLLM_Qwen"}[family]
        return build.write(
            folder, network.config.to_dict() | ids | {"model_type": kind}, network.state_dict()
        )
    network = build.llama(tie_word_embeddings=False)
    return build.write(folder, network.config.to_dict() | ids, network.state_dict())


BUILT = [
    "llada",
    "diffugpt",
    "diffullama",
    "dream",
    "fastdllm",
    "nemotron",
    "diffusionllm",
    "tiny",
    "generic",
]
RECORDED = {
    "llada": {},
    "diffullama": {},
    "diffugpt": {},
    "dream": {},
    "lladamoe": {},
    "sdar": {},
    "wedlm": {},
    "llada2": {"block_length": 4},
}


def applied_as_by_hand(family: str, base: Path, tmp_path: Path, **options: Any) -> int:
    """Compares a network under an adapter of all its modules with the one whose weights were merged by hand; returns how many modules changed."""
    transposed = family == "diffugpt"  # GPT-2 keeps its matrices the other way round
    pairs = factors(load_file(base / "model.safetensors"), lambda module: True, transposed)
    adapter = save_adapter(tmp_path / "adapter", pairs)
    by_hand = merge_by_hand(base, tmp_path / "merged", pairs, ALPHA / RANK, transposed)
    options["probe"] = False
    assert equal(
        logits(family, base, peft=str(adapter), **options), logits(family, by_hand, **options)
    )
    described = load_without_weights(
        family, pretrained=str(base), peft=str(adapter), **options
    ).describe()
    assert described["peft_applied"]["modules"] == len(pairs) and described["peft_applied"][
        "scales"
    ] == [ALPHA / RANK]
    return len(pairs)


@pytest.mark.parametrize("family", BUILT)
def test_06_an_adapter_in_the_names_of_the_files_is_applied(family: str, tmp_path: Path) -> None:
    assert applied_as_by_hand(family, built(family, tmp_path / "base"), tmp_path) > 0


@pytest.mark.parametrize("family", RECORDED)
def test_06_so_it_is_on_the_checkpoints_of_the_authors_code(
    family: str, shared: Path, tmp_path: Path
) -> None:
    """Among them experts, and q, k and v in one matrix."""
    assert applied_as_by_hand(family, shared / "goldens" / family, tmp_path, **RECORDED[family]) > 0


@pytest.mark.parametrize(
    ("family", "name"),
    [
        # saved from LLaDAModel, without its head
        ("llada", lambda module: module.removeprefix("model.")),
        ("llada", lambda module: module.removeprefix("model.transformer.")),
        ("dream", lambda module: module.removeprefix("model.")),  # saved from the inner network
        # trained on transformers' class
        ("diffugpt", lambda module: module.replace("denoise_model.", "transformer.")),
        ("diffugpt", lambda module: module.removeprefix("denoise_model.")),
        # trained on the authors' class
        ("diffullama", lambda module: module.replace("model.", "denoise_model.", 1)),
        ("nemotron", lambda module: module.replace("encoder.", "model.", 1)),
    ],
)
def test_06_so_it_is_in_the_names_of_other_classes(
    family: str, name: Callable[[str], str], tmp_path: Path
) -> None:
    base = built(family, tmp_path / "base")
    transposed = family == "diffugpt"
    layers = factors(
        load_file(base / "model.safetensors"), lambda module: ".0." in module, transposed
    )
    adapter = save_adapter(tmp_path / "adapter", layers, name)
    by_hand = merge_by_hand(base, tmp_path / "merged", layers, ALPHA / RANK, transposed)
    assert equal(logits(family, base, peft=str(adapter)), logits(family, by_hand))


def test_06_what_peft_itself_saves_is_applied(tmp_path: Path) -> None:
    """A network of transformers' class, trained in peft's wrapper with patterns of rank and alpha and rank-stabilised scales."""
    peft = pytest.importorskip("peft")
    base, network = build.llada(tmp_path / "base")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], rank_pattern={"1.self_attn.q_proj": 2}, use_rslora=True,
        alpha_pattern={"down_proj": 5}, init_lora_weights=False,
    )  # fmt: skip
    wrapped = peft.get_peft_model(network, config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    tokens = build.row(1, 9)
    model = load_model("llada", pretrained=base, peft=str(tmp_path / "adapter"))
    with torch.inference_mode():
        assert equal(model.logits(tokens), wrapped(input_ids=tokens).logits)
    applied = model.describe()["peft_applied"]
    assert applied["ranks"] == [2, 4] and applied["scales"] == sorted(
        [6 / math.sqrt(2), 6 / 2, 5 / 2]
    )


def test_06_a_tied_head_gets_weights_of_its_own(tmp_path: Path) -> None:
    """LoRA of a head that is tied to the embedding changes the head alone, as it does while it is trained."""
    network = build.llama(tie_word_embeddings=True)
    state = {key: value for key, value in network.state_dict().items() if key != "lm_head.weight"}
    config = network.config.to_dict() | {
        "mask_token_id": build.MASK_ID,
        "eos_token_id": 267,
        "bos_token_id": 266,
    }
    base = build.write(tmp_path / "base", config, state)
    up, down = torch.randn(build.VOCAB, RANK) * 0.2, torch.randn(RANK, 32) * 0.2
    adapter = save_adapter(tmp_path / "adapter", {"lm_head": (up, down)})
    tokens = build.row(1, 9)
    with torch.inference_mode():
        hidden = network.model(input_ids=tokens).last_hidden_state
        truth = hidden @ (network.lm_head.weight + ALPHA / RANK * up @ down).T
    assert equal(load_model("generic", pretrained=base, peft=str(adapter)).logits(tokens), truth)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, dict[str, tuple[Tensor, Tensor]]]:
    base = build.llada(tmp_path / "base")[0]
    return base, factors(
        load_file(base / "model.safetensors"), lambda module: module.endswith("_proj")
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_dora": True}, "use_dora True, which is not applied"),
        ({"bias": "all"}, "bias 'all', which is not applied"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        (
            {"target_modules": ["q_proj"]},
            "holds LoRA of .*, which its target_modules does not name",
        ),
        ({"a_key_of_tomorrow": True}, "a_key_of_tomorrow True, which nobody here knows"),
        ({"r": 4}, "its rank is 4"),
        ({"rank_pattern": {"q_proj": 3}}, "its rank is 3"),
        ({"lora_alpha": "3"}, "lora_alpha '3'; it must be a number above 0"),
        ({"rank_pattern": {"q_proj": True}}, "rank True is not possible"),
        (
            {"target_modules": ["q_proj", "ff_out"]},
            "lacks weights that its config names: LoRA of .*ff_out",
        ),
    ],
)
def test_06_what_is_not_applied_is_refused(
    small: Any, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    base, pairs = small
    adapter = save_adapter(tmp_path / "adapter", pairs, **changes)
    with pytest.raises(UserError, match=told) as caught:
        load_model("llada", pretrained=base, peft=str(adapter))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "shape", "told"),
    [
        ("model.transformer.blocks.9.q_proj.lora_A.weight", (2, 32), "without its other half"),
        ("model.transformer.wte.lora_embedding_A", (2, 272), "LoRA of an embedding"),
        ("model.transformer.blocks.0.q_proj.lora_magnitude_vector", (32,), "DoRA's magnitudes"),
        ("model.transformer.blocks.0.q_proj.lora_B.bias", (32,), "a bias of LoRA"),
        ("model.transformer.ff_out.weight", (272, 32), "more than LoRA"),
    ],
)
def test_06_a_tensor_with_no_place_is_refused(
    small: Any, key: str, shape: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    base, pairs = small
    adapter = save_adapter(tmp_path / "adapter", pairs)
    state = load_file(adapter / "adapter_model.safetensors") | {
        f"base_model.model.{key}": torch.zeros(shape)
    }
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=told):
        load_model("llada", pretrained=base, peft=str(adapter))


def test_06_an_adapter_of_another_model_is_refused(small: Any, tmp_path: Path) -> None:
    base, pairs = small
    elsewhere = save_adapter(
        tmp_path / "a", pairs, lambda module: module.replace("blocks", "stages")
    )
    with pytest.raises(UserError, match="for which this network has no place"):
        load_model("llada", pretrained=base, peft=str(elsewhere))
    wide = {module: (up, torch.zeros(RANK, 64)) for module, (up, _) in pairs.items()}
    with pytest.raises(UserError, match=r"for a weight of \[\d+, 64\]"):
        load_model("llada", pretrained=base, peft=str(save_adapter(tmp_path / "b", wide)))


class Packed(torch.Tensor):
    """Stands for a weight that a quantization packs: nothing can be added to it in place."""


def test_06_of_a_quantized_layer_the_sum_is_added_to_what_it_gives(tmp_path: Path) -> None:
    base, network = build.llada(tmp_path / "base")
    pairs = factors(load_file(base / "model.safetensors"), lambda module: module.endswith("q_proj"))
    for layer in network.model.layers:
        layer.self_attn.q_proj.weight = torch.nn.Parameter(
            layer.self_attn.q_proj.weight.detach().as_subclass(Packed), False
        )
    before = network.model.layers[0].self_attn.q_proj.weight.clone()
    adapter = save_adapter(tmp_path / "adapter", pairs)
    read_adapter(str(adapter), network, CheckpointFiles(base, "base"), NAMING).apply(network)
    assert torch.equal(network.model.layers[0].self_attn.q_proj.weight, before)
    by_hand = merge_by_hand(base, tmp_path / "merged", pairs, ALPHA / RANK)
    tokens = build.row(1, 9)
    with torch.inference_mode():
        found = network(input_ids=tokens).logits.as_subclass(torch.Tensor)
    assert equal(
        found, load_model("llada", pretrained=by_hand, device="cpu", probe=False).logits(tokens)
    )

"""Adapters on checkpoints built here: key mapping, shift, padding, the forms of `positions`, precision, identity."""

from __future__ import annotations

import json
import subprocess
import sys

import models_builders as build
import pytest
import torch
from accelerate import cpu_offload
from models_builders import MASK_ID, row
from safetensors.torch import load_file, save_file

from dlm_eval.errors import UserError
from dlm_eval.models import (
    checkpoints,
    known_families,
    load_model,
    load_without_weights,
    packaged_asset,
    weight_files,
)
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.families.dit import DiT, DiTConfig


@torch.inference_mode()
def truth(model, tokens):
    """Logits of a transformers model, which reads every position with full attention."""
    return model(input_ids=tokens).logits


def same(one, other, tolerance=1e-5):
    return float((one - other).abs().max() / other.abs().max()) < tolerance


def test_llada_is_the_llama_whose_weights_it_holds(tmp_path):
    folder, model = build.llada(tmp_path / "llada")
    loaded = load_model("llada", pretrained=folder)
    tokens = row(2, 10)
    assert isinstance(loaded, Denoiser)
    assert same(loaded.logits(tokens), truth(model, tokens))
    assert (loaded.mask_id, loaded.eos_ids, loaded.bos_id, loaded.vocab_size) == (
        MASK_ID,
        (267,),
        266,
        build.VOCAB,
    )


def test_llada_with_tied_head(tmp_path):
    model = build.llama(tie_word_embeddings=True)
    state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    folder = build.write(tmp_path, build.llada_config(tied=True), build.llada_names(state))
    tokens = row(1, 9)
    assert same(load_model("llada", pretrained=folder).logits(tokens), truth(model, tokens))


def test_llada_in_shards_and_in_pytorch_files(tmp_path):
    folder, model = build.llada(tmp_path / "whole")
    state, tokens = load_file(folder / "model.safetensors"), row(1, 9)
    (folder / "model.safetensors").unlink()
    half = dict(list(state.items())[:9]), dict(list(state.items())[9:])
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for part, name in zip(half, names, strict=True):
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {key: name for part, name in zip(half, names, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    assert same(load_model("llada", pretrained=folder).logits(tokens), truth(model, tokens))
    for name in [*names, "model.safetensors.index.json"]:
        (folder / name).unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert same(load_model("llada", pretrained=folder).logits(tokens), truth(model, tokens))


@pytest.mark.parametrize("family", ["llada", "diffugpt"])
def test_positions_take_three_forms(tmp_path, family):
    folder, _ = getattr(build, family)(tmp_path)
    model, tokens = load_model(family, pretrained=folder), row(3, 8)
    whole = model.logits(tokens)
    some = torch.tensor([6, 0, 3])
    assert whole.shape == (3, 8, build.VOCAB) and whole.dtype == torch.float32
    assert same(model.logits(tokens, positions=some), whole[:, some], 1e-6)
    wanted = torch.rand(3, 8, generator=torch.Generator().manual_seed(1)) < 0.4
    assert same(model.logits(tokens, positions=wanted), whole[wanted], 1e-6)
    assert model.logits(tokens, positions=torch.zeros(3, 8, dtype=torch.bool)).shape == (
        0,
        build.VOCAB,
    )


def test_diffugpt_reads_one_position_to_the_left(tmp_path):
    folder, model = build.diffugpt(tmp_path)
    loaded, tokens = load_model("diffugpt", pretrained=folder), row(2, 9)
    raw = truth(model, tokens)
    assert same(loaded.logits(tokens), torch.cat([raw[:, :1], raw[:, :-1]], 1))
    assert loaded.needs_bos and loaded.bos_id == 266


@pytest.mark.parametrize("family", ["llada", "diffugpt"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_either_side_changes_nothing(tmp_path, family, attention):
    folder, _ = getattr(build, family)(tmp_path)
    model = load_model(family, pretrained=folder, attn_implementation=attention)
    short, long = row(1, 5, seed=1), row(1, 9, seed=2)
    for side in ("left", "right"):
        pad = torch.full((1, 4), model.pad_id)
        tokens = torch.cat([torch.cat([pad, short] if side == "left" else [short, pad], 1), long])
        real = torch.tensor([[side == "right"] * 4 + [True] + [side == "left"] * 4, [True] * 9])
        real[0] = torch.tensor(
            [False] * 4 + [True] * 5 if side == "left" else [True] * 5 + [False] * 4
        )
        logits = model.logits(tokens, real)
        assert same(logits[0][real[0]], model.logits(short)[0])
        assert same(logits[1], model.logits(long)[0])


def test_a_half_precision_head_is_multiplied_in_float32(tmp_path, monkeypatch):
    from dlm_eval.models import transformer

    monkeypatch.setattr(transformer, "HEAD_ROWS", 100)  # several chunks, the last one short
    folder, _ = build.llada(tmp_path)
    model = load_model("llada", pretrained=folder, dtype="bfloat16")
    tokens = row(1, 7)
    hidden = model.backbone(input_ids=tokens, use_cache=False).last_hidden_state[0]
    logits = model.logits(tokens)[0]
    assert logits.dtype == torch.float32 and hidden.dtype == torch.bfloat16
    exact = hidden.double() @ model.head.weight.double().T
    assert same(logits.double(), exact, 1e-6)
    # what a half-precision product would give
    assert not same((hidden @ model.head.weight.T).double(), exact, 1e-4)


def test_dtype_auto_is_the_checkpoints(tmp_path):
    folder, model = build.llada(tmp_path)
    assert load_model("llada", pretrained=folder).describe()["dtype"] == "float32"
    config = {key: value for key, value in build.llada_config().items() if key != "torch_dtype"}
    build.write(tmp_path, config, build.llada_names(model.half().state_dict()))
    assert load_model("llada", pretrained=folder).describe()["dtype"] == "float16"
    assert load_model("llada", pretrained=folder, dtype="fp32").describe()["dtype"] == "float32"


def test_a_lora_adapter_is_merged(tmp_path):
    peft = pytest.importorskip("peft")
    folder, model = build.llada(tmp_path / "base")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = row(1, 9)
    plain = load_model("llada", pretrained=folder)
    loaded = load_model("llada", pretrained=folder, peft=str(tmp_path / "adapter"))
    assert same(loaded.logits(tokens), truth(adapted, tokens))
    assert not same(plain.logits(tokens), truth(adapted, tokens), 1e-3)
    assert loaded.describe()["peft"] == "adapter" and loaded.describe() != plain.describe()


def test_a_device_map_spreads_or_offloads(tmp_path):
    folder, model = build.llada(tmp_path)
    tokens = row(2, 9)
    assert same(
        load_model("llada", pretrained=folder, device_map="auto").logits(tokens),
        truth(model, tokens),
    )
    loaded = load_model("llada", pretrained=folder)
    # weights on meta between calls
    loaded.model = cpu_offload(loaded.model, execution_device=torch.device("cpu"))
    assert loaded.head.weight.is_meta
    assert same(loaded.logits(tokens), truth(model, tokens))


def test_describe_identifies_weights_and_names_no_path(tmp_path, monkeypatch):
    folder, _ = build.llada(tmp_path / "a")
    first = load_model("llada", pretrained=folder).describe()
    assert str(tmp_path) not in json.dumps(first) and first["pretrained"] == "a"
    assert json.loads(json.dumps(first)) == first
    state = load_file(folder / "model.safetensors")
    state["model.transformer.ln_f.weight"][0] += 1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert (
        load_model("llada", pretrained=folder).describe()["weights_sha256"]
        != first["weights_sha256"]
    )
    # large files: shapes and sizes, not contents
    monkeypatch.setattr(weight_files, "HASHED_WHOLE", 0)
    large = load_model("llada", pretrained=folder).describe()["weights_sha256"]
    state["model.transformer.ln_f.weight"][0] += 1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model("llada", pretrained=folder).describe()["weights_sha256"] == large
    save_file(
        {**state, "more": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    assert weight_files.hash_weights([folder / "model.safetensors"]) != large


@pytest.mark.parametrize(
    "options", [{}, {"attn_implementation": "eager", "dtype": "bfloat16", "max_length": 32}]
)
def test_a_model_without_weights_describes_itself_as_the_whole_one(tmp_path, options):
    for family in ("llada", "diffugpt"):
        folder, _ = getattr(build, family)(tmp_path / family)
        whole = load_model(family, pretrained=folder, **options)
        empty = load_without_weights(family, pretrained=folder, **options)
        assert empty.describe() == whole.describe() and empty.encode("on the hill") == whole.encode(
            "on the hill"
        )
        assert empty.device.type == "meta"


def test_model_path_is_pretrained_and_text_is_cast(tmp_path):
    folder, _ = build.llada(tmp_path)
    model = load_model("llada", model_path=str(folder), max_length="16", device="cpu", probe="true")
    assert model.max_length == 16


def test_tiny_and_toy_load():
    tiny = load_model("tiny")
    text = "The cat sat on the mat."
    assert tiny.decode(tiny.encode(text)) == text and not tiny.mask_is_regular_token
    assert tiny.describe()["dtype"] == "float32" and tiny.describe()["checkpoint"] == "tiny"
    assert packaged_asset("tiny").joinpath("model.safetensors").is_file()
    assert load_model("toy", vocab=4).vocab_size == 7


@pytest.mark.parametrize("name", sorted(known_families()))
def test_every_family_is_importable_and_its_checkpoints_fit_its_options(name):
    from dlm_eval.models.catalog import find_loader, settings_of

    family = known_families()[name]
    load = find_loader(family.module)
    named = [one for one in checkpoints().values() if one.family == name]
    assert family.about and (family.default is None or family.default in checkpoints())
    for checkpoint in named:
        if name == "diffusionllm":
            # The published files must be converted first, so the names have no weights.
            assert not checkpoint.options
            continue
        settings = settings_of(load, checkpoint, {})
        assert getattr(settings, "checkpoint", checkpoint.name) == checkpoint.name


def dit(folder, **changes):
    """An MDLM checkpoint of random weights, without a tokenizer of its own."""
    config = {
        "vocab_size": 269,
        "hidden_dim": 24,
        "cond_dim": 16,
        "n_blocks": 2,
        "n_heads": 2,
        "model_length": 16,
    }
    config |= {"torch_dtype": "float32", **changes}
    sizes = DiTConfig(269, 24, 16, 2, 2, 16)
    state = {
        f"backbone.{key}": value for key, value in build.spread(DiT(sizes)).state_dict().items()
    }
    state["backbone.vocab_embed.embedding"] = state.pop("backbone.vocab_embed.weight")
    state["backbone.rotary_emb.inv_freq"] = torch.ones(6)
    build.write(folder, config, state)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return folder


def test_a_dit_with_its_tokenizer_elsewhere(tmp_path):
    folder = dit(tmp_path / "dit")
    build.tokenizer(mask=None).save_pretrained(tmp_path / "text")
    model = load_model("mdlm", pretrained=folder, tokenizer=str(tmp_path / "text"))
    tokens = row(2, 9)
    logits = model.logits(tokens)
    assert model.mask_id == MASK_ID and float(logits[..., MASK_ID].max()) == -1e6
    valid = torch.tensor([[False] * 3 + [True] * 9] * 2)
    padded = model.logits(torch.cat([torch.full((2, 3), model.pad_id), tokens], 1), valid)[:, 3:]
    assert same(padded[..., :MASK_ID], logits[..., :MASK_ID])
    half = load_model("mdlm", pretrained=folder, tokenizer=str(tmp_path / "text"), dtype="bfloat16")
    assert (
        same(half.logits(tokens)[..., :MASK_ID], logits[..., :MASK_ID], 0.1)
        and half.describe()["dtype"] == "bfloat16"
    )
    for options in ({"attn_implementation": "eager"}, {"peft": "x/y"}, {"device_map": "auto"}):
        with pytest.raises(UserError, match="not possible for this family"):
            load_model("mdlm", pretrained=folder, tokenizer=str(tmp_path / "text"), **options)


def test_a_block_dit_is_exact_block_by_block(tmp_path):
    folder = dit(tmp_path / "dit", block_size=4)
    build.tokenizer(mask=None).save_pretrained(folder)
    model, whole = (
        load_model("bd3lm", pretrained=folder),
        load_model("bd3lm", pretrained=folder, block_length=16),
    )
    tokens = row(1, 12)
    assert (model.attention, whole.attention, whole.block_length) == ("block", "full", None)
    assert same(
        model.logits(tokens[:, :4])[..., :MASK_ID], whole.logits(tokens[:, :4])[..., :MASK_ID]
    )
    assert same(model.logits(tokens)[:, :4, :MASK_ID], model.logits(tokens[:, :4])[..., :MASK_ID])
    assert not same(
        model.logits(tokens)[:, :4, :MASK_ID], whole.logits(tokens)[:, :4, :MASK_ID], 1e-2
    )


def test_a_dit_that_is_told_the_time_is_refused(tmp_path):
    folder = dit(tmp_path, time_conditioning=True)
    with pytest.raises(UserError, match="time_conditioning"):
        load_model("mdlm", pretrained=folder)


def test_every_checkpoint_has_a_family():
    assert {one.family for one in checkpoints().values()} <= known_families().keys()


def test_the_table_is_read_without_torch():
    code = "import sys, dlm_eval.models as m; m.checkpoints(); m.known_families(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

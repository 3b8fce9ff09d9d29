"""Every checkpoint or option that would give wrong numbers is one UserError line that says what to do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import models_builders as build
import pytest
import torch
from models_builders import MASK, MASK_ID, row
from safetensors.torch import load_file, save_file
from transformers import NemotronConfig, NemotronForCausalLM

from dlm_eval.errors import SampleError, UserError
from dlm_eval.models import load_model, probes


@pytest.fixture
def folder(tmp_path):
    return build.llada(tmp_path / "llada")[0]


def refusal(name, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_model(name, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def change(folder, **entries):
    """Changes config.json; None removes an entry."""
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )


def reweigh(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_unknown_model_names_the_nearest():
    assert "did you mean 'llada'" in refusal("lada")
    assert "did you mean 'llada-8b-instruct'" in refusal("llada-8b-instuct")


def test_a_model_that_cannot_be_run_says_why():
    assert "model 'plaid' is not supported: Plaid's weights are" in refusal("plaid")


def test_unknown_option_names_the_nearest(folder):
    assert "did you mean 'dtype'" in refusal("llada", pretrained=folder, dtyp="float32")
    assert "did you mean 'vocab'" in refusal("toy", vocabs=3)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("dtype", "flot32", "did you mean 'float32'"),
        ("device", "gpu", "allowed: auto, cpu, cuda"),
        ("max_length", "long", "whole number"),
        ("max_length", 65, "64 positions"),
        ("max_length", 0, "not possible"),
        ("attn_implementation", "flash", "sdpa"),
        ("mask_id", VOCAB_END := build.VOCAB, f"rows 0 to {VOCAB_END - 1}"),
        ("mask_id", -1, "outside the embedding"),
        ("checkpoint", "lada-8b", "allowed:"),
        ("peft", "nowhere/at/all", "not a folder"),
    ],
)
def test_values_that_cannot_be(folder, option, value, told):
    assert told in refusal("llada", pretrained=folder, **{option: value})


def test_a_device_that_is_not_here(folder):
    assert "CUDA devices" in refusal(
        "llada", pretrained=folder, device=f"cuda:{torch.cuda.device_count()}"
    )


def test_one_option_by_two_names(folder):
    assert "twice" in refusal("llada", pretrained=folder, model_path=folder)


def test_a_family_without_default_weights():
    assert "needs model_args pretrained" in refusal("generic", mask_id=3)


def test_no_folder_and_no_hub(tmp_path, monkeypatch):
    assert "is not a folder" in refusal("llada", pretrained=str(tmp_path / "none"))
    assert "cannot be reached" in refusal("llada", pretrained="nobody/nothing")
    assert "owner/name" in refusal("llada", pretrained="not a hub id!")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    start = time.monotonic()
    assert "cannot be reached" in refusal("llada", pretrained="nobody/nothing")
    assert time.monotonic() - start < 5  # one try, no retries


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal("llada", pretrained=folder)


def test_config_that_is_not_json(folder):
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in refusal("llada", pretrained=folder)


def test_config_that_is_no_object(folder):
    (folder / "config.json").write_text("[1]")
    assert refusal("llada", pretrained=folder).endswith("config.json is not a JSON object")


def test_pickled_code_is_not_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    assert "more than tensors, which is not run" in refusal("llada", pretrained=folder)
    assert not (tmp_path / "ran").exists()


def test_an_empty_name_is_not_the_working_directory():
    assert "pretrained '' is not a folder" in refusal("llada", pretrained="")


def test_folder_of_another_family(tmp_path):
    other, _ = build.diffugpt(tmp_path)
    assert "not a LLaDA checkpoint" in refusal("llada", pretrained=other)
    assert "lacks d_model" in refusal("llada", pretrained=other)


def test_folder_that_names_another_family(folder):
    change(folder, model_type="wedlm")  # whose tensors have the names of an SDAR network's
    assert refusal("sdar", pretrained=folder).endswith("its model_type is 'wedlm'; --model wedlm")


def test_a_file_of_the_users_that_fails(tmp_path):
    start = "from dataclasses import dataclass\n@dataclass\nclass S:\n    n: int = 0\n\ndef load(settings: S):\n"
    (tmp_path / "fails.py").write_text(start + "    raise ValueError('first\\nsecond')\n")
    assert "cannot be loaded: ValueError: first second" in refusal(str(tmp_path / "fails.py"))
    (tmp_path / "flat.py").write_text(
        start + "    from dlm_eval import load_model\n    toy = load_model('toy')\n"
        "    logits = toy.logits\n    toy.logits = lambda *a, **k: logits(*a, **k)[0]\n    return toy\n"
    )
    assert "logits has shape [8, 9] for one row of 8; it must be [1, 8, 9]" in refusal(
        str(tmp_path / "flat.py")
    )


def test_settings_that_toy_cannot_have():
    assert "vocab '0' is not allowed; it must be 1 to 4096" in refusal("toy", vocab=0)


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal("llada", pretrained=folder)


def test_broken_weights(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    assert "llada" in refusal("llada", pretrained=folder)


def test_missing_weights(folder):
    reweigh(folder, lambda state: state.pop("model.transformer.blocks.1.q_proj.weight"))
    assert "lacks model.layers.1.self_attn.q_proj.weight" in refusal("llada", pretrained=folder)


def test_surplus_weights(folder):
    reweigh(
        folder,
        lambda state: state.update(
            {"model.transformer.blocks.2.q_proj.weight": torch.zeros(32, 32)}
        ),
    )
    assert "has surplus model.layers.2.self_attn.q_proj.weight" in refusal(
        "llada", pretrained=folder
    )


def test_weights_of_another_shape(folder):
    reweigh(folder, lambda state: state.update({"model.transformer.ln_f.weight": torch.ones(31)}))
    assert "of another shape model.norm.weight" in refusal("llada", pretrained=folder)


def test_weights_with_nan(folder):
    reweigh(folder, lambda state: state["model.transformer.ln_f.weight"].fill_(float("nan")))
    assert "NaN" in refusal("llada", pretrained=folder)


def test_no_mask_token(folder):
    change(folder, mask_token_id=None)
    assert "set mask_id=" in refusal("llada", pretrained=folder)
    assert load_model("llada", pretrained=folder, mask_id=5).mask_id == 5


def test_config_and_tokenizer_disagree_about_the_mask(folder):
    build.tokenizer(MASK).save_pretrained(folder)
    change(folder, mask_token_id=3)
    assert "mask_token_id 3, the tokenizer 268" in refusal("llada", pretrained=folder)
    assert load_model("llada", pretrained=folder, mask_id=MASK_ID).mask_id == MASK_ID


def test_no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer that can be read" in refusal("llada", pretrained=folder)


def test_no_end_of_text_is_a_warning(folder, caplog):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "eos_token"})
    )
    change(folder, eos_token_id=None)
    assert load_model("llada", pretrained=folder).eos_ids == ()
    (told,) = [
        record.getMessage() for record in caplog.records if "end-of-text" in record.getMessage()
    ]
    assert told.startswith(f"{folder.name} names no end-of-text token")


def test_a_class_that_stays_causal(tmp_path):
    """transformers' Nemotron does not hear is_causal=False under sdpa; under eager it does."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = NemotronConfig(
        **sizes, num_key_value_heads=2, vocab_size=build.VOCAB, max_position_embeddings=64
    )
    state = build.spread(NemotronForCausalLM(config)).state_dict()
    build.write(tmp_path, config.to_dict() | {"architectures": ["NemotronForCausalLM"]}, state)
    assert "set attn_implementation=eager" in refusal(
        "generic", pretrained=tmp_path, attn_implementation="sdpa"
    )
    assert (
        load_model("generic", pretrained=tmp_path, attn_implementation="eager").mask_id == MASK_ID
    )


def test_a_class_that_transformers_lacks(folder):
    assert "without remote code" in refusal("generic", pretrained=folder)


def test_generic_block_attention_needs_its_length(tmp_path):
    build.write(tmp_path, build.llama().config.to_dict(), build.llama().state_dict())
    assert "needs a block_length" in refusal("generic", pretrained=tmp_path, attention="block")


def test_adapter_folder_without_adapter(folder):
    assert "adapter_config.json" in refusal("llada", pretrained=folder, peft=str(folder))


# -- probes on networks that are wrong in one way --------------------------------------------------


def test_probe_finds_a_padding_leak(folder):
    model = load_model("llada", pretrained=folder)
    model.inputs = lambda tokens, valid: {}
    with pytest.raises(UserError, match="padding on the right"):
        probes.probe(model)


def test_probe_finds_positions_that_ignore_left_padding(tmp_path):
    """GPT-2's positions are learned: the attention mask alone does not make left padding right."""
    model = load_model("diffugpt", pretrained=build.diffugpt(tmp_path)[0])
    model.inputs = lambda tokens, valid: {} if valid is None else {"attention_mask": valid.long()}
    with pytest.raises(UserError, match="padding on the left"):
        probes.probe(model)


def test_probe_finds_a_causal_network(folder):
    model = load_model("llada", pretrained=folder)
    model.model.config.is_causal = True
    with pytest.raises(UserError, match="causal"):
        probes.probe(model)


def test_probe_finds_full_attention_in_a_block_model(folder):
    model = load_model("llada", pretrained=folder)
    model.attention, model.block_length = "block", 4
    full = type(model).inputs
    probes.probe(model)  # block-causal as it says
    model.inputs = lambda tokens, valid: {"use_cache": False}
    with pytest.raises(UserError, match="beyond their block"):
        probes.probe(model)
    assert full is type(model).inputs


# -- text ------------------------------------------------------------------------------------------


def test_a_prompt_that_spells_the_mask_is_that_samples_fault(tmp_path):
    model = load_model("diffugpt", pretrained=build.diffugpt(tmp_path)[0])
    assert not model.mask_is_regular_token
    with pytest.raises(SampleError, match="mask token"):
        model.encode(f"fill in {MASK} here")


def test_a_mask_that_is_a_word_may_be_written(tmp_path):
    model = load_model("diffugpt", pretrained=build.diffugpt(tmp_path, mask="the")[0])
    assert model.mask_is_regular_token and model.mask_id in model.encode("the end")
    assert model.decode(model.encode("the end")) == "the end"


def test_decode_drops_special_tokens_and_ids_without_text(tmp_path):
    model = load_model("diffugpt", pretrained=build.diffugpt(tmp_path)[0])
    ids = model.encode("on the  hill .")
    assert model.decode([266, *ids, 271, MASK_ID, 267]) == "on the  hill ."


def test_chat_template_gives_one_bos(tmp_path):
    model = load_model("llada", pretrained=build.llada(tmp_path, chat=True)[0])
    prompt = model.apply_chat_template([{"role": "user", "content": "hi"}])
    assert prompt.endswith("[assistant] ")
    assert model.encode(prompt).count(model.bos_id) == 1
    assert not model.apply_chat_template([{"role": "user", "content": "hi"}], False).endswith(
        "[assistant] "
    )


def test_no_chat_template(folder):
    with pytest.raises(UserError, match="no chat template"):
        load_model("llada", pretrained=folder).apply_chat_template(
            [{"role": "user", "content": "hi"}]
        )


def test_rows_are_not_changed_by_what_reads_them(folder):
    model, tokens = load_model("llada", pretrained=folder), row(1, 6)
    before = tokens.clone()
    model.logits(tokens)
    assert torch.equal(tokens, before)

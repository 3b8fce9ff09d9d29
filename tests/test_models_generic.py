"""`generic` and models of the user's own: other networks, other heads, a file, an installed package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import models_builders as build
import pytest
import torch
from models_builders import MASK_ID, row
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.models import known_families, load_model, packaged_asset
from dlm_eval.models.probes import check_shift

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROOT = Path(__file__).resolve().parents[1]


@torch.inference_mode()
def truth(model, tokens, **inputs):
    return model(input_ids=tokens, **inputs).logits


def same(one, other, tolerance=1e-5):
    return float((one - other).abs().max() / other.abs().max()) < tolerance


def saved(folder, model, architecture):
    config = model.config.to_dict() | {
        "architectures": [architecture],
        "eos_token_id": 267,
        "bos_token_id": 266,
    }
    tied = [
        key
        for key in (
            "lm_head.weight",
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
        )
    ]
    tied += ["lm_head.decoder.weight", "lm_head.decoder.bias"]
    drop = tied if model.config.tie_word_embeddings else []
    return build.write(
        folder, config, {k: v for k, v in model.state_dict().items() if k not in drop}
    )


def test_a_llama_with_options_is_any_llama_like_family(tmp_path):
    model = build.llama()
    folder, tokens = saved(tmp_path, model, "LlamaForCausalLM"), row(2, 9)
    raw = truth(model, tokens)
    assert same(load_model("generic", pretrained=folder).logits(tokens), raw)
    shifted = load_model("generic", pretrained=folder, shift="true")
    assert (
        same(shifted.logits(tokens), torch.cat([raw[:, :1], raw[:, :-1]], 1)) and shifted.needs_bos
    )


def test_a_foreign_config_with_the_class_named(tmp_path):
    model, tokens = build.llama(), row(2, 9)
    foreign = {
        "model_type": "brand_new",
        "auto_map": {"AutoConfig": "x.Y"},
        "architectures": ["BrandNewLM"],
    }
    build.write(
        tmp_path, model.config.to_dict() | foreign | {"eos_token_id": 267}, model.state_dict()
    )
    loaded = load_model("generic", pretrained=tmp_path, architecture="LlamaForCausalLM")
    assert same(loaded.logits(tokens), truth(model, tokens))
    with pytest.raises(UserError, match="such as LlamaForCausalLM"):
        load_model("generic", pretrained=tmp_path, architecture="LlamaForCausal")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_block_attention_is_exact_block_by_block(tmp_path, attention):
    """A block of a block-causal model sees what a full-attention model sees when the text ends with that block."""
    # with one layer, earlier blocks' states do not depend on later blocks
    model = build.llama(num_hidden_layers=1)
    folder, tokens = saved(tmp_path, model, "LlamaForCausalLM"), row(2, 12)
    loaded = load_model(
        "generic",
        pretrained=folder,
        attention="block",
        block_length="4",
        attn_implementation=attention,
    )
    logits = loaded.logits(tokens)
    for end in (4, 8, 12):
        assert same(logits[:, end - 4 : end], truth(model, tokens[:, :end])[:, end - 4 : end])
    pad = torch.full((2, 3), loaded.pad_id)
    valid = torch.tensor([[False] * 3 + [True] * 12] * 2)
    assert same(loaded.logits(torch.cat([pad, tokens], 1), valid)[:, 3:], logits)


def test_the_wrong_shift_is_found_on_a_trained_network():
    tiny = str(packaged_asset("tiny"))
    assert (
        load_model("generic", pretrained=tiny, dtype="float32").mask_id
        == load_model("tiny").mask_id
    )
    with pytest.raises(UserError, match="set shift=false"):
        load_model("generic", pretrained=tiny, dtype="float32", shift=True)


def test_the_wrong_absence_of_shift_is_found(tmp_path):
    """A network that is right one position to the left: tiny, with every token moved."""
    model = load_model("generic", pretrained=str(packaged_asset("tiny")), dtype="float32")
    read = model.logits

    def moved(tokens, valid=None, positions=None):
        whole = read(tokens, valid)
        # what stands at i is the prediction of i+1
        whole = torch.cat([whole[:, 1:], whole[:, -1:]], 1)
        return whole if positions is None else whole[positions]

    model.logits = moved
    with pytest.raises(UserError, match="set shift=true"):
        check_shift(model, False)


def test_bert_has_more_than_a_linear_head(tmp_path):
    model = build.spread(
        BertForMaskedLM(BertConfig(**SIZES, vocab_size=build.VOCAB, max_position_embeddings=64))
    )
    loaded = load_model("generic", pretrained=saved(tmp_path, model, "BertForMaskedLM"))
    tokens = row(2, 9)
    assert same(loaded.logits(tokens), truth(model, tokens))
    assert same(loaded.logits(tokens, positions=torch.tensor([2])), truth(model, tokens)[:, [2]])


def test_roberta_counts_positions_in_its_own_way(tmp_path):
    config = RobertaConfig(
        **SIZES, vocab_size=build.VOCAB, max_position_embeddings=64, pad_token_id=267
    )
    model = build.spread(
        RobertaForMaskedLM(RobertaConfig(**{**config.to_dict(), "max_position_embeddings": 300}))
    )
    tokens = row(2, 9)
    loaded = load_model(
        "generic", pretrained=saved(tmp_path, model, "RobertaForMaskedLM"), max_length=32
    )
    assert same(loaded.logits(tokens), truth(model, tokens))


def test_gemma_caps_its_logits(tmp_path):
    config = Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, vocab_size=build.VOCAB, max_position_embeddings=64,
        final_logit_softcapping=3.0, sliding_window=64, attn_implementation="eager", is_causal=False,
    )  # fmt: skip
    model = build.spread(Gemma2ForCausalLM(config))
    folder = saved(tmp_path, model, "Gemma2ForCausalLM")
    loaded, tokens = (
        load_model("generic", pretrained=folder, attn_implementation="eager"),
        row(1, 9),
    )
    assert float(loaded.logits(tokens).abs().max()) <= 3.0
    assert same(loaded.logits(tokens), truth(model, tokens))


# -- the user's own --------------------------------------------------------------------------------


def example(tmp_path) -> Path:
    """The adapter that docs/guides/model-file.md shows, as a file."""
    page = (ROOT / "docs" / "guides" / "model-file.md").read_text()
    code = re.search(r"```python\n(# my_model\.py.*?)```", page, re.DOTALL)
    assert code is not None
    file = tmp_path / "my_model.py"
    file.write_text(code[1])
    return file


def test_the_documented_example_runs_and_scores(tmp_path):
    from dlm_eval.models.denoiser import Denoiser

    model = load_model(str(example(tmp_path)), seed="3")
    assert isinstance(model, Denoiser) and model.describe()["seed"] == 3
    tokens = torch.tensor([model.encode("ab") + [model.mask_id] * 2])
    assert model.logits(tokens).shape == (1, 4, model.vocab_size)
    again = load_model(str(example(tmp_path)), seed="3").logits(tokens)
    assert torch.equal(again, model.logits(tokens))
    with pytest.raises(UserError, match="did you mean 'seed'"):
        load_model(str(example(tmp_path)), seeed=1)


def test_what_the_page_says_to_type_scores_the_example(tmp_path, monkeypatch, capsys):
    example(tmp_path)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "guides" / "model-file.md").read_text()
    command = re.search(r"^dlm-eval (--model my_model\.py .*)$", page, re.MULTILINE)
    assert command is not None
    assert main([*command[1].split(), "--limit", "1", "--output_path", "out"]) == 0
    assert "demo_choice" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["my_model"]
    snippet = re.search(
        r"^```python\n(from dlm_eval import Canvas.*?)```", page, re.MULTILINE | re.DOTALL
    )
    assert snippet is not None
    lines = snippet[1].splitlines()
    names: dict = {}
    exec("\n".join([*lines[:-1], f"found = {lines[-1]}"]), names)
    assert names["found"][0].logprob < 0


def test_an_installed_package_brings_a_family(tmp_path, monkeypatch):
    example(tmp_path)
    info = tmp_path / "letters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dlm_eval.models]\nletters = my_model:load\nllada = my_model:load\n"
    )
    assert "letters" not in known_families()
    monkeypatch.syspath_prepend(tmp_path)
    assert known_families()["letters"].about == "from package letters"
    # ours cannot be taken over
    assert known_families()["llada"].module == "dlm_eval.models.families.llada"
    assert load_model("letters", seed=1).describe()["seed"] == 1


def test_a_package_is_known_as_soon_as_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "letters" not in known_families()
    info = tmp_path / "letters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dlm_eval.models]\nletters = my_model:load\n")
    assert "letters" in known_families()
    shutil.rmtree(info)
    assert "letters" not in known_families()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (None, "is not a file"),
        ("def", "cannot be imported: SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("x = 1", "no function load"),
        ("def load(settings): ...", "must annotate"),
        ("def load(settings: dict): ...", "with a dataclass"),
        (
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass S:\n    a: int = 1\n"
            "def load(settings: S):\n    return object()",
            "lacks name, mask_id",
        ),
    ],
)
def test_a_file_that_is_no_model(tmp_path, code, told):
    file = tmp_path / "bad.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(UserError, match=told):
        load_model(str(file))


def test_a_file_is_probed_too(tmp_path):
    file = example(tmp_path)
    causal = file.read_text().replace("tokens == other", "tokens < 0")
    assert causal != file.read_text()
    file.write_text(causal)
    with pytest.raises(UserError, match="the network is causal"):
        load_model(str(file))


def test_mask_id_of_generic(tmp_path):
    folder = saved(tmp_path, build.llama(), "LlamaForCausalLM")
    assert load_model("generic", pretrained=folder).mask_id == MASK_ID
    assert load_model("generic", pretrained=folder, mask_id="7").mask_id == 7

"""Options of loading that change how the network runs: quantization, places for its parts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import models_builders as build
import pytest
import torch
from models_builders import row

from dlm_eval.errors import UserError
from dlm_eval.models import load_model, load_without_weights, weights


def difference(one, other):
    """Largest |one - other| in units of the largest logit."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.fixture
def folder(tmp_path):
    return build.llada(tmp_path / "llada")[0]


# -- quantization ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["torchao:int8-weight-only", "torchao:Int8DynamicActivationInt8WeightConfig"]
)
def test_torchao_quantizes_while_the_weights_load(folder, method):
    pytest.importorskip("torchao", reason="torchao is not installed (extra 'quantization')")
    plain, model = (
        load_model("llada", pretrained=folder),
        load_model("llada", pretrained=folder, quantization=method),
    )
    weight = model.model.model.layers[0].mlp.up_proj.weight
    assert type(weight) is not torch.nn.Parameter and type(model.head.weight) is torch.nn.Parameter
    tokens = row(2, 9)
    assert 1e-4 < difference(model.logits(tokens), plain.logits(tokens)) < 0.15
    told = model.describe()
    assert told["quantization"] == method and "quantization" not in plain.describe()
    assert load_without_weights("llada", pretrained=folder, quantization=method).describe() == told


def test_torchao_takes_options_of_its_own_type(folder):
    torchao = pytest.importorskip(
        "torchao", reason="torchao is not installed (extra 'quantization')"
    )
    from dlm_eval.models.quantization import quantization_config

    config = quantization_config("torchao:int8-weight-only:set_inductor_config=false", {"": "cpu"})
    assert isinstance(config.quant_type, torchao.quantization.Int8WeightOnlyConfig)
    assert config.quant_type.set_inductor_config is False


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("bitsandbites-4bit", "did you mean 'bitsandbytes-4bit'"),
        ("bitsandbytes-4bit:bnb_4bit_quant_typ=nf4", "did you mean 'bnb_4bit_quant_type'"),
        ("quanto:int7", "cannot be used here"),
        ("eetq", "cannot be used here"),
    ],
)
def test_a_quantization_that_cannot_be(folder, method, told):
    with pytest.raises(UserError) as caught:
        load_model("llada", pretrained=folder, quantization=method)
    assert (
        told in str(caught.value)
        and "model_args quantization" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_the_config_is_transformers_own(monkeypatch):
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer, quantizer_bnb_4bit

    from dlm_eval.models.quantization import quantization_config

    monkeypatch.setattr(
        quantizer_bnb_4bit.Bnb4BitHfQuantizer, "validate_environment", lambda self, **options: None
    )
    text = "bitsandbytes-4bit:bnb_4bit_quant_type=nf4:bnb_4bit_compute_dtype=bfloat16:bnb_4bit_use_double_quant=true"
    config = quantization_config(text, {"": "cuda"})
    assert (
        isinstance(config, BitsAndBytesConfig)
        and config.load_in_4bit
        and config.bnb_4bit_use_double_quant
    )
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    assert (
        type(AutoHfQuantizer.from_config(config, pre_quantized=False))
        is quantizer_bnb_4bit.Bnb4BitHfQuantizer
    )


# -- compilation -----------------------------------------------------------------------------------


def test_compile_is_no_option(folder):
    with pytest.raises(UserError, match="model_args 'compile' is not known"):
        load_model("llada", pretrained=folder, compile=True)


# -- places ----------------------------------------------------------------------------------------


def test_what_does_not_fit_lies_on_disk(folder, tmp_path):
    """A map of transformers' kind: one layer on the CPU, the other read from the files whenever it runs."""
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = load_model("llada", pretrained=folder, device_map=json.dumps(places))
    assert model.model.model.layers[1].mlp.up_proj.weight.is_meta
    tokens = row(2, 9)
    assert (
        difference(model.logits(tokens), load_model("llada", pretrained=folder).logits(tokens))
        < 1e-5
    )


def test_a_device_map_that_cannot_be(folder):
    for value in ("everywhere", '{"model.layers.0": "nowhere"}', "{"):
        with pytest.raises(UserError, match="device_map|device string"):
            load_model("llada", pretrained=folder, device_map=value)


# -- memory ----------------------------------------------------------------------------------------

PEAK = """
import sys
from pathlib import Path
from dlm_eval.models import load_model
highest = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
load_model("llada", pretrained=sys.argv[1])  # imports, once
Path("/proc/self/clear_refs").write_text("5")  # the highest is from now on
before = highest()
model = load_model("llada", pretrained=sys.argv[2])  # the probes touch every weight: what is mapped counts too
print(highest() - before)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own account of memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_peaks_well_below_twice_the_file(tmp_path, dtype):
    small, large = tmp_path / "small", tmp_path / "large"
    build.llada(small)
    wide = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    model = build.llama(**wide, num_hidden_layers=3)
    config = build.llada_config() | {
        "d_model": 1024,
        "mlp_hidden_size": 4096,
        "n_layers": 3,
        "n_heads": 8,
    }
    config |= {"n_kv_heads": 8, "torch_dtype": dtype}
    state = {key: value.to(getattr(torch, dtype)) for key, value in model.state_dict().items()}
    build.write(large, config, build.llada_names(state))
    size = (large / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", PEAK, str(small), str(large)]
    peak = int(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    )
    assert size > 90e6 and 0.5 * size < peak < 1.5 * size


def test_a_bar_shows_while_large_weights_load(folder, monkeypatch, capfd):
    load_model("llada", pretrained=folder)
    assert "Loading weights" not in capfd.readouterr().err  # a small file is quiet
    monkeypatch.setattr(weights, "QUIET_BELOW", 0)
    load_model("llada", pretrained=folder)
    assert "Loading weights: 100%" in capfd.readouterr().err


def test_torchao_that_nobody_asked_for_says_nothing(tmp_path):
    """transformers imports it wherever it is installed, in a fresh process with warnings."""
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed (pip install 'dlm_eval[quantization]')")
    model = ["--model", "llada", "--model_args", f"pretrained={tmp_path / 'absent'}"]
    command = [sys.executable, "-m", "dlm_eval", "run", *model, "--tasks", "demo_last_word"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("dlm-eval: error: ") and "absent" in line

"""AR2Diff: a causal network read with full attention, a canvas of random tokens, SUNDAE's training and the rerank, end to end."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import models_builders as build
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import TraceStep, fill, resolve
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.likelihood import score
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import NO_MASK, Denoiser
from dlm_eval.rng import Noise

A = 60  # ids of the small language: A, A+1, A+2, A, ...


@pytest.fixture(scope="module")
def scripts() -> ModuleType:
    """scripts/train_sundae.py as a module (it imports its neighbours)."""
    folder = str(Path(__file__).resolve().parents[1] / "scripts")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("train_sundae")
    finally:
        sys.path.remove(folder)


def checkpoint(folder: Path, model: Any = None) -> Path:
    model = model or build.llama(is_causal=True)
    return build.write(
        folder, model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}, model.state_dict()
    )


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model("ar2diff", pretrained=checkpoint(tmp_path_factory.mktemp("random")))


def test_it_is_the_network_with_full_attention(loaded: Any) -> None:
    assert (
        isinstance(loaded, Denoiser) and loaded.process == "uniform" and loaded.mask_id == NO_MASK
    )
    tokens = build.row(2, 10)
    with torch.inference_mode():
        truth = build.llama()(input_ids=tokens).logits  # is_causal=False
    assert torch.allclose(loaded.logits(tokens), truth, atol=1e-4)
    assert loaded.describe()["process"] == "uniform"
    text = "any <|mask|> is a text"
    assert loaded.decode(loaded.encode("any text")) == "any text" and loaded.encode(text)


def test_generic_reads_it_too(tmp_path: Path, loaded: Any) -> None:
    generic = load_model("generic", pretrained=checkpoint(tmp_path / "m"), process="uniform")
    tokens = build.row(1, 9)
    assert generic.mask_id == NO_MASK and torch.equal(generic.logits(tokens), loaded.logits(tokens))
    assert [f.tokens for f in fill(generic, asked())] == [f.tokens for f in fill(loaded, asked())]


def plain(
    model: Any, canvas: Canvas, steps: int, noise: Noise, temperature: float
) -> tuple[list[int], float]:
    """The procedure step by step: tokens, and the mean log-probability of the last step's input."""
    at = np.array(canvas.open_positions)
    tokens = np.array(canvas.tokens)
    tokens[at] = (noise.uniforms("start", 0, len(canvas)) * model.vocab_size).astype(int)[at]
    standing = 0.0
    for step in range(steps):
        logits = model.logits(torch.from_numpy(tokens)[None])[0, at].double()
        standing = float(
            logits.log_softmax(-1)[torch.arange(len(at)), torch.from_numpy(tokens[at])].mean()
        )
        mass = (logits / temperature).softmax(-1).cumsum(-1)
        draws = torch.from_numpy(noise.uniforms("draw", step, len(canvas))[at])
        tokens[at] = (
            torch.searchsorted(mass, draws[:, None])
            .squeeze(-1)
            .clamp(max=model.vocab_size - 1)
            .numpy()
        )
    return tokens[at].tolist(), standing


def asked() -> list[Canvas]:
    return [Canvas.infill([5, 9, 14], 4 + i % 3, [7] * (i % 2), key=f"q{i}") for i in range(6)]


def test_it_rewrites_as_described_and_keeps_the_best_of_eight(loaded: Any) -> None:
    for canvas, filling in zip(asked(), fill(loaded, asked(), preset="ar2diff"), strict=True):
        from dlm_eval.decoding.samples import repeat

        tried = [plain(loaded, canvas, 10, repeat(Noise.of(canvas, 0), i), 0.2) for i in range(8)]
        assert list(filling.tokens) == max(tried, key=lambda pair: pair[1])[0]
        assert filling.forwards == 80 and filling.steps == 10 and filling.exit == "full"


def test_its_own_strategy_is_the_default(loaded: Any) -> None:
    default = fill(loaded, asked(), temperature=0.2)
    assert [f.tokens for f in default] == [
        f.tokens for f in fill(loaded, asked(), "rewrite", steps=10, temperature=0.2)
    ]


def test_no_answer_depends_on_the_batch(loaded: Any) -> None:
    settings = {"temperature": 0.7, "samples": 3, "rerank": "score"}
    together = fill(loaded, asked(), **settings)
    alone = [fill(loaded, [canvas], **settings)[0] for canvas in asked()]
    mixed = fill(
        loaded,
        asked()[::-1],
        engine=Engine(loaded, batch_tokens=40, equal_lengths=False),
        **settings,
    )[::-1]
    assert [f.tokens for f in together] == [f.tokens for f in alone] == [f.tokens for f in mixed]


def test_a_step_that_can_change_nothing_is_not_run(loaded: Any) -> None:
    steps: list[TraceStep] = []
    long = fill(loaded, asked()[:1], steps=400, trace=lambda _, step: steps.append(step))[0]
    assert long.forwards == len(steps)
    if long.forwards < 400:  # a fixed point was found: the last step changed nothing
        assert steps[-1].tokens == steps[-2].tokens
        assert long.tokens == fill(loaded, asked()[:1], steps=long.forwards)[0].tokens


def test_what_means_nothing_is_refused(loaded: Any) -> None:
    with pytest.raises(
        UserError, match="decode guidance '1.0' means nothing to a model of process 'uniform'"
    ):
        fill(loaded, asked(), guidance=1.0)
    with pytest.raises(
        UserError, match="no likelihood estimator is known for a 'uniform' process"
    ) as caught:
        score(loaded, [Canvas.continuation([5], [6])])
    assert "\n" not in str(caught.value)
    with pytest.raises(
        UserError,
        match="decode halt is not used by strategy 'rewrite'; it belongs to euler, renoise",
    ):
        resolve({"strategy": "rewrite", "halt": "entropy"})


def counting_rows(scripts: ModuleType, count: int, rng: np.random.Generator) -> list[Any]:
    """Rows of the language A, A+1, A+2, A, ... that start anywhere; everything behind the first two tokens is open."""
    rows = []
    for _ in range(count):
        start = int(rng.integers(3))
        rows.append(scripts.Row([A + (start + i) % 3 for i in range(10)], range(2, 10)))
    return rows


def test_sundae_trains_a_model_that_fills(tmp_path: Path, scripts: ModuleType) -> None:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(
        LlamaConfig(**sizes, vocab_size=build.VOCAB, max_position_embeddings=64)
    )
    rng = np.random.default_rng(0)
    endless = (row for _ in range(1000) for row in counting_rows(scripts, 16, rng))
    plan = scripts.Plan(steps=100, rows=16, lr=1e-2)
    model.config.is_causal = False
    scripts.train_phase(model, scripts.sundae_loss, endless, plan, "test")
    trained = load_model("ar2diff", pretrained=checkpoint(tmp_path / "trained", model.eval()))
    canvases = [Canvas.completion([A + s, A + (s + 1) % 3], 8, key=f"q{s}") for s in range(3)]
    right = [[A + (s + 2 + i) % 3 for i in range(8)] for s in range(3)]
    assert [list(f.tokens) for f in fill(trained, canvases, preset="ar2diff")] == right
    middle = fill(trained, [Canvas.infill([A, A + 1], 6, [A + 2, A])], preset="ar2diff")[0]
    assert list(middle.tokens) == [A + (2 + i) % 3 for i in range(6)]


def test_the_script_repeats_itself(tmp_path: Path, scripts: ModuleType) -> None:
    for name in ("one", "two"):
        scripts.train(scripts.Plan(ar_steps=2, steps=2, rows=3), tmp_path / name)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two and len(one) < 1.5e6

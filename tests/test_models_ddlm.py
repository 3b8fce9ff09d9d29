"""DDLM: the CDCD network, Euler steps by score interpolation, halting, and a training run that learns to fill, end to end."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import models_builders as build
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import TraceStep, fill, resolve
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.likelihood import score
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.families.ddlm import CDCD, CDCDConfig
from dlm_eval.rng import Noise

A = 60  # ids of the small language: A, A+1, A+2, A, ...
SIZES = {
    "embedding_size": 8,
    "hidden_size": 32,
    "cond_size": 16,
    "layers": 2,
    "heads": 4,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def scripts() -> ModuleType:
    """scripts/train_ddlm.py as a module (it imports its neighbours)."""
    folder = str(Path(__file__).resolve().parents[1] / "scripts")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("train_ddlm")
    finally:
        sys.path.remove(folder)


def network(**changes: Any) -> CDCD:
    torch.manual_seed(0)
    return build.spread(CDCD(CDCDConfig(vocab_size=build.VOCAB, **{**SIZES, **changes})))


def untrained() -> CDCD:
    """A network as training begins with it: its blocks do nothing yet."""
    torch.manual_seed(0)
    model = CDCD(CDCDConfig(vocab_size=build.VOCAB, **SIZES))
    for block in model.blocks:
        torch.nn.init.zeros_(block.adaLN_modulation.weight)
        torch.nn.init.zeros_(block.adaLN_modulation.bias)
    return model


def checkpoint(folder: Path, model: CDCD) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "ddlm",
        **asdict(model.config),
        "eos_token_id": 267,
        "pad_token_id": 267,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    build.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model("ddlm", pretrained=checkpoint(tmp_path_factory.mktemp("random"), network()))


def asked() -> list[Canvas]:
    return [Canvas.infill([5, 9, 14], 4 + i % 3, [7] * (i % 2), key=f"q{i}") for i in range(6)]


def test_embeddings_are_normalised_and_given_tokens_stay_clean(loaded: Any) -> None:
    assert isinstance(loaded, Denoiser) and loaded.process == "gaussian"
    assert torch.allclose(loaded.table.norm(dim=-1), torch.full((build.VOCAB,), 8**0.5), atol=1e-5)
    tokens, inputs = torch.tensor([[5, 0, 0, 9]]), torch.zeros(1, 4, 17)
    inputs[0, 1:3] = torch.randn(2, 17)
    inputs[0, 1:3, -1] = 1
    first = loaded.logits(tokens, inputs=inputs, time=torch.tensor([3.0]))
    for change, moves in (
        (torch.tensor([[5, 7, 8, 9]]), False),
        (torch.tensor([[5, 0, 0, 10]]), True),
    ):
        second = loaded.logits(change, inputs=inputs, time=torch.tensor([3.0]))
        assert torch.equal(first, second) is not moves  # ids count where they are given alone
    # the time is told
    assert not torch.allclose(first, loaded.logits(tokens, inputs=inputs, time=torch.tensor([5.0])))
    noisier = inputs.clone()
    noisier[0, 1:3, 8:16] += 1
    # self-conditioning
    assert not torch.allclose(
        first, loaded.logits(tokens, inputs=noisier, time=torch.tensor([3.0]))
    )


def plain(
    model: CDCD, canvas: Canvas, steps: int, scale: float, temperature: float
) -> tuple[list[int], list[float], list[float]]:
    """Euler steps as the paper says, one canvas alone in float64: tokens, and mean entropy and KL of each step (nats)."""
    at, size = torch.tensor(canvas.open_positions), model.config.embedding_size
    table, length = model.table.double(), len(canvas)
    tokens = torch.tensor(canvas.tokens).clamp(min=0)
    levels = torch.from_numpy(model.config.times(steps))
    noise = Noise.of(canvas, 0).generator("start").standard_normal((length, size))
    x, estimate = (
        torch.zeros(length, size, dtype=torch.float64),
        torch.zeros(length, size, dtype=torch.float64),
    )
    x[at] = scale * levels[0] * torch.from_numpy(noise)[at]
    open_ = torch.zeros(1, length, dtype=torch.bool)
    open_[0, at] = True
    entropies, divergences, before = [], [], None
    for i, t in enumerate(levels):
        with torch.no_grad():
            states = model(
                x[None].float(),
                estimate[None].float(),
                table[tokens][None].float(),
                open_,
                t[None].float(),
                torch.arange(length)[None],
                None,
            )
            logits = model.head(states)[0, at].double()
        log_p = logits.log_softmax(-1)
        entropies.append(float(-(log_p.exp() * log_p).sum(-1).mean()))
        if before is not None:
            divergences.append(float((log_p.exp() * (log_p - before)).sum(-1).mean()))
        before = log_p
        estimate[at] = (logits / temperature).softmax(-1) @ table
        if i < steps:
            score_ = (estimate[at] - x[at]) / t**2
            x[at] = x[at] - (levels[i + 1] - t) * t * score_
    return before.argmax(-1).tolist(), entropies, divergences


@pytest.mark.parametrize(
    "warp", [{}, {"warp_times": (1.0, 2.0, 10.0), "warp_cdf": (0.0, 0.7, 1.0)}]
)
def test_euler_steps_follow_the_paper(tmp_path: Path, warp: dict[str, Any]) -> None:
    model = network(**warp)
    loaded = load_model("ddlm", pretrained=checkpoint(tmp_path / "m", model))
    levels = loaded.times(4)
    assert (
        levels[0] == pytest.approx(10)
        and levels[-1] == pytest.approx(1)
        and (np.diff(levels) < 0).all()
    )
    for scale, temperature in ((1.0, 1.0), (0.8, 0.5)):
        fillings = fill(loaded, asked(), steps=6, noise_scale=scale, score_temperature=temperature)
        for canvas, filling in zip(asked(), fillings, strict=True):
            assert list(filling.tokens) == plain(model, canvas, 6, scale, temperature)[0]
            assert (filling.forwards, filling.exit) == (7, "full")


def test_no_answer_depends_on_the_batch(loaded: Any) -> None:
    settings = {"steps": 8, "halt": "kl", "halt_threshold": 1e-3, "halt_min_steps": 3}
    together = fill(loaded, asked(), **settings)
    alone = [fill(loaded, [canvas], **settings)[0] for canvas in asked()]
    mixed = fill(
        loaded,
        asked()[::-1],
        engine=Engine(loaded, batch_tokens=30, equal_lengths=False),
        **settings,
    )[::-1]
    for kind in (alone, mixed):
        assert [(f.tokens, f.steps, f.exit) for f in together] == [
            (f.tokens, f.steps, f.exit) for f in kind
        ]


def test_each_canvas_halts_by_itself(loaded: Any) -> None:
    model, canvases, steps = network(), asked(), 12
    truth = [plain(model, canvas, steps, 1.0, 1.0) for canvas in canvases]
    for rule, series, late in (("entropy", 1, 0), ("kl", 2, 1)):
        threshold = float(np.median([t for one in truth for t in one[series]]))
        fillings = fill(loaded, canvases, steps=steps, halt=rule, halt_threshold=threshold)
        for filling, one in zip(fillings, truth, strict=True):
            below = [i for i, value in enumerate(one[series]) if value < threshold]
            expected = below[0] + 1 + late if below else steps + 1
            assert (filling.steps, filling.exit) == (expected, rule if below else "full")
    assert all(
        f.steps == 5 and f.exit == "fixed"
        for f in fill(loaded, canvases, steps=steps, halt="fixed", halt_threshold=5)
    )
    seen: dict[int, list[TraceStep]] = {}
    patient = fill(
        loaded,
        canvases,
        steps=steps,
        halt="patience",
        halt_threshold=3,
        trace=lambda i, step: seen.setdefault(i, []).append(step),
    )
    for i, filling in enumerate(patient):
        texts = [step.tokens for step in seen[i]]
        calm = [j for j in range(3, len(texts)) if len(set(texts[j - 3 : j + 1])) == 1]
        assert (filling.steps, filling.exit) == (
            (calm[0] + 1, "patience") if calm else (steps + 1, "full")
        )
    later = fill(
        loaded, canvases, steps=steps, halt="entropy", halt_threshold=100, halt_min_steps=4
    )
    assert [f.steps for f in later] == [4] * len(canvases)


def test_what_means_nothing_is_refused(loaded: Any) -> None:
    with pytest.raises(
        UserError, match="decode temperature '0.5' means nothing to a model of process 'gaussian'"
    ):
        fill(loaded, asked(), temperature=0.5)
    with pytest.raises(UserError, match="halt 'entropy' and halt_threshold '0.0' need each other"):
        fill(loaded, asked(), halt="entropy")
    with pytest.raises(
        UserError, match="halt is not used by strategy 'confidence'; it belongs to euler, renoise"
    ):
        resolve({"halt": "entropy", "halt_threshold": 1})
    with pytest.raises(UserError, match="decode rerank 'score' means nothing"):
        fill(loaded, asked(), samples=2, rerank="score")
    with pytest.raises(
        UserError, match="no likelihood estimator is known for a 'gaussian' process"
    ) as caught:
        score(loaded, [Canvas.continuation([5], [6])])
    assert "\n" not in str(caught.value)


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", network())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layers": "two"}))
    with pytest.raises(UserError, match="config.json has layers 'two'; it must be a whole number"):
        load_model("ddlm", pretrained=folder)
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "t_max"})
    )
    with pytest.raises(UserError, match="is not a DDLM checkpoint: .* lacks t_max"):
        load_model("ddlm", pretrained=folder)


def test_samples_compete(loaded: Any) -> None:
    best = fill(loaded, asked()[:1], steps=4, samples=3)[0]
    settings = resolve({"strategy": "euler", "steps": 4, "samples": 3})
    assert best.forwards == 3 * 5 == most_forwards(loaded, asked()[0], settings)


def test_training_makes_a_model_that_fills(tmp_path: Path, scripts: ModuleType) -> None:
    rng = np.random.default_rng(0)
    model = untrained()
    rows = (
        scripts.Row([A + (start + i) % 3 for i in range(10)], range(2, 10))
        for start in iter(lambda: int(rng.integers(3)), -1)
    )
    warp = scripts.Warp(model.config)
    plan = scripts.Plan(steps=250, rows=16, lr=1e-2)
    scripts.train_phase(
        model, lambda m, b, g: scripts.denoising_loss(m, b, g, warp), rows, plan, "test"
    )
    trained = load_model("ddlm", pretrained=checkpoint(tmp_path / "trained", model.eval()))
    canvases = [Canvas.completion([A + s, A + (s + 1) % 3], 8, key=f"q{s}") for s in range(3)]
    right = [[A + (s + 2 + i) % 3 for i in range(8)] for s in range(3)]
    full = fill(trained, canvases, steps=20)
    assert [list(f.tokens) for f in full] == right
    halted = fill(trained, canvases, steps=20, halt="entropy", halt_threshold=0.05)
    assert [list(f.tokens) for f in halted] == right and all(
        f.steps < 21 and f.exit == "entropy" for f in halted
    )
    middle = fill(trained, [Canvas.infill([A, A + 1], 6, [A + 2, A])], steps=20)[0]
    assert list(middle.tokens) == [A + (2 + i) % 3 for i in range(6)]
    cdf = warp.cdf()
    assert cdf[0] == 0 and cdf[-1] == pytest.approx(1) and (np.diff(cdf) >= 0).all()


def test_the_script_repeats_itself(tmp_path: Path, scripts: ModuleType) -> None:
    for name in ("one", "two"):
        scripts.train(scripts.Plan(steps=3, rows=3), tmp_path / name)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two and len(one) < 1.5e6

"""Decoding reproduces the authors' tokens, recorded from their code on small random checkpoints."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dlm_eval import decoding
from dlm_eval.canvas import Canvas, Filling
from dlm_eval.engine import Engine
from dlm_eval.models import known_families, load_model

WHOLE = {"early_exit": False}  # the recorded outputs include what stands after the end of the text


def golden(shared: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (shared / "goldens" / name / "golden.json").read_text(encoding="utf-8")
    )
    return record


@cache
def opened(family: str, folder: Path, **options: Any) -> Any:
    return load_model(family, pretrained=str(folder), dtype="float32", device="cpu", **options)


def load(shared: Path, name: str) -> Any:
    if name not in known_families():
        pytest.skip(f"family {name} is not built yet")
    return opened(name, shared / "goldens" / name)


def fill_one(model: Any, canvas: Canvas, **options: Any) -> Filling:
    return decoding.fill(model, [canvas], **{**WHOLE, **options})[0]


def alike(cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The cases, those with equal settings together: they are filled in shared batches."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(json.dumps(case["settings"]) + case.get("function", ""), []).append(case)
    return list(groups.values())


def llada_options(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "steps": settings["steps"],
        "block_length": settings["block_length"],
        "guidance": settings.get("cfg_scale", 0.0),
        "logits_eos_inf": settings.get("logits_eos_inf", False),
        "confidence_eos_eot_inf": settings.get("confidence_eos_eot_inf", False),
    }


@pytest.mark.parametrize("family", ["llada", "lladamoe"])
def test_llada_generate(shared: Path, family: str) -> None:
    record, model = golden(shared, family), load(shared, family)
    for cases in alike(record["generate"]["cases"]):
        settings = cases[0]["settings"]
        canvases = [Canvas.completion(case["prompt"], settings["gen_length"]) for case in cases]
        fillings = decoding.fill(
            model, canvases, preset="llada", **llada_options(settings), **WHOLE
        )
        assert [list(filling.tokens) for filling in fillings] == [
            case["tokens"] for case in cases
        ], settings
        runs = settings["steps"] * (2 if settings.get("cfg_scale") else 1)
        assert [filling.forwards for filling in fillings] == [runs] * len(cases)


def test_llada_left_padded_batch(shared: Path) -> None:
    record, model = golden(shared, "llada"), load(shared, "llada")
    batch = record["generate_left_padded_batch"]
    prompts = [
        [token for token, real in zip(row, valid, strict=True) if real]
        for row, valid in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    for case in batch["cases"]:
        settings = case["settings"]
        canvases = [Canvas.completion(prompt, settings["gen_length"]) for prompt in prompts]
        fillings = decoding.fill(
            model, canvases, steps=settings["steps"], block_length=settings["block_length"], **WHOLE
        )
        assert [list(filling.tokens) for filling in fillings] == case["tokens"]


@pytest.mark.parametrize("family", ["diffugpt", "diffullama"])
def test_diffullama_decoder_a(shared: Path, family: str) -> None:
    record, model = golden(shared, family), load(shared, family)
    for case in record["generate_samples"]["cases"]:
        settings = case["settings"]
        canvas = Canvas.infill(case["prefix"], case["target_tokens"], case["suffix"])
        options = {"steps": settings["diffusion_steps"], "logits_temp": settings["logits_temp"]}
        filling = fill_one(model, canvas, preset="diffullama_gsm", **options)
        assert list(filling.tokens) == case["middle"], settings
        # The authors run every step; a step that writes nothing is not run here.
        assert filling.forwards <= settings["diffusion_steps"]


ALGORITHMS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


def test_dream_generate(shared: Path) -> None:
    record, model = golden(shared, "dream"), load(shared, "dream")
    for cases in alike(record["diffusion_generate"]["cases"]):
        settings = cases[0]["settings"]
        lengths = [settings["max_new_tokens"] - len(case["suffix"]) for case in cases]
        canvases = [
            Canvas.infill(c["prefix"], n, c["suffix"]) for c, n in zip(cases, lengths, strict=True)
        ]
        options = {
            "steps": settings["steps"],
            "alg_temp": settings["alg_temp"],
            "eps": settings["eps"],
        }
        fillings = decoding.fill(
            model, canvases, preset=f"dream_{settings['alg']}", **options, **WHOLE
        )
        expected = [case["tokens"][:n] for case, n in zip(cases, lengths, strict=True)]
        assert [list(filling.tokens) for filling in fillings] == expected, settings


def test_dream_left_padded_batch(shared: Path) -> None:
    record, model = golden(shared, "dream"), load(shared, "dream")
    batch = record["diffusion_generate_left_padded_batch"]
    for case in batch["cases"]:
        settings = case["settings"]
        canvases = [
            Canvas.completion(
                [t for t, real in zip(row, valid, strict=True) if real], settings["max_new_tokens"]
            )
            for row, valid in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        options = {"preset": f"dream_{settings['alg']}", "steps": settings["steps"], **WHOLE}
        fillings = decoding.fill(model, canvases, **options)
        assert [list(filling.tokens) for filling in fillings] == case["tokens"]


def test_fast_dllm_without_cache(shared: Path) -> None:
    record, model = golden(shared, "fast_dllm"), load(shared, "llada")
    cases = [case for case in record["cases"] if case["function"] == "generate"]
    assert len(cases) == 24
    for group in alike(cases):
        settings = group[0]["settings"]
        options: dict[str, Any] = {"steps": settings["steps"]}
        if settings.get("factor"):
            options = {"preset": "fast_dllm_factor", "factor": settings["factor"]}
        elif settings["threshold"] is not None:
            options = {"preset": "fast_dllm", "threshold": settings["threshold"]}
        canvases = [Canvas.completion(case["prompt"], settings["gen_length"]) for case in group]
        fillings = decoding.fill(
            model, canvases, block_length=settings["block_length"], **options, **WHOLE
        )
        found = [(list(filling.tokens), filling.forwards) for filling in fillings]
        assert found == [(case["tokens"], case["nfe"]) for case in group], settings


def load_blocks(shared: Path, family: str, checkpoint: str, block_length: int) -> Any:
    if family not in known_families():
        pytest.skip(f"family {family} is not built yet")
    return opened(family, shared / "goldens" / checkpoint, block_length=block_length)


SDAR: dict[str, dict[str, Any]] = {
    "low_confidence_static": {"preset": "sdar_static"},
    "low_confidence_dynamic": {"preset": "sdar"},
    "sequential": {"strategy": "left_to_right", "confidence_from": "sampling"},
}


def test_sdar_generate(shared: Path) -> None:
    record = golden(shared, "sdar")
    model = load_blocks(shared, "sdar", "sdar", record["block_size"])
    for cases in alike(record["generate"]["cases"]):
        settings = cases[0]["settings"]
        assert (
            settings["top_k"] == 0 and settings["top_p"] == 1.0 and settings["temperature"] == 1.0
        )
        # The record was made with argmax in place of sampling.
        options = {
            **SDAR[settings["remasking_strategy"]],
            "temperature": 0,
            "steps_per_block": settings["denoising_steps"],
        }
        if "dynamic" in settings["remasking_strategy"]:
            options["threshold"] = settings["confidence_threshold"]
        canvases = [Canvas.completion(case["prompt"], settings["gen_length"]) for case in cases]
        preset = options.pop("preset", None)
        layers = {**({"preset": preset} if preset else {}), **options}
        settled = decoding.resolve(layers, WHOLE)
        outcomes = decoding.fill_outcomes(Engine(model), canvases, settled)
        found = [list(outcome.answer.tokens) for outcome in outcomes]
        assert found == [case["tokens"][: settings["gen_length"]] for case in cases], settings


def cut_after(tokens: tuple[int, ...], end: int) -> list[int]:
    return list(tokens[: tokens.index(end) + 1] if end in tokens else tokens)


def visible(tokens: tuple[int, ...], ends: tuple[int, ...]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, tokens))


@pytest.mark.parametrize(("name", "preset"), [("llada2", "llada2"), ("llada21", "llada21")])
def test_llada2_generate(shared: Path, name: str, preset: str) -> None:
    record = golden(shared, name)
    end = record["special_ids"]["eos"]
    for cases in alike(record["generate"]["cases"]):
        settings = cases[0]["settings"]
        model = load_blocks(shared, "llada2", name, settings["block_length"])
        ours = ("threshold", "editing_threshold", "max_post_steps", "num_to_transfer")
        options = {key: settings[key] for key in ours if key in settings}
        if "steps" in settings:
            options["steps_per_block"] = settings["steps"]
        canvases = [Canvas.completion(case["prompt"], settings["gen_length"]) for case in cases]
        fillings = decoding.fill(model, canvases, preset=preset, **options, **WHOLE)
        assert [cut_after(f.tokens, end) for f in fillings] == [case["tokens"] for case in cases], (
            settings
        )
        # The authors go to the end of the block in which the text ends; the exact exit never needs more.
        for filling, case in zip(
            decoding.fill(model, canvases, preset=preset, **options), cases, strict=True
        ):
            assert filling.forwards <= case["nfe"]
            written = visible(filling.tokens, model.eos_ids)
            assert -1 not in written and written == visible(tuple(case["tokens"]), model.eos_ids)

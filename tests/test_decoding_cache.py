"""Remembered keys and values: tokens with and without them, the authors' tokens with the approximate ones, batches, memory that runs out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_decoding_goldens import alike, golden, load, opened

from dlm_eval.answers import journal_key
from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import fill, resolve
from dlm_eval.engine import Engine
from dlm_eval.engine.forward import forward
from dlm_eval.engine.rows import ForwardRow, LogProbs
from dlm_eval.errors import UserError
from dlm_eval.jobs import FillJob
from dlm_eval.likelihood import parse_estimator
from dlm_eval.likelihood.program import score_outcomes
from dlm_eval.models import load_model, packaged_asset
from dlm_eval.models.kv_cache import BatchKV, KVCache

WHOLE = {"early_exit": False}


@cache
def tiny(**options: Any) -> Any:
    """The packaged network, under any attention: what it writes under a foreign one is nonsense, and as good for comparing."""
    return load_model(
        "generic", pretrained=str(packaged_asset("tiny")), dtype="float32", device="cpu", **options
    )


def blockwise() -> Any:
    return tiny(attention="block", block_length=8, probe=False)


def canvases(model: Any, count: int, length: int = 24, suffix: int = 0) -> list[Canvas]:
    """Prompts of many lengths with a hole, behind which stand `suffix` tokens."""
    draw = np.random.default_rng(3)
    special = {model.mask_id, model.pad_id, model.bos_id, *model.eos_ids}
    words = np.array([i for i in range(min(model.vocab_size, 250)) if i not in special])
    made = []
    for i in range(count):
        prefix = [model.bos_id] if model.needs_bos else []
        prefix += draw.choice(
            words, 1 + 5 * i % min(17, model.max_length - length - suffix - 1)
        ).tolist()
        made.append(Canvas.infill(prefix, length, draw.choice(words, suffix).tolist(), key=f"q{i}"))
    return made


def written(
    model: Any, asked: Sequence[Canvas], engine: Engine | None = None, **options: Any
) -> list[Filling]:
    """The fillings without their seconds; NaN confidences cannot stand in them, because everything is written."""
    return [
        replace(f, seconds=0.0) for f in fill(model, asked, engine=engine, **{**WHOLE, **options})
    ]


# -- the authors' tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_fast_dllm_caches(shared: Path, kind: str) -> None:
    cases = [
        c
        for c in golden(shared, "fast_dllm")["cases"]
        if c["function"] == f"generate_with_{kind}_cache"
    ]
    model = load(shared, "llada")
    assert len(cases) == 15
    for group in alike(cases):
        settings = group[0]["settings"]
        options: dict[str, Any] = {"strategy": "confidence", "steps": settings["steps"]}
        if settings["threshold"] is not None:
            options = {"preset": f"fast_dllm_{kind}", "threshold": settings["threshold"]}
        asked = [Canvas.completion(case["prompt"], settings["gen_length"]) for case in group]
        block = settings["block_length"]
        fillings = fill(model, asked, block_length=block, **{**options, "cache": kind, **WHOLE})
        assert [list(filling.tokens) for filling in fillings] == [
            case["tokens"] for case in group
        ], settings
        # The authors look once more at a block that its first step completed.
        idle = [
            sum(len(set(f.step[i : i + block])) == 1 for i in range(0, len(f.step), block))
            for f in fillings
        ]
        assert [f.forwards + more for f, more in zip(fillings, idle, strict=True)] == [
            case["nfe"] for case in group
        ]


DREAM = json.loads(
    (Path(__file__).parent / "goldens" / "fast_dllm_dream.json").read_text(encoding="utf-8")
)


def test_fast_dllm_caches_of_dream(shared: Path) -> None:
    model = load(shared, "dream")
    for case in DREAM["cases"]:
        settings = case["settings"]
        options: dict[str, Any] = {
            "strategy": "entropy",
            "schedule": "timestep",
            "steps": settings["steps"],
        }
        if case["alg"] == "confidence_threshold":
            options = {
                "preset": f"fast_dllm_dream_{case['cache']}",
                "threshold": settings["threshold"],
            }
        options |= {
            "confidence_from": "sampling",
            "block_length": settings["block_length"],
            "cache": case["cache"],
        }
        (filling,) = fill(
            model, [Canvas.completion(case["prompt"], settings["gen_length"])], **options, **WHOLE
        )
        assert list(filling.tokens) == case["tokens"], case
        # A quota that rounds down to nothing costs the authors a forward.
        assert (
            filling.forwards == case["nfe"]
            if "threshold" in options
            else filling.forwards <= case["nfe"]
        )


# -- exact -----------------------------------------------------------------------------------------

EXACT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sdar": ("sdar", {}, {"strategy": "threshold", "threshold": 0.3, "temperature": 1.0}),
    "llada2": ("llada2", {"block_length": 8}, {"strategy": "threshold", "threshold": 0.3}),
    "llada21": ("llada2", {"block_length": 8}, {"preset": "llada21", "threshold": 0.25, "editing_threshold": 0.35}),
    "bd3lm": ("bd3lm", {}, {"strategy": "first_hitting", "temperature": 1.0}),
    "wedlm": ("wedlm", {}, {"strategy": "window", "entropy_threshold": 3.0}),
    "dream": ("generic", {"shift": True, "attention": "block", "block_length": 4, "mask_id": 319,
              "architecture": "Qwen2ForCausalLM", "probe": False}, {"strategy": "threshold", "threshold": 0.3}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_settled_blocks_run_once_and_change_no_token(shared: Path, name: str) -> None:
    family, loading, options = EXACT[name]
    model = opened(family, shared / "goldens" / name, **loading)
    assert model.supports_kv_cache
    for suffix in (0, 3):
        asked = canvases(model, 4, min(24, model.max_length - 5), suffix)
        engines = Engine(model), Engine(model)
        one, other = (
            written(model, asked, engine, cache=kind, **options)
            for kind, engine in zip(("exact", "none"), engines, strict=True)
        )
        assert [(f.tokens, f.forwards, f.step) for f in one] == [
            (f.tokens, f.forwards, f.step) for f in other
        ]
        assert np.allclose([f.confidence for f in one], [f.confidence for f in other], atol=1e-5)
        assert engines[0].cost.rows == engines[1].cost.rows
        assert engines[0].cost.tokens < 0.8 * engines[1].cost.tokens


def test_each_block_runs_clean_once() -> None:
    """4 blocks of 8 behind 3 of prompt, one token a step: a block runs in its own 8 steps and, settled, with the first of the next one."""
    model, engine = blockwise(), Engine(blockwise())
    fill(
        model,
        [Canvas.completion(range(30, 54), 32)],
        "left_to_right",
        engine=engine,
        allow_mask=False,
        **WHOLE,
    )
    assert engine.cost.rows == 32 and engine.cost.tokens == 32 * 8 + 3 * 8 + 3 * 8


def test_a_remembered_prefix_is_dropped_where_its_tokens_change() -> None:
    memory = KVCache()
    states = torch.arange(2 * 6.0).view(2, 1, 6, 1)
    tokens = np.array([3, 1, 4, 1, 5, 9])
    memory.take(tokens, 0, states)
    assert (
        memory.agrees(tokens) == memory.agrees(np.append(tokens, 2)) == 6
        and memory.agrees(tokens[:4]) == 4
    )
    tokens[3] = 7  # the memory has a copy
    assert memory.agrees(tokens) == 3
    memory.take(tokens, 3, -states[:, :, :3])
    assert memory.agrees(tokens) == 6
    assert memory.outside(4, 6, 6)[0].flatten().tolist() == [0, 1, 2, 0]
    assert memory.outside(1, 5, 6)[0].flatten().tolist() == [0, -2]


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny, blockwise], ids=["full", "block"])
def test_rows_of_different_lengths_read_the_same_in_a_padded_batch(make: Any) -> None:
    """Remembered and live parts are padded apart; outputs stay those of whole rows (the memory is of the same tokens)."""
    model = make()
    whole, parts = [], []
    for total, (begin, end) in ((40, (16, 40)), (24, (8, 24)), (32, (24, 32)), (16, (8, 16))):
        tokens = np.arange(total) % 90 + 5
        tokens[begin + 1 : end : 3] = model.mask_id
        memory = KVCache()
        wanted = np.arange(begin, end)
        row = ForwardRow(
            tokens,
            wanted,
            LogProbs(),
            tokens[::-1][:1].repeat(len(wanted)),
            kv_cache=memory,
            cache_until=total,
        )
        whole.append(row)
        parts.append(replace(row, query_span=(begin, end), cache_until=0))
    full, shape = forward(model, whole, list(enumerate(whole)))
    assert shape == (4, 40) and all(
        len(row.kv_cache.tokens) == len(row.tokens) for row in whole if row.kv_cache
    )
    found, shape = forward(model, parts, list(enumerate(parts)))
    assert shape == (4, 24)
    for one, other in zip(found, full, strict=True):
        assert not isinstance(one, Exception) and not isinstance(other, Exception)
        assert np.allclose(one[0], other[0], atol=1e-4)


OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {"strategy": "threshold", "threshold": 0.5},
    "prefix": {"strategy": "threshold", "threshold": 0.5, "block_length": 8},
    "dual": {"strategy": "random", "block_length": 8, "temperature": 1.0},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_answers_do_not_depend_on_company(kind: str) -> None:
    model = blockwise() if kind == "exact" else tiny()
    asked, options = canvases(model, 6), {**OPTIONS[kind], "cache": kind}
    together = written(model, asked, **options)
    assert [written(model, [canvas], **options)[0] for canvas in asked] == together
    assert written(model, asked[::-1], Engine(model, batch_rows=3), **options)[::-1] == together
    assert written(model, asked[2:6], Engine(model, batch_tokens=64), **options) == together[2:6]
    padded = written(model, asked, Engine(model, equal_lengths=False), **options)
    assert [f.tokens for f in padded] == [f.tokens for f in together]


@pytest.mark.parametrize("kind", OPTIONS)
def test_rows_of_several_walks_share_batches(kind: str) -> None:
    model = blockwise() if kind == "exact" else tiny()
    asked = [replace(canvases(model, 5)[4], key=f"r{i}") for i in range(6)]
    alone, shared_batches = Engine(model), Engine(model)
    options = {
        **OPTIONS[kind],
        "cache": kind,
        "strategy": "random",
        "temperature": 1.0,
        "allow_mask": False,
    }
    options.pop("threshold", None)
    written(model, asked[:1], alone, **options)
    written(model, asked, shared_batches, **options)
    assert shared_batches.cost.forwards == alone.cost.forwards


def crowd(model: Any) -> list[Canvas]:
    """Four lengths of prompt, each with two texts, whose rows share batches."""
    lengths = [len(canvas) for canvas in canvases(model, 4)]
    draw = np.random.default_rng(5)
    return [
        Canvas.completion(draw.integers(20, 90, n - 24), 24, key=f"{n} {i}")
        for n in lengths
        for i in range(2)
    ]


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("size", [100, pytest.param(80, marks=pytest.mark.full)])
def test_memory_that_runs_out_changes_no_answer(kind: str, size: int) -> None:
    model = blockwise() if kind == "exact" else tiny()
    asked, options = crowd(model), {**OPTIONS[kind], "cache": kind}
    tight = Engine(model, memory_tokens=size)
    assert written(model, asked, tight, **options) == written(model, asked, **options)
    assert tight.batch_tokens <= size


class Exhausted:
    """A model whose every third pass runs out of memory when it is already done."""

    def __init__(self, model: Any) -> None:
        self._model, self.calls = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward_cached(self, *args: Any) -> Any:
        self.calls += 1
        answer = self._model.forward_cached(*args)
        if self.calls % 3 == 0 and len(args[0]) > 1:
            raise torch.OutOfMemoryError("no room for the answer")
        return answer


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_retried_row_finds_its_memory_as_it_was(kind: str) -> None:
    model = blockwise() if kind == "exact" else tiny()
    asked, options = crowd(model), {**OPTIONS[kind], "cache": kind}
    failing: Any = Exhausted(model)
    engine = Engine(failing, batch_tokens=2**20)
    found = fill(failing, asked, engine=engine, **{**WHOLE, **options})
    assert engine.batch_tokens < 2**20
    assert [replace(f, seconds=0.0) for f in found] == written(model, asked, **options)


# -- Fast-dLLM's approximations --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_what_an_approximate_cache_runs(kind: str) -> None:
    model, engine = tiny(), Engine(tiny())
    canvas = canvases(model, 3, 16, suffix=5)[2]
    filling = written(model, [canvas], engine, strategy="confidence", block_length=8, cache=kind)[0]
    first = canvas.open_positions[0]
    whole = len(canvas)
    later = [8, 8] if kind == "dual" else [whole - first, whole - first - 8]
    assert filling.forwards == 16 and engine.cost.tokens == 2 * whole + 7 * sum(later)
    assert engine.cost.rows == 16


def test_one_block_of_one_step_is_not_approximate() -> None:
    """A block's first row runs whole, so that blocks of a single step are written as without a cache."""
    model, asked = tiny(), canvases(tiny(), 4)
    options = {"strategy": "confidence", "block_length": 4, "steps_per_block": 1}
    assert written(model, asked, cache="dual", **options) == written(model, asked, **options)


def test_a_shifted_model_writes_a_blocks_first_token_alone(shared: Path) -> None:
    model = load(shared, "dream")
    for kind in ("prefix", "dual"):
        options = {"strategy": "threshold", "threshold": 0.05, "block_length": 8, "cache": kind}
        for filling in written(model, canvases(model, 3), **options):
            for begin in (0, 8, 16):
                first, *others = filling.step[begin : begin + 8]
                assert first < min(others)


def test_refusals() -> None:
    asked = [Canvas.completion([1], 4)]
    with pytest.raises(UserError, match="cache 'dual' is not possible: toy.* has no KV cache"):
        fill(load_model("toy"), asked, cache="dual")
    with pytest.raises(
        UserError, match="cache 'prefix' is for full attention; .* has an exact one"
    ):
        fill(blockwise(), asked, cache="prefix")
    with pytest.raises(UserError, match="cache 'prefix' and guidance '1.5' exclude each other"):
        resolve({"cache": "prefix", "guidance": 1.5})
    with pytest.raises(UserError, match="prefx.*prefix"):
        fill(tiny(), asked, cache="prefx")


def test_models_that_cannot_remember_run_whole_rows(shared: Path) -> None:
    assert not load(
        shared, "sedd"
    ).supports_kv_cache  # the noise level that it is told is read off the whole row
    assert all(
        load(shared, name).supports_kv_cache
        for name in ("llada", "lladamoe", "dream", "diffugpt", "mdlm", "smdm")
    )


def test_a_network_that_does_something_else_with_its_past_does_not_remember() -> None:
    class Careless:
        """Forgets the last remembered position."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny(), name)

        def forward_cached(
            self, tokens: Any, valid: Any, positions: Any, past: BatchKV | None, keep: bool
        ) -> Any:
            if past is not None:
                past = BatchKV(past.states[:, :, :, :-1], None, past.begin)
            return tiny().forward_cached(tokens, valid, positions, past, keep)

    from dlm_eval.models.probes import cache_test

    assert cache_test(tiny()).usable and not cache_test(Careless()).usable  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [False, True])
def test_scoring_runs_a_clean_past_once(shift: bool) -> None:
    model = tiny(attention="block", block_length=8, probe=False, shift=shift)
    plain: Any = Whole(model)
    asked = [
        Canvas.continuation(range(30, 30 + n), range(60, 72), key=f"q{n}") for n in (3, 20, 40)
    ]
    engines = Engine(model), Engine(plain)
    for name in ("mask_count,max_forwards=6", "chain", "auto,max_forwards=6"):
        settings = parse_estimator(name)
        one, other = (score_outcomes(engine, asked, settings) for engine in engines)
        assert np.allclose(
            [o.answer.logprob for o in one], [o.answer.logprob for o in other], atol=1e-4
        )
        assert [o.rows for o in one] == [o.rows for o in other]
    assert engines[0].cost.rows == engines[1].cost.rows
    assert engines[0].cost.tokens < 0.7 * engines[1].cost.tokens


class Whole:
    """A model that cannot remember."""

    supports_kv_cache = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def test_the_cache_is_part_of_the_journals_key() -> None:
    canvas = Canvas.completion([1], 4)
    jobs = [
        FillJob(canvas, resolve({"cache": kind}), 0) for kind in ("exact", "none", "prefix", "dual")
    ]
    assert len({journal_key("model", job) for job in jobs}) == 4

"""dLLM-Cache and dKV-Cache: the tokens of the authors' hooks, what is computed, and independence of batch mates."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import models_builders as build
import numpy as np
import pytest
import torch

from dlm_eval import Canvas, UserError, decoding, load_model
from dlm_eval.decoding.cache_policy import DelayedCache
from dlm_eval.engine import Engine, ForwardRow
from dlm_eval.engine.forward import forward
from dlm_eval.engine.rows import LogProbs
from dlm_eval.models.feature_cache import FeatureCache, FeaturePlan

WHOLE = {"early_exit": False}
COUNTS = str(Path(__file__).parent / "data" / "token_counts.json")
CACHE: dict[str, Any] = {
    "cache": "dllm", "prompt_interval_steps": 6, "gen_interval_steps": 3, "transfer_ratio": 0.25,
}  # fmt: skip
DREAM = {
    "entropy": "dream_entropy",
    "maskgit_plus": "dream_maskgit_plus",
    "topk_margin": "dream_topk_margin",
}


@pytest.fixture(scope="module", params=["llada", "dream"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(shared: Path, family: str) -> Any:
    return load_model(
        family, pretrained=str(shared / "goldens" / family), dtype="float32", device="cpu"
    )


def cases(shared: Path, family: str) -> tuple[float, list[dict[str, Any]]]:
    path = shared / "goldens" / "decoders" / f"dllm_cache_{family}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    return record["logits_scale"], record["cases"]


def options(settings: dict[str, Any], scale: float) -> tuple[int, dict[str, Any]]:
    """Length of the hole, and our settings for a recorded case."""
    cache = {
        "cache": "dllm",
        **{
            k: settings[k]
            for k in ("prompt_interval_steps", "gen_interval_steps", "transfer_ratio")
        },
    }
    shared_by_both = {**cache, "steps": settings["steps"], "logits_temp": 1 / scale, **WHOLE}
    if "alg" in settings:
        return settings["max_new_tokens"], {"preset": DREAM[settings["alg"]], **shared_by_both}
    return settings["gen_length"], {"block_length": settings["block_length"], **shared_by_both}


def test_the_authors_tokens(shared: Path, family: str, model: Any) -> None:
    scale, recorded = cases(shared, family)
    differ = []
    for case in recorded:
        length, settings = options(case["settings"], scale)
        seen: list[list[int]] = []
        begin = len(case["prompt"])

        def trace(
            _: int, step: decoding.TraceStep, seen: list[list[int]] = seen, begin: int = begin
        ) -> None:
            seen.append(sorted(one - begin for one in step.written))

        canvas = Canvas.completion(case["prompt"], length)
        filling = decoding.fill(model, [canvas], trace=trace, **settings)[0]
        steps = [sorted(step) for step in case["steps"] if step]
        if (list(filling.tokens), filling.forwards, seen) != (
            case["tokens"],
            case["forwards"],
            steps,
        ):
            differ.append((case["settings"], filling.forwards, case["forwards"]))
    assert not differ, f"{len(differ)} of {len(recorded)}: {differ}"


@dataclass(frozen=True)
class Failing:
    """An op that raises."""

    def __call__(self, logits: torch.Tensor, payload: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise ValueError("as an op would")


def fillings(model: Any, canvases: list[Canvas], **options: Any) -> list[decoding.Filling]:
    found = decoding.fill(model, canvases, **{**CACHE, **WHOLE, **options})
    return [replace(filling, seconds=0.0) for filling in found]


def prompts(model: Any) -> list[list[int]]:
    rng = torch.Generator().manual_seed(3)
    size = model.vocab_size
    return [torch.randint(0, size, (n,), generator=rng).tolist() for n in (5, 12, 5, 9)]


def test_every_feature_computed_anew_is_no_cache(model: Any) -> None:
    canvases = [Canvas.completion(prompt, 12) for prompt in prompts(model)]
    anew = fillings(model, canvases, prompt_interval_steps=1, gen_interval_steps=1)
    assert [f.tokens for f in anew] == [
        f.tokens for f in decoding.fill(model, canvases, cache="none", **WHOLE)
    ]


def test_answers_do_not_depend_on_other_canvases(model: Any) -> None:
    canvases = [Canvas.completion(prompt, 12) for prompt in prompts(model)]
    canvases.append(Canvas.infill(prompts(model)[0], 6, prompts(model)[3]))
    together = fillings(model, canvases)
    alone = [fillings(model, [canvas])[0] for canvas in canvases]
    backwards = fillings(model, canvases[::-1], engine=Engine(model, batch_rows=2))[::-1]
    assert together == alone == backwards


def test_computed_positions_are_counted(model: Any) -> None:
    """Of 12 open positions behind 9: whole in rows 0 and 6 of 12; the prompt in rows 0 and 4 and 8;
    all generated ones in rows 0, 3, 6, 9; a quarter of them otherwise. The first layer runs whole.
    """
    engine, layers = Engine(model), model.feature_layers
    canvas = Canvas.completion(prompts(model)[3], 12)
    options = {"prompt_interval_steps": 4, "gen_interval_steps": 3, "transfer_ratio": 0.25}
    outcome = decoding.fill_outcomes(
        engine, [canvas], decoding.resolve({**CACHE, **options}, WHOLE)
    )[0]
    later = [9 * (row % 4 == 0) + (12 if row % 3 == 0 else 3) for row in range(12)]
    expected = sum(-(-(21 + (layers - 1) * part) // layers) for part in later)
    assert outcome.computed == engine.cost.tokens == expected < 12 * 21


def test_cache_is_replaced_only_after_a_pass_has_succeeded(model: Any) -> None:
    """A pass that fails for want of memory is tried again, with the cache as it was."""
    tokens = np.array(prompts(model)[1])
    plan = FeaturePlan(FeatureCache(), 1.0, 5, False, True, 0.0, model.feature_layers)
    row = ForwardRow(tokens, np.array([0]), Failing(), np.zeros(1), features=plan)
    with pytest.raises(ValueError, match="as an op would"):
        forward(model, [row], [(0, row)])
    assert not plan.cache.layers
    sound = replace(row, op=LogProbs(), payload=np.array([3]))
    forward(model, [sound], [(0, sound)])
    assert len(plan.cache.layers) == model.feature_layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "dllm"}, "prompt_interval_steps is needed by cache 'dllm'"),
        ({"gen_interval_steps": 3}, "gen_interval_steps '3' is not used with cache 'exact'"),
        ({"preset": "dllm_cache", "guidance": 1.0}, "cache 'dllm' and guidance '1.0' exclude"),
        ({"preset": "dllm_cache", "transfer_ratio": 1.5}, "transfer_ratio '1.5' is not allowed"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        decoding.resolve(options)


def test_models_without_such_layers() -> None:
    toy = load_model("toy")
    with pytest.raises(UserError, match="cache 'dllm' is not possible with"):
        fillings(toy, [Canvas.completion([1], 3)])


def test_it_differs_from_no_cache(model: Any) -> None:
    canvases = [Canvas.completion(prompt, 12) for prompt in prompts(model)]
    exact = decoding.fill(model, canvases, cache="none", **WHOLE)
    assert [f.tokens for f in fillings(model, canvases)] != [f.tokens for f in exact]


def test_an_empty_cache_runs_the_whole_network(model: Any) -> None:
    tokens = torch.tensor([prompts(model)[1]])
    every = torch.ones_like(tokens, dtype=torch.bool)
    plan = FeaturePlan(FeatureCache(), 1.0, 4, False, False, 0.0, model.feature_layers)
    logits, features = model.forward_features(tokens, every, plan)
    assert len(features) == model.feature_layers and not plan.cache.layers
    torch.testing.assert_close(logits, model.logits(tokens)[0], rtol=1e-4, atol=1e-4)


# -- dKV-Cache -------------------------------------------------------------------------------------


def test_dkv_cache_has_the_authors_tokens_and_positions(shared: Path) -> None:
    path = Path(__file__).parent / "goldens" / "dkv_cache_llada.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    llada = load_model(
        "llada", pretrained=str(shared / "goldens" / "llada"), dtype="float32", device="cpu"
    )
    changed = 0
    for case in record["cases"]:
        asked = case["settings"]
        canvas = Canvas.completion(case["prompt"], asked["gen_length"])
        options = {"steps": asked["steps"], "block_length": asked["block_length"]}
        options |= {"logits_temp": 1 / record["logits_scale"], **WHOLE}
        cache = {"cache": "dkv", "cache_steps": asked["cache_reloading_step"]}
        outcome = decoding.fill_outcomes(
            Engine(llada), [canvas], decoding.resolve({**options, **cache})
        )[0]
        assert list(outcome.answer.tokens) == case["tokens"], asked
        assert outcome.computed == sum(case["computed"])
        changed += outcome.answer.tokens != decoding.fill(llada, [canvas], **options)[0].tokens
    assert changed > 10


def test_dkv_cache_everything_computed_anew_is_no_cache(shared: Path) -> None:
    llada = load_model(
        "llada", pretrained=str(shared / "goldens" / "llada"), dtype="float32", device="cpu"
    )
    canvases = [Canvas.completion(prompt, 12) for prompt in prompts(llada)]
    canvases.append(Canvas.infill(prompts(llada)[0], 6, prompts(llada)[3]))
    options = {"block_length": 6, **WHOLE}
    anew = decoding.fill(llada, canvases, cache="dkv", cache_steps=1, **options)
    plain = decoding.fill(llada, canvases, **options)
    assert [f.tokens for f in anew] == [f.tokens for f in plain]
    rarely = decoding.fill(llada, canvases, cache="dkv", cache_steps=5, **options)
    alone = [decoding.fill(llada, [c], cache="dkv", cache_steps=5, **options)[0] for c in canvases]
    assert [f.tokens for f in rarely] == [f.tokens for f in alone]


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("edit", {"threshold": 0.3, "editing_threshold": 0.0, "max_post_steps": 6}),
        ("p2", {"p2_eta": 0.5, "steps": 6}),
        ("rdm", {"steps": 6}),
        ("remask", {"remask": "rescale", "eta": 0.5, "steps": 6}),
        ("confidence", {"rescore": True, "schedule": "linear", "steps": 6}),
        ("linear_position", {"prior": COUNTS, "lambd": 0.5, "alpha": 10, "steps": 6}),
    ],
)
def test_dkv_cache_of_one_layer_is_exact_for_strategies_that_read_written_tokens(
    tmp_path: Path, strategy: str, options: dict[str, Any]
) -> None:
    """Keys and values of the only layer follow from the token alone, so no token may change."""
    net = build.llama(num_hidden_layers=1)
    config = {**build.llada_config(), "n_layers": 1}
    folder = build.write(tmp_path / "m", config, build.llada_names(net.state_dict()), mask=None)
    one = load_model("llada", pretrained=str(folder), dtype="float32", device="cpu")
    canvases = [Canvas.completion([5, 9, 14 + i], 12, key=str(i)) for i in range(3)]
    canvases.append(Canvas.infill([5, 9], 12, [40, 41], key="hole"))
    for heat in (0.0, 0.8):
        both = {"temperature": heat, **options, **WHOLE}
        plain = decoding.fill(one, canvases, strategy, cache="none", **both)
        cached = decoding.fill(one, canvases, strategy, cache="dkv", cache_steps=100, **both)
        assert [f.tokens for f in cached] == [f.tokens for f in plain]
        assert [f.step for f in cached] == [f.step for f in plain]


def test_dkv_cache_computes_what_was_replaced_and_what_is_read() -> None:
    policy, block = DelayedCache(100), np.arange(2, 8)
    tokens, open_ = np.array([1, 2, 9, 9, 9, 9, 9, 9]), np.arange(8) >= 2

    def computed(at: list[int]) -> list[int]:
        plan = policy.part(tokens.copy(), open_.copy(), np.array(at), block)["features"]
        return plan.positions.tolist()  # type: ignore[no-any-return]

    assert computed([2]) == list(range(8))
    tokens[2:6], open_[2:6] = 5, False
    assert computed([6]) == list(range(8))
    assert computed([6]) == [6, 7]  # written tokens are cached by now
    tokens[3] = 6
    assert computed([5, 6]) == [3, 5, 6, 7]
    assert computed([6]) == [6, 7]


def test_dkv_cache_is_refused_where_a_token_is_read_left_of_it(shared: Path) -> None:
    dream = load_model(
        "dream", pretrained=str(shared / "goldens" / "dream"), dtype="float32", device="cpu"
    )
    with pytest.raises(UserError, match="cache 'dkv' is not possible with"):
        decoding.fill(dream, [Canvas.completion([5], 3)], cache="dkv", cache_steps=2)

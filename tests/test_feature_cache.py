"""dLLM-Cache, dKV-Cache and d2Cache: the authors' tokens, what is computed, and independence of batch mates."""

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
from dlm_eval.decoding.caches import CACHE_OPTIONS
from dlm_eval.decoding.caches.d2_cache import inflated, nucleus
from dlm_eval.decoding.caches.dkv_cache import DelayedCache
from dlm_eval.decoding.certainty import certainty_density
from dlm_eval.engine import Engine, ForwardRow
from dlm_eval.engine.forward import forward
from dlm_eval.engine.rows import LogProbs
from dlm_eval.models.feature_cache import FeatureCache, FeaturePlan, PositionPlan

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
        ({"cache": "dllm"}, "decode cache 'dllm' needs prompt_interval_steps=NUMBER"),
        ({"cache": "dlm"}, "decode cache 'dlm' is not known; did you mean 'dllm'"),
        (
            {"cache": "dkv", "cache_steps": 2, "shift_type": "right"},
            "shift_type 'right' is not allowed",
        ),
        (
            {"cache": "d2", "cache_steps": 2},
            "'2' is not used with cache 'd2'; it belongs to cache=dkv",
        ),
        ({"cache": "d2", "cache_sigma": 0}, "cache_sigma '0.0' is not allowed"),
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
    logits, features = model.forward_features(tokens, every, [plan])
    assert len(features[0]) == model.feature_layers and not plan.cache.layers
    torch.testing.assert_close(logits, model.logits(tokens)[0], rtol=1e-4, atol=1e-4)


# -- dKV-Cache -------------------------------------------------------------------------------------


def golden(cache: str, family: str) -> dict[str, Any]:
    path = Path(__file__).parent / "goldens" / f"{cache}_cache_{family}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def dkv_options(settings: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Length of the hole, our settings of a recorded case, and those of its cache."""
    if "alg" in settings:
        own = {"cache_steps": settings["cache_steps"], "shift_type": settings["shift_type"]}
        decode = {"preset": DREAM[settings["alg"]], "steps": settings["steps"], "top_k": 50}
        return settings["max_new_tokens"], decode, {"cache": "dkv", **own}
    decode = {name: settings[name] for name in ("steps", "block_length")}
    own = {"cache_steps": settings["cache_reloading_step"]}
    return settings["gen_length"], decode, {"cache": "dkv", **own}


def test_dkv_cache_has_the_authors_tokens_and_positions(family: str, model: Any) -> None:
    record, changed = golden("dkv", family), 0
    for case in record["cases"]:
        length, options, cache = dkv_options(case["settings"])
        canvas = Canvas.completion(case["prompt"], length)
        options |= {"logits_temp": 1 / record["logits_scale"], **WHOLE}
        outcome = decoding.fill_outcomes(
            Engine(model), [canvas], decoding.resolve({**options, **cache})
        )[0]
        assert list(outcome.answer.tokens) == case["tokens"], case["settings"]
        assert outcome.computed == sum(case["computed"])
        changed += outcome.answer.tokens != decoding.fill(model, [canvas], **options)[0].tokens
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
    policy, block = DelayedCache(100, None), np.arange(2, 8)
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


def test_shift_type_is_refused_where_no_token_is_predicted_before_it(shared: Path) -> None:
    llada = load_model(
        "llada", pretrained=str(shared / "goldens" / "llada"), dtype="float32", device="cpu"
    )
    options = {"cache": "dkv", "cache_steps": 2, "shift_type": "un"}
    with pytest.raises(UserError, match="shift_type 'un' is for models that predict"):
        decoding.fill(llada, [Canvas.completion([5], 3)], **options)


# -- d2Cache ---------------------------------------------------------------------------------------


def d2_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Our settings of a recorded case."""
    length, block, count = (
        settings[name] for name in ("gen_length", "block_length", "num_transfer_tokens")
    )
    own = {"cache_sigma" if k == "sigma" else k: v for k, v in settings["cache"].items()}
    options = {"cache": "d2", **own, **WHOLE}
    if block != length:
        options["block_length"] = block
    if settings["threshold"] is not None:
        options["threshold"] = settings["threshold"]
    if settings["sigma"] is not None:
        prior = {"sigma": settings["sigma"], "num_transfer_tokens": count}
        return {**options, "strategy": "certainty_prior", **prior}
    if settings["threshold"] is not None:
        return {**options, "strategy": "threshold"}
    names = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
    return {**options, "strategy": names[settings["alg"]], "steps": length // count}


def test_d2_cache_has_the_authors_tokens_steps_and_positions(family: str, model: Any) -> None:
    record, changed = golden("d2", family), 0
    for case in record["cases"]:
        begin, seen = len(case["prompt"]), list[list[int]]()
        options = {**d2_options(case["settings"]), "logits_temp": 1 / record["logits_scale"]}
        canvas = Canvas.completion(case["prompt"], case["settings"]["gen_length"])

        def trace(
            _: int, step: decoding.TraceStep, seen: list[list[int]] = seen, begin: int = begin
        ) -> None:
            seen.append(sorted(one - begin for one in step.written))

        outcome = decoding.fill_outcomes(
            Engine(model), [canvas], decoding.resolve(options), trace=trace
        )[0]
        assert list(outcome.answer.tokens) == case["tokens"], case["settings"]
        assert seen == case["steps"]
        assert outcome.computed == sum(case["computed"])
        plain = {k: v for k, v in options.items() if k not in {"cache", *CACHE_OPTIONS}}
        changed += outcome.answer.tokens != decoding.fill(model, [canvas], **plain)[0].tokens
    assert changed > 10


def test_d2_cache_of_all_masks_and_all_attention_is_no_cache(model: Any) -> None:
    """Rounding leaves the last position out of the nucleus at most."""
    canvases = [Canvas.completion(prompt, 12) for prompt in prompts(model)]
    canvases.append(Canvas.infill(prompts(model)[0], 6, prompts(model)[3]))
    every = {"cache": "d2", "rollout_p": 1.0, "current_k": 99, "inflate_w": 99, **WHOLE}
    assert [f.tokens for f in decoding.fill(model, canvases, **every)] == [
        f.tokens for f in decoding.fill(model, canvases, cache="none", **WHOLE)
    ]


@pytest.mark.parametrize("strategy", ["certainty_prior", "random", "margin"])
def test_d2_cache_answers_do_not_depend_on_other_canvases(model: Any, strategy: str) -> None:
    options = {"strategy": strategy, "cache": "d2", "current_k": 3, "block_length": 6, **WHOLE}
    canvases = [Canvas.completion(p, 12, key=str(i)) for i, p in enumerate(prompts(model))]
    canvases.append(Canvas.infill(prompts(model)[0], 6, prompts(model)[3], key="hole"))

    def filled(asked: list[Canvas], **more: Any) -> list[decoding.Filling]:
        return [replace(f, seconds=0.0) for f in decoding.fill(model, asked, **options, **more)]

    together = filled(canvases)
    assert together == [filled([canvas])[0] for canvas in canvases]
    assert together == filled(canvases[::-1], engine=Engine(model, batch_rows=2))[::-1]


@pytest.mark.parametrize(
    "cache", [{"cache": "dkv", "cache_steps": 5}, {"cache": "d2", "current_k": 6}]
)
def test_rows_of_equal_plan_share_a_pass_and_keep_every_bit(model: Any, cache: Any) -> None:
    """Prompts of one length: fewer passes than rows, and the answers of each alone."""
    draw = torch.Generator().manual_seed(8)
    texts = torch.randint(0, model.vocab_size, (6, 9), generator=draw).tolist()
    canvases = [Canvas.completion(text, 16, key=str(i)) for i, text in enumerate(texts)]
    options = {**cache, "strategy": "confidence", **WHOLE}
    engine = Engine(model)
    together = decoding.fill(model, canvases, engine=engine, **options)
    assert engine.cost.forwards < engine.cost.rows
    alone = [decoding.fill(model, [canvas], **options)[0] for canvas in canvases]
    assert [replace(f, seconds=0.0) for f in together] == [replace(f, seconds=0.0) for f in alone]


def test_rollout_is_the_product_of_the_attention_maps(shared: Path) -> None:
    """Against transformers' own weights; every row of the product sums to 1."""
    folder = shared / "goldens" / "llada"
    eager = load_model(
        "llada", pretrained=str(folder), dtype="float32", device="cpu", attn_implementation="eager"
    )
    tokens = torch.tensor([prompts(eager)[1]])
    length = tokens.shape[1]
    plan = PositionPlan(FeatureCache(), torch.arange(length), measures=True)
    every = torch.ones_like(tokens, dtype=torch.bool)
    _, (features,) = eager.forward_features(tokens, every, [plan])
    with torch.no_grad():
        maps = eager.backbone(
            input_ids=tokens, output_attentions=True, **eager.inputs(tokens, None)
        ).attentions
    product = torch.eye(length)
    for weights, layer in zip(maps, features, strict=True):
        product = (weights[0].mean(0) + torch.eye(length)) / 2 @ product
        assert layer.received is not None
        torch.testing.assert_close(layer.received, product.sum(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(product.sum(1), torch.ones(length))


def test_certainty_density_is_the_weighted_share_of_known_positions() -> None:
    rng = np.random.default_rng(5)
    for length, sigma in ((1, 1.0), (7, 0.5), (12, 3.0), (20, 10.0)):
        known = rng.random(length) < 0.5
        around = np.concatenate([np.ones(length), known, np.full(length, known[-1])])
        weight = np.exp(-(np.arange(-3 * length, 3 * length) ** 2) / (2 * sigma**2))
        wanted = [
            sum(around[j] * np.exp(-((length + i - j) ** 2) / (2 * sigma**2)) for j in range(3 * length))
            / weight.sum()
            for i in range(length)
        ]  # fmt: skip
        assert np.allclose(certainty_density(known, sigma), wanted)


def test_d2_cache_keeps_the_share_of_attention_and_fills_gaps() -> None:
    weight, allowed = np.array([4.0, 3.0, 2.0, 1.0, 90.0]), np.arange(5) < 4
    assert nucleus(weight, 0.75, allowed).tolist() == [True, True, False, False, False]
    assert nucleus(weight, 0.0, allowed).tolist() == [True, False, False, False, False]
    assert not nucleus(weight, 0.5, np.zeros(5, dtype=bool)).any()
    chosen = np.isin(np.arange(10), [1, 3, 8])
    assert np.nonzero(inflated(chosen, 2))[0].tolist() == [1, 2, 3, 8]
    assert inflated(chosen, 0).tolist() == chosen.tolist()


# -- in tables -------------------------------------------------------------------------------------


def test_an_approximate_cache_is_a_field_of_its_own() -> None:
    dual = decoding.resolve({"cache": "dual", "block_length": 4})
    assert dual.approximation == "approximate cache dual" and dual.strategy.name == "confidence"
    assert decoding.resolve({}).approximation == ""
    assert decoding.resolve({"preset": "dllm_cache"}).identity()["transfer_ratio"] == 0.25

"""SDLM: logits and texts of the recorded authors' code, what a window sees, scores from left to right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import models_builders as build
import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from dlm_eval import Canvas, SampleError, UserError, fill, load_model, score
from dlm_eval.canvas import BLANK
from dlm_eval.decoding import STRATEGIES, default_strategy, resolve
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.engine import Engine
from dlm_eval.likelihood import ESTIMATORS
from dlm_eval.models.families import sdlm

FOLDER = "goldens/families-2026/sdlm"
ENDS = (308, 307)
WINDOWS = pytest.mark.parametrize("causal", [False, True])


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    if not (shared / FOLDER).is_dir():
        pytest.skip("no recordings of SDLM")
    return json.loads((shared / FOLDER / "golden.json").read_text())


def recorded(shared: Path, **options: Any) -> Any:
    # the recordings come without a tokenizer: ids are all that is compared
    named = {"tokenizer": shared / "goldens/llada", "mask_id": 313, "dtype": "float32"}
    model = load_model("sdlm", pretrained=shared / FOLDER, **named, **options)
    model.eos_ids = ENDS
    return model


@pytest.fixture(scope="module")
def network(shared: Path, golden: Any) -> Any:
    return recorded(shared)


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A small SDLM of random weights."""
    config = Qwen2Config(
        vocab_size=build.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, eos_token_id=267,
    )  # fmt: skip
    state = build.spread(Qwen2ForCausalLM(config)).state_dict()
    own = {"block_size": 4, "causal_attn": False, "text_mask_token_id": build.MASK_ID}
    return build.write(folder, config.to_dict() | own | changes, state)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = checkpoint(tmp_path_factory.mktemp("sdlm") / "small")
    return load_model("sdlm", pretrained=folder, dtype="float32")


def completions(count: int, most: int = 12) -> list[Canvas]:
    rng = np.random.default_rng(5)
    return [
        Canvas.completion(
            [int(t) for t in rng.integers(0, 200, rng.integers(1, 9))],
            int(rng.integers(1, most + 1)),
            key=str(number),
        )
        for number in range(count)
    ]


# -- the recorded code -----------------------------------------------------------------------------


def test_logits_equal_the_recorded(network: Any, golden: Any) -> None:
    """Their row i predicts position i + 1; our rows have one more mask, which nobody sees."""
    assert network.attention == "causal" and network.tokens_ahead == 4
    for case in golden["logits"]["cases"]:
        theirs = torch.tensor(case["logits"])
        ours = network.logits(torch.tensor([[*case["input_ids"], 313]]))[0, 1:]
        assert float((ours - theirs).abs().max()) < 2e-6 * float(theirs.abs().max())


def filled(model: Any, case: Any, **more: Any) -> tuple[Any, list[int]]:
    """The filling, and its tokens before the end of the text."""
    asked = case["settings"]
    options = {"n_future_tokens": asked["n_future_tokens"], **more}
    name = asked["alg"]
    if name != "self_speculative":
        name, options = "longest_prefix", options | {"alg": name, "threshold": asked["threshold"]}
    hole = Canvas.completion(case["prompt"], asked["max_gen_len"])
    (filling,) = fill(model, [hole], name, **options)
    ends = [place for place, token in enumerate(filling.tokens) if token in ENDS]
    return filling, list(filling.tokens[: ends[0] if ends else None])


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_texts_and_forwards_equal_the_recorded(
    shared: Path, network: Any, golden: Any, cache: str
) -> None:
    """Theirs go on behind the end of the hole, up to the end of a window. Guesses are verified in
    D rows, which they count as one forward after the first."""
    causal = recorded(shared, causal_attn=True)
    cases = [case for case in golden["cases"] if "quirk" not in case]
    assert len(cases) >= 36
    for case in cases:
        asked = case["settings"]
        model = causal if asked.get("causal_attn") else network
        filling, tokens = filled(model, case, cache=cache)
        assert tokens == case["tokens"][: asked["max_gen_len"]], asked
        if asked["alg"] == "self_speculative":
            assert filling.steps == case["forward_step"] - 1
            assert filling.forwards <= 1 + filling.steps * asked["n_future_tokens"]
        else:
            assert filling.steps == filling.forwards == case["forward_step"]


def test_a_prompt_of_one_token_sees_the_masks_as_any_other(
    network: Any, golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' uncached code, which was recorded, hides the masks from position 0; their cached
    code, the default, does not, and neither do we. With that one difference the texts are equal."""
    cases = [case for case in golden["cases"] if "quirk" in case]
    assert cases and all(len(case["prompt"]) == 1 for case in cases)
    plain = sdlm.seen

    def hidden(masked: Any, valid: Any, causal: bool) -> Any:
        visible = plain(masked, valid, causal)
        visible[:, 0, 1:] = False
        return visible

    ours = [filled(network, case, cache="none")[1] for case in cases]
    assert ours != [case["tokens"] for case in cases]
    monkeypatch.setattr(sdlm, "seen", hidden)
    for case in cases:
        assert filled(network, case, cache="none")[1] == case["tokens"]


# -- what a window sees ----------------------------------------------------------------------------


@WINDOWS
def test_visibility_is_that_of_its_words(causal: bool) -> None:
    text = torch.tensor([[False, False, True, True, True, False, False, True]])
    found = sdlm.seen(text, None, causal)[0]
    for one in range(8):
        for other in range(8):
            window = {1, 2, 3} if one in (1, 2, 3, 4) else ({6} if one in (6, 7) else set())
            known = other in (0, 1, 5, 6) and other <= one
            inside = other in window and other in (2, 3) and not (causal and other > one)
            assert bool(found[one, other]) == (known or inside or one == other), (one, other)


@WINDOWS
def test_rows_are_the_network_under_that_mask(tmp_path: Path, causal: bool) -> None:
    """transformers' Qwen2 with a mask made by hand; one mask alone is the autoregressive model."""
    folder = checkpoint(tmp_path / "one", causal_attn=causal)
    model = load_model("sdlm", pretrained=folder, dtype="float32")
    tokens = torch.tensor([[5, 9, 33, 71, *[build.MASK_ID] * 3]])
    allowed = torch.ones(6, 6).tril()
    if not causal:
        allowed[3:, 3:] = 1
    mask = torch.zeros(6, 6).masked_fill(allowed == 0, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        bare = model.model(input_ids=tokens[:, :6], attention_mask=mask[None, None]).logits[0]
        plain = model.model(input_ids=tokens[:, :4]).logits[0]
    assert torch.allclose(model.logits(tokens)[0, 1:], bare, atol=1e-5)
    assert torch.allclose(model.logits(tokens[:, :5])[0, 1:], plain, atol=1e-5)


def test_padding_on_either_side_changes_nothing(small: Any) -> None:
    row = [5, 9, 33, 71, *[build.MASK_ID] * 3]
    alone = small.logits(torch.tensor([row]))[0]
    for before, after in ((0, 2), (3, 0), (2, 2)):
        tokens = torch.tensor([[small.pad_id] * before + row + [small.pad_id] * after])
        valid = torch.tensor([[False] * before + [True] * len(row) + [False] * after])
        found = small.logits(tokens, valid)[0, before : before + len(row)]
        assert torch.allclose(found, alone, atol=1e-5)


# -- decoding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["longest_prefix", "self_speculative"])
def test_answers_depend_on_no_batch_and_no_cache(small: Any, name: str) -> None:
    canvases = completions(12)
    for heat in (0.0, 0.8):
        options = {"temperature": heat, "early_exit": False}
        if name == "longest_prefix":
            options |= {"threshold": 0.1}
        together = fill(small, canvases, name, **options)
        engine = Engine(small, batch_rows=2)
        alone = fill(small, canvases[::-1], name, engine=engine, **options)[::-1]
        whole = fill(small, canvases, name, cache="none", **options)
        for found in (alone, whole):
            assert [f.tokens for f in found] == [f.tokens for f in together]
            assert [f.forwards for f in found] == [f.forwards for f in together]
        assert all(BLANK not in f.tokens for f in together)
        settings = resolve({"strategy": name, **options})
        for canvas, filling in zip(canvases, together, strict=True):
            most = most_forwards(small, canvas, settings)
            assert most is not None and filling.forwards <= most


def test_the_prefix_ends_before_the_first_doubtful_token(small: Any) -> None:
    """By hand: rows of the text and D masks, behind the end of the hole too."""
    for many, threshold in ((4, 0.05), (3, 0.1), (6, 0.02)):
        text, end, forwards = [5, 9, 33], 3 + 11, 0
        while len(text) < end:
            row = torch.tensor([[*text, *[build.MASK_ID] * many]])
            chance, token = small.logits(row)[0, len(text) :].softmax(-1).max(-1)
            count = 1
            while count < many and bool((chance[: count + 1] > threshold).all()):
                count += 1
            text, forwards = [*text, *token[:count].tolist()], forwards + 1
        options = {"n_future_tokens": many, "threshold": threshold, "early_exit": False}
        (found,) = fill(small, [Canvas.completion(text[:3], 11)], "longest_prefix", **options)
        assert list(found.tokens) == text[3:end] and found.forwards == forwards


def test_a_cached_row_runs_the_window_and_what_was_written(small: Any) -> None:
    """The last token before the masks is not final, so it runs again."""
    engine = Engine(small)
    options = {"threshold": 1.0, "early_exit": False, "engine": engine}
    fill(small, [Canvas.completion(list(range(40)), 6)], "longest_prefix", **options)
    assert engine.cost.tokens == 44 + 5 * (1 + 1 + 4)  # the token before, the new one, the masks


# -- likelihood ------------------------------------------------------------------------------------


def test_a_score_is_the_chain_rule_of_one_token_at_a_time(small: Any) -> None:
    context, target = [5, 9, 33, 71], [12, 40, 7, 88, 3]
    total, likeliest = 0.0, []
    for place, token in enumerate(target):
        row = torch.tensor([[*context, *target[:place], *[build.MASK_ID] * 4]])
        logs = small.logits(row)[0, 4 + place].log_softmax(-1)
        total += float(logs[token])
        likeliest.append(int(logs.argmax()))
    canvas = Canvas.continuation(context, target)
    for estimator in ("auto", "left_to_right"):
        (found,) = score(small, [canvas], estimator, greedy=True)
        assert found.logprob == pytest.approx(total, abs=1e-4) and found.kind == "exact"
        assert (found.stderr, found.rows, found.greedy) == (0.0, 5, False)
    first = Canvas.continuation(context, likeliest[:1])
    assert score(small, [first], greedy=True)[0].greedy is True
    (filling,) = fill(small, [Canvas.completion(context, 4)], "self_speculative", early_exit=False)
    (own,) = score(small, [Canvas.continuation(context, filling.tokens)], greedy=True)
    assert own.greedy is True
    assert own.logprob == pytest.approx(float(np.log(filling.confidence).sum()), abs=1e-4)


def test_scores_depend_on_no_batch(small: Any) -> None:
    rng = np.random.default_rng(2)
    canvases = [
        Canvas.continuation(rng.integers(0, 200, n).tolist(), rng.integers(0, 200, m).tolist())
        for n, m in ((1, 3), (6, 1), (9, 7), (20, 4))
    ]
    together = [found.logprob for found in score(small, canvases)]
    alone = [score(small, [one], engine=Engine(small, batch_rows=1))[0].logprob for one in canvases]
    assert together == alone


# -- refusals --------------------------------------------------------------------------------------


def test_other_strategies_are_one_line(small: Any) -> None:
    assert default_strategy("absorbing", small) == "longest_prefix"
    canvas, in_order = Canvas.completion([5, 9], 4), set()
    for name in STRATEGIES.names():
        cls = STRATEGIES.find(name)
        if "absorbing" not in cls.processes:
            continue
        if cls.in_order:
            in_order.add(name)
            continue
        assert "it predicts the next tokens" in str(cls.misfit(small))
    assert in_order == {"longest_prefix", "self_speculative"}
    with pytest.raises(UserError, match="'confidence' is not for .*use longest_prefix"):
        fill(small, [canvas], "confidence")
    with pytest.raises(UserError, match="block_length '2' is not used"):
        fill(small, [canvas], "longest_prefix", block_length=2)
    with pytest.raises(UserError, match="guidance '1.0' is not possible"):
        fill(small, [canvas], "longest_prefix", guidance=1.0)
    with pytest.raises(SampleError, match="predicts the next tokens only"):
        fill(small, [Canvas.infill([5], 3, [6])], "longest_prefix")


def test_other_estimators_are_one_line(small: Any) -> None:
    canvas = Canvas.continuation([5, 9], [7, 8])
    for name in ESTIMATORS.names():
        if name in ("auto", "left_to_right"):
            continue
        with pytest.raises(UserError) as error:
            score(small, [canvas], name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="'mask_count' hides tokens before known ones"):
        score(small, [canvas], "mask_count")
    with pytest.raises(UserError, match="cfg_scale '1.0'"):
        score(small, [canvas], "left_to_right", cfg_scale=1.0)
    with pytest.raises(UserError, match="precision '0.1' is for models that mask tokens"):
        score(small, [canvas], "auto", precision=0.1)
    with pytest.raises(SampleError, match="text follows what is to be scored"):
        score(small, [Canvas.infill([5], [6], [7])])


def test_a_config_of_another_network_is_one_line(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "one")
    stated = json.loads((folder / "config.json").read_text())
    for number, (change, told) in enumerate(
        [
            ({"block_size": None}, "lacks block_size"),
            ({"block_size": 0}, "block_size 0"),
            ({"block_size": 65}, "block_size 65; it must be at most 64"),
            ({"causal_attn": "no"}, "causal_attn 'no'; it must be true or false"),
            ({"text_mask_token_id": 7}, "text_mask_token_id 7, its tokenizer's mask is 268"),
            ({"use_sliding_window": True}, "use_sliding_window"),
        ]
    ):
        other = shutil.copytree(folder, tmp_path / str(number))
        (other / "config.json").write_text(json.dumps(stated | change))
        with pytest.raises(UserError, match=told):
            load_model("sdlm", pretrained=other)

"""Models that are read autoregressively: I-DLM, and Nemotron in its autoregressive mode; their likelihood and self-speculation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_models_blocks
import test_samplers_dream_reasoner
import torch
from models_builders import MASK_ID
from safetensors.torch import load_file, save_file

from dlm_eval import Canvas, UserError, fill, load_model, score
from dlm_eval.decoding import TraceStep, resolve
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.likelihood.estimator import parse_estimator
from dlm_eval.likelihood.program import most_rows

FOLDER = "goldens/families-2026/idlm"
RECORDED = Path(__file__).parent / "goldens" / "nemotron_linear_spec.json"


def load_idlm(shared: Path, family: str = "idlm", **options: Any) -> Any:
    # the recordings come without a tokenizer: ids are all that is compared
    if not (shared / FOLDER).is_dir():
        pytest.skip("no recordings of I-DLM")
    tokenizer = shared / "goldens/sdar"
    return load_model(
        family, pretrained=shared / FOLDER, tokenizer=tokenizer, mask_id=310, **options
    )


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    load_idlm(shared)
    return json.loads((shared / FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def idlm(shared: Path) -> Any:
    return load_idlm(shared)


def idlm_checkpoint(folder: Path) -> Path:
    """A small I-DLM of random weights, with a tokenizer."""
    test_samplers_dream_reasoner.checkpoint(folder)
    path = folder / "config.json"
    own = {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "block_size": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | own | {"bos_token_id": 266}))
    return folder


def uneven(folder: Path) -> Path:
    """A small Nemotron whose head prefers four tokens, so that drafts are right now and then."""
    test_models_blocks.nemotron(folder)
    state = load_file(folder / "model.safetensors")
    state["diffusion_head.weight"][40:44] *= 4
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = uneven(tmp_path_factory.mktemp("nemotron") / "uneven")
    return load_model("nemotron", pretrained=folder, attention="causal")


def filled(model: Any, case: Any, length: int, **options: Any) -> tuple[Any, list[list[int]]]:
    """The filling, and the tokens that each step wrote."""
    rounds: list[list[int]] = []

    def hook(_: int, step: TraceStep) -> None:
        rounds.append([step.tokens[place] for place in sorted(step.written)])

    canvas = Canvas.completion(case["prompt"], length)
    return fill(model, [canvas], trace=hook, early_exit=False, **options)[0], rounds


# -- I-DLM -----------------------------------------------------------------------------------------


def test_idlm_logits_equal_the_recorded(idlm: Any, golden: Any) -> None:
    assert (idlm.attention, idlm.block_length, idlm.needs_bos) == ("causal", None, True)
    assert idlm.supports_kv_cache and idlm.exact_cache_block == 1
    for case in golden["logits"]["cases"]:
        theirs = torch.tensor(case["logits"])
        ours = idlm.logits(torch.tensor([case["input_ids"]]))[0]
        # row i of theirs is of the next token
        assert float((ours[1:] - theirs[:-1]).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_strided_decoding_of_nemo(idlm: Any, golden: Any) -> None:
    """Forwards: theirs go on after a block is full."""
    fewer = 0
    for case in golden["strided"]["cases"]:
        wanted = case["settings"]
        options: dict[str, Any] = {"block_length": wanted["block_size"]}
        if wanted["threshold"] is None:
            options |= {"strategy": "confidence", "steps": wanted["steps"]}
        else:
            options |= {"strategy": "threshold", "threshold": wanted["threshold"]}
        found, _ = filled(idlm, case, wanted["max_new_tokens"], **options)
        assert list(found.tokens[: len(case["tokens"])]) == case["tokens"], wanted
        assert found.forwards <= case["nfe"]
        fewer += found.forwards < case["nfe"]
        if wanted["threshold"] is None:
            assert found.forwards == case["nfe"]
    assert fewer


def test_block_n(idlm: Any, golden: Any) -> None:
    """Tokens of every round; forwards are theirs and the prefill, which theirs do not count."""
    kinds = set()
    for case in golden["block_n"]["cases"]:
        wanted, rounds = case["settings"], [list(tokens) for _, tokens in case["rounds"]]
        options = {name: wanted[name] for name in ("gen_block_size", "verify_num_specs")}
        length = wanted["max_new_tokens"]
        found, ours = filled(idlm, case, length, strategy="block_n", **options)
        assert list(found.tokens) == case["tokens"][:length], wanted
        assert found.forwards == case["forwards"] + 1
        assert ours[:-1] == rounds[:-1] and rounds[-1][: len(ours[-1])] == ours[-1]
        kinds |= {kind for kind, _ in case["rounds"]}
    assert kinds == {"C", "V", "R"}


def test_guesses_that_are_not_verified_are_accepted(idlm: Any, golden: Any) -> None:
    """A round writes all of its guesses or none if only the first one is verified."""
    sizes, tokens = set(), []
    for seen in (None, 1):
        for case in golden["block_n"]["cases"]:
            options = {"gen_block_size": 4, "verify_num_specs": seen}
            found, rounds = filled(idlm, case, 24, strategy="block_n", **options)
            tokens.append(found.tokens)
            sizes |= {len(round) for round in rounds[:-1] if seen}
    assert sizes <= {1, 2, 4} and 4 in sizes
    assert tokens[: len(tokens) // 2] != tokens[len(tokens) // 2 :]


def test_idlm_and_sdar_refuse_each_others_files(shared: Path, tmp_path: Path, golden: Any) -> None:
    with pytest.raises(UserError, match="block_size.* --model idlm"):
        load_idlm(shared, "sdar")
    with pytest.raises(UserError, match="block_size"):
        load_model("idlm", pretrained=shared / "goldens/sdar")
    config = json.loads((shared / FOLDER / "config.json").read_text())
    save_file(load_file(shared / FOLDER / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"block_size": 4}))
    with pytest.raises(UserError, match="block_size.* --model sdar"):
        load_model("idlm", pretrained=tmp_path)


# -- Nemotron --------------------------------------------------------------------------------------


@torch.inference_mode()
def masked_by_hand(model: Any, tokens: torch.Tensor, begin: int | None = None) -> torch.Tensor:
    """Raw logits [B, L, V] of its network; from `begin` on, positions see each other."""
    length = tokens.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    if begin is not None:
        allowed[begin:, begin:] = True
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    logits: torch.Tensor = model.model(input_ids=tokens, attention_mask=mask[None, None]).logits
    return logits


def test_the_autoregressive_mode_is_causal_and_shifted(nemotron: Any) -> None:
    tokens = torch.randint(0, 260, (2, 30), generator=torch.Generator().manual_seed(1))
    raw = masked_by_hand(nemotron, tokens)
    assert test_models_blocks.same(nemotron.logits(tokens)[:, 1:], raw[:, :-1])
    assert (nemotron.attention, nemotron.block_length, nemotron.needs_bos) == ("causal", None, True)
    assert nemotron.describe()["shift"] and nemotron.supports_kv_cache


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_draft_is_bidirectional_behind_a_causal_text(nemotron: Any, side: str) -> None:
    tokens = torch.randint(0, 260, (1, 12), generator=torch.Generator().manual_seed(2))
    tokens[0, 8:] = MASK_ID
    raw = masked_by_hand(nemotron, tokens, 7)
    assert test_models_blocks.same(nemotron.draft_logits(tokens), raw)
    assert not test_models_blocks.same(masked_by_hand(nemotron, tokens), raw)
    pad, real = torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 12, dtype=torch.bool)
    parts, flags = ([pad, tokens], [~real[:, :3], real])
    if side == "right":
        parts, flags = parts[::-1], flags[::-1]
    valid = torch.cat(flags, 1)
    padded = nemotron.draft_logits(torch.cat(parts, 1), valid)
    assert test_models_blocks.same(padded[valid][None], raw)


def test_linear_spec_equals_the_recorded_runs(nemotron: Any) -> None:
    """Tokens of every round, and forwards: the prefill, and two for each round."""
    cases, several = json.loads(RECORDED.read_text())["cases"], 0
    for case in cases:
        length = case["max_new_tokens"]
        options = {"draft_length": case["block_length"], "threshold": case["threshold"]}
        found, rounds = filled(nemotron, case, length, strategy="linear_spec", **options)
        assert list(found.tokens) == case["tokens"][:length] == case["ar"]["tokens"]
        assert found.forwards == case["nfe"] == 1 + 2 * len(case["rounds"])
        written = [len(tokens) for tokens in rounds]
        assert written[:-1] == [1, *case["rounds"]][: len(written) - 1]
        several += max(written) > 1
        plain, _ = filled(nemotron, case, length, strategy="left_to_right")
        assert (list(plain.tokens), plain.forwards) == (case["ar"]["tokens"], case["ar"]["nfe"])
    assert len(cases) == 24 and several > 10


def test_options_that_do_not_go_together(nemotron: Any, tmp_path: Path) -> None:
    folder = test_models_blocks.nemotron(tmp_path)
    with pytest.raises(UserError, match="block_length '8' does not go with attention 'causal'"):
        load_model("nemotron", pretrained=folder, attention="causal", block_length=8)
    blocks = load_model("nemotron", pretrained=folder)
    for strategy in ("block_n", "linear_spec"):
        with pytest.raises(UserError, match="attention=causal"):
            fill(blocks, [Canvas.completion([266], 4)], strategy=strategy)
        for name in ("block_length", "steps"):
            with pytest.raises(UserError, match=f"{name} is not used by strategy '{strategy}'"):
                resolve({"strategy": strategy, name: 4})


def test_linear_spec_needs_a_model_that_drafts(idlm: Any) -> None:
    with pytest.raises(UserError, match="it has no diffusion mode that drafts"):
        fill(idlm, [Canvas.completion([302], 4)], strategy="linear_spec")


@pytest.mark.parametrize("preset", ["idlm", "idlm_strided", "nemotron_linear_spec"])
def test_presets_fill_a_text(nemotron: Any, preset: str) -> None:
    (found,) = fill(nemotron, [Canvas.completion([266], 60)], preset=preset, early_exit=False)
    assert len(found.tokens) == 60 and -1 not in found.tokens and found.steps < 60


@pytest.mark.parametrize("length", [1, 2, 3, 60])
def test_drafts_end_where_the_model_does(nemotron: Any, length: int) -> None:
    """The model has 64 positions; a block of 16 masks does not fit behind the last tokens."""
    canvas = Canvas.completion([266, *range(1, 64 - length)], length)
    plain = fill(nemotron, [canvas], strategy="left_to_right", early_exit=False)[0]
    draft = fill(nemotron, [canvas], strategy="linear_spec", draft_length=16, early_exit=False)[0]
    assert draft.tokens == plain.tokens
    settings = resolve({"strategy": "linear_spec", "draft_length": 16}, length=length)
    most = most_forwards(nemotron, canvas, settings)
    assert most is not None and draft.forwards <= most


# -- likelihood ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["idlm", "nemotron"])
def test_the_exact_likelihood_takes_one_forward(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    text = [model.bos_id, *range(30, 42)]
    raw = masked_by_hand(model, torch.tensor([text]))[0].log_softmax(-1)
    for given in (1, 5):
        canvas = Canvas.continuation(text[:given], text[given:])
        truth = sum(float(raw[place - 1, text[place]]) for place in range(given, len(text)))
        for estimator in ("auto", "left_to_right"):
            (found,) = score(model, [canvas], estimator)
            assert found.logprob == pytest.approx(truth, abs=1e-4)
            assert (found.kind, found.stderr, found.rows) == ("exact", 0.0, 1)
            assert most_rows(model, canvas, parse_estimator(estimator)) == 1
        (chain,) = score(model, [canvas], "duel,policy=left_to_right")
        assert chain.logprob == pytest.approx(truth, abs=1e-4) and chain.rows > 1


def test_an_exact_score_refuses_settings_of_sampled_ones(idlm: Any) -> None:
    canvas = Canvas.continuation([302], [5, 6])
    with pytest.raises(UserError, match="auto: precision '0.1' .*exact: leave it out"):
        score(idlm, [canvas], "auto,precision=0.1")
    (guided,) = score(idlm, [Canvas.continuation([302, 7], [5, 6])], "auto,cfg_scale=0.5")
    (same,) = score(idlm, [Canvas.continuation([302, 7], [5, 6])], "left_to_right,cfg_scale=0.5")
    assert guided.kind == "score" and guided.logprob == same.logprob

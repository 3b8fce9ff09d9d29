"""E2D2: logits, bounds and texts of the recorded authors' code, for both kinds of decoder."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import models_builders as build
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config

from dlm_eval import Canvas, UserError, fill, load_model, score
from dlm_eval.canvas import BLANK, Filling
from dlm_eval.decoding import resolve
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.filling import fill_program, fits, most_forwards
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import Engine, ForwardRow, LogProbs
from dlm_eval.engine.batching import identity
from dlm_eval.models.families.e2d2 import E2D2, Parts
from dlm_eval.rng import Noise

KINDS = ("e2d2_sharekv", "e2d2_lasthidden")
MASK = 311


def folder_of(shared: Path, kind: str) -> Path:
    folder = shared / "goldens/families-2026" / kind
    if not folder.is_dir():
        pytest.skip("no recordings of E2D2")
    return folder


def load(shared: Path, folder: Path, **options: Any) -> Any:
    # the recordings come without a tokenizer: ids are all that is compared
    named = {"tokenizer": shared / "goldens/llada", "mask_id": MASK, "dtype": "float32"}
    return load_model("e2d2", pretrained=folder, **named, **options)


@pytest.fixture(scope="module", params=KINDS)
def recorded(request: Any, shared: Path) -> tuple[Any, Any]:
    """The network and the recording."""
    folder = folder_of(shared, request.param)
    return load(shared, folder), json.loads((folder / "golden.json").read_text())


def checkpoint(folder: Path) -> Path:
    """A small E2D2 of random weights, with a decoder of its own."""
    sizes = {
        "vocab_size": build.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    }  # fmt: skip
    network = build.spread(E2D2(Qwen3Config(**sizes), Parts(2, 1, False, None)))
    state = {}
    for key, value in network.state_dict().items():
        part, _, rest = key.partition(".")
        place = {"embed": "encoder.model.embed_tokens.", "head": "decoder.lm_head."}.get(part)
        layer = f"{part.removesuffix('_norm')}.model.{'norm' if '_' in part else 'layers'}."
        state[f"backbone.{place or layer}{rest}"] = value
    parts = {
        "_target_": "src.backbone.encoder_decoder.LLMasEncoderDecoder", "num_encoder_layers": 2,
        "num_decoder_layers": 1, "reinit_encoder": True, "reinit_decoder": True,
    }  # fmt: skip
    config = {
        "model_type": "e2d2", "block_size": 4, "length": 64, "mask_token_id": build.MASK_ID,
        "backbone_config": parts, "backbone_model_config": sizes | {"model_type": "qwen3"},
    }  # fmt: skip
    return build.write(folder, config, state)


# -- the recorded code -----------------------------------------------------------------------------


def test_logits_equal_the_recorded(recorded: Any) -> None:
    """Theirs decode all blocks at once, ours one behind the clean text before it. We never predict
    the mask."""
    model, golden = recorded
    size = model.block_length
    assert model.attention == "block"
    kept = [token for token in range(model.vocab_size) if token != MASK]
    for case in golden["logits"]["cases"]:
        clean, noisy = torch.tensor(case["x0"]), torch.tensor(case["xt"])
        theirs, context = torch.tensor(case["logits"]), torch.tensor([case["context"]])
        for begin in range(0, len(clean), size):
            row = torch.cat([clean[:begin], noisy[begin : begin + size]])[None]
            places = torch.arange(begin, begin + size)
            ours = model.logits(row, positions=places, context=context)[0]
            apart = (ours - theirs[places])[:, kept].abs().max()
            assert float(apart) < 2e-6 * float(theirs.abs().max())
            assert bool((ours[:, MASK] == -1e6).all())


def test_the_bound_is_the_recorded(recorded: Any) -> None:
    """Exact by enumeration, block by block; the prompt is a context that every position sees."""
    model, golden = recorded
    contexts = set()
    for case in golden["elbo_exact"]["cases"]:
        begin, size = case["context"], model.block_length
        contexts.add(begin)
        canvas = Canvas.continuation(case["x0"][:begin], case["x0"][begin:])
        (found,) = score(model, [canvas], "exact")
        assert found.kind == "lower bound" and found.stderr == 0
        assert found.logprob == pytest.approx(sum(case["elbo_per_block"]), abs=2e-5)
        blocks = len(case["elbo_per_block"])
        assert found.rows == blocks * (2**size - 1)
        if begin:
            (alone,) = score(model, [Canvas.continuation([], case["x0"])], "exact")
            assert abs(alone.logprob - found.logprob) > 1
    assert len(contexts) > 1


def options_of(case: Any) -> dict[str, Any]:
    same = (
        "num_steps", "confidence_margin_based_noising", "confidence_threshold",
        "align_inputs_to_blocks",
    )  # fmt: skip
    return {name: case["settings"][name] for name in same} | {"early_exit": False}


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_texts_and_forwards_equal_the_recorded(shared: Path, recorded: Any, cache: str) -> None:
    """Theirs end before the last block if the prompt ends inside one: masks come back there. We fill
    the hole to its end, so ours is compared up to where theirs ends."""
    model, golden = recorded
    whole = None
    moved = 0
    for case in golden["generate"]["cases"]:
        asked, prompt = case["settings"], case["prompt"]
        begun = len(prompt) % model.block_length
        aligned = asked["align_inputs_to_blocks"]
        missing = begun if aligned else 0
        assert case["tokens"][len(case["tokens"]) - missing :] == [MASK] * missing
        network = model
        if not asked["use_cache"]:
            folder = folder_of(shared, "e2d2_sharekv")
            whole = whole or load(shared, folder, bidirectional_prefix=True)
            network = whole
        length, options = asked["max_new_tokens"] - missing, options_of(case)
        hole = Canvas.completion(prompt, length)
        (found,) = fill(network, [hole], "predict_and_noise", cache=cache, **options)
        assert list(found.tokens) == case["tokens"][len(prompt) : len(prompt) + length], asked
        assert found.forwards == found.steps == case["nfe"], asked
        if missing:
            hole = Canvas.completion(prompt, asked["max_new_tokens"])
            (more,) = fill(network, [hole], "predict_and_noise", cache=cache, **options)
            assert more.tokens[:length] == found.tokens
            assert not {MASK, BLANK} & set(more.tokens)
        if begun and not aligned:
            options["align_inputs_to_blocks"] = True
            (other,) = fill(network, [hole], "predict_and_noise", cache=cache, **options)
            moved += other.tokens != found.tokens
    assert moved > 1  # the setting does something


# -- rows, batches, caches -------------------------------------------------------------------------


def canvases(model: Any) -> list[Canvas]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 298, (60,), generator=generator).tolist()
    return [Canvas.completion(ids[: 3 * n], 5 + n, key=str(n)) for n in range(1, 7)]


def test_answers_depend_on_no_batch_and_no_cache(recorded: Any) -> None:
    model, _ = recorded
    texts = canvases(model)
    ways = itertools.product(("predict_and_noise", "confidence"), (0.0, 0.7), (True, False))
    answers: dict[Any, set[Any]] = {}
    for name, heat, aligned in ways:
        options = {"temperature": heat, "early_exit": False, "align_inputs_to_blocks": aligned}
        together = fill(model, texts, name, **options)
        alone = fill(model, texts[::-1], name, engine=Engine(model, batch_rows=2), **options)[::-1]
        plain = fill(model, texts, name, cache="none", **options)
        for found in (alone, plain):
            assert [f.tokens for f in found] == [f.tokens for f in together]
        settings = resolve({"strategy": name, **options})
        for canvas, filling in zip(texts, together, strict=True):
            most = most_forwards(model, canvas, settings)
            assert most is not None and filling.forwards <= most
        answers.setdefault((name, heat), set()).add(tuple(f.tokens for f in together))
    assert all(len(found) == 2 for found in answers.values())


def test_its_cache_passes_the_test_with_blocks_of_any_length(shared: Path) -> None:
    """The first half of the test's row is whole blocks, also of lengths that do not divide it."""
    folder = folder_of(shared, "e2d2_sharekv")
    for size in (1, 3, 5, 7, 11):
        assert load(shared, folder, block_length=size).supports_kv_cache, size


def test_a_filling_goes_on_from_every_checkpoint(recorded: Any) -> None:
    """Its cache is not stored, so that the first row runs whole: tokens are equal."""
    model, _ = recorded
    for canvas, aligned in itertools.product(canvases(model)[2:4], (True, False)):
        settings = resolve(
            {"strategy": "predict_and_noise", "align_inputs_to_blocks": aligned, "num_steps": 3}
        )
        request = FillRequest(model, canvas, settings, Noise.of(canvas, 0))
        states: list[State] = []
        whole = run(replace(request, offer=lambda state, to=states: to.append(state())))
        assert len(states) > 4
        for state in states:
            assert fits(model, canvas, settings, state)
            again = run(replace(request, begun=state))
            assert (again.tokens, again.step, again.forwards) == (
                whole.tokens, whole.step, whole.forwards,
            )  # fmt: skip


def run(request: FillRequest) -> Filling:
    (outcome,) = Engine(request.model).drive([fill_program(request)])
    assert isinstance(outcome.answer, Filling)
    return outcome.answer


def test_a_block_before_a_text_is_filled_from_the_end_of_the_prompt(recorded: Any) -> None:
    """By hand: a prompt of 5, all seen by all, and blocks 5 to 8 and 9 to 12."""
    model, _ = recorded
    text = [5, 9, 33, 71, 12, 40, 7, 88, 3, 61]
    hole = Canvas.infill(text[:5], 6, text[5:7])
    options: dict[str, Any] = {
        "align_inputs_to_blocks": False, "early_exit": False, "steps_per_block": 4,
    }  # fmt: skip
    for cache in ("exact", "none"):
        (found,) = fill(model, [hole], "confidence", cache=cache, **options)
        tokens = [*text[:5], *[MASK] * 6, *text[5:7]]
        told = {"context": torch.tensor([5]), "blocks_from": torch.tensor([5])}
        for block in (range(5, 9), range(9, 11)):
            end = 9 if block.start == 5 else 13
            for _ in block:
                logs = model.logits(torch.tensor([tokens[:end]]), **told)[0].log_softmax(-1)
                left = [place for place in block if tokens[place] == MASK]
                best = max(left, key=lambda place: float(logs[place].max()))
                tokens[best] = int(logs[best].argmax())
        assert list(found.tokens) == tokens[5:11]


def test_a_prompt_that_ends_inside_a_block_is_scored_as_it_was_trained(recorded: Any) -> None:
    """By hand: one open token behind six, all of which every position of the encoder sees."""
    model, _ = recorded
    text, target = [5, 9, 33, 71, 12, 40], 88
    row = torch.tensor([[*text, MASK]])
    logs = model.logits(row, context=torch.tensor([6]))[0, 6].log_softmax(-1)
    (found,) = score(model, [Canvas.continuation(text, [target])])
    assert found.logprob == pytest.approx(float(logs[target]), abs=1e-5)
    other = model.logits(row, context=torch.tensor([4]))[0, 6].log_softmax(-1)
    assert abs(float(other[target] - logs[target])) > 1e-4


def test_padding_on_either_side_changes_nothing(recorded: Any) -> None:
    model, _ = recorded
    row, context = [5, 9, 33, 71, 12, 40, MASK, MASK], torch.tensor([4])
    alone = model.logits(torch.tensor([row]), context=context)[0]
    for before, after in ((0, 3), (2, 0), (5, 1)):
        tokens = torch.tensor([[model.pad_id] * before + row + [model.pad_id] * after])
        valid = torch.tensor([[False] * before + [True] * len(row) + [False] * after])
        found = model.logits(tokens, valid, context=context)[0, before : before + len(row)]
        assert torch.allclose(found, alone, atol=1e-5)


def test_rows_of_one_text_with_other_prompts_are_other_rows(recorded: Any) -> None:
    """Equal tokens under another context, or in other blocks, never share a forward."""
    model, _ = recorded
    row = ForwardRow(np.arange(8), np.array([7]), LogProbs(), np.array([1]), context=4)
    assert (
        len(
            {
                identity(row),
                identity(replace(row, context=5)),
                identity(replace(row, blocks_from=5)),
            }
        )
        == 3
    )
    text = [5, 9, 33, 71, 12, 40, 7, 88, 3, 61, 90, 14]
    both = [Canvas.continuation(text[:n], text[n:]) for n in (4, 8)]
    # the last block of the two is the same text
    together = [found.logprob for found in score(model, both, "pseudo")]
    alone = [score(model, [one], "pseudo")[0].logprob for one in both]
    assert together == alone


# -- the files -------------------------------------------------------------------------------------


def changed(shared: Path, folder: Path, path: Path, **entries: Any) -> Path:
    """A copy of a recorded checkpoint with other entries of config.json (None: without them)."""
    shutil.copytree(folder, path, ignore=shutil.ignore_patterns("golden.json"))
    config = json.loads((folder / "config.json").read_text())
    for key, value in entries.items():
        place = config["backbone_config"] if key in config["backbone_config"] else config
        place[key] = value
        if value is None:
            del place[key]
    path.chmod(0o700)
    (path / "config.json").unlink()
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_sizes_come_from_a_backbone_that_is_named(shared: Path, tmp_path: Path) -> None:
    """Published files name a Qwen3 and have no sizes."""
    folder = folder_of(shared, "e2d2_lasthidden")
    sizes = json.loads((folder / "config.json").read_text())["backbone_model_config"]
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen/config.json").write_text(json.dumps(sizes))
    bare = changed(shared, folder, tmp_path / "bare", backbone_model_config=None)
    with pytest.raises(UserError, match=r"backbone 'Qwen/Qwen3-tiny-random'.*hub") as error:
        load(shared, bare)
    assert "\n" not in str(error.value)
    row = torch.tensor([[5, 9, 33, 71, MASK, 40, MASK, MASK]])
    named = load(shared, bare, backbone=str(tmp_path / "qwen"))
    assert torch.equal(named.logits(row), load(shared, folder).logits(row))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"block_size": None}, "lacks block_size"),
        (
            {"_target_": "src.backbone.automodel.AutoModelFromConfig"},
            "_target_ .*it must be a class",
        ),
        (
            {"num_decoder_layers": 0},
            "num_decoder_layers 0; it must be a whole number of 1 to 10000, or -1",
        ),
        ({"num_decoder_layers": 9}, "decoder has 9 layers, its backbone 3"),
        ({"use_encoder_causal_mask": True}, "use_encoder_causal_mask"),
        ({"diffusion_type": "uniform"}, "diffusion_type"),
        ({"mask_token_id": 900}, "mask"),
        ({"backbone_model_config": {"model_type": "qwen3"}}, "lacks .*hidden_size"),
    ],
    ids=str,
)
def test_a_config_of_another_network_is_one_line(
    shared: Path, tmp_path: Path, entries: Any, told: str
) -> None:
    folder = changed(shared, folder_of(shared, "e2d2_lasthidden"), tmp_path / "one", **entries)
    with pytest.raises(UserError, match=told) as error:
        load_model("e2d2", pretrained=folder, tokenizer=shared / "goldens/llada")
    assert "\n" not in str(error.value)


def test_a_decoder_that_reads_layers_of_no_encoder_is_one_line(
    shared: Path, tmp_path: Path
) -> None:
    entries = {
        "_target_": "src.backbone.encoder_decoder.LLMasEncoderDecoderShareKV",
        "num_encoder_layers": 1,
    }
    folder = changed(shared, folder_of(shared, "e2d2_lasthidden"), tmp_path / "one", **entries)
    with pytest.raises(UserError, match=r"reads layers \[0, 1\] of an encoder that has \[0\]"):
        load(shared, folder)


def test_weights_that_do_not_fit_are_one_line(shared: Path, tmp_path: Path) -> None:
    folder = changed(shared, folder_of(shared, "e2d2_sharekv"), tmp_path / "one")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    less = {key: value for key, value in state.items() if not key.endswith("0.mlp.up_proj.weight")}
    save_file(less, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks encoder\.0\.mlp\.up_proj\.weight"):
        load(shared, folder)
    (folder / "model.safetensors").unlink()
    # a tied checkpoint may hold the decoder's names too, and a tied head none
    again = state | {
        key.replace("encoder", "decoder"): value.clone()
        for key, value in state.items()
        if "layers.2" in key
    }
    del again["backbone.encoder.lm_head.weight"]
    save_file(again, folder / "model.safetensors")
    tied = load(shared, folder)
    assert torch.equal(tied.model.head.weight, tied.model.embed.weight)


def test_an_untied_decoder_reads_the_encoders_keys(tmp_path: Path, shared: Path) -> None:
    """The third kind, of no published checkpoint: the tied network with a copy of its top as decoder."""
    folder = folder_of(shared, "e2d2_sharekv")
    tied = load(shared, folder)
    parts = Parts(3, 2, False, (1, 2))
    config = tied.model.config
    copy = E2D2(config, parts)
    state = dict(tied.model.state_dict())
    for key, value in list(state.items()):
        for number in (1, 2):
            if key.startswith(f"encoder.{number}."):
                state[key.replace(f"encoder.{number}.", f"decoder.{number - 1}.")] = value
    state["decoder_norm.weight"] = state["encoder_norm.weight"]
    copy.load_state_dict(state)
    row = torch.tensor([[5, 9, 33, 71, MASK, 40, MASK, MASK]])
    plain = tied.logits(row)
    tied.model = copy.eval()
    assert torch.allclose(tied.logits(row), plain, atol=1e-6)


def test_wrong_numbers_of_layers_are_one_line(tmp_path: Path) -> None:
    """More layers than the backbone's are possible if they begin anew, and the weights have them."""
    folder = checkpoint(tmp_path / "small")
    stated = json.loads((folder / "config.json").read_text())
    for change, told in (
        ({"num_encoder_layers": 3}, "does not fit its config: it lacks encoder.2"),
        ({"num_decoder_layers": 3}, "does not fit its config: it lacks decoder.1"),
        (
            {"num_decoder_layers": 9, "tie_encoder_decoder_weights": True},
            "its decoder is 9 layers of an encoder that has 2",
        ),
    ):
        parts = stated["backbone_config"] | change
        (folder / "config.json").write_text(json.dumps(stated | {"backbone_config": parts}))
        with pytest.raises(UserError, match=told):
            load_model("e2d2", pretrained=folder)

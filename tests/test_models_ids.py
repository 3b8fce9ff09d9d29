"""Ids that a network cannot read, special ids that are one, tokenizers with gaps, and options of the wrong kind: one line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import fill
from dlm_eval.errors import SampleError, UserError, nearest, unknown_name_error
from dlm_eval.likelihood import score
from dlm_eval.models import Checkpoint, load_model, load_without_weights, loading
from dlm_eval.models.denoiser import Denoiser


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    return load_model(
        "llada", pretrained=build.llada(tmp_path_factory.mktemp("llada"))[0], device="cpu"
    )


@pytest.mark.parametrize("wrong", [build.VOCAB, 10**9, 2**40, -7])
def test_10_an_id_outside_the_embedding_is_the_samples_error_in_score_and_fill(
    llada: Denoiser, wrong: int
) -> None:
    told = f"token {wrong} at position 1 is outside the model's vocabulary: its embedding has ids 0 to {build.VOCAB - 1}"
    with pytest.raises(SampleError, match=told):
        fill(llada, [Canvas.completion([40, wrong, 41], 2)])
    with pytest.raises(SampleError, match=told):
        score(llada, [Canvas.continuation([40, wrong, 41], [42])])
    with pytest.raises(SampleError, match="at position 2 is outside"):
        score(llada, [Canvas.continuation([40, 41], [wrong])])
    good = fill(llada, [Canvas.completion([40, build.VOCAB - 1, 41], 2)])
    assert len(good[0].tokens) == 2
    # what is written over is not read
    assert fill(llada, [Canvas((40, BLANK, 10**9), (False, True, True))])[0].forwards > 0


@pytest.mark.parametrize("family", ["toy", "ar2diff"])
def test_10_so_it_is_for_every_process(family: str, tmp_path: Path) -> None:
    if family == "toy":
        model = load_model("toy")
    else:
        network = build.llama(is_causal=True)
        config = network.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
        model = load_model(
            family, pretrained=build.write(tmp_path, config, network.state_dict()), device="cpu"
        )
    with pytest.raises(SampleError, match="outside the model's vocabulary"):
        fill(model, [Canvas.completion([3, model.vocab_size + 5], 2)])


def test_10_a_mask_as_truth_is_refused_unless_it_is_a_word(llada: Denoiser, tmp_path: Path) -> None:
    with pytest.raises(
        SampleError, match=f"position 2 is to be scored and holds the mask token {build.MASK_ID}"
    ):
        score(llada, [Canvas.continuation([40, 41], [build.MASK_ID, 42])])
    word = load_model("diffugpt", pretrained=build.diffugpt(tmp_path, mask="the")[0], device="cpu")
    assert word.mask_is_regular_token and word.decode(word.encode("the")) == "the"
    assert score(word, [Canvas.continuation([266, 40], [word.mask_id, 42])])[0].logprob < 0


def test_10_only_a_family_that_says_so_has_a_word_for_a_mask(tmp_path: Path) -> None:
    """The same tokenizer under LLaDA: its mask is a hole, and a text that spells it is refused."""
    folder = build.llada(tmp_path)[0]
    the = build.tokenizer(mask=None).get_vocab()["the"]
    model = load_without_weights("llada", pretrained=folder, mask_id=the)
    assert not model.mask_is_regular_token
    with pytest.raises(SampleError, match="contains the mask token 'the'"):
        model.encode("on the hill")


def gappy(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer whose highest ids lie far above the number of its tokens."""
    backend = json.loads(build.tokenizer(mask=None).backend_tokenizer.to_str())
    backend["model"]["vocab"]["on"] = 271
    built = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        bos_token=build.BOS,
        eos_token=build.EOS,
        pad_token=build.EOS,
    )
    built.save_pretrained(folder)
    return built


def test_10_decode_prints_the_highest_ids_of_a_tokenizer_with_gaps(tmp_path: Path) -> None:
    folder = build.llada(tmp_path)[0]
    tokenizer = gappy(folder)
    assert tokenizer.get_vocab()["on"] >= len(tokenizer)
    model = load_without_weights("llada", pretrained=folder, mask_id=270)
    assert 271 in model.encode("on") and model.decode(model.encode("on a hill")) == "on a hill"
    assert model.decode([*model.encode("on"), 269, 10**6, -1, 267]) == "on"


@pytest.mark.parametrize(("mask", "name"), [(267, "pad|eos"), (266, "bos")])
def test_10_a_mask_that_is_another_special_token_is_refused(
    mask: int, name: str, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = build.llada(tmp_path)[0]
    with pytest.raises(
        UserError, match=f"its mask token and its ({name}) token are one id, {mask}; set mask_id="
    ) as caught:
        load_without_weights("llada", pretrained=folder, mask_id=mask)
    assert "\n" not in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mask_token_id": mask}))
    with pytest.raises(UserError, match="are one id"):
        load_without_weights("llada", pretrained=folder)
    allowed = Checkpoint("odd", "llada", equal_ids=("bos", "eos", "pad"))
    monkeypatch.setattr(loading, "checkpoints", lambda: {"odd": allowed})
    assert load_without_weights("llada", pretrained=folder, checkpoint="odd").mask_id == mask


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"block_length": 0}, "block_length '0' is not allowed; it must be 1 or more"),
        ({"block_length": -4}, "block_length '-4'"),
        ({"block_length": True}, "block_length 'True'"),
        ({"block_length": 4.5}, "block_length '4.5'"),
        ({"mask_id": True}, "mask_id 'True'"),
        ({"mask_id": 1.5}, "mask_id '1.5'"),
        ({"max_length": True}, "max_length 'True'"),
        ({"max_length": 0}, "max_length '0'"),
        ({"strict_config": 2}, "strict_config '2'"),
        ({"dtype": True}, "dtype 'True'"),
    ],
)
def test_10_options_of_the_wrong_kind_are_one_line(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    network = build.llama()
    config = network.config.to_dict() | {
        "mask_token_id": build.MASK_ID,
        "eos_token_id": 267,
        "bos_token_id": 266,
    }
    folder = build.write(tmp_path, config, network.state_dict())
    with pytest.raises(UserError, match=told) as caught:
        load_without_weights(
            "generic", pretrained=folder, attention="block", **({"block_length": 4} | options)
        )
    assert "\n" not in str(caught.value)
    assert (
        load_without_weights(
            "generic", pretrained=folder, attention="block", block_length="4"
        ).block_length
        == 4
    )


@pytest.mark.parametrize("block", [0, -1])
def test_10_no_block_family_takes_a_block_of_nothing_for_its_own(block: int, shared: Path) -> None:
    for family in ("sdar", "llada2", "bd3lm"):
        with pytest.raises(UserError, match=f"block_length '{block}' is not allowed"):
            load_without_weights(
                family, pretrained=str(shared / "goldens" / family), block_length=block
            )


def test_10_no_message_suggests_what_was_typed(tmp_path: Path) -> None:
    assert nearest("auto", ["auto", "autos"]) == ["autos"] and "did you mean 'auto'" not in str(
        unknown_name_error("x", "auto", ["auto"])
    )
    folder = build.llada(tmp_path)[0]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "auto"}))
    # of the weights
    assert load_without_weights("llada", pretrained=folder).describe()["dtype"] == "float32"
    for stated in ("int8", 16, ["float32"]):
        (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": stated}))
        with pytest.raises(UserError, match="config.json has dtype .*choose one with dtype="):
            load_without_weights("llada", pretrained=folder)
    with pytest.raises(UserError, match="dtype 'Auto' is not known; did you mean 'auto'"):
        load_without_weights("llada", pretrained=folder, dtype="Auto")

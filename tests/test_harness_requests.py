"""Text to canvases: boundaries, BOS, what does not fit, lengths of holes."""

from __future__ import annotations

import json
import re

import pytest

from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.canvas_jobs import cut_at, visible
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.decode_layers import user_layer
from dlm_eval.harness.requests import (
    Hole,
    Length,
    choice_canvases,
    encode_pair,
    hole_canvas,
    hole_length,
)
from dlm_eval.models.families.toy import Toy, ToySettings


class Merging(Toy):
    """A toy whose tokenizer reads 'ed' as one token, so that it merges across a boundary."""

    def encode(self, text: str) -> list[int]:
        return [
            5 if c == "E" else super(Merging, self).encode(c)[0] for c in text.replace("ed", "E")
        ]


@pytest.fixture
def toy() -> Toy:
    return Toy(ToySettings(max_length=16))


def test_the_pair_is_split_in_the_encoding_of_the_whole_text(toy: Toy) -> None:
    context, target = encode_pair(toy, "ab", " cd")
    assert context + target == toy.encode("ab cd") and context == toy.encode("ab")


def test_spaces_at_the_end_of_the_context_belong_to_the_continuation(toy: Toy) -> None:
    assert encode_pair(toy, "ab ", "cd") == encode_pair(toy, "ab", " cd")


def test_a_token_across_the_boundary_is_scored_with_the_continuation() -> None:
    model = Merging(ToySettings())
    context, target = encode_pair(model, "abe", "da")
    assert context + target == model.encode("abeda") == [0, 1, 5, 0]
    assert target == [5, 0]


def test_an_empty_continuation_is_an_error_of_the_sample(toy: Toy) -> None:
    with pytest.raises(SampleError, match="continuation is empty"):
        encode_pair(toy, "ab", "")


def test_an_empty_context_opens_the_whole_canvas(toy: Toy) -> None:
    assert all(choice_canvases(toy, [("", "abc")], "", "error")[0].canvas.open)


def test_a_model_that_needs_a_bos_gets_exactly_one(toy: Toy) -> None:
    toy.needs_bos = True
    canvas = choice_canvases(toy, [("", "abc")], "", "error")[0].canvas
    assert canvas.tokens[0] == toy.bos_id and canvas.open == (False, True, True, True)
    again = choice_canvases(toy, [("ab", "c")], "", "error")[0].canvas
    assert again.tokens.count(toy.bos_id) == 1


def test_what_does_not_fit_is_cut_on_the_left_and_counted(toy: Toy) -> None:
    prepared = choice_canvases(toy, [("a" * 20, "bcd")], "", "truncate")[0]
    assert (
        len(prepared.canvas) == 16
        and prepared.truncated == 7
        and prepared.canvas.target == toy.encode("bcd")
    )


def test_the_bos_survives_the_cut(toy: Toy) -> None:
    toy.needs_bos = True
    canvas = choice_canvases(toy, [("a" * 20, "bcd")], "", "truncate")[0].canvas
    assert canvas.tokens[0] == toy.bos_id and len(canvas) == 16


def test_overlong_error_and_a_target_that_never_fits(toy: Toy) -> None:
    with pytest.raises(SampleError, match="do not fit"):
        choice_canvases(toy, [("a" * 20, "bcd")], "", "error")[0]
    with pytest.raises(SampleError, match="does not fit"):
        choice_canvases(toy, [("a", "b" * 17)], "", "truncate")[0]


def test_a_hole_keeps_the_text_next_to_it(toy: Toy) -> None:
    canvas = hole_canvas(toy, "abcdef" * 3, 4, Hole(Length(4), "fedcba"), "", "truncate").canvas
    assert len(canvas) == 16 and sum(canvas.open) == 4
    assert canvas.tokens[-6:] == tuple(toy.encode("fedcba")) and canvas.tokens[:6] == tuple(
        toy.encode("abcdef")
    )


@pytest.mark.parametrize(
    ("hole", "length"),
    [
        (Hole(Length(7)), 7),
        (Hole(Length(), references=("abc", "abcde")), 5),
        (Hole(Length(None, 10), references=("abc",)), 13),
        (Hole(Length(), references=(" ab",), measure="in_place"), 3),
        (Hole(Length(12), suffix="ab", measure="canvas"), 7),
    ],
)
def test_lengths_of_holes(toy: Toy, hole: Hole, length: int) -> None:
    assert hole_length(toy, hole, "abc") == length


def test_lengths_that_cannot_be(toy: Toy) -> None:
    for text in ("long", "0", "oracle+", "-3", "3.5"):
        with pytest.raises(ValueError, match=re.escape(text)):
            Length.parse(text)
    with pytest.raises(SampleError, match="reference"):
        hole_length(toy, Hole(Length()), "abc")
    with pytest.raises(SampleError, match="fills the canvas"):
        hole_length(toy, Hole(Length(3), measure="canvas"), "abc")
    for measure in ("alone", "in_place"):
        with pytest.raises(SampleError, match="reference of an oracle length is empty"):
            hole_length(toy, Hole(Length(), references=("",), measure=measure), "abc")
        more = Hole(Length(None, 3), references=("", ""), measure=measure)
        assert hole_length(toy, more, "abc") == 3


def test_autoregressive_defaults_of_a_yaml_do_not_touch_the_sampler() -> None:
    options = DecodeOptions({"temperature": 0.7})
    ask = options.request(
        {"until": ["x"], "temperature": 0.0, "do_sample": False, "max_gen_toks": 8, "num_beams": 1}
    )
    settings = options.settings(ask, 8)
    assert settings.temperature == 0.7 and settings.until == ("x",) and ask.hole.length == Length(8)
    assert options.settings(options.request({"decode_temperature": 0.3}), 256).temperature == 0.7
    assert (
        DecodeOptions()
        .settings(DecodeOptions().request({"decode_temperature": 0.3}), 256)
        .temperature
        == 0.3
    )


def test_the_users_length_wins_over_the_yaml_but_not_over_an_oracle() -> None:
    options = DecodeOptions(user_layer({"max_gen_toks": 4}, {"gen_length": 6}))
    assert options.request({"max_gen_toks": 9}).hole.length == Length(6)
    assert options.request({"hole": Hole(Length())}).hole.length == Length()


@pytest.mark.parametrize("key", ["stepz", "foo"])
def test_unknown_keys_are_errors(key: str) -> None:
    with pytest.raises(UserError, match=key):
        DecodeOptions({key: 1})
    with pytest.raises(UserError, match=key):
        DecodeOptions().request({key: 1})


def test_what_is_visible() -> None:
    assert visible([3, 4, 9, 5], (9,)) == [3, 4]
    assert visible([3, -1, 4], (9,)) == [3]
    assert cut_at("one. two; three", [";", ". "]) == "one"
    assert cut_at("one", []) == "one"


@pytest.mark.parametrize("family", ["llada"])
def test_the_pairs_of_the_authors_encode_pair(shared, family: str) -> None:  # type: ignore[no-untyped-def]
    from dlm_eval.models import load_model

    cases = json.loads((shared / "goldens" / family / "golden.json").read_text())["encode_pair"][
        "cases"
    ]
    model = load_model(
        family, pretrained=str(shared / "goldens" / family), dtype="float32", device="cpu"
    )
    for case in cases:
        assert list(encode_pair(model, case["context"], case["continuation"])) == case["ids"]

"""What texts and steps cost, in calls and bytes: encoding, decoding, early exit, batching, canvases."""

from __future__ import annotations

import pickle
import random
import re
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm_eval import Canvas
from dlm_eval.canvas import BLANK
from dlm_eval.decoding import fill
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.exits import StopSearch
from dlm_eval.engine.batching import Limits, Load, Waiting, pack
from dlm_eval.engine.rows import ForwardRow
from dlm_eval.errors import SampleError
from dlm_eval.harness.requests import choice_canvases
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import NO_MASK
from dlm_eval.models.pieces import GPT2, can_cut, pieces, read_rules
from dlm_eval.models.tokenizer import TokenizerInfo

FAMILIES = "bd3lm diffugpt diffullama dream llada llada2 llada21 lladamoe mdlm sdar sedd smdm wedlm".split()  # noqa: SIM905
CUTS = 2_000
WORST = [
    *"abzKZ09 .:!?,'\n\t\r_<>|", " ", " ", "\n", "\n", "\n\n", "  ", "é", "e\u0301", "\u0301", "你", "好", "。", "😀",
    "👩‍👧", "\u00a0", "\u3000", "\u200b", "\u2028", "\x85", "\x1c", "'s", "'LL", "ſ", "\u212a", "٣", "Ⅷ", " the", "Answer: B",
    "<|endoftext|>", "<|im_start|>", "<s>", "x\n", "1.\n", "a: b",
]  # fmt: skip
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def tokenizer_of(shared: Path, family: str) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(
        shared / "goldens" / family, local_files_only=True
    )


def with_pattern(shared: Path, pattern: str) -> Any:
    """Returns a golden's tokenizer with NFC and another regular expression."""
    backend = Tokenizer.from_str(tokenizer_of(shared, "dream").backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def differences(backend: Any, cut: Any) -> tuple[int, int]:
    """Returns the number of cuts in random texts, and of texts whose pieces have other ids than the whole."""
    draw, texts, cuts = random.Random(0), [], 0
    while cuts < CUTS:
        texts.append("".join(draw.choices(WORST, k=50)))
        cuts += len(cut(texts[-1])) - 1
    parts = [cut(text) for text in texts]
    whole = backend.encode_batch_fast(texts, add_special_tokens=False)
    single = iter(
        backend.encode_batch_fast(
            [part for each in parts for part in each], add_special_tokens=False
        )
    )
    joined = [[i for _ in each for i in next(single).ids] for each in parts]
    return cuts, sum(encoding.ids != ids for encoding, ids in zip(whole, joined, strict=True))


@pytest.mark.parametrize("family", [*FAMILIES, "families-2026/llada22_routing"])
def test_02_pieces_have_the_ids_of_the_whole(shared: Path, family: str) -> None:
    backend = tokenizer_of(shared, family).backend_tokenizer
    assert can_cut(read_rules(backend))
    cuts, wrong = differences(backend, pieces)
    assert cuts >= CUTS and wrong == 0


def split_differences(pattern: str, cut: Any, most: int = CUTS) -> tuple[int, int]:
    """As `differences`, for the words before their encoding, which shows cuts that a small vocabulary hides."""
    step = pre_tokenizers.Split(Regex(pattern), "isolated")
    draw, cuts, wrong = random.Random(0), 0, 0
    while cuts < most:
        text = normalizers.NFC().normalize_str("".join(draw.choices(WORST, k=50)))
        parts = cut(text)
        cuts += len(parts) - 1
        words = [word for part in parts for word, _ in step.pre_tokenize_str(part)]
        wrong += words != [word for word, _ in step.pre_tokenize_str(text)]
    return cuts, wrong


@pytest.mark.parametrize("pattern", [GPT2, QWEN2, LLAMA3])
def test_02_pieces_have_the_words_of_the_whole(shared: Path, pattern: str) -> None:
    backend = with_pattern(shared, pattern).backend_tokenizer
    assert can_cut(read_rules(backend))
    assert differences(backend, pieces)[1] == 0
    assert split_differences(pattern, pieces)[1] == 0


@pytest.mark.parametrize("pattern", [GPT2, QWEN2, LLAMA3])
@pytest.mark.parametrize("place", [r"(?<=\n)", r"(?<= )", r"(?=[.:!?])", r"(?=[A-Za-z0-9])"])
def test_02_the_test_of_pieces_finds_wrong_cuts(pattern: str, place: str) -> None:
    assert split_differences(pattern, re.compile(place).split, 2000)[1] > 20


def test_02_a_cut_before_a_line_end_needs_a_letter() -> None:
    """Of Qwen 2 and Llama 3: they join '.' and a line end."""
    cut = re.compile(r"(?<=[.:!?])(?=\n)").split
    assert (
        split_differences(GPT2, cut, 1000)[1] == 0 and split_differences(QWEN2, cut, 1000)[1] > 20
    )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("normalizer", {"type": "Prepend", "prepend": "_"}),
        ("pre_tokenizer", None),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": True}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"\p{L}+\n|\s+"}, "behavior": "Isolated", "invert": False}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+"}, "behavior": "Isolated", "invert": False}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}),
        ("model", {"type": "Unigram"}),
        ("model", {"type": "BPE", "dropout": 0.1}),
        ("added_tokens", [{"content": "end: start"}]),
        ("added_tokens", [{"content": "x", "rstrip": True}]),
        ("added_tokens", [{"content": "x", "single_word": True}]),
        ("added_tokens", [{"content": "\u212a\n"}]),  # NFC makes a K of it
    ],
)  # fmt: skip
def test_02_other_tokenizers_encode_whole_texts(part: str, value: Any) -> None:
    rules = {
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE"}, "added_tokens": [{"content": "<eos>"}],
    }  # fmt: skip
    assert can_cut(rules) and not can_cut({**rules, part: value})


class Counting:
    """A fast tokenizer that counts the texts and characters that it encodes."""

    def __init__(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.texts, self.characters = 0, 0, 0
        plain = type(tokenizer)._encode_plus

        def counted(own: Any, text: Any, *args: Any, **options: Any) -> Any:
            given = [text] if isinstance(text, str) else text
            self.calls, self.texts = self.calls + 1, self.texts + len(given)
            self.characters += sum(map(len, given))
            return plain(own, text, *args, **options)

        monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", counted)


def info(tokenizer: Any, mask: int = NO_MASK) -> TokenizerInfo:
    return TokenizerInfo(tokenizer, mask, [], None, None)


def test_02_a_shared_prefix_is_encoded_once(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(shared, "llada")
    shots = "".join(f"Question number {i} of many\nA. yes\nB. no\nAnswer: B\n\n" for i in range(20))
    texts = [
        f"{shots}Question {i}\nA. yes\nB. no\nAnswer:{choice}"
        for i in range(50)
        for choice in ("", " A", " B")
    ]
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    made = info(tokenizer)
    counts = Counting(tokenizer, monkeypatch)
    made.read_ahead(texts)
    assert counts.calls == 1 and counts.characters < 3 * len(shots) < sum(map(len, texts)) / 40
    assert [made.encode(text) for text in texts] == expected and counts.calls == 1


def test_02_the_texts_of_a_question_are_encoded_once(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a tokenizer that gets whole texts."""
    tokenizer = tokenizer_of(shared, "llada")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    made = info(tokenizer)
    counts = Counting(tokenizer, monkeypatch)
    for _ in range(4):
        made.encode("One context of a question. Answer: A")
    assert counts.texts == 1


def test_02_a_text_in_a_batch_fails_alone(shared: Path) -> None:
    tokenizer = tokenizer_of(shared, "llada")
    mask = tokenizer.convert_tokens_to_ids("<|mdm_mask|>")
    made = info(tokenizer, mask)
    texts = ["good text", "half \ud800 of a pair", "the <|mdm_mask|> spelled", "also good"]
    made.read_ahead(texts)
    for text in (texts[0], texts[3]):
        assert made.encode(text) == tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(SampleError, match="surrogate"):
        made.encode(texts[1])
    with pytest.raises(SampleError, match="mask token"):
        made.encode(texts[2])


def test_02_ids_that_were_given_away_can_be_changed(shared: Path) -> None:
    made = info(tokenizer_of(shared, "llada"))
    first = made.encode("a text")
    first.append(0)
    assert made.encode("a text") == first[:-1]


def test_02_canvases_of_a_question_are_those_of_whole_encodings(shared: Path) -> None:
    model = load_model(
        "llada", pretrained=str(shared / "goldens" / "llada"), dtype="float32", device="cpu"
    )
    context = "One shot.\nAnswer: B\n\nAnother question\nAnswer:  "
    pairs = [(context, " yes"), (context, "no. Never\nmore"), ("", "alone")]
    for (head, tail), prepared in zip(
        pairs, choice_canvases(model, pairs, "k", "error"), strict=True
    ):
        whole = model.tokenizer_info.tokenizer.encode(head + tail, add_special_tokens=False)
        assert list(prepared.canvas.tokens)[-len(whole) :] == whole


# -- canvases --------------------------------------------------------------------------------------


def test_02_a_canvas_takes_five_bytes_a_position() -> None:
    canvas = Canvas.completion(range(50_000, 50_990), 10, "k")
    assert len(pickle.dumps(canvas)) < 5 * 1000 + 300
    kept = vars(canvas)
    assert (
        isinstance(kept["tokens"], array)
        and kept["tokens"].itemsize == 4
        and isinstance(kept["open"], bytes)
    )


def test_02_a_canvas_reads_as_tuples() -> None:
    canvas = Canvas.infill([np.int64(5), 6], 2, (7,), "k")
    assert canvas.tokens == (5, 6, BLANK, BLANK, 7) and canvas.open == (
        False,
        False,
        True,
        True,
        False,
    )
    assert {type(token) for token in canvas.tokens} == {int} and {
        type(flag) for flag in canvas.open
    } == {bool}
    same = Canvas((5, 6, BLANK, BLANK, 7), (False, False, True, True, False), "k")
    assert canvas == same and hash(canvas) == hash(same) == hash(pickle.loads(pickle.dumps(canvas)))
    others = [
        replace(canvas, key="other"),
        replace(canvas, tokens=(5, 6, 1, BLANK, 7)),
        replace(canvas, open=(True,) * 5),
    ]
    assert len({canvas, same, *others}) == 4
    assert Canvas((1, 10**12), (False, True)).tokens == (1, 10**12)  # said when it is used


# -- processor time of steps -----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_03_texts_and_bytes_are_those_of_the_tokenizer(shared: Path, family: str) -> None:
    tokenizer = tokenizer_of(shared, family)
    made, draw = info(tokenizer), random.Random(1)
    special = set(tokenizer.all_special_ids)
    for _ in range(200):
        ids = draw.choices(range(len(tokenizer) + 3), k=30)
        shown = [i for i in ids if i < len(tokenizer) and i not in special]
        shown = [
            i
            for i in shown
            if not (
                i in tokenizer.added_tokens_decoder and tokenizer.added_tokens_decoder[i].special
            )
        ]
        text = tokenizer.decode(
            shown, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert made.decode(ids) == text
        assert b"".join(made.token_bytes(i) or b"" for i in ids).decode(errors="replace") == text


def test_03_a_decode_is_one_call_of_the_library(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(shared, "llada")
    made = info(tokenizer)
    asked = []
    for name in ("__len__", "decode", "convert_ids_to_tokens", "get_vocab"):
        monkeypatch.setattr(type(tokenizer), name, lambda *_, name=name, **__: asked.append(name))
    assert made.decode(list(range(100))) and not asked


class ByText:
    """A model of which only `decode` is known."""

    def __init__(self, made: TokenizerInfo) -> None:
        self.decode = made.decode


def test_03_stop_strings_are_found_when_the_whole_text_has_them(shared: Path) -> None:
    made: Any = info(tokenizer_of(shared, "dream"))
    draw, found = random.Random(2), 0
    for case in range(300):
        ids = np.array(
            made.encode("".join(draw.choices(WORST, k=25))) + draw.choices(range(280), k=5)
        )
        text = made.decode(ids)
        begin = draw.randrange(len(text))
        stops = [
            text[begin : begin + draw.randint(1, 4)],
            draw.choice(["never", "\n\n", "好", "\ufffd"]),
        ][case % 2 :]
        quick, slow = StopSearch(made, stops), StopSearch(ByText(made), stops)  # type: ignore[arg-type]
        ends = sorted(draw.sample(range(1, len(ids) + 1), k=min(12, len(ids))))
        answers = [quick.found_in(ids[:end]) for end in ends]
        assert answers == [slow.found_in(ids[:end]) for end in ends]
        found += answers[-1]
        ids[0] = draw.randrange(280)  # a text that is not continued
        assert quick.found_in(ids) == slow.found_in(ids)
    assert 100 < found < 290


def test_03_early_exit_decodes_no_text(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(
        "llada", pretrained=str(shared / "goldens" / "llada"), dtype="float32", device="cpu"
    )
    canvas = Canvas.completion(model.encode("A question:"), 24, "k")
    settings = {"steps": 24, "block_length": 4, "until": ("never written",)}
    expected = fill(model, [canvas], "confidence", **settings)[0].tokens
    calls, read = [], []
    plain = type(model).token_bytes
    monkeypatch.setattr(type(model), "decode", lambda *_: calls.append(1))
    monkeypatch.setattr(
        type(model), "token_bytes", lambda self, token: (read.append(1), plain(self, token))[1]
    )
    assert fill(model, [canvas], "confidence", **settings)[0].tokens == expected
    assert not calls and 0 < len(read) <= 24


def test_03_a_row_is_added_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    op = Draw("probability")
    rows = [ForwardRow(np.arange(n), np.array([0]), op, np.zeros(1)) for n in [8] * 30 + [5] * 20]
    waiting = [Waiting(row) for row in rows]
    for one in waiting:
        one.add(None, 0, 0, one.row)
    calls, plain = [], Load.plus
    monkeypatch.setattr(Load, "plus", lambda self, one: (calls.append(1), plain(self, one))[1])
    batches = pack(waiting, Limits(None, 64, 1000, 1.0, True))
    assert sum(map(len, batches)) == 50 and len(calls) <= 50 + len(batches)

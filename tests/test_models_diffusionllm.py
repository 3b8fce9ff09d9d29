"""DiffusionLLM: XLM-R between <s> and </s>, the length head, the length beam, and the converter from the authors' files."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models_builders import spread
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaXLConfig,
    XLMRobertaXLForMaskedLM,
)

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import fill, resolve
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.decoding.samples import mean_logprob
from dlm_eval.errors import UserError
from dlm_eval.likelihood import score
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.families.diffusionllm import LENGTH_FILE, LengthHead

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as XLM-R has them
KINDS = {
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM),
    "xlm-roberta-xl": (XLMRobertaXLConfig, XLMRobertaXLForMaskedLM),
}
POSITIONS = 40  # of which 2 stand before the first, and 2 are <s> and </s>


def tokenizer() -> PreTrainedTokenizerFast:
    pieces = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>"]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*SPECIALS, "<mask>"])
    names = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **names
    )


VOCAB = 4 + 256 + 1
MASK = VOCAB - 1


def network(
    kind: str = "xlm-roberta", positions: int = POSITIONS
) -> tuple[torch.nn.Module, LengthHead]:
    config_class, model_class = KINDS[kind]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "type_vocab_size": 1}
    model = spread(
        model_class(
            config_class(**sizes, **special, vocab_size=VOCAB, max_position_embeddings=positions)
        )
    )
    head = spread(LengthHead(16, 2, 24, positions), seed=1)
    return model, head


def written(
    folder: Path, kind: str = "xlm-roberta", length: bool = True
) -> tuple[Path, torch.nn.Module, LengthHead]:
    model, head = network(kind)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if length:
        save_file(head.state_dict(), folder / LENGTH_FILE)
    return folder, model, head


@torch.no_grad()
def framed_logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """The network's own logits of one row between <s> and </s>, those of the frame left out."""
    return model(input_ids=torch.tensor([[0, *ids, 2]])).logits[0, 1:-1]


def ids_of(length: int, seed: int) -> list[int]:
    ids = torch.randint(4, 260, (length,), generator=torch.Generator().manual_seed(seed))
    ids[2::3] = MASK
    return ids.tolist()


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_is_the_network_between_its_frame(tmp_path: Path, kind: str) -> None:
    folder, model, _ = written(tmp_path / "m", kind)
    loaded = load_model("diffusionllm", pretrained=folder)
    assert (
        isinstance(loaded, Denoiser) and loaded.max_length == POSITIONS - 4 and not loaded.needs_bos
    )
    long, short = ids_of(11, 0), ids_of(6, 1)
    tokens = torch.tensor([long, [*short, *[1] * 5], [*[1] * 5, *short]])
    valid = torch.tensor([[True] * 11, [True] * 6 + [False] * 5, [False] * 5 + [True] * 6])
    whole = loaded.logits(tokens, valid)
    ordinary = torch.arange(VOCAB) != MASK
    for row, ids, where in (
        (0, long, slice(0, 11)),
        (1, short, slice(0, 6)),
        (2, short, slice(5, 11)),
    ):
        expected = framed_logits(model, ids)
        assert torch.allclose(whole[row, where][:, ordinary], expected[:, ordinary], atol=1e-5)
        assert float(whole[row, where][:, MASK].max()) < -1e5  # [MASK] is never predicted
    # a row that has its own <s> gets no other
    begun = loaded.logits(torch.tensor([[0, *short]]))[0, 1:]
    assert torch.allclose(begun, whole[1, :6], atol=1e-5)
    some = torch.tensor([True, False, True] + [False] * 8).expand(3, -1) & valid
    assert torch.equal(loaded.logits(tokens, valid, some), whole[some])


def test_the_length_head_reads_the_mean_of_the_prompt(tmp_path: Path) -> None:
    folder, model, head = written(tmp_path / "m")
    loaded = load_model("diffusionllm", pretrained=folder)
    prompts = [[5, 6, 7, 8], [9, 10]]
    tokens, valid = (
        torch.tensor([prompts[0], [9, 10, 1, 1]]),
        torch.tensor([[True] * 4, [True, True, False, False]]),
    )
    found = loaded.length_logits(tokens, valid)
    for prompt, logits in zip(prompts, found, strict=True):
        with torch.inference_mode():  # unpadded, layer by layer
            mixed = head.length_trm.layers[0](model.roberta(torch.tensor([[0, *prompt]]))[0])
            assert torch.allclose(head.length_predictor(mixed.mean(1))[0], logits, atol=1e-5)


def plain_rdm(
    model: torch.nn.Module, prompt: list[int], length: int, steps: int
) -> tuple[list[int], float]:
    """RDM as the paper's algorithm says (uncond, deterministic, cosine, argmax), and the mean log-probability of its tokens."""
    ids, masked, scores = (
        [*prompt, *[MASK] * length],
        np.ones(length, bool),
        np.full(length, -np.inf),
    )
    for step in range(1, steps + 1):
        logits = framed_logits(model, ids)[len(prompt) :]
        logits[:, MASK] = -torch.inf
        best, token = logits.log_softmax(-1).max(-1)
        best = best.numpy()
        kept = int(np.float32(length) * np.float32(np.cos(step / steps * np.pi * 0.5)))
        low = best < np.sort(best)[kept] if kept < length else np.ones(length, bool)
        fresh = masked & ~low
        scores = np.where(low, -np.inf, np.where(fresh, best, scores))
        masked = low
        for i in range(length):
            ids[len(prompt) + i] = (
                MASK if low[i] else int(token[i]) if fresh[i] else ids[len(prompt) + i]
            )
    return ids[len(prompt) :], float(scores.mean())


def test_rdm_decodes_as_published(tmp_path: Path) -> None:
    folder, model, _ = written(tmp_path / "m")
    loaded = load_model("diffusionllm", pretrained=folder)
    prompts = [loaded.encode(text) for text in ("ab", "translate this", "Q: why? A:")]
    fillings = fill(
        loaded, [Canvas.completion(p, 7 + i) for i, p in enumerate(prompts)], preset="rdm", steps=6
    )
    for i, (prompt, filling) in enumerate(zip(prompts, fillings, strict=True)):
        assert list(filling.tokens) == plain_rdm(model, prompt, 7 + i, 6)[0]


def test_the_length_beam_keeps_the_most_probable_filling(tmp_path: Path) -> None:
    folder, model, head = written(tmp_path / "m")
    loaded = load_model("diffusionllm", pretrained=folder)
    prompts = [loaded.encode(text) for text in ("ab", "translate this", "Q: why?")]
    canvases = [Canvas.completion(prompt, 3, key=f"q{i}") for i, prompt in enumerate(prompts)]
    beamed = fill(loaded, canvases, preset="rdm", steps=4, length_beam=3)
    settings = resolve({"preset": "rdm", "steps": 4, "length_beam": 3})
    assert all(
        filling.forwards <= (most_forwards(loaded, canvas, settings) or 0)
        for canvas, filling in zip(canvases, beamed, strict=True)
    )
    for prompt, filling in zip(prompts, beamed, strict=True):
        sizes = (loaded.length_logits(torch.tensor([prompt]))[0].topk(3).indices + 1).tolist()
        sizes = list(dict.fromkeys(min(size, loaded.max_length - len(prompt)) for size in sizes))
        tried = [plain_rdm(model, prompt, size, 4) for size in sizes]
        assert list(filling.tokens) == max(tried, key=lambda pair: pair[1])[0]
        alone = fill(
            loaded, [Canvas.completion(prompt, size) for size in sizes], preset="rdm", steps=4
        )
        assert filling.forwards == 1 + sum(one.forwards for one in alone)
    assert [
        f.tokens for f in fill(loaded, canvases[::-1], preset="rdm", steps=4, length_beam=3)
    ] == [f.tokens for f in beamed[::-1]]


def test_a_beams_rank_leaves_special_tokens_out() -> None:
    filling = Filling((7, 2, 1, -1), 1, 1, confidence=(0.5, 1.0, 0.9, float("nan")))
    assert mean_logprob(filling, {-1, 0, 1, 2}) == pytest.approx(math.log(0.5))
    assert mean_logprob(filling) == pytest.approx((math.log(0.5) + math.log(0.9)) / 3)


def test_an_empty_text_is_never_the_most_probable() -> None:
    """It has no token that could be unlikely: its mean was 0, above that of every text."""
    empty = Filling((2, 2, -1), 1, 1, confidence=(0.3, 0.2, float("nan")))
    assert mean_logprob(empty, {-1, 2}) == -math.inf
    assert mean_logprob(empty) == pytest.approx((math.log(0.3) + math.log(0.2)) / 2)


def test_a_length_that_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    folder, _, _ = written(tmp_path / "m", length=False)
    loaded = load_model("diffusionllm", pretrained=folder)
    with pytest.raises(UserError, match="has no length head"):
        fill(loaded, [Canvas.completion([5], 3)], length_beam=2)
    with pytest.raises(UserError, match="length_beam '2' is not possible"):
        fill(load_model("toy"), [Canvas.completion([1], 3)], length_beam=2)


def test_likelihoods_are_its_own(tmp_path: Path) -> None:
    folder, model, _ = written(tmp_path / "m")
    loaded = load_model("diffusionllm", pretrained=folder)
    found = score(loaded, [Canvas.continuation([5, 6, 7], [9])])[0]
    logits = framed_logits(model, [5, 6, 7, MASK])[3]
    logits[MASK] = -torch.inf
    assert found.logprob == pytest.approx(float(logits.log_softmax(-1)[9]), abs=1e-4)


# -- converter -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converter():
    path = Path(__file__).resolve().parents[1] / "scripts" / "convert_diffusionllm.py"
    spec = importlib.util.spec_from_file_location("convert_diffusionllm", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def authors_state(
    model: torch.nn.Module, head: LengthHead, empty_head: bool
) -> dict[str, torch.Tensor]:
    """A state dict under the names of the authors' class (model.roberta..., length_trm..., length_predictor...)."""
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state |= head.state_dict()
    state |= {
        "fake_layer": torch.zeros(16),
        "model.roberta.embeddings.position_ids": torch.arange(POSITIONS)[None],
    }
    if empty_head:
        state["model.lm_head.decoder.weight"] = torch.empty(0)
    return state


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("head_is", ["tied", "empty", "apart"])
def test_converter_round_trip(
    tmp_path: Path, converter, monkeypatch, kind: str, head_is: str
) -> None:
    backbone, model, head = written(tmp_path / "backbone", kind, length=False)
    state = authors_state(model, head, head_is == "empty")
    if head_is == "apart":
        state["model.lm_head.decoder.weight"] = state["model.lm_head.decoder.weight"] * 1.5
        model.config.tie_word_embeddings = False
        model.lm_head.decoder.weight = torch.nn.Parameter(state["model.lm_head.decoder.weight"])
    (tmp_path / "theirs").mkdir()
    torch.save(state, tmp_path / "theirs" / "pytorch_model.bin")
    paths = [
        "--checkpoint",
        str(tmp_path / "theirs"),
        "--backbone",
        str(backbone),
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["convert", *paths])
    converter.main()
    loaded = load_model("diffusionllm", pretrained=tmp_path / "out")
    ids, ordinary = ids_of(9, 2), torch.arange(VOCAB) != MASK
    found = loaded.logits(torch.tensor([ids]))[0]
    assert torch.allclose(found[:, ordinary], framed_logits(model, ids)[:, ordinary], atol=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] == (
        head_is != "apart"
    )
    with torch.inference_mode():
        features = model.roberta(torch.tensor([[0, 5, 6]]))[0]
        expected = head(features, torch.ones(1, 3, dtype=torch.bool))
    assert torch.allclose(loaded.length_logits(torch.tensor([[5, 6]])), expected, atol=1e-5)


def test_converter_says_what_is_wrong(tmp_path: Path, converter) -> None:
    backbone, model, head = written(tmp_path / "backbone", length=False)
    state = authors_state(model, head, False)
    for fault, message in (
        ({"model.classifier.weight": torch.zeros(2)}, "surplus"),
        ({"other.weight": torch.zeros(2)}, "not DiffusionLLM's: other.weight"),
        ({"model.roberta.embeddings.word_embeddings.weight": torch.zeros(9, 16)}, "cut vocabulary"),
    ):
        torch.save({**state, **fault}, tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match=message):
            converter.convert(tmp_path, converter.locate(str(backbone)), tmp_path / "out")
    with pytest.raises(UserError, match="zero_to_fp32"):
        converter.convert(tmp_path / "absent", converter.locate(str(backbone)), tmp_path / "out")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder, _, _ = written(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="model_type 'bert'"):
        load_model("diffusionllm", pretrained=folder)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="max_length '40' is not possible; the network has 36"):
        load_model("diffusionllm", pretrained=folder, max_length=40)

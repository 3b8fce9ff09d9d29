"""DiffusionGemma equals transformers' own class: logits, self-conditioning, and `generate` where both throw the same dice."""

from __future__ import annotations

import json

import models_builders as build
import pytest
import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    EntropyBoundSamplerConfig,
)
from transformers.models.diffusion_gemma import generation_diffusion_gemma as theirs

from dlm_eval import Canvas, fill, score
from dlm_eval.decoding import resolve
from dlm_eval.decoding.draw import inverse_cdf
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.decoding.random_canvas import accepted
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.models import load_model, load_without_weights
from dlm_eval.rng import Noise

LENGTH, STEPS = 8, 6
TEXT = {
    "vocab_size": build.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"], "max_position_embeddings": 128,
    "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24,
    "pad_token_id": 267, "eos_token_id": 267, "bos_token_id": 266,
}  # fmt: skip
VISION = {
    "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4,
}  # fmt: skip
PROMPT = [266, *range(40, 52)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("gemma"))


def saved(folder, calm=()):
    special = {"image_token_id": 271, "boi_token_id": 270, "eoi_token_id": 269}
    config = DiffusionGemmaConfig(
        text_config=TEXT, vision_config=VISION, canvas_length=LENGTH, **special
    )
    network = build.spread(DiffusionGemmaForBlockDiffusion(config))
    for name, weight in network.named_parameters():
        if any(part in name for part in ("self_conditioning", "router", *calm)):
            # else each step makes five times as much of the rounding of the one before
            weight.data *= 0.3
    network.save_pretrained(folder)
    build.tokenizer(mask=None, chat=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return DiffusionGemmaForBlockDiffusion.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def model(folder):
    return load_model("diffusiongemma", pretrained=folder, dtype="float32")


def same(one, other, tolerance=1e-5):
    return float((one - other).abs().max() / other.abs().max()) < tolerance


def inputs(model, prompt, canvas, soft=None):
    """Tokens [1, L] and inputs [1, L, H + 1] of a canvas behind a prompt."""
    given = torch.zeros(1, len(prompt) + len(canvas), model.state_size + 1)
    given[:, len(prompt) :, -1] = 1
    if soft is not None:
        given[:, len(prompt) :, :-1] = soft
    return torch.tensor([[*prompt, *canvas]]), given


@torch.inference_mode()
def test_logits_and_self_conditioning_are_the_networks(network, model):
    canvas = list(range(100, 108))
    asked = {"input_ids": torch.tensor([PROMPT]), "decoder_input_ids": torch.tensor([canvas])}
    first = network(**asked).logits
    second = network(**asked, self_conditioning_logits=first / 0.7).logits
    tokens, given = inputs(model, PROMPT, canvas)
    assert same(model.logits(tokens, inputs=given)[:, len(PROMPT) :], first)
    tokens, given = inputs(
        model, PROMPT, canvas, model.soft_embeddings((first / 0.7).softmax(-1)[0])
    )
    assert same(model.logits(tokens, inputs=given)[:, len(PROMPT) :], second)
    assert not same(first, second, 1e-2)


@torch.inference_mode()
def test_rows_of_one_batch_do_not_see_each_other(model):
    one, other = inputs(model, PROMPT, range(90, 98)), inputs(model, PROMPT[:3], range(60, 64))
    length = one[0].shape[1]
    tokens = torch.full((2, length), model.pad_id)
    given, valid = (
        torch.zeros(2, length, model.state_size + 1),
        torch.zeros(2, length, dtype=torch.bool),
    )
    for row, (ids, channels) in enumerate((one, other)):
        tokens[row, : ids.shape[1]], given[row, : ids.shape[1]], valid[row, : ids.shape[1]] = (
            ids[0],
            channels[0],
            True,
        )
    both = model.logits(tokens, valid, inputs=given)
    for row, (ids, channels) in enumerate((one, other)):
        assert same(both[row, : ids.shape[1]], model.logits(ids, inputs=channels)[0])


class Dice:
    """Gives transformers' sampler the random numbers that ours takes."""

    def __init__(self, canvas: Canvas, begin: int) -> None:
        self.noise, self.begin, self.number, self.step = Noise.of(canvas, 0), begin, -1, 0

    def uniforms(self, stream: str, step: int) -> torch.Tensor:
        end = self.begin + (self.number + 1) * LENGTH
        return torch.from_numpy(self.noise.uniforms(stream, step, end)[end - LENGTH : end])

    def multinomial(self, probability: torch.Tensor, num_samples: int) -> torch.Tensor:
        self.step += 1
        return inverse_cdf(probability.log(), self.uniforms("draw", self.clock))[:, None]

    def initialize(self, sampler, batch_size, device) -> torch.Tensor:
        if self.fresh:
            self.number, self.step, self.fresh = self.number + 1, 0, False
            drawn = self.uniforms("start", self.number)
        else:
            drawn = self.uniforms("renoise", self.clock)
        return (drawn * build.VOCAB).long()[None]

    @property
    def clock(self) -> int:
        return self.number * STEPS + self.step - 1

    fresh = True


def generated(network, canvas, monkeypatch, **options):
    """What transformers' `generate` writes behind the prompt with our dice."""
    dice = Dice(canvas, len(PROMPT))
    monkeypatch.setattr(theirs.EntropyBoundSampler, "initialize_canvas", lambda s, batch_size, device: dice.initialize(s, batch_size, device))  # fmt: skip
    monkeypatch.setattr(torch, "multinomial", dice.multinomial)
    prepare = type(network)._prepare_denoiser_inputs

    def begins(self, **arguments):
        dice.fresh = True
        return prepare(self, **arguments)

    monkeypatch.setattr(type(network), "_prepare_denoiser_inputs", begins)
    out = network.generate(
        torch.tensor([PROMPT]), max_new_tokens=sum(canvas.open), max_denoising_steps=STEPS,
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=options.pop("bound", 0.1)), **options,
    )  # fmt: skip
    return out.sequences[0, len(PROMPT) :].tolist(), float(out.tokens_per_forward[0])


@pytest.mark.parametrize("bound", [0.1, 2.0, 8.0])
def test_two_canvases_equal_generate(network, model, monkeypatch, bound):
    canvas = Canvas.completion(PROMPT, 2 * LENGTH)
    written = fill(model, [canvas], steps=STEPS, accept_bound=bound, early_exit=False)[0]
    tokens, _ = generated(network, canvas, monkeypatch, bound=bound, confidence_threshold=1e-9)
    assert list(written.tokens) == tokens and written.forwards == 2 * STEPS


def test_halting_and_the_end_of_text_equal_generate(tmp_path, monkeypatch):
    """Confident once the mean entropy is below a bound that any distribution meets: what is left to wait for is stability."""
    calm = saved(tmp_path, ["post_"])  # a network whose tokens come to rest
    network = DiffusionGemmaForBlockDiffusion.from_pretrained(calm).eval()
    model = load_model("diffusiongemma", pretrained=calm, dtype="float32")
    canvas = Canvas.completion(PROMPT, 2 * LENGTH)
    options = {
        "accept_bound": 60.0,
        "halt": "confident",
        "halt_threshold": 10.0,
        "t_start": 0.02,
        "t_end": 0.01,
    }
    written = fill(model, [canvas], steps=STEPS, early_exit=False, **options)[0]
    asked = {"bound": 60.0, "confidence_threshold": 10.0, "t_max": 0.02, "t_min": 0.01}
    tokens, rate = generated(network, canvas, monkeypatch, **asked)
    assert list(written.tokens) == tokens and 2 * LENGTH / written.forwards == pytest.approx(rate)
    assert 2 < written.forwards < 2 * STEPS
    end = tokens[3]
    monkeypatch.setattr(model, "eos_ids", (end,))
    monkeypatch.setattr(network.generation_config, "eos_token_id", end)
    stopped = fill(model, [canvas], steps=STEPS, **options)[0]
    tokens, _ = generated(network, canvas, monkeypatch, **asked)
    first = tokens.index(end)
    assert stopped.exit == "eos" and stopped.tokens[: first + 1] == tuple(tokens[: first + 1])
    assert stopped.tokens[LENGTH:] == (-1,) * LENGTH and len(tokens) == LENGTH


def test_answers_do_not_depend_on_batch_mates(model):
    canvases = [Canvas.completion(PROMPT[:n], 5 + n) for n in (2, 5, 9)] + [
        Canvas.infill(PROMPT[:4], 3, [70, 71, 72])
    ]
    fillings = [fill(model, [canvas], steps=3)[0] for canvas in canvases]
    alone = [filling.tokens for filling in fillings]
    settings = resolve({"strategy": "renoise", "steps": 3})
    assert all(
        filling.forwards <= most_forwards(model, canvas, settings)
        for filling, canvas in zip(fillings, canvases, strict=True)
    )
    assert [filling.tokens for filling in fill(model, canvases, steps=3)] == alone
    one_by_one = Engine(model, batch_tokens=1)
    assert [
        filling.tokens for filling in fill(model, canvases, steps=3, engine=one_by_one)
    ] == alone


def test_text_behind_a_hole_stays_and_counts(model):
    before = fill(model, [Canvas.infill(PROMPT, 3, [70, 71, 72])], steps=3)[0]
    other = fill(model, [Canvas(before_tokens(70), before_open(), "k")], steps=3)[0]
    changed = fill(model, [Canvas(before_tokens(90), before_open(), "k")], steps=3)[0]
    assert len(before.tokens) == 3 and other.tokens != changed.tokens


def before_tokens(last):
    return (*PROMPT, -1, -1, -1, last, last + 1, last + 2)


def before_open():
    return (False,) * len(PROMPT) + (True,) * 3 + (False,) * 3


def test_the_surest_tokens_are_accepted():
    entropy = torch.tensor([0.5, 0.02, 0.3, 0.05]).double().numpy()
    assert accepted(entropy, 0.1).tolist() == [False, True, True, True]  # before 0.3 stand 0.07
    assert accepted(entropy, 0.01).tolist() == [False, True, False, False]


def test_what_it_cannot_do_is_one_line(model, folder, tmp_path):
    with pytest.raises(UserError, match="no likelihood estimator is known for a 'canvas' process"):
        score(model, [Canvas.continuation(PROMPT, [5, 6])])
    with pytest.raises(
        UserError, match="temperature '0.7' means nothing to a model of process 'canvas'"
    ):
        fill(model, [Canvas.completion(PROMPT, 4)], temperature=0.7)
    with pytest.raises(UserError, match="not a DiffusionGemma checkpoint"):
        load_model("diffusiongemma", pretrained=build.llada(tmp_path)[0])


def test_it_describes_itself(model, folder):
    told = model.describe()
    assert (
        told
        == load_without_weights("diffusiongemma", pretrained=folder, dtype="float32").describe()
    )
    assert (told["canvas_length"], told["process"], told["max_length"]) == (LENGTH, "canvas", 128)
    assert model.bos_id == 266 and model.eos_ids == (267,) and json.dumps(told)
    assert model.apply_chat_template([{"role": "user", "content": "hi"}]).startswith(build.BOS)

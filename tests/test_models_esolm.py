"""Eso-LM: the authors' logits, losses and samples (tests/goldens/esolm.json says how they were recorded), and
the bound by enumeration.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import models_builders as build
import numpy as np
import pytest
import torch
from scipy.stats import binom

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import fill
from dlm_eval.decoding.samplers import esolm as sampler
from dlm_eval.errors import UserError
from dlm_eval.likelihood import score
from dlm_eval.likelihood.esolm import binomial
from dlm_eval.likelihood.estimator import parse_estimator
from dlm_eval.likelihood.patterns import subsets
from dlm_eval.likelihood.program import most_rows
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import WritingOrder, offers
from dlm_eval.models.families.dit import DiT, DiTConfig
from dlm_eval.rng import Noise, digest

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "esolm.json").read_text())
SIZES = GOLDEN["sizes"]
MASK = SIZES["vocab_size"] - 1


def checkpoint(folder: Path, **changes: Any) -> Path:
    """The recorded network under the authors' names: weights by the formula of the recordings."""
    order = ("vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length")
    state = DiT(DiTConfig(*(SIZES[name] for name in order))).state_dict()
    named = {k.replace("vocab_embed.weight", "vocab_embed.embedding"): v for k, v in state.items()}
    for k, name in enumerate(sorted(named)):
        i = torch.arange(named[name].numel(), dtype=torch.float64)
        weight = 0.35 * torch.sin(1.7 * i + 0.9 * k + 0.01 * i * i)
        is_norm = name.endswith(("norm1.weight", "norm2.weight", "norm_final.weight"))
        named[name] = (weight + is_norm).view(named[name].shape).float()
    config = {
        "model_type": "EsoLM", **SIZES, "alpha_0": 0.5, "diffusion_attn_mode": "causal",
        "sequential_attn_mode": "causal", "dropout": 0.1, **changes,
    }  # fmt: skip
    return build.write(
        folder, config, {f"backbone.{name}": w for name, w in named.items()}, mask=None
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns the model with these changes of its config.json; each is loaded once."""
    known: dict[str, Any] = {}

    def loaded(**changes: Any) -> Any:
        name = json.dumps(changes)
        if name not in known:
            known[name] = load_model(
                "esolm", pretrained=checkpoint(tmp_path_factory.mktemp("eso"), **changes)
            )
        return known[name]

    return loaded


def in_order(model: Any, tokens: Any, places: Any, visible: Any) -> torch.Tensor:
    """Log-probabilities [L, V] of a row with a layout."""
    row = torch.tensor(np.array(tokens))[None]
    logits = model.logits_in_layout(
        row, torch.ones_like(row, dtype=torch.bool), torch.tensor(np.array(places))[None],
        torch.from_numpy(visible)[None],
    )  # fmt: skip
    return logits.log_softmax(-1)


@pytest.mark.parametrize("case", GOLDEN["diffusion"], ids=lambda case: case["mode"])
def test_the_diffusion_phase_equals_the_authors(models: Any, case: Any) -> None:
    model = models(diffusion_attn_mode=case["mode"])
    tokens, order = np.array(case["zt_sorted"]), np.array(case["sort_idx"])
    hidden = tokens == MASK
    found = in_order(model, tokens, order, model.visible(hidden))[hidden][:, ::27]
    assert torch.allclose(found, torch.tensor(case["log_p"])[hidden], atol=2e-5)


def test_plain_rows_are_in_the_order_of_the_text(models: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    for mode in ("causal", "mixed2", "mixed", "bidirectional"):
        model = models(diffusion_attn_mode=mode)
        tokens = torch.randint(0, 260, (12,), generator=generator)
        tokens[[1, 2, 5, 9]] = MASK
        order = np.argsort((tokens == MASK).numpy(), kind="stable")
        shown = tokens[order].numpy()
        laid = in_order(model, shown, order, model.visible(shown == MASK))
        plain = model.logits(tokens[None])[0].log_softmax(-1)
        assert torch.allclose(plain[order], laid, atol=1e-5), mode


@pytest.mark.parametrize("case", GOLDEN["sequential"], ids=lambda case: case["mode"])
def test_the_second_phase_equals_the_authors(models: Any, case: Any) -> None:
    """Theirs has the masks of all tokens in front of the text, ours those of the tokens that are left."""
    model = models(sequential_attn_mode=case["mode"])
    order = np.array(case["sort_idx"])
    text, hidden = np.array(case["x0"])[order], np.array(case["z0"])[order] == MASK
    left = int(hidden.sum())
    tokens = np.concatenate([text, np.full(left, MASK)])
    places = np.concatenate([order, order[hidden]])
    found = in_order(model, tokens, places, model.visible_from_left(len(text) - left, left))
    logs = found[len(text) :].gather(1, torch.from_numpy(text[hidden])[:, None])[:, 0]
    theirs = np.array(case["loss_sorted"])
    assert np.allclose(-logs.numpy(), theirs[hidden], atol=5e-5) and not theirs[~hidden].any()


def test_losses_of_the_diffusion_phase_equal_the_authors(models: Any) -> None:
    """-d alpha / (1 - alpha) log p at their draws of t, of what is hidden and of the order."""
    for case in GOLDEN["nll"]:
        model = models(alpha_0=case["alpha_0"])
        order = np.array(case["sort_idx"])
        text, tokens = np.array(case["x0"])[order], np.array(case["xt"])[order]
        hidden = tokens == MASK
        found = in_order(model, tokens, order, model.visible(hidden))
        logs = found.gather(1, torch.from_numpy(text)[:, None])[:, 0].numpy() * hidden
        alpha = case["alpha_0"] * (1 - 0.999 * case["t"])
        rate = case["alpha_0"] * 0.999 / (1 - alpha)
        assert np.allclose(-rate * logs, case["loss_sorted"], atol=1e-4)


@pytest.mark.parametrize("case", GOLDEN["samples"], ids=lambda c: f"{c['alpha_0']}-{c['steps']}")
def test_samples_equal_the_authors(models: Any, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and forwards, with their order and numbers of tokens per step."""
    real = Noise.uniforms

    def given(self: Noise, stream: str, step: int, n: int) -> Any:
        return np.array(case["order"]) if stream == "order" else real(self, stream, step, n)

    monkeypatch.setattr(Noise, "uniforms", given)
    monkeypatch.setattr(sampler, "tokens_per_step", lambda *_: tuple(case["counts"]))
    (found,) = fill(
        models(alpha_0=case["alpha_0"]), [Canvas.completion([], 12)], "esolm",
        diffusion_steps=case["steps"], early_exit=False,
    )  # fmt: skip
    assert list(found.tokens) == case["tokens"]
    assert found.forwards == case["forwards"]


@pytest.mark.parametrize(("alpha", "steps"), [(0.25, 3), (0.5, 8), (1.0, 5), (0.0, 4)])
def test_the_numbers_of_tokens_per_step_have_the_authors_distribution(
    alpha: float, steps: int
) -> None:
    """Each token is written by diffusion with probability alpha_0, in each step of t equally often.

    4 standard errors of 4000 draws are allowed (alpha = 6e-5 for each of at most 6 numbers).
    """
    drawn = [sampler.tokens_per_step(9, alpha, steps, Noise(digest(key))) for key in range(4000)]
    sums = np.array([sum(counts) for counts in drawn])
    error = math.sqrt(9 * alpha * (1 - alpha) / len(drawn))
    assert abs(sums.mean() - 9 * alpha) <= 4 * error + 1e-12
    assert abs(sums.var() - 9 * alpha * (1 - alpha)) <= 0.12 * (9 * alpha * (1 - alpha)) + 1e-12
    assert all(min(counts, default=1) >= 1 for counts in drawn)
    quantiles = [sampler.drawn_binomial(4, 0.3, u) for u in (np.arange(10000) + 0.5) / 10000]
    assert np.allclose(np.bincount(quantiles) / 10000, binomial(4, 0.3), atol=2e-4)


@pytest.mark.parametrize(("n", "chance"), [(1, 0.4), (400, 0.9), (2000, 0.5), (5000, 0.2)])
def test_numbers_of_tokens_of_long_texts(n: int, chance: float) -> None:
    """(1 - chance)^n is below what float64 can hold."""
    for uniform in (0.01, 0.5, 0.99):
        assert sampler.drawn_binomial(n, chance, uniform) == binom.ppf(uniform, n, chance)
    assert sampler.drawn_binomial(n, 0.0, 0.99) == 0
    assert sampler.drawn_binomial(n, 1.0, 0.0) == n


# -- the bound -------------------------------------------------------------------------------------


def enumerated(model: Any, prompt: list[int], text: list[int]) -> float:
    """The bound of `text` behind `prompt` with every hidden set and every order, as the integral says."""
    n, alpha, first = len(text), model.alpha_0, len(prompt)
    whole = np.array([*prompt, *text])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    levels = 1 - alpha + alpha * (nodes + 1) / 2
    total = 0.0
    for hidden in subsets(n):
        masks, size = np.flatnonzero(hidden) + first, int(hidden.sum())
        if not size:
            continue
        shown = np.flatnonzero(~hidden) + first
        given = list(range(first))
        diffused, chained = [], []
        for front in itertools.permutations(shown):
            for behind in itertools.permutations(masks):
                order = np.array([*given, *front, *behind])
                tokens = np.where(np.isin(order, masks), MASK, whole[order])
                logs = in_order(model, tokens, order, model.visible(tokens == MASK))
                own = range(n + first - size, n + first)
                diffused.append(sum(float(logs[i, whole[order[i]]]) for i in own))
            order = np.array([*given, *front, *masks, *masks])
            tokens = whole[order]
            tokens[n + first :] = MASK
            logs = in_order(model, tokens, order, model.visible_from_left(n + first - size, size))
            own = range(n + first, n + first + size)
            chained.append(sum(float(logs[i, whole[order[i]]]) for i in own))
        chance = levels**size * (1 - levels) ** (n - size)
        total += float(weights @ (chance / levels)) * alpha / 2 * np.mean(diffused)
        total += (1 - alpha) ** size * alpha ** (n - size) * np.mean(chained)
    return total


@pytest.mark.parametrize("mode", ["causal", "mixed2"])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_the_bound_is_the_enumerated_one(models: Any, mode: str, alpha: float) -> None:
    """4 standard errors of 1500 forwards (alpha = 6e-5)."""
    both = "mixed" if mode == "mixed2" else "causal"
    model = models(alpha_0=alpha, diffusion_attn_mode=mode, sequential_attn_mode=both)
    prompt, text = [5, 9], [7, 100, 33]
    truth = enumerated(model, prompt, text)
    (found,) = score(model, [Canvas.continuation(prompt, text)], "auto,max_forwards=1500")
    assert (found.estimator, found.kind) == ("esolm", "lower bound")
    assert found.stderr is not None and abs(found.logprob - truth) < 4 * found.stderr
    assert found.stderr < 0.1
    for budget in (1, 2, 3):  # one forward for each phase at least
        few = parse_estimator(f"auto,max_forwards={budget}")
        (found,) = score(model, [canvas := Canvas.continuation(prompt, text)], few)
        assert found.rows <= most_rows(model, canvas, few)


def test_without_diffusion_it_is_the_chain_rule(models: Any) -> None:
    """One forward; the probabilities of all texts of two tokens add up to 1."""
    model = models(alpha_0=0.0)
    canvas = Canvas.continuation([5, 9, 20], [7, 100, 33, 8])
    (found,) = score(model, [canvas], "esolm,max_forwards=7")
    (chain,) = score(model, [canvas], "left_to_right")
    assert (found.kind, found.rows, found.stderr) == ("exact", 1, 0.0)
    assert found.logprob == pytest.approx(chain.logprob, abs=1e-5)
    first = model.logits(torch.tensor([[5, MASK, MASK]]))[0, 1].log_softmax(-1).double()
    texts = torch.cat([torch.full((MASK, 1), 5), torch.arange(MASK)[:, None], torch.full((MASK, 1), MASK)], 1)  # fmt: skip
    second = model.logits(texts)[:, 2, :MASK].log_softmax(-1).double()
    canvases = [Canvas.continuation([5], [a, b]) for a, b in ((3, 4), (0, 267), (50, 50))]
    for canvas, one in zip(canvases, score(model, canvases, "esolm"), strict=True):
        a, b = canvas.tokens[1:]
        assert one.logprob == pytest.approx(float(first[a] + second[a, b]), abs=1e-5)
    assert float((first[:MASK, None] + second).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_weights_of_hidden_numbers_add_up_to_the_share_of_diffusion() -> None:
    for n, alpha in ((1, 0.5), (5, 0.25), (12, 0.9), (7, 1.0), (300, 0.125)):
        assert np.cumsum(binomial(n, 1 - alpha))[:-1].sum() == pytest.approx(n * alpha)


# -- what it is to the package ---------------------------------------------------------------------


def test_who_is_refused(models: Any) -> None:
    model = models()
    assert offers(model, WritingOrder) and not model.supports_kv_cache
    canvas = [Canvas.completion([5], 4)]
    with pytest.raises(UserError, match="esolm' is not for .*masks see those behind"):
        fill(models(diffusion_attn_mode="bidirectional"), canvas, "esolm")
    with pytest.raises(UserError, match="esolm' is not for .*does not attend in the order"):
        fill(load_model("toy"), canvas, "esolm")
    for wrong, words in (({"guidance": 1.0}, "guidance"), ({"cache": "dual"}, "approximate cache")):
        with pytest.raises(UserError, match=words):
            fill(model, canvas, "esolm", **wrong)
    with pytest.raises(UserError, match="esolm' is not possible with .*two phases"):
        score(load_model("toy"), [Canvas.continuation([1], [2])], "esolm")
    with pytest.raises(UserError, match="precision '0.1'.*writes in two phases"):
        score(model, [Canvas.continuation([1], [2])], "auto,precision=0.1")


@pytest.mark.parametrize(
    ("key", "value"), [("alpha_0", 1.5), ("diffusion_attn_mode", "both"), ("alpha_0", None)]
)
def test_a_wrong_config_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        load_model("esolm", pretrained=checkpoint(tmp_path, **{key: value}))


def test_scores_and_texts_do_not_depend_on_the_batch(models: Any) -> None:
    model = models(alpha_0=0.25)
    canvases = [
        Canvas.continuation([5, 9][: 1 + i % 2], [7, 100 + i, 33, 8][: 2 + i % 3], key=f"q{i}")
        for i in range(5)
    ]
    together = score(model, canvases, "esolm,max_forwards=10")
    alone = [score(model, [each], "esolm,max_forwards=10")[0] for each in canvases]
    assert [one.logprob for one in together] == [one.logprob for one in alone]
    holes = [Canvas.completion([5, 9, 4][: 1 + i % 3], 6, key=f"q{i}") for i in range(5)]
    options = {"temperature": 1.0, "diffusion_steps": 4, "early_exit": False}
    whole = fill(model, holes, "esolm", **options)
    assert [f.tokens for f in whole] == [
        fill(model, [each], "esolm", **options)[0].tokens for each in holes[::-1]
    ][::-1]
    assert len({f.tokens for f in whole}) == 5

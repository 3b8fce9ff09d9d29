"""Uniform-state diffusion (Duo): the authors' logits, losses, reverse steps and greedy texts; the bound by enumeration."""

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

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import fill, resolve
from dlm_eval.decoding.uniform import ReverseDraw, candidate_op
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood import score
from dlm_eval.likelihood.uniform import quadrature
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import NO_MASK, Denoiser
from dlm_eval.models.families.dit import DiT, DiTConfig
from dlm_eval.models.families.toy import ToySettings, UniformToy
from dlm_eval.models.families.toy import load as load_toy
from dlm_eval.models.uniform_state import log_noised, log_reverse, losses
from dlm_eval.rng import Noise

FOLDER = "goldens/families-2026/duo"


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    if not (shared / FOLDER).is_dir():
        pytest.skip("no recordings of Duo")
    return json.loads((shared / FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def duo(shared: Path, golden: Any) -> Any:
    # the recordings come without a tokenizer: ids are all that is compared
    return load_model("duo", pretrained=shared / FOLDER, tokenizer=shared / "goldens/mdlm")


def checkpoint(folder: Path) -> Path:
    """A small Duo of random weights under the published names."""
    sizes = DiTConfig(build.VOCAB, 32, 16, 2, 4, 64)
    state = {
        f"backbone.{key.replace('vocab_embed.weight', 'vocab_embed.embedding')}": value
        for key, value in build.spread(DiT(sizes)).state_dict().items()
    }
    config = {
        "model_type": "DUO", "architectures": ["DUO"], "vocab_size": build.VOCAB, "hidden_dim": 32,
        "cond_dim": 16, "n_blocks": 2, "n_heads": 4, "model_length": 64, "dropout": 0.1,
        "causal": False, "time_conditioning": True, "return_dict": False, "torch_dtype": "float32",
    }  # fmt: skip
    return build.write(folder, config, state)


def at(model: Any, tokens: list[int], sigma: float) -> torch.Tensor:
    """Logits [L, V] of one text at total noise `sigma`."""
    found: torch.Tensor = model.logits_at(
        torch.tensor([tokens]), None, None, torch.tensor([sigma], dtype=torch.float64)
    )
    return found[0]


def test_logits_equal_the_authors(duo: Any, golden: Any) -> None:
    assert isinstance(duo, Denoiser) and duo.process == "uniform" and duo.mask_id == NO_MASK
    for case in golden["logits"]["cases"]:
        theirs = torch.tensor(case["logits"])
        ours = at(duo, case["xt"], case["sigma"])
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_losses_equal_the_authors(duo: Any, golden: Any) -> None:
    for case in golden["nll_at_t"]:
        logits = at(duo, case["xt"], -math.log(case["alpha_t"]))
        alpha = torch.full((len(case["xt"]),), case["alpha_t"], dtype=torch.float64)
        found = losses(logits, torch.tensor(case["x0"]), torch.tensor(case["xt"]), alpha)
        rate = -case["dalpha_t"] / case["alpha_t"]
        assert torch.allclose(
            found * rate, torch.tensor(case["nll_per_token"], dtype=torch.float64), rtol=1e-5
        )


def test_reverse_steps_equal_the_authors(duo: Any, golden: Any) -> None:
    for case in golden["posterior"]:
        places = case["positions"]
        log_p = at(duo, case["xt"], -math.log(case["alpha_t"])).log_softmax(-1)
        seen = torch.tensor(case["xt"])
        found = log_reverse(log_p, seen, case["alpha_t"], case["alpha_s"])[places].exp()
        assert torch.allclose(found, torch.tensor(case["q_xs"]).double(), atol=1e-6)
        if "psi" in case:
            own, kappa = case["psi"]["positions"], case["psi"]["kappa"]
            text = log_reverse(log_p, seen, case["alpha_t"], 1.0)
            again = log_noised(text, case["alpha_s"])[own].exp()
            step = log_reverse(log_p, seen, case["alpha_t"], case["alpha_s"])[own].exp()
            theirs = torch.tensor(case["psi"]["q"]).double()
            assert torch.allclose(kappa * step + (1 - kappa) * again, theirs, atol=1e-6)
            # what the strategy draws from, at temperature 1
            op = ReverseDraw(
                candidate_op(duo, resolve({"strategy": "ancestral"}, {"temperature": 1})),
                case["alpha_t"], case["alpha_s"], kappa,
            )  # fmt: skip
            logits = at(duo, case["xt"], -math.log(case["alpha_t"]))[own]
            for u in (0.1, 0.6):
                drawn = torch.full((len(own),), u, dtype=torch.float64)
                payload = torch.stack([drawn, seen[own].double()], 1)
                assert torch.equal(op(logits, payload)[0], (theirs.cumsum(-1) < u).sum(-1))


class Given:
    """Random numbers of which those of stream 'start' give the prior."""

    def __init__(self, prior: list[int], size: int) -> None:
        self.prior, self.size, self.key = prior, size, "0" * 64

    def uniforms(self, stream: str, step: int, n: int) -> Any:
        assert stream == "start" and n == len(self.prior)
        return (np.array(self.prior) + 0.5) / self.size


def test_greedy_texts_equal_the_authors(
    duo: Any, golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in golden["greedy_ancestral"]:
        given = Given(case["prior"], duo.vocab_size)
        monkeypatch.setattr(Noise, "of", lambda canvas, seed, given=given: given)
        steps = []
        (filling,) = fill(
            duo,
            [Canvas.completion([], len(case["prior"]))],
            steps=case["num_steps"],
            t_end=case["eps"],
            noise_removal=case["noise_removal"].replace("none", "off"),
            trace=lambda _, step, steps=steps: steps.append(step),
        )
        assert list(filling.tokens) == case["tokens"]
        runs = case["num_steps"] + (case["noise_removal"] != "none")
        assert filling.forwards == filling.steps == len(steps) == runs


@pytest.mark.parametrize(
    "case", [0, *(pytest.param(case, marks=pytest.mark.full) for case in (1, 2, 3)), 4, 5]
)
def test_the_mean_over_noise_equals_the_authors(duo: Any, golden: Any, case: int) -> None:
    """`duo,nodes=` for one noised token; two tokens by the integrand at their t (V^2 texts each)."""
    expected = golden["expected"]["cases"][case]
    text, noised = expected["x0"], expected["noised"]
    if len(noised) == 1:
        canvas = Canvas(tuple(text), tuple(i in noised for i in range(len(text))))
        (found,) = score(duo, [canvas], "duo,nodes=12,max_forwards=7200", batch_tokens=2**14)
        assert found.kind == "score" and found.stderr == 0 and found.rows == 7200
        assert -found.logprob == pytest.approx(sum(expected["mean_over_t"]), rel=2e-5)
        (drawn,) = score(duo, [canvas], "duo,max_forwards=512")
        assert abs(drawn.logprob - found.logprob) < 5 * drawn.stderr
        (bound,) = score(duo, [canvas], "uniform,max_forwards=512")
        exact = score(duo, [canvas], "uniform,nodes=12,max_forwards=7200", batch_tokens=2**14)[0]
        assert bound.kind == exact.kind == "lower bound" and bound.lower == bound.logprob
        assert abs(bound.logprob - exact.logprob) < 5 * bound.stderr
        return
    one = expected["at_t"][1]
    alpha, size = math.exp(-duo.schedule.sigma(one["t"])), duo.vocab_size
    rows, places = torch.tensor(text).repeat(size, 1), torch.tensor(noised)
    rows[:, noised[0]] = torch.arange(size)
    time = torch.full((size,), -math.log(alpha), dtype=torch.float64)
    share = torch.full((size,), alpha, dtype=torch.float64)
    chances = torch.full((2, size), (1 - alpha) / size, dtype=torch.float64)
    chances[torch.arange(2), torch.tensor(text)[places]] += alpha
    mean = torch.zeros(2, dtype=torch.float64)
    for other in range(size):
        rows[:, noised[1]] = other
        logits = duo.logits_at(rows, None, places, time)
        for place in range(2):
            truth = torch.full((size,), text[noised[place]])
            found = losses(logits[:, place], truth, rows[:, noised[place]], share)
            mean[place] += (chances[0] * found).sum() * chances[1, other]
    theirs = torch.tensor(one["expected"], dtype=torch.float64)
    assert torch.allclose(mean * (1 - 1e-3) / alpha, theirs, rtol=2e-5)


# -- truth ----------------------------------------------------------------------------------------


def toy(**settings: Any) -> UniformToy:
    made = load_toy(ToySettings(process="uniform", **settings))
    assert isinstance(made, UniformToy)
    return made


def marginal_prior(model: UniformToy, text: tuple[int, ...]) -> float:
    """KL(q(x_1 | text) || q(x_1)), where q(x_1) is the chain under the largest noise."""
    alpha, size = math.exp(-model.schedule.sigma(1.0)), model.vocab_size
    texts = list(itertools.product(range(size), repeat=len(text)))
    joint = np.exp([model.log_joint(one) for one in texts])
    kernel = (1 - alpha) / size * np.ones((size, size)) + alpha * np.eye(size)
    total = 0.0
    for seen in texts:
        given = math.prod(kernel[a, b] for a, b in zip(text, seen, strict=True))
        whole = sum(
            p * math.prod(kernel[a, b] for a, b in zip(one, seen, strict=True))
            for p, one in zip(joint, texts, strict=True)
        )
        total += given * math.log(given / whole)
    return total


@pytest.mark.parametrize("text", [(0,), (2,), (0, 1), (2, 2, 1), (1, 0, 2)])
def test_the_bound_of_the_true_denoiser_is_the_likelihood(text: tuple[int, ...]) -> None:
    """With the true leave-one-out distributions the path divergence is -log p(text), exactly.

    The reverse process then starts from q(x_1), not from uniform tokens: the prior is exchanged.
    """
    model = toy(vocab=2, seed=3)
    canvas = Canvas(text, (True,) * len(text))
    (found,) = score(model, [canvas], "uniform,nodes=24,max_forwards=4000")
    alpha, size = math.exp(-model.schedule.sigma(1.0)), model.vocab_size
    high, low = alpha + (1 - alpha) / size, (1 - alpha) / size
    uniform = len(text) * (high * math.log(high * size) + (size - 1) * low * math.log(low * size))
    assert found.logprob + uniform - marginal_prior(model, text) == pytest.approx(
        model.log_joint(text), abs=2e-6
    )
    assert found.logprob <= model.log_joint(text) + 1e-5


@pytest.mark.parametrize("settings", ["auto,max_forwards=4", "uniform,max_forwards=16"])
def test_the_draws_are_unbiased(settings: str) -> None:
    """200 seeds, |z| < 4.5 (alpha 1e-5 in both). The errors of 16 draws cover the spread."""
    model = toy(vocab=2, seed=5)
    canvas = Canvas((1, 2, 0), (True,) * 3)
    (truth,) = score(model, [canvas], "uniform,nodes=24,max_forwards=2000")
    engine = Engine(model)
    draws = [score(model, [canvas], settings, seed=i, engine=engine)[0] for i in range(200)]
    values = np.array([one.logprob for one in draws])
    spread = float(values.std(ddof=1))
    assert abs(values.mean() - truth.logprob) < 4.5 * spread / math.sqrt(len(values))
    budget = int(settings.rpartition("=")[2])
    assert all(one.estimator == "uniform" and one.rows <= budget for one in draws)
    if budget >= 8:
        claimed = math.sqrt(np.mean([(one.stderr or 0.0) ** 2 for one in draws]))
        # Strata of neighbours overstate it, the most for the four draws of the text as it is.
        assert 0.8 < claimed / spread < 3.5


def test_intervals_cover_the_bound_of_a_network_that_is_sure_and_wrong() -> None:
    """Its loss of a token that stands there grows as 1 / a until a = 1e-6, so that draws of a must reach
    that far: 60 seeds at the default budget; at least 51 of the 95 % intervals (alpha 1e-3).
    """

    class Sure(UniformToy):
        def logits_at(self, tokens: Any, valid: Any, positions: Any, time: Any) -> Any:
            return 2.5 * super().logits_at(tokens, valid, positions, time)

    model = Sure(toy(vocab=2, seed=0).settings)
    canvas, engine = Canvas((2, 0, 1), (True,) * 3), Engine(model)
    (truth,) = score(model, [canvas], "uniform,nodes=20,max_forwards=4000")
    draws = [score(model, [canvas], "uniform", seed=i, engine=engine)[0] for i in range(60)]
    ends = [one.interval or (-math.inf, math.inf) for one in draws]
    assert sum(low <= truth.logprob <= high for low, high in ends) >= 51
    assert float(np.std([one.logprob for one in draws])) < 1  # it was more than 10


def test_a_wrong_denoiser_has_a_lower_bound() -> None:
    """A model of another chain: the bound, and the likelihood of its own sampler by transition matrices."""
    size, text = 3, (1, 0)
    model = toy(vocab=2, seed=11)

    class Wrong(UniformToy):
        """Takes noisy tokens for truer than they are."""

        def logits_at(self, tokens: Any, valid: Any, positions: Any, time: Any) -> Any:
            return super().logits_at(tokens, valid, positions, 0.6 * time)

    wrong = Wrong(model.settings)
    texts = list(itertools.product(range(size), repeat=2))
    steps = 800
    grid = [math.exp(-wrong.schedule.sigma(t)) for t in np.linspace(1.0, 0.0, steps + 1)]
    state = np.full(len(texts), 1 / len(texts))
    rows = torch.tensor(texts)
    for now, after in itertools.pairwise(grid):
        time = torch.full((len(texts),), -math.log(now), dtype=torch.float64)
        log_p = wrong.logits_at(rows, None, None, time).log_softmax(-1)
        step = log_reverse(log_p.view(-1, size), rows.view(-1), now, after).view(-1, 2, size).exp()
        move = (step[:, 0, :, None] * step[:, 1, None, :]).reshape(len(texts), -1).numpy()
        state = state @ move
    likelihood = math.log(state[texts.index(text)])
    (found,) = score(wrong, [Canvas(text, (True, True))], "uniform,nodes=24,max_forwards=1000")
    assert found.logprob < likelihood  # by much more than the 800 steps can explain
    (right,) = score(model, [Canvas(text, (True, True))], "uniform,nodes=24,max_forwards=1000")
    assert found.logprob < right.logprob - 1e-3


def test_the_sampler_draws_from_the_chain() -> None:
    """600 texts of two tokens at 16 steps against the chain; chi-square of 8 degrees, alpha 1e-4."""
    model = toy(vocab=2, seed=3)
    fillings = fill(
        model,
        [Canvas((BLANK, BLANK), (True, True), f"{i}") for i in range(600)],
        steps=16,
        temperature=1.0,
        engine=Engine(model),
    )
    counts = np.zeros((3, 3))
    for filling in fillings:
        counts[filling.tokens] += 1
    truth = np.exp([[model.log_joint((a, b)) for b in range(3)] for a in range(3)]) * len(fillings)
    assert float(((counts - truth) ** 2 / truth).sum()) < 31.8


def test_quadrature_integrates() -> None:
    for first, last in ((0.0, 0.999), (1e-3 * 0.999, 0.999)):
        levels, weights = quadrature(first, last, 12)
        assert levels.min() > first and levels.max() < last
        assert float(weights.sum()) == pytest.approx(last - first, rel=1e-9)

        def primitive(a: float) -> float:
            return a * math.log(a) - a if a else 0.0

        truth = primitive(last) - primitive(first)
        assert float(weights @ np.log(levels)) == pytest.approx(truth, rel=1e-5)


# -- use ------------------------------------------------------------------------------------------


def test_answers_do_not_depend_on_the_batch() -> None:
    model = toy(vocab=5, seed=1)
    canvases = [Canvas.continuation([0, 1], list(part)) for part in ((1, 2, 3), (4, 0), (3,) * 7)]
    whole = score(model, canvases, "auto,max_forwards=32", greedy=True)
    alone = [
        score(model, [one], "auto,max_forwards=32", greedy=True, batch_tokens=16)[0]
        for one in reversed(canvases)
    ][::-1]
    assert [(s.logprob, s.stderr, s.greedy) for s in whole] == [
        (s.logprob, s.stderr, s.greedy) for s in alone
    ]
    holes = [Canvas.completion([1, 2], 4), Canvas.completion([3], 6)]
    together = fill(model, holes, temperature=1.0, samples=2)
    assert [f.tokens for f in together] == [
        fill(model, [hole], temperature=1.0, samples=2)[0].tokens for hole in holes
    ]


def test_a_networks_scores_do_not_depend_on_the_batch(duo: Any) -> None:
    """Each row has a noise level of its own, whose part of the network is a product over the batch."""
    canvases = [Canvas.continuation([5, 9, 20], [7 + i, 100, 33, 8], key=f"{i}") for i in range(4)]
    whole = score(duo, canvases, "uniform,max_forwards=8", batch_tokens=4096)
    alone = [score(duo, [one], "uniform,max_forwards=8", batch_tokens=8)[0] for one in canvases]
    assert [one.logprob for one in whole] == [one.logprob for one in alone]


def test_greedy_means_what_greedy_decoding_writes() -> None:
    """`greedy` is true of the text that `ancestral` writes from the same random tokens, and no other."""
    model = toy(vocab=2, seed=2)
    texts = list(itertools.product(range(3), repeat=3))
    canvases = [
        Canvas((0, 1, *text), (False, False, True, True, True), key="same") for text in texts
    ]
    found = score(model, canvases, "uniform,max_forwards=4", greedy=True)
    hole = Canvas((0, 1, BLANK, BLANK, BLANK), canvases[0].open, key="same")
    grid = {"steps": 3, "noise_removal": "off", "t_end": 1e-12}
    (written,) = fill(model, [hole], "ancestral", **grid)
    assert [text for text, one in zip(texts, found, strict=True) if one.greedy] == [written.tokens]


def test_a_network_that_is_not_told_the_noise(tmp_path: Path) -> None:
    """`time_conditioning` false: the same logits at every level."""
    folder = checkpoint(tmp_path / "duo")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"time_conditioning": False}))
    model = load_model("duo", pretrained=folder)
    assert torch.equal(at(model, [1, 2, 3], 0.1), at(model, [1, 2, 3], 3.0))
    told = load_model("duo", pretrained=checkpoint(tmp_path / "told"))
    assert not torch.allclose(at(told, [1, 2, 3], 0.1), at(told, [1, 2, 3], 3.0), atol=1e-3)


def test_mistakes_are_one_line() -> None:
    model = toy()
    canvas = Canvas.continuation([0], [1, 2])
    for estimator in ("exact", "mask_count", "llada", "pseudo"):
        with pytest.raises(
            UserError, match=f"'{estimator}' hides tokens behind a mask.*uniform or duo"
        ):
            score(model, [canvas], estimator)
    for setting in ("precision=0.1", "cfg_scale=1", "stop_at_error_rate=0.05"):
        with pytest.raises(UserError, match="undoes uniform noise: leave it out"):
            score(model, [canvas], f"auto,{setting}")
    masked = load_toy(ToySettings())
    for estimator in ("uniform", "duo"):
        with pytest.raises(UserError, match="undo uniform noise.*use auto"):
            score(masked, [canvas], estimator)
    with pytest.raises(SampleError, match=r"2 x 12 x 7\^2 = 1176 forwards and max_forwards is 128"):
        score(model, [canvas], "uniform,nodes=12")
    with pytest.raises(
        UserError, match="'rewrite' is not for toy.*told the noise level; use ancestral"
    ):
        fill(model, [Canvas.completion([0], 2)], "rewrite")
    with pytest.raises(UserError, match="means nothing"):
        fill(model, [Canvas.completion([0], 2)], guidance=1.0)
    with pytest.raises(UserError, match="kappa"):
        fill(model, [Canvas.completion([0], 2)], kappa=2.0)

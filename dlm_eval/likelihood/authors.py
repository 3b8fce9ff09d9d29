"""The estimators of the models' authors, quirks included, to reproduce their tables.

SEDD uses score entropy, for models that give log-scores at a noise level (Lou et al., arXiv
2310.16834). At total noise sigma(t), each open token is hidden with probability 1 - exp(-sigma).
With s_y the score of token y at a hidden position, and r = 1 / (exp(sigma) - 1):

    loss = sigma'(t) * sum over hidden positions of [
        (sum of s_y over all y but the mask) - r log s_truth + r (log r - 1) ]

averaged over t in [0.001, 1]. It has no term for tokens that are visible at t = 1, so it is not a
bound.

Fast-dLLM v2's evaluation (Wu et al., arXiv 2509.26328) hides the first token of a text alone.

Shape letters: K = draws, N = wanted positions of a batch, V = vocabulary with the mask, n = open
tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from dlm_eval.canvas import Canvas, Score
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood.estimator import Budgeted, Estimator, Guided
from dlm_eval.likelihood.masks import Planned, bernoulli_plan, sized_plan
from dlm_eval.likelihood.mc_error import deviations, draws_error, echo, neighbours
from dlm_eval.likelihood.patterns import Bools, Floats, Ints, Plan, uniforms
from dlm_eval.options import option
from dlm_eval.uncertainty import EXACT

if TYPE_CHECKING:
    from torch import Tensor

    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.models.denoiser import Denoiser, NoiseSchedule
    from dlm_eval.rng import Noise

EPSILON = 1e-3  # smallest t of MDLM's, Dream's and SEDD's losses
BATCH = "draws that share one systematic grid"


@dataclass(frozen=True, kw_only=True)
class LLaDA(Planned, Budgeted, Guided, name="llada"):
    """LLaDA's get_log_likelihood: sizes evenly spaced in each batch, halves rounded to even.

    In each batch the sizes start at a random one and are n/batch apart, rounded, modulo n. For even
    n the rounding biases the estimate of the ELBO.
    """

    cost = "max_forwards"
    batch: int = option(32, least=1, help=BATCH)

    def plan(self, n: int, noise: Noise) -> Plan:
        import torch

        sizes: list[Ints] = []
        for number in range(math.ceil(self.max_forwards / self.batch)):
            first = 1 + int(n * noise.uniforms("llada", number, 1)[0])
            last = first + (self.batch - 1) * (n / self.batch)
            # float32, in which an exact half may become another number and round differently
            steps = torch.linspace(first, last, self.batch).round().long().numpy()
            sizes.append((steps - 1) % n + 1)
        return sized_plan(n, np.concatenate(sizes)[: self.max_forwards], noise, "llada hidden")


@dataclass(frozen=True, kw_only=True)
class Dream(Planned, Budgeted, name="dream"):
    """Dream's _eval_target_nll_mc: weights 1/p, p from 0.001 to 1, a visible EOS after the target.

    In each batch p is on a randomly shifted grid.
    """

    cost = "max_forwards"
    batch: int = option(32, least=1, help=BATCH)
    eos: bool = option(True, help="whether a visible EOS stands behind the target")

    def prepare(self, model: Denoiser, canvas: Canvas) -> Canvas:
        if not self.eos:
            return canvas
        if not model.eos_ids:
            raise UserError(
                f"estimator 'dream' ends the text with EOS, which {model.name} does not have: use "
                "dream,eos=false"
            )
        return replace(
            canvas, tokens=(*canvas.tokens, model.eos_ids[0]), open=(*canvas.open, False)
        )

    def plan(self, n: int, noise: Noise) -> Plan:
        count, batch = self.max_forwards, self.batch
        shifts = np.array(
            [noise.uniforms("dream", number, 1)[0] for number in range(math.ceil(count / batch))]
        )
        times = (shifts[:, None] + np.arange(batch) / batch).ravel()[:count] % 1
        chances = EPSILON + (1 - EPSILON) * times
        return bernoulli_plan(n, chances, 1 / chances, noise, "dream hidden")


@dataclass(frozen=True, kw_only=True)
class DiffuLLaMA(Planned, name="diffullama"):
    """DiffuLLaMA's eval_forward: mean loss per hidden token on the grid t = 1/T..1, nats per token.

    Each t has one Bernoulli(t) pattern. Its loss is 0 if it hides nothing. With weighting '1/t'
    (Eq. 6 of arXiv 2410.17891), the summed loss is divided by t and by n ("averaged by token").
    """

    cost = "steps"
    per_token = True
    of_all = False
    steps: int = option(32, least=1, help="grid points T")
    weighting: Literal["mean", "1/t"] = option(
        "mean", help="'mean' (the code) or '1/t' (the paper)"
    )

    def budget(self, n: int) -> int:
        return min(self.steps, (1 << min(n, 20)) - 1)

    def plan(self, n: int, noise: Noise) -> Plan:
        times = np.arange(self.steps, 0, -1) / self.steps
        hidden = uniforms(noise, "diffullama hidden", len(times), n) < times[:, None]
        mean = 1 / np.maximum(1, hidden.sum(1))
        weights = mean if self.weighting == "mean" else 1 / (times * n)
        return Plan(
            hidden, hidden * weights[:, None], np.arange(len(times)), neighbours(len(times))
        )


@dataclass(frozen=True, kw_only=True)
class MDLM(Planned, Budgeted, name="mdlm"):
    """MDLM's loss: t stratified over [0.001, 1], weight 1/t.

    A token is hidden with probability (1 - 0.001) t, as in its log-linear schedule.
    """

    cost = "max_forwards"

    def plan(self, n: int, noise: Noise) -> Plan:
        count = self.max_forwards
        times = (
            EPSILON + (1 - EPSILON) * (np.arange(count) + noise.uniforms("mdlm", 0, count)) / count
        )
        return bernoulli_plan(n, (1 - EPSILON) * times, 1 / times, noise, "mdlm hidden")


@dataclass(frozen=True, kw_only=True)
class FastDLLMv2(Estimator, name="fast_dllm_v2"):
    """Fast-dLLM v2's get_loglikelihood: log p(first token | all others), for block-causal models.

    Of the tokens to score the first alone is hidden. The others are shown, as far as its block
    goes; behind the text stand a visible EOS and masks up to the end of the block. A chat template
    ends with a line break, which lm-eval scores with the choice: choices must be encoded apart
    (class ChoiceTask), so that the first token is one of the choice. `is_greedy` is that of the
    first token.
    """

    cost = "1"
    of_all = False

    def budget(self, n: int) -> int:
        return 1

    def check_model(self, model: Denoiser) -> None:
        super().check_model(model)
        if model.block_length is None:
            raise UserError(
                "estimator 'fast_dllm_v2' fills the last block of a text with masks, and "
                f"{model.name} has no blocks; use auto"
            )
        if not model.eos_ids:
            raise UserError(
                f"estimator 'fast_dllm_v2' ends the text with EOS, which {model.name} does not "
                "have; use auto"
            )

    def prepare(self, model: Denoiser, canvas: Canvas) -> Canvas:
        """Returns the text up to the end of the block of its first open token, which alone stays
        open."""
        if not any(canvas.open):
            return canvas
        assert model.block_length is not None
        first = canvas.open_positions[0]
        end = (first // model.block_length + 1) * model.block_length
        behind = (model.eos_ids[0], *[model.mask_id] * model.block_length)
        tokens = (*canvas.tokens, *behind)[:end]
        return replace(canvas, tokens=tokens, open=[place == first for place in range(end)])

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        """Returns the log-probability of the first token, nats.

        Raises:
            SampleError: that token is white space or special, which all choices have in common.
        """
        assert target.model is not None
        (first,) = target.truth.tolist()
        text = target.model.decode([first])
        if not text.strip():
            what = repr(text) if text else f"special (id {first})"
            raise SampleError(
                f"estimator fast_dllm_v2 reads the first token only, which is {what}: use a task "
                "whose choices are encoded apart from their context (mmlu_fast_dllm_v2, ...)"
            )
        only = np.ones((1, 1), dtype=bool)
        logs = yield from target.measure(only, only)
        return self.score(float(logs[0, 0]), EXACT)


@runtime_checkable
class LogScores(Protocol):
    """A model of concrete scores."""

    schedule: NoiseSchedule

    def score_logits(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 log-scores at each wanted position; `time` [B] is the total noise."""
        ...


@dataclass(frozen=True)
class ScoreReader:
    """Reads the sum of the scores of all tokens but the mask, and the true token's log-score.

    The payload [N] long holds the ids of the true tokens.
    """

    mask_id: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        scores = logits.double()
        own = scores.gather(-1, payload[:, None]).squeeze(-1)
        return scores.exp().sum(-1) - scores[:, self.mask_id].exp(), own


@dataclass(frozen=True, kw_only=True)
class SEDD(Budgeted, name="sedd"):
    """SEDD's score entropy, t stratified over [0.001, 1]; for models with log-scores."""

    cost = "max_forwards"

    def budget(self, n: int) -> int:
        return self.max_forwards  # each pattern has its own time

    def check_model(self, model: Denoiser) -> None:
        super().check_model(model)
        if not isinstance(model, LogScores):
            raise UserError(
                f"estimator 'sedd' is not possible with {model.name}: it gives no log-scores; use "
                "auto"
            )

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        """Returns the negative loss, in nats."""
        assert isinstance(target.model, LogScores)
        schedule, count = target.model.schedule, self.max_forwards
        times = (
            EPSILON + (1 - EPSILON) * (np.arange(count) + noise.uniforms("sedd", 0, count)) / count
        )
        sigma, rate = (
            np.array([of(float(t)) for t in times]) for of in (schedule.sigma, schedule.rate)
        )
        hidden = uniforms(noise, "sedd hidden", count, target.n) < -np.expm1(-sigma)[:, None]
        losses = rate * (yield from _entropies(target, hidden, sigma))
        if np.isnan(losses).any():
            raise SampleError("the model returned log-scores that are NaN")
        error = draws_error(losses, neighbours(count))
        return self.score(
            -float(losses.mean()), error, echo=echo(deviations(losses, neighbours(count)), error)
        )


def _entropies(target: Target, hidden: Bools, sigma: Floats) -> Program[Floats]:
    """Returns the summed score entropy [K] of patterns [K, n] at total noise [K].

    A pattern that hides nothing needs no forward.
    """
    asked = np.flatnonzero(hidden.any(1))
    assert isinstance(target.model, LogScores)
    reader, head = ScoreReader(target.mask_id), target.model.score_logits
    entropy = np.zeros(len(hidden))
    if len(asked):
        outputs = yield [
            target.row(hidden[k], hidden[k], reader, head=head, time=float(sigma[k])) for k in asked
        ]
        for k, (total, truth) in zip(asked, outputs, strict=True):
            ratio = 1 / np.expm1(sigma[k])
            entropy[k] = (total - ratio * truth + ratio * (np.log(ratio) - 1)).sum()
    return entropy

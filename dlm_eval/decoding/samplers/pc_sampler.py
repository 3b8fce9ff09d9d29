"""PC-Sampler and linear_position: rare tokens and early positions first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.step import Bools, Floats, Ints, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.token_prior import read_prior
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class Calibrated(Unmasking):
    """What both samplers share: probabilities that are calibrated by how rare a token is."""

    prior: str = option(
        help="file with the counts of token ids in a corpus (scripts/count_tokens.py, or the "
        "authors' reference_corpus.json)"
    )
    lambd: float = option(1.0, least=0, help="weight of the position")
    alpha: float = option(1.0, above=0, help="maximum of the calibrated confidence")
    default_schedule: ClassVar[str | None] = "even"
    reads: ClassVar[Measure | None] = "probability"

    def check(self) -> None:
        read_prior(self.prior)

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        largest = len(read_prior(self.prior).frequency) - 1
        if largest >= model.vocab_size:
            raise UserError(
                f"decode prior '{self.prior}' counts token {largest}, but {model.name} has "
                f"{model.vocab_size} tokens; it must be of this model's tokenizer"
            )

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "prior_sha256": read_prior(self.prior).sha256}

    def confidence(self, logprob: Floats, tokens: Ints) -> Floats:
        """Returns [W] min(-p log f, alpha), f the frequency of each of `tokens` [W]."""
        rarity = -np.log(read_prior(self.prior).of(tokens) + 1e-9)
        confidence: Floats = np.minimum(np.exp(logprob) * rarity, self.alpha)
        return confidence


@dataclass(frozen=True, kw_only=True)
class PcSampler(Calibrated, name="pc_sampler"):
    """rare tokens and early positions first: exp(-lambd j) min(-p log f, alpha) (PC-Sampler)

    ArXiv 2508.13021; github.com/NEUIR/PC-Sampler 8b106b0, src/generate.py
    generate_with_pc_sampler. p is the probability of the candidate, f its frequency in a corpus and
    j its distance from the begin of the block; the schedule's quota of the highest scores is
    written. The authors evaluate with lambd 0.25 and alpha 10.

    j counts from the block's first open position here: all scores of a step have the same factor,
    and far positions do not underflow. The authors' code reads Dream's logits without its shift;
    ours reads each token's own.
    """

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def commit(self, view: StepState) -> Bools:
        distance = view.position - view.position[0]
        score = np.exp(-self.lambd * distance) * self.confidence(view.score, view.token)
        return highest(score, view.quota)


@dataclass(frozen=True, kw_only=True)
class LinearPosition(Calibrated, name="linear_position"):
    """as pc_sampler, the weighted sum of calibrated confidence and position (PC-Sampler's ablation)

    github.com/NEUIR/PC-Sampler 8b106b0, src/generate.py generate_with_linear_position: (1 - lambd)
    c + lambd (B - j) / B, j the place in the block of B positions, c = min(-p log f, alpha) scaled
    to 0 .. 1 over the block. As in the authors' code, written positions take part in that scaling,
    with p of the token that the model would draw there now and f of the token that is there.
    """

    lambd: float = option(1.0, least=0, most=1, help="weight of the position")

    @property
    def revisits(self) -> bool:
        return True

    def _takes_back(self, view: StepState) -> bool:
        return False  # written tokens are only read

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def commit(self, view: StepState) -> Bools:
        confidence = self.confidence(view.score, np.where(view.open, view.token, view.current))
        width = max(float(np.ptp(confidence)), 1e-9)
        place = np.arange(len(confidence))
        score = (1 - self.lambd) * (confidence - confidence.min()) / width
        score += self.lambd * (len(place) - place) / len(place)
        return highest(np.where(view.open, score, -np.inf), view.quota)

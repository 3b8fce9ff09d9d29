"""A vote over steps: the answers of all steps, weighted (temporal self-consistency voting).

Wang et al. 2025, "Time Is a Feature" (arXiv 2508.09138), section 4.1: right answers often appear at
an intermediate step and are overwritten. The text of each step is read for an answer, a step with
an answer gives it the weight of the step, and the heaviest answer wins; of equals, the one that
came first. Rules as in aim-uofa/dLLM-MidTruth bcda0f8, `eval/generate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from dlm_eval.errors import UserError, unknown_name_error

A = TypeVar("A", bound=Hashable)
Rule = Literal["fixed", "linear", "exp"]
MOST_ALPHA = 700.0  # e^709 is the largest double


@dataclass(frozen=True)
class StepWeight:
    """The weight of step s (from 0) of S steps.

    Attributes:
        rule: 'fixed' (1), 'linear' ((s + 1) / S) or 'exp' (e^(alpha s / S)).
        alpha: of 'exp'; 0 for the others.
    """

    rule: Rule
    alpha: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        if self.rule == "fixed":
            return 1.0
        if self.rule == "linear":
            return (step + 1) / steps
        return float(np.exp(step / steps * self.alpha))

    @property
    def label(self) -> str:
        """Its name in metrics: 'fixed', 'linear', 'exp5'."""
        return f"exp{self.alpha:g}" if self.rule == "exp" else self.rule


def parse_weights(text: str) -> tuple[StepWeight, ...]:
    """Returns the weights of `--vote`, as 'fixed,linear,exp=5'.

    Raises:
        UserError: a rule is unknown or given twice, or alpha is missing or not allowed.
    """
    weights = tuple(_weight(part.strip()) for part in text.split(","))
    labels = [weight.label for weight in weights]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"--vote '{text}' has {twice} twice; give each once")
    return weights


def _weight(text: str) -> StepWeight:
    name, given, value = text.partition("=")
    if name not in get_args(Rule):
        raise unknown_name_error("--vote", name, get_args(Rule))
    if name != "exp":
        if given:
            raise UserError(f"--vote '{text}' is not allowed; only exp takes a number (alpha)")
        return StepWeight("fixed" if name == "fixed" else "linear")
    try:
        alpha = float(value)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha <= MOST_ALPHA:
        raise UserError(
            f"--vote '{text}' is not allowed; exp needs its alpha, a number above 0 and at most "
            f"{MOST_ALPHA:g}: exp=5"
        )
    return StepWeight("exp", alpha)


def heaviest(answers: Sequence[A | None], weight: StepWeight) -> A | None:
    """Returns the answer with the largest sum of weights, of equals the one that came first; None
    if no step has an answer.

    Args:
        answers: [S] the answer of each step, None if its text has none.
    """
    sums: dict[A, float] = {}
    for step, answer in enumerate(answers):
        if answer is not None:
            sums[answer] = sums.get(answer, 0.0) + weight(step, len(answers))
    return max(sums, key=lambda answer: sums[answer]) if sums else None

"""Several samples of one canvas: the best by the model, or the most frequent answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence, Set
from dataclasses import replace
from math import log
from typing import TypeVar

import numpy as np

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.engine import ForwardRow, LogProbs, Program
from dlm_eval.engine.programs import together
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.rng import Noise, digest

A = TypeVar("A", bound=Hashable)


def repeat(noise: Noise, number: int) -> Noise:
    """Returns the noise of sample `number` of a canvas.

    Sample 0 equals the answer with one sample.
    """
    return noise if number == 0 else Noise(digest("repeat", noise.key, number))


def best_program(model: Denoiser, canvas: Canvas, programs: Sequence[Program[Filling]], by: str) -> Program[Filling]:
    """Returns the program that runs all samples and returns the best; `forwards` counts all.

    Args:
        model: the denoiser.
        canvas: what the samples fill.
        programs: one for each sample.
        by: 'probability', the mean log-probability of the tokens as they were written; 'text', the
            same without those that begin, end or pad a text (DiffusionLLM's length beam); or
            'score', the mean log-probability of the tokens given the filled canvas (AR2Diff; one
            more row each).
    """
    fillings = yield from together(programs)
    forwards = sum(filling.forwards for filling in fillings)
    aside = {BLANK, *((model.bos_id, model.pad_id, *model.eos_ids) if by == "text" else ())}
    ranks = [mean_logprob(filling, aside) for filling in fillings]
    if by == "score" and canvas.open_positions:
        outputs = yield [_score_row(model, canvas, filling) for filling in fillings]
        ranks = [float(np.mean(output[0])) for output in outputs]
        forwards += len(fillings)
    return replace(fillings[int(np.argmax(ranks))], forwards=forwards)


def mean_logprob(filling: Filling, aside: Set[int | None] = frozenset({BLANK})) -> float:
    """Returns the mean log-probability of the tokens as they were written, in nats, without tokens
    in `aside`.
    """
    logs = [
        log(max(p, 1e-300)) for p, token in zip(filling.confidence, filling.tokens, strict=True) if token not in aside
    ]
    return sum(logs) / len(logs) if logs else 0.0


def _score_row(model: Denoiser, canvas: Canvas, filling: Filling) -> ForwardRow:
    tokens = np.array(canvas.tokens, dtype=np.int64)
    at = np.array(canvas.open_positions)
    written = np.array(filling.tokens, dtype=np.int64)
    tokens[at] = np.where(written == BLANK, model.mask_id, written)
    seen = written != BLANK
    return ForwardRow(tokens, at[seen], LogProbs(), written[seen])


def vote(answers: Sequence[A]) -> A:
    """Returns the most frequent answer, the earliest of equals (self-consistency, Wang et al.
    2022).
    """
    return Counter(answers).most_common(1)[0][0]


def hit_at_k(right: Sequence[bool], k: int) -> float:
    """Returns the unbiased probability that at least one of k samples is right (pass@k, Chen et al.
    2021).
    """
    n, wrong = len(right), sum(not is_right for is_right in right)
    if wrong < k:
        return 1.0
    return 1.0 - float(np.prod([(wrong - i) / (n - i) for i in range(k)]))

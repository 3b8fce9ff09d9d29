"""Whether a model's rows can remember: tested when the model is loaded, with rows of the engine, by comparing logits with and without a memory.

Not every network takes keys and values from outside, and some take them and do something else. Which names a network's arguments have says
neither, and they change between releases of transformers.

Shape letters: L = positions, W = wanted positions, V = vocabulary.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlm_eval.engine import Engine
from dlm_eval.errors import OutOfMemory, RunError, SampleError, UserError
from dlm_eval.forward import device_of
from dlm_eval.memory import Memory
from dlm_eval.models.denoiser import Denoiser, Remembering, remembering
from dlm_eval.models.probes import LEAK, LENGTH, difference, dtype_of, example
from dlm_eval.rows import Cost, Row, Walk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheTest:
    """What the test found.

    Attributes:
        usable: whether rows that remember answer as whole rows do.
        reason: why not, in words; '' if they do.
        cost: of the test.
    """

    usable: bool
    reason: str = ""
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Whole:
    """Reads the logits themselves."""

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        return (logits,)


def cache_test(model: Remembering) -> CacheTest:
    """Returns whether a row that remembers its first half predicts the second half as the whole row does.

    Raises:
        RunError: memory ran out, so that nothing is known; or the device is lost.
    """
    half = max(LENGTH // 2, model.settles or 0)
    if 2 * half > model.max_length:
        return CacheTest(False, f"max_length {model.max_length} is less than two blocks of {half}")
    engine = Engine(model, equal_lengths=False)  # rows go one by one, so that no other row can matter
    (outcome,) = engine.drive([_compared(model, half)])
    if isinstance(outcome.answer, OutOfMemory):
        raise RunError(
            f"{model.name}: out of memory while its cache is tested with {2 * half} positions, so there is no room for any batch"
        )
    if isinstance(outcome.answer, SampleError):
        return CacheTest(False, str(outcome.answer), engine.cost)
    allowed = LEAK[dtype_of(model)]
    if not outcome.answer <= allowed:
        reason = f"with a cache its logits move by {outcome.answer:.1e} of their range, more than {allowed:.0e}"
        return CacheTest(False, reason, engine.cost)
    return CacheTest(True, cost=engine.cost)


def _compared(model: Remembering, half: int) -> Walk[float]:
    """Returns how far logits [W, V] of the second half move: of a row that is kept, and of one that remembers, from those without a memory."""
    tokens = example(model, 2 * half)[0]
    tokens[:half] = tokens[:half].masked_fill(tokens[:half] == model.mask_id, int(tokens[0]))
    wanted, memory = np.arange(half + model.lag, 2 * half), Memory()
    row = Row(tokens.numpy(), wanted, Whole(), np.zeros(len(wanted), dtype=np.int64))
    ((plain,),) = yield [row]
    moved = 0.0
    for part in ({"keep": half}, {"live": (half, 2 * half)}):
        asked: Any = {"memory": memory, **part}
        ((found,),) = yield [replace(row, **asked)]
        moved = max(moved, float(difference(torch.from_numpy(found), torch.from_numpy(plain)).max()))
    return moved


def check_cache(model: Denoiser, declared: bool = False) -> None:
    """Tests a loaded model's cache now, and says if a block-causal one has to run whole rows.

    Args:
        model: the denoiser; one without weights is left alone.
        declared: whether `remembers` is the word of a user's own code, which is tested too.

    Raises:
        UserError: a user's model declares that it remembers, and does not.
        RunError: memory ran out.
    """
    if device_of(model).type == "meta":
        return
    able = remembering(model)
    if able is not None and declared and cache_cost(model) == Cost():
        found = cache_test(able)
        if not found.usable:
            raise UserError(
                f"{model.name}: `recall` does not answer as `logits` does ({found.reason}); set remembers = False"
            )
        object.__setattr__(model, "cache_test", found)  # whatever class the user wrote
    if warning := whole_rows(model):
        log.warning("%s", warning)


def whole_rows(model: Denoiser) -> str:
    """Returns the warning that a block-causal model has no cache; '' for any other model."""
    if model.attention != "block" or remembering(model) is not None:
        return ""
    return f"{model.name}: finished blocks run again in every step, since the cache is {cache_state(model)}; the answers are the same"


def cache_state(model: Any) -> str:
    """Returns 'usable' or 'unusable: why', as a result tells it."""
    if remembering(model) is not None:
        return "usable"
    tested = getattr(model, "cache_test", None)
    return f"unusable: {tested.reason if tested is not None else 'this model has no recall'}"


def cache_cost(model: Any) -> Cost:
    """Returns what the test of a model's cache cost."""
    tested = getattr(model, "cache_test", None)
    return tested.cost if tested is not None else Cost()

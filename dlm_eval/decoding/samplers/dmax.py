"""DMax's soft parallel decoding (arXiv 2604.08302; czg1225/DMax 82bc29e,
dInfer/python/dinfer/decoding/parallel_strategy.py: decode_uniform, get_transfer_index_uniform).

Written tokens of a block are read again as mixtures with the mask, and rewritten at every step,
until all are sure or none changes. What differs from the authors' code: rows run whole, without a KV
cache, whose keys of the text before a block would be the same; text after an end token is not
written.

Shape letters: L = positions of the canvas, W = positions of a block, N = wanted positions of a batch,
V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.canvas import Canvas
from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Query, StepState
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, SoftInputs, offers
from dlm_eval.options import option

SURE = 0.9  # a block ends if all its tokens are at least so probable
MOST = 8  # tokens of a mixture at most


@dataclass(frozen=True)
class SoftReader:
    """LogitsOp of a `Draw`'s outputs, then the tokens [N, MOST] of the mixture and their
    probabilities [N, MOST], 0 beyond `count`.
    """

    draw: Draw
    count: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        found = self.draw(logits, payload)
        share, ids = self.draw.prepared(logits).float().softmax(-1).topk(self.count)
        pad = (0, MOST - self.count)
        return (*found, torch.nn.functional.pad(ids, pad), torch.nn.functional.pad(share, pad))


class Mixtures:
    """What is kept between the steps of a block.

    Attributes:
        inputs: [L, 2 MOST] tokens and probabilities; 0 at hard positions.
        steps: steps so far.
        done: whether the block ends.
    """

    def __init__(self, length: int) -> None:
        self.steps, self.done = 0, False
        self.inputs: NDArray[np.float32] = np.zeros((length, 2 * MOST), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class SoftParallel(Unmasking, name="dmax"):
    """DMax's soft parallel decoding: sure masks from the left, written tokens anew at every step

    A block has at most as many steps as positions. Masks are written from the left up to the first
    one below `threshold`, at least one.
    """

    threshold: float = option(
        0.0,
        least=0,
        most=1,
        help="minimum probability of a mask's token that is written",
        speed=True,
    )
    soft_top_k: int = option(
        1, least=1, most=MOST, help="tokens of a mixture (DMax's top_k); the mask has the rest"
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    takes_guidance: ClassVar[bool] = False
    keeps_state: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"
    ends: ClassVar[Ends] = "own"
    shows_whole: ClassVar[str] = "reads mixtures of tokens, which no cache has"

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        size = model.block_length
        assert size is not None  # `refuse_model` says so
        rows = size * len({place // size for place in canvas.open_positions})
        samples = settings.samples if settings.is_random else 1
        ranked = samples if samples > 1 and settings.rerank == "score" else 0
        return rows * samples + ranked

    @classmethod
    def refused_settings(cls) -> dict[str, str]:
        own = {"block_length": "fills the model's own blocks"}
        return {**super().refused_settings(), **own}

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        if not offers(model, SoftInputs) or model.block_length is None:
            raise UserError(
                f"decode strategy '{self.name}' is not for {model.name}: it needs a block-causal model "
                "that reads mixtures of tokens (llada2)"
            )

    def block_memory(self, state: DecodeState) -> Mixtures:
        return Mixtures(len(state.ids))  # committed blocks are read as tokens

    def stops(self, state: DecodeState) -> bool:
        return cast(Mixtures, state.memory).done

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        kept, at = cast(Mixtures, state.memory), view.position
        model = cast(SoftInputs, state.model)
        row = state.row(at, Query(SoftReader(op, self.soft_top_k), model.soft_logits))
        row = replace(row, inputs=kept.inputs[: len(row.tokens)].copy())
        ((token, logprob, score, ids, share),) = yield from state.run([row])
        # a mask that is written as a token is a mask, as in the authors' code
        masked: Bools = view.current == state.model.mask_id
        write = ~masked | self.sure(masked, np.exp(score))
        changed: Bools = write & (token != view.current)
        kept.steps += 1
        sure = bool((share[:, 0] >= SURE).all())
        kept.done = sure or not changed.any() or kept.steps >= cast(Any, state.model).block_length
        soft = write & (token != state.model.mask_id)
        kept.inputs[at] = np.where(soft[:, None], np.concatenate([ids, share], axis=1), 0.0)
        new = changed | (write & view.open)
        return Edit(at[new], token[new], logprob[new])

    def sure(self, masked: Bools, probability: NDArray[np.float64]) -> Bools:
        """Returns [W] bool: the masks before the first one below the threshold, or the first mask."""
        low = masked & (probability < self.threshold)
        found: Bools = masked & (np.cumsum(low) == 0)
        return found if found.any() else masked & (np.cumsum(masked) == 1)

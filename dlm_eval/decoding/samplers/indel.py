"""LLaDA2.2's decoder: threshold, editing, insertion and deletion within the blocks of the model.

sglang 0.5.23, srt/dllm/algorithm/joint_threshold_indel.py, `JointThresholdInDel.step` and
`_apply_edit_operations` (the engine that LLaDA2.2 is released with; the authors' own reference
decoder is not public, and the engine says that it differs in one point: the budget of steps on a
block without original masks is never given back).

Shape letters: W = positions of the block that did not come with a token, N = wanted positions of a
batch, C = most probable tokens that are read, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.canvas import Canvas
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, edit_tokens
from dlm_eval.options import option, value_error

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings


@dataclass(frozen=True)
class Likeliest:
    """LogitsOp of (the most probable tokens [N, C], their probabilities [N, C]), the best first.

    Of equal logits the lower id comes first. Probabilities are float32, as the authors compare them.

    Attributes:
        draw: prepares logits.
        count: C, at most the vocabulary.
    """

    draw: Draw
    count: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        logits = self.draw.prepared(logits)
        best = logits.topk(min(self.count, logits.shape[-1]))
        by_id = best.indices.sort(-1)
        order = best.values.gather(-1, by_id.indices).sort(dim=-1, descending=True, stable=True)
        ids = by_id.values.gather(-1, order.indices)
        return ids, logits.softmax(-1).gather(-1, ids)


@dataclass
class BlockMemory:
    """What is kept while a block is decoded.

    Attributes:
        steps: steps done.
        without_original: steps that found no original mask.
        finished: whether the block is done.
        seen: the block's tokens at every step so far.
        tried: place in the block -> tokens that were written there.
        shown, read: the block's tokens when the model ran last, and what it read.
    """

    steps: int = 0
    without_original: int = 0
    finished: bool = False
    seen: set[tuple[int, ...]] = field(default_factory=set)
    tried: dict[int, set[int]] = field(default_factory=dict)
    shown: tuple[int, ...] = ()
    read: Output = ()


@dataclass
class Choice:
    """The token of each of the W positions, and its probability.

    Attributes:
        ids, chance: [W, C] the most probable tokens and their probabilities.
        token, sure: [W] the tokens chosen now and their probabilities.
    """

    ids: Ints
    chance: Floats
    token: Ints
    sure: Floats

    @classmethod
    def of(cls, read: Output) -> Choice:
        """Returns the most probable token of each position."""
        ids, chance = read
        return cls(ids, chance, ids[:, 0].copy(), chance[:, 0].copy())

    def avoid(self, at: int, excluded: Collection[int]) -> None:
        """Chooses the most probable token at `at` that is not excluded; token 0 if all are."""
        fits = [c for c, token in enumerate(self.ids[at]) if int(token) not in excluded]
        self.token[at] = self.ids[at, fits[0]] if fits else 0
        self.sure[at] = self.chance[at, fits[0]] if fits else 0.0


@dataclass(frozen=True, kw_only=True)
class JointThresholdInDel(Unmasking, name="joint_threshold_indel"):
    """surer masks than a threshold, edits, insertion and deletion within a block (LLaDA2.2)

    A step writes the masks whose probability is above `threshold`, one more than there are inserted
    masks at least, and replaces written tokens by others above `edit_threshold`. The token
    `delete_token_id` removes its position, `split_token_id` inserts a mask before it; what moves
    beyond the block is lost, and masks fill it up. A block that was seen before gets another token at
    its least sure change. After `max_post_edit_steps` steps without original masks, the last step
    writes all masks and no special token.

    Tokens are equal to the engine's. It runs every step and each finished block once more for its
    cache; here a block is not run twice in succession, and the finished one runs with the next.
    """

    threshold: float = option(
        0.5, least=0, most=1, help="probability above which a mask is written", speed=True
    )
    edit_threshold: float = option(
        0.0,
        least=0,
        most=1,
        help="probability above which another token replaces a written one",
        speed=True,
    )
    max_post_edit_steps: int = option(
        16, least=0, help="steps of a block without original masks, all together"
    )
    delete_token_id: int | None = option(
        None, least=0, help="the token that removes its position; None: the checkpoint's"
    )
    split_token_id: int | None = option(
        None, least=0, help="the token that inserts a mask before it; None: the checkpoint's"
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    resizes = "within_blocks"
    finds_length: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "inserts and deletes in the blocks of a block-causal model"
    completes_only: ClassVar[bool] = True
    ends: ClassVar[Ends] = "own"
    keeps_state: ClassVar[bool] = True

    # -- what it works with ------------------------------------------------------------------------

    @classmethod
    def refused_settings(cls) -> dict[str, str]:
        return {**super().refused_settings(), "temperature": "writes the most probable tokens"}

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        for name, value in zip(
            ("delete_token_id", "split_token_id"), self._ids(model), strict=True
        ):
            if not 0 <= value < model.vocab_size or value == model.mask_id:
                allowed = (
                    f"an id that {model.name} predicts, 0 to {model.vocab_size - 1}, not the mask"
                )
                raise value_error(f"decode {name}", value, allowed)
        if len(set(self._ids(model))) == 1:
            raise value_error(
                "decode delete_token_id", self._ids(model)[0], "another id than split_token_id"
            )

    def _ids(self, model: Denoiser) -> tuple[int, int]:
        """Returns the ids that delete and split."""
        delete, split = edit_tokens(model)
        delete = delete if self.delete_token_id is None else self.delete_token_id
        split = split if self.split_token_id is None else self.split_token_id
        if delete is None or split is None:
            raise UserError(
                f"decode strategy '{self.name}': {model.name} names no tokens that delete and "
                "split; set delete_token_id and split_token_id, or choose strategy=edit"
            )
        return delete, split

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        assert model.block_length is not None  # see `refuse_model`
        first, last = canvas.open_positions[0], canvas.open_positions[-1]
        blocks = last // model.block_length - first // model.block_length + 1
        each = self._most_updates(model.block_length) * (1 if settings.guidance_factor == 1 else 2)
        return blocks * each

    def _most_updates(self, block: int) -> int:
        return block + self.max_post_edit_steps + 1

    # -- steps -------------------------------------------------------------------------------------

    def block_memory(self, state: DecodeState) -> BlockMemory:
        return BlockMemory()

    def stops(self, state: DecodeState) -> bool:
        memory: BlockMemory = state.memory
        return memory.finished

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Runs the block, unless it is as it was when it ran last, and changes it."""
        memory: BlockMemory = state.memory
        shown = tuple(map(int, view.current))
        assert state.model.block_length is not None  # see `refuse_model`
        most = self._most_updates(state.model.block_length)
        if shown != memory.shown:
            # one more than can be excluded: the tokens of all steps and the three special ones
            query = Query(Likeliest(op, most + 4))
            memory.read = yield from state.read(view.position, query)
            memory.shown = shown
        memory.steps += 1
        original = view.open & (view.ids < state.asked_length)  # inserted ones are numbered later
        memory.without_original += not original.any()
        if self.max_post_edit_steps:
            final = memory.without_original >= self.max_post_edit_steps
        else:
            final = not original.any()
        return self._change(state.model, memory, view, original, final or memory.steps >= most)

    def _change(
        self, model: Denoiser, memory: BlockMemory, view: StepState, original: Bools, final: bool
    ) -> Edit:
        """Returns what a step changes.

        Args:
            model: for its special tokens.
            memory: of the block.
            view: the W positions of the block.
            original: [W] masks that were there at the begin.
            final: whether this is the last step.
        """
        mask, (delete, split) = model.mask_id, self._ids(model)
        choice, current = Choice.of(memory.read), view.current
        if not final:  # an original mask is not written as a mask
            for at in np.nonzero(original & (choice.token == mask))[0].tolist():
                choice.avoid(at, {mask})
        sure = choice.sure.copy()
        writes = view.open if final else self._masks(view.open, original, sure)
        if not self.max_post_edit_steps and original.any() and not (original & ~writes).any():
            final, writes = True, view.open
        writes = writes | (~view.open & (sure > self.edit_threshold) & (choice.token != current))
        if not writes.any():
            memory.finished = True
            return Edit()
        if final:
            for at in np.nonzero(writes & np.isin(choice.token, (mask, delete, split)))[0].tolist():
                choice.avoid(at, {mask, delete, split})
        changing = np.nonzero(writes & (choice.token != current))[0]
        if memory.shown in memory.seen and not final and len(changing):
            least = int(changing[sure[changing].argmin()])
            tried = memory.tried.get(int(view.position[least]), set())
            choice.avoid(least, tried | ({mask} if original[least] else set()))
        memory.seen.add(memory.shown)
        memory.finished = final
        for at in np.nonzero(writes)[0].tolist():
            memory.tried.setdefault(int(view.position[at]), set()).add(int(choice.token[at]))
        return rebuilt(view, choice, writes, mask, delete, split)

    def _masks(self, is_open: Bools, original: Bools, sure: Floats) -> Bools:
        """Returns [W] the masks that are written: all if none is original, else those above the
        threshold, and one more than there are inserted ones at least.
        """
        if not original.any():
            return is_open
        confident = is_open & (sure > self.threshold)
        least = int(is_open.sum() - original.sum()) + 1
        if confident.sum() >= least:
            return confident
        return highest(np.where(is_open, sure, -np.inf), min(least, int(is_open.sum())))


def rebuilt(
    view: StepState, choice: Choice, writes: Bools, mask: int, delete: int, split: int
) -> Edit:
    """Returns the changes that write tokens, and delete and insert positions; the block keeps its
    length.

    Args:
        view: the W positions of the block, consecutive.
        choice: their tokens.
        writes: [W] where they are written.
        mask, delete, split: the special tokens. A mask that is written stays or becomes one.
    """
    removes, splits = writes & (choice.token == delete), writes & (choice.token == split)
    kept, insert, length = np.zeros(len(writes), dtype=bool), [], 0
    for at in np.nonzero(~removes)[0].tolist():
        if splits[at] and length < len(writes):
            insert.append(int(view.position[at]))
            length += 1
        if length < len(writes):
            kept[at] = True
            length += 1
    insert += [int(view.position[-1]) + 1] * (len(writes) - length)
    changes = kept & writes & ~splits & (choice.token != view.current)
    commit = changes & (choice.token != mask)
    return Edit(
        view.position[commit],
        choice.token[commit],
        np.log(np.maximum(choice.sure[commit], np.finfo(np.float32).tiny), dtype=np.float64),
        erase=view.position[changes & ~commit],
        insert=np.array(insert, dtype=np.int64),
        delete=view.position[~kept],
    )

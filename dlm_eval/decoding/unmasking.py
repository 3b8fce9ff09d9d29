"""Decoding of masked models, step by step, until visible text is final.

A step reads candidates, asks the strategy which of them to write, and writes these. One program
fills one canvas and yields the rows of one step at a time. The engine mixes the rows of many
programs (`dlm_eval.engine`).

Four savings change no token. A row reads only positions whose candidates are needed. A step that
writes nothing runs no row. The same row is not run twice in succession. Decoding ends when visible
text is final (`exits`).

Shape letters: W = positions that a step considers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding.blocks import Block, block_grid, split_blocks, whole_blocks
from dlm_eval.decoding.caches import DecodeCache
from dlm_eval.decoding.checkpoints import no_offer
from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.samples import best_program, repeat
from dlm_eval.decoding.schedules import schedule
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Ints, Query, StepState
from dlm_eval.decoding.strategy import FillRequest, Strategy
from dlm_eval.engine import ForwardRow, Output, Program
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser, logit_shift
from dlm_eval.options import check_option_names

Ends = Literal["full", "limit", "steps", "stable", "own"]
Steps = Generator[list[ForwardRow], list[Output], Any]
# of a block, in addition to its own steps and four for each position of the canvas
MOST_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Unmasking(Strategy):
    """A strategy for masked models: at each step some candidates are written.

    Most strategies implement only `commit`. `erase` remasks tokens, and `query` reads something
    else off the model. A strategy that runs several rows, keeps state on the device, or inserts or
    deletes positions implements the whole `step`.

    Class attributes:
        ends: when a block is done: when it is 'full', when it is full or all its steps are done
            ('limit'; what is open then stays open), after all its 'steps', when it is full and a
            step changes nothing ('stable'), or when `stops` says so ('own').
        last_step_fills: whether one more step fills the positions that are open after the last one.
        keeps_tokens: whether written tokens stay and are not considered again; None: as `ends` and
            `erase` say. See `tokens_are_final` and `revisits`, which may be defined apart.
        keeps_state: whether the strategy keeps state between steps besides the canvas: numbers on
            the device (`Query.keeps`), or `memory`. There are no checkpoints then.
        shows_whole: why its rows have to run and show the whole canvas ('hides a part of the
            canvas'), so that approximate caches are refused; '' if they need not.
        full_attention: whether, for that reason, it also needs a model with full attention.
    """

    takes_schedule: ClassVar[bool] = True
    ends: ClassVar[Ends] = "full"
    last_step_fills: ClassVar[bool] = False
    keeps_tokens: ClassVar[bool | None] = None
    keeps_state: ClassVar[bool] = False
    shows_whole: ClassVar[str] = ""
    full_attention: ClassVar[bool] = False

    @classmethod
    def check_class(cls) -> None:
        super().check_class()
        check_option_names(cls, Unmasking, f"strategy '{cls.name}'")
        cls.check_attribute("reads", (None, *get_args(Measure)))
        cls.check_attribute("ends", get_args(Ends))
        cls.check_attribute("keeps_tokens", (None, True, False))

    # -- what a strategy defines -------------------------------------------------------------------

    @property
    def revisits(self) -> bool:
        """Whether a step also considers positions of the block that are already written."""
        if self.keeps_tokens is not None:
            return not self.keeps_tokens
        return self.ends in ("steps", "stable", "own")

    @property
    def tokens_are_final(self) -> bool:
        """Whether a written token stays, so that decoding may end before its block is full."""
        if self.keeps_tokens is not None:
            return self.keeps_tokens
        return self.ends in ("full", "limit") and type(self).erase is Unmasking.erase

    def memory(self, state: DecodeState) -> Any:
        """Returns what the strategy keeps on the host between the steps of a canvas
        (`DecodeState.memory`), for strategies with `keeps_state`.

        Args:
            state: the canvas before its first step.
        """
        return None

    def block_memory(self, state: DecodeState) -> Any:
        """Returns what is kept from the first step of a block on: what was kept before, unless a
        strategy begins anew with each block.

        Args:
            state: the canvas before the first step of the block `state.block`.
        """
        return state.memory

    def stops(self, state: DecodeState) -> bool:
        """Returns whether the block ends now, if `ends` is 'own'; open positions then stay open."""
        return False

    def candidates(self, at: Ints) -> Ints:
        """Returns the positions that a step considers, a part of `at` [W], ascending."""
        return at

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        """Returns what the step asks of the model.

        Args:
            view: the step before the model runs.
            op: reads candidates by the general settings.
            model: for strategies that need more than its logits.
        """
        return Query(op)

    def commit(self, view: StepState) -> Bools:
        """Returns [W] bool, true at candidates that are written."""
        raise NotImplementedError(f"strategy '{self.name}' does not say where to write")

    def erase(self, view: StepState) -> Bools:
        """Returns [W] bool, true at written tokens that become masks again."""
        return view.nowhere

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Runs one step and returns what it changes.

        Args:
            state: the canvas; `state.read`, `state.row` and `state.run` run the model.
            view: the positions that the step considers.
            op: reads candidates by the general settings.
        """
        query = self.query(view, op, state.model)
        chance = query.log_chance
        if chance is not None:
            view = replace(view, score=np.full(len(view.position), chance))
        if self.reads is None or chance is not None:  # read only positions that will be written
            chosen = self._mask("commit", self.commit(view), view)
            erase = view.position[self._mask("erase", self.erase(view), view)]
            if not chosen.any():
                if state.cache.ages:
                    yield from state.read(view.position, query)
                return Edit(erase=erase)
            token, logprob, *_ = yield from state.read(view.position[chosen], query)
            return Edit(view.position[chosen], token, logprob, erase)
        idle = view.quota <= 0 and self.default_schedule and not self._takes_back(view)
        if idle and not state.cache.ages:
            return Edit()
        token, logprob, score, *more = yield from state.read(view.position, query)
        if np.count_nonzero(np.isnan(score)):  # `any` takes three times as long
            raise SampleError(f"strategy '{self.name}' read NaN as the confidence in a candidate")
        view = view.with_candidates(token, score, tuple(more))
        chosen = self._mask("commit", self.commit(view), view)
        at = view.position[chosen]
        if type(self).erase is Unmasking.erase:  # as of most strategies
            return Edit(at, token[chosen], logprob[chosen])
        erased = view.position[self._mask("erase", self.erase(view), view)]
        return Edit(at, token[chosen], logprob[chosen], erased)

    def _mask(self, method: str, returned: Any, view: StepState) -> Bools:
        """Returns what `commit` or `erase` has returned, if it is [W] bool."""
        mask = np.asarray(returned)
        if mask.dtype.kind != "b" or mask.shape != view.position.shape:
            raise SampleError(
                f"strategy '{self.name}': {method}(view) returned {mask.dtype} {list(mask.shape)};"
                f" it must return bool {list(view.position.shape)}"
            )
        return mask

    def _takes_back(self, view: StepState) -> bool:
        """Returns whether a step with no token to write can still change something."""
        return self.revisits and (view.left_open > 0 or bool(view.open.any()))

    # -- how many rows -----------------------------------------------------------------------------

    def most_steps(self, n: int, steps: int) -> int | None:
        """Returns the maximum number of steps of a block that run a row; None if it is not known.

        A class that changes `commit`, `erase`, `candidates` or `step` must define it again; the one
        that it inherits does not count.

        Args:
            n: open positions of the block.
            steps: steps of its schedule.
        """
        return steps + self.last_step_fills if self.ends == "steps" else None

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        own = _defined(type(self), "most_steps")
        changes = ("step",) if self.ends == "steps" else ("step", "commit", "erase", "candidates")
        if any(_defined(type(self), name) < own for name in changes):
            return None
        grid = block_grid(model, canvas, settings)
        places = np.array(whole_blocks(canvas, grid).open_positions)
        least = 2 if logit_shift(model) > 0 else 1  # see `DecodeState.first_position_alone`
        rows = int(canvas.draft)  # the row that reads it
        cache = settings.cache.policy(model, settings.guidance_factor != 1, self.reads, grid)
        if cache.narrows:  # a quota may be more than the candidates
            return None
        for part, block in split_blocks(places, settings, grid):
            most = self.most_steps(len(part), block.steps)
            if most is None:
                return None
            if cache.ages:  # steps that write nothing run too
                most = max(most, block.steps + self.last_step_fills)
            rows += max(most, min(least, len(part)))
        samples = settings.samples if settings.is_random else 1
        ranked = samples if samples > 1 and settings.rerank == "score" else 0
        return rows * samples * (1 if settings.guidance_factor == 1 else 2) + ranked

    # -- the program -------------------------------------------------------------------------------

    def why_no_checkpoint(self, process: str) -> str | None:
        return f"strategy '{self.name}' keeps state between steps" if self.keeps_state else None

    @property
    def why_no_step_texts(self) -> str | None:
        if self.resizes:
            return "it changes the length of the text"
        if type(self).step is not Unmasking.step:
            return "its steps run rows of their own"
        if self.keeps_state:
            return "what it keeps between steps depends on the positions that it reads"
        return None

    @classmethod
    def _whole_rows(cls) -> str:
        """Why its rows have to run and show the whole canvas; "" if they need not."""
        growing = "changes the length of the canvas" if cls.resizes is True else ""
        return cls.shows_whole or growing

    @classmethod
    def why_not_cache(cls, cache: type[DecodeCache]) -> str | None:
        if (whole := cls._whole_rows()) and cache.approximate:
            return (
                f"decode strategy '{cls.name}' {whole}; it needs no approximate cache, so leave cache "
                f"'{cache.name}' out"
            )
        if cache.by_block and not cls.takes_block_length:
            return (
                f"decode cache '{cache.name}' is refreshed with every block of block_length; strategy "
                f"'{cls.name}' has blocks of its own; leave it out"
            )
        return None

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        # raises if the model does not have the cache
        settings.cache.policy(model, settings.guidance_factor != 1, self.reads, None)
        whole = model.block_length is not None and (
            settings.block_length in (None, model.block_length)
        )
        if self.resizes == "within_blocks" and not whole:
            raise UserError(
                f"decode strategy '{self.name}' inserts and deletes within the blocks of a "
                "block-causal model; it needs such a model, and leave block_length out"
            )
        if (self.full_attention or self.resizes is True) and model.attention != "full":
            raise UserError(
                f"decode strategy '{self.name}' {self._whole_rows()}; it needs full attention, which "
                f"{model.name} does not have"
            )
        if self.owns_blocks and model.block_length is not None:
            raise UserError(
                f"decode strategy '{self.name}' divides the hole into blocks by itself; "
                f"{model.name} can only be decoded in its own blocks"
            )

    def program(self, request: FillRequest) -> Program[Filling]:
        settings = request.settings
        if settings.samples > 1 and settings.is_random:  # otherwise all samples would be equal
            one = replace(
                request, settings=replace(settings, samples=1), offer=no_offer, begun=None
            )
            programs = [
                self.program(replace(one, noise=repeat(request.noise, i)))
                for i in range(settings.samples)
            ]
            return (
                yield from best_program(request.model, request.canvas, programs, settings.rerank)
            )
        state = DecodeState(request.model, request.canvas, settings, request.noise, request.trace)
        state.memory = self.memory(state)
        first = 0
        if request.begun is not None:
            state.restore(request.begun)
            first = request.begun.step
        elif request.canvas.draft:
            yield from state.write_draft(request.canvas)
        for block in state.blocks[state.block :]:
            state.block = block.number
            state.memory = self.block_memory(state)
            yield from self._fill_block(state, block, first, request)
            if state.exit != "full":
                break
            first = 0
        return state.filling()

    def _fill_block(
        self, state: DecodeState, block: Block, step: int, request: FillRequest
    ) -> Steps:
        """Runs a block's steps from `step` on, until it is done or visible text is final."""
        settings, model = request.settings, request.model
        op = candidate_op(model, settings, self.reads)
        name = settings.schedule or self.default_schedule
        tokens_of = schedule(name, settings.eps, settings.batch_mean_quota) if name else None
        self._offer(state, step, request)
        begin = step
        while True:
            at = state.block_positions
            is_open = state.open[at]
            left = int(np.count_nonzero(is_open))
            if not self._goes_on(state, block, step, left):
                break
            if step - begin > block.steps + 4 * len(state.ids) + MOST_STEPS:
                raise SampleError(
                    f"strategy '{self.name}' does not fill the block: {step} steps have been run"
                )
            quota = tokens_of(block.size, left, step, block.steps) if tokens_of else 0
            if tokens_of and step >= block.steps - 1 and self.ends != "limit":
                quota = left
            if step == 0 and is_open[0] and state.first_position_alone(at):
                first = self.query(state.view(at[:1], block, step, quota, name), op, model)
                edit = yield from _first_position(state, at[:1], first)
            else:
                at = at if self.revisits else at[is_open]
                at = self.candidates(at)
                if not self.revisits and type(self).step is Unmasking.step:
                    at = state.computed_next(at)
                view = state.view(at, block, step, quota, name)
                edit = yield from self.step(state, view, op)
            state.keep_step_text()
            state.apply(edit)
            if not edit.changes_nothing and self.tokens_are_final:
                state.check_early_exit()
            step, state.global_step = step + 1, state.global_step + 1
            self._offer(state, step, request)
        state.check_early_exit()  # the block's tokens are final now for every strategy

    def _goes_on(self, state: DecodeState, block: Block, step: int, left: int) -> bool:
        """Returns whether the block, with `left` open positions, has another step."""
        if state.exit != "full":
            return False
        if self.ends == "own":
            return not self.stops(state)
        if self.ends == "steps":
            return step < block.steps or (self.last_step_fills and left > 0)
        if left > 0 and self.ends == "limit":
            return step < block.steps
        if left > 0:
            state.post_steps = 0
            return True
        # A full block continues only while tokens are still replaced.
        changed = state.post_steps == 0 or state.last_change == state.global_step - 1
        state.post_steps += 1
        return self.ends == "stable" and changed and state.post_steps <= self.steps_when_full

    @property
    def steps_when_full(self) -> int:
        """Maximum number of steps on a full block, for strategies that end when 'stable'."""
        return 0

    def _offer(self, state: DecodeState, step: int, request: FillRequest) -> None:
        """Offers the state between two steps if the next steps depend on nothing else.

        They would depend on outputs that were read before, the KV cache of a block, or the
        strategy's own state.
        """
        if state.cache.lasts == "canvas" and state.forwards:
            return
        alone = step == 0 or state.cache.lasts != "block"
        if state.exit == "full" and state.known is None and alone and not self.keeps_state:
            request.offer(lambda: state.checkpoint(step))


def _defined(cls: type, name: str) -> int:
    """Returns how far up a class' bases `name` is defined: 0 for the class itself."""
    return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))


def _first_position(
    state: DecodeState, at: Ints, query: Query
) -> Generator[list[ForwardRow], list[Output], Edit]:
    """Writes the candidate at a block's first position, which only its first row can read."""
    token, logprob, *_ = yield from state.read(at, replace(query, log_chance=None))
    return Edit(at, token, logprob)


def candidate_op(model: Denoiser, settings: DecodeSettings, measure: Measure | None = None) -> Draw:
    """Returns what reads candidates by the general settings, with `measure` as their score."""
    banned = (() if settings.allow_mask else (model.mask_id,)) + (
        model.eos_ids[:1] if settings.logits_eos_inf else ()
    )
    return Draw(
        measure=measure or "probability",
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        top_p_rule=settings.top_p_rule,
        logits_temp=settings.logits_temp,
        of_drawn=settings.confidence_from == "sampling",
        banned=banned,
        zero_confidence_ids=model.eos_ids if settings.confidence_eos_eot_inf else (),
    )

"""Decode settings: the general ones, and a strategy with its own options.

`layers.resolve` makes them from settings by name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from dlm_eval.decoding.caches import CACHE_OPTIONS, DecodeCache, Exact
from dlm_eval.decoding.draw import TopPRule
from dlm_eval.decoding.strategy import Strategy, not_for
from dlm_eval.errors import UserError
from dlm_eval.options import check_options, default_of, option, option_names, value_error

# Settings that are not named at their defaults, so that answers of older journals stay known.
LATER = {"step_texts": False, "align_inputs_to_blocks": True}
PER_STEP = ("even", "carry")  # schedules that write at least one token per step


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How open positions are filled. `resolve` builds one from settings by name."""

    strategy: Strategy
    steps: int | None = option(
        None,
        least=1,
        help="steps for the whole hole, shared evenly among its blocks; None: one per token (10 "
        "for models of process 'uniform', 200 for"
        " 'gaussian', 48 a canvas for 'canvas')",
        speed=True,
    )
    steps_per_block: int | None = option(
        None, least=1, help="steps for each block, in place of steps", speed=True
    )
    block_length: int | None = option(
        None,
        least=1,
        help="open positions that are filled before the next ones (semi-autoregressive); None: the "
        "whole hole, or the model's own"
        " block",
    )
    align_inputs_to_blocks: bool = option(
        True,
        help="whether the model's own blocks are counted from position 0; else from the end of the "
        "prompt (E2D2)",
    )
    schedule: Literal["even", "carry", "linear", "cosine", "timestep"] | None = option(
        None, help="tokens per step; None is the strategy's own"
    )
    eps: float = option(1e-3, least=0, below=1, help="end of the 'timestep' grid")
    batch_mean_quota: tuple[int, ...] = option(
        (),
        help="lengths of the holes that shared a batch in Dream's code, which uses the mean of "
        "their open positions for all quotas;"
        " empty: each hole has its own quota (schedule 'timestep')",
    )
    temperature: float = option(
        0.0,
        least=0,
        help="0 writes the most probable token, otherwise one is drawn at this temperature",
    )
    top_p: float = option(
        1.0, above=0, most=1, help="draws from the nucleus of this probability only; 1 is off"
    )
    top_k: int = option(0, least=0, help="draws from the k most probable tokens only; 0 is off")
    top_p_rule: TopPRule = option(
        "inclusive",
        help="whether the token with which the probability first exceeds top_p is kept "
        "('inclusive') or dropped ('exclusive': MDLM, BD3LM,"
        " ReMDM); 'after_top_k' is 'inclusive' among the top_k most probable (SDAR, LLaDA2, "
        "WeDLM), not before them (Dream)",
    )
    logits_temp: float = option(
        1.0,
        above=0,
        help="divides the logits first (DiffuLLaMA): probabilities change, the best token does not",
    )
    confidence_from: Literal["raw", "sampling"] = option(
        "raw",
        help="whether confidence is read from the model's own distribution ('raw', LLaDA) or from "
        "the tempered, restricted one that tokens"
        " are drawn from ('sampling': Dream, SDAR)",
    )
    guidance: float = option(
        0.0,
        least=0,
        help="weight w of classifier-free guidance, 0 for none; the unconditional pass sees only "
        "mask tokens in place of the given text",
    )
    guidance_convention: Literal["llada", "dream"] = option(
        "llada",
        help="'llada' adds (w + 1), 'dream' w times the difference of conditional and "
        "unconditional logits to the latter",
    )
    logits_eos_inf: bool = option(False, help="the end-of-text token cannot be written")
    confidence_eos_eot_inf: bool = option(
        False,
        help="end tokens count as probability 0 when positions are chosen; they can still be "
        "written, but last",
    )
    allow_mask: bool = option(
        True,
        help="whether the mask token can itself be written (LLaDA's and Dream's code allow it)",
    )
    samples: int = option(
        1, least=1, help="fillings that are drawn; the best is kept (forwards counts all)"
    )
    rerank: Literal["probability", "score"] = option(
        "probability",
        help="the best sample has the highest mean log-probability of its tokens: when they were "
        "written ('probability'), or given"
        " the whole filling ('score'; one more row for each sample)",
    )
    length_beam: int = option(
        0,
        least=0,
        help="number of lengths from the model's length head; each is filled, and the filling with "
        "the highest mean log-probability"
        " is kept (DiffusionLLM); 0 fills the hole as it is",
    )
    lengths: tuple[int, ...] = option(
        (),
        least=1,
        help="lengths that are tried for a hole of unknown length, as [8,16,32]; each is filled, and "
        "the filling with the highest mean log-probability is kept; empty: the hole as it is",
    )
    cache: DecodeCache = option(
        Exact(),
        help="KV cache: 'exact' (causal and block-causal models; changes no token), 'none', or an "
        "approximate one for full attention: 'prefix' and 'dual' (Fast-dLLM), 'dllm' (dLLM-Cache), "
        "'dkv' (dKV-Cache), 'd2' (d2Cache)",
    )
    until: tuple[str, ...] = option(
        (), help="stop strings; text from the first one on is not visible"
    )
    early_exit: bool = option(
        True,
        help="stop when all visible text is final; open positions stay blank (off by default with "
        "step_texts)",
    )
    step_texts: bool = option(
        False,
        help="keep with the answer what the text would be after each step if all its candidates were "
        "written, for a vote over steps (`--vote` sets it)",
    )

    def __post_init__(self) -> None:
        check_options(self, "decode")
        if self.batch_mean_quota and (
            self.schedule != "timestep" or min(self.batch_mean_quota) < 1
        ):
            allowed = "lengths of at least 1, under schedule 'timestep'"
            raise value_error("decode batch_mean_quota", list(self.batch_mean_quota), allowed)
        if taken := [name for name in option_names(type(self.strategy)) if name in TAKEN]:
            raise UserError(
                f"decode strategy '{self.strategy.name}': option '{taken[0]}' is the name of a "
                "general setting; choose another"
            )
        if self.length_beam and self.lengths:
            raise UserError("decode length_beam and lengths exclude each other; give one of them")
        self.strategy.refuse(self)
        if self.step_texts:
            self._check_step_texts()
        if self.cache.approximate and self.guidance:
            raise UserError(
                f"decode cache '{self.cache.name}' and guidance '{self.guidance}' exclude each other; "
                "leave one out"
            )
        if self.steps is not None and self.steps_per_block is not None:
            raise UserError("decode steps and steps_per_block exclude each other; give one of them")

    def _check_step_texts(self) -> None:
        """Raises UserError if not every step has candidates of all open positions."""
        if (reason := self.strategy.why_no_step_texts) is not None:
            raise UserError(
                f"decode step_texts (--vote) is not possible with strategy '{self.strategy.name}': "
                f"{reason}"
            )
        if self.cache.approximate:
            raise UserError(
                f"decode step_texts (--vote) and cache '{self.cache.name}' exclude each other: its steps "
                "do not compute all open positions; leave one out"
            )
        if self.early_exit:
            raise UserError(
                "decode step_texts (--vote) and early_exit exclude each other, since all steps have a "
                "vote; leave one out"
            )

    @property
    def guidance_factor(self) -> float:
        """Factor f of guided logits u + f (c - u); 1 means unguided."""
        if self.guidance == 0:
            return 1.0
        return self.guidance + (self.guidance_convention == "llada")

    @property
    def is_random(self) -> bool:
        """Whether answers depend on random numbers."""
        return self.temperature > 0 or self.strategy.is_random

    @property
    def uses_own_length(self) -> bool:
        """Whether a hole is filled at its own length, and not at one that is predicted or tried."""
        return not (self.length_beam or self.lengths)

    def finds_length(self, fixed: bool) -> bool:
        """Returns whether the text's length is decided while it is written, and not told.

        It is if lengths are predicted or tried, or if the strategy decides it and the hole has one
        length for all documents. A hole as long as the document's answer tells it to any strategy.

        Args:
            fixed: whether the task's holes have the same length for all documents.
        """
        return not self.uses_own_length or (fixed and self.strategy.finds_length)

    @property
    def schedule_in_use(self) -> str | None:
        """The schedule that is used, or None."""
        return self.schedule or self.strategy.default_schedule

    @property
    def approximation(self) -> str:
        """What changes tokens to save time, for tables; "" if nothing does."""
        return f"approximate cache {self.cache.name}" if self.cache.approximate else ""

    def identity(self) -> dict[str, Any]:
        """Returns all settings by name, those of strategy and cache too, for result files and
        journal keys.
        """
        general = {name: vars(self)[name] for name in FIELDS}
        for name, usual in LATER.items():
            if general[name] == usual:
                del general[name]
        return {**self.strategy.identity(), **general, **self.cache.identity()}

    def check(self, length: int, block: int | None = None) -> None:
        """Raises UserError if the settings do not fit a hole of `length` open positions.

        Under `length_beam` and `lengths` they are adapted to each length (`fitted`).

        Args:
            length: number of open positions (an empty hole fits all settings).
            block: block length of a block-causal model, whose blocks are at absolute positions,
                else None.
        """
        if length == 0:
            return
        if block is not None and block % (self.block_length or block):
            allowed = f"{block}, the block of this model, or a divisor of it"
            raise value_error("decode block_length", self.block_length, allowed)
        if not self.uses_own_length:
            return
        if self.steps is not None and self.steps > length and self.schedule_in_use in PER_STEP:
            raise value_error("decode steps", self.steps, f"at most the {length} open positions")
        if block is not None or self.block_length is None:
            return
        # without a schedule, the last block may be shorter
        if length % self.block_length and self.schedule_in_use is not None:
            raise value_error(
                "decode block_length",
                self.block_length,
                f"a divisor of the {length} open positions",
            )
        blocks = -(-length // self.block_length)
        if self.steps is not None and self.steps % blocks:
            raise value_error("decode steps", self.steps, f"a multiple of the {blocks} blocks")

    def check_process(self, process: str) -> None:
        """Raises UserError if a changed setting has no meaning for models of `process`."""
        if process not in self.strategy.processes:
            raise not_for(self.strategy, process)
        defaults = {
            own.name: default_of(own) for part in (self, self.strategy) for own in fields(part)
        }
        defaults["cache"] = Exact.name
        values = self.identity()
        for name in self.strategy.unused_settings(process):
            if values[name] != defaults[name]:
                raise UserError(
                    f"decode {name} '{values[name]}' means nothing to a model of process "
                    f"'{process}'; leave it out"
                )

    def canonical(self, length: int, process: str, block: int | None) -> DecodeSettings:
        """Returns the simplest settings with the same answer for a hole of `length` positions.

        `steps` equal to the number of tokens becomes None, and samples that would all be equal
        become one. `block` is as in `check`.
        """
        if not self.is_random:
            self = replace(self, samples=1, rerank="probability")
        whole = length % (self.block_length or length) == 0
        one_per_token = self.strategy.default_steps(process) is None
        own = self.uses_own_length
        redundant = self.steps == length and whole and one_per_token and block is None and own
        return replace(self, steps=None) if redundant else self

    def fitted(self, length: int) -> DecodeSettings:
        """Returns the settings adapted to a hole of `length` positions.

        Even schedules get at most one step per token. A block length that does not divide the hole
        is replaced by the whole hole.
        """
        steps, block = self.steps, self.block_length
        if block is not None and length % block:
            block = None
        if steps is not None and self.schedule_in_use in PER_STEP:
            blocks = length // block if block else 1
            steps = max(1, min(steps, length) // max(blocks, 1)) * max(blocks, 1)
        return replace(self, steps=steps, block_length=block)

    def why_no_checkpoint(self, process: str) -> str | None:
        """Returns why an interrupted canvas must start again instead of resuming, or None."""
        if (reason := self.strategy.why_no_checkpoint(process)) is not None:
            return reason
        if self.cache.lasts == "canvas":
            return f"cache={self.cache.name}"
        if self.length_beam:
            return "length_beam"
        if self.lengths:
            return "lengths"
        return "several samples" if self.samples > 1 and self.is_random else None


FIELDS = tuple(name for name in option_names(DecodeSettings) if name not in ("strategy", "cache"))
GENERAL = (*FIELDS, "cache", *CACHE_OPTIONS)  # settings that do not belong to a strategy
# names that a strategy cannot give to an option
TAKEN = (*GENERAL, "strategy", "preset", "gen_length")

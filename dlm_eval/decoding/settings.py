"""Settings of decoding: one frozen dataclass, which refuses what does not go together (`layers` fills it)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dlm_eval.decoding.checks import check_values, refused
from dlm_eval.decoding.draw import Nucleus
from dlm_eval.decoding.registry import ALIASES, strategy

Convention = Literal["llada", "dream"]
PER_STEP = ("even", "carry")  # schedules with a quota of at least one token for each step


@dataclass(frozen=True)
class DecodeSettings:
    """How open positions are written. `None` for `steps` means one token per step; for `block_length`, the whole hole
    (or the model's own block).

    Attributes:
        strategy: where to write at each step (`dlm-eval ls strategies`).
        steps: steps for the whole hole, shared evenly among its blocks (None: 10 for models of process 'uniform', 200 for 'gaussian', 48 a canvas for 'canvas').
        steps_per_block: steps for each block, in place of `steps`.
        block_length: open positions that are filled before the next ones are begun (semi-autoregressive).
        schedule: tokens per step: 'even', 'carry', 'linear', 'cosine', 'timestep'; None is the strategy's own.
        eps: end of the 'timestep' grid.
        batch_mean_quota: lengths of the holes that shared a batch in Dream's code, which takes the mean of their open positions
            for everyone's quota; empty for a quota of one's own (schedule 'timestep').
        temperature: 0 writes the most probable token, otherwise one is drawn at this temperature.
        top_p, top_k: restrict what is drawn; 1 and 0 do not.
        nucleus: whether the token with which the probability first exceeds `top_p` still belongs ('reach'), or only those up to
            it ('within': MDLM, BD3LM, ReMDM); 'of_top_k' is 'reach' among the `top_k` largest (SDAR, LLaDA2, WeDLM), not before them (Dream).
        logits_temp: divides the logits before everything else (DiffuLLaMA): probabilities change, the most probable
            token does not.
        confidence_of: whether confidence is read from the 'model' distribution (LLaDA) or the tempered, restricted
            'drawn' one (Dream, SDAR).
        rescore: written tokens keep competing for the quota with fresh scores (DiffuLLaMA); they are not rewritten.
        alg_temp: temperature of the choice of positions (Dream); 0 takes the best.
        threshold: least probability that is written (strategy `threshold`).
        quota_is: whether the schedule's quota is the 'least' (SDAR, LLaDA2) or the 'most' (Fast-dLLM on Dream) that a step writes (strategy `threshold`).
        factor: Fast-dLLM's factor (strategy `factor`).
        entropy_bound: nats (strategy `entropy_bound`).
        window: positions from the first open one on that are looked at (strategy `window`).
        entropy_threshold: nats below which a candidate is written; 0 writes one at a time (strategy `window`).
        pos_penalty: nats that count against a candidate for each position behind the first open one (strategy `window`).
        rdm_condition: 'uncond' masks every written token among the lowest scores again, 'cond' only one that is drawn
            again with a lower score (strategy `rdm`).
        rdm_noise: scale of the Gumbel noise on scores, times the share kept open; 0 is deterministic (strategy `rdm`).
        p2_eta: what the log-probability of a written token is multiplied by; 0 never masks it again (strategy `p2`).
        remask: how ReMDM chooses its chance: 'cap', 'rescale', 'conf', 'loop' (strategy `remask`).
        eta: its strength (strategy `remask`).
        t_on, t_off, alpha_on: times between which 'loop' masks again, and the share of clean tokens meanwhile.
        editing_threshold: least probability that replaces a written token (strategy `edit`).
        num_to_transfer: tokens that a step writes at least (strategy `edit`).
        max_post_steps: steps on a full block at most (strategy `edit`).
        guidance: weight w of classifier-free guidance, 0 for none. The unconditional pass sees only mask tokens in
            place of the given text.
        guidance_convention: 'llada' adds (w + 1), 'dream' w times the difference of conditional and unconditional
            logits to the latter.
        logits_eos_inf: the end-of-text token cannot be written.
        confidence_eos_eot_inf: end tokens count as probability 0 when positions are chosen; they can still be written,
            last of all.
        allow_mask: whether the mask token can itself be written (LLaDA's and Dream's code allow it).
        samples: fillings that are drawn, of which the best is kept (its `forwards` count all).
        rerank: what is best: the highest mean log-'probability' of tokens when written, or 'score', that of the tokens given
            the whole filling (one more row for each sample).
        length_beam: how many lengths that the model's own length head proposes are filled side by side, the filling with the
            highest mean log-probability kept (DiffusionLLM); 0 fills the hole as it is.
        noise_scale: factor of the initial noise (strategy `euler`).
        score_temperature: divides the logits from which E[x_0] is taken; below 1 is sharper (strategy `euler`).
        accept_bound: nats that the entropies before an accepted token sum up to at most (strategy `renoise`).
        t_start, t_end: temperature of the first step, and of the one after the last (strategy `renoise`).
        halt: criterion that ends decoding before its last step: the mean 'entropy' or 'kl' from the step before is below
            `halt_threshold` (nats); no token has changed for that many steps ('patience'); that many are done ('fixed'); the entropy is below and no token
            has changed since the last step ('confident').
        halt_threshold: nats or steps.
        halt_min_steps: steps before which nothing halts.
        cache: which keys and values are remembered: 'exact', those of block-causal models that change no token; 'none'; or, under full
            attention, Fast-dLLM's approximate 'prefix' and 'dual', refreshed at the start of each block.
        until: stop strings; text from the first one on is invisible.
        early_exit: stop once all visible text is final; what is still open stays blank.
    """

    strategy: str = "confidence"
    steps: int | None = None
    steps_per_block: int | None = None
    block_length: int | None = None
    schedule: Literal["even", "carry", "linear", "cosine", "timestep"] | None = None
    eps: float = 1e-3
    batch_mean_quota: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    nucleus: Nucleus = "reach"
    logits_temp: float = 1.0
    confidence_of: Literal["model", "drawn"] = "model"
    rescore: bool = False
    alg_temp: float = 0.0
    threshold: float | None = None
    quota_is: Literal["least", "most"] = "least"
    factor: float | None = None
    entropy_bound: float | None = None
    window: int = 16
    entropy_threshold: float = 0.4
    pos_penalty: float = 0.02
    rdm_condition: Literal["uncond", "cond"] = "uncond"
    rdm_noise: float = 0.0
    p2_eta: float = 1.0
    remask: Literal["cap", "rescale", "conf", "loop"] = "cap"
    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9
    editing_threshold: float | None = None
    num_to_transfer: int = 1
    max_post_steps: int = 16
    guidance: float = 0.0
    guidance_convention: Convention = "llada"
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    allow_mask: bool = True
    samples: int = 1
    rerank: Literal["probability", "score"] = "probability"
    length_beam: int = 0
    noise_scale: float = 1.0
    score_temperature: float = 1.0
    accept_bound: float = 0.1
    t_start: float = 0.8
    t_end: float = 0.4
    halt: Literal["none", "entropy", "patience", "kl", "fixed", "confident"] = "none"
    halt_threshold: float = 0.0
    halt_min_steps: int = 0
    cache: Literal["exact", "none", "prefix", "dual"] = "exact"
    until: tuple[str, ...] = ()
    early_exit: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", ALIASES.get(self.strategy, self.strategy))
        check_values(self)

    @property
    def guidance_factor(self) -> float:
        """Factor f of guided logits u + f (c - u); 1 means unguided."""
        if self.guidance == 0:
            return 1.0
        return self.guidance + (self.guidance_convention == "llada")

    def draws(self, process: str) -> bool:
        """Returns whether answers of models of `process` depend on random numbers under these settings."""
        chance = self.temperature > 0 or self.alg_temp > 0 or self.rdm_noise > 0
        return process != "absorbing" or chance or strategy(self.strategy).by_chance

    def check(self, length: int, block: int | None = None) -> None:
        """Raises UserError where the settings do not fit a hole of `length` open positions.

        Args:
            length: open positions (nothing is asked of an empty hole).
            block: block length of a block-causal model, whose blocks lie at absolute positions, else None.
        """
        if length == 0:
            return
        own_schedule = self.schedule or strategy(self.strategy).schedule
        if self.steps is not None and self.steps > length and own_schedule in PER_STEP:
            raise refused("steps", self.steps, f"at most the {length} open positions")
        if block is not None:
            if block % (self.block_length or block):
                raise refused(
                    "block_length", self.block_length, f"{block}, the block of this model, or a divisor of it"
                )
            return
        if self.block_length is None:
            return
        if length % self.block_length and own_schedule is not None:  # without one, the last block may be shorter
            raise refused("block_length", self.block_length, f"a divisor of the {length} open positions")
        blocks = -(-length // self.block_length)
        if self.steps is not None and self.steps % blocks:
            raise refused("steps", self.steps, f"a multiple of the {blocks} blocks")

    def canonical(self, length: int, process: str, block: int | None) -> DecodeSettings:
        """Returns settings with the same answer for a hole of `length` positions (`block` as in `check`).

        As many steps as tokens are `steps` None; samples that would all be equal are one.
        """
        if not self.draws(process):
            self = replace(self, samples=1, rerank="probability")
        whole = length % (self.block_length or length) == 0
        redundant = self.steps == length and whole and process == "absorbing" and block is None
        return replace(self, steps=None) if redundant else self

    def fitted(self, length: int) -> DecodeSettings:
        """Returns the settings for a hole of `length` positions that was not known when they were chosen.

        Even schedules take at most one step per token, and a block length that does not divide the hole gives way to
        the whole hole.
        """
        steps, block = self.steps, self.block_length
        if block is not None and length % block:
            block = None
        if steps is not None and (self.schedule or strategy(self.strategy).schedule) in PER_STEP:
            blocks = length // block if block else 1
            steps = max(1, min(steps, length) // max(blocks, 1)) * max(blocks, 1)
        return replace(self, steps=steps, block_length=block)

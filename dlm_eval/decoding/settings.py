"""Settings of decoding: one frozen dataclass, filled from `--decode k=v,...`, task YAMLs and presets.

layers (weakest first) -> each layer's preset under its own keys -> DecodeSettings -> checked against the hole's length
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal

from dlm_eval.decoding.presets import preset_settings
from dlm_eval.decoding.registry import STRATEGY_NAMES, strategy
from dlm_eval.errors import UserError
from dlm_eval.settings import from_mapping

Convention = Literal["llada", "dream"]


@dataclass(frozen=True)
class DecodeSettings:
    """How open positions are written. `None` for `steps` means one token per step; for `block_length`, the whole hole
    (or the model's own block).

    Attributes:
        strategy: where to write at each step (`dlm-eval ls strategies`).
        steps: steps for the whole hole, shared evenly among its blocks (None: 10 for models of process 'uniform', 200 for 'gaussian').
        steps_per_block: steps for each block, in place of `steps`.
        block_length: open positions that are filled before the next ones are begun (semi-autoregressive).
        schedule: tokens per step: 'even', 'linear', 'cosine', 'timestep'; None is the strategy's own.
        eps: end of the 'timestep' grid.
        temperature: 0 writes the most probable token, otherwise one is drawn at this temperature.
        top_p, top_k: restrict what is drawn; 1 and 0 do not.
        logits_temp: divides the logits before everything else (DiffuLLaMA): probabilities change, the most probable
            token does not.
        confidence_of: whether confidence is read from the 'model' distribution (LLaDA) or the tempered, restricted
            'drawn' one (Dream, SDAR).
        rescore: written tokens keep competing for the quota with fresh scores (DiffuLLaMA); they are not rewritten.
        alg_temp: temperature of the choice of positions (Dream); 0 takes the best.
        threshold: least probability that is written (strategy `threshold`).
        factor: Fast-dLLM's factor (strategy `factor`).
        entropy_bound: nats (strategy `entropy_bound`).
        rdm_condition: 'uncond' masks every written token among the lowest scores again, 'cond' only one that is drawn
            again with a lower score (strategy `rdm`).
        rdm_noise: scale of the Gumbel noise on scores, times the share kept open; 0 is deterministic (strategy `rdm`).
        remask: how ReMDM chooses its chance: 'cap', 'rescale', 'conf' (strategy `remask`).
        eta: its strength (strategy `remask`).
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
        halt: criterion that ends decoding before its last step: the mean 'entropy' or 'kl' from the step before is below
            `halt_threshold` (nats); no token has changed for that many steps ('patience'); that many are done ('fixed').
        halt_threshold: nats or steps.
        halt_min_steps: steps before which nothing halts.
        until: stop strings; text from the first one on is invisible.
        early_exit: stop once all visible text is final; what is still open stays blank.
    """

    strategy: str = "confidence"
    steps: int | None = None
    steps_per_block: int | None = None
    block_length: int | None = None
    schedule: Literal["even", "linear", "cosine", "timestep"] | None = None
    eps: float = 1e-3
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    logits_temp: float = 1.0
    confidence_of: Literal["model", "drawn"] = "model"
    rescore: bool = False
    alg_temp: float = 0.0
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    rdm_condition: Literal["uncond", "cond"] = "uncond"
    rdm_noise: float = 0.0
    remask: Literal["cap", "rescale", "conf"] = "cap"
    eta: float = 0.02
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
    halt: Literal["none", "entropy", "patience", "kl", "fixed"] = "none"
    halt_threshold: float = 0.0
    halt_min_steps: int = 0
    until: tuple[str, ...] = ()
    early_exit: bool = True

    def __post_init__(self) -> None:
        method = strategy(self.strategy)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise _refused(name, value, f"{least} or more")
        for name, low in ABOVE.items():
            value = getattr(self, name)
            if value is not None and not value > low:
                raise _refused(name, value, f"above {low}")
        if not 0 < self.top_p <= 1:
            raise _refused("top_p", self.top_p, "above 0 and at most 1")
        for name in ("threshold", "editing_threshold", "eta"):
            if (getattr(self, name) or 0) > 1:
                raise _refused(name, getattr(self, name), "0 to 1")
        if not 0 <= self.eps < 1:
            raise _refused("eps", self.eps, "0 or more and below 1")
        if self.steps is not None and self.steps_per_block is not None:
            raise UserError("decode steps and steps_per_block exclude each other; give one of them")
        for name in OWN:
            if getattr(self, name) != _default(name) and name not in method.options:
                users = ", ".join(s for s in STRATEGY_NAMES if name in strategy(s).options)
                raise UserError(f"decode {name} is not used by strategy '{self.strategy}'; it belongs to {users}")
            if _default(name) is None and name in method.options and getattr(self, name) is None:
                raise UserError(f"decode strategy '{self.strategy}' needs {name}=NUMBER")
        if (self.halt != "none") != (self.halt_threshold > 0):
            raise UserError(
                f"decode halt '{self.halt}' and halt_threshold '{self.halt_threshold}' need each other (nats, or steps)"
            )
        if self.schedule is not None and method.schedule is None and "threshold" not in method.options:
            raise UserError(
                f"decode schedule is not used by strategy '{self.strategy}', which decides by itself how much to write"
            )

    @property
    def guidance_factor(self) -> float:
        """Factor f of guided logits u + f (c - u); 1 means unguided."""
        if self.guidance == 0:
            return 1.0
        return self.guidance + (self.guidance_convention == "llada")

    def leave_out(self, names: Sequence[str], process: str) -> None:
        """Raises UserError where one of the settings `names`, which models of `process` have no use for, is not at its default."""
        for name in names:
            if getattr(self, name) != _default(name):
                value = getattr(self, name)
                raise UserError(
                    f"decode {name} '{value}' means nothing to a model of process '{process}'; leave it out"
                )

    def check(self, length: int, block: int | None = None) -> None:
        """Raises UserError where the settings do not fit a hole of `length` open positions.

        Args:
            length: open positions (nothing is asked of an empty hole).
            block: block length of a block-causal model, whose blocks lie at absolute positions, else None.
        """
        if length == 0:
            return
        own_schedule = self.schedule or strategy(self.strategy).schedule
        if self.steps is not None and self.steps > length and own_schedule == "even":
            raise _refused("steps", self.steps, f"at most the {length} open positions")
        if block is not None:
            if self.block_length not in (None, block):
                raise _refused("block_length", self.block_length, f"{block}, the block of this model")
            return
        if self.block_length is None:
            return
        if length % self.block_length:
            raise _refused("block_length", self.block_length, f"a divisor of the {length} open positions")
        if self.steps is not None and self.steps % (length // self.block_length):
            raise _refused("steps", self.steps, f"a multiple of the {length // self.block_length} blocks")

    def fitted(self, length: int) -> DecodeSettings:
        """Returns the settings for a hole of `length` positions that was not known when they were chosen.

        Even schedules take at most one step per token, and a block length that does not divide the hole gives way to
        the whole hole.
        """
        steps, block = self.steps, self.block_length
        if block is not None and length % block:
            block = None
        if steps is not None and (self.schedule or strategy(self.strategy).schedule) == "even":
            blocks = length // block if block else 1
            steps = max(1, min(steps, length) // max(blocks, 1)) * max(blocks, 1)
        return replace(self, steps=steps, block_length=block)


ZERO = (
    *("temperature", "top_k", "alg_temp", "guidance", "threshold", "factor", "entropy_bound", "rdm_noise", "eta"),
    *("length_beam", "noise_scale", "halt_threshold", "halt_min_steps"),
)
ONE = ("steps", "steps_per_block", "block_length", "num_to_transfer", "samples")
LEAST = {**dict.fromkeys(ZERO, 0), **dict.fromkeys(ONE, 1), "editing_threshold": 0, "max_post_steps": 0}
ABOVE = {"logits_temp": 0, "score_temperature": 0}
OWN = (  # settings that only some strategies use
    *("alg_temp", "rescore", "threshold", "factor", "entropy_bound", "rdm_condition", "rdm_noise", "remask", "eta"),
    *("editing_threshold", "num_to_transfer", "max_post_steps"),
    *("noise_scale", "score_temperature", "halt", "halt_threshold", "halt_min_steps"),
)


def _default(name: str) -> Any:
    value = next(field.default for field in fields(DecodeSettings) if field.name == name)
    assert value is not MISSING
    return value


def _refused(name: str, value: object, allowed: str) -> UserError:
    return UserError(f"decode {name} '{value}' is not allowed; it must be {allowed}")


def expand(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a layer with its `preset`, if any, replaced by the preset's settings; the layer's own keys are
    stronger."""
    own = {key: value for key, value in layer.items() if key != "preset"}
    return {**preset_settings(str(layer["preset"])), **own} if layer.get("preset") else own


def resolve(*layers: Mapping[str, Any], length: int | None = None) -> DecodeSettings:
    """Returns the settings of `layers`, the weakest first; each layer's own keys are stronger than its preset.

    Args:
        layers: settings by name (texts are cast), each with an optional `preset`. A preset's `gen_length` is for those
            who open holes and is set aside here.
        length: open positions to check against, where known.

    Raises:
        UserError: an unknown key, or a value that is not allowed; one line with the nearest name.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        own = expand(layer)
        if layer.get("preset"):
            own.pop("gen_length", None)
        merged.update(own)
    settings = from_mapping(DecodeSettings, merged, "--decode")
    if length is not None:
        settings.check(length)
    return settings

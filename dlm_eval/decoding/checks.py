"""What decode settings can never be, whatever they are used on: values out of range, settings that exclude each other, settings of another strategy."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from dlm_eval.decoding.registry import STRATEGY_NAMES, strategy
from dlm_eval.errors import UserError

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

ZERO = (
    "temperature", "top_k", "alg_temp", "guidance", "threshold", "factor", "entropy_bound", "rdm_noise", "eta", "entropy_threshold", "pos_penalty",
    "p2_eta", "t_on", "t_off", "length_beam", "noise_scale", "accept_bound", "t_end", "halt_threshold", "halt_min_steps",
)  # fmt: skip
ONE = ("steps", "steps_per_block", "block_length", "num_to_transfer", "samples", "window")
LEAST = {**dict.fromkeys(ZERO, 0), **dict.fromkeys(ONE, 1), "editing_threshold": 0, "max_post_steps": 0}
ABOVE = {"t_start": 0, "logits_temp": 0, "score_temperature": 0}
OWN = (  # settings that only some strategies use
    "window", "entropy_threshold", "pos_penalty", "alg_temp", "rescore", "threshold", "quota_is", "factor", "entropy_bound", "rdm_condition", "rdm_noise",
    "p2_eta", "remask", "eta", "t_on", "t_off", "alpha_on", "editing_threshold", "num_to_transfer", "max_post_steps", "accept_bound", "t_start",
    "t_end", "noise_scale", "score_temperature", "halt", "halt_threshold", "halt_min_steps",
)  # fmt: skip
_MASKS = ("eps", "allow_mask", "confidence_eos_eot_inf", "cache", "block_length", "steps_per_block", "guidance")
_DRAWS = ("temperature", "top_p", "top_k", "nucleus", "logits_temp", "confidence_of", "logits_eos_inf", "rerank")
# settings that models of a process have no use for, whatever the strategy
MEANINGLESS: dict[str, tuple[str, ...]] = {
    "absorbing": ("noise_scale", "score_temperature", "halt", "halt_threshold", "halt_min_steps"),
    "uniform": _MASKS,
    "gaussian": (*_MASKS, *_DRAWS),
    "canvas": (*_MASKS, *_DRAWS),
}


def check_values(settings: DecodeSettings) -> None:
    """Raises UserError (setting, value, what is allowed) where a value is out of range or the settings contradict themselves."""
    _ranges(settings)
    _strategys_own(settings)
    _exclusions(settings)


def check_process(settings: DecodeSettings, process: str) -> None:
    """Raises UserError if the strategy, or another setting that is not at its default, is not for models of `process`."""
    if process not in strategy(settings.strategy).processes:
        fitting = ", ".join(name for name in STRATEGY_NAMES if process in strategy(name).processes)
        raise UserError(
            f"decode strategy '{settings.strategy}' is not for models of process '{process}'; allowed: {fitting}"
        )
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in MEANINGLESS[process] and value != field.default:
            raise UserError(
                f"decode {field.name} '{value}' means nothing to a model of process '{process}'; leave it out"
            )


def _ranges(settings: DecodeSettings) -> None:
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise refused(name, value, f"{least} or more")
    for name, low in ABOVE.items():
        value = getattr(settings, name)
        if value is not None and not value > low:
            raise refused(name, value, f"above {low}")
    if not 0 < settings.top_p <= 1:
        raise refused("top_p", settings.top_p, "above 0 and at most 1")
    for name in ("threshold", "editing_threshold", "eta", "t_on", "t_off"):
        if (getattr(settings, name) or 0) > 1:
            raise refused(name, getattr(settings, name), "0 to 1")
    for name in ("eps", "alpha_on"):
        if not 0 <= getattr(settings, name) < 1:
            raise refused(name, getattr(settings, name), "0 or more and below 1")
    if settings.t_off >= settings.t_on:
        raise refused("t_off", settings.t_off, f"below t_on {settings.t_on}")
    if settings.batch_mean_quota and (settings.schedule != "timestep" or min(settings.batch_mean_quota) < 1):
        raise refused(
            "batch_mean_quota", list(settings.batch_mean_quota), "lengths of at least 1, under schedule 'timestep'"
        )


def _exclusions(settings: DecodeSettings) -> None:
    if settings.strategy == "first_hitting" and (settings.steps or settings.steps_per_block):
        raise UserError(
            "decode steps is not used by strategy 'first_hitting', which writes one token per step; leave it out"
        )
    if settings.cache in ("prefix", "dual") and settings.guidance:
        raise UserError(
            f"decode cache '{settings.cache}' and guidance '{settings.guidance}' exclude each other; leave one out"
        )
    if settings.steps is not None and settings.steps_per_block is not None:
        raise UserError("decode steps and steps_per_block exclude each other; give one of them")
    if (settings.halt != "none") != (settings.halt_threshold > 0):
        raise UserError(
            f"decode halt '{settings.halt}' and halt_threshold '{settings.halt_threshold}' need each other (nats, or steps)"
        )


def _strategys_own(settings: DecodeSettings) -> None:
    method, defaults = strategy(settings.strategy), {field.name: field.default for field in fields(settings)}
    for name in OWN:
        if getattr(settings, name) != defaults[name] and name not in method.options:
            users = ", ".join(s for s in STRATEGY_NAMES if name in strategy(s).options)
            raise UserError(f"decode {name} is not used by strategy '{settings.strategy}'; it belongs to {users}")
        if defaults[name] is None and name in method.options and getattr(settings, name) is None:
            raise UserError(f"decode strategy '{settings.strategy}' needs {name}=NUMBER")
    if settings.schedule is not None and method.schedule is None and "quota_is" not in method.options:
        raise UserError(
            f"decode schedule is not used by strategy '{settings.strategy}', which decides by itself how much to write"
        )


def refused(name: str, value: object, allowed: str) -> UserError:
    """Returns the error of a value that is not allowed."""
    return UserError(f"decode {name} '{value}' is not allowed; it must be {allowed}")

"""The cells that all scores of a run share: whose they are, when and with which settings."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.digests import SEEDS, setup
from dlm_eval.reports.files.json_values import first_text, nested, number
from dlm_eval.reports.files.row import BETWEEN

# lm-eval takes model_name from the first of these arguments.
_CHECKPOINT_ARGS = ("peft", "delta", "pretrained", "model", "path", "engine")
_SEEDED = ("python", "numpy", "torch", "fewshot")


def run_cells(content: Content, source: str) -> dict[str, Any]:
    """Returns the cells that all rows of the run share."""
    config, block = content.part("config"), content.part("dlm_eval")
    model, environment = nested(block, "settings", "model"), nested(block, "environment")
    dtype = first_text(model.get("dtype"), config.get("model_dtype"))
    return {
        "model": first_text(
            model.get("family"), config.get("model"), content.whole.get("model_source")
        ),
        "checkpoint": first_text(
            model.get("checkpoint"), model.get("pretrained"), named_checkpoint(content)
        ),
        "revision": first_text(
            model.get("revision"), config.get("model_sha"), config.get("model_revision")
        ),
        "device": first_text(
            environment.get("device_name"), model.get("device"), config.get("device")
        ),
        "dtype": (dtype or "").removeprefix("torch.") or None,
        "date": _utc(start_time(content)),
        "seed": _seeds(content),
        "source": source,
        "label": first_text(block.get("label")),
        "setup": setup(content),
        "options": _options(content),
    }


def named_checkpoint(content: Content) -> object:
    """Returns lm-eval's model_name if model_args sets it, else None: it is then random letters."""
    arguments = content.part("config").get("model_args")
    if isinstance(arguments, dict):
        return next((arguments[key] for key in _CHECKPOINT_ARGS if key in arguments), None)
    named = isinstance(arguments, str) and any(f"{key}=" in arguments for key in _CHECKPOINT_ARGS)
    return content.whole.get("model_name") if named else None


def start_time(content: Content) -> float:
    """Returns the start of the run in seconds since 1970; 0.0 if unknown."""
    time = number(content.whole.get("date"))
    return time if time is not None and math.isfinite(time) else 0.0


def _utc(time: float) -> str | None:
    if not time:
        return None
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def _seeds(content: Content) -> str | None:
    """Returns the seeds of a run as one cell: one number if all are equal, else all four."""
    seeds, config = content.part("dlm_eval", "settings", "seeds"), content.part("config")
    if not seeds and any(name in config for name in SEEDS):  # of lm-eval alone
        seeds = {name: config.get(key) for name, key in zip(_SEEDED, SEEDS, strict=True)}
    if not seeds:
        return None
    values = [seeds.get(name) for name in _SEEDED]
    texts = ["none" if value is None else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)


def _options(content: Content) -> str | None:
    """Returns the run's settings for both kinds of tasks."""
    settings = content.part("dlm_eval", "settings")
    given = content.part("config").get("gen_kwargs")
    written = {
        **(given if isinstance(given, dict) else {"gen_kwargs": given} if given else {}),
        **nested(settings, "gen_kwargs"),
        **nested(settings, "decode"),
    }
    estimator = nested(settings, "estimator")
    scored = {
        **({"estimator": estimator.get("name")} if estimator else {}),
        **{name: value for name, value in estimator.items() if name != "name"},
        "stride": settings.get("stride"),
    }
    texts = [_pairs(scored), _pairs(written)]
    return BETWEEN.join(texts) if any(texts) else None


def _pairs(settings: dict[str, Any]) -> str:
    texts = {key: value if isinstance(value, str) else json.dumps(value)
             for key, value in settings.items() if value is not None}  # fmt: skip
    return ",".join(f"{key}={text}" for key, text in texts.items())

"""Our block of a results file: what ran, with which settings, where, at what cost, and how sure the estimator was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dlm_eval
from dlm_eval.harness.environment import environment
from dlm_eval.harness.estimator_spread import estimator_parts
from dlm_eval.harness.identity import multiturn
from dlm_eval.harness.models import Loaded
from dlm_eval.harness.perplexity_error import perplexity_interval, perplexity_stderr
from dlm_eval.harness.results import cost_block, task_settings
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.noise import digest
from dlm_eval.redaction import redact
from dlm_eval.scoring import parse_estimator

SPREADS = ("estimator_stderr", "estimator_interval", "perplexity_stderr", "perplexity_interval")


def block(
    loaded: Loaded,
    settings: RunSettings,
    records: Any,
    errors: Mapping[str, int],
    device: Any,
    seconds: float,
    digests: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns what goes under 'dlm_eval'.

    Args:
        loaded: the model.
        settings: of the run.
        records: what each request cost.
        errors: documents that erred, by task.
        device: cost of the devices in this run, or None.
        seconds: since the run began.
        digests: by task (`identity.digests`).
    """
    seeds = dict(zip(("python", "numpy", "torch", "fewshot"), settings.seeds, strict=True))
    described: dict[str, Any] = {"model": loaded.facts, "seed": settings.noise_seed, "seeds": seeds}
    if loaded.ours:
        described |= {
            "estimator": parse_estimator(settings.estimator).identity(),
            "decode": dict(settings.decode),
            "overlong": settings.overlong,
            "stride": settings.stride,
        }
    described |= {
        "gen_kwargs": dict(settings.gen_kwargs),
        "num_fewshot": settings.num_fewshot,
        "apply_chat_template": settings.apply_chat_template,
        "fewshot_as_multiturn": multiturn(settings),
        "system_instruction": settings.system_instruction,
        "metadata": dict(settings.metadata),
        "fewshot_seed": settings.seeds[3],
    }
    described = redact(described)
    how = task_settings(records)
    return {
        "version": dlm_eval.__version__,
        "fingerprint": digest({name: task["fingerprint"] for name, task in digests.items()}),
        "settings": {**described, "batch_size": settings.batch_size or "auto", "limit": settings.limit},
        "tasks": {name: {**how.get(name, {}), **task} for name, task in digests.items()},
        "cost": cost_block(records, errors, device, seconds),
        "environment": environment(
            str(getattr(loaded.lm, "device", None) or settings.device or "cpu"),
            loaded.lm.pool.devices() if loaded.ours else (),
        ),
    }


def spreads(tasks: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns by task and metric the estimator's part of its standard error, and the sampling error where lm-eval has none; of perplexities the intervals too."""
    found: dict[str, dict[str, dict[str, Any]]] = {key: {} for key in SPREADS}
    for name, task in tasks["tasks"].items():
        first = [s for s in results["samples"][name] if s["filter"] == results["samples"][name][0]["filter"]]
        if task.OUTPUT_TYPE == "generate_until":
            continue
        parts = estimator_parts(task, first)
        own: tuple[dict[str, Any], ...] = (
            {metric: part and part.stderr for metric, part in parts.items()},
            {metric: part.interval for metric, part in parts.items() if part and part.interval},
            perplexity_stderr(task, first),
            perplexity_interval(task, first),
        )
        for key, errors in zip(SPREADS, own, strict=True):
            if errors:
                found[key][name] = errors
    return found


def public(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns model arguments fit for a results file: no secrets, and folders by their name alone."""
    return {k: _folder_name(v) if isinstance(v, str) else v for k, v in redact(arguments).items()}


def _folder_name(text: str) -> str:
    try:
        return Path(text).resolve().name if text and Path(text).exists() else text
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return text

"""A mapping in a task's ``metadata`` that sets up one of our task classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dlm_eval.errors import UserError, unknown_name_error

# What a task's YAML may have under `metadata` besides names of its own; those from block_length on can be given with --metadata too.
METADATA = {
    "version": "version of the task, as in lm-eval; scores of different versions are not compared",
    "benchmark": "what the scorer of a task of d1 compares (metrics/d1.py)",
    "infill": "the hole of an InfillTask (harness/infill.py)",
    "choices": "how a ChoiceTask encodes and scores its choices (harness/choices.py)",
    "blocks": "how a BlockTask cuts texts into blocks (harness/blocks.py)",
    "block_length": "tokens of a block of a BlockTask, in place of its `length`",
    "judge": "model that scores the samples of a SampleTask: hub id, folder or asset:NAME (default: gpt2-large)",
    "judge_device": "device of the judge (default: auto)",
    "n_samples": "samples that are drawn for a task without documents (default: 64)",
    "places": "of a BrierTask: number of places of the passage, or all (default: 1)",
}


def settings_in(
    task: str,
    metadata: Mapping[str, Any] | None,
    name: str,
    needed_by: str,
    keys: Collection[str],
    allowed: Mapping[str, Collection[str]],
) -> dict[str, Any]:
    """Returns ``metadata[name]`` of a task.

    Args:
        needed_by: the task class, for the message.
        keys: that it may have.
        allowed: key -> values that it may have, where they are listed.

    Raises:
        UserError: it is missing, or has an unknown key or value.
    """
    values = (metadata or {}).get(name)
    if not isinstance(values, Mapping):
        raise UserError(f"task '{task}': a {needed_by} needs metadata.{name}, a mapping")
    for key, value in values.items():
        if key not in keys:
            raise unknown_name_error(f"task '{task}': metadata.{name} key", key, keys)
        if key in allowed and value not in allowed[key]:
            raise unknown_name_error(
                f"task '{task}': metadata.{name} {key}", str(value), allowed[key]
            )
    return dict(values)

"""The demo tasks: their packaged documents, and the score of a story's missing sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dlm_eval.metrics.text import rouge
from dlm_eval.packaged import task_configs_dir


def documents(*, demo_file: str, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of a file in the folder of the demo YAMLs.

    Args:
        demo_file: Name of a JSON-lines file in ``task_configs/demo``.
        _: The task's other metadata, with the model's arguments, which lm-eval passes too.
    """
    import datasets

    with open(task_configs_dir() / "demo" / demo_file, encoding="utf-8") as lines:
        return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def story_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns ROUGE-1, ROUGE-2 and ROUGE-L (F-measure times 100) of the written sentence."""
    return rouge(doc["middle"], results[0])

"""The reference pages that are made at build: from the parsers, the schemas, the registries and `__all__`.

`pages()` is what hooks.py adds to the site. A text that is wrong here is mended where it is declared.
"""

from __future__ import annotations

from reference.command_line import cli
from reference.python_api import metrics, python_api
from reference.registries import (
    checkpoints,
    decode_settings,
    estimators,
    presets,
    strategies,
    task_list,
)
from reference.yaml_keys import yaml_keys


def pages() -> dict[str, str]:
    """Returns the generated pages by their place below docs/."""
    return {
        "reference/cli.md": cli(),
        "reference/yaml.md": yaml_keys(),
        "reference/decode-settings.md": decode_settings(),
        "reference/strategies.md": strategies(),
        "reference/estimators.md": estimators(),
        "reference/presets.md": presets(),
        "reference/checkpoints.md": checkpoints(),
        "reference/task-list.md": task_list(),
        "reference/python.md": python_api(),
        "reference/metrics.md": metrics(),
    }

"""The settings and the environment of a run, by dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.redaction import redact
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.digests import VOLATILE
from dlm_eval.reports.files.samples_file import digest

MOST_SETTINGS = 5000  # names of settings that are compared
LONGEST = 200  # characters of a setting's value
_DEEPEST = 6  # dots in a name
# Settings of the run that say how it was carried out, or that the tasks' resolved settings repeat.
_NO_SETTING = ("decode", "gen_kwargs", "batch_size", "num_fewshot", "fewshot_as_multiturn")
# Parts of a task's YAML that are compared. Prompts are compared by their digests.
_OF_YAML = (
    "doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter",
    "fewshot_delimiter", "gen_prefix", "generation_kwargs", "repeats", "metric_list", "filter_list",
    "process_results", "metadata",
)  # fmt: skip
_OF_TASK = ("documents", "kind", "finds_length")  # facts of a task that are no settings
DIGESTS = ("configuration", "fingerprint", "scoring")
_ENVIRONMENT = (
    "dlm_eval", "git", "python", "torch", "transformers", "lm_eval", "datasets", "numpy",
    "device_name", "threads", "system",
)  # fmt: skip
# Facts that differ between commits and do not make another environment.
OF_THE_CODE = ("dlm_eval", "git")


def run_settings(content: Content) -> dict[str, str]:
    """Returns the settings of a whole run."""
    names = ("system_instruction", "fewshot_as_multiturn", "chat_template_sha")
    prompted = {name: content.whole.get(name) or None for name in names}
    block = content.part("dlm_eval", "settings")
    if block:
        kept = {key: value for key, value in block.items() if key not in _NO_SETTING}
        return flat({**prompted, **kept})
    left_out = (*VOLATILE, "bootstrap_iters")
    config = {k: v for k, v in content.part("config").items() if k not in left_out}
    return flat({**redact(config), **prompted})  # dlm_eval writes no secrets; others do


def task_settings(content: Content, task: str) -> dict[str, str]:
    """Returns everything that was set for one task."""
    how, config = content.part("dlm_eval", "tasks", task), content.part("configs", task)
    return flat({
        **{k: v for k, v in how.items() if k not in (*DIGESTS, *_OF_TASK)},
        "num_fewshot": how.get("num_fewshot", content.part("n-shot").get(task)),
        "version": content.part("versions").get(task),
        "yaml": {key: config.get(key) for key in _OF_YAML if config.get(key) is not None},
    })  # fmt: skip


def environment(content: Content) -> dict[str, str]:
    """Returns the versions and the device of a run."""
    found = content.part("dlm_eval", "environment")
    if not found:
        names = {"transformers": "transformers_version", "lm_eval": "lm_eval_version"}
        found = {name: content.whole.get(key) for name, key in names.items()}
    return flat({name: found.get(name) for name in _ENVIRONMENT if found.get(name) is not None})


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Returns nested settings as dotted name -> value as text; null and empty values are left out."""
    found: dict[str, str] = {}
    for key, item in value.items():
        name = f"{above}{key}"
        if isinstance(item, dict) and item:
            if name.count(".") < _DEEPEST:
                found.update(flat(item, f"{name}."))
        elif item is not None and item != [] and item != {} and item != "":
            text = item if isinstance(item, str) else repr(item)
            found[name[:LONGEST]] = text if len(text) <= LONGEST else f"{text[:60]}… {digest(text)}"
        if len(found) > MOST_SETTINGS:
            break
    return found

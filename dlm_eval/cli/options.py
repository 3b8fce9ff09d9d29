"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"required": True, "help": "family or named checkpoint (`dlm-eval ls models`)"},
    "--model_args": {"nargs": "+", "metavar": "k=v,...", "help": "the model's own options"},
    "--decode": {
        "nargs": "+",
        "metavar": "k=v,...",
        "help": "decoding settings (preset=..., steps=..., strategy=..., ...)",
    },
    "--data_dir": {"metavar": "DIR", "help": "datasets from local files before the hub (default: $DLM_EVAL_DATA)"},
    "--include_path": {"metavar": "DIR", "help": "further folder of task YAMLs"},
    "--num_fewshot": {"type": int, "metavar": "N", "help": "few-shot examples of each prompt"},
    "--seed": {"help": "seed of documents, examples and all random draws"},
    "--batch_size": {"metavar": "N|auto", "help": "number of rows in a batch"},
    "--device": {"help": "device of the model"},
    "--devices": {
        "metavar": "0,1|cpu:2|gpu:4|auto",
        "help": "one worker process per device (default: one device, in this process)",
    },
    "--sandbox": {
        "choices": ("auto", "namespaces", "plain"),
        "help": "kind of sandbox for generated code; an error if this machine lacks it (default: auto, the best; see docs/sandbox.md)",
    },
    "--confirm_run_unsafe_code": {"action": "store_true", "help": "tasks may run generated code (in a sandbox)"},
    "--unsandboxed": {
        "action": "store_true",
        "default": None,
        "help": "with --confirm_run_unsafe_code: tasks that the sandbox cannot hold may run generated code, with no protection",
    },
    "--no_resume": {
        "dest": "resume",
        "action": "store_false",
        "help": "compute everything again, and keep no journal",
    },
}


def add_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Adds options of `OPTIONS` to a parser or an argument group."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])

"""`dlm-eval validate TASKS`: loads tasks with their data and builds a prompt of each, without a model."""

from __future__ import annotations

import argparse
from typing import Any

from dlm_eval.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Adds `validate`."""
    from lm_eval._cli.utils import MergeDictAction

    parser = subparsers.add_parser("validate", help="check that tasks, their data and their prompts can be built")
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--include_path", help="further folder of task YAMLs")
    parser.add_argument("--data_dir", help="datasets from local files before the hub")
    parser.add_argument(
        "--metadata", metavar="k=v", nargs="+", action=MergeDictAction, help="metadata for the tasks, as in `run`"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints documents, shots and the first prompt's length of every task."""
    from dlm_eval.harness.contained import contained
    from dlm_eval.harness.decode_options import DecodeOptions, check_requests
    from dlm_eval.harness.guard import Guard
    from dlm_eval.harness.loaded_metrics import check_loaded_metrics
    from dlm_eval.harness.requests import Unbuilt
    from dlm_eval.harness.tasks import load_tasks
    from dlm_eval.output import table

    loaded = load_tasks(args.tasks, include_path=args.include_path, data_dir=args.data_dir, metadata=args.metadata)
    check_requests(DecodeOptions(), loaded["tasks"])
    check_loaded_metrics(loaded["tasks"])
    rows = []
    for name, task in loaded["tasks"].items():
        task.set_config(key="num_fewshot", value=task.config.num_fewshot or 0)
        task.set_fewshot_seed(seed=1234)
        Guard().watch(name, task, lambda: [])
        with contained():
            task.build_all_requests(limit=1, rank=0, world_size=1)
        prompt = task.instances[0].args[0]
        if isinstance(prompt, Unbuilt):
            raise UserError(f"task '{name}', document 0: {prompt}")
        prompt = str(prompt)
        rows.append([name, task.OUTPUT_TYPE, len(task.eval_docs), task.config.num_fewshot, len(prompt)])
    headers = ["task", "kind", "documents", "shots", "characters in the first prompt"]
    print(table(rows, headers, colalign=("left", "left", *["right"] * 3)))
    return 0

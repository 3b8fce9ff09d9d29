"""`dlm-eval validate TASKS`: loads tasks with their data, builds a prompt of each and looks at all targets, without a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm_eval.harness.fewshot import LeftOut


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
    parser.add_argument("--num_fewshot", type=int, help="few-shot examples, as in `run`")
    parser.add_argument("--seed", help="of documents and examples that are drawn, as in `run`")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints documents, shots and the first prompt's length of every task, and what a run would say of its documents."""
    from dlm_eval.harness.contained import contained
    from dlm_eval.harness.decode_options import DecodeOptions, check_requests
    from dlm_eval.harness.fewshot import LeftOut
    from dlm_eval.harness.guard import Guard
    from dlm_eval.harness.loaded_metrics import check_loaded_metrics
    from dlm_eval.harness.requests import Unbuilt
    from dlm_eval.harness.run_settings import parse_seeds
    from dlm_eval.harness.tasks import check_fewshot, load_tasks
    from dlm_eval.output import one_line, table

    seeds = parse_seeds(args.seed)
    loaded = load_tasks(
        args.tasks, include_path=args.include_path, data_dir=args.data_dir, metadata=args.metadata, seeds=seeds
    )
    check_fewshot(loaded, args.num_fewshot)
    check_requests(DecodeOptions(), loaded["tasks"])
    check_loaded_metrics(loaded["tasks"])
    rows, notes = [], []
    for name, task in loaded["tasks"].items():
        own = task.config.num_fewshot
        task.set_config(key="num_fewshot", value=own or (0 if own == 0 else args.num_fewshot or 0))
        if args.num_fewshot is not None and own:
            task.set_config(key="num_fewshot", value=args.num_fewshot)
        task.set_fewshot_seed(seed=seeds[3])
        left = LeftOut(name, task, seeds[3])
        Guard(seeds[3]).watch(name, task, lambda: [])
        with contained():
            notes += [f"{name}: {note}" for note in _notes(task, left if task.config.num_fewshot else None)]
            task.build_all_requests(limit=1, rank=0, world_size=1)
        prompt = task.instances[0].args[0]
        unbuilt = isinstance(prompt, Unbuilt)  # a run stores it as this document's error
        notes += [f"{name}: document 0: {prompt}"] if unbuilt else []
        length = "none" if unbuilt else len(str(prompt))
        rows.append([name, task.OUTPUT_TYPE, len(task.eval_docs), task.config.num_fewshot, length])
    headers = ["task", "kind", "documents", "shots", "characters in the first prompt"]
    print(table(rows, headers, colalign=("left", "left", *["right"] * 3)))
    for note in notes:
        print(one_line(note))
    return 0


def _notes(task: Any, left: LeftOut | None) -> list[str]:
    """Returns what is to be known of a task's documents before they are run, and of its few-shot examples, if it shows any."""
    from dlm_eval.harness import targets
    from dlm_eval.printable import counted

    faults: list[tuple[int, str]] = []
    lists: list[int] = []
    for number, doc in enumerate(task.eval_docs):
        reason = targets.fault(task, doc) or targets.checked(targets.unscorable, task, doc)
        faults += [(number, reason)] if reason else []
        lists += [number] if targets.checked(targets.looks_like_list, task, doc) is True else []
    found = []
    if left is not None and (overlap := left.overlap()):
        found.append(
            f"{counted(overlap, 'document', 'are')} among the few-shot examples and left out of the document's own prompt"
        )
    if left is not None and (unanswered := left.unanswered()):
        found.append(
            f"{counted(len(unanswered), 'few-shot example', 'have')} no right answer to show and will be left out; the first: {unanswered[0]}"
        )
    if lists:
        found.append(
            f"{counted(len(lists), 'target', 'are')} a text in brackets, which lm-eval reads as a list (first: document {lists[0]})"
        )
    if faults:
        number, reason = faults[0]
        found.append(
            f"{counted(len(faults), 'document')} cannot be scored and will be stored as errors; document {number}: {reason}"
        )
    return found

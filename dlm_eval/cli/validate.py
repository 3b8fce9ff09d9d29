"""`dlm-eval validate TASKS`: loads tasks and their data, builds one prompt per task and checks all
targets, without a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_options
from dlm_eval.harness.lm_eval_patches import Pairs
from dlm_eval.output import one_line, table

if TYPE_CHECKING:
    from dlm_eval.harness.fewshot import Examples


def add_parser(subparsers: Any) -> None:
    """Adds `validate`."""
    parser = subparsers.add_parser(
        "validate", help="check that tasks, their data and their prompts can be built"
    )
    parser.add_argument("tasks", nargs="+")
    add_options(parser, "--include_path", "--data_dir", "--num_fewshot", "--seed")
    parser.add_argument(
        "--metadata",
        metavar="k=v",
        nargs="+",
        action=Pairs,
        help="metadata for the tasks, as in `run`",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints documents, shots and first prompt of every task, and errors that a run would have."""
    from dlm_eval.harness import lm_eval_patches as patches
    from dlm_eval.harness.decode_config import DecodeOptions, check_requests
    from dlm_eval.harness.requests import UnbuiltPrompt
    from dlm_eval.harness.requirements import check_loaded_metrics
    from dlm_eval.harness.run_settings import parse_seeds
    from dlm_eval.harness.sample_errors import SampleErrors
    from dlm_eval.harness.tasks import check_fewshot, load_tasks

    seeds = parse_seeds(args.seed)
    loaded = load_tasks(
        args.tasks,
        include_path=args.include_path,
        data_dir=args.data_dir,
        metadata=args.metadata,
        seeds=seeds,
    )
    check_fewshot(loaded, args.num_fewshot)
    check_requests(DecodeOptions(), loaded["tasks"])
    check_loaded_metrics(loaded["tasks"])
    rows, notes, prompts = [], [], []
    for name, task in loaded["tasks"].items():
        own = task.config.num_fewshot
        task.set_config(key="num_fewshot", value=own or (0 if own == 0 else args.num_fewshot or 0))
        if args.num_fewshot is not None and own:
            task.set_config(key="num_fewshot", value=args.num_fewshot)
        task.set_fewshot_seed(seed=seeds[3])
        errors = SampleErrors(seeds[3])
        patches.guard_task(name, task, errors, list)
        examples = errors.examples(name, task)
        with patches.evaluating():
            notes += [
                f"{name}: {note}"
                for note in _notes(task, examples if task.config.num_fewshot else None)
            ]
            task.build_all_requests(limit=1, rank=0, world_size=1)
        request = task.instances[0].args
        unbuilt = isinstance(request[0], UnbuiltPrompt)  # a run stores this as the document's error
        notes += [f"{name}: document 0: {request[0]}"] if unbuilt else []
        prompts += [] if unbuilt else _prompt(name, request)
        length = "none" if unbuilt else len(str(request[0]))
        rows.append([name, task.OUTPUT_TYPE, len(task.eval_docs), task.config.num_fewshot, length])
    headers = ["task", "kind", "documents", "shots", "characters in the first prompt"]
    print(table(rows, headers, colalign=("left", "left", *["right"] * 3)))
    for line in [*map(one_line, notes), *prompts]:
        print(line)
    return 0


def _prompt(name: str, request: Sequence[Any]) -> list[str]:
    """Returns, as lines, the first prompt of a task and the part that the model answers."""
    from dlm_eval.harness.results import plain_argument

    context, *rest = request
    lines = [
        "",
        one_line(f"{name}: the first prompt"),
        *(f"  | {line}" for line in str(context).split("\n")),
    ]
    return [*lines, *(one_line(f"  then {plain_argument(part)!r}") for part in rest)]


def _notes(task: Any, left: Examples | None) -> list[str]:
    """Returns notes about a task's documents, and about its few-shot examples if it shows any."""
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
            f"{counted(overlap, 'document', 'are')} among the few-shot examples and left out of"
            " the document's own prompt"
        )
    if left is not None and (unanswered := left.unanswered()):
        found.append(
            f"{counted(len(unanswered), 'few-shot example', 'have')} no right answer to show and"
            f" will be left out; the first: {unanswered[0]}"
        )
    if lists:
        found.append(
            f"{counted(len(lists), 'target', 'are')} a text in brackets, which lm-eval reads as a"
            f" list (first: document {lists[0]})"
        )
    if faults:
        number, reason = faults[0]
        found.append(
            f"{counted(len(faults), 'document')} cannot be scored and will be stored as errors;"
            f" document {number}: {reason}"
        )
    return found

"""`dlm-eval validate TASKS`: loads tasks or the entries of suites and their data, builds one prompt
per task and checks all targets, without a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_options
from dlm_eval.errors import UserError
from dlm_eval.output import one_line, table
from dlm_eval.patching import replaced
from dlm_eval.printable import counted

if TYPE_CHECKING:
    from dlm_eval.harness.fewshot import Examples


def add_parser(subparsers: Any) -> None:
    """Adds `validate`."""
    parser = subparsers.add_parser(
        "validate", help="check that tasks or suites, their data and their prompts can be built"
    )
    parser.add_argument("tasks", nargs="+", help="tasks, or suites (`dlm-eval ls suites`)")
    add_options(parser, "--include_path", "--data_dir", "--num_fewshot", "--seed", "--metadata")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints documents, shots and first prompt of every task, and errors that a run would have;
    for a suite, a line for each entry. Returns 1 if an entry cannot be loaded or scored.

    Raises:
        UserError: a task cannot be loaded, none of its documents can be scored, or a name is that of a
            Python file.
    """
    from dlm_eval.harness.suites import is_suite_file
    from dlm_eval.packaged import suite_files

    if models := [name for name in args.tasks if name.endswith(".py")]:
        raise UserError(
            f"'{models[0]}' is a Python file, and no task or suite; a model is tested when it is"
            f" loaded: dlm-eval --model {models[0]} --tasks demo_choice --limit 2"
        )
    named = [name for name in args.tasks if name in suite_files() or is_suite_file(name)]
    failed = [_validate_suite(name, args) for name in named]
    if tasks := [name for name in args.tasks if name not in named]:
        _validate_tasks(tasks, args)
    return 1 if any(failed) else 0


def _validate_tasks(names: Sequence[str], args: argparse.Namespace) -> None:
    from dlm_eval.harness.unread_metadata import notes, unread

    found = look(names, args, args.num_fewshot, args.metadata)
    headers = ["task", "kind", "documents", "shots", "characters in the first prompt"]
    rows = [[t.name, t.kind, str(t.documents), str(t.shots), str(t.length)] for t in found]
    print(table(rows, headers, colalign=("left", "left", *["right"] * 3)))
    missed = notes(unread({t.name: t.task for t in found}, args.metadata or ()))
    for line in map(one_line, [*(note for t in found for note in t.notes), *missed]):
        print(line)
    for line in [line for t in found for line in t.prompt]:
        print(line)


def _validate_suite(name: str, args: argparse.Namespace) -> bool:
    """Prints a line for each entry of a suite; returns whether one of them cannot be loaded."""
    from dlm_eval.errors import DlmEvalError
    from dlm_eval.harness.suite_check import problems
    from dlm_eval.harness.suites import load_suite

    suite = load_suite(name)
    rows, notes = [], []
    for entry in suite.entries:
        own = entry.conditions
        settings = [f"{k}={v}" for k, v in own.given().items() if k not in ("decode", "estimator")]
        settings += [f"{key}={value}" for key, value in (own.decode or {}).items()]
        settings += [f"estimator={own.estimator}"] if own.estimator else []
        shots = own.num_fewshot if args.num_fewshot is None else args.num_fewshot
        metadata = {**(own.metadata or {}), **(args.metadata or {})}
        try:
            found = look([entry.task], args, shots, metadata)
            wrong = list(problems(entry, {"tasks": {t.name: t.task for t in found}}))
        except DlmEvalError as error:
            rows.append([entry.entry, entry.task, "cannot be loaded", "", "", ", ".join(settings)])
            notes.append(f"{entry.entry}: {error}")
            continue
        first = found[0]
        documents = sum(t.documents for t in found)
        state = f"{first.kind}: {'; '.join(wrong)}" if wrong else first.kind
        notes += [f"{entry.entry}: {one}" for one in wrong]
        notes += [f"{entry.entry}: {note}" for t in found for note in t.notes]
        rows.append(
            [entry.entry, entry.task, state, str(documents), str(first.length), ", ".join(settings)]
        )
    headers = ["entry", "task", "kind", "documents", "characters in the first prompt", "settings"]
    print(one_line(f"suite {suite.suite} ({suite.digest}): {suite.source}"))
    print(table(rows, headers, colalign=("left", "left", "left", "right", "right", "left")))
    for line in notes:
        print(one_line(line))
    for one in suite.out_of_reach:
        print(one_line(f"out of reach: {one.benchmark}: {one.reason}"))
    return any(row[2] == "cannot be loaded" or ":" in str(row[2]) for row in rows)


@dataclass(frozen=True)
class Looked:
    """What a look at a task gave.

    Attributes:
        name: the task.
        task: lm-eval's object.
        documents: number of documents.
        length: characters of the first prompt, or 'none'.
        notes: what a run would warn of or store as errors.
        prompt: the first prompt and what the model answers, as lines.
    """

    name: str
    task: Any
    documents: int
    length: int | str
    notes: tuple[str, ...]
    prompt: tuple[str, ...]

    @property
    def kind(self) -> str:
        """lm-eval's output type."""
        return str(self.task.OUTPUT_TYPE)

    @property
    def shots(self) -> int:
        """Few-shot examples of a prompt."""
        return int(self.task.config.num_fewshot or 0)


def look(
    names: Sequence[str],
    args: argparse.Namespace,
    num_fewshot: int | None,
    metadata: Mapping[str, Any] | None,
) -> list[Looked]:
    """Returns a look at each task of `names`.

    Raises:
        UserError: a task cannot be loaded, or none of its documents can be scored.
    """
    from dlm_eval.harness.decode_config import DecodeOptions
    from dlm_eval.harness.decode_warnings import check_requests
    from dlm_eval.harness.infill import check_drafts
    from dlm_eval.harness.requirements import check_loaded_metrics
    from dlm_eval.harness.run_settings import parse_seeds
    from dlm_eval.harness.tasks import check_fewshot, load_tasks

    seeds = parse_seeds(args.seed)
    loaded = load_tasks(
        names,
        include_path=args.include_path,
        data_dir=args.data_dir,
        metadata=metadata,
        seeds=seeds,
    )
    check_fewshot(loaded, num_fewshot)
    check_requests(DecodeOptions(), loaded["tasks"])
    check_drafts(DecodeOptions(), loaded["tasks"])
    check_loaded_metrics(loaded["tasks"])
    return [_look(name, task, num_fewshot, seeds[3]) for name, task in loaded["tasks"].items()]


def _look(name: str, task: Any, num_fewshot: int | None, seed: int | None) -> Looked:
    from dlm_eval.harness import lm_eval_patches as patches
    from dlm_eval.harness import sample_errors
    from dlm_eval.harness.requests import UnbuiltPrompt
    from dlm_eval.harness.trial import spread, try_task

    own = task.config.num_fewshot
    task.set_config(key="num_fewshot", value=own or (0 if own == 0 else num_fewshot or 0))
    if num_fewshot is not None and own:
        task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=seed)
    errors, score = sample_errors.SampleErrors(seed), task.process_results
    patches.guard_task(name, task, errors, list)
    examples = errors.examples(name, task)
    asked = spread(len(task.eval_docs))
    with patches.evaluating(), replaced(sample_errors.log, "disabled", True):  # notes say it
        faults = _faults(task)
        notes = [
            f"{name}: {note}"
            for note in _notes(task, faults, examples if task.config.num_fewshot else None)
        ]
        task.build_all_requests(samples=asked, rank=0, world_size=1)
        tried = try_task(name, task, score, errors)
    if len(faults) == len(task.eval_docs):
        whole = f"none of its {counted(len(faults), 'document')} can be scored"
        raise UserError(f"task '{name}': {whole}; document 0: {faults[0][1]}")
    if tried.reason is not None:
        which = f"of {counted(len(asked), 'document')} that were tried"
        raise UserError(f"task '{name}': none {which} can be scored: {tried.reason}")
    notes += [f"{name}: {note}" for note in tried.notes]
    request = task.instances[0].args
    unbuilt = isinstance(request[0], UnbuiltPrompt)  # a run stores this as the document's error
    notes += [f"{name}: document 0: {request[0]}"] if unbuilt else []
    prompt = [] if unbuilt else _prompt(name, request)
    length = "none" if unbuilt else len(str(request[0]))
    return Looked(name, task, len(task.eval_docs), length, tuple(notes), tuple(prompt))


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


def _faults(task: Any) -> list[tuple[int, str]]:
    """Returns the numbers of documents that cannot be scored, with the reasons."""
    from dlm_eval.harness import targets

    found = (
        (number, targets.fault(task, doc) or targets.checked(targets.unscorable, task, doc))
        for number, doc in enumerate(task.eval_docs)
    )
    return [(number, reason) for number, reason in found if reason]


def _notes(task: Any, faults: Sequence[tuple[int, str]], left: Examples | None) -> list[str]:
    """Returns notes about a task's documents, and about its few-shot examples if it shows any."""
    from dlm_eval.harness import targets

    lists = [
        number
        for number, doc in enumerate(task.eval_docs)
        if targets.checked(targets.looks_like_list, task, doc) is True
    ]
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
    return found + _same_prompt(task)


def _same_prompt(task: Any) -> list[str]:
    """Returns a note if `doc_to_text` is a word that is no column: it is then the prompt itself."""
    word = task.config.doc_to_text
    if not isinstance(word, str) or not word.isidentifier() or not len(task.eval_docs):
        return []
    columns = list(task.eval_docs[0])
    if word in columns:
        return []
    near = get_close_matches(word, columns, 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return [f"doc_to_text '{word}' is no column of the data{hint}; every prompt is this word"]

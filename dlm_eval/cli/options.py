"""The options of the commands: ours, and those of lm-eval that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.harness.lm_eval_patches import Pairs

PAIRS = {"nargs": "+", "metavar": "k=v,..."}
OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"required": True, "help": "family or named checkpoint (`dlm-eval ls models`)"},
    "--model_args": {**PAIRS, "help": "the model's own options"},
    "--decode": {**PAIRS, "help": "decoding settings (preset=..., steps=..., strategy=..., ...)"},
    "--estimator": {
        "metavar": "NAME[,k=v]", "help": "likelihood estimator (default: auto; see `dlm-eval ls "
                                         "estimators`)"},
    "--data_dir": {"metavar": "DIR", "help": "datasets from local files before the hub (default: "
                                             "$DLM_EVAL_DATA)"},
    "--include_path": {"metavar": "DIR", "help": "further folder of task YAMLs"},
    "--num_fewshot": {"type": int, "metavar": "N", "help": "few-shot examples of each prompt"},
    "--metadata": {
        **PAIRS, "action": Pairs, "help": "settings that tasks read, as in `run` (judge=..., ...)"},
    "--repeats": {
        "type": int, "metavar": "N",
        "help": "answers to each document of a task that generates text; the metric is their mean, and"
        " METRIC_maj@N and METRIC_pass@k are added"},
    "--vote": {
        "metavar": "fixed,linear,exp=ALPHA",
        "help": "the answers after each step of decoding vote too, with the weight of the step (temporal"
        " self-consistency voting); METRIC_vote@WEIGHT is added"},
    "--seed": {"help": "seed of documents, examples and all random draws"},
    "--batch_size": {"metavar": "N|auto", "help": "number of rows in a batch"},
    "--device": {"help": "device of the model"},
    "--devices": {
        "metavar": "0,1|cpu:2|gpu:4|auto",
        "help": "one worker process per device (default: one device, in this process)"},
    "--engine": {"choices": ("local", "ray"), "help": "where workers run (default: local)"},
    "--ray_address": {
        "metavar": "ADDRESS",
        "help": "Ray cluster for --engine ray (default: $RAY_ADDRESS, else one on this machine)"},
    "--sandbox": {
        "choices": ("auto", "namespaces", "plain"),
        "help": "kind of sandbox for generated code; an error if this machine lacks it"
        " (default: auto, the best; see docs/reference/sandbox.md)"},
    "--confirm_run_unsafe_code": {"action": "store_true", "help": "tasks may run generated code "
                                                                  "(in a sandbox)"},
    "--unsandboxed": {
        "action": "store_true", "default": None,
        "help": "with --confirm_run_unsafe_code: tasks that the sandbox cannot hold may run "
                "generated code,"
        " with no protection"},
    "--overlong": {
        "choices": ("truncate", "error"),
        "help": "requests longer than the model: cut the context from the left (default), or an "
                "error"},
    "--stride": {
        "type": int, "metavar": "N",
        "help": "tokens that each later window of a long text scores (default: as many as fit)"},
    "--report_to": {
        "metavar": "wandb|trackio|tensorboard",
        "help": "send the results there too (comma-separated; --wandb_args and --trackio_args go "
                "with it)"},
    "--suite": {
        "metavar": "NAME|FILE",
        "help": "run what a paper ran, with its settings (`dlm-eval ls suites`, docs/reproduce/suites.md); other"
        " options replace the suite's, and --tasks chooses entries"},
    "--label": {
        "metavar": "TEXT",
        "help": "name of this run on boards (default: what differs between the runs)"},
    "--score_only": {
        "action": "store_true", "default": None,
        "help": "score the answers in the journal of --output_path again; the model is not loaded"},
    "--dry_run": {
        "action": "store_true", "default": None,
        "help": "print what the run would do (requests, forwards, tokens, memory, hours, answers that"
                " are known), and run nothing: no weights are loaded, no file is written"},
    "--shard": {
        "metavar": "I/N",
        "help": "answer one of N parts of the documents (2/8: the second of 8), on this machine;"
        " `dlm-eval merge` makes one result of all"},
    "--resume": {
        "action": "store_true", "default": None,
        "help": "use the answers in the journal of --output_path (default)"},
    "--no_resume": {
        "dest": "resume", "action": "store_false", "help": "compute everything again, and keep "
                                                           "no journal"},
    "--log_trajectories": {
        "action": "store_true", "default": None,
        "help": "samples files also have, for each token, the step at which it was committed and its"
                " confidence (`dlm-eval trace --from`)"},
    "--no_log_samples": {
        "dest": "log_samples", "action": "store_false", "default": argparse.SUPPRESS,
        "help": "save no samples_*.jsonl"},
}  # fmt: skip


def add_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Adds options of `OPTIONS` to a parser or an argument group."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Adds the result files of a command that reads many."""
    parser.add_argument(
        "paths", nargs="+", type=path_of("PATH"), metavar="PATH",
        help="result files, or directories with them",
    )  # fmt: skip


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the result file of a command that reads one run."""
    parser.add_argument(
        "run", type=path_of("RUN"), metavar="RUN", help="result file, or folder (newest run)"
    )


def path_of(name: str, kind: Callable[[str], Any] = Path) -> Callable[[str], Any]:
    """Returns the type of an option that names a file or a folder. An empty name is an error: it
    would be the current folder.
    """

    def path(text: str) -> Any:
        if not text:
            raise UserError(f"{name} is empty; give it a value or leave it out")
        return kind(text)

    return path

"""`dlm-eval run` (the default command): the options of `lm_eval run`, by their names, and ours."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_options
from dlm_eval.errors import RunError, UserError
from dlm_eval.harness.lm_eval_patches import run_parser
from dlm_eval.output import one_line, set_verbosity
from dlm_eval.redaction import learn_words

if TYPE_CHECKING:
    from dlm_eval.harness.run import Finished
    from dlm_eval.harness.run_settings import RunSettings
    from dlm_eval.harness.saving import Reports

# lm-eval options that are not part of RunSettings: handled here, or refused.
TRACKER_ARGS = ("wandb_args", "wandb_config_args", "trackio_args")
REFUSED = {
    "use_cache": "lm-eval's cache key includes neither the model nor the settings; the journal of "
    "--output_path stores finished answers (--no_resume ignores it)",
    "cache_requests": "lm-eval's cache key includes neither the data nor the settings, and "
    "building requests is cheap; leave it out",
    "check_integrity": "it runs lm-eval's own test suite; `dlm-eval validate TASKS` checks tasks",
}
PLAIN = ("command", "config", "main", "func", "show_config", "trust_remote_code", "check_integrity")


def add_parser(subparsers: Any) -> None:
    """Adds `run`: lm-eval's own options with the same names and meanings, and a group of ours."""
    from dlm_eval.harness.run_settings import settings_docs

    parser = run_parser(subparsers)
    docs = settings_docs()
    for action in parser._actions:
        if action.dest in REFUSED:
            action.help = argparse.SUPPRESS
        elif action.dest in docs:
            action.help = docs[action.dest].replace("%", "%%")
    parser.usage = (
        "dlm-eval [run] --model MODEL --tasks TASK[,TASK] [--model_args k=v,...] [options]\n"
        "       dlm-eval [run] --suite SUITE [--model MODEL] [options]"
    )
    parser.epilog = "Docs: README.md and docs/. `dlm-eval ls models|tasks|suites|estimators|strategies` lists what there is."
    ours = parser.add_argument_group("diffusion language models (dlm_eval)")
    add_options(ours, "--suite", "--repeats", "--vote", "--label")
    add_options(
        ours, *("--estimator", "--decode", "--data_dir", "--devices", "--sandbox", "--unsandboxed", "--overlong"),
        *("--stride", "--engine", "--ray_address", "--report_to", "--score_only", "--shard", "--dry_run"),
    )  # fmt: skip
    add_options(ours.add_mutually_exclusive_group(), "--resume", "--no_resume")
    add_options(ours, "--no_log_samples", "--log_trajectories")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Runs the evaluation, prints the table, updates the leaderboard; returns 0, or 1 if samples
    failed.

    Raises:
        RunError: the run is saved, but a metric, the leaderboard or a report is missing.
    """
    from dlm_eval.harness.saving import parse_reports

    given = {
        key: value for key, value in vars(args).items() if value is not None and key not in PLAIN
    }
    values = {**_config_file(getattr(args, "config", None)), **given}
    for name, reason in REFUSED.items():
        if values.pop(name, None) or getattr(args, name, None):
            raise UserError(f"--{name} is not supported: {reason}")
    if values.get("shard") and values.get("report_to"):
        raise UserError(
            "--report_to is for `dlm-eval merge`, which has the results; leave it out with --shard"
        )
    reports = parse_reports(
        values.pop("report_to", None), {name: values.pop(name, None) for name in TRACKER_ARGS}
    )
    set_verbosity(values.get("verbosity"))
    values.setdefault("output_path", "results")
    if values.get("suite") is not None:
        from dlm_eval.cli.suite import run_suite

        if getattr(args, "trust_remote_code", False):
            raise UserError("--trust_remote_code is not possible with --suite; use --model_args")
        return run_suite(values, reports, _ask(), bool(getattr(args, "show_config", False)))
    values.pop("suite", None)
    from dlm_eval.harness.run import run
    from dlm_eval.harness.run_settings import run_settings

    settings = run_settings(values)
    if getattr(args, "trust_remote_code", False):
        settings = _trusting(settings)
    if settings.dry_run:
        return _dry_run(settings)
    if settings.shard is not None:
        return _shard(settings)
    finished = run(settings, ask=_ask())
    return show(finished, settings, reports, bool(getattr(args, "show_config", False)))


def _ask() -> Callable[[list[str]], bool] | None:
    """Returns the function that asks the user, or None outside a terminal."""
    return ask_user if sys.stdin is not None and sys.stdin.isatty() else None


def show(
    finished: Finished, settings: RunSettings, reports: Reports, show_config: bool = False
) -> int:
    """Prints the table of a finished run and sends the reports; returns the exit code.

    Raises:
        RunError: the run is saved, but a metric, the leaderboard or a report is missing.
    """
    from dlm_eval.harness.run_settings import output_directory
    from dlm_eval.reports.run.report import report, say

    lines, missing = report(finished, settings.output_path, show_config)
    missing += reports.send(
        finished.results, settings.log_samples, output_directory(str(settings.output_path))
    )
    say(lines)  # last, since the pipe may be closed
    if missing:
        raise RunError(f"missing: {'; '.join(missing)}; everything else is saved")
    return 1 if finished.errors else 0


def _dry_run(settings: RunSettings) -> int:
    """Prints what the run would do; returns 0, or 1 if requests would fail."""
    from dlm_eval.harness.dry_run import dry_run
    from dlm_eval.reports.run.plan import lines

    # In a terminal the run would ask before it runs generated code; a dry run runs none.
    ask = (lambda _: True) if sys.stdin is not None and sys.stdin.isatty() else None
    plan = dry_run(settings, ask)
    print("\n".join(lines(plan)))
    return 1 if any(task.refused for task in plan.tasks) else 0


def _shard(settings: RunSettings) -> int:
    """Answers the documents of one shard and prints the next steps; returns the exit code."""
    from dlm_eval.harness.shards import run_shard
    from dlm_eval.printable import counted

    done = run_shard(settings)
    failed = f", {counted(done.errors, 'error')}" if done.errors else ""
    print(
        one_line(
            f"shard {done.shard}: {counted(done.documents, 'document')} answered{failed}; in "
            f"{done.folder}"
        )
    )
    print(
        one_line(
            f"when all {done.shard.count} shards are finished: dlm-eval merge {done.folder.parent}"
        )
    )
    return 1 if done.errors else 0


def _trusting(settings: RunSettings) -> RunSettings:
    from dlm_eval.harness.open_model import DENOISERS

    if DENOISERS.has(settings.model):
        raise UserError(
            "--trust_remote_code is not supported: our families run no code of a checkpoint; leave "
            "it out"
        )
    return dataclasses.replace(
        settings, model_args={**settings.model_args, "trust_remote_code": True}
    )


def _config_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    from dlm_eval.yaml_text import parse_yaml, read_yaml_text

    what = f"--config '{path}'"
    text = read_yaml_text(path, what)
    learn_words(text.splitlines())
    values = parse_yaml(text, what)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"--config '{path}' must hold settings as key: value")
    return values


def ask_user(tasks: list[str]) -> bool:
    """Returns whether the user allows these tasks to run generated code."""
    answer = input(
        f"{one_line(', '.join(tasks))}: the model's answers are programs and will be run (in a"
        " sandbox). Run them? [y/N] "
    )
    return answer.strip().lower() in ("y", "yes")

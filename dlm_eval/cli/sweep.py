"""`dlm-eval sweep`: runs a grid of decode settings on one loaded model. The result is quality
against speed, as CSV files and a plot.

    options -> plan (all checks that need no model) -> one run per combination -> points
    (reports/sweep/points.py)
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_options, path_of
from dlm_eval.errors import RunError, UserError, unknown_name_error
from dlm_eval.output import one_line, set_verbosity, table
from dlm_eval.printable import counted

if TYPE_CHECKING:
    from dlm_eval.harness.run import Finished
    from dlm_eval.harness.run_settings import RunSettings
    from dlm_eval.models.denoiser import Denoiser
    from dlm_eval.reports.sweep.curves import Sweep
    from dlm_eval.reports.sweep.points import Point

log = logging.getLogger(__name__)

# Options that have the same meaning in `run` and are passed to it.
PASSED = (
    "model", "model_args", "limit", "num_fewshot", "batch_size", "device", "devices", "seed", "data_dir", "include_path", "apply_chat_template",
    "system_instruction", "metadata", "confirm_run_unsafe_code", "unsandboxed", "sandbox", "output_path", "verbosity", "resume",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Adds `sweep`."""
    text = "run a grid of decode settings on one loaded model; write sweep.csv, aup.csv and sweep.png (docs/guides/sweep.md)"
    parser = subparsers.add_parser(
        "sweep",
        help="quality against speed over a grid of decode settings",
        description=text,
        allow_abbrev=False,
    )
    add_options(parser, "--model", "--model_args")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=[],
        help="tasks that generate text; each is a panel of the plot",
    )
    parser.add_argument(
        "--decode", nargs="+", metavar="k=v1,v2", action="append", required=True,
        help="commas separate alternatives, all combinations are run: steps=8,16,32 "
             "strategy=confidence,random; a second --decode adds another grid",
    )  # fmt: skip
    parser.add_argument(
        "--decode_fixed",
        nargs="+",
        metavar="k=v,...",
        help="decode settings of every point, the baseline included",
    )
    parser.add_argument(
        "--templates", nargs="+", metavar="TASK", default=[],
        help="tasks or YAML files that word one question differently; their scores are averaged",
    )  # fmt: skip
    parser.add_argument(
        "--sweep",
        choices=("templates",),
        help="templates: all of --tasks are wordings of one question",
    )
    parser.add_argument("--metric", help="metric to plot (default: each task's first)")
    parser.add_argument(
        "--y_max",
        type=float,
        metavar="PERCENT",
        help="best accuracy known, for AUP (default: the best of the sweep)",
    )
    parser.add_argument(
        "--no_baseline", action="store_true", help="leave out the one-token-per-step baseline"
    )
    parser.add_argument(
        "-o", "--output_path", type=path_of("--output_path", str), default="results/sweep", metavar="DIR",
        help="for results, journal, tables and plot (default: results/sweep)",
    )  # fmt: skip
    parser.add_argument("--limit", help="documents of each task, or a share of them below 1")
    add_options(
        parser, *("--num_fewshot", "--batch_size", "--device", "--devices", "--seed", "--data_dir", "--include_path"),
        *("--metadata", "--confirm_run_unsafe_code", "--unsandboxed", "--sandbox", "--no_resume"),
    )  # fmt: skip
    parser.add_argument(
        "--apply_chat_template", nargs="?", const=True, default=False, help="as in `run`"
    )
    parser.add_argument("--system_instruction", help="text of the system message")
    parser.add_argument(
        "--verbosity", default="WARNING", help="DEBUG, INFO, WARNING (default), ERROR or CRITICAL"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Runs the grid; returns 0, or 1 if samples failed."""
    from dlm_eval.harness import frontier
    from dlm_eval.harness.open_model import open_model
    from dlm_eval.harness.run import run
    from dlm_eval.harness.run_settings import output_directory
    from dlm_eval.reports.files.write import write_files
    from dlm_eval.reports.run.report import reasons
    from dlm_eval.reports.run.suite_report import frontier_lines
    from dlm_eval.reports.sweep.curves import Sweep
    from dlm_eval.reports.sweep.plot import draw

    set_verbosity(args.verbosity)
    plan = make_plan(vars(args))
    home = output_directory(args.output_path)
    errors = 0
    missing: list[str] = []
    failed: list[str] = []
    with open_model(plan.settings, home) as loaded:
        if loaded.model is None:
            raise UserError(
                f"--model '{args.model}' is not a diffusion language model of dlm_eval; decode"
                " settings mean nothing to it"
            )
        combinations, left_out = plan.fitting(loaded.model)
        for line in left_out:
            print(line, file=sys.stderr)
        sweep = Sweep(loaded.name, y_max=args.y_max)
        samples: list[frontier.Point] = []
        for number, (decode, baseline) in enumerate(combinations):
            words = ", ".join(f"{k}={v}" for k, v in decode.items())
            title = "baseline" if baseline else words
            print(one_line(f"[{number + 1}/{len(combinations)}] {title}"), file=sys.stderr)
            settings = dataclasses.replace(plan.settings, decode={**plan.fixed, **decode})
            finished = run(settings, shared=loaded)
            errors += finished.errors
            missing += finished.missing
            if finished.errors:
                count = counted(finished.errors, "sample")
                failed += [one_line(f"{title}: {count} could not be answered or scored:")]
                failed += [reasons(finished.results)]
            sweep.points.extend(points_of(finished, plan, decode, baseline))
            samples += frontier.points_of(settings.decode, finished.results)
            # Write after each combination, so that tables can be read during the sweep and an
            # interruption loses nothing.
            write_files({home / "sweep.csv": sweep.csv(), home / "aup.csv": sweep.aup_csv()})
    draw(sweep, home / "sweep.png")
    _report(sweep, home)
    if left_out or failed:
        print("\n" + "\n".join([*left_out, *failed]))
    for line in frontier_lines(samples):
        print(line)
    if missing:
        raise RunError(f"missing: {'; '.join(dict.fromkeys(missing))}; everything else is saved")
    return 1 if errors else 0


def _report(sweep: Sweep, home: Path) -> None:
    from dlm_eval.reports.files.row import WITHOUT_LENGTH

    def shown(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for task in sweep.tasks():
        front, baseline = sweep.front(task), sweep.baseline(task)
        rows: list[Sequence[str]] = []
        for p in sweep.of(task):
            score = shown(p.value, 4) + (f" ± {p.stderr:.4f}" if p.stderr is not None else "")
            spread = (
                f"{p.low:.4f} to {p.high:.4f}" if p.low is not None and p.high is not None else ""
            )
            name = p.curve if p.baseline else ", ".join(f"{k}={v}" for k, v in p.decode.items())
            name += f" ({p.approximation})" if p.approximation else ""
            per_sample = shown(p.forwards / p.samples if p.samples else None, 1)
            speed = [per_sample, shown(p.tokens_per_forward, 3), shown(p.tokens_per_second, 1)]
            known = p.computed is not None and p.samples
            speed.append(shown((p.computed or 0) / p.samples if known else None, 0))
            change = p.minus(baseline) if baseline is not None and not p.baseline else None
            paired = (
                f"{change.difference:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
                if change
                else ""
            )
            on_front, found = "*" if p in front else "", "yes" if p.finds_length else ""
            rows.append([name, score, spread, *speed, paired, on_front, found])
        metric = sweep.of(task)[0].metric
        headers = [
            "decode",
            metric,
            "worst to best wording",
            "forwards/sample",
            "tokens/forward",
            "tokens/s",
            "computed/sample",
            "minus baseline (95 %)",
            "Pareto",
            WITHOUT_LENGTH,
        ]
        if all(not row[2] for row in rows):
            rows, headers = [[*row[:2], *row[3:]] for row in rows], [*headers[:2], *headers[3:]]
        if all(not row[-1] for row in rows):
            rows, headers = [row[:-1] for row in rows], headers[:-1]
        print(f"\n{one_line(f'{sweep.model} on {task}')}\n{table(rows, headers)}")
        for curve in sweep.curves(task):
            if curve.aup is not None:
                name = one_line(curve.name or "sweep")
                print(
                    f"AUP {curve.aup:.2f}  {name}  (y_max {curve.y_max:.2f} %, "
                    f"{sweep.y_max_source})"
                )
    print(
        "\n"
        + "\n".join(one_line(str(home / name)) for name in ("sweep.csv", "aup.csv", "sweep.png"))
    )


# -- plan ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep.

    Attributes:
        settings: settings of every run. `tasks` are those that generate text; `decode` is empty.
        grid: combinations of decode settings.
        fixed: decode settings that all combinations share.
        question: task name -> the question that it asks; templates of one question share it.
        metrics: task name -> reported metric.
        baseline: whether to run the baseline.
        arguments: task name -> generation settings of its YAML.
    """

    settings: RunSettings
    grid: list[dict[str, str]]
    fixed: dict[str, str]
    question: dict[str, str]
    metrics: dict[str, str]
    baseline: bool
    arguments: dict[str, Mapping[str, Any]]

    def fitting(self, model: Denoiser) -> tuple[list[tuple[dict[str, Any], bool]], list[str]]:
        """Returns those of `combinations` that `model` can use, and a line about each of the others.

        Raises:
            UserError: it can use no point of the grid.
        """
        fitting, reasons = [], []
        for decode, baseline in self.combinations(model):
            try:
                self._refuse(model, decode, baseline)
                fitting.append((decode, baseline))
            except UserError as error:
                reasons.append(str(error))
        if all(baseline for _, baseline in fitting):
            others = f" (nor {counted(len(reasons) - 1, 'other')})" if len(reasons) > 1 else ""
            raise UserError(reasons[0] + others)
        return fitting, [one_line(f"left out: {reason}") for reason in reasons]

    def _refuse(self, model: Denoiser, decode: Mapping[str, Any], baseline: bool) -> None:
        from dlm_eval.decoding.filling import refuse_settings
        from dlm_eval.harness.decode_config import DecodeOptions

        options = DecodeOptions.of({**self.fixed, **decode}, model)
        for name, arguments in self.arguments.items():
            settings = options.resolved(options.request(arguments, name))
            try:
                refuse_settings(model, settings)
            except UserError as error:
                words = ", ".join(f"{k}={v}" for k, v in decode.items())
                title = "baseline" if baseline else words
                raise UserError(f"{error} (task {name}, {title})") from error

    def combinations(self, model: Denoiser) -> list[tuple[dict[str, Any], bool]]:
        """Returns (decode settings, whether they are the baseline) of each run, baseline first."""
        first: list[tuple[dict[str, Any], bool]] = []
        if self.baseline and model.process == "absorbing":
            first = [({**baseline_settings(self.fixed), **one_token(model)}, True)]
        elif self.baseline:
            log.warning(
                "no baseline: a model of process '%s' has no one-token-per-step decoder",
                model.process,
            )
        return [*first, *((point, False) for point in self.grid)]


def one_token(model: Denoiser) -> dict[str, Any]:
    """Returns the strategy that writes one token per step: the most probable one first, and from left
    to right if `model` reads a text in this order only.
    """
    from dlm_eval.models.denoiser import is_autoregressive, tokens_ahead

    if tokens_ahead(model) is not None:
        return {"strategy": "longest_prefix", "only_first_token_keep": True}
    return {"strategy": "left_to_right" if is_autoregressive(model) else "confidence"}


def baseline_settings(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the baseline's settings for most models: one token per step, the most probable one first.

    Args:
        fixed: settings of every point, which those of the baseline replace.
    """
    from dlm_eval.decoding import GENERAL, setting_names

    of_strategies = {name: None for name in setting_names() if name not in GENERAL}
    plain: dict[str, Any] = {"steps": None, "steps_per_block": None, "schedule": None}
    if "batch_mean_quota" in fixed:  # it belongs to a schedule
        plain["batch_mean_quota"] = ()
    return {**of_strategies, **plain, "strategy": "confidence"}


def make_plan(given: Mapping[str, Any]) -> Plan:
    """Returns the runs of a sweep, after all checks that need no model.

    Raises:
        UserError: a setting, task, metric or combination is wrong.
    """
    from dlm_eval.harness.open_model import kind_of
    from dlm_eval.harness.run_settings import run_settings
    from dlm_eval.models import process_of
    from dlm_eval.reports.sweep.points import grid
    from dlm_eval.settings import parse_pairs
    from dlm_eval.variables import check_variables

    names = [
        name.strip()
        for part in (*given["tasks"], *given["templates"])
        for name in part.split(",")
        if name.strip()
    ]
    settings = run_settings({**{key: given[key] for key in PASSED}, "tasks": names})
    if str(settings.output_path).endswith(".json"):
        raise UserError(
            f"--output_path '{settings.output_path}' is not allowed; a sweep needs a folder"
        )
    kind_of(settings.model)
    check_variables()
    points = grid(given["decode"])
    fixed = parse_pairs(",".join(given["decode_fixed"] or ()), "--decode_fixed")
    twice = [key for key in fixed if any(key in point for point in points)]
    if twice:
        raise UserError(f"--decode_fixed {twice[0]} is in the grid of --decode too; give it once")
    tasks, left = _writing_tasks(settings)
    as_templates = bool(given["templates"]) or given["sweep"] == "templates"
    if as_templates and len(tasks) < 2:
        raise UserError(
            "--templates needs at least two wordings of a question; add tasks to --tasks or "
            "--templates"
        )
    question = {
        name: f"{next(iter(tasks))} in {len(tasks)} wordings" if as_templates else name
        for name in tasks
    }
    if given["y_max"] is not None and len(set(question.values())) > 1:
        raise UserError(
            f"--y_max '{given['y_max']:g}' is of one task, but there are {len(tasks)}; sweep them "
            "one by one"
        )
    if given["y_max"] is not None and not 0 < given["y_max"] <= 100:
        raise UserError(
            f"--y_max '{given['y_max']:g}' is not allowed; it must be above 0 and at most 100 "
            "(percent)"
        )
    metrics = {name: _metric(task, name, given["metric"]) for name, task in tasks.items()}
    for point in points:
        title = ", ".join(f"{k}={v}" for k, v in point.items())
        _check({**fixed, **point}, tasks, settings, title)
    process = process_of(settings.model, settings.model_args)
    if not given["no_baseline"] and process in (None, "absorbing"):
        _check({**fixed, **baseline_settings(fixed)}, tasks, settings, "baseline")
    settings = dataclasses.replace(settings, tasks=_specs(settings, tasks, left))
    arguments = {name: task.config.generation_kwargs or {} for name, task in tasks.items()}
    return Plan(settings, points, fixed, question, metrics, not given["no_baseline"], arguments)


def _writing_tasks(settings: RunSettings) -> tuple[dict[str, Any], list[str]]:
    """Returns the tasks that generate text, by name, and the names of the other tasks, which do not
    depend on decode settings.
    """
    from dlm_eval.harness.checks import refuse_unsandboxed, start_sandbox
    from dlm_eval.harness.code_tasks import ways
    from dlm_eval.harness.run import tasks_of
    from dlm_eval.harness.tasks import check_fewshot

    loaded = tasks_of(settings)
    check_fewshot(loaded, settings.num_fewshot)
    found = ways(loaded["tasks"])
    refuse_unsandboxed(found, settings)
    if settings.confirm_run_unsafe_code:
        start_sandbox(loaded, settings)
    unsafe = [] if settings.confirm_run_unsafe_code else list(found)
    writing = {
        name: task for name, task in loaded["tasks"].items() if task.OUTPUT_TYPE == "generate_until"
    }
    kept = {name: task for name, task in writing.items() if name not in unsafe}
    left = [name for name in loaded["tasks"] if name not in kept]
    if not kept:
        reason = (
            "run generated code; add --confirm_run_unsafe_code to allow it"
            if set(left) == set(unsafe)
            else "generate no text, so decode settings have no effect on them"
        )
        raise UserError(f"--tasks {', '.join(left)} {reason}")
    if left:
        log.warning(
            "skipped: %s (they generate no text, or would run generated code)", ", ".join(left)
        )
    return kept, left


def _specs(settings: RunSettings, kept: Mapping[str, Any], left: Sequence[str]) -> tuple[str, ...]:
    """Returns task names for `run`.

    The user's names are returned if they name only kept tasks, since a YAML file may have no other
    name. Otherwise the names of the kept tasks are returned.
    """
    from dlm_eval.harness.run import tasks_of

    if not left:
        return settings.tasks
    specs: list[str] = []
    for spec in settings.tasks:
        names = tasks_of(settings, [spec])["tasks"]
        specs += (
            [spec]
            if all(name in kept for name in names)
            else [name for name in names if name in kept]
        )
    return tuple(dict.fromkeys(specs))


def _metric(task: Any, name: str, wanted: str | None) -> str:
    names = [str(entry["metric"]) for entry in task.config.metric_list or ()]
    if wanted is not None and wanted not in names:
        raise unknown_name_error(f"--metric of task {name}", wanted, names)
    return wanted or names[0]


def _check(
    decode: Mapping[str, Any], tasks: Mapping[str, Any], run: RunSettings, title: str
) -> None:
    """Raises UserError if settings do not fit the model's process or a task's own length."""
    from dlm_eval.harness.decode_config import DecodeOptions
    from dlm_eval.harness.requests import HOLE
    from dlm_eval.models import process_of

    process = process_of(run.model, run.model_args)
    # 0: no length is set.
    options = DecodeOptions.before_loading(decode, run.model, run.model_args, 0)
    if decode.get("preset") == "authors":
        return  # they depend on the checkpoint
    for name, task in tasks.items():
        hole = getattr(task, "infill", None)
        named = hole.any_hole() if hole is not None else None
        ask = options.request(
            {**(task.config.generation_kwargs or {}), **({HOLE: named} if named else {})}, name
        )
        try:
            settings = options.settings(ask, (ask.hole.length.tokens or 0) if hole is None else 0)
            if process is not None:
                settings.check_process(process)
        except UserError as error:
            raise UserError(f"{error} (task {name}, {title})") from error


def points_of(
    finished: Finished, plan: Plan, decode: Mapping[str, Any], baseline: bool
) -> list[Point]:
    """Returns the points of one run, one per task."""
    from dlm_eval.reports.sweep.points import Point

    results, several = finished.results, len(set(plan.question.values())) < len(plan.question)
    found = []
    for name, question in plan.question.items():
        scores, cost, metric = (
            results["results"][name],
            results["dlm_eval"]["cost"].get(name, {}),
            plan.metrics[name],
        )
        described = results["dlm_eval"]["tasks"].get(name, {})
        filters = [key.partition(",")[2] for key in scores if key.partition(",")[0] == metric]
        chosen = filters[0] if filters else ""
        found.append(
            Point(
                task=question,
                template=name if several else "",
                decode={} if baseline else {key: str(value) for key, value in decode.items()},
                baseline=baseline,
                metric=metric,
                metric_filter=chosen,
                value=_number(scores.get(f"{metric},{chosen}")),
                stderr=_number(scores.get(f"{metric}_stderr,{chosen}")),
                samples=cost.get("samples", 0),
                errors=cost.get("errors", 0),
                forwards=cost.get("forwards", 0),
                tokens=cost.get("tokens", 0),
                seconds=cost.get("seconds", 0.0),
                computed=cost.get("computed_tokens"),
                finds_length=bool(described.get("finds_length")),
                approximation=str(described.get("approximation") or ""),
                values=_values(results, name, metric, chosen),
                better=bool(results.get("higher_is_better", {}).get(name, {}).get(metric, True)),
                results=finished.file.name if finished.file else "",
            )
        )
    return found


def _values(
    results: Mapping[str, Any], task: str, metric: str, filter_name: str
) -> dict[str, float]:
    """Returns document -> its value of a metric, if the score is their mean; else nothing."""
    found = {
        str(sample["doc_id"]): float(sample[metric])
        for sample in results.get("samples", {}).get(task, ())
        if sample.get("filter", "none") == filter_name
        and isinstance(sample.get(metric), (bool, int, float))
        and "error" not in sample
    }
    score = _number(results["results"][task].get(f"{metric},{filter_name}"))
    mean = math.fsum(found.values()) / len(found) if found else math.nan
    return found if score is not None and math.isclose(mean, score, abs_tol=1e-9) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value == value else None

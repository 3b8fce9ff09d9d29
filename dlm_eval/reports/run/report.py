"""The report at the end of a run: metrics with errors and costs, reasons of failed samples, and
paths of files.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import DlmEvalError, RunError
from dlm_eval.harness.metric_errors import error_of
from dlm_eval.harness.results import failed_samples, json_value, metrics_of
from dlm_eval.harness.run_settings import output_directory
from dlm_eval.output import one_line, table
from dlm_eval.printable import MARKDOWN, counted, decimals
from dlm_eval.reports.board.leaderboard import leaderboard, write
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.row import WITHOUT_LENGTH
from dlm_eval.reports.files.scores import approximation, finds_length, outside_sandbox
from dlm_eval.sandbox import UNSANDBOXED
from dlm_eval.signals import discard_output

if TYPE_CHECKING:
    from dlm_eval.harness.run import Finished

HEADERS = (
    "task", "metric", "value", "stderr", "MC stderr", "log-probs", "n", "shots", "errors", "forwards/sample", "tokens/s",
)  # fmt: skip
# Why a metric has no value, by the key of the results that lists such metrics.
UNMET = {
    "unmet_aggregates": "none of its tasks has it",
    "unreturned_metrics": "no document returned it",
}
# lm-eval's units of normalised log-likelihoods.
NORMALISED = {"acc_norm": "character", "acc_bytes": "byte"}


def render(results: Mapping[str, Any]) -> str:
    """Returns the table as GitHub markdown, with a row for every group below the tasks."""
    named = [name for name in results["results"] if _has_row(name, results)]
    content = Content(dict(results))
    rows = [
        [MARKDOWN.sub(r"\\\g<0>", cell) for cell in row]
        for name in named
        for row in _rows(name, results, content)
    ]
    align = ["left", "left", *["right"] * 3, "left", *["right"] * 5, "left"]
    headers = [*HEADERS, WITHOUT_LENGTH]
    if not any(row[-1] for row in rows):
        rows, headers, align = [row[:-1] for row in rows], headers[:-1], align[:-1]
    return table(rows, headers, tablefmt="github", colalign=align)


def _has_row(name: str, results: Mapping[str, Any]) -> bool:
    """Returns whether a task or group has a row of its own; a group without aggregates has none."""
    return bool(
        metrics_of(results["results"][name])
        or _unmet(name, results)
        or name not in results.get("group_subtasks", {})
    )


def _unmet(name: str, results: Mapping[str, Any]) -> list[str]:
    """Returns the metrics of a task or group that have no value, each with the reason."""
    ours = results.get("dlm_eval", {})
    return [
        f"{metric} ({reason})"
        for key, reason in UNMET.items()
        for metric in ours.get(key, {}).get(name, ())
    ]


def _rows(name: str, results: Mapping[str, Any], content: Content) -> Iterator[list[str]]:
    scores = results["results"][name]
    cost = results.get("dlm_eval", {}).get("cost", {}).get(name, {})
    described = results.get("dlm_eval", {}).get("tasks", {}).get(name, {})
    samples, seconds = cost.get("samples") or 0, cost.get("seconds") or 0
    counted = [
        described.get("logprob_kind", ""),
        str(results["n-samples"].get(name, {}).get("effective", "")),
        str(described.get("num_fewshot", "")),
        str(cost.get("errors", 0) or ""),
        f"{cost['forwards'] / samples:.1f}" if samples and "forwards" in cost else "",
        f"{cost['tokens'] / seconds:.0f}" if seconds else "",
        "yes" if finds_length(content, name) else "",
    ]
    found = metrics_of(scores)
    for place, ((metric, filter_name), value) in enumerate(found.items()):
        shown = metric if filter_name == "none" else f"{metric} ({filter_name})"
        shown += f" (per {NORMALISED[metric]})" if metric in NORMALISED else ""
        sampling = scores.get(f"{metric}_stderr,{filter_name}")
        if not isinstance(sampling, (int, float)):
            sampling = error_of(results, "perplexity_stderr", name, metric)
        unsandboxed = UNSANDBOXED if outside_sandbox(content, name) else ""
        notes = [unsandboxed, approximation(content, name)]
        shown_name = " ".join([name, *(f"({note})" for note in notes if note)])
        first = [shown_name, *counted] if place == 0 else [""] * 8
        yield [
            first[0],
            shown,
            _number(value),
            _interval(results, "perplexity_interval", name, metric) or _number(sampling),
            _part(results, name, metric),
            *first[1:],
        ]
    unmet = _unmet(name, results)
    for place, metric in enumerate(unmet, len(found)):
        first = [name, *counted] if place == 0 else [""] * 8
        yield [first[0], metric, "", "", "", *first[1:]]
    if not found and not unmet and name not in results.get("group_subtasks", {}):
        why = "(no sample could be scored)" if cost.get("errors") else "(answers only)"
        yield [name, why, "", "", "", *counted]


def _part(results: Mapping[str, Any], name: str, metric: str) -> str:
    """Returns the estimator's part of a metric's error; "-" if it is unknown."""
    parts = results.get("dlm_eval", {}).get("estimator_stderr", {}).get(name, {})
    if metric in parts and parts[metric] is None:
        return "-"
    return _interval(results, "estimator_interval", name, metric) or _number(parts.get(metric))


def _bounds(results: Mapping[str, Any]) -> list[str]:
    """Returns, for each perplexity that is a bound, what is known of the model's own, as lines."""
    found = results["dlm_eval"].get("perplexity_bounds", {})
    return [
        one_line(
            f"{name}: {metric} of the model's own sampler (random orders): {_between(low, high)}"
            " (95 %, docs/reference/likelihood-texts.md)"
        )
        for name, own in found.items()
        for metric, (low, high) in own.items()
    ]


def _between(low: float, high: float | None) -> str:
    if high is None:
        return f"at least {_number(low)}"
    if low == high:
        return _number(low)
    return f"{_number(low)} to {_number(high)}" if low else f"at most {_number(high)}"


def _interval(results: Mapping[str, Any], kind: str, name: str, metric: str) -> str:
    """Returns the 95 % interval of a perplexity as text; "" for other metrics."""
    ends = error_of(results, kind, name, metric)
    return f"{_number(ends[0])} to {_number(ends[1])}" if ends else ""


def _number(value: Any) -> str:
    """Returns a number as text; other values are shortened, so that no metric is blank."""
    if isinstance(value, (int, float)):
        return decimals(value)
    return "" if value is None else textwrap.shorten(str(value), 24, placeholder="...")


def report(
    finished: Finished, output_path: str | None, show_config: bool
) -> tuple[list[str], list[str]]:
    """Updates the leaderboard; returns the lines to print, and the parts of output that failed."""
    results, lines, missing = finished.results, [], list(finished.missing)
    if show_config:
        lines.append(
            json.dumps(json_value({k: v for k, v in results.items() if k != "samples"}), indent=2)
        )
    total = results["dlm_eval"]["cost"]["total"]
    took = f"{total['wall_seconds']:.1f} s, fingerprint {results['dlm_eval']['fingerprint'][:12]}"
    try:
        lines += [render(results), "", *_bounds(results)]
    except (ValueError, TypeError, OverflowError) as error:  # a task can return any value
        missing.append(f"the table ({type(error).__name__}: {error})")
    lines.append(took)
    if finished.errors:
        lines.append(
            f"{counted(finished.errors, 'sample')} could not be answered or "
            f"scored:\n{reasons(results)}"
        )
    if cut := sum(
        cost.get("truncated", 0)
        for name, cost in results["dlm_eval"]["cost"].items()
        if name != "total"
    ):
        lines.append(
            f"{counted(cut, 'prompt')} did not fit the model: cut from the left (--overlong error "
            "refuses them)"
        )
    if finished.file is not None and output_path is not None:
        home = output_directory(output_path)
        lines.append(f"results: {one_line(str(finished.file))}")
        if any(
            "," in key and not key.startswith("bypass")
            for scores in results["results"].values()
            for key in scores
        ):
            try:
                lines.append(f"board:   {one_line(str(_update_board(home)))}")
            except DlmEvalError as error:
                missing.append(f"the board ({error})")
    return lines, missing


def _update_board(home: Path) -> Path:
    board = home / "leaderboard.csv"
    write(leaderboard([home]), board)
    return board


def say(lines: list[str]) -> None:
    """Prints the lines of a finished run's report.

    Raises:
        RunError: the lines could not be written. A closed pipe is not an error.
    """
    try:
        print("\n".join(lines), flush=True)
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            raise RunError(
                f"the table could not be printed ({error.strerror}); the results are saved"
            ) from error


def reasons(results: Mapping[str, Any], most: int = 3) -> str:
    """Returns the most frequent reasons of failed samples, one per line."""
    counts = Counter(one_line(reason) for reason in failed_samples(results).values())
    lines = [f"  {count:5} {reason}" for reason, count in counts.most_common(most)]
    return "\n".join(
        [*lines, *(["        others: see the samples files"] if len(counts) > most else [])]
    )

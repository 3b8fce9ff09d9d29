"""Several answers per document (`--repeats N`), each filtered and scored by itself.

A metric then is the mean over the answers of a document, so its standard error is that over
documents as clusters. Two kinds of metrics are added to each:

* `METRIC_maj@N`: the score of the most frequent filtered answer (self-consistency, Wang et al.
  2022, arXiv 2203.11171). Programs have none.
* `METRIC_pass@k`, for metrics of 0 and 1: the unbiased probability that one of k answers is right
  (Chen et al. 2021, arXiv 2107.03374), for k = 2, 4, ... and N. That of `pass@1` is `pass@k`.

A metric that is no mean over documents (BLEU of a corpus) is computed for each answer number over
all documents; its value is the mean of these.

Upstream, a task's default filter `take_first` drops all answers but the first. A task whose YAML
has `repeats` and filters of its own scores its answers together; it is left as it is.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from lm_eval.api.metrics import mean, nanmean

from dlm_eval.decoding.samples import hit_at_k, vote
from dlm_eval.errors import UserError
from dlm_eval.harness.code_tasks import way_of

log = logging.getLogger(__name__)
MEANS = (mean, nanmean)
ADDED = re.compile(r"(?P<base>.+)_(maj|pass)@\d+")


class Answers(tuple[Any, ...]):
    """The filtered answers to one request."""

    __slots__ = ()


class Repeated(list[Any]):
    """The values of a metric that is no mean over documents, one for each answer."""


def repeat_answers(tasks: Mapping[str, Any], repeats: int | None) -> None:
    """Makes every task that generates text answer each document `repeats` times.

    Raises:
        UserError: a task scores another number of answers together.
    """
    writing = {name: task for name, task in tasks.items() if task.OUTPUT_TYPE == "generate_until"}
    if repeats is None:
        for name, task in writing.items():
            if task.config.repeats > 1 and not _combines(task):
                log.warning(
                    "task '%s' scores only the first of its %d answers; --repeats %d scores all",
                    name, task.config.repeats, task.config.repeats,
                )  # fmt: skip
        return
    if repeats > 1 and (scoring := [name for name in tasks if name not in writing]):
        shown = ", ".join(scoring[:3]) + (f" and {len(scoring) - 3} more" if scoring[3:] else "")
        log.warning("--repeats has no effect on likelihoods (%s)", shown)
    for name, task in writing.items():
        if not _combines(task):
            task.set_config(key="repeats", value=repeats)
            if repeats > 1:
                _score_each(name, task, repeats)
        elif task.config.repeats != repeats:
            raise UserError(
                f"--repeats {repeats}: task '{name}' draws {task.config.repeats} answers per "
                "document itself and scores them together; leave out --repeats"
            )


def _combines(task: Any) -> bool:
    """Returns whether a task has several answers and filters of its own for them."""
    return task.config.repeats > 1 and task.config.filter_list is not None


def scores_each(task: Any) -> bool:
    """Returns whether every answer of a task is filtered and scored by itself."""
    return any("apply" in vars(each) for each in vars(task).get("_filters", ()))


def _score_each(name: str, task: Any, repeats: int) -> None:
    task._filters = [_each(ensemble) for ensemble in task._filters]  # a task object may run again
    votes = way_of(task) is None and task.config.doc_to_target not in (None, "")
    scoring = EachAnswer(task, votes)
    task.process_results = scoring.process_results
    task.aggregation, task.higher_is_better = scoring.aggregation, scoring.higher_is_better
    if others := scoring.no_means():
        log.warning(
            "task '%s': %s is no mean over documents; with --repeats it is the mean over %d corpora,"
            " one of each answer number, and has no standard error",
            name, ", ".join(others), repeats,
        )  # fmt: skip


def _each(ensemble: Any) -> Any:
    """Returns a copy of a filter pipeline that filters each answer as if it were the only one."""
    each = copy(ensemble)
    each.apply = filtered_each(ensemble.name, ensemble.apply)
    return each


def filtered_each(
    name: str, apply: Callable[[Sequence[Any]], None]
) -> Callable[[Sequence[Any]], None]:
    """Wraps a filter pipeline's `apply`: each answer is filtered as if it were the only one."""

    def apply_to_each(instances: Sequence[Any]) -> None:
        singles = [[_with(instance, [text]) for text in instance.resps] for instance in instances]
        apply([single for own in singles for single in own])
        for instance, own in zip(instances, singles, strict=True):
            instance.filtered_resps[name] = Answers(one.filtered_resps[name] for one in own)

    return apply_to_each


def _with(instance: Any, resps: list[Any]) -> Any:
    """Returns a copy of a request with these answers."""
    single = copy(instance)
    single.resps, single.filtered_resps = resps, {}
    return single


class EachAnswer:
    """The scoring of a task, answer by answer.

    Args:
        task: lm-eval's task, before its scoring is replaced.
        votes: whether answers can be equal and wrong, so that a majority means something.
    """

    def __init__(self, task: Any, votes: bool) -> None:
        self._score = task.process_results
        self._aggregation, self._better = task.aggregation, task.higher_is_better
        self._votes = votes
        self._added: dict[str, str] = {}  # metric that was added -> the metric it is of

    def no_means(self) -> list[str]:
        """Returns the metrics that are no means over documents."""
        return [name for name, own in self._aggregation().items() if own not in MEANS]

    def process_results(self, doc: Any, results: Sequence[Any]) -> dict[str, Any]:
        """Returns the metrics of a document from all its answers."""
        if not all(isinstance(answers, Answers) for answers in results):
            return dict(self._score(doc, results))  # a filter has failed
        count = len(results[0])
        scores = [
            dict(self._score(doc, [answers[number] for answers in results]))
            for number in range(count)
        ]
        aggregation = self._aggregation()
        found: dict[str, Any] = {}
        for metric in dict.fromkeys(name for one in scores for name in one):
            own = [one[metric] for one in scores if metric in one]
            if aggregation.get(metric, mean) not in MEANS:
                found[metric] = Repeated(own)
                continue
            found[metric] = float(aggregation.get(metric, mean)(own))
            if len(own) == count and all(value in (0, 1) for value in own):
                for k in powers(count):
                    found[self._add(pass_name(metric, k), metric)] = hit_at_k(own, k)
        if self._votes:
            keys = [json.dumps(number, default=str) for number in zip(*results, strict=True)]
            for metric, value in scores[keys.index(vote(keys))].items():
                found[self._add(f"{metric}_maj@{count}", metric)] = value
        return found

    def _add(self, name: str, metric: str) -> str:
        self._added[name] = metric
        return name

    def aggregation(self) -> dict[str, Any]:
        """Returns metric -> its aggregation, also of the added ones."""
        own = self._aggregation()
        found = {m: a if a in MEANS else mean_over_answers(a) for m, a in own.items()}
        for name, metric in self._added.items():
            voted = name.startswith(f"{metric}_maj@")
            found[name] = own.get(metric, mean) if voted else mean
        return found

    def higher_is_better(self) -> dict[str, bool]:
        """Returns metric -> whether more is better, also of the added ones."""
        own: dict[str, bool] = self._better()
        return own | {name: own[m] for name, m in self._added.items() if m in own}


def powers(count: int) -> list[int]:
    """Returns the k of pass@k for `count` answers: 2, 4, ... and `count`."""
    return sorted({*(2**i for i in range(1, count.bit_length()) if 2**i < count), count})


def pass_name(metric: str, k: int) -> str:
    """Returns the name of pass@k of a metric of 0 and 1."""
    return f"pass@{k}" if metric == "pass@1" else f"{metric}_pass@{k}"


def mean_over_answers(aggregate: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """Returns the aggregation of `Repeated` values: the mean over answer numbers."""

    def aggregated(items: Sequence[Sequence[Any]]) -> Any:
        count = max(map(len, items))
        return _average(
            [
                aggregate([item[number] for item in items if number < len(item)])
                for number in range(count)
            ]
        )

    return aggregated


def _average(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {key: _average([value[key] for value in values]) for key in values[0]}
    return sum(values) / len(values)


# -- a metric is of 0 and 1 if it is so for all documents ------------------------------------------


def without_fractions(whole: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps lm-eval's aggregation of a task: drops pass@k of metrics that are not always 0 or 1."""

    def aggregated(task: Any, raw: Mapping[tuple[str, str], Any], *rest: Any) -> Any:
        kept = {key: values for key, values in raw.items() if not _lacks(key, raw)}
        return whole(task, kept, *rest)

    return aggregated


def _lacks(key: tuple[str, str], raw: Mapping[tuple[str, str], Sequence[Any]]) -> bool:
    """Returns whether an added metric has fewer documents than the metric that it is of."""
    match = ADDED.fullmatch(key[0])
    base = (match["base"], key[1]) if match else ("pass@1", key[1])
    added = match is not None or re.fullmatch(r"pass@\d+", key[0]) is not None
    return added and base in raw and len(raw[key]) < len(raw[base])


def drop_from_samples(results: Mapping[str, Any]) -> None:
    """Removes from logged samples the added metrics that the results do not have."""
    for task, samples in (results.get("samples") or {}).items():
        known = results["results"].get(task, {})
        for sample in samples:
            gone = [
                metric
                for metric in sample["metrics"]
                if ADDED.fullmatch(metric) and f"{metric},{sample['filter']}" not in known
            ]
            for metric in gone:
                sample["metrics"].remove(metric)
                del sample[metric]

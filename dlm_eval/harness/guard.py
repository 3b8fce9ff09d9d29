"""One bad sample must not cost a run: errors in answering or scoring are kept with their reason, and the rest goes on.

lm-eval aborts everything when one document's prompt cannot be built or its `process_results` raises, and knows no "this sample has no answer". The guard
stands in front of what each task does with a document: one that erred contributes no metric (it is neither right nor wrong) and its reason is kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lm_eval.api.instance import Instance

from dlm_eval.errors import DlmEvalError, SampleError
from dlm_eval.harness import targets
from dlm_eval.harness.bounded import FILTER_SECONDS, PROMPT_SECONDS, SCORE_SECONDS, TooSlow, bounded
from dlm_eval.harness.fewshot import LeftOut
from dlm_eval.harness.records import Record, doc_key
from dlm_eval.harness.requests import Unbuilt
from dlm_eval.output import one_line
from dlm_eval.printable import is_text
from dlm_eval.stopping import of_the_user

MOST_SLOW = 10  # answers on which a filter may be ended by its time limit before the rest err at once
log = logging.getLogger(__name__)
# what a request of each type has behind its prompt; a model of lm-eval's own, which cannot know `Unbuilt`, answers it with little work
REST: dict[str, tuple[Any, ...]] = {
    "loglikelihood": (" ",),
    "loglikelihood_rolling": (),
    "generate_until": ({"until": ["\n"], "max_gen_toks": 1},),
}


class Failed(Exception):
    """What a task's own code raised; the text says what it was."""


@contextmanager
def task_code() -> Iterator[None]:
    """Turns whatever a task's code raises in the block into an Exception: `exit(3)` in a scorer must not end the run.

    Raises:
        Failed: it raised SystemExit, KeyboardInterrupt (not the user's) or the like.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if of_the_user(error):
            raise
        raise Failed(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """Returns an exception as the reason of a sample: its type and text on one line."""
    if isinstance(error, Failed):
        return str(error)
    try:
        text = str(error)
    except Exception:  # an exception of a task's own may have any __str__
        text = ""
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)


class Guard:
    """The errors of a run, by task and document, and what else its result must say of a task's documents.

    Args:
        fewshot_seed: of the examples that are drawn in place of those left out.
    """

    def __init__(self, fewshot_seed: int | None = None) -> None:
        self.errors: dict[tuple[str, str], str] = {}
        self.fewshot_seed = fewshot_seed
        self._left_out: dict[str, LeftOut] = {}
        self._lists: Counter[str] = Counter()
        self.missing: list[str] = []  # metrics that could not be had, and why
        self._scoring = False
        self._scored: set[str] = set()  # tasks that have come so far

    def watch(self, name: str, task: Any, records: Callable[[], list[Record]]) -> None:
        """Puts the guard before all that `task` does with a document; `records` gives the model's records once requests are answered."""
        self._left_out[name] = LeftOut(name, task, self.fewshot_seed)
        self._left_out[name].watch()
        self._watch_building(name, task)
        self._watch_filters(name, task)
        self._watch_scoring(name, task, records)
        for method, otherwise in (("higher_is_better", {}), ("dump_config", {"task": name})):
            setattr(task, method, self._fact(f"{name}: {method}", getattr(task, method), otherwise))

    def _fact(self, what: str, ask: Callable[[], Any], otherwise: dict[str, Any]) -> Callable[[], Any]:
        """Returns what asks a task about itself behind the last answer; if it raises, the rest must not be lost."""

        def asked() -> Any:
            with self.adding(what):
                return ask()
            return otherwise

        return asked

    def _watch_building(self, name: str, task: Any) -> None:
        """Puts the guard before what makes requests of a document: one without a prompt becomes a request that says why."""
        prefix, prompt, construct, target = (
            task.doc_to_prefix,
            task.fewshot_context,
            task.construct_requests,
            task.doc_to_target,
        )

        def fewshot_context(doc: Any, *args: Any, **options: Any) -> Any:
            begun = options.get("gen_prefix")
            return begun if isinstance(begun, Unbuilt) else _built(prompt, doc, *args, **options)

        def construct_requests(doc: Any, ctx: Any, **options: Any) -> Any:
            found = (
                ctx if isinstance(ctx, Unbuilt) else _built(self._requests, name, task, construct, doc, ctx, options)
            )
            if isinstance(found, list) and not found:
                found = Unbuilt("the prompt could not be built: there is no choice, so nothing to ask")
            if not isinstance(found, Unbuilt):
                return found
            log.warning("%s: %s", name, found)
            self.errors[name, doc_key(doc)] = str(found)
            kind = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else task.OUTPUT_TYPE
            return [Instance(kind, doc, (found, *REST[kind]), 0, options["metadata"])]

        def doc_to_target(doc: Any, *args: Any, **options: Any) -> Any:
            try:
                with bounded("the target", PROMPT_SECONDS), task_code():
                    found = target(doc, *args, **options)
                    str(found)  # as lm-eval does for a hash
                    return found
            except Exception as error:
                if self.reason(name, doc) is None:
                    if self._scoring or name not in self._scored:
                        raise  # a prompt or a metric needs it
                    log.warning("%s: the target of a sample is left out: %s", name, reason_of(error))
                return None  # lm-eval asks for the samples file

        task.doc_to_prefix = lambda doc: _built(prefix, doc)
        task.fewshot_context, task.construct_requests, task.doc_to_target = (
            fewshot_context,
            construct_requests,
            doc_to_target,
        )

    def _requests(self, name: str, task: Any, construct: Callable[..., Any], doc: Any, ctx: Any, options: Any) -> Any:
        """Returns a document's requests, or why there are none."""
        if targets.looks_like_list(task, doc):
            self._lists[name] += 1
            if self._lists[name] == 1:
                log.warning(
                    "%s: a target is a text in brackets, which lm-eval reads as a list: %r",
                    name,
                    task.doc_to_target(doc),
                )
        if reason := targets.unscorable(task, doc):
            return Unbuilt(reason)
        requests = construct(doc=doc, ctx=ctx, **options)
        _check_texts(requests)
        return requests

    def _watch_scoring(self, name: str, task: Any, records: Callable[[], list[Record]]) -> None:
        score = task.process_results
        known: dict[str, str] | None = None
        partly: set[str] = set()

        def process_results(doc: Any, results: Any) -> dict[str, Any]:
            nonlocal known
            if known is None:
                known = {r.doc: r.error for r in records() if r.task == name and r.error}
            self._scored.add(name)
            key = doc_key(doc)
            reason = known.get(key) or self.errors.get((name, key))
            metrics: dict[str, Any] = {}
            if reason is None or key in partly:
                reason = targets.fault(task, doc) or targets.without_likelihood(task, results)
                if reason is None:
                    self._scoring = True
                    try:
                        with bounded("it", SCORE_SECONDS), task_code():
                            metrics = _metrics(score(doc, results))
                    except Exception as error:  # a scorer may raise anything; the sample is stored as erred
                        reason = f"scoring failed: {reason_of(error)}"
                    finally:
                        self._scoring = False
                if wrong := targets.no_numbers(task, metrics):
                    metrics = {metric: value for metric, value in metrics.items() if metric not in wrong}
                    reason = "; ".join(wrong.values())
                    partly.add(key)  # under another filter it may be whole
                if reason is not None:
                    log.warning("%s: %s", name, reason)
            if reason is not None:
                self.errors[name, key] = reason
            return metrics

        task.process_results = process_results

    @contextmanager
    def aggregating(self) -> Iterator[None]:
        """Makes lm-eval's evaluator aggregate metric by metric: one that cannot be is missing and named in `missing`, the others are there."""
        import lm_eval.evaluator_utils as evaluator
        from lm_eval.api.group import Group

        whole: Callable[..., tuple[dict[str, Any], int]]
        whole, of_group = evaluator._compute_task_aggregations, Group.aggregate

        def task_metrics(task: Any, raw: Any, bootstrap_iters: int | None = 0) -> tuple[dict[str, Any], int]:
            found: dict[str, Any] = {}
            most = 0
            try:
                with task_code():
                    return whole(task, raw, bootstrap_iters)
            except Exception as error:
                log.debug("a metric failed; each is tried apart", exc_info=error)
            for key, values in raw.items():
                for iterations in (bootstrap_iters, 0):  # a value without its standard error is better than none
                    try:
                        with task_code():
                            metrics, count = whole(task, {key: values}, iterations)
                    except Exception as error:
                        reason = reason_of(error)
                        continue
                    found, most = {**found, **metrics}, max(most, count)
                    if iterations != bootstrap_iters:
                        self._miss(f"{task.task_name}: standard error of {','.join(key)}", reason)
                    break
                else:
                    self._miss(f"{task.task_name}: {','.join(key)}", reason)
                    most = max(most, len(values))
            return found, most

        def group_metrics(group: Any, metrics: Any) -> Any:
            try:
                return of_group(group, metrics)
            except Exception as error:  # of a metric that is no number
                self._miss(f"group {group.name}", reason_of(error))
                return {"alias": group.alias or group.name, "name": group.name}

        with (
            patch.object(evaluator, "_compute_task_aggregations", task_metrics),
            patch.object(Group, "aggregate", group_metrics),
        ):
            yield

    @contextmanager
    def adding(self, what: str) -> Iterator[None]:
        """Notes in `missing` what the block should have added to the results, if it cannot; whatever happens after the last answer must not lose them."""
        try:
            with task_code():
                yield
        except Exception as error:
            self._miss(what, reason_of(error))
            log.debug("where it arose", exc_info=error)

    def _miss(self, what: str, reason: str) -> None:
        self.missing.append(one_line(f"{what} ({reason})"))
        log.warning("missing: %s", self.missing[-1])

    def _watch_filters(self, name: str, task: Any) -> None:
        """Puts the guard before `task.apply_filters`: a filter that raises is applied to each answer apart, to find those that it raises on."""
        apply = task.apply_filters

        def apply_filters() -> Any:
            try:
                with bounded("all answers together", FILTER_SECONDS), task_code():
                    return apply()
            except Exception as error:  # a filter may raise anything
                log.warning("%s: a filter failed (%s); it is tried on each answer apart", name, reason_of(error))
            for ensemble in task._filters:
                slow = 0
                for instance in task._instances:
                    try:
                        if slow == MOST_SLOW:
                            raise TooSlow(f"it was ended on {slow} answers and not tried on this one")
                        with bounded("it", FILTER_SECONDS), task_code():
                            ensemble.apply([instance])
                    except Exception as error:
                        slow += isinstance(error, TooSlow) and slow < MOST_SLOW
                        self.errors[name, doc_key(instance.doc)] = one_line(
                            f"filter '{ensemble.name}' failed: {reason_of(error)}"
                        )
                    instance.filtered_resps.setdefault(ensemble.name, instance.resps)
            return None

        task.apply_filters = apply_filters

    def notes(self) -> dict[str, dict[str, int]]:
        """Returns by task what its result must say: few-shot examples left out, texts read as lists."""
        lists = {name: {"targets_read_as_lists": count} for name, count in self._lists.items()}
        return {name: left.facts() | lists.get(name, {}) for name, left in self._left_out.items()}

    def reason(self, name: str, doc: Any) -> str | None:
        """Returns why a document of task `name` has no metric, or None."""
        return self.errors.get((name, doc_key(doc)))


def _check_texts(requests: Any) -> None:
    """Raises SampleError if a text has no UTF-8 form: no tokenizer reads it, and lm-eval, which hashes prompts, would end the run."""
    requests = requests if isinstance(requests, list) else [requests]
    texts = [part for request in requests if isinstance(request, Instance) for part in request.args]
    if any(isinstance(text, str) and not is_text(text) for text in texts):
        raise SampleError("it holds half of a surrogate pair, which is no text")


def _built(build: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Returns what `build` returns, or why it could not."""
    try:
        with bounded("it", PROMPT_SECONDS), task_code():
            return build(*args, **options)
    except SampleError as error:
        return Unbuilt(f"the prompt could not be built: {error}")
    except DlmEvalError:
        raise
    except Exception as error:  # a document's fields and a task's templates may raise anything
        return Unbuilt(f"the prompt could not be built: {reason_of(error)}")


def _metrics(found: Any) -> dict[str, Any]:
    """Returns a document's metrics by name.

    Raises:
        SampleError: `process_results` returned something else.
    """
    if not isinstance(found, Mapping):
        raise SampleError(f"process_results returned {type(found).__name__}, not a mapping of metrics")
    if odd := [key for key in found if not isinstance(key, str)]:
        raise SampleError(f"process_results named a metric {odd[0]!r}, which is no text")
    return dict(found)

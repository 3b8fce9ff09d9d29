"""Errors of single samples: they are stored with their reasons, and the run continues.

lm-eval does not support samples without an answer. `lm_eval_patches.guard_task` wraps the methods
of a task that handle documents. A failed document has no metric (it is neither right nor wrong),
and the reason is stored.

Templates, filters and scorers have a limit of processor time per document. Task code is the user's
own and is trusted, but a backtracking regular expression or an endless template must fail only one
sample, not the run. A timer signal interrupts them, also inside Python's `re`. Signals reach only
the main thread, so there is no limit in other threads.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.instance import Instance

from dlm_eval.errors import DlmEvalError, SampleError, UserError
from dlm_eval.harness import targets
from dlm_eval.harness.fewshot import Examples
from dlm_eval.harness.requests import UnbuiltPrompt
from dlm_eval.harness.results import Record, doc_key
from dlm_eval.harness.scorer_draws import draws_of
from dlm_eval.output import one_line
from dlm_eval.printable import counted, is_text
from dlm_eval.reasons import reason
from dlm_eval.signals import of_the_user

# Number of answers on which a filter may exceed its time limit. After that, all remaining answers
# fail immediately.
MOST_SLOW = 10
# Different warnings of a task's documents that are shown; the rest is counted.
MOST_SHOWN = 3
log = logging.getLogger(__name__)
# Further arguments of a request with an `UnbuiltPrompt`, by request type. They make the request
# cheap for lm-eval's own models.
REST: dict[str, tuple[Any, ...]] = {
    "loglikelihood": (" ",),
    "loglikelihood_rolling": (),
    "generate_until": ({"until": ["\n"], "max_gen_toks": 1},),
}
# Limit for the prompt of one document, or for one template while tasks load.
PROMPT_SECONDS = 20.0
FILTER_SECONDS = 5.0  # for the filters of one answer
SCORE_SECONDS = 300.0  # for the scoring of one document, which may run a judge model
# Seconds until the signal is repeated, in case the task's code catches the exception.
AGAIN = 0.5


class Failed(Exception):
    """An exception of a task's own code, as text."""


@contextmanager
def task_code() -> Iterator[None]:
    """Converts everything that a task's code raises to an Exception, since `exit(3)` in a scorer
    must not end the run.

    Raises:
        Failed: the code raised SystemExit, KeyboardInterrupt (not the user's) or the like.
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
    """Returns the type, text and place of an exception on one line, as the reason of a failed sample."""
    return str(error) if isinstance(error, Failed) else reason(error)


class Repeated:
    """Warnings about documents: each text is shown once, and at the end how many documents have it."""

    def __init__(self) -> None:
        self._documents: dict[str, dict[str, set[str]]] = {}  # task -> text -> documents

    def say(self, name: str, text: str, doc: Any) -> None:
        """Shows a warning about a document of task `name`, if its text is new and few were shown."""
        of_task = self._documents.setdefault(name, {})
        if text not in of_task and len(of_task) < MOST_SHOWN:
            log.warning("%s: %s", name, text)
        of_task.setdefault(text, set()).add(doc_key(doc))

    def tell(self) -> None:
        """Shows how many documents had the warnings that were not shown for them; forgets them."""
        for name, of_task in self._documents.items():
            counts = [len(documents) for documents in of_task.values()]
            for text, number in zip(of_task, counts[:MOST_SHOWN], strict=False):
                if number > 1:
                    log.warning("%s: %s: %s in all", name, text, counted(number, "document"))
            if rest := sum(counts[MOST_SHOWN:]):
                more = counted(rest, "more document", "have")
                log.warning("%s: %s errors of other kinds; samples files have all", name, more)
        self._documents = {}


class SampleErrors:
    """The errors of a run by task and document, and other notes about documents for the results.

    Args:
        fewshot_seed: seed of the draw of examples that replace excluded ones.
        scorer_seed: seed of what scorers draw (scorer_draws.py).
    """

    def __init__(self, fewshot_seed: int | None = None, scorer_seed: int | None = None) -> None:
        self.errors: dict[tuple[str, str], str] = {}
        self.missing: list[str] = []  # metrics that could not be computed, and why
        self._fewshot_seed = fewshot_seed
        self._scorer_seed = scorer_seed
        self._examples: dict[str, Examples] = {}
        self._lists: Counter[str] = Counter()
        self._scoring = False
        self._scored: set[str] = set()  # tasks whose scoring has begun
        self._warnings = Repeated()

    def reason(self, name: str, doc: Any) -> str | None:
        """Returns why a document of task `name` has no metric, or None."""
        return self.errors.get((name, doc_key(doc)))

    def examples(self, name: str, task: Any) -> Examples:
        """Returns the few-shot examples of a task."""
        self._examples[name] = Examples(name, task, self._fewshot_seed)
        return self._examples[name]

    def notes(self) -> dict[str, dict[str, int]]:
        """Returns notes for the results by task: examples left out, texts read as lists."""
        lists = {name: {"targets_read_as_lists": count} for name, count in self._lists.items()}
        found = {name: examples.facts() for name, examples in self._examples.items()}
        return {name: found.get(name, {}) | lists.get(name, {}) for name in {**found, **lists}}

    def tell_counts(self) -> None:
        """Shows how many documents had each warning."""
        self._warnings.tell()

    # -- wrappers of a task's methods --------------------------------------------------------------

    def prefix(self, prefix: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `doc_to_prefix`: it returns an `UnbuiltPrompt` if it fails."""
        return lambda doc: _built(prefix, doc)

    def prompt(self, prompt: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `fewshot_context`: it returns an `UnbuiltPrompt` if it fails."""

        def fewshot_context(doc: Any, *args: Any, **options: Any) -> Any:
            begun = options.get("gen_prefix")
            return (
                begun if isinstance(begun, UnbuiltPrompt) else _built(prompt, doc, *args, **options)
            )

        return fewshot_context

    def requests(self, name: str, task: Any, construct: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `construct_requests`: if there is no prompt, the request contains the reason."""

        def construct_requests(doc: Any, ctx: Any, **options: Any) -> Any:
            found = ctx
            if not isinstance(ctx, UnbuiltPrompt):
                found = _built(self._requests, name, task, construct, doc, ctx, options)
            if isinstance(found, list) and not found:
                found = UnbuiltPrompt(
                    "the prompt could not be built: there is no choice, so nothing to ask"
                )
            if not isinstance(found, UnbuiltPrompt):
                return found
            self._warnings.say(name, str(found), doc)
            self.errors[name, doc_key(doc)] = str(found)
            kind = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else task.OUTPUT_TYPE
            return [Instance(kind, doc, (found, *REST[kind]), 0, options["metadata"])]

        return construct_requests

    def _requests(
        self, name: str, task: Any, construct: Callable[..., Any], doc: Any, ctx: Any, options: Any
    ) -> Any:
        """Returns a document's requests, or the reason why there are none."""
        if targets.looks_like_list(task, doc):
            self._lists[name] += 1
            if self._lists[name] == 1:
                message = "%s: a target is a text in brackets, which lm-eval reads as a list: %r"
                log.warning(message, name, task.doc_to_target(doc))
        if reason := targets.unscorable(task, doc):
            return UnbuiltPrompt(reason)
        requests = construct(doc=doc, ctx=ctx, **options)
        _check_texts(requests)
        return requests

    def target(self, name: str, target: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `doc_to_target`: it may fail for a document that has failed before."""

        def doc_to_target(doc: Any, *args: Any, **options: Any) -> Any:
            try:
                with time_limit("the target", PROMPT_SECONDS), task_code():
                    found = target(doc, *args, **options)
                    str(found)  # lm-eval does this for a hash
                    return found
            except Exception as error:
                if self.reason(name, doc) is None:
                    if self._scoring or name not in self._scored:
                        raise  # a prompt or a metric needs it
                    left = f"the target of a sample is left out: {reason_of(error)}"
                    self._warnings.say(name, left, doc)
                return None  # lm-eval asks for the samples file

        return doc_to_target

    def filters(self, name: str, task: Any, apply: Callable[[], Any]) -> Callable[[], Any]:
        """Wraps `apply_filters`: if a filter fails, it is applied to each answer separately."""

        def apply_filters() -> Any:
            try:
                with time_limit("all answers together", FILTER_SECONDS), task_code():
                    return apply()
            except Exception as error:  # a filter may raise anything
                log.warning(
                    "%s: a filter failed (%s); it is tried on each answer alone",
                    name,
                    reason_of(error),
                )
            for ensemble in task._filters:
                self._filter_apart(name, ensemble, task._instances)
            return None

        return apply_filters

    def _filter_apart(self, name: str, ensemble: Any, instances: Sequence[Any]) -> None:
        slow = 0
        for instance in instances:
            try:
                if slow == MOST_SLOW:
                    raise TooSlow(f"it was ended on {slow} answers and not tried on this one")
                with time_limit("it", FILTER_SECONDS), task_code():
                    ensemble.apply([instance])
            except Exception as error:
                slow += isinstance(error, TooSlow) and slow < MOST_SLOW
                reason = one_line(f"filter '{ensemble.name}' failed: {reason_of(error)}")
                self.errors[name, doc_key(instance.doc)] = reason
            instance.filtered_resps.setdefault(ensemble.name, instance.resps)

    def scores(
        self,
        name: str,
        task: Any,
        score: Callable[..., Any],
        records: Callable[[], Sequence[Record]],
    ) -> Callable[..., Any]:
        """Wraps `process_results`: a document that cannot be scored has no metrics."""
        known: dict[str, str] | None = None
        skipped: set[str] = set()
        partly: set[str] = set()

        def process_results(doc: Any, results: Any) -> dict[str, Any]:
            nonlocal known, skipped
            if known is None:
                skipped = {r.doc for r in records() if r.task == name and r.skipped}
                known = {r.doc: r.error for r in records() if r.task == name and r.error}
            self._scored.add(name)
            key = doc_key(doc)
            if key in skipped:
                return {}
            reason = known.get(key) or self.errors.get((name, key))
            metrics: dict[str, Any] = {}
            if reason is None or key in partly:
                metrics, reason = self.score(task, score, doc, results)
                if wrong := targets.no_numbers(task, metrics):
                    metrics = {
                        metric: value for metric, value in metrics.items() if metric not in wrong
                    }
                    reason = "; ".join(wrong.values())
                    partly.add(key)  # its metrics may be complete under another filter
                if reason is not None:
                    self._warnings.say(name, reason, doc)
            if reason is not None:
                self.errors[name, key] = reason
            return metrics

        return process_results

    def score(
        self, task: Any, score: Callable[..., Any], doc: Any, results: Any
    ) -> tuple[dict[str, Any], str | None]:
        """Returns a document's metrics, and the reason if it has none (else None)."""
        if reason := targets.fault(task, doc) or targets.without_likelihood(task, results):
            return {}, reason
        self._scoring = True
        try:
            with (
                draws_of(self._scorer_seed, doc_key(doc)),
                time_limit("it", SCORE_SECONDS),
                task_code(),
            ):
                return _metrics(score(doc, results)), None
        except Exception as error:  # a scorer may raise anything; the sample is stored as an error
            return {}, f"scoring failed: {reason_of(error)}"
        finally:
            self._scoring = False

    def fact(
        self, what: str, ask: Callable[[], Any], otherwise: dict[str, Any]
    ) -> Callable[[], Any]:
        """Wraps a method that lm-eval calls after the last answer: a failure loses no results."""

        def asked() -> Any:
            with self.adding(what):
                return ask()
            return otherwise

        return asked

    # -- metrics -----------------------------------------------------------------------------------

    def task_metrics(self, whole: Callable[..., Any]) -> Callable[..., tuple[dict[str, Any], int]]:
        """Wraps a task's aggregation: failing metrics are listed in `missing`, others are kept."""

        def aggregated(
            task: Any, raw: Any, bootstrap_iters: int | None = 0
        ) -> tuple[dict[str, Any], int]:
            try:
                with task_code():
                    metrics, count = whole(task, raw, bootstrap_iters)
                    return dict(metrics), int(count)
            except Exception as error:
                log.debug("a metric failed; each is tried alone", exc_info=error)
            found: dict[str, Any] = {}
            most = 0
            for key, values in raw.items():
                for iterations in (bootstrap_iters, 0):  # 0: no standard error
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

        return aggregated

    def group_metrics(self, of_group: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the aggregation of a group in the same way."""

        def aggregated(group: Any, metrics: Any) -> Any:
            try:
                return of_group(group, metrics)
            except Exception as error:  # a metric is not a number
                self._miss(f"group {group.name}", reason_of(error))
                return {"alias": group.alias or group.name, "name": group.name}

        return aggregated

    @contextmanager
    def adding(self, what: str) -> Iterator[None]:
        """Adds `what` to `missing` if the block fails, so that no results are lost."""
        try:
            with task_code():
                yield
        except Exception as error:
            self._miss(what, reason_of(error))
            log.debug("traceback of the error", exc_info=error)

    def _miss(self, what: str, reason: str) -> None:
        self.missing.append(one_line(f"{what} ({reason})"))
        log.warning("missing: %s", self.missing[-1])


def _check_texts(requests: Any) -> None:
    """Raises SampleError if a text has no UTF-8 form.

    No tokenizer accepts such a text, and lm-eval's hash of the prompt would end the run.
    """
    requests = requests if isinstance(requests, list) else [requests]
    texts = [part for request in requests if isinstance(request, Instance) for part in request.args]
    if any(isinstance(text, str) and not is_text(text) for text in texts):
        raise SampleError("it holds half of a surrogate pair, which is no text")


def _built(build: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Returns the result of `build`, or an `UnbuiltPrompt` with the reason."""
    try:
        with time_limit("it", PROMPT_SECONDS), task_code():
            return build(*args, **options)
    except SampleError as error:
        return UnbuiltPrompt(f"the prompt could not be built: {error}")
    except DlmEvalError:
        raise
    except Exception as error:  # templates and fields may raise anything
        return UnbuiltPrompt(f"the prompt could not be built: {reason_of(error)}")


def _metrics(found: Any) -> dict[str, Any]:
    """Returns a document's metrics by name.

    Raises:
        SampleError: `process_results` returned something else.
    """
    if not isinstance(found, Mapping):
        raise SampleError(
            f"process_results returned {type(found).__name__}, not a mapping of metrics"
        )
    if odd := [key for key in found if not isinstance(key, str)]:
        raise SampleError(f"process_results named a metric {odd[0]!r}, which is no text")
    return dict(found)


def bounded_template(render: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps lm-eval's rendering of templates with a time limit."""

    def apply_template(*args: Any, **options: Any) -> Any:
        with time_limit("a template", PROMPT_SECONDS):
            return render(*args, **options)

    return apply_template


def naming_field(field: str, read: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a task's method that reads a field of document 0; errors then name the field."""

    def named(self: Any, doc: Any, *args: Any, **options: Any) -> Any:
        try:
            return read(self, doc, *args, **options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{field} of document 0 fails: {reason_of(error)}") from error

    return named


class TooSlow(SampleError):
    """A block exceeded its processor time."""


@contextmanager
def time_limit(what: str, seconds: float) -> Iterator[None]:
    """Ends the block after `seconds` of this thread's processor time.

    Inside another such block only the outer limit applies.

    Raises:
        TooSlow: the block exceeded the limit; the message has `what` and the limit.
    """
    # Not whether there is a handler: libraries leave theirs behind.
    running = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    if threading.current_thread() is not threading.main_thread() or running:
        yield
        return
    end = time.thread_time() + seconds

    def look(number: int, frame: Any) -> None:
        if time.thread_time() >= end:
            raise TooSlow(f"{what} took more than {seconds:.0f} s of processor time and was ended")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

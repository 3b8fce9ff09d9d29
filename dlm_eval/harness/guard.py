"""One bad sample must not cost a run: errors in answering or scoring are kept with their reason, and the rest goes on.

lm-eval aborts everything when one document's prompt cannot be built or its `process_results` raises, and knows no "this sample has no answer". The guard
stands in front of what each task does with a document: one that erred contributes no metric (it is neither right nor wrong) and its reason is kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance

from dlm_eval.errors import DlmEvalError, SampleError
from dlm_eval.harness import targets
from dlm_eval.harness.bounded import FILTER_SECONDS, PROMPT_SECONDS, SCORE_SECONDS, TooSlow, bounded
from dlm_eval.harness.fewshot import LeftOut
from dlm_eval.harness.records import Record, doc_key
from dlm_eval.harness.requests import Unbuilt
from dlm_eval.output import one_line
from dlm_eval.printable import SURROGATE

MOST_SLOW = 10  # answers on which a filter may be ended by its time limit before the rest err at once
log = logging.getLogger(__name__)
# what a request of each type has behind its prompt; a model of lm-eval's own, which cannot know `Unbuilt`, answers it with little work
REST: dict[str, tuple[Any, ...]] = {
    "loglikelihood": (" ",),
    "loglikelihood_rolling": (),
    "generate_until": ({"until": ["\n"], "max_gen_toks": 1},),
}


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

    def watch(self, name: str, task: Any, records: Callable[[], list[Record]]) -> None:
        """Puts the guard before all that `task` does with a document; `records` gives the model's records once requests are answered."""
        self._left_out[name] = LeftOut(name, task, self.fewshot_seed)
        self._left_out[name].watch()
        self._watch_building(name, task)
        self._watch_filters(name, task)
        self._watch_scoring(name, task, records)

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
            if not isinstance(found, Unbuilt):
                return found
            log.warning("%s: %s", name, found)
            self.errors[name, doc_key(doc)] = str(found)
            kind = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else task.OUTPUT_TYPE
            return [Instance(kind, doc, (found, *REST[kind]), 0, options["metadata"])]

        def doc_to_target(doc: Any, *args: Any, **options: Any) -> Any:
            try:
                with bounded("the target", PROMPT_SECONDS):
                    return target(doc, *args, **options)
            except Exception:
                if self.reason(name, doc) is None:
                    raise
                return None  # it has erred already; lm-eval asks for the samples file

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
            key = doc_key(doc)
            reason = known.get(key) or self.errors.get((name, key))
            metrics: dict[str, Any] = {}
            if reason is None or key in partly:
                reason = targets.fault(task, doc) or targets.without_likelihood(task, results)
                if reason is None:
                    try:
                        with bounded("it", SCORE_SECONDS):
                            metrics = dict(score(doc, results))
                    except Exception as error:  # a scorer may raise anything; the sample is stored as erred
                        reason = one_line(f"scoring failed: {type(error).__name__}: {error}")
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

    def _watch_filters(self, name: str, task: Any) -> None:
        """Puts the guard before `task.apply_filters`: a filter that raises is applied to each answer apart, to find those that it raises on."""
        apply = task.apply_filters

        def apply_filters() -> Any:
            try:
                with bounded("all answers together", FILTER_SECONDS):
                    return apply()
            except Exception as error:  # a filter may raise anything
                log.warning(
                    "%s: a filter failed (%s: %s); it is tried on each answer apart", name, type(error).__name__, error
                )
            for ensemble in task._filters:
                slow = 0
                for instance in task._instances:
                    try:
                        if slow == MOST_SLOW:
                            raise TooSlow(f"it was ended on {slow} answers and not tried on this one")
                        with bounded("it", FILTER_SECONDS):
                            ensemble.apply([instance])
                    except Exception as error:
                        slow += isinstance(error, TooSlow) and slow < MOST_SLOW
                        self.errors[name, doc_key(instance.doc)] = one_line(
                            f"filter '{ensemble.name}' failed: {type(error).__name__}: {error}"
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
    if any(isinstance(text, str) and not text.isascii() and SURROGATE.search(text) for text in texts):
        raise SampleError("it holds half of a surrogate pair, which is no text")


def _built(build: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Returns what `build` returns, or why it could not."""
    try:
        with bounded("it", PROMPT_SECONDS):
            return build(*args, **options)
    except SampleError as error:
        return Unbuilt(f"the prompt could not be built: {error}")
    except DlmEvalError:
        raise
    except Exception as error:  # a document's fields and a task's templates may raise anything
        return Unbuilt(one_line(f"the prompt could not be built: {type(error).__name__}: {error}"))

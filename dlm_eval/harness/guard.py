"""One bad sample must not cost a run: errors in answering or scoring are kept with their reason, and the rest goes on.

lm-eval aborts everything when one document's `process_results` raises, and knows no "this sample has no answer". The guard stands in front of each
task's `process_results` and filters: a document that erred contributes no metric (it is neither right nor wrong) and its reason is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dlm_eval.harness.records import Record, doc_key

log = logging.getLogger(__name__)


class Guard:
    """The errors of a run, by task and document."""

    def __init__(self) -> None:
        self.errors: dict[tuple[str, str], str] = {}

    def watch(self, name: str, task: Any, records: Callable[[], list[Record]]) -> None:
        """Puts the guard before `task.process_results`; `records` gives the model's records once requests are answered."""
        score = task.process_results
        known: dict[str, str] | None = None

        def process_results(doc: Any, results: Any) -> dict[str, Any]:
            nonlocal known
            if known is None:
                known = {r.doc: r.error for r in records() if r.task == name and r.error}
            key = doc_key(doc)
            reason = known.get(key) or self.errors.get((name, key))
            if reason is None:
                try:
                    return dict(score(doc, results))
                except Exception as error:  # a scorer may raise anything; the sample is stored as erred
                    reason = f"scoring failed: {type(error).__name__}: {error}"
                    log.warning("%s: %s", name, reason)
            self.errors[name, key] = reason
            return {}

        task.process_results = process_results
        self._watch_filters(name, task)

    def _watch_filters(self, name: str, task: Any) -> None:
        """Puts the guard before `task.apply_filters`: a filter that raises is applied to each answer apart, to find those that it raises on."""
        apply = task.apply_filters

        def apply_filters() -> Any:
            try:
                return apply()
            except Exception as error:  # a filter may raise anything
                log.warning(
                    "%s: a filter failed (%s: %s); it is tried on each answer apart", name, type(error).__name__, error
                )
            for ensemble in task._filters:
                for instance in task._instances:
                    try:
                        ensemble.apply([instance])
                    except Exception as error:
                        self.errors[name, doc_key(instance.doc)] = (
                            f"filter '{ensemble.name}' failed: {type(error).__name__}: {error}"
                        )
                    instance.filtered_resps.setdefault(ensemble.name, instance.resps)
            return None

        task.apply_filters = apply_filters

    def reason(self, name: str, doc: Any) -> str | None:
        """Returns why a document of task `name` has no metric, or None."""
        return self.errors.get((name, doc_key(doc)))

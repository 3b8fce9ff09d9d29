"""Which tasks only ask which choice is best: their questions can end as soon as that is settled (scoring/early.py)."""

from __future__ import annotations

from typing import Any

BY_ORDER = frozenset(
    {"acc", "acc_norm", "f1", "mcc"}
)  # of lm-eval's multiple choice: each looks at the best choice alone


def by_order(task: Any) -> bool:
    """Returns whether the scores of lm-eval's `task` depend on the order of the choices' log-likelihoods alone, not on their values.

    `acc_norm` orders by log-likelihood per character. Brier scores, mutual information, and whatever a task's own `process_results` makes of
    them (TruthfulQA's mc2), need the values.
    """
    config = task.config
    metrics = {entry["metric"] for entry in config.metric_list or () if isinstance(entry["metric"], str)}
    plain = config.process_results is None and len(metrics) == len(config.metric_list or ())
    return task.OUTPUT_TYPE == "multiple_choice" and plain and metrics <= BY_ORDER

"""Strategies by name."""

from __future__ import annotations

from dlm_eval.decoding.strategies import STRATEGIES, Strategy
from dlm_eval.errors import unknown

STRATEGY_NAMES = tuple(STRATEGIES)


def strategy(name: str) -> Strategy:
    """Returns the strategy called `name`.

    Raises:
        UserError: no such strategy; the message has the nearest name.
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return STRATEGIES[name]


def describe_strategies() -> dict[str, str]:
    """Returns name -> one line, for `dlm-eval ls strategies`."""
    return {name: method.about for name, method in STRATEGIES.items()}

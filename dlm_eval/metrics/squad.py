"""SQuAD's metrics (Rajpurkar et al. 2016, section 6.1; Rajpurkar, Jia and Liang 2018) under the names that lm-eval's tasks call them by.

transformers 4 had them as `transformers.data.metrics.squad_metrics`; transformers 5 has not, and xquad, coqa, record and others import them from there.
"""

from __future__ import annotations

from dlm_eval.metrics.triviaqa import normalize, token_f1


def normalize_answer(s: str) -> str:
    """Returns the text in lower case without punctuation, English articles and surplus spaces."""
    return normalize(s)


def get_tokens(s: str) -> list[str]:
    """Returns the words of the normalised text."""
    return normalize(s).split()


def compute_exact(a_gold: str, a_pred: str) -> int:
    """Returns 1 if the normalised answers are equal, else 0."""
    return int(normalize(a_gold) == normalize(a_pred))


def compute_f1(a_gold: str, a_pred: str) -> float:
    """Returns the harmonic mean of precision and recall of words, a fraction. If either has no words (no answer), 1 if both have none, else 0."""
    gold, said = get_tokens(a_gold), get_tokens(a_pred)
    if not gold or not said:
        return float(gold == said)
    return token_f1(a_pred, a_gold)

"""Generated text compared with references: SQuAD, TriviaQA, GSM8K*, LAMBADA, ROCStories.

TriviaQA, closed book: three ways in which papers count an answer as right.

* ``exact_match``: lm-eval's rule: equal to an alias, case and punctuation aside.
* ``alias_match``: DiffuLLaMA's (arXiv 2410.17891): a normalised alias is anywhere in the
  normalised answer.
* ``f1``: overlap of tokens with the best alias (Rajpurkar et al. 2016, section 6.1).

SQuAD's metrics (Rajpurkar et al. 2016, section 6.1; Rajpurkar, Jia and Liang 2018) have the names
that lm-eval's tasks call them by: transformers 4 had them as
`transformers.data.metrics.squad_metrics`; transformers 5 has not, and xquad, coqa, record and
others import them from there.

GSM8K* is GSM8K in the symbolic form that DiffuGPT and DiffuLLaMA are finetuned on (arXiv
2410.17891, table 1). The model writes equations only, ``<<16-3-4=9>> <<9*2=18>> #### 18``. The
scorer gives the published figures on the outputs that the authors released: 815 (DiffuGPT-M) and
832 (DiffuLLaMA) of 1319.

LAMBADA is in the form of the DiffuLLaMA paper (appendix B.3): write the last word of a passage.
ROCStories infilling has the ROUGE of the written third sentence, by the rouge-score library.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Returns text in lower case without punctuation, articles, surplus spaces (SQuAD's)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def aliases(doc: dict[str, Any]) -> list[str]:
    """Returns the normalised aliases that are not empty: the data set's own column if any."""
    answer = doc["answer"]
    found = answer.get("normalized_aliases") or [normalize(alias) for alias in answer["aliases"]]
    return [alias for alias in found if alias]  # an empty one would stand in every answer


def alias_match(answer: str, normalized_aliases: Sequence[str]) -> float:
    """Returns 1.0 if an alias is a substring of the answer ("art" of "party"), else 0.0."""
    written = normalize(answer)
    return float(any(alias in written for alias in normalized_aliases))


def token_f1(answer: str, alias: str) -> float:
    """Returns the harmonic mean of precision and recall of the normalised tokens, a fraction."""
    written, wanted = normalize(answer).split(), normalize(alias).split()
    common = sum((Counter(written) & Counter(wanted)).values())
    return 2 * common / (len(written) + len(wanted)) if common else 0.0


def exact_match(answer: str, aliases: Sequence[str]) -> float:
    """Returns 1.0 if the answer is an alias, case and punctuation aside.

    The rule of lm-eval's ``exact_match``, whose arrays of fixed width cut a text that grows in
    lower case ("İdris").
    """
    written = answer.strip().lower().translate(NO_PUNCTUATION)
    return float(any(written == alias.lower().translate(NO_PUNCTUATION) for alias in aliases))


def trivia_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the three metrics of one answer, fractions."""
    answer, wanted = results[0], aliases(doc)
    return {
        "exact_match": exact_match(answer, doc["answer"]["aliases"]),
        "alias_match": alias_match(answer, wanted),
        "f1": max((token_f1(answer, alias) for alias in wanted), default=0.0),
    }


def first_2000(docs: Any) -> Any:
    """Returns the questions that the DiffuLLaMA paper uses: the first two thousand."""
    return docs.select(range(min(2000, len(docs))))


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
    """Returns the F1 of words, a fraction; if one has no words, 1 if both have none, else 0."""
    gold, written = get_tokens(a_gold), get_tokens(a_pred)
    if not gold or not written:
        return float(gold == written)
    return token_f1(a_pred, a_gold)


def symbolic_answer(text: str) -> str:
    """Returns what follows the last ``####`` (if none, the whole text), without commas."""
    return text.rpartition("####")[2].strip().replace(",", "")


def gsm8k_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the answer that was written is, as a string, the document's answer."""
    return {"exact_match": float(symbolic_answer(results[0]) == symbolic_answer(doc["answer"]))}


def lambada_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the stripped text is exactly the last word of the passage."""
    return {"exact_match": float(results[0].strip() == doc["text"].split()[-1])}


KINDS = ("rouge1", "rouge2", "rougeL")


@functools.lru_cache(maxsize=1)
def _scorer() -> Any:
    # imports nltk: a second that only this task should pay
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=False)


def rouge(reference: str, written: str) -> dict[str, float]:
    """Returns the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, times 100, without stemming.

    The mean over documents is what HF evaluate's ``rouge`` estimates (its aggregator prints the
    median of a thousand unseeded bootstrap means, which wanders by a few hundredths around the
    mean).
    """
    return {
        kind: 100 * score.fmeasure for kind, score in _scorer().score(reference, written).items()
    }


def rocstories_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the three ROUGE scores of the sentence written between the second and the fourth."""
    return rouge(doc["input_sentence_3"], results[0])


def first_1000(docs: Any) -> Any:
    """Returns the stories that the papers use: the first thousand."""
    return docs.select(range(min(1000, len(docs))))

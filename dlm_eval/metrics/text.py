"""Generated text compared with references: SQuAD, TriviaQA, GSM8K*, LAMBADA, ROCStories.

TriviaQA (closed book) has four metrics:

* ``em_official`` and ``f1`` (triviaqa_evaluation.py of mandarjoshi90/triviaqa): equality, and
  overlap of tokens, with the best alias, both normalised by `trivia_normalize`.
* ``exact_match`` (lm-eval): the answer equals an alias, ignoring case and punctuation.
* ``alias_match`` (DiffuLLaMA, arXiv 2410.17891): a normalised alias is a substring of the
  normalised answer.

SQuAD's metrics (Rajpurkar et al. 2016, section 6.1; Rajpurkar, Jia and Liang 2018) have the names
of `transformers.data.metrics.squad_metrics`. xquad, coqa, record and other tasks of lm-eval import
them from there, but transformers 5 no longer has this module.

GSM8K* is GSM8K in the symbolic form on which DiffuGPT and DiffuLLaMA are finetuned (arXiv
2410.17891, table 1). The model writes only equations, ``<<16-3-4=9>> <<9*2=18>> #### 18``. On the
outputs that the authors released, the scorer gives the published numbers: 815 (DiffuGPT-M) and 832
(DiffuLLaMA) of 1319.

LAMBADA follows the DiffuLLaMA paper (appendix B.3): the model writes the last word of a passage.
ROCStories infilling is scored by the ROUGE of the third sentence (rouge-score library).
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
INTEGER = re.compile(r"\d+(?:,\d+)*")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# TriviaQA separates words at punctuation, SQuAD joins them: "x-ray" is two words, or one.
SPACES_FOR_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))


def normalize(text: str) -> str:
    """Returns the text in lower case without punctuation, articles and extra spaces (SQuAD's)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def trivia_normalize(text: str) -> str:
    """Returns the text in lower case without punctuation, articles and extra spaces (TriviaQA's).

    Punctuation, ‘, ’ and ´ become spaces. In `normalize` punctuation vanishes, and those stay.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(SPACES_FOR_PUNCTUATION)).split())


def aliases(doc: dict[str, Any]) -> list[str]:
    """Returns the non-empty normalised aliases, from the data set's own column if it has one."""
    answer = doc["answer"]
    found = answer.get("normalized_aliases") or [normalize(alias) for alias in answer["aliases"]]
    return [alias for alias in found if alias]  # an empty one would match every answer


def alias_match(answer: str, normalized_aliases: Sequence[str]) -> float:
    """Returns 1.0 if an alias is a substring of the answer ("art" of "party"), else 0.0."""
    written = normalize(answer)
    return float(any(alias in written for alias in normalized_aliases))


def token_f1(answer: str, alias: str) -> float:
    """Returns the harmonic mean of precision and recall of the normalised tokens (0 to 1)."""
    return overlap_f1(normalize(answer).split(), normalize(alias).split())


def overlap_f1(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Returns the harmonic mean of precision and recall of the tokens (0 to 1)."""
    common = sum((Counter(written) & Counter(wanted)).values())
    return 2 * common / (len(written) + len(wanted)) if common else 0.0


def exact_match(answer: str, aliases: Sequence[str]) -> float:
    """Returns 1.0 if the answer equals an alias, ignoring case and punctuation, else 0.0.

    This is the rule of lm-eval's ``exact_match``, but lm-eval truncates a text that is longer in
    lower case ("İdris"), because its arrays have a fixed width.
    """
    written = answer.strip().lower().translate(NO_PUNCTUATION)
    return float(any(written == alias.lower().translate(NO_PUNCTUATION) for alias in aliases))


def trivia_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the four metrics of one answer, each from 0 to 1."""
    answer, given = results[0], doc["answer"]
    written = trivia_normalize(answer)
    # The script normalises the data set's normalised aliases again.
    known = [trivia_normalize(a) for a in given.get("normalized_aliases") or given["aliases"]]
    return {
        "em_official": float(written in known),
        "f1": max(overlap_f1(written.split(), alias.split()) for alias in known),
        "exact_match": exact_match(answer, given["aliases"]),
        "alias_match": alias_match(answer, aliases(doc)),
    }


def first_2000(docs: Any) -> Any:
    """Returns the first two thousand questions, as in the DiffuLLaMA paper."""
    return docs.select(range(min(2000, len(docs))))


def normalize_answer(s: str) -> str:
    """Returns the text in lower case without punctuation, English articles and extra spaces."""
    return normalize(s)


def get_tokens(s: str) -> list[str]:
    """Returns the words of the normalised text."""
    return normalize(s).split()


def compute_exact(a_gold: str, a_pred: str) -> int:
    """Returns 1 if the normalised answers are equal, else 0."""
    return int(normalize(a_gold) == normalize(a_pred))


def compute_f1(a_gold: str, a_pred: str) -> float:
    """Returns the F1 of words (0 to 1). If one text has no words: 1 if both have none, else 0."""
    gold, written = get_tokens(a_gold), get_tokens(a_pred)
    if not gold or not written:
        return float(gold == written)
    return token_f1(a_pred, a_gold)


def squad_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns F1 and exact match (0 or 1), each with the best of the answers (SQuAD v1.1)."""
    answers = doc["answers"]["text"]
    return {
        "f1": max(token_f1(results[0], answer) for answer in answers),
        "exact_match": float(max(compute_exact(answer, results[0]) for answer in answers)),
    }


NO_ANSWER = "unanswerable"


def squad_v2_answers(
    resps: Iterable[Sequence[str]], docs: Iterable[dict[str, Any]]
) -> list[list[str]]:
    """Returns each answer; "" for one that says that there is none. A filter of task YAMLs."""
    return [["" if normalize(text) == NO_ANSWER else text for text in texts] for texts in resps]


def squad_v2_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns exact match and F1 of SQuAD 2.0's script, each from 0 to 1 with the best answer.

    A question without an answer wants the empty text. Besides the figures of all questions
    (``exact``, ``f1``) a document has those of its kind only: ``HasAns_*`` or ``NoAns_*``.
    """
    given = doc["answers"]["text"]
    wanted = [answer for answer in given if normalize(answer)] or [""]
    scores = {
        "exact": float(max(compute_exact(answer, results[0]) for answer in wanted)),
        "f1": max(compute_f1(answer, results[0]) for answer in wanted),
    }
    kind = "HasAns" if given else "NoAns"
    return scores | {f"{kind}_{name}": score for name, score in scores.items()}


def last_integer_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the last whole number of the text is `answer_number` (DiffusionLLM's rule).

    Commas inside a number do not count. Signs and decimals are not read: "2.5" ends in 5.
    """
    numbers = INTEGER.findall(results[0])
    right = bool(numbers) and int(numbers[-1].replace(",", "")) == doc["answer_number"]
    return {"exact_match": float(right)}


def symbolic_answer(text: str) -> str:
    """Returns the text after the last ``####`` (the whole text without one), without commas."""
    return text.rpartition("####")[2].strip().replace(",", "")


def gsm8k_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the written answer equals the document's answer as a string."""
    return {"exact_match": float(symbolic_answer(results[0]) == symbolic_answer(doc["answer"]))}


def lambada_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the stripped text is exactly the last word of the passage."""
    return {"exact_match": float(results[0].strip() == doc["text"].split()[-1])}


KINDS = ("rouge1", "rouge2", "rougeL")


@functools.cache
def _scorer(stemming: bool) -> Any:
    # imported here, since it imports nltk, which takes a second
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=stemming)


def rouge(reference: str, written: str) -> dict[str, float]:
    """Returns the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, times 100, without stemming.

    HF evaluate's ``rouge`` estimates the mean over documents by the median of a thousand bootstrap
    means. It has no seed, so it differs from the mean by a few hundredths.
    """
    return {
        kind: 100 * score.fmeasure
        for kind, score in _scorer(stemming=False).score(reference, written).items()
    }


def rocstories_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the three ROUGE scores of the written third sentence."""
    return rouge(doc["input_sentence_3"], results[0])


def headline_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns ROUGE-L of a headline: F-measure times 100, with stemming.

    DiffusionLLM computes it by py-rouge, which stems by other rules.
    """
    score = _scorer(stemming=True).score(doc["summary"], results[0])["rougeL"]
    return {"rougeL": 100 * score.fmeasure}


def first_1000(docs: Any) -> Any:
    """Returns the first thousand stories, as in the papers."""
    return docs.select(range(min(1000, len(docs))))

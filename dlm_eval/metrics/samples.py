"""Quality of sampled text where there is no right answer: what a judge makes of it, and how varied it is, always both.

A sampler that repeats itself reaches the best generative perplexity (arXiv 2606.08417), so it never stands alone here. All counts (entropy, distinct,
Zipf, length) are of the judge's tokens, so that models with different vocabularies compare; self-BLEU has sacrebleu's words.

The task classes that bring the judge are in harness/sample_tasks.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.metrics.judge import Judge, Reading

RIVALS = 63  # other samples that self-BLEU compares one with; more would raise it, so it is a fixed number
RANKS = 5000  # most frequent tokens that the Zipf coefficient is fitted on (Holtzman et al. 2020, arXiv 1904.09751)


class Part(float):
    """One sample's own value of a metric, with its text: lm-eval logs the value, and the metric is computed from the texts of all samples."""

    tokens: tuple[int, ...]
    text: str

    @classmethod
    def of(cls, value: float, reading: Reading, text: str) -> Part:
        part = cls(value)
        part.tokens, part.text = reading.tokens, text
        return part


def process_results(doc: Mapping[str, Any], results: Sequence[str], judge: Judge) -> dict[str, Any]:
    """Returns all metrics of one sample; corpus metrics as `Part`, for the aggregations below.

    Args:
        doc: `prefix` is what the sample continues; `truth`, where there is one, the text that really stood there.
        results: the sample.
        judge: reads it.
    """
    text = results[0]
    reading = judge.read(doc["prefix"], text)
    own = [Part.of(0.0, reading, text)]
    corpus = {name: Part.of(aggregate(own), reading, text) for name, aggregate in CORPUS.items()}
    scores: dict[str, Any] = {
        "gen_ppl": (reading.logprob, len(reading.tokens)),
        "ar_nll": _nats_per_token(reading),
        **corpus,
    }
    if doc.get("truth"):
        scores["ar_nll_real"] = _nats_per_token(judge.read(doc["prefix"], doc["truth"]))
    return {**scores, "sample_entropy": entropy(own), "length": len(reading.tokens), "empty": float(not reading.tokens)}


def _nats_per_token(reading: Reading) -> float:
    """Returns the mean negative log-likelihood; NaN for an empty text, which lm-eval's `nanmean` leaves out."""
    return -reading.logprob / len(reading.tokens) if reading.tokens else math.nan


# -- from all samples ----------------------------------------------------------------------------------------------------


def perplexity(items: Sequence[tuple[float, int]]) -> float:
    """Returns exp of the mean negative log-likelihood per token, over the tokens of all samples; NaN where there are none."""
    tokens = sum(count for _, count in items)
    if not tokens:
        return math.nan
    nats = -sum(logprob for logprob, _ in items) / tokens
    return math.exp(nats) if nats < 700 else math.inf


def entropy(parts: Sequence[Part]) -> float:
    """Returns the entropy of the token frequencies of all samples together, nats."""
    counts = Counter(token for part in parts for token in part.tokens)
    total = sum(counts.values())
    return sum(-n / total * math.log(n / total) for n in counts.values()) if total else math.nan


def entropy_bits(parts: Sequence[Part]) -> float:
    """Returns `entropy` in bits."""
    return entropy(parts) / math.log(2)


def distinct(parts: Sequence[Part], n: int) -> float:
    """Returns the share of different n-grams among all n-grams of the samples (Li et al. 2016, arXiv 1510.03055), a fraction."""
    grams = [part.tokens[i : i + n] for part in parts for i in range(len(part.tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def distinct_1(parts: Sequence[Part]) -> float:
    """Returns `distinct` of single tokens."""
    return distinct(parts, 1)


def distinct_2(parts: Sequence[Part]) -> float:
    """Returns `distinct` of pairs."""
    return distinct(parts, 2)


def distinct_3(parts: Sequence[Part]) -> float:
    """Returns `distinct` of triples."""
    return distinct(parts, 3)


def self_bleu(parts: Sequence[Part]) -> float:
    """Returns the mean BLEU-4 (0 to 100, sacrebleu) of each sample against the next `RIVALS` others (Zhu et al. 2018, arXiv 1802.01886)."""
    from sacrebleu.metrics import BLEU

    texts = [part.text for part in parts]
    if len(texts) < 2:
        return math.nan
    bleu = BLEU(effective_order=True)
    ring = texts + texts
    scores = [
        float(bleu.sentence_score(text, ring[i + 1 : i + len(texts)][:RIVALS]).score) for i, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)


def zipf(parts: Sequence[Part]) -> float:
    """Returns the exponent s of frequency ~ rank^-s, by least squares in logarithms; natural text is near 1."""
    import numpy as np
    from scipy.stats import linregress

    counts = Counter(token for part in parts for token in part.tokens)
    frequencies = sorted(counts.values(), reverse=True)[:RANKS]
    if len(frequencies) < 2:
        return math.nan
    return -float(linregress(np.log(np.arange(1, len(frequencies) + 1)), np.log(frequencies)).slope)


CORPUS = {
    "entropy": entropy,
    "entropy_bits": entropy_bits,
    "distinct_1": distinct_1,
    "distinct_2": distinct_2,
    "distinct_3": distinct_3,
    "self_bleu": self_bleu,
    "zipf": zipf,
}


# -- documents -----------------------------------------------------------------------------------------------------------


def nothing(*, n_samples: Any = 64, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of documents without text, one for each sample to draw.

    Raises:
        UserError: a number that is not one.
    """
    import datasets

    count = _count(n_samples)
    return {"test": datasets.Dataset.from_dict({"number": list(range(count)), "prefix": [""] * count})}


def passages(*, n_samples: Any = 64, words: int = 32, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of passages of the wikitext-2 test pages: `prefix`, `truth` and `suffix`, so many words each.

    Paragraphs that are long enough are taken at even distances; lm-eval's detokenizer makes them plain text.
    """
    import datasets
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    pages = datasets.load_dataset("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", split="test")["page"]
    lines = [line.split() for page in pages for line in wikitext_detokenizer({"page": page}).split("\n")]
    long = [line for line in lines if len(line) >= 3 * words and line[0][0] != "="]
    if not long:
        raise UserError(f"wikitext-2 has no paragraph of {3 * words} words in its test pages")
    count = min(_count(n_samples), len(long))
    chosen = [long[i * len(long) // count] for i in range(count)]
    cut = [[" ".join(line[at : at + words]) for at in (0, words, 2 * words)] for line in chosen]
    return {"test": datasets.Dataset.from_list([{"prefix": a, "truth": " " + b, "suffix": " " + c} for a, b, c in cut])}


def _count(value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise UserError(f"--metadata n_samples '{value}' is not allowed; it must be a whole number of at least 1")
    return count

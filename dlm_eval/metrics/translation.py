"""BLEU of translations, by sacrebleu (Post 2018, arXiv 1804.08771).

`bleu_lower_13a` and `bleu_lower_intl` compare lower-cased texts under sacrebleu's tokenizers 13a and
intl, as DiffusionLLM's code does. `bleu` is sacrebleu's default: mixed case, 13a. All are corpus
BLEU from 0 to 100 with one reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def into_english(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Returns (reference, translation) for each metric of a document with a translation into
    English."""
    return _pairs(doc["translation"]["en"], results[0])


def into_german(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The same for a translation into German."""
    return _pairs(doc["translation"]["de"], results[0])


def into_french(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The same for a translation into French."""
    return _pairs(doc["translation"]["fr"], results[0])


def _pairs(reference: str, written: str) -> dict[str, tuple[str, str]]:
    return dict.fromkeys(("bleu_lower_13a", "bleu_lower_intl", "bleu"), (reference, written))


def bleu_lower_13a(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns corpus BLEU (0 to 100) of lower-cased (reference, translation), tokenizer 13a."""
    return _bleu(pairs, lowercase=True, tokenize="13a")


def bleu_lower_intl(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns corpus BLEU (0 to 100) of lower-cased (reference, translation), tokenizer intl."""
    return _bleu(pairs, lowercase=True, tokenize="intl")


def bleu(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns corpus BLEU (0 to 100) of (reference, translation), sacrebleu's default."""
    return _bleu(pairs, lowercase=False, tokenize="13a")


def _bleu(pairs: Sequence[tuple[str, str]], lowercase: bool, tokenize: str) -> float:
    from sacrebleu.metrics import BLEU

    references, written = zip(*pairs, strict=True)
    scorer = BLEU(lowercase=lowercase, tokenize=tokenize)
    return float(scorer.corpus_score(list(written), [list(references)]).score)

"""TyDiQA GoldP as DiffusionLLM scores it (Ye et al. 2023, arXiv 2308.12219; scripts/metric_instruct.py).

`exact_match` is equality with an answer up to outer spaces. `language_match` is whether answer and
reference are in the same language. The authors identify languages by fastText, whose model is a
download of its own; here it is langdetect, which has its profiles in the package.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

SEED = 0  # langdetect samples n-grams of a text


def results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Returns exact match (also with the subject, for the mean over languages) and whether the
    language is that of the first reference."""
    written, answers = results[0].strip(), [text.strip() for text in doc["answers"]["text"]]
    right = float(written in answers)
    return {
        "exact_match": right,
        "exact_match_macro": (doc["subject"], right),
        "language_match": float(language(written) == language(answers[0])),
    }


@functools.lru_cache(maxsize=4096)
def language(text: str) -> str | None:
    """Returns the ISO 639-1 code of a text's language; None for a text without letters."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = _detectors().create()
    detector.seed = SEED
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:  # there is no letter in it
        return None


@functools.cache
def _detectors() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    return factory

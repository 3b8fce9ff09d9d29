"""Texts that are stored as the tokens of Moses, such as IWSLT14's (sacremoses)."""

from __future__ import annotations

import functools
from typing import Any


def plain_text(docs: Any) -> Any:
    """Returns documents whose texts in `translation` are no longer tokenised by Moses."""
    return docs.map(_plain, load_from_cache_file=False)


def _plain(doc: dict[str, Any]) -> dict[str, Any]:
    texts = doc["translation"].items()
    return {"translation": {lang: _detokenizer(lang).detokenize(t.split()) for lang, t in texts}}


@functools.cache
def _detokenizer(language: str) -> Any:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(lang=language)

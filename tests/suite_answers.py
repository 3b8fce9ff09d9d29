"""A model of lm-eval whose answers are given in a file: what a perfect or a wrong model would say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.registry import register_model

NAME = "given_answers"
PREFERRED, OTHER = -1.0, -200.0  # nats


@register_model(NAME)
class GivenAnswers(TemplateLM):  # type: ignore[misc]
    """Prefers the continuations that its file lists as [context, continuation]; others are unlikely.

    A whole text has `OTHER` nats.
    """

    def __init__(self, answers: str = "", **_: Any) -> None:
        super().__init__()
        pairs = json.loads(Path(answers).read_text()) if answers else []
        self._preferred = {(context, continuation) for context, continuation in pairs}

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: Any = None) -> LM:
        return cls(**arg_dict)

    @property
    def tokenizer_name(self) -> str:
        return NAME

    @property
    def eot_token_id(self) -> int:
        return 0

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return list(string.encode())

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Of choices that are encoded apart; for each token, since the score may be their mean."""
        known = [(tuple(texts[:2]) in self._preferred, len(ids)) for texts, _, ids in requests]
        return [((PREFERRED if it else OTHER) * count, it) for it, count in known]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        known = [tuple(request.args[:2]) in self._preferred for request in requests]
        return [(PREFERRED if it else OTHER, it) for it in known]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [OTHER for _ in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return ["" for _ in requests]

"""Models that lm-eval itself knows, on the same tasks: the autoregressive baselines of the boards.

They cannot look behind a hole. On an infilling task they get what the papers' baselines got: the prefix alone, and as many tokens as the hole has.
"""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model

from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.decode_options import DecodeOptions, is_ours
from dlm_eval.harness.packages import missing_package
from dlm_eval.harness.requests import hole_length
from dlm_eval.models.chat import render_chat


def load_baseline(
    name: str, model_args: Mapping[str, Any], batch_size: Any, max_batch_size: Any, device: str | None
) -> LM:
    """Returns lm-eval's model `name`, made able to take our tasks' requests.

    Raises:
        UserError: the model cannot be made from these arguments.
    """
    extra = {"batch_size": batch_size, "max_batch_size": max_batch_size, "device": device}
    try:
        lm = get_model(name).create_from_arg_obj(
            dict(model_args), {k: v for k, v in extra.items() if k not in model_args}
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        if needed := missing_package(error):
            raise UserError(f"--model '{name}' {needed}") from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"--model '{name}' cannot be made with {dict(model_args)}: {type(error).__name__}: {reason}"
        ) from error
    lm.generate_until = types.MethodType(_prefix_only(lm.generate_until), lm)
    _bound_template(lm, str(model_args.get("pretrained") or name))
    return lm


def _bound_template(lm: Any, name: str) -> None:
    """Gives the model's tokenizer, if it is one of transformers', our bounded rendering of its chat template."""
    from jinja2 import TemplateError
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(lm, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return

    def apply_chat_template(messages: Any, tokenize: bool = False, **options: Any) -> Any:
        try:
            text = render_chat(tokenizer, messages, Path(name).name if os.path.exists(name) else name, **options)
        except SampleError as error:
            raise TemplateError(str(error)) from None  # which lm-eval's models know
        return tokenizer.encode(text, add_special_tokens=False) if tokenize else text

    tokenizer.apply_chat_template = apply_chat_template


def _prefix_only(generate: Any) -> Any:
    def generate_until(lm: Any, requests: list[Instance]) -> list[str]:
        return list(generate([_plain(lm, request) for request in requests]))

    return generate_until


def _plain(lm: Any, request: Instance) -> Instance:
    """Returns the request with our keys translated (the hole's length) or dropped (its suffix, diffusion decoding)."""
    context, arguments = request.args
    if not any(is_ours(key) for key in arguments):
        return request
    kept = {key: value for key, value in arguments.items() if not is_ours(key)}
    if "infill_length" in arguments:
        hole = DecodeOptions().request(arguments).hole
        kept["max_gen_toks"] = hole_length(_Tokens(lm), dataclasses.replace(hole, suffix=""), context)  # type: ignore[arg-type]
    return dataclasses.replace(request, arguments=(context, kept))


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """As much of a Denoiser as measuring a length needs."""

    lm: Any
    needs_bos: bool = False
    bos_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(self.lm.tok_encode(text, add_special_tokens=False))

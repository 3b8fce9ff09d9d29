"""lm-eval's own models on the same tasks: the autoregressive baselines of leaderboards.

They cannot see the text after a hole. On an infilling task they get what the papers' baselines got:
only the prefix, and as many tokens as the hole has.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model

from dlm_eval.errors import UserError
from dlm_eval.harness.decode_config import is_ours
from dlm_eval.harness.lm_eval_patches import bounded_chat_template, prefix_only
from dlm_eval.harness.requests import HOLE, hole_length
from dlm_eval.harness.requirements import missing_package


def load_baseline(
    name: str, model_args: Mapping[str, Any], batch_size: Any, max_batch_size: Any, device: str | None
) -> LM:
    """Returns lm-eval's model `name`, adapted to the requests of our tasks.

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
    prefix_only(lm, _plain)
    source = str(model_args.get("pretrained") or name)
    bounded_chat_template(lm, Path(source).name if os.path.exists(source) else source)
    return lm


def _plain(lm: Any, request: Instance) -> Instance:
    """Returns the request with our keys translated (length of the hole) or removed (suffix, decode
    settings).
    """
    context, arguments = request.args
    if not any(is_ours(key) for key in arguments):
        return request
    kept = {key: value for key, value in arguments.items() if not is_ours(key)}
    if (hole := arguments.get(HOLE)) is not None:
        kept["max_gen_toks"] = hole_length(_Tokens(lm), dataclasses.replace(hole, suffix=""), context)  # type: ignore[arg-type]
    return dataclasses.replace(request, arguments=(context, kept))


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """The part of a Denoiser that measuring a length needs."""

    lm: Any
    needs_bos: bool = False
    bos_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(self.lm.tok_encode(text, add_special_tokens=False))

"""The end-of-text token of a strategy: what its option `eos_token_id` asks for, or the model's."""

from __future__ import annotations

from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import value_error


def end_ids(asked: int | None, model: Denoiser) -> tuple[int, ...]:
    """Returns the end token that was asked for, or all of the model's."""
    return model.eos_ids if asked is None else (asked,)


def end_token(strategy: str, asked: int | None, model: Denoiser) -> int:
    """Returns the end token that was asked for, or the model's first.

    Raises:
        UserError: the model has none.
    """
    ends = end_ids(asked, model)
    if not ends:
        raise UserError(
            f"decode strategy '{strategy}': {model.name} names no end-of-text token; set eos_token_id"
        )
    return ends[0]


def check_end(asked: int | None, model: Denoiser) -> None:
    """Raises UserError if the model does not predict the end token that was asked for."""
    if asked is not None and asked >= model.vocab_size:
        allowed = f"an id that {model.name} predicts, 0 to {model.vocab_size - 1}"
        raise value_error("decode eos_token_id", asked, allowed)

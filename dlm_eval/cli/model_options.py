"""The model that --model, --model_args and --device name, for commands that load one themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError

if TYPE_CHECKING:
    from dlm_eval.models.denoiser import Denoiser


def model_arguments(words: Sequence[str] | None) -> dict[str, Any]:
    """Returns the model's own options, from the words of --model_args.

    Raises:
        UserError: they are not key=value.
    """
    from dlm_eval.settings import parse_pairs

    return dict(parse_pairs(",".join(words or ()), "--model_args"))


def load_chosen(name: str, arguments: dict[str, Any], device: str | None) -> Denoiser:
    """Returns the model `name`.

    Args:
        arguments: the model's own options.
        device: of --device, or None.

    Raises:
        UserError: the device is named twice, or is none of this machine; see also `load_model`.
    """
    from dlm_eval.models import check_device, load_model

    if device is None:
        return load_model(name, **arguments)
    if "device" in arguments:
        raise UserError("--device and device of --model_args exclude each other; give one")
    check_device(name, device, "--device")
    return load_model(name, **arguments, device=device)

"""The models by name (checkpoints.yaml), and `load_model`, which makes a `Denoiser` of a name.

A family is a module with `FAMILY`, a `models.family.FamilySpec`, or with a function `load(settings)
-> Denoiser` whose annotation of `settings` is the frozen dataclass of its options. Families come
from the table, from the entry-point group `dlm_eval.models` of installed packages, and from a file:
`--model path/to/my_model.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlm_eval.errors import DlmEvalError, UserError
from dlm_eval.models.catalog import (
    Checkpoint,
    Family,
    baselines,
    check_members,
    check_supported,
    checkpoints,
    describe_source,
    find_checkpoint,
    given,
    known_families,
    loader_of,
    option_docs,
    option_names,
    own_families,
    packaged_asset,
    process_of,
    settings_of,
    strategy_of,
    unsupported,
)
from dlm_eval.reasons import reason

if TYPE_CHECKING:
    from dlm_eval.models.denoiser import Denoiser

__all__ = [
    "Checkpoint",
    "Family",
    "baselines",
    "check_device",
    "check_supported",
    "checkpoints",
    "find_checkpoint",
    "given",
    "known_families",
    "load_model",
    "load_without_weights",
    "option_docs",
    "option_names",
    "packaged_asset",
    "process_of",
    "strategy_of",
    "unsupported",
]


def load_model(name: str, **options: Any) -> Denoiser:
    """Returns the denoiser of a family, a named checkpoint or a file, on its device and checked by
    probes.

    Args:
        name: a family (`llada`), a named checkpoint (`llada-8b-instruct`) or the path of a Python
            file with `load(settings)`.
        options: the family's options, such as `pretrained`, `revision`, `dtype`, `device` (strings
            are cast).

    Raises:
        UserError: an unknown name or option, or a checkpoint that cannot be used; one line that
            says what to do.
    """
    from dlm_eval.models.probes import check_cache, probe

    checkpoint = find_checkpoint(name)
    loader = loader_of(checkpoint)
    settings = settings_of(loader, checkpoint, options)
    try:
        model = loader.load(settings)
        if not loader.tests:
            check_members(model, name)
            probe(model, own=True)
        if loader.source:
            describe_source(model, loader.source)
        check_cache(model, declared=not loader.tests)
    except DlmEvalError:
        raise
    # The user's code may raise anything, and so may libraries over a file that nobody foresaw.
    except Exception as error:
        raise UserError(
            f"model '{name}' cannot be loaded: {reason(error)} (--verbosity DEBUG shows where)"
        ) from error
    return model


def check_device(name: str, device: str, what: str, here: bool = True) -> None:
    """Checks a model's device before the model is loaded.

    Args:
        name: family, named checkpoint or file.
        device: value of the setting.
        what: name of the setting in messages.
        here: whether this machine must have the device. Families of other packages and files may
            know devices that we do not: they are not checked.

    Raises:
        UserError: the model has no devices, there is no such device, or this machine lacks it.
    """
    if "device" not in option_names(name):
        raise UserError(
            f"{what} '{device}' is not possible: model '{name}' has no devices; leave it out"
        )
    if find_checkpoint(name).family in own_families():
        from dlm_eval.models.loading import check_device_name, resolve_device

        if here:
            resolve_device(device, what)
        else:
            check_device_name(device, what)


def load_without_weights(name: str, **options: Any) -> Denoiser:
    """Returns a denoiser that runs nothing, for the driver of workers: it knows texts, ids and facts.

    Models of a file or of another package are loaded whole, on the CPU.

    Raises:
        UserError: as `load_model`.
    """
    ours = find_checkpoint(name).family in own_families()
    if "device" in option_names(name):
        options = {**options, "device": "meta" if ours else "cpu"}
        options.pop("device_map", None)
    if ours and "probe" in option_names(name):
        options["probe"] = False
    return load_model(name, **options)

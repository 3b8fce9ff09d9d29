"""`generic` and `ar2diff`: any checkpoint of transformers, so that tomorrow's model runs without
new code.

    --model generic --model_args
    pretrained=DIR,mask_id=151669,shift=true,attention=block,block_length=32

`generic` is described by options. AR2Diff (Han et al. 2024, arXiv 2401.17181) is a causal language
model trained on with SUNDAE, read with full attention. It has no mask token: open positions hold
random tokens, and every position is predicted in its own place. The authors published no weights;
scripts/train_sundae.py trains such a model. Any class with a token head that obeys is_causal=False
will do.

Shape letters: B = rows, L = positions, H = hidden size, V = vocabulary, N = wanted positions of the
batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dlm_eval.errors import UserError, nearest
from dlm_eval.models.config_keys import ConfigKeys, check_class
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint, build_denoiser
from dlm_eval.models.loading import CheckpointFiles, LoadSettings, first_line, locate, read_config
from dlm_eval.models.probes import check_shift
from dlm_eval.models.transformer import TransformersDenoiser
from dlm_eval.models.weights import Pretrained

ANY_KEYS = ConfigKeys("any", {})  # the class that is found brings the table
SAME = 1e-3  # relative difference between a linear head and the model's own logits


@dataclass(frozen=True)
class ArchitectureSettings(LoadSettings):
    """Options of families that take any class of transformers.

    Attributes:
        architecture: transformers class to load the weights into, such as Qwen2ForCausalLM, if
            config.json names foreign code.
    """

    architecture: str | None = None


@dataclass(frozen=True)
class GenericSettings(ArchitectureSettings):
    """Options of `generic`.

    Attributes:
        shift: whether the distribution of token i is read at position i-1.
        attention: what a position sees: full (everything) or block (its block and those before).
        block_length: positions of a block; needed for attention=block.
        process: absorbing (open positions hold the mask) or uniform (random tokens; there is no
            mask).
        eos_id: id that ends a text, before those of the files.
        bos_id: id that begins a text if the files name none.
    """

    shift: bool = False
    attention: Literal["full", "block"] = "full"
    block_length: int | None = None
    process: Literal["absorbing", "uniform"] = "absorbing"
    eos_id: int | None = None
    bos_id: int | None = None


class WholeDenoiser(TransformersDenoiser):
    """For models whose logits are no linear map of states (BERT's transform, Gemma's cap)."""

    def no_cache_reason(self) -> str:
        """Returns why there is no KV cache."""
        return "logits are not a linear map of hidden states"

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the model's own logits [B, L, V]."""
        logits: Tensor = self.model(input_ids=tokens, **self.inputs(tokens, valid)).logits
        return logits

    def read(self, hidden: Tensor) -> Tensor:
        """Returns what `hidden` gave, in float32."""
        return hidden.float()


def load(settings: GenericSettings) -> TransformersDenoiser:
    """Returns the denoiser of a transformers checkpoint.

    Raises:
        UserError: an option is missing, transformers lacks the class, or a probe failed (a class
            that stays causal, ...).
    """
    if settings.block_length is not None and settings.block_length < 1:
        raise UserError(
            f"model_args block_length '{settings.block_length}' is not allowed; it must be 1 or "
            "more"
        )
    if (settings.attention == "block") != (settings.block_length is not None):
        raise UserError(
            f"model_args block_length '{settings.block_length}' does not go with attention "
            f"'{settings.attention}'; "
            "attention=block needs a block_length, attention=full none"
        )
    named = {"eos_token_id": settings.eos_id, "bos_token_id": settings.bos_id}
    denoiser = load_any(
        FamilySpec(
            "generic",
            ANY_KEYS,
            network,
            shift=settings.shift,
            causal_blocks=lambda _: settings.block_length,
            process=settings.process,
            denoiser=head_kind,
        ),
        settings,
        {key: value for key, value in named.items() if value is not None},
    )
    for option, value in (("eos_id", settings.eos_id), ("bos_id", settings.bos_id)):
        if value is None:
            continue
        if not 0 <= value < denoiser.vocab_size:
            raise UserError(
                f"model_args {option} '{value}' is not possible; it must be 0 to "
                f"{denoiser.vocab_size - 1}"
            )
        denoiser.facts.described[option] = value  # it changes answers, and no file says it
    if settings.probe and settings.process == "absorbing":
        check_shift(denoiser, settings.shift)
    return denoiser


def load_any(
    spec: FamilySpec, settings: ArchitectureSettings, stated: Mapping[str, Any]
) -> TransformersDenoiser:
    """Returns the denoiser of a checkpoint of any class of transformers.

    Args:
        spec: the family.
        settings: `architecture` names the class if config.json names foreign code.
        stated: entries that go before those of config.json.
    """
    files = replace(locate(settings.pretrained, settings.revision), notes={})
    return build_denoiser(
        spec, OpenedCheckpoint(files, {**read_config(files), **stated}, {}, settings)
    )


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns the class that carries a checkpoint, with full attention."""
    assert isinstance(opened.settings, ArchitectureSettings)
    architecture = opened.settings.architecture
    config, model_class = class_and_config(
        architecture, opened.files, opened.config, opened.settings
    )
    config.is_causal = False
    return Pretrained(model_class, config)


def class_and_config(
    architecture: str | None, folder: CheckpointFiles, raw: dict[str, Any], settings: LoadSettings
) -> tuple[Any, Any]:
    """Returns the config of a checkpoint and the transformers class that carries it:
    `architecture`, else what its files say.

    Raises:
        UserError: transformers has no such class, or config.json lacks what that class needs or
            says what it does not read.
    """
    if architecture is None:
        config, model_class = _native(folder, raw)
        check_class(type(config), raw, folder, settings)
        return config, model_class
    model_class = _named(architecture)
    return model_class.config_class(
        **check_class(model_class.config_class, raw, folder, settings)
    ), model_class


def head_kind(model: Any) -> type[TransformersDenoiser]:
    """Returns the denoiser that reads this head: a linear one at wanted positions only."""
    return TransformersDenoiser if _head_is_linear(model) else WholeDenoiser


def _named(architecture: str) -> Any:
    """Returns the transformers class of that name."""
    import transformers

    model_class = getattr(transformers, architecture, None)
    if model_class is None or not architecture.endswith(("ForCausalLM", "ForMaskedLM")):
        names = [
            name for name in dir(transformers) if name.endswith(("ForCausalLM", "ForMaskedLM"))
        ]
        near = ", ".join(nearest(architecture, names, 3)) or "LlamaForCausalLM"
        raise UserError(
            f"model_args architecture '{architecture}' is no transformers class with a token head; "
            f"such as {near}"
        )
    return model_class


def _native(folder: CheckpointFiles, raw: dict[str, Any]) -> tuple[Any, Any]:
    """Returns transformers' config and class, masked if the files say so, else causal."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    try:
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        kind = raw.get("model_type")
        raise UserError(
            f"pretrained '{folder.name}': transformers has no class for model_type '{kind}' "
            f"without remote code ({first_line(error)}); "
            "use its family's adapter, or name the class that it is made after with architecture="
        ) from None
    masked = any("MaskedLM" in name for name in raw.get("architectures") or [])
    table = (AutoModelForMaskedLM if masked else AutoModelForCausalLM)._model_mapping
    if type(config) not in table:
        raise UserError(
            f"pretrained '{folder.name}': transformers' {type(config).__name__} has no model that "
            "predicts tokens"
        )
    return config, table[type(config)]


@torch.inference_mode()
def _head_is_linear(model: Any) -> bool:
    """Returns whether output embedding times last hidden states gives the model's logits."""
    tokens = torch.arange(1, 9, device=model.get_input_embeddings().weight.device)[None]
    head = model.get_output_embeddings()
    if head is None or not hasattr(head, "weight") or head.weight.is_meta:
        return False
    whole = model(input_ids=tokens).logits.float()
    states = model.base_model(input_ids=tokens)[0].to(head.weight.device)
    if states.shape[-1] != head.weight.shape[1]:
        return False
    bias = getattr(head, "bias", None)
    linear = torch.nn.functional.linear(states.to(head.weight.dtype), head.weight, bias).float()
    coarse = 1.0 if head.weight.dtype == torch.float32 else 50.0
    return bool(
        (whole.to(linear.device) - linear).abs().max() <= coarse * SAME * linear.abs().max()
    )


# -- AR2Diff ---------------------------------------------------------------------------------------


AR2DIFF = FamilySpec("ar2diff", ANY_KEYS, network, process="uniform", denoiser=head_kind)


def load_ar2diff(settings: ArchitectureSettings) -> TransformersDenoiser:
    """Returns the denoiser of a transformers checkpoint that undoes random tokens.

    Raises:
        UserError: transformers lacks the class, or a probe failed (a class that stays causal, ...).
    """
    return load_any(AR2DIFF, settings, {})

"""A family of checkpoints as a declaration, and the one way from a checkpoint to a tested denoiser.

folder -> config.json against the family's keys -> tokenizer -> network with weights -> denoiser ->
probes

A family module states a `FamilySpec` under the name `FAMILY`. What only this family does is a
function in one of its fields, which is given the opened checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import ConfigKeys, read_values
from dlm_eval.models.denoiser import NO_MASK, Attention, Process
from dlm_eval.models.loading import (
    CheckpointFiles,
    LoadSettings,
    locate,
    read_config,
    require_family,
)
from dlm_eval.models.lora_config import adapter_files
from dlm_eval.models.probes import probe
from dlm_eval.models.tokenizer_files import read_tokenizer
from dlm_eval.models.transformer import ModelFacts, TransformersDenoiser
from dlm_eval.models.weight_files import hash_weights, sha256_of
from dlm_eval.models.weights import Network

LONGEST_BLOCK = 2**14
DEFAULT_LENGTH = 2048  # of networks whose config names no limit
TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockSettings(LoadSettings):
    """Options of block-causal families.

    Attributes:
        block_length: positions of a block; None for the checkpoint's own, which it was trained
            with.
    """

    block_length: int | None = None


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint whose config.json was read.

    Attributes:
        files: where it is.
        config: its config.json.
        values: what the family reads of it.
        settings: the user's options.
    """

    files: CheckpointFiles
    config: dict[str, Any]
    values: dict[str, Any]
    settings: LoadSettings

    def without(self, *keys: str) -> dict[str, Any]:
        """Returns the values but those of `keys`."""
        return {key: value for key, value in self.values.items() if key not in keys}

    def error(self, what: str) -> UserError:
        """Returns the error that `what` is wrong with this checkpoint."""
        return UserError(f"pretrained '{self.files.name}'{what}")


@dataclass(frozen=True)
class FamilySpec:
    """What a family of checkpoints is.

    Attributes:
        name: what --model takes.
        keys: what it makes of each key of config.json, or a function that chooses the table by the
            file.
        network: returns the class and config (`Pretrained`) or the module (`OwnModule`) of a
            checkpoint.
        settings: dataclass of its options.
        shift: whether the distribution of token i is read at position i-1.
        causal_blocks: returns the block length of a block-causal checkpoint, None for full
            attention.
        autoregressive: returns whether a checkpoint reads a text as an autoregressive one does: each
            position sees those before it alone, and the distribution of token i is read at position
            i-1. What masks behind the text see is up to the denoiser.
        process: corruption that it was trained to undo.
        bos_only_if_empty: whether BOS is put only before an empty prompt (trained without BOS).
        eos_tokens: texts of tokens that end a text, in order; those that the tokenizer lacks are
            left out.
        mask_token: text of the mask token.
        default_mask: mask id that the architecture implies, of the values of config.json.
        mask_may_be_regular: whether the mask may be an ordinary token, which texts can contain.
        tokenizer_class: transformers class for a folder without tokenizer.json.
        suppressed: returns ids that get no probability, of the checkpoint and the mask id.
        denoiser: returns the class that reads the network.
        longest: positions of the network, of its config, if `max_position_embeddings` is not that
            number.
        finish: completes the denoiser before it is tested.
    """

    name: str
    keys: ConfigKeys | Callable[[dict[str, Any]], ConfigKeys]
    network: Callable[[OpenedCheckpoint], Network]
    settings: type[LoadSettings] = LoadSettings
    shift: bool = False
    causal_blocks: Callable[[OpenedCheckpoint], int | None] = lambda _: None
    autoregressive: Callable[[OpenedCheckpoint], bool] = lambda _: False
    process: Process = "absorbing"
    bos_only_if_empty: bool = False
    eos_tokens: tuple[str, ...] = ()
    mask_token: str | None = None
    default_mask: Callable[[dict[str, Any]], int | None] = lambda _: None
    mask_may_be_regular: bool = False
    tokenizer_class: Any = None
    suppressed: Callable[[OpenedCheckpoint, int], tuple[int, ...]] = lambda *_: ()
    denoiser: Callable[[Any], type[TransformersDenoiser]] = lambda _: TransformersDenoiser
    longest: Callable[[Any], int] | None = None
    finish: Callable[[Any, OpenedCheckpoint], None] = lambda *_: None


def the_mask(opened: OpenedCheckpoint, mask_id: int) -> tuple[int, ...]:
    """Returns the mask alone: `FamilySpec.suppressed` of families that never predict it."""
    return (mask_id,)


def blocks_of(key: str, default: int, warn: bool = False) -> Callable[[OpenedCheckpoint], int]:
    """Returns `FamilySpec.causal_blocks` of a family whose config.json names its block by `key`.

    Args:
        key: of config.json.
        default: block of checkpoints that do not say.
        warn: whether the default is worth a warning.
    """

    def causal_blocks(opened: OpenedCheckpoint) -> int:
        asked, stated = asked_block(opened.settings), opened.values.get(key)
        if warn and asked is None and stated is None:
            name = opened.files.name
            log.warning(
                "%s names no block size; %d is taken, block_length= sets another", name, default
            )
        return int(asked or stated or default)

    return causal_blocks


def asked_block(settings: LoadSettings) -> int | None:
    """Returns the option block_length.

    Raises:
        UserError: it is below 1.
    """
    assert isinstance(settings, BlockSettings)
    if settings.block_length is not None and settings.block_length < 1:
        raise UserError(
            f"model_args block_length '{settings.block_length}' is not allowed; it must be 1 or "
            "more"
        )
    return settings.block_length


def load_family(spec: FamilySpec, settings: LoadSettings) -> TransformersDenoiser:
    """Returns the tested denoiser of a checkpoint.

    Raises:
        UserError: no such checkpoint, another family's, a config.json or weights that do not fit,
            or a probe failed.
    """
    return build_denoiser(spec, open_checkpoint(spec, settings))


def open_checkpoint(spec: FamilySpec, settings: LoadSettings) -> OpenedCheckpoint:
    """Returns a checkpoint's folder, its config.json, and the values that the family reads of it.

    Raises:
        UserError: no such checkpoint, another family's, or a config.json that the table refuses.
    """
    # what `locate` returns is shared
    files = replace(locate(settings.pretrained, settings.revision), notes={})
    config = read_config(files)
    keys = spec.keys(config) if callable(spec.keys) else spec.keys
    require_family(config, files, keys.family)
    return OpenedCheckpoint(files, config, read_values(config, keys, files, settings), settings)


def build_denoiser(spec: FamilySpec, opened: OpenedCheckpoint) -> TransformersDenoiser:
    """Returns the denoiser of an opened checkpoint, after its tests.

    Raises:
        UserError: no tokenizer or mask, weights that do not fit, an impossible length, or a probe
            failed.
    """
    files, settings = opened.files, opened.settings
    causal = spec.autoregressive(opened)
    block = None if causal else spec.causal_blocks(opened)
    if block is not None and (type(block) is not int or not 1 <= block <= LONGEST_BLOCK):
        raise UserError(
            f"{spec.name} ({files.name}): block length {str(block)[:40]} is not possible; it must "
            f"be 1 to {LONGEST_BLOCK}"
        )
    network = spec.network(opened)
    tokens = read_tokenizer(
        files,
        opened.config,
        settings if spec.process == "absorbing" else replace(settings, mask_id=NO_MASK),
        spec.eos_tokens,
        spec.mask_token,
        spec.tokenizer_class,
        spec.default_mask(opened.values),
        spec.mask_may_be_regular,
    )
    if not tokens.eos_ids and spec.process == "absorbing":
        log.warning("%s names no end-of-text token; every open position is written", files.name)
    model = network.load(files, settings)
    attention: Attention = "causal" if causal else "full" if block is None else "block"
    facts = ModelFacts(
        spec.name, spec.shift or causal, attention, block, spec.process, spec.bos_only_if_empty,
        spec.suppressed(opened, tokens.mask_id),
        {"checkpoint": settings.checkpoint or None, **identity(files, settings), **files.notes},
    )  # fmt: skip
    denoiser = spec.denoiser(model)(
        model,
        tokens,
        facts,
        f"{spec.name} ({settings.checkpoint or files.name})",
        _longest(spec, model, settings),
    )
    spec.finish(denoiser, opened)
    if settings.probe:
        probe(denoiser)
    denoiser.run_tests()
    return denoiser


def _longest(spec: FamilySpec, model: Any, settings: LoadSettings) -> int:
    """Returns the longest sequence: the option, else the network's number of positions."""
    # transformers keeps the sizes of networks of several modalities in a config of the text part.
    sizes = getattr(model.config, "text_config", model.config)
    positions = (
        spec.longest(sizes) if spec.longest else getattr(sizes, "max_position_embeddings", None)
    )
    if settings.max_length is not None and not 1 <= settings.max_length <= (
        positions or settings.max_length
    ):
        raise UserError(
            f"model_args max_length '{settings.max_length}' is not possible; the network has "
            f"{positions} positions"
        )
    return settings.max_length or positions or DEFAULT_LENGTH


def identity(files: CheckpointFiles, settings: LoadSettings) -> dict[str, Any]:
    """Returns what a fingerprint needs of the files: names, commit, hashes, and no path."""
    import transformers

    text = locate(settings.tokenizer, setting="tokenizer") if settings.tokenizer else files
    texts = {file for name in TOKENIZER_FILES for file in text.path.glob(name) if file.is_file()}
    described: dict[str, Any] = {
        "pretrained": files.name,
        "revision": files.commit or settings.revision,
        "weights_sha256": hash_weights(files.weights),
        "config_sha256": sha256_of([files.path / "config.json"]),
        "tokenizer_sha256": sha256_of(sorted(texts)),
        "transformers": transformers.__version__,
    }
    if settings.peft:
        adapter = locate(settings.peft, setting="peft")
        described |= {"peft": adapter.name, "peft_sha256": sha256_of(adapter_files(adapter.path))}
    return described | ({"quantization": settings.quantization} if settings.quantization else {})

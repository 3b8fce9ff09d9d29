"""E2D2 (Arriola et al. 2025, arXiv 2510.22852): an encoder of clean text, and a decoder of one noisy
block.

The encoder is block-causal, and every position sees the prompt. The decoder's positions see their
own block and the clean blocks before it. In `ShareKV` checkpoints, a decoder layer reads the keys
and values of the encoder's layer of its number; in others, it makes them of the encoder's last
states (kuleshov-group/e2d2 025bbfc, `src/backbone/encoder_decoder.py`, `src/denoiser/diffusion.py`).

A row is a text whose masks are in its last block. All of it runs through both parts: each block is
decoded as if those before it were clean.

Shape letters: B = rows, L = positions that run, K = cached positions and those, H = hidden size,
h = heads, d = head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3DecoderLayer,
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
    apply_rotary_pos_emb,
)

from dlm_eval.models.config_keys import QWEN3, ConfigKeys, check
from dlm_eval.models.config_tables import COUNT, FLAG, INDEX, NO, NONE, TEXT, Kind
from dlm_eval.models.family import (
    BlockSettings,
    FamilySpec,
    OpenedCheckpoint,
    asked_block,
    the_mask,
)
from dlm_eval.models.kv_cache import BatchKV, LayerCache, additive_mask, visible_positions
from dlm_eval.models.loading import config_of
from dlm_eval.models.network import Network
from dlm_eval.models.transformer import TransformersDenoiser, token_positions, wanted_places
from dlm_eval.models.weights import OwnModule

SHARED, LAST_STATES = "LLMasEncoderDecoderShareKV", "LLMasEncoderDecoder"


@dataclass(frozen=True)
class E2D2Settings(BlockSettings):
    """Options of E2D2.

    Attributes:
        backbone: hub id or folder whose config.json has the sizes of the Qwen3 that the network is
            made of; None for `backbone_model_config` of the checkpoint's config.json, else the hub
            id that it names.
        bidirectional_prefix: whether all of the text before a block is read in both directions, as
            the authors' code does without its cache (`use_cache=False`); else the prompt alone.
    """

    backbone: str | None = None
    bidirectional_prefix: bool = False


# -- the network -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """How encoder and decoder belong together.

    Attributes:
        encoder_layers, decoder_layers: their numbers.
        tied: whether the decoder is the top of the encoder.
        reads: number of the encoder's layer whose keys and values each decoder layer reads; None if
            it makes them of the encoder's last states.
    """

    encoder_layers: int
    decoder_layers: int
    tied: bool
    reads: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Seen:
    """What positions see, as additive masks.

    Attributes:
        encoder: [B, 1, L, K] of clean text.
        decoder: [B, 1, L, K + L] of clean text, then of the noisy block.
    """

    encoder: Tensor
    decoder: Tensor


class E2D2(Network):
    """The network up to its head: tokens [B, L] to the decoder's states [B, L, H]."""

    embedding_name, head_name = "embed", "head"

    def __init__(self, config: Qwen3Config, parts: Parts) -> None:
        super().__init__()
        self.config, self.parts = config, parts
        size = config.hidden_size
        self.embed = nn.Embedding(config.vocab_size, size)
        self.encoder = nn.ModuleList(
            Qwen3DecoderLayer(config, number) for number in range(parts.encoder_layers)
        )
        self.encoder_norm = Qwen3RMSNorm(size, config.rms_norm_eps)
        if not parts.tied:
            self.decoder = nn.ModuleList(
                Qwen3DecoderLayer(config, number) for number in range(parts.decoder_layers)
            )
            self.decoder_norm = Qwen3RMSNorm(size, config.rms_norm_eps)
        self.head = nn.Linear(size, config.vocab_size, bias=False)
        self.rotary = Qwen3RotaryEmbedding(config)

    def forward(self, tokens: Tensor, places: Tensor, seen: Seen, states: LayerCache) -> Tensor:
        """Returns the decoder's states [B, L, H] before the head.

        Args:
            tokens: [B, L] long.
            places: [B or 1, L] positions in the text.
            seen: what they see.
            states: collects keys and values of clean text, and gives cached ones.
        """
        embedded = self.embed(tokens)
        turn = self.rotary(embedded, places)
        clean, known = embedded, []
        for number, layer in enumerate(layers_of(self.encoder)):
            normed = layer.input_layernorm(clean)
            known.append(states.update(*keys_values(layer, normed, turn), number))
            clean = block(layer, clean, normed, known[-1], turn, seen.encoder)
        clean = self.encoder_norm(clean)
        noisy = embedded
        for number, layer in enumerate(layers_of(self._decoder)):
            normed = layer.input_layernorm(noisy)
            if self.parts.reads is not None:
                before = known[self.parts.reads[number]]
            else:
                fresh = keys_values(layer, layer.input_layernorm(clean), turn)
                before = states.update(*fresh, self.parts.encoder_layers + number)
            own = keys_values(layer, normed, turn)
            keys, values = (torch.cat(pair, 2) for pair in zip(before, own, strict=True))
            noisy = block(layer, noisy, normed, (keys, values), turn, seen.decoder)
        found: Tensor = (self.encoder_norm if self.parts.tied else self.decoder_norm)(noisy)
        return found

    @property
    def _decoder(self) -> nn.ModuleList:
        tied = self.parts.tied
        return self.encoder[-self.parts.decoder_layers :] if tied else self.decoder


def layers_of(part: nn.ModuleList) -> list[Any]:
    """Returns the layers of a part; torch does not say of what class they are."""
    return list(part)


def heads(states: Tensor, size: int) -> Tensor:
    """Returns states [B, L, h d] as [B, L, h, d]."""
    return states.view(*states.shape[:2], -1, size)


def keys_values(layer: Any, normed: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns a layer's keys, turned to their places, and values [B, h, L, d] of normed states."""
    attention = layer.self_attn
    keys = attention.k_norm(heads(attention.k_proj(normed), attention.head_dim)).transpose(1, 2)
    keys, _ = apply_rotary_pos_emb(keys, keys, *turn)
    return keys, heads(attention.v_proj(normed), attention.head_dim).transpose(1, 2)


def block(
    layer: Any,
    states: Tensor,
    normed: Tensor,
    known: tuple[Tensor, Tensor],
    turn: tuple[Tensor, Tensor],
    mask: Tensor,
) -> Tensor:
    """Returns a layer's states [B, L, H], of which `normed` attend to keys and values `known`."""
    attention = layer.self_attn
    queries = attention.q_norm(heads(attention.q_proj(normed), attention.head_dim)).transpose(1, 2)
    queries, _ = apply_rotary_pos_emb(queries, queries, *turn)
    keys, values = (part.repeat_interleave(attention.num_key_value_groups, 1) for part in known)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    states = states + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    out: Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
    return out


# -- the denoiser ----------------------------------------------------------------------------------


class E2D2Denoiser(TransformersDenoiser):
    """Denoiser of an `E2D2` network (`denoiser.ReadsContext`).

    Attributes:
        bidirectional_prefix: as the option.
    """

    reads_context = True
    bidirectional_prefix = False

    def no_cache_reason(self) -> str:
        """Returns why there is no KV cache if that is known without a test, else ''."""
        return (
            "the text before a block is read anew in both directions"
            if self.bidirectional_prefix
            else ""
        )

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint."""
        return {**super().describe(), "bidirectional_prefix": self.bidirectional_prefix}

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        positions: Tensor | None = None,
        context: Tensor | None = None,
        blocks_from: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits of the token at each wanted position (see `Denoiser.logits`).

        Args:
            tokens, valid, positions: as there.
            context: [B] long, positions from the left that every position sees; None for none.
            blocks_from: [B] long, a position at which a block begins; None for 0.
        """
        tokens = tokens.to(self.device)
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        found = self.run(tokens, valid, None, LayerCache(None, False), context, blocks_from)
        return self._read_at(found, rows, columns, valid).view(*shape, self.vocab_size)

    @torch.no_grad()
    def forward_cached(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor,
        past: BatchKV | None,
        keep: bool,
        context: Tensor | None = None,
        blocks_from: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns logits, and keys and values (see `KVCacheDenoiser.forward_cached`)."""
        tokens, states = tokens.to(self.device), LayerCache(past, keep)
        valid = None if valid is None else valid.to(self.device)
        rows, columns = positions.to(self.device).nonzero(as_tuple=True)
        found = self.run(tokens, valid, past, states, context, blocks_from)
        return self._read_at(found, rows, columns, valid), states.states(self.device)

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the decoder's states [B, L, H] of a text without a prompt."""
        return self.run(tokens, valid, None, LayerCache(None, False))

    def run(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        past: BatchKV | None,
        states: LayerCache,
        context: Tensor | None = None,
        blocks_from: Tensor | None = None,
    ) -> Tensor:
        """Returns the decoder's states [B, L, H]; arguments as of `logits` and `forward_cached`."""
        places = token_positions(tokens, valid).expand(len(tokens), -1)
        if past is not None:
            places = places + past.begin[:, None]
        size = self.block_length or 1
        begin = torch.zeros(1, 1, dtype=torch.long) if blocks_from is None else blocks_from[:, None]
        number = (places - begin.to(places.device)) // size
        if self.bidirectional_prefix:
            before = number < number.amax(1, keepdim=True)
        elif context is not None:
            before = places < context.to(places.device)[:, None]
        else:
            before = torch.zeros_like(places, dtype=torch.bool)
        seen = seen_by(number, valid, before, past, self.dtype)
        found: Tensor = self.model(tokens, places, seen, states)
        return found


def seen_by(
    number: Tensor, valid: Tensor | None, context: Tensor, past: BatchKV | None, dtype: torch.dtype
) -> Seen:
    """Returns what positions see.

    Args:
        number: [B, L] of the block of each position.
        valid: [B, L] bool, false at padding, or None.
        context: [B, L] bool, positions that every position of the encoder sees.
        past: cached positions, which all see.
        dtype: of the masks.
    """
    own = visible_positions(number, valid, 1)  # [B, L, L] blocks up to its own, no padding
    same = number[:, :, None] == number[:, None]
    alone = torch.eye(number.shape[1], dtype=torch.bool, device=number.device)
    real = torch.ones_like(number, dtype=torch.bool) if valid is None else valid
    encoder = own | (context & real)[:, None]
    clean, noisy = own & ~same & real[:, None], same & real[:, None] | alone
    if past is not None:
        count, cached = past.states.shape[1], past.states.shape[3]
        known = torch.ones(count, cached, dtype=torch.bool) if past.valid is None else past.valid
        known = known.to(number.device)[:, None].expand(-1, number.shape[1], -1)
        encoder, clean = torch.cat([known, encoder], 2), torch.cat([known, clean], 2)
    return Seen(additive_mask(encoder, dtype), additive_mask(torch.cat([clean, noisy], 2), dtype))


# -- the checkpoint --------------------------------------------------------------------------------

MOST_LAYERS = 10_000
OURS = Kind(
    f"a class {SHARED} or {LAST_STATES}",
    lambda value: isinstance(value, str) and value.rpartition(".")[2] in (SHARED, LAST_STATES),
)
LAYERS = Kind(
    f"a whole number of 1 to {MOST_LAYERS}, or -1 for all",
    lambda value: type(value) is int and (value == -1 or 1 <= value <= MOST_LAYERS),
)
SIZES = (
    "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "num_hidden_layers",
)  # fmt: skip
FLAGS = (
    "tie_encoder_decoder_weights", "keep_top_encoder_layers", "keep_top_decoder_layers",
    "reinit_encoder", "reinit_decoder",
)  # fmt: skip
KEYS = ConfigKeys(
    "E2D2",
    needed={
        "block_size": COUNT,
        "length": COUNT,
        "backbone_config._target_": OURS,
    },
    read={
        "backbone_config.num_encoder_layers": LAYERS,
        "backbone_config.num_decoder_layers": LAYERS,
        "eval_block_size": COUNT,
        "tokenization_config.mask_token_id": INDEX,
        "backbone_config.pretrained_model_name_or_path": TEXT,
        **{f"backbone_config.{key}": FLAG for key in FLAGS},
        **{f"backbone_config.{key}": COUNT for key in SIZES},
    },
    defaults={"backbone_config.num_encoder_layers": -1, "backbone_config.num_decoder_layers": -1},
    usual={
        "backbone_config.use_encoder_causal_mask": NO,
        "diffusion_type": (None, "absorbing"),
        "time_conditioned_backbone": (None, False),
        "block_size": lambda value: True,
        "backbone_config.attn_implementation": NONE,
    },
    harmless=frozenset(
        {"T", "attn_backend", "backbone_model_config", "keep_clean_bos", "noise_config",
         "pad_vocab_size_multiple", "shift_logits", "tokenization_config", "tokenizer_name",
         "train_on_context", "vocab_size", "backbone_config.attn_backend",
         "backbone_config.freeze_encoder", "backbone_config.max_length",
         "backbone_config.use_gradient_checkpointing"}
    ),
)  # fmt: skip


def _sizes(opened: OpenedCheckpoint) -> dict[str, Any]:
    """Returns the sizes of the Qwen3 that the network is made of.

    Raises:
        UserError: nobody says them, or they are another network's.
    """
    assert isinstance(opened.settings, E2D2Settings)
    asked = opened.settings.backbone
    named = asked or opened.values.get("backbone_config.pretrained_model_name_or_path")
    stated = opened.config.get("backbone_model_config")
    if asked is None and isinstance(stated, Mapping):
        raw, name = dict(stated), f"{opened.files.name}': backbone_model_config of '"
    elif named is not None:
        raw, name = config_of(str(named), "model_args backbone"), str(named)
    else:
        raise opened.error(
            ": config.json names no backbone; backbone=ID_OR_DIR names a Qwen3 of its sizes"
        )
    prefix = "backbone_config."
    own = {key: opened.values[prefix + key] for key in SIZES if opened.values.get(prefix + key)}
    return check({**raw, **own}, QWEN3.extended(family="E2D2"), name).values


def parts_of(opened: OpenedCheckpoint, total: int) -> Parts:
    """Returns how encoder and decoder belong together, of a Qwen3 of `total` layers.

    Raises:
        UserError: they do not.
    """
    values = {
        key.removeprefix("backbone_config."): value
        for key, value in opened.values.items()
        if key.startswith("backbone_config.")
    }

    def layers(which: str) -> tuple[int, ...]:
        """Numbers of the layers of Qwen3 that one part has."""
        asked = values[f"num_{which}_layers"]
        fresh, top = values.get(f"reinit_{which}"), values.get(f"keep_top_{which}_layers")
        count = total if asked == -1 else asked
        if not fresh and count > total:
            raise opened.error(f": its {which} has {count} layers, its backbone {total}")
        return tuple(range(total)[-count:]) if top and not fresh else tuple(range(count))

    tied, shares = bool(values.get("tie_encoder_decoder_weights")), values["_target_"]
    encoder = layers("encoder")
    count = values["num_decoder_layers"]
    if tied and count > len(encoder):
        raise opened.error(f": its decoder is {count} layers of an encoder that has {len(encoder)}")
    decoder = encoder[-count:] if tied and count != -1 else encoder if tied else layers("decoder")
    reads = None
    if shares.rpartition(".")[2] == SHARED:
        if not set(decoder) <= set(encoder):
            raise opened.error(
                f": its decoder reads layers {list(decoder)} of an encoder that has {list(encoder)}"
            )
        reads = tuple(encoder.index(number) for number in decoder)
    return Parts(len(encoder), len(decoder), tied, reads)


def network(opened: OpenedCheckpoint) -> OwnModule:
    """Returns the encoder and the decoder."""
    sizes = _sizes(opened)
    parts = parts_of(opened, sizes["num_hidden_layers"])
    # layers that begin anew may be more than the backbone's
    layers = max(sizes["num_hidden_layers"], parts.encoder_layers, parts.decoder_layers)
    sizes["num_hidden_layers"] = layers
    sizes["max_position_embeddings"] = max(
        sizes["max_position_embeddings"], opened.values["length"]
    )
    config = Qwen3Config(**sizes)
    config._attn_implementation = "sdpa"
    return OwnModule(lambda: E2D2(config, parts), lambda state: rename(state, parts))


def rename(state: dict[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """Returns a published state under `E2D2`'s names."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("backbone.")
        if key.endswith("static_attention_mask"):
            continue
        if parts.tied and key.startswith("decoder."):  # the same weights again
            key = key.replace("decoder.", "encoder.", 1)
        if key.endswith("lm_head.weight"):
            key = "head.weight"
        key = key.replace("encoder.model.embed_tokens.", "embed.").replace(".model.layers.", ".")
        named[key.replace(".model.norm.", "_norm.")] = value
    if "head.weight" not in named and "embed.weight" in named:
        named["head.weight"] = named["embed.weight"]
    return named


def _block(opened: OpenedCheckpoint) -> int:
    own = opened.values.get("eval_block_size") or opened.values["block_size"]
    return int(asked_block(opened.settings) or own)


def _finish(denoiser: Any, opened: OpenedCheckpoint) -> None:
    assert isinstance(opened.settings, E2D2Settings)
    denoiser.bidirectional_prefix = opened.settings.bidirectional_prefix


FAMILY = FamilySpec(
    "e2d2",
    KEYS,
    network,
    E2D2Settings,
    causal_blocks=_block,
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    default_mask=lambda values: values.get("tokenization_config.mask_token_id"),
    suppressed=the_mask,
    denoiser=lambda _: E2D2Denoiser,
    finish=_finish,
)

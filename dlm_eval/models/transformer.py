"""One denoiser for everything that runs a transformers backbone.

Shape letters: B = rows of a batch, L = positions, H = hidden size, V = vocabulary, P = wanted
positions of
each row, N = of the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaModel, PretrainedConfig, Qwen2Model

from dlm_eval.models.denoiser import Attention, Process
from dlm_eval.models.feature_cache import Features, Plan
from dlm_eval.models.kv_cache import (
    BatchKV,
    LayerCache,
    additive_mask,
    cache_argument,
    cached_mask,
    visible_positions,
)
from dlm_eval.models.probes import CacheTest, cache_test, layout_test, rows_are_invariant
from dlm_eval.models.tokenizer import TokenizerInfo

SUPPRESSED = -1e6
HEAD_ROWS = 16384  # vocabulary rows of a half-precision head that are upcast at a time


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, apart from its weights.

    Attributes:
        family: its name.
        shift: whether the distribution of token i is read at position i-1.
        attention: 'full', 'block' or 'causal'.
        block_length: block size of block-causal attention, counted from a row's first real token.
        process: corruption that it was trained to undo.
        bos_only_if_empty: whether BOS is put only before an empty prompt (trained without BOS).
        suppressed_ids: ids that get no probability. Their logits are -1e6, so that guidance stays
            finite.
        described: more for the fingerprint (files, commit, ...).
    """

    family: str
    shift: bool = False
    attention: Attention = "full"
    block_length: int | None = None
    process: Process = "absorbing"
    bos_only_if_empty: bool = False
    suppressed_ids: tuple[int, ...] = ()
    described: dict[str, Any] = field(default_factory=dict)


class TransformersDenoiser:
    """Denoiser (see `models.denoiser.Denoiser`) of a transformers backbone and its linear head.

    Args:
        model: a model with `base_model` and `get_output_embeddings()`, made with
            `is_causal=False`: what a position sees is said by masks.
        tokenizer_info: its tokenizer and ids.
        facts: what it is.
        name: family and checkpoint in words.
        max_length: positions at most.
    """

    def __init__(
        self,
        model: Any,
        tokenizer_info: TokenizerInfo,
        facts: ModelFacts,
        name: str,
        max_length: int,
    ) -> None:
        self.model = model
        self.backbone = model.base_model
        self.head = model.get_output_embeddings()
        self.accepted = set(inspect.signature(self.backbone.forward).parameters)
        if hasattr(
            getattr(self.backbone, "embeddings", None), "create_position_ids_from_input_ids"
        ):
            self.accepted.discard("position_ids")  # RoBERTa counts from padding_idx + 1 by itself
        self.tokenizer_info = tokenizer_info
        self.facts = facts
        self.name = name
        ids = tokenizer_info
        self.mask_id, self.mask_is_regular_token = ids.mask_id, ids.mask_is_regular_token
        self.eos_ids, self.bos_id, self.pad_id = ids.eos_ids, ids.bos_id, ids.pad_id
        self.vocab_size = int(self.head.weight.shape[0])
        self.max_length = max_length
        self.needs_bos, self.bos_only_if_empty = facts.shift, facts.bos_only_if_empty
        self.attention, self.block_length, self.process = (
            facts.attention,
            facts.block_length,
            facts.process,
        )
        self.cache_test = CacheTest(False, "it was not tested")
        self.batch_invariant = True

    @property
    def device(self) -> torch.device:
        """The device that tokens go to."""
        embedding = self.model.get_input_embeddings()
        if hasattr(embedding, "_hf_hook") and embedding.weight.is_meta:  # offloaded by device_map
            return torch.device(embedding._hf_hook.execution_device)
        device: torch.device = embedding.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.head.weight.dtype
        return dtype

    @property
    def embedding_rows(self) -> int:
        """Ids that the network reads: more than it predicts if the head has no mask row."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    # -- texts -------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        return self.tokenizer_info.encode(text)

    @property
    def text_start(self) -> tuple[int, ...]:
        return self.tokenizer_info.text_start

    def read_ahead(self, texts: Sequence[str]) -> None:
        self.tokenizer_info.read_ahead(texts)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer_info.decode(ids)

    @property
    def chat_templates(self) -> dict[str, str]:
        return self.tokenizer_info.chat_templates

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        add_generation_prompt: bool = True,
        template: str | None = None,
    ) -> str:
        return self.tokenizer_info.apply_chat_template(messages, add_generation_prompt, template)

    def token_bytes(self, token: int) -> bytes | None:
        return self.tokenizer_info.token_bytes(token)

    def token_name(self, token: int) -> str | None:
        return self.tokenizer_info.token_name(token)

    # -- the network -------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint."""
        return {
            "family": self.facts.family,
            **self.facts.described,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attn_implementation": self.attention_kernel,
            "mask_id": self.mask_id,
            "shift": self.facts.shift,
            "attention": self.attention,
            "block_length": self.block_length,
            "process": self.process,
            "max_length": self.max_length,
        }

    @torch.no_grad()
    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of the token at each wanted position (see `Denoiser.logits`)."""
        tokens = tokens.to(self.device)
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        return self._read_at(self.hidden(tokens, valid), rows, columns, valid).view(
            *shape, self.vocab_size
        )

    @torch.no_grad()
    def forward_cached(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor,
        past: BatchKV | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns logits, and keys and values (see `KVCacheDenoiser.forward_cached`)."""
        states = LayerCache(past, keep)
        rows, columns = positions.to(self.device).nonzero(as_tuple=True)
        hidden = self.hidden_cached(
            tokens.to(self.device), None if valid is None else valid.to(self.device), past, states
        )
        return self._read_at(hidden, rows, columns, valid), states.states(self.device)

    @torch.no_grad()
    def logits_in_layout(
        self, tokens: Tensor, positions: Tensor, places: Tensor, visible: Tensor
    ) -> Tensor:
        """Returns logits at wanted positions (see `LayoutDenoiser.logits_in_layout`)."""
        rows, columns = positions.to(self.device).nonzero(as_tuple=True)
        hidden = self.backbone(
            input_ids=tokens.to(self.device),
            attention_mask=additive_mask(visible.to(self.device), self.dtype),
            position_ids=places.to(self.device),
            use_cache=False,
        ).last_hidden_state
        return self._read_at(hidden, rows, columns, None)

    @property
    def supports_layouts(self) -> bool:
        """Whether rows may have a layout."""
        return not self.no_layout_reason

    @cached_property
    def no_layout_reason(self) -> str:
        """Why rows may have no layout, '' if they may; tested when it is first asked for."""
        if self.attention != "full":
            return f"its attention is '{self.attention}', not full"
        if not {"attention_mask", "position_ids"} <= self.accepted:
            return "the network takes no mask or no positions"
        if self.attention_kernel not in ("sdpa", "eager"):
            return f"the attention kernel {self.attention_kernel} takes no mask"
        return "" if self.device.type == "meta" else layout_test(self)

    def run_tests(self) -> None:
        """Tests the KV cache, and on a CPU whether a row's bits depend on its batch mates."""
        if self.device.type == "meta":
            return
        reason = self.no_cache_reason()
        self.cache_test = CacheTest(False, reason) if reason else cache_test(self)
        if self.device.type == "cpu":  # where rows are promised to have the same bits
            # Experts get shares of a batch of any size, which a few rows cannot show.
            experts = any(name.endswith("experts") for name, _ in self.model.named_modules())
            self.batch_invariant = not experts and rows_are_invariant(self)

    def no_cache_reason(self) -> str:
        """Returns why there is no KV cache if that is known without a test, else ''."""
        kernel = self.attention_kernel
        return "" if kernel in ("sdpa", "eager") else f"the attention kernel {kernel} takes no mask"

    @property
    def attention_kernel(self) -> str | None:
        """transformers' name of the attention code, None for networks of ours."""
        config = self.model.config
        kernel: str | None = (
            config._attn_implementation if isinstance(config, PretrainedConfig) else None
        )
        return kernel

    @property
    def supports_kv_cache(self) -> bool:
        """Whether rows can use cached keys and values."""
        return self.cache_test.usable

    @property
    def logit_shift(self) -> int:
        """How far left of a token its distribution is read."""
        return int(self.facts.shift)

    @property
    def exact_cache_block(self) -> int | None:
        """The block of block-causal attention, 1 of causal attention."""
        return 1 if self.attention == "causal" else self.block_length

    def hidden_cached(
        self, tokens: Tensor, valid: Tensor | None, past: BatchKV | None, states: LayerCache
    ) -> Tensor:
        """Returns the last hidden states [B, L, H] of positions that attend to `past`."""
        inputs = self.inputs(tokens, valid)
        if past is not None:
            places = past.begin[:, None] + token_positions(tokens, valid)
            mask = cached_mask(
                visible_positions(places, valid, self.exact_cache_block), past, self.dtype
            )
            inputs |= {"attention_mask": mask, "position_ids": places}
        hidden: Tensor = self.backbone(
            input_ids=tokens, **cache_argument(self.backbone, states), **inputs
        ).last_hidden_state
        return hidden

    # -- cached features of layers ------------------------------------------------------------------

    @property
    def feature_layers(self) -> int:
        """Number of layers of Llama and of Qwen2 under full attention, 0 of other networks."""
        plain = isinstance(self.backbone, LlamaModel | Qwen2Model) and self.attention == "full"
        return len(self.backbone.layers) if plain else 0

    @property
    def feature_weight(self) -> float:
        """Size of the features of a position, in those of its keys and values."""
        config = self.model.config
        share = config.num_attention_heads / config.num_key_value_heads
        return 1 + float(share)

    @torch.no_grad()
    def forward_features(
        self, tokens: Tensor, positions: Tensor, plans: Sequence[Plan]
    ) -> tuple[Tensor, list[Features]]:
        """Returns logits and features (see `FeatureCacheDenoiser.forward_features`)."""
        tokens = tokens.to(self.device)
        embedded = self.backbone.embed_tokens(tokens)
        rotary = self.backbone.rotary_emb(embedded, token_positions(tokens, None))
        first, *others = plans
        states, features = first.run(others, self.backbone.layers, embedded, rotary)
        rows, columns = positions.to(self.device).nonzero(as_tuple=True)
        return self._read_at(self.backbone.norm(states), rows, columns, None), features

    def _read_at(
        self, hidden: Tensor, rows: Tensor, columns: Tensor, valid: Tensor | None
    ) -> Tensor:
        """Returns float32 logits [N, V] of tokens at places of hidden states [B, L, H]."""
        if self.facts.shift:
            columns = _one_left(columns, rows, valid)
        return self._read_in_place(hidden, rows, columns)

    def _read_in_place(self, hidden: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Returns float32 logits [N, V] that the network gives at these columns, shift or not."""
        rows, columns = rows.to(hidden.device), columns.to(hidden.device)
        logits = self.read(hidden[rows, columns])
        for token in self.facts.suppressed_ids:
            logits[:, token] = SUPPRESSED
        return logits

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the backbone's last hidden states [B, L, H] (`valid` None: no padding)."""
        states: Tensor = self.backbone(
            input_ids=tokens, **self.inputs(tokens, valid)
        ).last_hidden_state
        return states

    def inputs(self, tokens: Tensor, valid: Tensor | None) -> dict[str, Any]:
        """Returns what the network needs besides tokens.

        That is nothing if no row is padded, so that sdpa may use its flash kernel.
        """
        inputs: dict[str, Any] = {"use_cache": False}
        if valid is not None:
            # Counting real tokens makes learned positions right under left padding, and rows equal
            # to their unpadded selves.
            inputs |= {"attention_mask": valid.long(), "position_ids": real_positions(valid)}
        if self.attention != "full":
            block = self.exact_cache_block or 1
            inputs["attention_mask"] = block_mask(tokens, valid, block, self.dtype)
        return {key: value for key, value in inputs.items() if key in self.accepted}

    def read(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits [N, V] of states [N, H], without a float32 copy of the head."""
        weight = self.head.weight
        if weight.is_meta:  # offloaded by device_map: its hook brings it when it is called
            logits: Tensor = self.head(hidden)
            return logits.float()
        hidden = hidden.to(weight.device)
        bias = getattr(self.head, "bias", None)
        if weight.dtype == torch.float32:
            return F.linear(hidden.float(), weight, bias)
        out = _wide_product(hidden.to(weight.dtype), weight)
        return out if bias is None else out.add_(bias.float())


def wanted_places(
    shape: torch.Size, positions: Tensor | None, device: Any
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Returns rows [N], columns [N] and the leading shape for each form of `positions`."""
    count, length = shape
    if positions is not None and positions.dtype == torch.bool:
        rows, columns = positions.to(device).nonzero(as_tuple=True)
        return rows, columns, (len(rows),)
    columns = torch.arange(length, device=device) if positions is None else positions.to(device)
    rows = torch.arange(count, device=device).repeat_interleave(len(columns))
    return rows, columns.repeat(count), (count, len(columns))


def real_positions(valid: Tensor) -> Tensor:
    """Returns [B, L] long: the number of real tokens before each."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)


def token_positions(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Returns [B or 1, L] long: places of positions, counted from a row's first real one."""
    return (
        torch.arange(tokens.shape[1], device=tokens.device)[None]
        if valid is None
        else real_positions(valid)
    )


def block_mask(
    tokens: Tensor, valid: Tensor | None, block_length: int, dtype: torch.dtype
) -> Tensor:
    """Returns the additive mask [B or 1, 1, L, L] under which a block sees itself and the blocks
    before it.

    Blocks are counted from a row's first real token.
    """
    return additive_mask(
        visible_positions(token_positions(tokens, valid), valid, block_length), dtype
    )


def _one_left(columns: Tensor, rows: Tensor, valid: Tensor | None) -> Tensor:
    """Returns the column before each. A row's first real position keeps its own."""
    first = 0 if valid is None else valid.long().argmax(1)[rows]
    return torch.where(columns > first, columns - 1, columns)


def _wide_product(hidden: Tensor, weight: Tensor) -> Tensor:
    """Returns hidden [N, H] times weight [V, H] transposed, accumulated and returned in float32."""
    # before that, mm had no out_dtype
    if weight.device.type == "cuda" and torch.__version__ >= "2.8":
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    out = torch.empty(len(hidden), len(weight), dtype=torch.float32, device=hidden.device)
    wide = hidden.float()
    for begin in range(0, len(weight), HEAD_ROWS):
        part = weight[begin : begin + HEAD_ROWS]
        torch.mm(wide, part.float().t(), out=out[:, begin : begin + len(part)])
    return out

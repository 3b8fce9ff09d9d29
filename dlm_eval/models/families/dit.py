"""The small diffusion transformer of MDLM, SEDD and BD3LM: token embedding, adaptive layer norms
driven by the noise level, rotary attention.

Written from the descriptions in Peebles & Xie 2023 (adaLN-zero), Lou et al. 2023 and Sahoo et al.
2024. Shape letters: B = rows, L = positions, H = hidden size, h = heads, d = head size, C = size of
the noise embedding, V = vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_eval.models.kv_cache import BatchKV, LayerCache, cached_mask, visible_positions
from dlm_eval.models.network import Network
from dlm_eval.models.transformer import TransformersDenoiser, block_mask, token_positions

FREQUENCIES = 256  # sinusoids of the noise level


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the network; `max_position_embeddings` is the length that it was trained with."""

    vocab_size: int
    hidden_size: int
    cond_size: int
    layers: int
    heads: int
    max_position_embeddings: int


class Norm(nn.Module):
    """Layer norm with a scale and no bias, computed in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return (F.layer_norm(x.float(), x.shape[-1:]) * self.weight.float()).to(x.dtype)


class NoiseEmbedding(nn.Module):
    """The noise level sigma [B] as [B, C]: sinusoids, then a two-layer network."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, sigma: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        rates = torch.exp(
            -math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=sigma.device)
        )
        angles = sigma.float()[:, None] * rates
        dtype = next(self.mlp.parameters()).dtype
        embedded: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(dtype))
        return F.silu(embedded)


@dataclass(frozen=True, eq=False)
class AttentionContext:
    """What attention is told: rotary cosines and sines, the mask, the cache of other positions."""

    rotation: tuple[Tensor, Tensor]
    mask: Tensor | None = None
    states: LayerCache | None = None


class Block(nn.Module):
    """Attention and feed-forward; the noise embedding shifts, scales and gates both."""

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.layer = config.heads, layer
        self.norm1, self.norm2 = Norm(size), Norm(size)
        self.attn_qkv, self.attn_out = (
            nn.Linear(size, 3 * size, bias=False),
            nn.Linear(size, size, bias=False),
        )
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size)
        )
        self.adaLN_modulation = nn.Linear(config.cond_size, 6 * size)

    def forward(self, x: Tensor, noise: Tensor, context: AttentionContext) -> Tensor:
        modulation: Tensor = self.adaLN_modulation(noise)
        shift, scale, gate, shift2, scale2, gate2 = modulation[:, None].chunk(6, -1)
        x = x + gate * self._attend(_modulate(self.norm1(x), shift, scale), context)
        change: Tensor = gate2 * self.mlp(_modulate(self.norm2(x), shift2, scale2))
        return x + change

    def _attend(self, x: Tensor, context: AttentionContext) -> Tensor:
        rows, length, size = x.shape
        # each [B, h, L, d]
        q, k, v = self.attn_qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, *context.rotation), _rotate(k, *context.rotation)
        if context.states is not None:
            k, v = context.states.update(k, v, self.layer)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask)
        out: Tensor = self.attn_out(mixed.transpose(1, 2).reshape(rows, length, size))
        return out


class OutputLayer(nn.Module):
    """The last norm, shifted and scaled by the noise, and the head."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm_final = Norm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.vocab_size)
        self.adaLN_modulation = nn.Linear(config.cond_size, 2 * config.hidden_size)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(noise)[:, None].chunk(2, -1)
        return _modulate(self.norm_final(x), shift, scale)


class DiT(Network):
    """The network up to its head: tokens [B, L] and noise level [B] to states [B, L, H]."""

    embedding_name, head_name = "vocab_embed", "output_layer.linear"

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.sigma_map = NoiseEmbedding(config.cond_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.output_layer = OutputLayer(config)

    def forward(
        self,
        tokens: Tensor,
        sigma: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        states: LayerCache | None = None,
    ) -> Tensor:
        noise = self.sigma_map(sigma)
        size = self.config.hidden_size // self.config.heads
        context = AttentionContext(
            rotation(positions, size, self.vocab_embed.weight.dtype), mask, states
        )
        x = self.vocab_embed(tokens)
        for block in self.blocks:
            x = block(x, noise, context)
        out: Tensor = self.output_layer(x, noise)
        return out


class DiTDenoiser(TransformersDenoiser):
    """Denoiser of a `DiT`. The noise level is 0 unless a family overrides `sigma`."""

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the states [B, L, H] before the head."""
        return self.run(tokens, self.sigma(tokens, valid), valid)

    def run(
        self,
        tokens: Tensor,
        sigma: Tensor,
        valid: Tensor | None = None,
        states: LayerCache | None = None,
    ) -> Tensor:
        """Returns states [B, L, H] at noise level `sigma` [B]; `states` collects keys, values."""
        mask: Tensor | None = None if valid is None else valid[:, None, None, :]
        if self.attention == "block":
            mask = block_mask(tokens, valid, self.block_length or 1, self.dtype)
        found: Tensor = self.model(tokens, sigma, token_positions(tokens, valid), mask, states)
        return found

    def no_cache_reason(self) -> str:
        """Returns why there is no KV cache if that is known without a test, else ''."""
        return (
            ""
            if type(self).sigma is DiTDenoiser.sigma
            else "the noise level is read off the whole row"
        )

    def hidden_cached(
        self, tokens: Tensor, valid: Tensor | None, past: BatchKV | None, states: LayerCache
    ) -> Tensor:
        """Returns the states [B, L, H] of the positions that run, which attend to `past`."""
        sigma = self.sigma(tokens, valid)
        if past is None:
            return self.run(tokens, sigma, valid, states)
        places = past.begin[:, None] + token_positions(tokens, valid)
        mask = cached_mask(visible_positions(places, valid, self.block_length), past, self.dtype)
        found: Tensor = self.model(tokens, sigma, places, mask, states)
        return found

    def sigma(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the noise level [B] to tell the network for these rows."""
        return torch.zeros(len(tokens), device=tokens.device)


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a published state under `DiT`'s names, without tables that sizes imply."""
    dropped = ("rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max")
    named = {key.removeprefix("backbone."): value for key, value in state.items()}
    return {
        key.replace("vocab_embed.embedding", "vocab_embed.weight"): value
        for key, value in named.items()
        if key not in dropped
    }


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def rotation(positions: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns rotary cosines and sines [B or 1, 1, L, d]; the halves of a head turn together."""
    rates = 10000.0 ** (
        -torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    )
    angles = positions[..., None].float() * rates
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine

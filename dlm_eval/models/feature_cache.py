"""Caches of what the layers of a bidirectional network computed in earlier steps.

Under full attention each token changes all keys and values, so that none is ever final, and answers
with such a cache are approximations. A decoder decides in each step what is computed
(`decoding.caches`); a plan computes it, for Llama and its relatives.

`FeaturePlan` is dLLM-Cache (Liu et al. 2025, arXiv 2506.06295; github.com/maomaocun/dLLM-cache
17235bf). It computes the features of the prompt and of the generated part only now and then, and in
between those of the generated tokens whose values have moved most. The first layer always computes
all. `PositionPlan` computes the same positions in every layer and reads keys and values of all
others (dKV-Cache, Ma et al. 2025, arXiv 2505.15781; github.com/horseee/dKV-Cache 49a76fc).
It can measure the attention that each position receives (d2Cache, Jiang et al. 2025, arXiv
2509.23094; github.com/Kamichanw/d2Cache 72feb60).

Sequences of equal length share a pass if they compute equally many positions in all layers, so that
their numbers do not depend on each other. Under `FeaturePlan` one runs at a time.

Shape letters: B = sequences of a pass, L = positions, H = hidden size, g = heads of keys and values, d = head size, N =
positions that are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """What a layer computed for all positions.

    Attributes:
        keys, values: [g, L, d], keys rotated to their positions.
        attention, mlp: [L, H] outputs that are added to the residual stream; None if the cache
            has keys and values only.
        received: [L] float32 attention that each position has received from all others in the last
            pass, through this layer and those below it; None if it was not measured.
    """

    keys: Tensor
    values: Tensor
    attention: Tensor | None = None
    mlp: Tensor | None = None
    received: Tensor | None = None


Features = tuple[LayerFeatures, ...]  # of all layers


class FeatureCache:
    """The features of one canvas, replaced after each successful forward pass.

    Attributes:
        layers: of each layer; empty before the first pass.
    """

    def __init__(self) -> None:
        self.layers: Features = ()


FEW_POSITIONS = 4  # see `engine.forward.FEW_TOKENS`
Layers = Iterable[Any]  # of the network, with the names of transformers' Llama
Rotary = tuple[Tensor, Tensor]  # cosines and sines [1, L, d] of all positions


class Plan(Protocol):
    """What a forward pass computes, and the cache that has the rest.

    Attributes:
        cache: of the canvas.
        weight: size of the cached features of a position, in those of its keys and values.
        mates: plans with equal ones may run together on sequences of equal length; "" runs alone.
    """

    @property
    def cache(self) -> FeatureCache: ...

    @property
    def mates(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def computed(self, length: int) -> int:
        """Returns how many of `length` positions are computed, as the mean over layers (rounded
        up).
        """
        ...

    def run(
        self, others: Sequence[Plan], layers: Layers, hidden: Tensor, rotary: Rotary
    ) -> tuple[Tensor, list[Features]]:
        """Returns the last hidden states [B, L, H], and the features of all layers of each sequence.

        States of positions that were not computed are not defined. No cache is changed.

        Args:
            others: of the other B - 1 sequences, with the same `mates`.
            layers: of the network.
            hidden: [B, L, H] embeddings.
            rotary: of all positions.
        """
        ...


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """A pass with dLLM-Cache.

    Attributes:
        cache, weight: see `Plan`.
        prompt: number of positions of the prompt, from the left; the others are generated.
        renew_prompt, renew_generated: whether all features of the part are computed.
        share: of the generated positions that are computed otherwise, 0 to 1.
        layers: number of layers of the network.
    """

    cache: FeatureCache
    weight: float
    prompt: int
    renew_prompt: bool
    renew_generated: bool
    share: float
    layers: int

    @property
    def mates(self) -> str:
        """Alone: the positions that a layer computes are found in the pass."""
        return ""

    def chosen(self, length: int) -> int:
        """Returns how many of the generated positions of a layer are computed."""
        generated = length - self.prompt
        return generated if self.renew_generated else int(generated * self.share)

    def computed(self, length: int) -> int:
        """Returns how many positions are computed, as the mean over layers (rounded up)."""
        later = self.prompt * self.renew_prompt + self.chosen(length)
        return -(-(length + (self.layers - 1) * later) // self.layers)

    def run(
        self, others: Sequence[Plan], layers: Layers, hidden: Tensor, rotary: Rotary
    ) -> tuple[Tensor, list[Features]]:
        """Returns states and features (see `Plan.run`)."""
        assert not others
        fresh: list[LayerFeatures] = []
        for number, layer in enumerate(layers):
            old = self.cache.layers[number] if number and self.cache.layers else None
            features = _run_layer(layer, hidden, rotary, self, old)
            assert features.attention is not None and features.mlp is not None
            hidden = hidden + features.attention + features.mlp
            fresh.append(features)
        return hidden, [tuple(fresh)]


@dataclass(frozen=True, eq=False)
class PositionPlan:
    """A pass that computes the same positions in all layers.

    With `measures` it also finds attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928): R_l =
    (A_l + I) / 2 R_(l-1), R_0 = I, where A_l are the weights of layer l as the mean over heads. Rows
    of A_l that are not computed are those of I. A position receives the sum of its column of R_l.

    Attributes:
        cache: see `Plan`; of its features only keys and values are used.
        positions: [N] long, ascending; all of them if the cache is empty.
        measures: whether `LayerFeatures.received` is found.
    """

    cache: FeatureCache
    positions: Tensor
    measures: bool = False

    @property
    def weight(self) -> float:
        """1: keys and values are all that is cached."""
        return 1.0

    @property
    def mates(self) -> str:
        """The number of positions, unless it is so small that other matrix kernels would run."""
        if len(self.positions) < FEW_POSITIONS:
            return ""
        return f"{len(self.positions)} {self.measures} {bool(self.cache.layers)}"

    def computed(self, length: int) -> int:
        """Returns how many positions are computed."""
        return len(self.positions)

    def run(
        self, others: Sequence[Plan], layers: Layers, hidden: Tensor, rotary: Rotary
    ) -> tuple[Tensor, list[Features]]:
        """Returns states and features (see `Plan.run`)."""
        plans = [self, *(cast(PositionPlan, other) for other in others)]
        at = torch.stack([plan.positions for plan in plans]).to(hidden.device)
        spots = torch.arange(len(plans), device=hidden.device)[:, None], at  # each [B, 1] or [B, N]
        there = rotary[0][0][at], rotary[1][0][at]
        states, fresh = hidden[spots], [list[LayerFeatures]() for _ in plans]
        rollout = None
        if self.measures:
            rollout = torch.eye(hidden.shape[1], device=hidden.device).repeat(len(plans), 1, 1)
        for number, layer in enumerate(layers):
            attend, normed = layer.self_attn, layer.input_layernorm(states)
            keys = _rotated(_heads(attend.k_proj(normed), attend.head_dim), *there)
            values = _heads(attend.v_proj(normed), attend.head_dim)
            if self.cache.layers:
                old = [plan.cache.layers[number] for plan in plans]
                keys = _replaced([one.keys for one in old], spots, keys)
                values = _replaced([one.values for one in old], spots, values)
            if rollout is None:
                attention = _attention(attend, normed, there, keys, values)
            else:
                attention, weights = _weighed_attention(attend, normed, there, keys, values)
                rollout[spots] = (weights @ rollout + rollout[spots]) / 2
            states = states + attention
            states = states + layer.mlp(layer.post_attention_layernorm(states))
            for own, features in enumerate(fresh):
                received = None if rollout is None else rollout[own].sum(0)
                features.append(LayerFeatures(keys[own], values[own], received=received))
        hidden = hidden.clone()
        hidden[spots] = states
        return hidden, [tuple(features) for features in fresh]


def _replaced(cached: list[Tensor], spots: tuple[Tensor, Tensor], fresh: Tensor) -> Tensor:
    """Returns [B, g, L, d] `cached` [g, L, d] of each sequence, with `fresh` [B, g, N, d] at `spots`."""
    whole = torch.stack(cached)
    whole[spots[0], :, spots[1]] = fresh.transpose(1, 2)
    return whole


def _run_layer(
    layer: Any, hidden: Tensor, rotary: Rotary, plan: FeaturePlan, old: LayerFeatures | None
) -> LayerFeatures:
    attend, normed = layer.self_attn, layer.input_layernorm(hidden)
    if old is None:
        at = torch.arange(hidden.shape[1], device=hidden.device)
        values = _heads(attend.v_proj(normed), attend.head_dim)[0]
    else:
        at, values = _positions(attend, normed, plan, old)
    there = rotary[0][:, at], rotary[1][:, at]
    keys = _rotated(_heads(attend.k_proj(normed[:, at]), attend.head_dim), *there)[0]
    keys = keys if old is None else old.keys.index_copy(1, at, keys)
    attention = _attention(attend, normed[:, at], there, keys[None], values[None])[0]
    mlp = layer.mlp(layer.post_attention_layernorm(hidden[:, at] + attention))[0]
    if old is None:
        return LayerFeatures(keys, values, attention, mlp)
    assert old.attention is not None and old.mlp is not None
    return LayerFeatures(
        keys, values, old.attention.index_copy(0, at, attention), old.mlp.index_copy(0, at, mlp)
    )


def _attention(attend: Any, normed: Tensor, rotary: Rotary, keys: Tensor, values: Tensor) -> Tensor:
    """Returns what positions [B, N, H] at `rotary` read of all keys and values [B, g, L, d]."""
    queries = _rotated(_heads(attend.q_proj(normed), attend.head_dim), *rotary)
    read = F.scaled_dot_product_attention(
        queries, keys, values, scale=attend.scaling, enable_gqa=True
    )
    found: Tensor = attend.o_proj(read.transpose(1, 2).flatten(2))
    return found


def _weighed_attention(
    attend: Any, normed: Tensor, rotary: Rotary, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what `_attention` returns, and the weights [B, N, L] float32 as the mean over heads."""
    queries = _rotated(_heads(attend.q_proj(normed), attend.head_dim), *rotary)
    groups = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = queries @ keys.transpose(2, 3) * attend.scaling
    weights = scores.softmax(-1, dtype=torch.float32)
    read = weights.to(queries.dtype) @ values
    found: Tensor = attend.o_proj(read.transpose(1, 2).flatten(2))
    return found, weights.mean(1)


def _positions(
    attend: Any, normed: Tensor, plan: FeaturePlan, old: LayerFeatures
) -> tuple[Tensor, Tensor]:
    """Returns the positions [N] that a layer computes, and the values [g, L, d] of all positions.

    Among generated tokens that are not all computed, those are chosen whose new values have the
    lowest cosine with the cached ones (section 3.3 of the paper). All of them get their new values.
    """
    length = normed.shape[1]
    everywhere = torch.arange(length, device=normed.device)
    prompt, generated = everywhere[: plan.prompt], everywhere[plan.prompt :]
    at, values = prompt[: plan.prompt * plan.renew_prompt], old.values
    if plan.renew_prompt:
        values = _renewed(attend, normed, prompt, values)
    if plan.renew_generated or plan.share > 0:
        values = _renewed(attend, normed, generated, values)
    if not plan.renew_generated:
        now, before = (part[:, plan.prompt :].transpose(0, 1) for part in (values, old.values))
        cosine = F.cosine_similarity(now.flatten(1), before.flatten(1), dim=-1)
        chosen = cosine.topk(plan.chosen(length), largest=False).indices.sort().values
        generated = generated[chosen]
    return torch.cat([at, generated]), values


def _renewed(attend: Any, normed: Tensor, at: Tensor, values: Tensor) -> Tensor:
    return values.index_copy(1, at, _heads(attend.v_proj(normed[:, at]), attend.head_dim)[0])


def _rotated(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Returns states [B, heads, N, d] rotated to their positions (Llama's halves)."""
    first, second = states.chunk(2, -1)
    return states * cosine[:, None] + torch.cat([-second, first], -1) * sine[:, None]


def _heads(states: Tensor, size: int) -> Tensor:
    """Returns [B, heads, N, d] of states [B, N, heads x d]."""
    return states.view(*states.shape[:-1], states.shape[-1] // size, size).transpose(1, 2)

"""DDLM (Vaina et al. 2024, arXiv 2305.10818): CDCD's diffusion over normalised token embeddings.

The authors' weights are not public (scripts/train_ddlm.py trains such a model), so the file format
is ours: config.json with the fields of `CDCDConfig`, model.safetensors, a tokenizer.

The network is written from the CDCD paper (Dieleman et al. 2022, arXiv 2211.15089): embeddings of
length sqrt(D) (section 4.1), x_t = x_0 + t z, network input x_t / sqrt(t^2 + 1), the last estimate
of x_0 (self-conditioning), clean embeddings of given tokens and a bit that tells them (conditioning
mask), a time embedding, token logits out (cross-entropy training, section 3), rotary attention
blocks driven by the time (adaptive layer norms).

Shape letters: B = rows, L = positions, D = embedding size, H = hidden size, C = size of the time
embedding, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, LIST, NUMBER, all_of
from dlm_eval.models.denoiser import KeepingOp, LogitsOp
from dlm_eval.models.families.dit import (
    AttentionContext,
    Block,
    DiTConfig,
    NoiseEmbedding,
    Norm,
    rotation,
)
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.network import Network
from dlm_eval.models.transformer import TransformersDenoiser, real_positions, wanted_places
from dlm_eval.models.weights import OwnModule
from dlm_eval.settings import from_mapping

TIME_SCALE = 250.0  # log(t) / 4 (Karras et al. 2022, c_noise) spread over the sinusoids' range


@dataclass(frozen=True)
class CDCDConfig:
    """Sizes and noise levels of the network.

    Attributes:
        vocab_size: V.
        embedding_size: D.
        hidden_size: H.
        cond_size: C.
        layers: blocks.
        heads: attention heads.
        max_position_embeddings: positions that it was trained with.
        t_min, t_max: noise levels.
        warp_times: knots of the time warp, ascending noise levels from t_min to t_max; none for
            steps even in log t.
        warp_cdf: share of the sampling grid below each knot, 0 to 1 (section 3.4).
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    cond_size: int
    layers: int
    heads: int
    max_position_embeddings: int
    t_min: float = 1.0
    t_max: float = 10.0
    warp_times: tuple[float, ...] = ()
    warp_cdf: tuple[float, ...] = ()

    def times(self, steps: int) -> NDArray[np.float64]:
        """Returns [steps + 1] noise levels from t_max to t_min, even in the warped time."""
        share = np.linspace(1, 0, steps + 1)
        levels: NDArray[np.float64] = np.exp(
            np.log(self.t_min) + share * np.log(self.t_max / self.t_min)
        )
        if self.warp_times:
            levels = np.interp(share, self.warp_cdf, self.warp_times)
        return levels


class CDCD(Network):
    """The network up to its head: embeddings in, states [B, L, H] out."""

    embedding_name, head_name = "embedding", "head"

    def __init__(self, config: CDCDConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.entry = nn.Linear(3 * config.embedding_size + 1, size)
        self.time = NoiseEmbedding(config.cond_size)
        sizes = (config.vocab_size, size, config.cond_size, config.layers, config.heads)
        block = DiTConfig(*sizes, config.max_position_embeddings)
        self.blocks = nn.ModuleList(Block(block, layer) for layer in range(config.layers))
        self.norm = Norm(size)
        self.head = nn.Linear(size, config.vocab_size)

    @property
    def table(self) -> Tensor:
        """The embeddings [V, D], float32, of length sqrt(D): a coordinate has unit variance."""
        normal: Tensor = (
            F.normalize(self.embedding.weight.float(), dim=-1) * self.config.embedding_size**0.5
        )
        return normal

    def forward(
        self,
        x: Tensor,
        estimate: Tensor,
        clean: Tensor,
        open_: Tensor,
        time: Tensor,
        positions: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Returns the states [B, L, H] before the head.

        Args:
            x: [B, L, D] noisy embeddings.
            estimate: [B, L, D] the last estimate of the clean ones, or zeros.
            clean: [B, L, D] embeddings of given tokens.
            open_: [B, L] whether a position is open; x and estimate count there, `clean` elsewhere.
            time: [B] noise levels.
            positions: [B or 1, L] long.
            mask: additive_mask or boolean attention mask, or None.
        """
        bit = open_[:, :, None].to(x.dtype)
        scale = (time.to(x.dtype) ** 2 + 1).rsqrt()[:, None, None]
        channels = torch.cat([x * scale * bit, estimate * bit, clean * (1 - bit), bit], -1)
        states = self.entry(channels.to(self.entry.weight.dtype))
        noise = self.time(time.clamp(min=1e-4).log() / 4 * TIME_SCALE)
        around = AttentionContext(
            rotation(positions, self.config.hidden_size // self.config.heads, states.dtype), mask
        )
        for block in self.blocks:
            states = block(states, noise, around)
        normed: Tensor = self.norm(states)
        return normed


@dataclass(frozen=True)
class Interpolator:
    """CDCD eq. 7: token, its log-probability, entropy [nats], E[x_0] = sum_v p(v) e_v."""

    # one engine has one model: rows of equal readers are read together
    table: Tensor = field(compare=False)
    temperature: float = 1.0

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        return self.read(logits.log_softmax(-1), logits)

    def read(self, log_p: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        """Returns what is read off log-probabilities and logits, each [N, V]."""
        p = log_p.exp()
        logprob, token = log_p.max(-1)
        entropy = -torch.xlogy(p, p).sum(-1, dtype=torch.float64)
        sharp = p if self.temperature == 1 else (logits / self.temperature).softmax(-1)
        return token, logprob.double(), entropy, (sharp @ self.table.to(sharp.device)).double()


@dataclass(frozen=True)
class DivergentInterpolator:
    """As `interpolator`, and KL(now || last step) [nats]; keeps the log-probabilities [V]."""

    interpolator: Interpolator

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        log_p = logits.log_softmax(-1)
        # nobody looks at the first step's
        last = torch.zeros_like(log_p) if before is None else before
        kl = (log_p.exp() * (log_p - last)).sum(-1, dtype=torch.float64)
        return (*self.interpolator.read(log_p, logits), kl, log_p)


# -- the denoiser ----------------------------------------------------------------------------------


class DDLMDenoiser(TransformersDenoiser):
    """Denoiser of a `CDCD` network (see `models.denoiser.EmbeddingDenoiser`).

    Without `inputs`, tokens are their own clean embeddings, everything open, at the lowest noise
    level.
    """

    @property
    def embedding_size(self) -> int:
        """D."""
        return int(self.model.config.embedding_size)

    def times(self, steps: int) -> NDArray[np.float64]:
        """Returns [steps + 1] noise levels, from the largest to the smallest."""
        levels: NDArray[np.float64] = self.model.config.times(steps)
        return levels

    def interpolator(self, score_temperature: float, divergence: bool) -> LogitsOp | KeepingOp:
        """Returns what reads a step (see `EmbeddingDenoiser.interpolator`)."""
        plain = Interpolator(self.table, score_temperature)
        return DivergentInterpolator(plain) if divergence else plain

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        positions: Tensor | None = None,
        inputs: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits of the clean token at each wanted position (see
        `Denoiser.logits`).

        Args:
            tokens: [B, L] long; those of open positions do not count if there are `inputs`.
            valid: [B, L] bool, false at padding, or None.
            positions: as in `Denoiser.logits`.
            inputs: [B, L, 2 D + 1] x_t, the last estimate of x_0, and 1 if a position is open.
            time: [B] noise levels.
        """
        states = self._states(tokens, valid, inputs, time)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        return self.read(states[rows, columns]).view(*shape, self.vocab_size)

    @torch.no_grad()
    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the states [B, L, H] before the head: the tokens' own clean embeddings, all
        open, at the lowest noise level, without an earlier estimate."""
        return self._states(tokens, valid, None, None)

    def _states(
        self, tokens: Tensor, valid: Tensor | None, inputs: Tensor | None, time: Tensor | None
    ) -> Tensor:
        tokens, size = tokens.to(self.device), self.embedding_size
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        clean = self.table[tokens]
        if inputs is None:
            x, estimate, open_ = (
                clean,
                torch.zeros_like(clean),
                torch.ones_like(tokens, dtype=torch.bool),
            )
        else:
            x, estimate, open_ = (
                inputs[..., :size],
                inputs[..., size : 2 * size],
                inputs[..., -1] > 0,
            )
        level = (
            torch.full((len(tokens),), self.model.config.t_min, device=self.device)
            if time is None
            else time
        )
        place = (
            torch.arange(tokens.shape[1], device=self.device)[None]
            if valid is None
            else real_positions(valid)
        )
        mask = None if valid is None else valid[:, None, None, :]
        states: Tensor = self.model(x, estimate, clean, open_, level, place, mask)
        return states

    @cached_property
    def table(self) -> Tensor:
        """The network's normalised embeddings [V, D], float32."""
        # it outlives the pass that asks for it first
        with torch.inference_mode(False), torch.no_grad():
            table: Tensor = self.model.table
        return table


KEYS = ConfigKeys(
    "DDLM",
    needed=all_of(
        COUNT,
        "vocab_size",
        "embedding_size",
        "hidden_size",
        "cond_size",
        "layers",
        "heads",
        "max_position_embeddings",
    )
    | all_of(NUMBER, "t_min", "t_max"),
    read=all_of(LIST, "warp_times", "warp_cdf"),
)


def network(opened: OpenedCheckpoint) -> OwnModule:
    """Returns the network of CDCD."""
    return OwnModule(lambda: CDCD(config_of(opened.values)))


def config_of(raw: dict[str, Any]) -> CDCDConfig:
    """Returns the configuration; raises UserError if a field is not of its kind."""
    known = {field.name for field in fields(CDCDConfig)}
    return from_mapping(
        CDCDConfig, {key: value for key, value in raw.items() if key in known}, "config.json"
    )


FAMILY = FamilySpec("ddlm", KEYS, network, process="gaussian", denoiser=lambda _: DDLMDenoiser)

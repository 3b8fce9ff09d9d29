"""The network of CDCD (Dieleman et al. 2022, arXiv 2211.15089), which DDLM follows: diffusion over normalised token embeddings.

Written from the paper: embeddings of length sqrt(D) (section 4.1), x_t = x_0 + t z, network input x_t / sqrt(t^2 + 1), the last estimate of
x_0 (self-conditioning), clean embeddings of given tokens and a bit that tells them (conditioning mask), a time embedding, token logits out
(cross-entropy training, section 3), rotary attention blocks driven by the time (adaptive layer norms).
Shape letters: B = rows, L = positions, D = embedding size, H = hidden size, C = size of the time embedding, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_eval.models.families.dit import AttentionContext, Block, DiTConfig, NoiseEmbedding, Norm, rotation

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
        warp_times: knots of the time warp, ascending noise levels from t_min to t_max; none for steps even in log t.
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
        levels: NDArray[np.float64] = np.exp(np.log(self.t_min) + share * np.log(self.t_max / self.t_min))
        if self.warp_times:
            levels = np.interp(share, self.warp_cdf, self.warp_times)
        return levels


class CDCD(nn.Module):
    """The network up to its head: embeddings in, states [B, L, H] out."""

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
        """The embeddings [V, D] in float32, each of length sqrt(D): unit variance per coordinate, as the noise is measured in."""
        normal: Tensor = F.normalize(self.embedding.weight.float(), dim=-1) * self.config.embedding_size**0.5
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
        around = AttentionContext(rotation(positions, self.config.hidden_size // self.config.heads, states.dtype), mask)
        for block in self.blocks:
            states = block(states, noise, around)
        normed: Tensor = self.norm(states)
        return normed

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding (transformers' name for it)."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        """Returns the head (transformers' name for it)."""
        return self.head

    @property
    def base_model(self) -> CDCD:
        """The network without its head, which is applied to wanted positions only."""
        return self


@dataclass(frozen=True)
class Interpolator:
    """Score interpolation (CDCD eq. 7): reads token, its log-probability, entropy [nats] and E[x_0] = sum_v p(v) e_v."""

    table: Tensor = field(compare=False)  # one engine has one model: rows of equal readers are read together
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
    """Reads what `interpolator` does and KL(now || last step) [nats]; keeps the log-probabilities [V] on the device."""

    interpolator: Interpolator

    def __call__(self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor) -> tuple[Tensor, ...]:
        log_p = logits.log_softmax(-1)
        last = torch.zeros_like(log_p) if before is None else before  # nobody looks at the first step's
        kl = (log_p.exp() * (log_p - last)).sum(-1, dtype=torch.float64)
        return (*self.interpolator.read(log_p, logits), kl, log_p)

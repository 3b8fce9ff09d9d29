"""Uniform-state diffusion in closed form: the loss and the reverse step of a token.

Noise keeps a token with probability alpha and otherwise replaces it by a token drawn from all V, so
that q(x_t | x) = alpha [x_t = x] + (1 - alpha) / V (D3PM, Austin et al. 2021; UDLM, arXiv
2412.10193; Duo, Sahoo et al. 2025, arXiv 2506.10892). alpha falls from 1 (text) to almost 0. The
network's distribution p stands in for the text, and w_y = V alpha p_y + 1 - alpha is V times
q(x_t = y | p).

A token jumps from x_t to y at the reverse rate w_y / (V w_{x_t}) per unit of -d(log alpha). The
loss is the Kullback-Leibler divergence between the jumps of the true text and those of the network,
per unit of the same clock: with u_y the weights w of the true text (one-hot p),

    loss = 1/V sum over y of [ w_y / w_x - u_y / u_x - (u_y / u_x) log( (w_y / w_x) / (u_y / u_x) ) ]

Every position has a loss, also one whose token is the true one. Its integral over -log alpha is
Duo's continuous-time NELBO. It is smallest if p_i is the distribution of token i given the noisy
text without token i.

Shape letters: N = positions, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**24  # maximum number of float64 values (N x V) formed at once


def losses(logits: Tensor, truth: Tensor, noisy: Tensor, alpha: Tensor) -> Tensor:
    """Returns the loss [N] of each position, float64, nats per unit of -log alpha.

    Args:
        logits: [N, V] of the network.
        truth, noisy: [N] long, the token of the text and the one that the network saw.
        alpha: [N] float64 above 0, share of signal.
    """
    rows = max(1, CHUNK // logits.shape[-1])
    parts = [
        _losses(logits[i : i + rows], truth[i : i + rows], noisy[i : i + rows], alpha[i : i + rows])
        for i in range(0, len(logits), rows)
    ]
    return torch.cat(parts) if parts else alpha.new_zeros(0)


def _losses(logits: Tensor, truth: Tensor, noisy: Tensor, alpha: Tensor) -> Tensor:
    size = logits.shape[-1]
    rest = 1 - alpha
    weights = size * alpha[:, None] * logits.double().softmax(-1) + rest[:, None]
    own = weights.gather(-1, noisy[:, None]).squeeze(-1)
    right = weights.gather(-1, truth[:, None]).squeeze(-1)
    high = size * alpha + rest  # u at the true token; elsewhere u is `rest`
    seen = torch.where(noisy == truth, high, rest)  # u at the token that was seen
    # sum of u log u and of u log w over all y; rest = 0 (no noise) leaves the true token alone
    entropy = (size - 1) * torch.xlogy(rest, rest) + torch.xlogy(high, high)
    others = torch.where(rest > 0, rest * weights.log().sum(-1), torch.zeros_like(rest))
    cross = others + size * alpha * right.log()
    ratios = size / own - size / seen
    return (ratios + (entropy - cross) / seen + size / seen * (own / seen).log()) / size


def log_reverse(log_p: Tensor, noisy: Tensor, now: float, after: float) -> Tensor:
    """Returns log q(x_s | x_t, p) [N, V], float64: the step from alpha_t `now` to alpha_s `after`.

    It is proportional to q(x_t | x_s) (alpha_s p + (1 - alpha_s) / V).

    Args:
        log_p: [N, V] log-probabilities of the network.
        noisy: [N] long, tokens x_t.
        now, after: share of signal, `after` at least `now` and at most 1.
    """
    size = log_p.shape[-1]
    kept = now / after  # alpha of the step
    target = after * log_p.double().exp() + (1 - after) / size
    jump = torch.full_like(target, (1 - kept) / size)
    jump.scatter_add_(-1, noisy[:, None], torch.full_like(jump[:, :1], kept))
    joint = (jump * target).log()
    return joint - joint.logsumexp(-1, keepdim=True)


def log_noised(log_p: Tensor, alpha: float) -> Tensor:
    """Returns log(alpha p + (1 - alpha) / V) [N, V], float64."""
    return (alpha * log_p.double().exp() + (1 - alpha) / log_p.shape[-1]).log()

"""SEDD small and medium (Lou et al. 2023): the DiT told the noise level, predicting ratios of
probabilities (concrete scores).

For the absorbing process the score of token y at a masked position is p(y | what is seen) /
(e^sigma - 1) (their section 4.2), so that its logarithm is, up to a constant, the log-probability
of y: `logits` gives that, `score_logits` the scores themselves. Shape letters: B = rows, L =
positions, N = wanted positions, V = vocabulary with the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, NUMBER, TEXT, all_of
from dlm_eval.models.denoiser import Geometric, LogLinear, NoiseSchedule
from dlm_eval.models.families.dit import DiT, DiTConfig, DiTDenoiser, rename
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint, the_mask
from dlm_eval.models.transformer import wanted_places
from dlm_eval.models.weights import OwnModule

SIZES = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "length")
# config.json is the authors' training plan, nested.
KEYS = ConfigKeys(
    "SEDD",
    needed=all_of(COUNT, "tokens", *(f"model.{key}" for key in SIZES)) | {"graph.type": TEXT},
    read={"noise.type": TEXT, "noise.sigma_min": NUMBER, "noise.sigma_max": NUMBER},
    defaults={"noise.type": "loglinear"},
    usual={
        "graph.type": ("absorb",),
        "model.scale_by_sigma": (True,),
        "model.type": (None, "ddit"),
    },
    harmless=frozenset(
        {
            "data", "eval", "graph.file", "graph.report_all", "hydra", "model.dropout", "model.name", "ngpus", "optim", "sampling",
            "training", "work_dir", "wandb_name",
        }
    ),
)  # fmt: skip


class ScoreDenoiser(DiTDenoiser):
    """Denoiser of SEDD. `logits` tells the network the noise level of this share of masks."""

    schedule: NoiseSchedule = LogLinear()

    def sigma(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the total noise [B] at the share of a row's tokens that are masked."""
        hidden = tokens == self.mask_id
        share = hidden.float().mean(1) if valid is None else (hidden & valid).sum(1) / valid.sum(1)
        return self.schedule.at_share(share)

    @torch.no_grad()
    def score_logits(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 log-scores of every token at each wanted position, 0 at the row's own
        token.

        Args:
            tokens, valid, positions: as of `Denoiser.logits`.
            time: [B] total noise sigma, above 0.
        """
        tokens, sigma = tokens.to(self.device), time.to(self.device).float()
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        scores = self.read(self.run(tokens, sigma, valid)[rows, columns])
        # log(e^sigma - 1), exactly for small sigma too.
        scale = sigma + torch.log(-torch.expm1(-sigma))
        scores = scores - scale[rows, None] - torch.log(torch.tensor(self.vocab_size - 1.0))
        return scores.scatter(-1, tokens[rows, columns, None], 0.0).view(*shape, self.vocab_size)

    def log_scores(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Returns float32 log-scores [B, L, V] of `tokens` [B, L] at total noise `sigma` [B]."""
        return self.score_logits(tokens, None, None, sigma)


def network(opened: OpenedCheckpoint) -> OwnModule:
    """Returns the DiT."""
    return OwnModule(lambda: DiT(sizes(opened.values)), rename)


def sizes(values: dict[str, Any]) -> DiTConfig:
    """Returns the network's sizes; the mask is one more id."""
    return DiTConfig(values["tokens"] + 1, *(values[f"model.{key}"] for key in SIZES))


def set_schedule(denoiser: ScoreDenoiser, opened: OpenedCheckpoint) -> None:
    """Gives the denoiser the noise schedule of config.json.

    Raises:
        UserError: an unknown schedule, or one without its bounds.
    """
    values, kind = opened.values, opened.values["noise.type"]
    if kind == "geometric":
        if not {"noise.sigma_min", "noise.sigma_max"} <= values.keys():
            raise opened.error(
                ": config.json lacks noise.sigma_min or noise.sigma_max, which 'geometric' needs"
            )
        denoiser.schedule = Geometric(
            float(values["noise.sigma_min"]), float(values["noise.sigma_max"])
        )
    elif kind != "loglinear":
        raise opened.error(
            f": noise '{kind}' in config.json is not known; loglinear and geometric are"
        )


FAMILY = FamilySpec(
    "sedd",
    KEYS,
    network,
    default_mask=lambda values: sizes(values).vocab_size - 1,
    suppressed=the_mask,
    denoiser=lambda _: ScoreDenoiser,
    finish=set_schedule,
)

"""SDLM (Liu et al. 2025, arXiv 2509.24007): a Qwen2.5 that predicts the next D tokens of a text.

Text is read causally. Behind it come masks. They and the last token of the text form a window whose
positions see each other and the text before them. Each predicts the token one place to the right,
so D - 1 masks give D tokens (OpenGVLab/SDLM 7e8a26e, `modeling_qwen2.py`, `attn_mask_utils.py`).

Here a row has a mask for each token that is predicted. The last mask of a run only stands for its
own token: nobody else sees it. A row with one mask is the autoregressive model.

Shape letters: B = rows, L = positions, H = hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from dlm_eval.models.config_keys import QWEN2
from dlm_eval.models.config_tables import COUNT, FLAG, INDEX
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.kv_cache import BatchKV, LayerCache, additive_mask, cache_argument, cached_mask
from dlm_eval.models.loading import LoadSettings
from dlm_eval.models.transformer import TransformersDenoiser, token_positions
from dlm_eval.models.weights import Pretrained


@dataclass(frozen=True)
class SdlmSettings(LoadSettings):
    """Options of SDLM.

    Attributes:
        causal_attn: whether a position of the window sees only those before it; None for what
            config.json says.
    """

    causal_attn: bool | None = None


class NextTokensDenoiser(TransformersDenoiser):
    """A causal network whose masks, behind the text, see each other (`denoiser.NextTokens`).

    Attributes:
        tokens_ahead: tokens that it was trained to predict at once (D).
        causal_window: whether a position of the window sees only those before it.
    """

    tokens_ahead = 4
    causal_window = False

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the last hidden states [B, L, H]."""
        return self.hidden_cached(tokens, valid, None, None)

    def hidden_cached(
        self, tokens: Tensor, valid: Tensor | None, past: BatchKV | None, states: LayerCache | None
    ) -> Tensor:
        """Returns the last hidden states [B, L, H]; every position sees all of `past`."""
        visible = seen(tokens == self.mask_id, valid, self.causal_window)
        places = token_positions(tokens, valid)
        if past is None:
            mask = additive_mask(visible, self.dtype)
        else:
            places, mask = past.begin[:, None] + places, cached_mask(visible, past, self.dtype)
        found: Tensor = self.backbone(
            input_ids=tokens,
            position_ids=places.expand(len(tokens), -1),
            attention_mask=mask,
            use_cache=False,
            **cache_argument(self.backbone, states),
        ).last_hidden_state
        return found

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint."""
        own = {"tokens_ahead": self.tokens_ahead, "causal_attn": self.causal_window}
        return {**super().describe(), **own}


def seen(masked: Tensor, valid: Tensor | None, causal: bool) -> Tensor:
    """Returns [B, L, L] bool, true if one position sees another.

    Known tokens are seen by all positions from their own on. A mask is seen by those of its window:
    the run of masks that it belongs to, and the known token before this run. The last mask of a run
    is seen by itself only.

    Args:
        masked: [B, L] bool, true at masks.
        valid: [B, L] bool, false at padding, or None.
        causal: whether a mask is seen only by itself and later positions of its window.
    """
    real = torch.ones_like(masked) if valid is None else valid
    masked = masked & real
    column = torch.arange(masked.shape[1], device=masked.device)
    earlier = column[:, None] >= column  # [L, L]
    window = torch.where(masked, -1, column).cummax(1).values  # [B, L] the known token before
    ends = masked & ~torch.nn.functional.pad(masked[:, 1:], (0, 1))
    known = (~masked & real)[:, None] & earlier
    together = window[:, :, None] == window[:, None]
    inside = together & (masked & ~ends)[:, None] & (earlier if causal else True)
    return known | inside | torch.eye(len(column), dtype=torch.bool, device=masked.device)


# -- the checkpoint --------------------------------------------------------------------------------

KEYS = QWEN2.extended(
    family="SDLM",
    needed={"block_size": COUNT},
    read={"causal_attn": FLAG, "text_mask_token_id": INDEX},
    harmless=frozenset({"text_mask_token"}),
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen2, whose attention the denoiser masks."""
    own = opened.without("block_size", "causal_attn", "text_mask_token_id")
    return Pretrained(Qwen2ForCausalLM, Qwen2Config(**own))


def _finish(denoiser: Any, opened: OpenedCheckpoint) -> None:
    assert isinstance(opened.settings, SdlmSettings)
    asked, mask = opened.settings.causal_attn, opened.values.get("text_mask_token_id")
    if opened.settings.mask_id is None and mask not in (None, denoiser.mask_id):
        raise opened.error(
            f": config.json has text_mask_token_id {mask}, its tokenizer's mask is "
            f"{denoiser.mask_id}; choose one with mask_id="
        )
    ahead, most = opened.values["block_size"], denoiser.max_length
    if ahead > most:
        raise opened.error(f": config.json has block_size {ahead}; it must be at most {most}")
    denoiser.tokens_ahead = ahead
    stated = bool(opened.values.get("causal_attn"))
    denoiser.causal_window = stated if asked is None else asked


FAMILY = FamilySpec(
    "sdlm",
    KEYS,
    network,
    SdlmSettings,
    autoregressive=lambda _: True,
    bos_only_if_empty=True,
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    mask_token="<text_mask>",
    default_mask=lambda values: values.get("text_mask_token_id"),
    tokenizer_class=Qwen2Tokenizer,
    denoiser=lambda _: NextTokensDenoiser,
    finish=_finish,
)

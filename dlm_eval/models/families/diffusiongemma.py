"""DiffusionGemma (Google 2026): a causal encoder reads the text so far, a decoder of the same
weights denoises one canvas behind it.

transformers has the network; its decoding is ours (`decoding.random_canvas`). There is no mask token: an
open canvas holds random tokens, and each step also reads the distributions of the step before
(self-conditioning), as the embeddings that they average to.

Shape letters: B = rows, L = positions, P = longest text before a canvas, n = longest canvas, H =
hidden size, V = vocabulary, N = wanted positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    DynamicCache,
)

from dlm_eval.models.config_keys import ConfigKeys, check_class, class_keys
from dlm_eval.models.config_tables import OBJECT
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.kv_cache import cache_argument
from dlm_eval.models.transformer import TransformersDenoiser, real_positions, wanted_places
from dlm_eval.models.weights import Pretrained


class DiffusionGemmaDenoiser(TransformersDenoiser):
    """Denoiser of a DiffusionGemma network (see `models.denoiser.CanvasDenoiser`).

    Without `inputs`, everything behind a row's first token is a canvas before its first step.
    Positions before a canvas have equal logits: they are given.
    """

    def no_cache_reason(self) -> str:
        """Returns why there is no KV cache of `forward_cached`."""
        return "the text before a canvas has a cache of its own"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.decoder, self.reader = (
            self.model.model.decoder,
            self.model.model.encoder.language_model,
        )
        self.canvas_length = int(self.model.config.canvas_length)
        self.state_size = int(self.model.config.text_config.hidden_size)
        self.needs_bos = True  # the decoder reads a text of one token at least
        self._signal: Tensor | None = None
        self._read: tuple[Tensor, Tensor, Any] | None = None
        self.decoder.self_conditioning.register_forward_pre_hook(self._condition)

    def soft_embeddings(self, probability: Tensor) -> Tensor:
        """Returns the self-conditioning [N, H] of distributions [N, V]: the mean embedding."""
        table = self.decoder.embed_tokens
        mean = probability.to(table.weight.device, table.weight.dtype) @ table.weight
        soft: Tensor = mean * table.embed_scale.to(mean.dtype)
        return soft

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        positions: Tensor | None = None,
        inputs: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits of the token at each wanted position (see `Denoiser.logits`).

        Args:
            tokens: [B, L] long.
            valid: [B, L] bool, false at padding, or None.
            positions: as in `Denoiser.logits`.
            inputs: [B, L, H + 1] self-conditioning, and 1 from where the canvas begins.
            time: not used.
        """
        tokens = tokens.to(self.device)
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid.to(self.device)
        begun = real.cumsum(1) > 1 if inputs is None else inputs[..., -1].cummax(1).values > 0
        canvas = real & begun
        states = self._states(
            tokens, real & ~canvas, canvas, None if inputs is None else inputs[..., :-1]
        )
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        return self.read(states[rows, columns]).view(*shape, self.vocab_size)

    def read(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits [N, V] of hidden states [N, H], capped as the network's are."""
        cap = float(self.model.final_logit_softcapping)
        return torch.tanh(super().read(hidden) / cap) * cap

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint."""
        return {**super().describe(), "canvas_length": self.canvas_length}

    def _states(
        self, tokens: Tensor, before: Tensor, canvas: Tensor, signal: Tensor | None
    ) -> Tensor:
        """Returns the decoder's states [B, L, H], zero outside canvases."""
        prompts, known = _gathered(tokens, before, self.pad_id, "left")
        drafts, here = _gathered(tokens, canvas, self.pad_id, "right")
        place = known.sum(1, keepdim=True) + torch.arange(drafts.shape[1], device=tokens.device)
        if signal is not None:
            self._signal = _gathered(signal.to(self.device, self.dtype), canvas, 0.0, "right")[0]
        try:
            found = self.decoder(
                decoder_input_ids=drafts,
                decoder_attention_mask=torch.cat([known, here], 1),
                decoder_position_ids=place,
                **cache_argument(self.decoder, self._encoded(prompts, known)),
            ).last_hidden_state
        finally:
            self._signal = None
        states = torch.zeros(*tokens.shape, found.shape[-1], dtype=found.dtype, device=found.device)
        states[canvas] = found[here]
        return states

    def _encoded(self, prompts: Tensor, known: Tensor) -> Any:
        """Returns keys and values of texts [B, P] before canvases; an equal call has them."""
        if (
            self._read is not None
            and torch.equal(self._read[0], prompts)
            and torch.equal(self._read[1], known)
        ):
            return self._read[2]
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        places = real_positions(known)
        self.reader(
            input_ids=prompts,
            attention_mask=known.long(),
            position_ids=places,
            **cache_argument(self.reader, cache),
        )
        self._read = (prompts, known, cache)
        return cache

    def _condition(self, module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Puts the signal in place of the zeros that the decoder takes without a last step."""
        return None if self._signal is None else (arguments[0], self._signal)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns the network; special ids of the text part's config serve if the file names none."""
    check_class(
        DiffusionGemmaTextConfig, opened.values["text_config"], opened.files, opened.settings
    )
    config = DiffusionGemmaConfig(**opened.values)
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        opened.config.setdefault(key, getattr(config.text_config, key))
    return Pretrained(DiffusionGemmaForBlockDiffusion, config)


def _keys(raw: dict[str, Any]) -> ConfigKeys:
    keys = class_keys(DiffusionGemmaConfig, raw)
    return keys.extended(
        family="DiffusionGemma", needed={"text_config": OBJECT, "vision_config": OBJECT}
    )


def _gathered(values: Tensor, chosen: Tensor, filler: float, side: str) -> tuple[Tensor, Tensor]:
    """Returns rows' `chosen` values [B, longest, ...], padded, and which are real."""
    parts = [row[keep] for row, keep in zip(values, chosen, strict=True)]
    real = [torch.ones(len(part), dtype=torch.bool, device=values.device) for part in parts]
    return pad_sequence(parts, True, filler, side), pad_sequence(real, True, False, side)


FAMILY = FamilySpec(
    "diffusiongemma", _keys, network, process="canvas", denoiser=lambda _: DiffusionGemmaDenoiser
)

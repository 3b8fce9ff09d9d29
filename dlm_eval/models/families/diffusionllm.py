"""DiffusionLLM (Ye et al. 2023, arXiv 2308.12219): XLM-R base to XXL as absorbing denoiser, no
shift, and its length head.

A row is prompt and response in one sequence between <s> and </s>, which the adapter adds; the mask
is never predicted. The authors' files become a folder in the hub's layout by
scripts/convert_diffusionllm.py; the length head lies beside the weights in its own file. Shape
letters: B = rows, L = positions, H = hidden size, N = wanted positions, C = classes of the length
head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaXLConfig,
    XLMRobertaXLForMaskedLM,
)

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, FLAG, INDEX, NUMBER, TEXT, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint, the_mask
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.transformer import TransformersDenoiser
from dlm_eval.models.weight_files import stored
from dlm_eval.models.weights import Pretrained, built_within, check_keys, read_state

CLASSES = {
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM),
    "xlm-roberta-xl": (XLMRobertaXLConfig, XLMRobertaXLForMaskedLM),
}
KEYS = ConfigKeys(
    "DiffusionLLM",
    needed=all_of(
        COUNT, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
        "type_vocab_size",
    )
    | {"layer_norm_eps": NUMBER, "pad_token_id": INDEX},
    read={"hidden_act": TEXT, "tie_word_embeddings": FLAG},
    defaults={"hidden_act": "gelu", "tie_word_embeddings": True},
    usual={"position_embedding_type": ("absolute", None)},
)  # fmt: skip
LENGTH_FILE = "length_head.safetensors"
FRAME = 2  # <s> and </s>


class LengthHead(nn.Module):
    """A transformer layer over the prompt's features, their mean, two linear ones (section 3.2)."""

    def __init__(self, hidden: int, heads: int, inner: int, classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(hidden, heads, inner, batch_first=True)
        self.length_trm = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.length_predictor = nn.Sequential(
            nn.Linear(hidden, inner), nn.Tanh(), nn.Linear(inner, classes)
        )

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns logits [B, C] from features [B, L, H] and valid [B, L]."""
        mixed = self.length_trm(features, src_key_padding_mask=~valid).masked_fill(
            ~valid[:, :, None], 0
        )
        mean = mixed.float().sum(1) / valid.sum(1, keepdim=True)
        logits: Tensor = self.length_predictor(mean.to(features.dtype))
        return logits


class DiffusionLLMDenoiser(TransformersDenoiser):
    """Adds <s> and </s> around every row, and predicts lengths if there is a length head."""

    length_head: LengthHead | None = None

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of the token at each wanted position (see `Denoiser.logits`)."""
        wide, real = self._framed(tokens.to(self.device), valid, ends=True)
        if positions is None:
            positions = torch.arange(tokens.shape[1])
        positions = F.pad(positions, (1, 1)) if positions.dtype == torch.bool else positions + 1
        return super().logits(wide, real, positions)

    @torch.no_grad()
    def length_logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits [N, C] of response length - 1, a row's own at each of its wanted
        positions.

        Args:
            tokens: [B, L] long, the prompts alone.
            valid: [B, L] bool, false at padding, or None.
            positions: [B, L] bool, or None for one answer per row.
        """
        if self.length_head is None:
            raise UserError(
                f"{self.name} has no length head ({LENGTH_FILE}); decode with a length of your own"
            )
        wide, real = self._framed(tokens.to(self.device), valid, ends=False)
        logits: Tensor = self.length_head(
            self.hidden(wide, None if bool(real.all()) else real), real
        ).float()
        return logits if positions is None else logits[positions.to(logits.device).nonzero()[:, 0]]

    def read(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits [N, V] of states [N, H], through the masked head's layer."""
        head = self.model.lm_head
        return super().read(head.layer_norm(F.gelu(head.dense(hidden))))

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint."""
        return {**super().describe(), "length_head": self.length_head is not None}

    def _framed(self, tokens: Tensor, valid: Tensor | None, ends: bool) -> tuple[Tensor, Tensor]:
        """Returns tokens [B, L + 2] between <s> and </s>, and where they are real.

        A row that begins with <s> gets none. </s> and its column are there only with `ends`.
        """
        real = (
            torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid.to(tokens.device)
        )
        room = (1, 1 if ends else 0)
        wide = F.pad(tokens.masked_fill(~real, self.pad_id), room, value=self.pad_id)
        rows, first, count = (
            torch.arange(len(tokens), device=tokens.device),
            real.long().argmax(1),
            real.sum(1),
        )
        assert self.bos_id is not None  # `load` requires it
        begins = tokens[rows, first] != self.bos_id
        wide[rows, first] = torch.where(begins, self.bos_id, self.pad_id)
        real = F.pad(real, room)
        real[rows, first] = begins
        if ends:
            wide[rows, first + count + 1] = self.eos_ids[0]
            real[rows, first + count + 1] = True
        return wide, real


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns XLM-R or XLM-R-XL.

    Raises:
        UserError: another architecture.
    """
    kind = opened.config.get("model_type")
    if kind not in CLASSES:
        raise opened.error(f" has model_type '{kind}'; DiffusionLLM is one of {', '.join(CLASSES)}")
    config_class, model_class = CLASSES[kind]
    return Pretrained(model_class, config_class(**opened.values))


def add_length_head(denoiser: DiffusionLLMDenoiser, opened: OpenedCheckpoint) -> None:
    """Checks the special ids that the frame needs, and loads the length head.

    Raises:
        UserError: no <s>, another <pad> than the network's, or a length head that does not fit.
    """
    pad = opened.config["pad_token_id"]
    if denoiser.bos_id is None or denoiser.pad_id != pad:
        raise opened.error(f": its tokenizer needs <s>, and <pad> at {pad} as config.json says")
    denoiser.length_head = _length_head(opened.files, denoiser.model.config, denoiser)


def _length_head(
    folder: CheckpointFiles, config: Any, denoiser: DiffusionLLMDenoiser
) -> LengthHead | None:
    """Returns the folder's length head on the denoiser's device in its dtype, or None."""
    file = folder.path / LENGTH_FILE
    if not file.is_file():
        return None
    sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
    within = built_within(
        stored([file], folder.name), False, f"pretrained '{folder.name}': config.json"
    )
    with denoiser.device if denoiser.device.type == "meta" else torch.device("cpu"), within:
        head = (
            LengthHead(*sizes, config.max_position_embeddings)
            .to(denoiser.dtype)
            .eval()
            .requires_grad_(False)
        )
    if denoiser.device.type == "meta":
        return head
    state, own = read_state(folder, [file], torch.device("cpu")), head.state_dict()
    wrong = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    check_keys(
        f"{folder.name}/{LENGTH_FILE}", own.keys() - state.keys(), state.keys() - own.keys(), wrong
    )
    head.load_state_dict(state)
    return head.to(denoiser.device)


FAMILY = FamilySpec(
    "diffusionllm",
    KEYS,
    network,
    mask_token="<mask>",
    suppressed=the_mask,
    denoiser=lambda _: DiffusionLLMDenoiser,
    # RoBERTa counts positions from pad_token_id + 1.
    longest=lambda config: int(config.max_position_embeddings) - config.pad_token_id - 1 - FRAME,
    finish=add_length_head,
)

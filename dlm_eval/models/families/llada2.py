"""LLaDA2.0, 2.1 (Ling MoE): GLM-4 MoE, other names, fused qkv, block-causal in blocks of 32.

LLaDA2.2 routes blocks (`expert_capacity`): the tokens of a block choose together the experts that
any of them may use. The rule is that of sglang 0.5.23, srt/models/llada2.py, `block_topk_triton`.

Shape letters: B = rows, L = positions that run, E = experts, K = experts of a token, G = blocks of a
row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeMoE, Glm4MoeTopkRouter

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import DENSE, WINDOWS, Rope
from dlm_eval.models.config_tables import COUNT, FLAG, INDEX, NO, NUMBER, all_of
from dlm_eval.models.family import (
    BlockSettings,
    FamilySpec,
    OpenedCheckpoint,
    asked_block,
    blocks_of,
)
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.naming import Naming
from dlm_eval.models.soft_inputs import SoftDenoiser
from dlm_eval.models.transformer import real_positions
from dlm_eval.models.weights import Pretrained

# that all published checkpoints were trained with; used if config.json does not say
BLOCK_LENGTH = 32


class Llada2ForCausalLM(Glm4MoeForCausalLM):  # type: ignore[misc]
    """GLM-4 MoE under a name of its own, because transformers keeps conversions by class name."""


# -- routing of blocks (LLaDA2.2) ------------------------------------------------------------------


def route_blocks(
    choice: Tensor, group: Tensor, valid: Tensor | None, capacity: int, top_k: int
) -> Tensor:
    """Returns the experts [B, L, K] of each token, the best first; of equal ones the lower id.

    A block's score of an expert is the largest of its tokens. Its `capacity` best experts are open
    to its tokens.

    Args:
        choice: [B, L, E] float32, how much each token asks for each expert.
        group: [B, L] long, number of the token's block in its row.
        valid: [B, L] bool, false at padding, which asks for nothing; None if no row is padded.
        capacity: experts of a block.
        top_k: experts of a token.
    """
    rows, _, experts = choice.shape
    asked = choice if valid is None else choice.masked_fill(~valid[..., None], -torch.inf)
    index = group[..., None].expand_as(choice)
    best = choice.new_full((rows, int(group.max()) + 1, experts), -torch.inf)
    best = best.scatter_reduce(1, index, asked, "amax")
    allowed = best.sort(dim=-1, descending=True, stable=True).indices[..., :capacity]
    is_open = torch.zeros_like(best, dtype=torch.bool).scatter(-1, allowed, True).gather(1, index)
    ranked = choice.masked_fill(~is_open, -torch.inf).sort(dim=-1, descending=True, stable=True)
    return ranked.indices[..., :top_k]


class BlockRouter(Glm4MoeTopkRouter):  # type: ignore[misc]
    """Router of LLaDA2.2. Positions are counted from the first that runs, so rows begin with a block.

    Groups of experts (`n_group`) and `norm_topk_prob` do not count: weights are always normalised.

    Attributes:
        valid: [B, L] bool, false at padding of the positions that run next; None if there is none.
    """

    def __init__(self, config: Glm4MoeConfig) -> None:
        super().__init__(config)
        self.capacity, self.block = config.expert_capacity, config.block_size
        self.valid: Tensor | None = None

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns router logits [B L, E], weights and ids of experts [B L, K] of states [B, L, H]."""
        rows, length, _ = hidden_states.shape
        logits = F.linear(hidden_states.float(), self.weight.float())
        scores = logits.sigmoid()
        valid = None if self.valid is None else self.valid.to(logits.device)
        place = torch.arange(length, device=logits.device).expand(rows, -1)
        place = place if valid is None else real_positions(valid)
        choice = scores + self.e_score_correction_bias
        ids = route_blocks(choice, place // self.block, valid, self.capacity, self.top_k)
        weights = scores.gather(-1, ids)
        if self.top_k > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        weights = weights * self.routed_scaling_factor
        return logits.flatten(0, 1), weights.flatten(0, 1), ids.flatten(0, 1)


class BlockRoutedForCausalLM(Llada2ForCausalLM):
    """The network of LLaDA2.2: blocks are routed by `config.expert_capacity`."""

    def __init__(self, config: Glm4MoeConfig) -> None:
        super().__init__(config)
        for module in self.modules():
            if isinstance(module, Glm4MoeMoE):
                module.gate = BlockRouter(config)


class Llada2Denoiser(SoftDenoiser):
    """A LLaDA2 checkpoint.

    Attributes:
        delete_token_id, split_token_id: see `models.denoiser.EditTokens`.
    """

    runs_whole_blocks = False
    delete_token_id: int | None = None
    split_token_id: int | None = None


class BlockRoutedDenoiser(Llada2Denoiser):
    """A LLaDA2.2 checkpoint. Padding takes no part in the routing of a block."""

    runs_whole_blocks = True

    def inputs(self, tokens: Tensor, valid: Tensor | None) -> dict[str, Any]:
        """Returns what the network needs besides tokens, and tells the routers what is padding."""
        for module in self.model.modules():
            if isinstance(module, BlockRouter):
                module.valid = valid
        return super().inputs(tokens, valid)


def _denoiser(model: Any) -> type[Llada2Denoiser]:
    routed = any(isinstance(module, BlockRouter) for module in model.modules())
    return BlockRoutedDenoiser if routed else Llada2Denoiser


def _finish(denoiser: Any, opened: OpenedCheckpoint) -> None:
    denoiser.delete_token_id = opened.values.get("delete_token_id")
    denoiser.split_token_id = opened.values.get("split_token_id")


# -- the checkpoint --------------------------------------------------------------------------------


RENAMES = {
    "model.word_embeddings": "model.embed_tokens",
    "attention.dense": "self_attn.o_proj",
    "attention.query_layernorm": "self_attn.q_norm",
    "attention.key_layernorm": "self_attn.k_norm",
    "mlp.gate.expert_bias": "mlp.gate.e_score_correction_bias",
}
FUSED = {
    f"attention.query_key_value.{kind}": tuple(
        f"self_attn.{letter}_proj.{kind}" for letter in "qkv"
    )
    for kind in ("weight", "bias")
}
NAMING = Naming(RENAMES, FUSED)
SAME = (  # keys that mean the same to both
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "hidden_act",
    "num_key_value_heads", "moe_intermediate_size", "num_experts_per_tok", "first_k_dense_replace", "n_group", "topk_group",
    "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings", "norm_topk_prob", "use_qk_norm",
)  # fmt: skip
KEYS = DENSE.extended(
    family="LLaDA2",
    needed=all_of(
        COUNT,
        "head_dim",
        "num_key_value_heads",
        "num_experts",
        "moe_intermediate_size",
        "num_experts_per_tok",
    )
    | all_of(COUNT, "n_group", "topk_group")
    | {"first_k_dense_replace": INDEX, "routed_scaling_factor": NUMBER, "norm_topk_prob": FLAG},
    read={
        "num_shared_experts": COUNT,
        "use_qkv_bias": FLAG,
        "use_qk_norm": FLAG,
        "partial_rotary_factor": NUMBER,
        "rotary_dim": COUNT,
        "block_size": COUNT,
        "expert_capacity": COUNT,
        "delete_token_id": INDEX,
        "split_token_id": INDEX,
    },
    defaults={
        "hidden_act": "silu",
        "num_shared_experts": 1,
        "use_qkv_bias": False,
        "use_qk_norm": True,
    },
    usual={
        "moe_router_enable_expert_bias": (True,),
        "router_dtype": (None, "fp32", "float32"),
        "score_function": ("sigmoid",),
        "scoring_func": (None, "sigmoid"),
        "topk_method": (None, "noaux_tc"),
        "use_rmsnorm": (True,),
        "using_split_qkv_in_self_attention": NO,
    },
    harmless=WINDOWS | {"moe_shared_expert_intermediate_size", "router_type"},
    rope=Rope(partial=True),
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns GLM-4 MoE, whose conversion of weights it registers under LLaDA2's names.

    Raises:
        UserError: the numbers of a block's routing do not fit each other.
    """
    config, made = _config(opened.values, opened.files), Llada2ForCausalLM
    if (capacity := opened.values.get("expert_capacity")) is not None:
        _check_routing(opened)
        config.expert_capacity, config.block_size = capacity, opened.values["block_size"]
        made = BlockRoutedForCausalLM
    known = get_checkpoint_conversion_mapping("glm4_moe")
    ours: list[Any] = [WeightRenaming(theirs, mine) for theirs, mine in RENAMES.items()]
    ours += [WeightConverter(theirs, list(parts), [Split(0)]) for theirs, parts in FUSED.items()]
    register_checkpoint_conversion_mapping(made.__name__, [*ours, *known], overwrite=True)
    return Pretrained(made, config, NAMING)


def _check_routing(opened: OpenedCheckpoint) -> None:
    """Raises UserError if blocks cannot be routed as config.json says."""
    values = opened.values
    block, capacity = values.get("block_size"), values["expert_capacity"]
    if block is None or block & (block - 1):
        raise opened.error(
            f": config.json has expert_capacity {capacity} and block_size {block}; the block must be "
            "a power of two"
        )
    if not values["num_experts_per_tok"] <= capacity <= values["num_experts"]:
        raise opened.error(
            f": config.json has expert_capacity {capacity}; it must be num_experts_per_tok "
            f"{values['num_experts_per_tok']} to num_experts {values['num_experts']}"
        )


def _causal_blocks(opened: OpenedCheckpoint) -> int:
    """Returns the block length.

    Raises:
        UserError: another one is asked for than the one that is routed.
    """
    asked, block = asked_block(opened.settings), opened.values.get("block_size")
    routed = opened.values.get("expert_capacity") is not None
    if routed and asked not in (None, block):
        raise UserError(
            f"model_args block_length '{asked}' is not allowed; '{opened.files.name}' routes blocks "
            f"of {block} as one (expert_capacity), so leave it out"
        )
    return blocks_of("block_size", BLOCK_LENGTH)(opened)


def _config(values: dict[str, Any], folder: CheckpointFiles) -> Any:
    """Returns the GLM-4 MoE config of what a LLaDA2 config.json says.

    Raises:
        UserError: the file does not say, or says twice and differently, how much of a head turns.
    """
    rope, turned = dict(values["rope_parameters"]), values.get("rotary_dim")
    if turned is not None:
        part = rope.setdefault("partial_rotary_factor", turned / values["head_dim"])
        if turned != int(values["head_dim"] * part):
            raise UserError(
                f"pretrained '{folder.name}': config.json has rotary_dim {turned}, and "
                f"partial_rotary_factor {part!r} of heads of {values['head_dim']}"
            )
    if "partial_rotary_factor" not in rope:
        raise UserError(
            f"pretrained '{folder.name}': config.json lacks partial_rotary_factor, which LLaDA2 "
            "needs"
        )
    return Glm4MoeConfig(
        **{key: values[key] for key in SAME},
        n_routed_experts=values["num_experts"],
        n_shared_experts=values["num_shared_experts"],
        tie_word_embeddings=values.get("tie_word_embeddings", False),
        attention_bias=values["use_qkv_bias"],
        num_nextn_predict_layers=0,
        rope_parameters=rope,
        is_causal=False,
    )


FAMILY = FamilySpec(
    "llada2",
    KEYS,
    network,
    BlockSettings,
    causal_blocks=_causal_blocks,
    eos_tokens=("<|endoftext|>", "<|role_end|>"),
    mask_token="<|mask|>",
    denoiser=_denoiser,
    finish=_finish,
)

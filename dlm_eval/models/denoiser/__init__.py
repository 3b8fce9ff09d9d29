"""What a model is to the rest of the package: a `Denoiser`, and what only some models have.

No base class is needed. A protocol of another file than `core` is optional: the package asks for it
with `offers`, or with the function below the protocol, and does without it if the model lacks its
members.

core: what every model has
members: how the package asks for what is optional
facts: device, dtype, batches, padding, ids
texts: the tokenizer
caches: of keys and values, and of features
orders: who sees whom, and the order of writing
noise: noise schedules, and models that are told of noise
inputs: mixtures of tokens, embeddings, canvases
outputs: lengths, hidden states, edits; what is read from logits
"""

from __future__ import annotations

from dlm_eval.models.denoiser.caches import (
    CacheTested,
    CachingDenoiser,
    FeatureCacheDenoiser,
    KVCacheDenoiser,
    WholeBlocks,
    caching,
    exact_cache_block,
    logit_shift,
    runs_whole_blocks,
)
from dlm_eval.models.denoiser.core import NO_MASK, Attention, Denoiser, Process
from dlm_eval.models.denoiser.facts import (
    BatchInvariance,
    EmbeddingRows,
    InPrecision,
    OnDevice,
    Padding,
    can_pad,
    check_ids,
    device_of,
    dtype_of,
    embedding_rows,
    is_batch_invariant,
)
from dlm_eval.models.denoiser.inputs import CanvasDenoiser, EmbeddingDenoiser, SoftInputs
from dlm_eval.models.denoiser.members import missing_members, offers
from dlm_eval.models.denoiser.noise import (
    ConcreteScores,
    Geometric,
    LogLinear,
    NoiseLevels,
    NoiseSchedule,
    noise_schedule,
)
from dlm_eval.models.denoiser.orders import (
    BlockDrafts,
    LayoutDenoiser,
    NextTokens,
    ReadsContext,
    WritingOrder,
    is_autoregressive,
    reads_context,
    takes_layouts,
    tokens_ahead,
)
from dlm_eval.models.denoiser.outputs import (
    EditTokens,
    HiddenStates,
    KeepingOp,
    LengthHead,
    LogitsOp,
    edit_tokens,
)
from dlm_eval.models.denoiser.texts import (
    BosOnlyIfEmpty,
    ChatTemplates,
    ReadAhead,
    TextStart,
    TokenBytes,
    TokenNames,
    bos_only_if_empty,
    read_ahead,
    text_start,
    token_bytes,
    token_name,
)

__all__ = [
    # core
    "Process", "Attention", "NO_MASK", "Denoiser",
    # members
    "missing_members", "offers",
    # facts
    "OnDevice", "device_of", "InPrecision", "dtype_of", "BatchInvariance", "is_batch_invariant", "Padding", "can_pad", "EmbeddingRows", "embedding_rows", "check_ids",
    # texts
    "ChatTemplates", "TextStart", "text_start", "BosOnlyIfEmpty", "bos_only_if_empty", "TokenNames", "token_name", "ReadAhead", "read_ahead", "TokenBytes", "token_bytes",
    # caches
    "KVCacheDenoiser", "CachingDenoiser", "caching", "logit_shift", "exact_cache_block", "CacheTested", "WholeBlocks", "runs_whole_blocks", "FeatureCacheDenoiser",
    # orders
    "LayoutDenoiser", "takes_layouts", "WritingOrder", "BlockDrafts", "NextTokens", "tokens_ahead", "is_autoregressive", "ReadsContext", "reads_context",
    # noise
    "NoiseSchedule", "LogLinear", "Geometric", "ConcreteScores", "noise_schedule", "NoiseLevels",
    # inputs
    "SoftInputs", "EmbeddingDenoiser", "CanvasDenoiser",
    # outputs
    "LengthHead", "HiddenStates", "EditTokens", "edit_tokens", "LogitsOp", "KeepingOp",
]  # fmt: skip

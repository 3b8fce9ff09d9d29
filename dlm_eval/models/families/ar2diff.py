"""AR2Diff (Han et al. 2024, arXiv 2401.17181): a causal language model trained on with SUNDAE, read with full attention.

There is no mask token: open positions hold random tokens, and every position is predicted in its own place. The authors published no
weights; scripts/train_sundae.py trains such a model. Any transformers class with a token head that obeys is_causal=False will do.
"""

from __future__ import annotations

from dlm_eval.models.families.generic import ANY_KEYS, ArchitectureSettings, head_kind, load_any, network
from dlm_eval.models.family import FamilySpec
from dlm_eval.models.transformer import TransformersDenoiser

SPEC = FamilySpec("ar2diff", ANY_KEYS, network, process="uniform", denoiser=head_kind)


def load(settings: ArchitectureSettings) -> TransformersDenoiser:
    """Returns the denoiser of a transformers checkpoint that undoes random tokens.

    Raises:
        UserError: transformers lacks the class, or a probe failed (a class that stays causal, ...).
    """
    return load_any(SPEC, settings, {})

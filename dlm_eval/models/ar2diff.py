"""AR2Diff (Han et al. 2024, arXiv 2401.17181): a causal language model trained on with SUNDAE, read with full attention.

There is no mask token: open positions hold random tokens, and every position is predicted in its own place. The authors published no
weights; scripts/train_sundae.py trains such a model. Any transformers class with a token head that obeys is_causal=False will do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlm_eval.models.assemble import assemble
from dlm_eval.models.denoiser import NO_MASK
from dlm_eval.models.generic import class_and_config, head_kind
from dlm_eval.models.loading import LoadSettings, locate, read_config
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights


@dataclass(frozen=True)
class AR2DiffSettings(LoadSettings):
    """Options of `ar2diff`.

    Attributes:
        architecture: transformers class to load the weights into, such as LlamaForCausalLM, where config.json names foreign code.
    """

    architecture: str | None = None


def load(settings: AR2DiffSettings) -> TransformersDenoiser:
    """Returns the denoiser of a transformers checkpoint that undoes random tokens.

    Raises:
        UserError: transformers lacks the class, or a probe failed (a class that stays causal, ...).
    """
    folder = replace(locate(settings.pretrained, settings.revision), notes={})
    raw = read_config(folder)
    config, model_class = class_and_config(settings.architecture, folder, raw, settings)
    config.is_causal = False
    settings = replace(settings, mask_id=NO_MASK)
    vocabulary = read_vocabulary(folder, raw, settings)
    model = load_weights(model_class, config, folder, settings)
    return assemble(model, vocabulary, Traits("ar2diff", process="uniform"), folder, settings, head_kind(model))

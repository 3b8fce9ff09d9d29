"""An autoregressive model that reads what another model wrote: its tokens, and how likely it finds them.

Any causal language model of transformers. What can be wrong with its name or files shows when it is found, before anything is generated; its weights
are loaded when the first text is read.

Shape letters: L = tokens of a window.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError

if TYPE_CHECKING:
    from dlm_eval.models.loading import CheckpointFiles


@dataclass(frozen=True)
class Reading:
    """A text as the judge reads it.

    Attributes:
        tokens: ids of the text, context left out.
        logprob: log-likelihood of the text given its context, nats.
    """

    tokens: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class Judge:
    """A causal language model on its device; equal judges share their weights.

    Attributes:
        folder: its files.
        device: where it runs.
    """

    folder: CheckpointFiles
    device: str

    def read(self, context: str, text: str) -> Reading:
        """Returns `text` in the judge's tokens with its log-likelihood behind `context` (nats).

        The whole is encoded at once; a token that straddles the boundary belongs to the text. The judge's BOS (its end of text, where it has
        none) stands in front, so every token of a text without context is scored too.

        Raises:
            SampleError: its tokenizer gives up on the text.
        """
        from dlm_eval.models.tokenizer import text_ids

        tokenizer = _tokenizer(self.folder)
        whole, head = (text_ids(tokenizer, part, self.folder.name) for part in (context + text, context))
        shared = next(
            (i for i, (a, b) in enumerate(zip(whole, head, strict=False)) if a != b), min(len(whole), len(head))
        )
        logs = self._log_probs(_begin(self.folder), whole) if shared < len(whole) else []
        return Reading(tuple(whole[shared:]), float(sum(logs[shared:])))

    def _log_probs(self, begin: int, tokens: list[int]) -> list[float]:
        """Returns log p(token | what is before it) of each token, nats; windows that overlap by half where they do not fit at once."""
        import torch

        from dlm_eval.likelihood.windows import windows

        model = _model(self)
        limit = getattr(model.config, "max_position_embeddings", None) or len(tokens) + 1
        found: list[float] = []
        for window in windows([begin, *tokens], limit, max(1, limit // 2), given=1):
            ids = torch.tensor([window.tokens], device=self.device)
            with torch.no_grad():
                logs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)  # [L-1, V]
            own = logs.gather(1, ids[0, 1:, None])[:, 0].double().tolist()
            found += own[window.open_positions[0] - 1 :]
        return found


def find_judge(name: str, device: str = "auto") -> Judge:
    """Returns the judge of that name, its files on this machine (fetched from the hub where needed), its weights not yet loaded.

    Args:
        name: hub id, checkpoint folder, or 'asset:NAME' for a packaged one.
        device: auto (cuda where there is one), cpu, cuda:1, ...

    Raises:
        UserError: it cannot be had, or is no causal language model that transformers knows.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from dlm_eval.models.loading import first_line, locate, read_config, resolve_device

    try:
        folder = locate(name, setting="judge")
        folder.holds()
        read_config(folder)
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise UserError(
                f"judge '{name}': transformers has no causal language model of model_type '{config.model_type}'"
            )
        _begin(folder)
        return Judge(folder, str(resolve_device(device)))
    except UserError as error:
        raise UserError(f"{error}; name another with --metadata judge=ID_OR_DIR") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"judge '{name}' cannot be read: {first_line(error)}; name another with --metadata judge=ID_OR_DIR"
        ) from None


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: CheckpointFiles) -> Any:
    from dlm_eval.models.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def _begin(folder: CheckpointFiles) -> int:
    tokenizer = _tokenizer(folder)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise UserError(f"judge '{folder.name}' has neither a BOS nor an end-of-text token to begin a text with")
    return int(begin)


@functools.lru_cache(maxsize=1)
def _model(judge: Judge) -> Any:
    """Returns the network in eval mode; float32 on a CPU, else as its config says."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from dlm_eval.models.loading import read_config
    from dlm_eval.models.weights import built_within, name_weights

    whose = f"judge '{judge.folder.name}': config.json"
    config = AutoConfig.from_pretrained(judge.folder.path, trust_remote_code=False, local_files_only=True)
    name_weights(config, judge.folder)
    with built_within(judge.folder.holds(), "quantization_config" in read_config(judge.folder), whose):
        return AutoModelForCausalLM.from_pretrained(
            judge.folder.path,
            config=config,
            dtype="float32" if judge.device == "cpu" else "auto",
            device_map={"": judge.device},
            trust_remote_code=False,
            local_files_only=True,
        ).eval()

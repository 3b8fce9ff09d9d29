"""Checkpoints of random weights for suites of models that are no LLaDA, with room for 2048 positions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import models_builders as build
import test_models_ar2diff
import test_models_ddlm
import test_models_diffusionllm
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dlm_eval.models.families.dit import DiT
from dlm_eval.models.families.sedd import sizes

ROOT = Path(__file__).resolve().parents[1]
POSITIONS = 2048


def tokenizer(tokens: int = 4000) -> PreTrainedTokenizerFast:
    """Byte-level BPE of our own docs and code. A token holds 2.4 bytes of a benchmark's English, a real one 4.

    Prompts of bytes would make attention six times as slow, which took most of the tests' time.
    """
    texts = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "dlm_eval").rglob("*.py")]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens, special_tokens=[build.BOS, build.EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator((path.read_text(encoding="utf-8") for path in texts), trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=build.BOS, eos_token=build.EOS, pad_token=build.EOS
    )
    made.chat_template = build.CHAT
    return made


def llada(folder: Path, positions: int) -> Path:
    """LLaDA with a chat template. Its mask is the id behind the tokenizer's."""
    own = tokenizer()
    sizes = {"vocab_size": len(own) + 1, "embedding_size": len(own) + 1}
    ids = {"mask_token_id": len(own), "eos_token_id": own.eos_token_id}
    config = {**build.llada_config(), **sizes, **ids, "max_sequence_length": positions}
    model = build.llama(max_position_embeddings=positions, vocab_size=len(own) + 1)
    build.write(folder, config, build.llada_names(model.state_dict()))
    own.save_pretrained(folder)
    return folder


def ddlm(folder: Path) -> Path:
    model = test_models_ddlm.network(max_position_embeddings=POSITIONS)
    return test_models_ddlm.checkpoint(folder, model)


def ar2diff(folder: Path) -> Path:
    model = build.llama(is_causal=True, max_position_embeddings=POSITIONS)
    return test_models_ar2diff.checkpoint(folder, model)


def diffusionllm(folder: Path) -> Path:
    """XLM-R with a length head; four positions are <s>, </s> and the two before the first.

    Its tokens are bytes, of which a letter of Arabic or Bengali has two or three.
    """
    model, head = test_models_diffusionllm.network(positions=4 * POSITIONS + 4)
    model.save_pretrained(folder)
    test_models_diffusionllm.tokenizer().save_pretrained(folder)
    save_file(head.state_dict(), folder / test_models_diffusionllm.LENGTH_FILE)
    return folder


def sedd(folder: Path) -> Path:
    """SEDD of absorbing states. Its mask is the id behind the tokenizer's, as in the released ones."""
    network = {"hidden_size": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 4, "length": POSITIONS}
    tokens = build.VOCAB - 1
    config = {"tokens": tokens, "graph": {"type": "absorb"}, "noise": {"type": "loglinear"}}
    config |= {"model": {**network, "type": "ddit", "scale_by_sigma": True}}
    values = {"tokens": tokens} | {f"model.{key}": value for key, value in network.items()}
    model = build.spread(DiT(sizes(values)))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    build.tokenizer(mask=None).save_pretrained(folder)
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "ar2diff": ar2diff,
    "ddlm": ddlm,
    "diffusionllm": diffusionllm,
    "sedd": sedd,
}

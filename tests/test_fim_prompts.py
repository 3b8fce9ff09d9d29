"""Prompts that ask an autoregressive model to fill in the middle: the ids that Code Llama's tokenizer makes of
ours are those of its authors' code, and `hf` ends and keeps an answer as they do.
"""

from __future__ import annotations

import string
from typing import Any

import pytest
import torch
import yaml
from jinja2 import Template
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import CodeLlamaTokenizer, LlamaConfig, LlamaForCausalLM

from dlm_eval.packaged import task_configs_dir
from dlm_eval.workers.texts import calling

FOLDER = task_configs_dir() / "humaneval_infilling"
PRE, MID, SUF, EOT = (f"▁<{name}>" for name in ("PRE", "MID", "SUF", "EOT"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Code Llama's class with a small vocabulary: characters, runs of spaces and "▁de"."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("▁", "d"), ("▁d", "e")]
    letters = ["▁", "\n", *string.ascii_letters, *string.digits, *string.punctuation]
    for token in (*letters, *map("".join, merges), PRE, MID, SUF, EOT):
        vocab.setdefault(token, len(vocab))
    return CodeLlamaTokenizer(vocab=vocab, merges=merges)


def prompt(form: str, family: str, **doc: str) -> str:
    name = f"humaneval_infilling_single_line_{form}_{family}.yaml"
    content = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return Template(content["doc_to_text"], keep_trailing_newline=True).render(doc)


@pytest.mark.parametrize("prefix", ["def f():\n", "\n", "x = "])
@pytest.mark.parametrize("suffix", ["\n    return x\n", " y", "def"])
def test_code_llamas_ids_are_those_of_its_authors_function(
    tokenizer: Any, prefix: str, suffix: str
) -> None:
    """infilling_prompt_tokens: sentencepiece puts a space before the prefix, as before any text, and
    encode_infilling none before the suffix."""

    def pieces(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer.encode(text)))

    before = pieces(prefix)[1:]  # a text by itself, with its space
    behind = pieces("x" + suffix)
    behind = behind[behind.index("x") + 1 :]  # without one
    doc = {"prompt": prefix, "suffix": suffix}
    assert pieces(prompt("psm", "codellama", **doc)) == ["<s>", PRE, *before, SUF, *behind, MID]
    assert pieces(prompt("spm", "codellama", **doc)) == ["<s>", PRE, SUF, *behind, MID, *before]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("starcoder", ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")),
        ("qwen_coder", ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")),
    ],
)
def test_orders_are_psm_and_the_second_variant_of_spm(family: str, names: tuple[str, ...]) -> None:
    pre, suf, mid = names
    doc = {"prompt": "A\n", "suffix": "\n"}
    assert prompt("psm", family, **doc) == f"{pre}A\n{suf}\n{mid}"
    assert prompt("spm", family, **doc) == f"{pre}{suf}\n{mid}A\n"


@pytest.fixture(scope="module")
def writer(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    """A small Llama that has learnt two answers: one ends early, and goes on if it is let."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)

    def ids(*pieces: str) -> list[int]:
        return list(tokenizer.convert_tokens_to_ids(pieces))

    rows = torch.tensor(
        [
            ids("<s>", "▁", "a", "▁▁▁▁", "r", "e", EOT, *"zzzzz"),
            ids("<s>", "▁", "b", "▁", "y", "y", "y", "y", "y", "y", EOT, "z"),
        ]
    )
    steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=rows, labels=rows).loss
        steps.zero_grad()
        loss.backward()
        steps.step()
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return HFLM(pretrained=str(folder), batch_size=2, device="cpu", dtype="float32")


def written(lm: HFLM, until: list[str]) -> list[str]:
    given = {"until": until, "max_gen_toks": 9, "do_sample": False}
    asked = [Instance("generate_until", {}, (text, dict(given)), 0) for text in ("a", "b")]
    return list(lm.generate_until(asked, disable_tqdm=True))


def test_an_answer_keeps_its_indentation_and_ends_at_a_special_token(writer: HFLM) -> None:
    shared = yaml.safe_load((FOLDER / "_fim").read_text(encoding="utf-8"))
    until = shared["generation_kwargs"]["until"]
    # upstream: a space is lost, and the row goes on until the other one ends
    assert written(writer, until)[0].startswith("   rezz")
    with calling(writer):
        assert written(writer, until) == ["    re", "yyyyyy"]  # a lone space is dropped as upstream
        assert written(writer, ["y"])[0].startswith("    rezz")  # no stop sequence is special
    assert "tok_decode" not in vars(writer) and "_model_generate" not in vars(writer)

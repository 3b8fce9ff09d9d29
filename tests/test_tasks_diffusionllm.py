"""DiffusionLLM's prompts on the real documents equal those in the authors' repository, yegcjs/DiffusionLLM bb6d337.

The hashes are of the authors' files under data/instruct, zero-shot: the texts joined by newlines, in
the order of our documents. Left out are prompts that differ: two of MMLU (a choice "nan", None in
our data) and one of IWSLT14 (a Moses token that sacremoses joins to the next word). TyDiQA is
compared with runs of white space as one space, since our file has lost its newlines.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.harness.tasks import load_tasks

PROMPTS = {
    "mgsm_de_diffusionllm": (
        250, "fe67da0b602440803ee4180db0ed02f8fb1000bb0cba79c02340ac9261a0e397"),
    "mgsm_en_diffusionllm": (
        250, "529669ec3701e2edfe11cf261c05494fdd29fb24293604d4e32cc0d3ae878f4f"),
    "mmlu_diffusionllm": (
        1529, "65f293850b3f9ffcb28bc34acc4d28f8b3bc8b5ac68330db26c49eab542deb1a"),
    "iwslt14_de_en_diffusionllm_instruct_oracle_length": (
        6749, "6e378a17de57f92c5da0b86efefb53edf58737cb512d0aa104a505050fa528a0"),
    "tydiqa_goldp_diffusionllm_oracle_length": (
        4637, "6dc846d0b9f64ab6ee46ebb9a0d0c594d38923732e0467d9372d34edf0588259"),
}  # fmt: skip
DIFFER = ("sodium, Na (atomic number 11)", "has a base of 16", "dass herodotus 'verrückte")
TARGETS = "fe09a040049f521374e8388ac3124ec8c62617f71dc2f17de236315160d7ff4e"  # of IWSLT14, 6750
QUICK = ("mgsm_de_diffusionllm", "mgsm_en_diffusionllm")


def sha256(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def loaded(name: str, shared: Path) -> Any:
    for package in {"iwslt14": ["sacremoses"], "tydiqa": ["langdetect"]}.get(
        name.split("_")[0], []
    ):
        pytest.importorskip(package)
    return load_tasks([name], data_dir=shared / "data")["tasks"][name]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.full) for n in PROMPTS]
)
def test_prompts_are_the_authors(name: str, shared: Path) -> None:
    task = loaded(name, shared)
    count, truth = PROMPTS[name]
    prompts = [task.fewshot_context(doc, 0) for doc in task.eval_docs]
    if name.startswith("tydiqa"):
        prompts = [" ".join(prompt.split()) for prompt in prompts]
    prompts = [prompt for prompt in prompts if not any(part in prompt for part in DIFFER)]
    assert len(prompts) == count and sha256(prompts) == truth


@pytest.mark.full
def test_references_of_iwslt14_are_the_authors(shared: Path) -> None:
    task = loaded("iwslt14_de_en_diffusionllm_oracle_length", shared)
    assert sha256([task.doc_to_target(doc) for doc in task.eval_docs]) == TARGETS

"""Blocks of tokens: cut as the authors' loaders cut, and perplexities equal to sums by hand.

The authors' loaders (MDLM c112c52, BD3LM 1c3e8f4, SEDD 0605786) were run outside the repository on the
same texts, with the golden tokenizer of MDLM; counts and hashes of their blocks are in `AUTHORS`.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlm_eval import evaluate
from dlm_eval.errors import UserError
from dlm_eval.harness.blocks import Blocks, BlockSpec, BlockTask, DenoiserTokens
from dlm_eval.harness.dry_run import dry_run
from dlm_eval.harness.run_settings import run_settings
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.models import load_without_weights, packaged_asset
from dlm_eval.models.families.toy import Toy, ToySettings

TASK = """
task: t_blocks
class: !function dlm_eval.harness.blocks.BlockTask
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: {target}
process_results: !function dlm_eval.harness.blocks.block_results
metric_list: [{{metric: token_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}]
metadata: {{version: 1.0, blocks: {blocks}}}
"""
TEXTS = ["abcdef", "fedcba", "", "aabbccddeeff", "fab", "bad", "ace", "deafbeadcafe"]
SEDD = {"length": 8, "eos_after_text": True, "special_tokens": "none", "first_token": "scored"}


class Letters:
    """Ids of letters; EOS is 100, BOS 101."""

    bos_id, eos_id, max_length, needs_first = 101, 100, None, False

    def read_ahead(self, texts: Any) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 97 for letter in text]


def write(folder: Path, texts: list[str] = TEXTS, **blocks: Any) -> dict[str, Any]:
    """Writes a task; returns the options that find it."""
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    target = blocks.pop("target", "text")
    yaml = TASK.format(data=data, target=target, blocks=json.dumps({**SEDD, **blocks}))
    (folder / "t_blocks.yaml").write_text(yaml)
    return {"include_path": str(folder), "bootstrap_iters": 0, "verbosity": "ERROR"}


# -- cutting ---------------------------------------------------------------------------------------


def test_texts_are_joined_and_cut_in_three_ways() -> None:
    e, b = 100, 101
    made = BlockSpec(6, True, "bos_and_eos").blocks(["abc", "defg", "hi"], Letters())
    assert made.tolist() == [[b, 0, 1, 2, e, e], [b, 3, 4, 5, 6, e], [b, e, 7, 8, e, e]]
    made = BlockSpec(4, True, "none").blocks(["abc", "defg", "hi"], Letters())
    assert made.tolist() == [[0, 1, 2, e], [3, 4, 5, 6], [e, 7, 8, e]]
    made = BlockSpec(4, False, "none").blocks(["abc", "defg", "hi"], Letters())
    assert made.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_rest_of_every_so_many_rows_is_dropped() -> None:
    spec = BlockSpec(4, False, "none", rows=2)
    assert spec.blocks(["abc", "def", "ghi", "jkl"], Letters()).tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]  # fmt: skip
    assert BlockSpec(4).blocks(["a"], Letters()).shape == (1, 4)
    assert BlockSpec(40).blocks(["a"], Letters()).shape == (0, 40)


def test_blocks_are_documents() -> None:
    docs = Blocks(np.array([[1, 2], [3, 4]], dtype=np.int32), 1)
    assert len(docs) == 2 and docs[1] == {"block": 1, "given": 1, "tokens": [3, 4]}
    assert list(docs) == docs[:2] and docs[-1] == docs[1]


def only(name: str, data_dir: Path) -> BlockTask:
    (task,) = load_tasks([name], data_dir=data_dir)["tasks"].values()
    return task


class Endless(DenoiserTokens):
    max_length = 10**9  # type: ignore[assignment]


AUTHORS = {
    "wikitext2_mdlm": (871, "9903c804e97f5342"),
    "wikitext103_mdlm": (871, "9903c804e97f5342"),
    "lambada_mdlm": (1349, "30953bebf56c6975"),
    "wikitext2_bd3lm": (867, "e7f27247f7cae620"),
    "lambada_bd3lm": (1344, "4f8e0cea701fba06"),
    "wikitext2_sedd": (870, "880e5b79aa70b51b"),
    "lambada_sedd": (1347, "7e2f5192f580bc08"),
}


# the quick suite has one text for each of the authors
@pytest.mark.parametrize(
    "name",
    [
        name if name.startswith("wikitext2") else pytest.param(name, marks=pytest.mark.full)
        for name in AUTHORS
    ],
)
def test_blocks_of_real_texts_are_the_authors(name: str, shared: Path) -> None:
    folder = shared / "goldens" / "mdlm"
    model = load_without_weights("mdlm", pretrained=str(folder), dtype="float32", device="cpu")
    task = only(name, shared / "data")
    task.cut(Endless(model))
    ids = np.array([doc["tokens"] for doc in task.eval_docs], dtype="<i4")
    count, digest = AUTHORS[name]
    assert ids.shape == (count, 1024)
    assert hashlib.sha256(ids.tobytes()).hexdigest().startswith(digest)
    assert {doc["given"] for doc in task.eval_docs} == {1 if name.endswith("bd3lm") else 0}


# -- perplexity ------------------------------------------------------------------------------------


def by_hand(toy: Toy, given: int = 0) -> tuple[float, int]:
    """Log-likelihood (nats) of the toy's chain for the blocks of `TEXTS`, and the scored tokens."""
    joined = [id for text in TEXTS for id in [*toy.encode(text), toy.eos_ids[0]]]
    blocks = [joined[i : i + 8] for i in range(0, len(joined) - 7, 8)]
    logs = [toy.log_joint(block) - (toy.log_joint(block[:1]) if given else 0.0) for block in blocks]
    return sum(logs), (8 - given) * len(blocks)


@pytest.mark.parametrize("first", ["scored", "given"])
@pytest.mark.parametrize("estimator", ["left_to_right", "exact,report=likelihood", "mask_count,max_forwards=300"])  # fmt: skip
def test_the_perplexity_of_a_known_chain_is_the_sum_by_hand(first: str, estimator: str, tmp_path: Path) -> None:  # fmt: skip
    toy = Toy(ToySettings(seed=4))
    nats, tokens = by_hand(toy, 1 if first == "given" else 0)
    options = write(tmp_path, first_token=first)
    results = evaluate("toy", ["t_blocks"], model_args={"seed": 4}, estimator=estimator, **options)
    assert results["results"]["t_blocks"]["token_perplexity,none"] == pytest.approx(
        math.exp(-nats / tokens), rel=1e-6
    )
    assert results["dlm_eval"]["cost"]["t_blocks"]["tokens"] == tokens


def test_an_interval_and_a_bound_stand_beside_an_estimate(tmp_path: Path) -> None:
    """The conditionals disagree, so orders differ: the bound is estimated, and the bracket holds the likelihood."""
    arguments = {"seed": 4, "inconsistency": 0.7}
    options = write(tmp_path)
    exact = evaluate("toy", ["t_blocks"], model_args=arguments, estimator="exact,report=likelihood", **options)  # fmt: skip
    truth = exact["results"]["t_blocks"]["token_perplexity,none"]
    found = evaluate("toy", ["t_blocks"], model_args=arguments, estimator="mask_count,max_forwards=16", **options)  # fmt: skip
    ours = found["dlm_eval"]
    value = found["results"]["t_blocks"]["token_perplexity,none"]
    low, high = ours["perplexity_interval"]["t_blocks"]["token_perplexity"]
    assert low < value < high and ours["estimator_stderr"]["t_blocks"]["token_perplexity"] > 0
    at_least, at_most = ours["perplexity_bounds"]["t_blocks"]["token_perplexity"]
    assert at_least <= truth <= at_most and at_most > value
    assert "perplexity_bounds" not in exact["dlm_eval"]


def test_one_of_lm_evals_models_scores_the_same_blocks(tmp_path: Path) -> None:
    """`tiny-ar`: the first token of a block is given, the others have transformers' own probabilities."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = packaged_asset("tiny-ar")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    texts = ["Anna had a red hat. Anna liked the red hat.", "Ben had a cat.", "Mia saw two birds."]
    ids = [
        id
        for text in texts
        for id in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ]
    blocks = [
        [tokenizer.bos_token_id, *ids[i : i + 6], tokenizer.eos_token_id]
        for i in range(0, len(ids) - 5, 6)
    ]
    with torch.no_grad():
        logs = network(torch.tensor(blocks)).logits[:, :-1].double().log_softmax(-1)
    nats = logs.gather(-1, torch.tensor(blocks)[:, 1:, None]).sum().item()
    options = write(tmp_path, texts, special_tokens="bos_and_eos")
    results = evaluate("tiny-ar", ["t_blocks"], **options)
    assert results["results"]["t_blocks"]["token_perplexity,none"] == pytest.approx(
        math.exp(-nats / (7 * len(blocks))), rel=1e-4
    )


# -- a run -----------------------------------------------------------------------------------------


def test_documents_of_a_run_are_blocks(tmp_path: Path) -> None:
    options = write(tmp_path)
    whole = evaluate("toy", ["t_blocks"], estimator="left_to_right", **options)
    blocks = whole["n-samples"]["t_blocks"]["original"]
    assert blocks == (sum(map(len, TEXTS)) + len(TEXTS)) // 8 == len(whole["samples"]["t_blocks"])
    chosen = evaluate("toy", ["t_blocks"], samples={"t_blocks": [blocks - 1]}, **options)
    (sample,) = chosen["samples"]["t_blocks"]
    assert sample["doc_id"] == blocks - 1 and len(sample["doc"]["tokens"]) == 8
    assert sample["arguments"] == [("", {"block": {"tokens": 8, "given": 0}})]
    first = evaluate("toy", ["t_blocks"], limit=2, estimator="left_to_right", **options)
    assert first["samples"]["t_blocks"][1]["resps"] == whole["samples"]["t_blocks"][1]["resps"]
    plan = dry_run(run_settings({"model": "toy", "tasks": "t_blocks", "limit": 3, "estimator": "mask_count,max_forwards=4", **options}))  # fmt: skip
    assert (plan.total.documents, plan.total.tokens, plan.total.longest) == (3, 24, 8)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    options = write(tmp_path)
    blocks = evaluate("toy", ["t_blocks"], **options)["n-samples"]["t_blocks"]["original"]

    def refused(match: str, **more: Any) -> None:
        with pytest.raises(UserError, match=match):
            evaluate(**{"model": "toy", "tasks": ["t_blocks"], **options, **more})

    refused("8 tokens do not fit the model's 4 positions; --metadata block_length=4", model_args={"max_length": 4})  # fmt: skip
    refused("do not fill a block of 400 tokens", metadata={"block_length": "400"})
    refused("block_length 'x' is not allowed", metadata={"block_length": "x"})
    refused("blocks of 2 tokens", metadata={"block_length": 2})
    refused(f"documents 0 to {blocks - 1}", samples={"t_blocks": [blocks]})
    (tmp_path / "a.json").write_text('[{"resps": ["a"]}]')
    refused("own tokenizer, and --model recorded a has none", model="recorded", model_args={"answers": str(tmp_path / "a.json")})  # fmt: skip
    write(tmp_path, special_tokens="all")
    refused("special_tokens 'all' is not known.*bos_and_eos, none")
    write(tmp_path, target='"{{text}}"')
    refused("doc_to_target '{{text}}' is not allowed for a BlockTask")
    write(tmp_path, eos_after_text="yes")
    refused("eos_after_text 'yes' is not allowed; it must be true or false")
    write(tmp_path, lenght=3)
    refused("blocks key 'lenght' is not known; did you mean 'length'")

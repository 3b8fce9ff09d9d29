"""Samples without a right answer: the judge against transformers itself, the measures against hand computation, the tasks from end to end."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlm_eval import evaluate
from dlm_eval.errors import UserError
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics import samples
from dlm_eval.metrics.samples import Judge, Part, Reading, find_judge
from dlm_eval.models import packaged_asset

TASKS = ["unconditional", "prefix_32", "enclosed_32"]
JUDGE = {"judge": "asset:tiny-ar", "n_samples": 4}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return find_judge("asset:tiny-ar", "cpu")


@pytest.fixture(scope="module")
def network() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(packaged_asset("tiny-ar"), dtype="float32").eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(packaged_asset("tiny-ar"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two pages of ours in wikitext's form: paragraphs of 12 and of 100 words, with its odd spacing."""
    home = tmp_path_factory.mktemp("data")
    folder = home / "EleutherAI" / "wikitext_document_level"
    (folder / "wikitext-2-raw-v1").mkdir(parents=True)
    card = "---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files: [{split: test, path: wikitext-2-raw-v1/test.jsonl}]\n---\n"
    (folder / "README.md").write_text(card)
    texts = []
    for page in ("Anna", "Ben"):
        long = " ".join(
            f"{page} saw {i} birds ," if i % 5 == 0 else f"{page} {i}" for i in range(40)
        )
        texts.append(
            {
                "page": f" \n = {page} = \n \n {page} has a short paragraph of very few words only here . \n {long} . \n"
            }
        )
    (folder / "wikitext-2-raw-v1" / "test.jsonl").write_text(
        "".join(json.dumps(text) + "\n" for text in texts)
    )
    return home


def part(text: str, tokens: tuple[int, ...] = ()) -> Part:
    return Part.of(0.0, Reading(tokens, 0.0), text)


# -- the judge -------------------------------------------------------------------------------------


def test_the_judge_is_transformers_own_loss(judge: Judge, network: Any, tokenizer: Any) -> None:
    text = "Anna had a red hat. She lost it in the park."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = torch.tensor([[tokenizer.bos_token_id, *ids]])
    with torch.no_grad():
        loss = float(network(input_ids=whole, labels=whole).loss)
    reading = judge.read("", text)
    assert reading.tokens == tuple(ids)
    assert reading.logprob == pytest.approx(-loss * len(ids), abs=1e-3)


def test_what_stands_before_is_read_but_not_counted(judge: Judge) -> None:
    before, text = "Anna had a red hat.", " She lost it."
    both, first, second = (
        judge.read("", before + text),
        judge.read("", before),
        judge.read(before, text),
    )
    assert first.tokens + second.tokens == both.tokens
    assert first.logprob + second.logprob == pytest.approx(both.logprob, abs=1e-4)
    assert second.logprob != pytest.approx(judge.read("", text).logprob, abs=0.1)


def test_a_long_text_is_read_in_windows_that_overlap_by_half(
    judge: Judge, network: Any, tokenizer: Any
) -> None:
    limit = network.config.max_position_embeddings
    ids = tokenizer("Anna had a red hat. Ben had a blue bag. " * 40, add_special_tokens=False)[
        "input_ids"
    ][: 2 * limit]
    text = tokenizer.decode(ids)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > limit
    total, begin, half = 0.0, 0, limit // 2
    while begin < len(ids):
        end = min(len(ids), begin + (half if begin else limit - 1))
        window = [tokenizer.bos_token_id, *ids[max(0, end - (limit - 1)) : end]]
        with torch.no_grad():
            logs = network(input_ids=torch.tensor([window])).logits[0].double().log_softmax(-1)
        places = range(len(window) - (end - begin), len(window))
        total += sum(float(logs[i - 1, window[i]]) for i in places)
        begin = end
    reading = judge.read("", text)
    assert len(reading.tokens) == len(ids)
    assert reading.logprob == pytest.approx(total, rel=1e-5)


def test_an_empty_text_has_no_tokens(judge: Judge) -> None:
    assert judge.read("", "") == judge.read("Anna", "") == Reading((), 0.0)


def test_a_judge_without_bos_begins_with_its_end_of_text(
    judge: Judge, network: Any, tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "no-bos"
    shutil.copytree(packaged_asset("tiny-ar"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("bos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = tokenizer("Anna had", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logs = (
            network(input_ids=torch.tensor([[tokenizer.eos_token_id, *ids]]))
            .logits[0]
            .double()
            .log_softmax(-1)
        )
    expected = sum(float(logs[i, token]) for i, token in enumerate(ids))
    assert find_judge(str(folder), "cpu").read("", "Anna had").logprob == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize(
    "name, told",
    [
        ("nobody/has-this-model", "hub cannot be reached"),
        ("./no/such/folder", "is not a folder"),
        ("vision", "no causal language model"),
    ],
)
def test_a_judge_that_cannot_be_had_is_one_line_before_a_model_is_loaded(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dlm_eval.harness.run.open_model", lambda *_: pytest.fail("the model was loaded first")
    )
    if name == "vision":
        shutil.copytree(packaged_asset("tiny-ar"), tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "vit"}')
        name = str(tmp_path / name)
    with pytest.raises(UserError, match=told) as caught:
        evaluate("toy", "unconditional", metadata={"judge": name})
    assert "\n" not in str(caught.value) and "--metadata judge=" in str(caught.value)


def test_a_judge_without_weights_is_told(tmp_path: Path) -> None:
    shutil.copy(packaged_asset("tiny-ar") / "config.json", tmp_path)
    with pytest.raises(UserError, match="has no weights"):
        find_judge(str(tmp_path))


# -- the measures ----------------------------------------------------------------------------------


def test_perplexity_is_over_all_tokens() -> None:
    assert samples.perplexity([(-2.0, 1), (-4.0, 5), (0.0, 0)]) == pytest.approx(math.e)
    assert math.isnan(samples.perplexity([(0.0, 0)]))
    assert samples.perplexity([(-math.inf, 3), (-1.0, 2)]) == math.inf
    assert samples.perplexity([(-5000.0, 2)]) == math.inf  # exp would overflow


def test_entropy_of_pooled_tokens() -> None:
    parts = [part("", (1, 1, 2)), part("", (3,))]  # frequencies 1/2, 1/4, 1/4
    assert samples.entropy_bits(parts) == pytest.approx(1.5)
    assert samples.entropy(parts) == pytest.approx(1.5 * math.log(2))
    assert samples.entropy([part("", (7, 7, 7))]) == 0.0
    assert math.isnan(samples.entropy([part("")]))


def test_distinct_counts_ngrams_within_samples_only() -> None:
    parts = [part("", (1, 2, 1, 2)), part("", (1, 2))]
    assert samples.distinct_1(parts) == pytest.approx(2 / 6)
    assert samples.distinct_2(parts) == pytest.approx(2 / 4)  # 12, 21, 12 | 12; none spans the two
    assert samples.distinct_3(parts) == pytest.approx(2 / 2)  # 121, 212
    assert math.isnan(samples.distinct_3([part("", (1, 2))]))


def test_self_bleu_by_hand() -> None:
    same = [part("the cat sat on the mat")] * 3
    assert samples.self_bleu(same) == pytest.approx(100.0)
    # "a b c d" against "a b c e" and back: precisions 3/4, 2/3, 1/2, then 0/1 smoothed to 1/2; lengths equal.
    pair = [part("a b c d"), part("a b c e")]
    assert samples.self_bleu(pair) == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)
    assert math.isnan(samples.self_bleu(same[:1]))


def test_self_bleu_has_a_fixed_number_of_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one rival each sample meets the next one only, around the ring: two of three meet their like."""
    parts = [
        part("the cat sat on the mat"),
        part("the cat sat on the mat"),
        part("one two three four five six"),
    ]
    every = samples.self_bleu(parts)
    monkeypatch.setattr(samples, "RIVALS", 1)
    one = samples.self_bleu(parts)
    assert one < every and one == pytest.approx(100 / 3, abs=4)


def test_zipf_of_a_zipf_law() -> None:
    counts = [round(100000 / rank**1.2) for rank in range(1, 60)]
    tokens = tuple(np.repeat(np.arange(len(counts)), counts).tolist())
    assert samples.zipf([part("", tokens)]) == pytest.approx(1.2, abs=0.005)
    assert samples.zipf([part("", tuple(range(50)))]) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(samples.zipf([part("", (1, 1))]))


# -- the tasks -------------------------------------------------------------------------------------


def test_perplexity_never_stands_alone(pages: Path) -> None:
    for task in load_tasks(TASKS, metadata=JUDGE, data_dir=pages)["tasks"].values():
        names = list(task.aggregation())
        assert names[0] == "gen_ppl"
        assert {
            "entropy",
            "sample_entropy",
            "distinct_1",
            "distinct_2",
            "distinct_3",
            "self_bleu",
            "zipf",
            "length",
            "empty",
        } <= set(names)


@pytest.fixture(scope="module")
def results(pages: Path) -> dict[str, Any]:
    options = {
        "metadata": JUDGE,
        "decode": {"gen_length": 12, "logits_eos_inf": True},
        "data_dir": str(pages),
    }
    return evaluate("tiny", TASKS, verbosity="ERROR", bootstrap_iters=20, **options)


def test_samples_from_nothing(results: dict[str, Any], judge: Judge) -> None:
    drawn = results["samples"]["unconditional"]
    texts = [sample["resps"][0][0] for sample in drawn]
    assert len(set(texts)) == 4 and all(texts)
    readings = [judge.read("", text) for text in texts]
    scores = {
        key.partition(",")[0]: value for key, value in results["results"]["unconditional"].items()
    }
    tokens = [token for reading in readings for token in reading.tokens]
    assert scores["gen_ppl"] == pytest.approx(
        math.exp(-sum(r.logprob for r in readings) / len(tokens)), rel=1e-6
    )
    assert scores["ar_nll"] == pytest.approx(
        np.mean([-r.logprob / len(r.tokens) for r in readings]), rel=1e-6
    )
    assert scores["distinct_1"] == pytest.approx(len(set(tokens)) / len(tokens))
    assert scores["length"] == len(tokens) / 4 and scores["empty"] == 0.0
    assert scores["ar_nll_stderr"] > 0
    assert results["dlm_eval"]["tasks"]["unconditional"]["gen_length"] == 12
    assert results["dlm_eval"]["tasks"]["unconditional"]["strategy"] == "random"
    # its own, where results have the corpus'
    assert drawn[0]["distinct_1"] == len(set(readings[0].tokens)) / len(readings[0].tokens)
    assert results["configs"]["unconditional"]["metadata"]["judge"] == "tiny-ar"
    json.loads(json.dumps([{k: v for k, v in sample.items() if k in scores} for sample in drawn]))


def test_samples_between_real_text(results: dict[str, Any], judge: Judge) -> None:
    for name in ("prefix_32", "enclosed_32"):
        first, second = results["samples"][name]  # two paragraphs are long enough
        for sample in (first, second):
            doc = sample["doc"]
            assert [len(doc[key].split()) for key in ("prefix", "truth", "suffix")] == [32, 32, 32]
            assert sample["arguments"][0][0] == doc["prefix"] and " ," not in doc["prefix"]
            assert sample["gen_ppl"][0] == pytest.approx(
                judge.read(doc["prefix"], sample["resps"][0][0]).logprob, abs=1e-4
            )
            real = judge.read(doc["prefix"], doc["truth"])
            assert sample["ar_nll_real"] == pytest.approx(
                -real.logprob / len(real.tokens), abs=1e-5
            )
        # the condition's own, whatever --decode says
        assert results["dlm_eval"]["tasks"][name]["gen_length"] == 32
    asked = results["samples"]["enclosed_32"][0]["arguments"][0][1]
    assert asked["hole"]["suffix"] == results["samples"]["enclosed_32"][0]["doc"]["suffix"]
    assert "suffix" not in results["samples"]["prefix_32"][0]["arguments"][0][1]["hole"]


def test_the_judge_and_the_number_of_samples_do_not_change_the_samples(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(packaged_asset("tiny-ar"), other)
    texts = []
    for metadata in (
        {"judge": "asset:tiny-ar", "n_samples": 3},
        {"judge": str(other), "n_samples": 2},
    ):
        found = evaluate(
            "toy",
            "unconditional",
            metadata=metadata,
            decode={"gen_length": 10},
            verbosity="ERROR",
            bootstrap_iters=0,
        )
        texts.append([sample["resps"][0][0] for sample in found["samples"]["unconditional"]])
        assert str(tmp_path) not in json.dumps(found["configs"], default=str)
    assert texts[0][:2] == texts[1] and len(texts[0]) == 3


def test_a_model_that_writes_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlm_eval.models.families.toy import Toy

    monkeypatch.setattr(Toy, "decode", lambda self, ids: "")
    found = evaluate(
        "toy",
        "unconditional",
        metadata=JUDGE,
        decode={"gen_length": 4},
        verbosity="ERROR",
        bootstrap_iters=5,
    )
    scores = found["results"]["unconditional"]
    assert scores["empty,none"] == 1.0 and scores["length,none"] == 0.0
    assert math.isnan(scores["gen_ppl,none"]) and math.isnan(scores["entropy,none"])


@pytest.mark.parametrize("number", [0, "many"])
def test_a_number_of_samples_that_cannot_be(number: Any) -> None:
    with pytest.raises(UserError, match="n_samples"):
        load_tasks(["unconditional"], metadata={**JUDGE, "n_samples": number})

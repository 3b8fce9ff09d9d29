"""Choices that are encoded apart from their context: their ids, their scores, and mistakes in YAMLs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import test_models_blocks
import torch
import transformers

from dlm_eval import Canvas, evaluate, load_model, models
from dlm_eval import score as dlm_score
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.choices import ChoiceSpec, ChoiceTask
from dlm_eval.harness.lm import by_order
from dlm_eval.harness.requests import (
    ChoiceForm,
    Hole,
    Length,
    choice_canvases,
    encode_apart,
    form_of,
    hole_canvas,
    hole_length,
)
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.models import packaged_asset

# Numbers of scored texts, and sha256 of the JSON list of their [ids, src_mask], as eval_hellaswag, eval_wino, eval_siqa and
# eval_piqa of evaluation/eval-diffullama.py and eval-diffugpt.py (HKUNLP/DiffuLLaMA c17e897) gave them to eval_forward, with
# the tokenizers of the golden checkpoints: of the whole validation files, and of their first 100 documents.
WHOLE = {
    ("diffullama", "hellaswag"): (40168, "334976b5db8a0e919c201c11025b9d1e1ac81a0c9d0beed474139bc99f92bcbd"),
    ("diffullama", "winogrande"): (2534, "baeb3c9f64bc8276ff4bd15432eba95dee9eff929dd54d282ebae8d79c693e14"),
    ("diffullama", "social_iqa"): (5862, "959b77db122146a6c75e4a7edd8a3dc2543860edf921366018033cd30a4edc42"),
    ("diffullama", "piqa"): (3676, "c2da9f7615f0f803a18f329d345c8bcc8cb3876c4ace8fab0bee99bb1f9fe91d"),
    ("diffugpt", "hellaswag"): (40168, "aac50f08d070d18c0fb05779b95c4c5aff176ffedb74aaae7d92dbc28c0599d8"),
    ("diffugpt", "winogrande"): (2534, "5998b8290e209f9aed554f6e1de2b2e70d721a54a1003a2565eb557fd6069c6d"),
    ("diffugpt", "social_iqa"): (5862, "fe329510b9223f57bc5964624f57778e87392e6882391f0fba463ced84f5d3dc"),
    ("diffugpt", "piqa"): (3676, "959fa7ad32e450009309bfbf90eb05f51c34d0c683781be047469754bdcee5ac"),
}  # fmt: skip
FIRST = {
    ("diffullama", "hellaswag"): (400, "7f51170ad60a72257096cd3ab2e3d64f42673069f17228ae2a3a6d17d14820db"),
    ("diffullama", "winogrande"): (200, "6c502a350da789a5479a36f434aa40d0aa5d733909a0872a80841792590e12c0"),
    ("diffullama", "social_iqa"): (300, "842cbb4c829fb99ed523e5f4818bc140d39c8a8c0a0439c593cf645572871a40"),
    ("diffullama", "piqa"): (200, "29203a086ce2009da16c97a2088fd1463981733061ffa89a9a2ef7d4b0270a08"),
    ("diffugpt", "hellaswag"): (400, "235e71495f9ada0fdf1220228108ef7db6268ebb2e1653e25cae70d077eacde4"),
    ("diffugpt", "winogrande"): (200, "fdf533d03ecf84ac2e2d0e0e6b54b50c5f839beba7c29311deb4ad511bfb8b36"),
    ("diffugpt", "social_iqa"): (300, "3f18721fa54faedc540f3713b476c9ff485b9068658efa29e5aa84356d71c967"),
    ("diffugpt", "piqa"): (200, "d248494d77445da8446d063e96e5c3202c4815bf2f4f4c02d6e3e5d7e10092a0"),
}  # fmt: skip
# The same for the ids that evaluation/eval-llm.py gave to an autoregressive model, first 500 documents, and their first 100.
BASELINE = {
    ("diffullama", "hellaswag"): (2000, "226c36c2075cf83ed961e1436578a9e4c2fec7882d0cbdddee4f4008d3f500c6"),
    ("diffullama", "winogrande"): (1000, "a6f05e672dacce7dab805b1310c5e9bd79f72e61090fc09cccc93ba13a42ace9"),
    ("diffullama", "social_iqa"): (1500, "878401d4c5fcf856ea585766fbaf06dc70601337e51955048507ec6405665d5a"),
    ("diffullama", "piqa"): (1000, "d78d163dbdf4ee123b18f4c45e679e730901b8f4a2a5af6bd4f5eb1ac2ca23a0"),
    ("diffugpt", "hellaswag"): (2000, "07ee98b05839eca8484e7cc8233ed8ed8c8c2e32c25b08a42a479e94f992e9a6"),
    ("diffugpt", "winogrande"): (1000, "9b130d7cdce5c93e4fad05c624b36fae91a54fa61430ab349fcfeab3e48ac9c5"),
    ("diffugpt", "social_iqa"): (1500, "4483a0a5b1974b8546d9f34cb1d8a08afcdc36067fe8320be729d203636b1b54"),
    ("diffugpt", "piqa"): (1000, "a3f83945f69733d61ba1c962b49a199f5a3c85d003b4e66dacd62a1eb87bb5ab"),
}  # fmt: skip
BASELINE_FIRST = {
    ("diffullama", "hellaswag"): (400, "9999ad9e723bdaedbd696c27f3a8fd578abb8d48fefaa09e237cf9d77ddae1e5"),
    ("diffullama", "winogrande"): (200, "95a5c6334275d51f8baa73d95a86e0d4e3ede41162ae6b0fcf9a8c1283c6bef5"),
    ("diffullama", "social_iqa"): (300, "e7822a342957ffe3319ad0474cda1082add7c3a33a24478cf9524b93e41bf428"),
    ("diffullama", "piqa"): (200, "4f731d216cbc2b3687656a98864ec95cd61f0ce13ccd476002a2ea4123b4fe82"),
    ("diffugpt", "hellaswag"): (400, "a4d5c998eab54423f2012842661157fd3e41a10664192ee825cd480b3982e90f"),
    ("diffugpt", "winogrande"): (200, "6a08307c879b21e4f1b595c16e1bc3cbda4423f615634adfcaa3b69f794b0e5e"),
    ("diffugpt", "social_iqa"): (300, "3c80abc3c407da95d5263e05e6411e2c4c02f8218ea9732030af6cfdf61b2b9f"),
    ("diffugpt", "piqa"): (200, "9d74a1f2b2748d8c7fe5d98e4f1366c0cded896baa084426468259b1fbdc10fd"),
}  # fmt: skip
TASKS = ("hellaswag", "winogrande", "social_iqa", "piqa")


def requests_of(name: str, data: Path, limit: int | None = None) -> list[Any]:
    """Returns the zero-shot requests of a task's first documents."""
    task = load_tasks([name], data_dir=data)["tasks"][name]
    task.set_config("num_fewshot", 0)
    task.build_all_requests(limit=limit)
    return list(task.instances)


def parts_of(
    shared: Path, name: str, limit: int | None
) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Returns per family (ids of the context, ids to score) of each choice."""
    asked, found = requests_of(name, shared / "data", limit), {}
    for family in ("diffullama", "diffugpt"):
        model = models.load_without_weights(family, pretrained=str(shared / "goldens" / family))
        found[family] = [encode_apart(model, *one.args[:2], form_of(one.args)) for one in asked]
    return found


def digest_of(seen: list[Any]) -> tuple[int, str]:
    return len(seen), hashlib.sha256(json.dumps(seen).encode()).hexdigest()


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [(100, FIRST), pytest.param(None, WHOLE, marks=pytest.mark.full)],
    ids=["first 100", "whole file"],
)
@pytest.mark.parametrize("task", TASKS)
def test_the_ids_that_the_authors_score(
    shared: Path, task: str, limit: int | None, wanted: Any
) -> None:
    for family, parts in parts_of(shared, f"{task}_diffullama", limit).items():
        seen = [[head + target, [1] * len(head) + [0] * len(target)] for head, target in parts]
        assert digest_of(seen) == wanted[family, task]


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [(100, BASELINE_FIRST), pytest.param(500, BASELINE, marks=pytest.mark.full)],
    ids=["first 100", "first 500"],
)
@pytest.mark.parametrize("task", TASKS)
def test_the_ids_that_the_authors_give_to_baselines(
    shared: Path, task: str, limit: int, wanted: Any
) -> None:
    for family, parts in parts_of(shared, f"{task}_diffullama_baseline", limit).items():
        assert digest_of([head + target for head, target in parts]) == wanted[family, task]


# -- documents of ours -----------------------------------------------------------------------------

DOCUMENTS = [
    {"text": "the cat ", "choices": ["sat", "ran off", "is"], "rest": "now", "gold": 1},
    {"text": "a dog", "choices": ["x", "barks a lot", "y"], "rest": "then", "gold": 0},
]


def config(tmp_path: Path, **choices: Any) -> dict[str, Any]:
    """Returns a task of our documents, as a mapping for `evaluate`."""
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps(doc) + "\n" for doc in DOCUMENTS))
    return {
        "task": "apart",
        "class": ChoiceTask,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "choices": choices},
    }


def scores(results: dict[str, Any]) -> list[list[float]]:
    """Returns the log-likelihoods of the choices of each document."""
    return [[float(one[0][0]) for one in sample["resps"]] for sample in results["samples"]["apart"]]


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_scores_are_those_of_the_ids(tmp_path: Path, score: str) -> None:
    """`sum` is the exact log-likelihood of the canvas; `mean` divides it by the scored tokens."""
    model = load_model("tiny")
    task = config(tmp_path, special_tokens="none", suffix="{{rest}}", score=score)
    results = evaluate("tiny", [task], estimator="left_to_right", log_samples=True)
    for doc, found in zip(DOCUMENTS, scores(results), strict=True):
        for choice, value in zip(doc["choices"], found, strict=True):
            target = model.encode(choice) + model.encode(doc["rest"])
            canvas = Canvas.continuation(model.encode(doc["text"]), target)
            (wanted,) = dlm_score(model, [canvas], estimator="left_to_right")
            per = len(target) if score == "mean" else 1
            assert value == pytest.approx(wanted.logprob / per, abs=1e-5)


def test_an_estimator_of_means_is_not_divided_again(tmp_path: Path) -> None:
    found = [
        scores(evaluate("tiny", [config(tmp_path, score=score)], estimator="diffullama,steps=4", log_samples=True))
        for score in ("sum", "mean")
    ]  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_an_autoregressive_model_gets_the_same_ids(tmp_path: Path, score: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_asset("tiny-ar"))
    network = transformers.AutoModelForCausalLM.from_pretrained(
        packaged_asset("tiny-ar"), dtype=torch.float32
    )
    task = config(tmp_path, special_tokens="none", suffix="{{rest}}", score=score)
    results = evaluate("tiny-ar", [task], log_samples=True)
    for doc, found in zip(DOCUMENTS, scores(results), strict=True):
        for choice, value in zip(doc["choices"], found, strict=True):
            head, *rest = (
                tokenizer.encode(text, add_special_tokens=False)
                for text in (doc["text"], choice, doc["rest"])
            )
            target = [token for part in rest for token in part]
            ids = torch.tensor([head + target])
            logs = (
                network(ids)
                .logits[0, len(head) - 1 : -1]
                .log_softmax(-1)
                .gather(1, torch.tensor(target)[:, None])
            )
            wanted = logs.mean() if score == "mean" else logs.sum()
            assert value == pytest.approx(wanted.item(), abs=1e-4)


def test_special_tokens_stand_before_every_part(shared: Path) -> None:
    llama, gpt = (
        models.load_without_weights(f, pretrained=str(shared / "goldens" / f))
        for f in ("diffullama", "diffugpt")
    )
    form = ChoiceForm("tokenizer", "c")
    assert [encode_apart(llama, "a", "bc", form)] == [
        ([1, *llama.encode("a")], [1, *llama.encode("b"), 1, *llama.encode("c")])
    ]
    assert encode_apart(gpt, "a", "bc", form) == (
        gpt.encode("a"),
        gpt.encode("b") + gpt.encode("c"),
    )
    # position 0 has no prediction, so an empty context is BOS
    assert encode_apart(gpt, "", "bc", form)[0] == [gpt.bos_id]
    with pytest.raises(SampleError, match="nothing to score"):
        encode_apart(gpt, "a", "", ChoiceForm("tokenizer"))


def test_the_first_text_of_a_hole_begins_likewise(shared: Path) -> None:
    """ROCStories and LAMBADA of DiffuLLaMA: none of its tokenizer's special tokens, or all."""
    for family, start in (("diffullama", [1]), ("diffugpt", [])):
        model = models.load_without_weights(family, pretrained=str(shared / "goldens" / family))
        ids, bos = model.encode("a bc"), [model.bos_id]
        for special, before in (("none", []), ("tokenizer", start), ("model", bos)):
            canvas = hole_canvas(
                model, "a bc", 2, Hole(Length(2), "d", special_tokens=special), "", "error"
            ).canvas
            assert list(canvas.tokens[: len(before) + len(ids)]) == before + ids
            room = Hole(Length(20), measure="canvas", special_tokens=special)
            assert hole_length(model, room, "a bc") == 20 - len(ids) - len(before)
        # what does not fit is cut from the left; a BOS stays, and no other token does
        long = "a bc" * model.max_length
        for special, first in (("none", None), ("tokenizer", start), ("model", bos)):
            cut = hole_canvas(
                model, long, 2, Hole(Length(2), special_tokens=special), "", "truncate"
            )
            assert len(cut.canvas) == model.max_length and cut.truncated
            if first:
                assert list(cut.canvas.tokens[:1]) == first


def test_samples_have_the_form(tmp_path: Path) -> None:
    results = evaluate(
        "tiny", [config(tmp_path, score="mean", suffix="{{rest}}")], log_samples=True
    )
    (_, text, form), *_ = results["samples"]["apart"][0]["arguments"]
    assert (text, form) == (
        "satnow",
        {"choice": {"special_tokens": "model", "suffix": "now", "score": "mean"}},
    )


def test_sampling_does_not_stop_early_for_means(tmp_path: Path) -> None:
    names = {
        score: load_tasks([config(tmp_path, score=score)])["tasks"]["apart"]
        for score in ("sum", "mean")
    }
    assert [by_order(task) for task in names.values()] == [True, False]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"scroe": "mean"}, ["'scroe'", "'score'"]),
        ({"score": "maen"}, ["'maen'", "'mean'"]),
        ({"special_tokens": "tokeniser"}, ["'tokeniser'", "'tokenizer'"]),
        ({"suffix": None}, ["suffix 'None'", "a template"]),
    ],
)
def test_wrong_settings_are_told(choices: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        ChoiceSpec.from_metadata("t", {"choices": choices})
    assert all(word in str(error.value) for word in ["task 't'", *words])


def test_a_task_that_writes_has_no_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be multiple_choice"):
        load_tasks([config(tmp_path) | {"output_type": "generate_until"}])


def test_fast_dllm_v2_scores_choices_without_the_template_s_line_break(tmp_path: Path) -> None:
    """lm-eval moves white space at the end of a context to the choice."""
    data = Path(__file__).parent / "suite_data"
    folder = test_models_blocks.fastdllm(tmp_path / "model")
    model = models.load_without_weights("fastdllm", pretrained=str(folder))
    for name, first in (("gpqa_main_fast_dllm_v2", "("), ("gpqa_main_n_shot", "\n")):
        task = load_tasks([name], data_dir=data)["tasks"][name]
        doc = next(iter(task.eval_docs))
        asked = task.construct_requests(doc, "[assistant]\n", apply_chat_template=True)
        (prepared, *_) = choice_canvases(model, [one.args for one in asked], "", "error")
        assert model.decode(prepared.canvas.target[:1]) == first
        assert model.decode(prepared.canvas.target).strip() == "(A)"

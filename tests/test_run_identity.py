"""Seeds before tasks, the identity of a score, examples that are the document itself, targets that cannot be right, blank cells of tables."""

from __future__ import annotations

import copy
import csv
import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import pytest
import torch
from harness_tasks import DOCUMENTS, write_tasks
from lm_eval.tasks import TaskManager

import dlm_eval
from dlm_eval import evaluate
from dlm_eval.cli import main
from dlm_eval.harness.sources import source
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.models.probes import batch_invariant, depends_on_batch
from dlm_eval.reports.board.leaderboard import leaderboard, wide
from dlm_eval.reports.run.report import render

TOY = {"vocab": 6, "inconsistency": 0.5}
CHOICE = {
    "task": "mine",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
SHUFFLING = """
import random
import re
import numpy as np
import torch

OWN = random.Random(5)
CALLS = []


def process_docs(split):
    CALLS.append(len(split))

    def mixed(doc):
        choices = list(doc["choices"])
        gold = choices[doc["answer"]]
        random.shuffle(choices)
        order = [int(np.random.randint(1000)), int(torch.randint(1000, ())), OWN.randrange(1000)]
        return {"text": doc["text"] + "ab" + "".join(choices), "choices": choices, "answer": choices.index(gold), "order": order}

    return split.map(mixed)


def calls():
    return CALLS
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    return write_tasks(folder)


def fresh_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


def inline(folder: Path, documents: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True, parents=True)
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return {
        **copy.deepcopy(CHOICE),
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        **changes,
    }


def run(task: Any, model: Any = TOY, **settings: Any) -> dict[str, Any]:
    settings = {"bootstrap_iters": 0, "verbosity": "ERROR", **settings}
    return evaluate("toy", task, model_args=model, **settings)


# -- 1: seeds --------------------------------------------------------------------------------------


@pytest.fixture
def gpqa(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "Idavidrein" / "gpqa"
    folder.mkdir(parents=True)
    names = [
        "Question",
        "Correct Answer",
        "Incorrect Answer 1",
        "Incorrect Answer 2",
        "Incorrect Answer 3",
    ]
    rows = [
        [f"Which is {i}?", f"right {i}", f"one {i}", f"two {i}", f"three {i}"] for i in range(12)
    ]
    with (folder / "gpqa_main.csv").open("w") as file:
        csv.writer(file).writerows([names, *rows])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: gpqa_main\n  data_files: gpqa_main.csv\n---\n"
    )
    return tmp_path / "data"


def test_01_stock_gpqa_is_shuffled_by_the_seed_alone_whatever_is_cached(
    gpqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(seed: int) -> list[list[str]]:
        generator, expected = random.Random(seed), []
        for i in range(12):
            expected.append([f"one {i}", f"two {i}", f"three {i}", f"right {i}"])
            generator.shuffle(expected[-1])
        return expected

    def loaded(seed: int) -> list[list[str]]:
        # by its file: no index of 14 000 names
        file = Path(lm_eval.__file__).parent / "tasks/gpqa/zeroshot/gpqa_main_zeroshot.yaml"
        (task,) = load_tasks([str(file)], data_dir=gpqa, seeds=(seed,) * 4)["tasks"].values()
        found = [[doc[f"choice{i}"] for i in (1, 2, 3, 4)] for doc in task.eval_docs]
        for i, (doc, choices) in enumerate(zip(task.eval_docs, found, strict=True)):
            assert doc["answer"] == f"({'ABCD'[choices.index(f'right {i}')]})"
        return found

    for cache in ("first", "first", "second"):
        fresh_cache(monkeypatch, tmp_path / cache)
        random.seed()
        assert loaded(0) == shuffled(0)
    assert loaded(7) == shuffled(7) != shuffled(0)


def test_01_process_docs_is_called_once_and_knows_every_seed(tmp_path: Path) -> None:
    (tmp_path / "mixing.py").write_text(SHUFFLING)
    config = inline(tmp_path / "data", DOCUMENTS, process_docs="FUNCTION", num_fewshot=1)
    for name in ("aaa", "zzz"):
        text = json.dumps({**config, "task": name}, indent=1).replace(
            '"FUNCTION"', "!function mixing.process_docs"
        )
        (tmp_path / f"{name}.yaml").write_text(text)

    def documents(names: list[str], seeds: tuple[int, ...]) -> list[Any]:
        task = load_tasks(names, include_path=str(tmp_path), seeds=seeds)["tasks"]["zzz"]
        calls = task.config.process_docs.__wrapped__.__globals__["CALLS"]
        before = len(calls)
        first, again = list(task.eval_docs), list(task.eval_docs)
        assert first == again and first == list(task.sampler.df) and len(calls) == before
        return first

    base = documents(["zzz"], (0, 1, 2, 3))
    assert documents(["aaa", "zzz"], (0, 1, 2, 3)) == base  # another task before it changes nothing
    for place, differs in ((0, "choices"), (1, "order"), (2, "order")):
        seeds = tuple(9 if i == place else seed for i, seed in enumerate((0, 1, 2, 3)))
        assert [doc[differs] for doc in documents(["zzz"], seeds)] != [doc[differs] for doc in base]
    results = run("zzz", include_path=str(tmp_path), seed="0,1,2,3")
    for sample in results["samples"]["zzz"]:
        assert sample["arguments"][0][0].endswith("ab" + "".join(sample["doc"]["choices"]))
        assert sample["doc"]["choices"][sample["target"]] in [
            d["choices"][d["answer"]] for d in DOCUMENTS
        ]
    prints = [results["dlm_eval"]["tasks"]["zzz"]]
    prints.append(
        run("zzz", include_path=str(tmp_path), seed="9,1,2,3")["dlm_eval"]["tasks"]["zzz"]
    )
    assert (
        len({found["configuration"] for found in prints}) == 1
        and len({found["fingerprint"] for found in prints}) == 2
    )


# -- 2: identity -----------------------------------------------------------------------------------


def test_02_configuration_has_what_this_kind_of_task_reads_and_nothing_else(tasks: Path) -> None:
    def digests(**settings: Any) -> dict[str, dict[str, Any]]:
        results = run("t_choice,t_write,t_roll", include_path=str(tasks), limit=1, **settings)
        return results["dlm_eval"]["tasks"]

    base = digests()
    changed = {
        "t_choice": {
            "estimator": "chain,permutations=2",
            "overlong": "error",
            "num_fewshot": 1,
            "model": {"vocab": 7},
        },
        "t_write": {
            "decode": {"steps": 4},
            "overlong": "error",
            "num_fewshot": 1,
            "system_instruction": "ab",
        },
        "t_roll": {"estimator": "chain,permutations=2", "stride": 3, "model": {"vocab": 7}},
    }
    read = {name: set(settings) for name, settings in changed.items()}
    settings = {key: value for each in changed.values() for key, value in each.items()}
    for key, value in {**settings, "seed": 3, "metadata": {"note": "x"}, "batch_size": 2}.items():
        new = digests(**{key: value})
        for name in base:
            same = new[name]["configuration"] == base[name]["configuration"]
            # a whole text has no prompt
            prompted = ("system_instruction", "num_fewshot") if name != "t_roll" else ()
            assert same == (key not in read[name] and key not in ("model", *prompted)), (name, key)
            assert (new[name]["fingerprint"] == base[name]["fingerprint"]) == (
                same and key != "seed"
            )
            assert new[name]["scoring"] == base[name]["scoring"]


def test_02_code_of_a_prompt_and_code_of_a_scorer_are_told_apart(tmp_path: Path) -> None:
    module = tmp_path / "code.py"
    config = inline(tmp_path / "data", DOCUMENTS, doc_to_text="TEXT", process_results="SCORE")
    yaml = (
        json.dumps(config, indent=1)
        .replace('"TEXT"', "!function code.text")
        .replace('"SCORE"', "!function code.score")
    )
    (tmp_path / "mine.yaml").write_text(yaml)
    text = "def text(doc):\n    return PREFIX + helped(doc)\n\nPREFIX = 'ab'\n\ndef helped(doc):\n    return doc['text']\n"
    scorer = "\ndef score(doc, results):\n    return {'acc': judged(results)}\n\ndef judged(results):\n    return 1\n"

    def digests(code: str) -> tuple[str, str]:
        module.write_text(code)
        found = run("mine", include_path=str(tmp_path), limit=1)["dlm_eval"]["tasks"]["mine"]
        return found["configuration"], found["scoring"]

    base = digests(text + scorer)
    assert digests(text + scorer + "\n\ndef unused():\n    return 3\n") == base
    for other in (text.replace("'ab'", "'ac'"), text.replace("doc['text']", "doc['text'] + 'a'")):
        new = digests(other + scorer)
        assert new[0] != base[0] and new[1] == base[1]
    new = digests(text + scorer.replace("return 1", "return 0"))
    assert new[0] == base[0] and new[1] != base[1]


def test_02_sources_name_no_path_and_follow_what_is_read(tmp_path: Path) -> None:
    found = source(inline)
    assert set(found) >= {"inline", "CHOICE"} and str(Path(__file__).parent) not in json.dumps(
        found
    )


def test_02_boards_keep_different_scores_apart_and_equal_ones_together(
    tasks: Path, tmp_path: Path
) -> None:
    def rows(name: str, *runs: dict[str, Any]) -> Any:
        for settings in runs:
            run(
                "t_choice",
                include_path=str(tasks),
                output_path=str(tmp_path / name),
                resume=False,
                **settings,
            )
        return leaderboard([tmp_path / name])

    chosen = [{"samples": {"t_choice": [0, 1]}}, {"samples": {"t_choice": [2, 3]}}]
    apart = rows("samples", *chosen)
    assert len(apart) == 2 and len(wide(apart)) == 2  # of two documents each, but not the same
    seeded = rows("seeds", {"seed": 1}, {"seed": 2}, {"seed": 2, "batch_size": 1})
    assert sorted(seeded["seed"]) == ["1", "2"] and len(set(seeded["configuration"])) == 1
    assert list(wide(seeded)["setting"]) == [""]  # repetitions are one row


def test_02_the_result_says_what_was_multiturn_and_batch_invariant(
    tasks: Path, tmp_path: Path
) -> None:
    for chat, turns, expected in ((True, None, True), (True, False, False), (False, None, False)):
        home = tmp_path / f"{chat}{turns}"
        results = run(
            "t_write", include_path=str(tasks), limit=1, apply_chat_template=chat, fewshot_as_multiturn=turns, output_path=str(home)
        )  # fmt: skip
        saved = json.loads(next(home.rglob("results_*.json")).read_text())
        assert saved["fewshot_as_multiturn"] is expected
        assert saved["dlm_eval"]["tasks"]["t_write"]["fewshot_as_multiturn"] is expected
        # one thread: see conftest
        assert results["dlm_eval"]["environment"]["batch_invariant"] is True


def test_02_a_model_whose_rows_disturb_each_other_is_found_by_the_probe() -> None:
    class Mixing(type(dlm_eval.load_model("toy"))):  # type: ignore[misc]
        def logits(
            self, tokens: torch.Tensor, valid: Any = None, positions: Any = None
        ) -> torch.Tensor:
            return super().logits(tokens, valid, positions) + 1e-7 * len(tokens)

    toy = dlm_eval.load_model("toy")
    cpu = torch.device("cpu")
    assert not depends_on_batch(toy, cpu) and depends_on_batch(Mixing(toy.settings), cpu)
    assert batch_invariant(toy, cpu, None, equal_lengths=False) is None  # never shown by a probe
    assert batch_invariant(Mixing(toy.settings), cpu, None, equal_lengths=False) is False


# -- 3: few-shot examples --------------------------------------------------------------------------


def shots(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    documents = [
        {"text": f"q{i}.", "choices": ["aa", "bb"], "answer": i % 2, "row": i} for i in range(6)
    ]
    config = inline(tmp_path / "shots", documents, num_fewshot=3, **changes)
    twin = tmp_path / "shots" / "twin.jsonl"
    twin.write_text("".join(json.dumps({**d, "row": -1 - d["row"]}) + "\n" for d in documents[:3]) + "".join(
        json.dumps({"text": f"other{i}.", "choices": ["aa", "bb"], "answer": 0, "row": 90 + i}) + "\n" for i in range(4)
    ))  # fmt: skip
    config["dataset_kwargs"]["data_files"] |= {
        "twin": str(twin),
        "again": config["dataset_kwargs"]["data_files"]["test"],
    }
    return config


def prompts_of_lm_eval(config: dict[str, Any]) -> list[str]:
    (task,) = TaskManager(include_defaults=False).load([copy.deepcopy(config)])["tasks"].values()
    task.set_fewshot_seed(1234)
    task.build_all_requests(rank=0, world_size=1)
    return [instance.args[0] for instance in task.instances if instance.idx == 0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"fewshot_split": "again"}, {"fewshot_split": "twin"}, {"fewshot_split": "twin", "fewshot_config": {"sampler": "first_n"}}],
)  # fmt: skip
def test_03_the_evaluated_document_is_no_example_and_other_prompts_are_lm_evals(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = shots(tmp_path, **changes)
    theirs = prompts_of_lm_eval(config)
    with caplog.at_level(logging.WARNING):
        results = run([config])
    ours = [sample["arguments"][0][0] for sample in results["samples"]["mine"]]
    leaking = [i for i, prompt in enumerate(theirs) if prompt.count(f"q{i}.") > 1]
    assert leaking and all(prompt.count(f"q{i}.") == 1 for i, prompt in enumerate(ours))
    assert all(prompt.count(".") == 4 for prompt in ours)  # three examples and the question
    assert [ours[i] for i in range(6) if i not in leaking] == [
        theirs[i] for i in range(6) if i not in leaking
    ]
    assert results["dlm_eval"]["tasks"]["mine"]["fewshot_left_out"] == len(leaking)
    assert "left out of its prompt" in caplog.text


def test_03_a_split_that_holds_no_document_changes_nothing(tmp_path: Path) -> None:
    config = shots(tmp_path)
    config["dataset_kwargs"]["data_files"]["test"] = config["dataset_kwargs"]["data_files"].pop(
        "twin"
    )
    config["fewshot_split"] = "again"
    lines = Path(config["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()[3:]
    Path(config["dataset_kwargs"]["data_files"]["test"]).write_text("\n".join(lines) + "\n")
    results = run([config])
    assert [s["arguments"][0][0] for s in results["samples"]["mine"]] == prompts_of_lm_eval(config)
    assert "fewshot_left_out" not in results["dlm_eval"]["tasks"]["mine"]


# -- 5: targets and metrics ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold", [-1, 3, "nowhere", [], None, float("nan"), True, 1.0, [0, 7], -100]
)
def test_05_a_target_that_is_no_choice_is_an_error_of_its_document(
    tmp_path: Path, gold: Any
) -> None:
    documents = [{**DOCUMENTS[i], "answer": 0} for i in range(3)]
    several = isinstance(gold, list) and gold
    if several:
        documents = [{**document, "answer": [0]} for document in documents]
    right = run([inline(tmp_path / "a", documents)])
    rows = datasets.Dataset.from_list(
        [{k: v for k, v in d.items() if k != "answer"} for d in [*documents, DOCUMENTS[3]]]
    )
    golds = [*(document["answer"] for document in documents), gold]

    def load(**_: Any) -> dict[str, Any]:
        return {"test": rows}

    def target(doc: dict[str, Any]) -> Any:
        return golds[[d["text"] for d in rows].index(doc["text"])]

    config = {**CHOICE, "custom_dataset": load, "doc_to_target": target}
    del config["dataset_path"]
    results = run([config])
    wrong = results["samples"]["mine"][3]
    assert "target" in wrong["error"] and wrong["metrics"] == []
    assert (
        results["n-samples"]["mine"]["effective"] == 3
        and results["dlm_eval"]["cost"]["mine"]["errors"] == 1
    )
    assert results["results"]["mine"]["acc,none"] == right["results"]["mine"]["acc,none"]


def test_05_golds_that_lm_eval_scores_rightly_are_scored(tmp_path: Path) -> None:
    documents = [{"text": "ab", "choices": ["a", "b"], "answer": value} for value in (0, 1)]
    for golds in ([0, 1], ["a", "b"], [[0], [0, 1]], [False, True]):
        config = inline(
            tmp_path / "g",
            [{**d, "answer": gold} for d, gold in zip(documents, golds, strict=True)],
        )
        results = run([config])
        assert results["dlm_eval"]["cost"]["mine"]["errors"] == 0, golds


WRITE = {"output_type": "generate_until", "doc_to_choice": None, "generation_kwargs": {"until": ["zz"], "max_gen_toks": 4},
         "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}  # fmt: skip


def test_05_an_example_without_a_right_answer_is_a_line_of_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [
        {"text": text, "choices": ["a", "b"], "gold": gold} for text, gold in (("ab", 0), ("ba", 7))
    ]
    config = inline(tmp_path / "w", documents, doc_to_choice="{{choices}}", doc_to_target="gold")
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    assert main(["validate", "mine", "--include_path", str(tmp_path), "--num_fewshot", "1"]) == 0
    said = capsys.readouterr().out
    assert (
        "1 document cannot be scored and will be stored as errors; document 1: its target 7 is no choice"
        in said
    )
    assert (
        "1 few-shot example has no right answer to show and will be left out; the first: its target 7"
        in said
    )
    assert "2 documents are among the few-shot examples and left out" in said


@pytest.mark.parametrize("bad", [-1, 3, True, "nowhere", "", None, float("nan"), []])
def test_05_an_example_without_a_right_answer_is_left_out_of_prompts(
    tmp_path: Path, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other example is bad: no prompt shows one, all have as many as asked for, and those that drew none are lm-eval's."""
    rows = [{"text": f"q{i}.", "choices": ["aa", "bb", "cc"]} for i in range(12)]
    examples = datasets.Dataset.from_list(rows)
    asked = datasets.Dataset.from_list([{**row, "text": "?" + row["text"]} for row in rows])
    several = isinstance(bad, list)

    def target(doc: dict[str, Any]) -> Any:
        number = int(doc["text"].strip("?q."))
        right: Any = 2 if not isinstance(bad, str) else "cc"
        return bad if number % 2 and "?" not in doc["text"] else ["cc"] if several else right

    config = {**CHOICE, "custom_dataset": lambda **_: {"test": asked, "train": examples}, "doc_to_target": target,
              "fewshot_split": "train", "num_fewshot": 2}  # fmt: skip
    if several:  # lm-eval shows the first of several texts
        config |= {**WRITE, "doc_to_choice": None}
    del config["dataset_path"]
    with caplog.at_level(logging.WARNING):
        results = run([config])
    prompts = [sample["arguments"][0][0] for sample in results["samples"]["mine"]]
    shown = [[int(n) for n in re.findall(r"(?<!\?)q(\d+)\.", prompt)] for prompt in prompts]
    assert all(len(numbers) == 2 and not any(n % 2 for n in numbers) for numbers in shown)
    assert all(prompt.count("cc") == 2 for prompt in prompts)
    facts = results["dlm_eval"]["tasks"]["mine"]
    assert 1 <= facts["fewshot_without_answer"] <= 6 and "fewshot_too_few" not in facts
    assert (
        results["dlm_eval"]["cost"]["mine"]["errors"] == 0
        and "a few-shot example is left out: its target" in caplog.text
    )


def test_05_examples_with_templates_of_their_own_are_judged_by_them(tmp_path: Path) -> None:
    """The prompts are lm-eval's: a text of the examples' own template need not be one of the choices, a number must be."""
    documents = [
        {"text": f"q{i}.", "choices": ["aa", "bb"], "answer": i % 2, "why": f"since {i}"}
        for i in range(6)
    ]
    train = tmp_path / "t" / "train.jsonl"
    for own in (
        {"doc_to_target": "why"},
        {"doc_to_choice": ["x", "y"]},
        {"doc_to_choice": ["x", "y"], "doc_to_target": "{{1 - answer}}"},
    ):
        config = inline(
            tmp_path / "t", documents, num_fewshot=2, fewshot_split="train", fewshot_config=own
        )
        train.write_text(
            "".join(json.dumps({**d, "text": "e" + d["text"]}) + "\n" for d in documents)
        )
        config["dataset_kwargs"]["data_files"]["train"] = str(train)
        results = run([config])
        assert [s["arguments"][0][0] for s in results["samples"]["mine"]] == prompts_of_lm_eval(
            config
        ), own
        assert "fewshot_without_answer" not in results["dlm_eval"]["tasks"]["mine"]
    # 1 or 2: the latter is no choice
    config["fewshot_config"] = {"doc_to_target": "{{answer + 1}}"}
    results = run([config])
    assert results["dlm_eval"]["tasks"]["mine"]["fewshot_without_answer"] == 3
    config["fewshot_config"] = {"doc_to_target": "{{answer + 5}}"}
    results = run([config])
    assert all(
        "no few-shot example has a right answer to show" in sample["error"]
        for sample in results["samples"]["mine"]
    )


@pytest.mark.parametrize("gold", [7, -9, [], None, "nowhere"])
def test_05_the_first_document_may_be_the_one_without_a_right_answer(
    tmp_path: Path, gold: Any
) -> None:
    listed = isinstance(gold, list)
    documents = [{**DOCUMENTS[i], "answer": [0] if listed else 0} for i in range(3)]
    right = run([inline(tmp_path / "a", documents)])
    docs = datasets.Dataset.from_list(
        [{k: v for k, v in d.items() if k != "answer"} for d in [DOCUMENTS[3], *documents]]
    )

    def target(doc: dict[str, Any]) -> Any:
        return gold if doc["text"] == DOCUMENTS[3]["text"] else [0] if listed else 0

    config = {**CHOICE, "custom_dataset": lambda **_: {"test": docs}, "doc_to_target": target}
    del config["dataset_path"]
    results = run([config])
    assert [s["doc_id"] for s in results["samples"]["mine"] if "error" in s] == [0]
    assert "target" in results["samples"]["mine"][0]["error"]
    assert results["n-samples"]["mine"]["effective"] == 3
    assert results["results"]["mine"]["acc,none"] == right["results"]["mine"]["acc,none"]


def test_05_a_text_in_brackets_is_said_by_the_run_and_by_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    documents = [{"text": "ab", "answer": text} for text in ("a", "[2, 1]", "[b]", "[3, 4]")]
    config = inline(tmp_path / "w", documents, **WRITE, doc_to_target="{{answer}}")
    del config["doc_to_choice"]
    with caplog.at_level(logging.WARNING):
        results = run([config])
    assert "reads as a list: [2, 1]" in caplog.text
    assert results["dlm_eval"]["tasks"]["mine"]["targets_read_as_lists"] == 2
    assert ["error" in sample for sample in results["samples"]["mine"]] == [
        False,
        True,
        False,
        True,
    ]
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    assert main(["validate", "mine", "--include_path", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (
        "2 targets are a text in brackets, which lm-eval reads as a list (first: document 1)"
        in said
        and "2 documents cannot be scored" in said
    )
    listed = [{"text": "ab", "answer": ["a", "b"]}] * 2  # a list that is meant
    results = run(
        [
            {
                **inline(tmp_path / "l", listed, **{**WRITE, "doc_to_target": "{{answer}}"}),
                "doc_to_choice": None,
            }
        ]
    )
    assert "targets_read_as_lists" not in results["dlm_eval"]["tasks"]["mine"]


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling"])
def test_05_a_likelihood_of_what_is_no_text_is_an_error_not_the_end(
    tmp_path: Path, kind: str
) -> None:
    documents = [{"text": "ab", "answer": text} for text in ("ab", "[2, 1]", "abc")]
    metric = "acc" if kind == "loglikelihood" else "word_perplexity"
    aggregation = "mean" if kind == "loglikelihood" else "weighted_perplexity"
    config = inline(
        tmp_path / "k", documents, output_type=kind, doc_to_target="{{answer}}",
        metric_list=[{"metric": metric, "aggregation": aggregation, "higher_is_better": True}],
    )  # fmt: skip
    del config["doc_to_choice"]
    results = run([config])
    assert ["error" in sample for sample in results["samples"]["mine"]] == [False, True, False]
    assert "is no text" in results["samples"]["mine"][1]["error"]


def test_05_one_nan_of_a_metric_is_named_and_not_averaged(tmp_path: Path) -> None:
    values = {
        "abcab": 1.0,
        "ddcbaabc": float("nan"),
        "fab": np.float32("inf"),
        "aabbccddee": 0.0,
        "cabbage": 1.0,
    }

    def score(doc: dict[str, Any], results: Any) -> dict[str, Any]:
        return {"acc": values[doc["text"]], "other": 1.0}

    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "other")
    ]
    results = run([inline(tmp_path / "n", DOCUMENTS, process_results=score, metric_list=metrics)])
    assert results["results"]["mine"]["acc,none"] == pytest.approx(2 / 3)
    assert results["results"]["mine"]["other,none"] == 1.0
    errors = {
        sample["doc_id"]: sample["error"]
        for sample in results["samples"]["mine"]
        if "error" in sample
    }
    assert errors == {1: "metric 'acc' is nan", 2: "metric 'acc' is inf"}


# -- 19: tables, configurations, devices -----------------------------------------------------------


def test_19_numpy_and_mappings_stand_in_table_file_and_board(tmp_path: Path) -> None:
    def score(doc: dict[str, Any], results: Any) -> dict[str, Any]:
        return {"acc": np.float32(0.5), "parts": len(doc["text"])}

    def parts(values: list[int]) -> dict[str, Any]:
        return {"low": np.int64(min(values)), "deep": {"high": np.float32(max(values))}}

    metrics = [
        {
            "metric": "acc",
            "aggregation": lambda values: np.float32(np.mean(values)),
            "higher_is_better": True,
        },
        {"metric": "parts", "aggregation": parts, "higher_is_better": True},
    ]
    home = tmp_path / "out"
    results = run(
        [inline(tmp_path / "t", DOCUMENTS, process_results=score, metric_list=metrics)],
        output_path=str(home),
    )
    shown = render(results)
    cells = [[cell.strip() for cell in line.split("|")[2:4]] for line in shown.splitlines()[2:]]
    assert cells == [["acc", "0.5000"], ["parts.low", "3.0000"], ["parts.deep.high", "10.0000"]]
    saved = json.loads(next(home.rglob("results_*.json")).read_text())["results"]["mine"]
    assert saved["acc,none"] == 0.5 and saved["parts,none"] == {"low": 3, "deep": {"high": 10.0}}
    rows = leaderboard([home])
    assert dict(zip(rows["metric"], rows["value"], strict=True)) == {
        "acc": 0.5,
        "parts.low": 3,
        "parts.deep.high": 10,
    }
    sample = json.loads(next(home.rglob("samples_*.jsonl")).read_text().splitlines()[0])
    assert sample["acc"] == 0.5


def test_19_configurations_and_objects_run_as_in_lm_eval(tasks: Path, tmp_path: Path) -> None:
    mine = inline(tmp_path / "m", DOCUMENTS)
    alone = run("t_choice", include_path=str(tasks))["results"]["t_choice"]["acc,none"]
    assert run([mine])["results"]["mine"]["acc,none"] == alone
    group = {
        "group": "g",
        "task": ["t_choice", mine, {"group": "sub", "task": ["t_last"]}],
        "aggregate_metric_list": [{"metric": "acc"}],
    }
    results = run([group, {"task": "t_write", "repeats": 2}], include_path=str(tasks))
    assert set(results["results"]) == {"t_choice", "g::mine", "t_last", "t_write", "g", "g::sub"}
    assert len(results["samples"]["t_write"][0]["resps"][0]) == 2
    (task,) = load_tasks([mine])["tasks"].values()
    assert [run([task])["results"]["mine"]["acc,none"] for _ in range(2)] == [alone, alone]
    for wrong, words in (
        ({"grop": 1}, "must name"),
        (3, "not allowed"),
        ({**mine, "doc_to_tex": 1}, "did you mean 'doc_to_text'"),
    ):
        with pytest.raises(dlm_eval.errors.UserError, match=words):
            run([wrong])


def test_19_a_group_without_its_metric_says_so_and_one_that_sums_up_nothing_has_no_row(
    tasks: Path,
) -> None:
    group = {"group": "g", "task": ["t_choice"], "aggregate_metric_list": [{"metric": "f1"}]}
    lines = render(run([group], include_path=str(tasks))).splitlines()
    assert len(lines) == 4 and "f1 (none of its tasks has it)" in lines[3]
    bare = render(run([{"group": "g", "task": ["t_choice"]}], include_path=str(tasks)))
    assert len(bare.splitlines()) == 3


def test_19_lm_evals_default_device_is_mapped_where_there_is_none(
    tasks: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    for model in ("toy", "tiny"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = lm_eval.simple_evaluate(
                model=model,
                device="cuda:0",
                tasks=["t_choice"],
                task_manager=manager,
                limit=1,
                bootstrap_iters=0,
            )
        assert found["results"]["t_choice"]["sample_len"] == 1 and "cuda:0" in caplog.text


def test_19_the_results_of_the_repository_are_not_where_a_run_in_a_clone_writes() -> None:
    root = Path(__file__).parents[1]
    ignored = (root / ".gitignore").read_text().splitlines()
    assert "/results/" in ignored and list((root / "leaderboards" / "demo").rglob("results_*.json"))

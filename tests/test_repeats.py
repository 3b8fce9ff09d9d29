"""`--repeats N`: every answer is filtered and scored, and averages, votes and pass@k are those computed by hand."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks

from dlm_eval import Canvas, evaluate, load_model, score
from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.harness.repeats import pass_name, powers

# Three documents with four answers each, and the number that is right.
ANSWERS = [
    ["so #### 3", "so #### 4", "then #### 4", "well #### 4"],
    ["#### 7", "#### 8", "#### 8.", "#### 9"],
    ["none", "#### 5", "nothing", "#### 5"],
]
RIGHT = ["4", "7", "5"]
TASK = """
task: t_numbers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question"], max_gen_toks: 4, temperature: 0.0, do_sample: false}}
filter_list:
  - name: number
    filter: [{{function: regex, regex_pattern: '#### ([0-9]+)'}}, {{function: take_first}}]
  - name: text
    filter: [{{function: take_first}}]
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: bleu, aggregation: bleu, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_tasks(tmp_path_factory.mktemp("tasks"))
    data = place / "numbers.jsonl"
    rows = [{"question": f"Question {i}?", "answer": right} for i, right in enumerate(RIGHT)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "numbers.yaml").write_text(TASK.format(data=data))
    rows = [{"doc_id": i, "resps": own} for i, own in enumerate(ANSWERS)]
    (place / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def recorded(folder: Path, repeats: int | None, **more: Any) -> dict[str, Any]:
    return evaluate(
        "recorded", ["t_numbers"], model_args={"answers": str(folder / "answers.jsonl")},
        include_path=str(folder), repeats=repeats, verbosity="ERROR", bootstrap_iters=2, **more,
    )  # fmt: skip


def test_means_votes_and_pass_at_k_by_hand(folder: Path) -> None:
    results = recorded(folder, 4)
    found = results["results"]["t_numbers"]
    right = [3 / 4, 1 / 4, 2 / 4]
    assert found["exact_match,number"] == pytest.approx(sum(right) / 3)
    # documents are the clusters: the error is that of three means, not of twelve answers
    spread = math.sqrt(sum((r - 0.5) ** 2 for r in right) / 2 / 3)
    assert found["exact_match_stderr,number"] == pytest.approx(spread)
    # 4 wins; 8 wins over 7 and 9; "[invalid]" comes first of two with two votes
    assert found["exact_match_maj@4,number"] == pytest.approx(1 / 3)
    pass_2 = [1.0, 1 - (3 / 4) * (2 / 3), 1 - (2 / 4) * (1 / 3)]
    assert found["exact_match_pass@2,number"] == pytest.approx(sum(pass_2) / 3)
    assert found["exact_match_pass@4,number"] == 1.0
    assert found["exact_match,text"] == found["exact_match_pass@4,text"] == 0.0
    sample = next(s for s in results["samples"]["t_numbers"] if s["filter"] == "number")
    assert list(sample["filtered_resps"][0]) == ["3", "4", "4", "4"]
    assert sample["exact_match"] == 0.75 and sample["exact_match_maj@4"] == 1.0
    assert len(sample["resps"][0]) == 4
    better = results["higher_is_better"]["t_numbers"]
    assert better["exact_match_maj@4"] is True and better["exact_match_pass@2"] is True


def test_a_corpus_metric_is_the_mean_over_corpora(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval.api.metrics import bleu

    with caplog.at_level(logging.WARNING):
        found = recorded(folder, 4)["results"]["t_numbers"]
    corpora = [
        bleu([(right, own[number]) for right, own in zip(RIGHT, ANSWERS, strict=True)])
        for number in range(4)
    ]
    assert found["bleu,text"] == pytest.approx(sum(corpora) / 4)
    assert found["bleu_stderr,text"] == "N/A" and "bleu_pass@4,text" not in found
    assert "bleu is no mean over documents; with --repeats it is the mean over 4 corpora" in caplog.text  # fmt: skip


def test_one_answer_is_a_run_as_ever(folder: Path) -> None:
    plain, one = (recorded(folder, n)["results"]["t_numbers"] for n in (None, 1))
    assert plain == one and "exact_match_maj@1,number" not in one
    assert plain["exact_match,number"] == pytest.approx(1 / 3)  # the first answers: 3, 7, none


def test_metrics_that_are_fractions_have_no_pass_at_k(folder: Path) -> None:
    """Even if a fraction is 0 or 1 for some documents."""
    text = TASK.replace("t_numbers", "t_fractions").format(data=folder / "numbers.jsonl")
    head = text.split("metric_list")[0]
    (folder / "share.py").write_text(
        "def share(doc, results):\n"
        "    text = results[0]\n"
        "    share = len(text) % 2 / (1 + (doc['answer'] == '7'))  # 0 and 1 but for the second document\n"
        "    return {'share': share, 'found': doc['answer'] in text}\n"
    )
    (folder / "fractions.yaml").write_text(
        head + "process_results: !function share.share\n"
        "metric_list:\n  - {metric: share, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: found, aggregation: mean, higher_is_better: true}\n"
    )
    results = evaluate(
        "recorded", ["t_fractions"], model_args={"answers": str(folder / "answers.jsonl")},
        include_path=str(folder), repeats=4, verbosity="ERROR",
    )  # fmt: skip
    found = results["results"]["t_fractions"]
    assert found["found_pass@2,number"] == pytest.approx((1 + 1 / 2 + 5 / 6) / 3)
    assert not [key for key in found if key.startswith("share_pass@")]
    assert "share_maj@4,number" in found
    for sample in results["samples"]["t_fractions"]:
        assert not [key for key in (*sample, *sample["metrics"]) if key.startswith("share_pass@")]


def test_draws_are_from_the_models_distribution(folder: Path) -> None:
    """One token of `toy`, whose probability is known: 400 answers to each of five documents.

    alpha = 1e-4 for all documents together; the seed is fixed.
    """
    results = evaluate(
        "toy", ["t_write"], include_path=str(folder), repeats=400, verbosity="ERROR",
        decode={"gen_length": 1, "temperature": 1.0},
    )  # fmt: skip
    model = load_model("toy")
    for sample in results["samples"]["t_write"]:
        context = model.encode(sample["doc"]["text"])
        texts = sample["resps"][0]
        for token in range(6):
            whole = score(model, [Canvas.continuation(context, [token])], estimator="exact")
            p = math.exp(whole[0].logprob)
            share = texts.count(model.decode([token])) / 400
            assert abs(share - p) < 4.8 * math.sqrt(p * (1 - p) / 400) + 1e-9


def test_draws_depend_on_request_and_repeat_alone(folder: Path, tmp_path: Path) -> None:
    def answers(repeats: int, **more: Any) -> list[list[str]]:
        results = evaluate(
            "toy", ["t_write"], include_path=str(folder), repeats=repeats, verbosity="ERROR",
            decode={"gen_length": 6, "temperature": 1.0}, **more,
        )  # fmt: skip
        return [sample["resps"][0] for sample in results["samples"]["t_write"]]

    six, three = answers(6, output_path=str(tmp_path)), answers(3)
    assert [own[:3] for own in six] == three
    assert sum(len(set(own)) > 1 for own in six) >= 3  # the others end at once
    assert answers(6, seed=1) != six
    # all answers are in the journal; fewer of them are the first ones
    assert answers(3, output_path=str(tmp_path), score_only=True) == three


def test_a_sure_decoder_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        results = evaluate("toy", ["t_write"], include_path=str(folder), repeats=3)
    assert "repeats=3 has no effect at temperature 0" in caplog.text
    assert all(len(set(s["resps"][0])) == 1 for s in results["samples"]["t_write"])
    assert results["results"]["t_write"]["exact_match_pass@3,none"] == results["results"]["t_write"]["exact_match,none"]  # fmt: skip


def test_a_sure_decoder_of_the_authors_is_warned_of(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LLaDA's authors write without randomness; their settings are known when the model is."""
    with caplog.at_level(logging.WARNING):
        results = evaluate(
            "llada", ["demo_word_problem"], limit=2, repeats=3,
            model_args={
                "pretrained": str(shared / "goldens" / "llada"), "checkpoint": "llada-8b-base",
                "dtype": "float32", "device": "cpu",
            },
            decode={"preset": "authors", "steps": 2, "gen_length": 4, "block_length": 4},
        )  # fmt: skip
    assert results["dlm_eval"]["tasks"]["demo_word_problem"]["preset"].startswith("llada")
    said = [text for text in caplog.messages if "has no effect at temperature 0" in text]
    assert len(said) == 1 and "'demo_word_problem': repeats=3" in said[0]


def test_programs_are_judged_one_by_one(tmp_path: Path) -> None:
    task, out = "demo_code_infill", tmp_path / "out"
    results = evaluate(
        "tiny", [task], limit=2, repeats=4, confirm_run_unsafe_code=True, verbosity="ERROR",
        decode={"temperature": 1.5}, output_path=str(out),
    )  # fmt: skip
    found = results["results"][task]
    assert {"pass@1,none", "pass@2,none", "pass@4,none"} <= set(found)
    assert not [key for key in found if "maj@" in key]  # equal programs say nothing
    assert found["pass@1,none"] <= found["pass@2,none"] <= found["pass@4,none"]
    for sample in results["samples"][task]:
        alone = []
        for text in sample["resps"][0]:
            program = (
                f"{sample['doc']['prompt']}{text}{sample['doc']['suffix']}\n{sample['doc']['test']}"
            )
            space: dict[str, Any] = {}
            try:  # two lines that `tiny` wrote in the documents of this test, by a fixed seed
                exec(program, space)
                space["check"](space[sample["doc"]["entry_point"]])
                alone.append(1)
            except Exception:
                alone.append(0)
        assert sample["pass@1"] == sum(alone) / 4 and sample["pass@4"] == max(alone)


def test_a_task_that_combines_its_answers_is_left_as_it_is(folder: Path) -> None:
    text = TASK.replace("t_numbers", "t_voted").format(data=folder / "numbers.jsonl")
    text = text.replace("filter: [{function: take_first}]", "filter: [{function: majority_vote}, {function: take_first}]")  # fmt: skip
    (folder / "voted.yaml").write_text(text + "repeats: 4\n")

    def run(repeats: int | None) -> dict[str, Any]:
        return evaluate(
            "recorded", ["t_voted"], model_args={"answers": str(folder / "answers.jsonl")},
            include_path=str(folder), repeats=repeats, verbosity="ERROR", bootstrap_iters=2,
        )["results"]["t_voted"]  # fmt: skip

    assert run(None) == run(4) and "exact_match_maj@4,number" not in run(4)
    with pytest.raises(UserError, match="'t_voted' draws 4 answers.*leave out --repeats"):
        run(2)


def test_answers_that_the_default_filter_drops_are_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = TASK.replace("t_numbers", "t_dropped").format(data=folder / "numbers.jsonl")
    kept = text[: text.index("filter_list")] + text[text.index("metric_list") :]
    (folder / "dropped.yaml").write_text(kept + "repeats: 4\n")
    more = {"model_args": {"answers": str(folder / "answers.jsonl")}, "include_path": str(folder)}
    with caplog.at_level(logging.WARNING):
        evaluate("recorded", ["t_dropped"], bootstrap_iters=2, **more)
    assert "'t_dropped' scores only the first of its 4 answers; --repeats 4 scores all" in caplog.text  # fmt: skip
    found = evaluate("recorded", ["t_dropped"], repeats=2, bootstrap_iters=2, **more)
    assert "exact_match_maj@2,none" in found["results"]["t_dropped"]


def test_likelihoods_are_not_repeated(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    more = ["--include_path", str(folder), "--model", "toy", "--verbosity", "ERROR"]
    assert main([*more, "--tasks", "t_last", "--repeats", "0"]) == 2
    assert "--repeats '0' is not allowed" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING):
        results = evaluate("toy", ["t_last", "t_write"], include_path=str(folder), repeats=2)
    assert "--repeats has no effect on likelihoods (t_last)" in caplog.text
    costs = results["dlm_eval"]["cost"]
    assert costs["t_last"]["requests"] == 5 and costs["t_write"]["requests"] == 10


def test_a_task_object_can_run_again(folder: Path) -> None:
    """A run with --repeats leaves the user's object as it was."""
    from dlm_eval.harness.tasks import load_tasks

    task = load_tasks(["t_numbers"], include_path=folder)["tasks"]["t_numbers"]
    more = {"model_args": {"answers": str(folder / "answers.jsonl")}, "bootstrap_iters": 2, "verbosity": "ERROR"}  # fmt: skip
    found = [
        evaluate("recorded", [task], repeats=n, **more)["results"]["t_numbers"]
        for n in (4, 2, None, 4)
    ]
    assert found[0] == found[3] and "exact_match_maj@2,number" in found[1]
    assert found[2] == recorded(folder, None)["results"]["t_numbers"]


def test_a_score_of_every_answer_has_an_identity_of_its_own(folder: Path) -> None:
    ours = [recorded(folder, n)["dlm_eval"]["tasks"]["t_numbers"] for n in (None, 1, 4)]
    assert ours[0]["configuration"] == ours[1]["configuration"] != ours[2]["configuration"]
    assert ours[0]["scoring"] == ours[1]["scoring"] != ours[2]["scoring"]


def test_boards_know_the_added_metrics(folder: Path, tmp_path: Path) -> None:
    from dlm_eval.reports.files.result_file import read_result_file

    recorded(folder, 4, output_path=str(tmp_path))
    (file,) = tmp_path.rglob("results_*.json")
    rows = [row for row in read_result_file(file, "f").rows if row.filter == "number"]
    assert rows[0].headline and rows[0].metric == "exact_match"
    units = {row.metric: row.unit for row in rows}
    assert units == {
        "exact_match": "fraction", "exact_match_maj@4": "fraction", "exact_match_pass@2": "fraction",
        "exact_match_pass@4": "fraction", "bleu": None, "bleu_maj@4": None,
    }  # fmt: skip


def test_names_and_numbers() -> None:
    assert [powers(n) for n in (2, 3, 4, 8, 80)] == [[2], [2, 3], [2, 4], [2, 4, 8], [2, 4, 8, 16, 32, 64, 80]]  # fmt: skip
    assert pass_name("pass@1", 8) == "pass@8" and pass_name("em", 8) == "em_pass@8"

"""Tasks of several subjects: documents of all configurations, examples of the document's own subject, means; letters; BBH's choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics import subjects

TASK = """
task: t_subjects
class: !function dlm_eval.harness.subjects.SubjectInfillTask
custom_dataset: !function dlm_eval.harness.subjects.documents
dataset_kwargs: {dataset: ours/quiz, subjects: [rivers, birds], splits: {test: test, dev: dev}}
output_type: generate_until
test_split: test
fewshot_split: dev
description: "About {{subject}}. "
doc_to_text: "Q: {{question}} A:"
doc_to_target: "{{'ABCD'[answer]}}"
fewshot_delimiter: " | "
process_results: !function dlm_eval.metrics.subjects.letter_results
generation_kwargs: {until: [], steps: 1}
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_macro, aggregation: !function dlm_eval.metrics.subjects.macro, higher_is_better: true}
metadata: {version: 1.0, infill: {length: oracle, reference: "{{'ABCD'[answer]}}"}}
"""


@pytest.fixture
def task(tmp_path: Path) -> Any:
    folder = tmp_path / "data" / "ours" / "quiz"
    card = ["---", "configs:"]
    for subject in ("birds", "rivers"):
        card += [f"- config_name: {subject}", "  data_files:"]
        for split, count in (("dev", 3), ("test", 2)):
            file = folder / subject / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"question": f"{subject} {split} {i}?", "answer": i} for i in range(count)]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            card += [f"  - {{split: {split}, path: {subject}/{split}.jsonl}}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    (tmp_path / "t_subjects.yaml").write_text(TASK)
    loaded = load_tasks([str(tmp_path / "t_subjects.yaml")], data_dir=tmp_path / "data")
    return loaded["tasks"]["t_subjects"]


def test_examples_are_of_the_document_s_subject(task: Any) -> None:
    docs = list(task.test_docs())
    assert [doc["subject"] for doc in docs] == ["rivers", "rivers", "birds", "birds"]
    task.set_fewshot_seed(7)
    for doc in docs * 3:
        prompt = task.fewshot_context(doc, 2)
        begin, *examples, asked = (
            f"About {doc['subject']}. ",
            *prompt.removeprefix(f"About {doc['subject']}. ").split(" | "),
        )
        assert prompt.startswith(begin) and asked == f"Q: {doc['question']} A:"
        assert len(examples) == 2 and all(
            each.startswith(f"Q: {doc['subject']} dev ") and each[-1] in "ABC" for each in examples
        )
    assert len(task.sampler.df) == 6  # all examples are there for the next document
    assert task.fewshot_context(docs[0], 0) == "About rivers. Q: rivers test 0? A:"


def test_a_letter_is_right_and_subjects_count_alike() -> None:
    doc = {"subject": "a", "answer": 2}
    assert subjects.letter_results(doc, [" C "]) == {"acc": 1.0, "acc_macro": ("a", 1.0)}
    assert subjects.letter_results(doc, ["(C)"])["acc"] == 0.0
    choices = {"subject": "b", "multiple_choice_scores": [0, 1]}
    assert subjects.letter_results(choices, ["B"])["acc"] == 1.0
    assert subjects.macro([("a", 1.0), ("a", 0.0), ("a", 0.0), ("a", 0.0), ("b", 1.0)]) == 0.625


@pytest.mark.parametrize(
    ("text", "target", "choices", "right"),
    [
        ("Which?\nOptions:\n(A) red\n(B) blue", "(B)", ["red", "blue"], 1),
        ("Did it?\nOptions:\n- Yes\n- No", "Yes", ["Yes", "No"], 0),
        ("Is it?\nOptions:\n- valid \n- invalid", "invalid", ["valid ", "invalid"], 1),
    ],
)
def test_choices_of_bbh(text: str, target: str, choices: list[str], right: int) -> None:
    import datasets

    rows = [{"input": text, "target": target}, {"input": "no list", "target": "x"}]
    (doc,) = subjects.with_choices(datasets.Dataset.from_list(rows))
    assert doc["inputs"] == text.split("\n")[0] and doc["multiple_choice_targets"] == choices
    assert subjects.right_letter(doc) == "AB"[right]

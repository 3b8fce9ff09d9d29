"""What a scorer draws depends on the seed and the document, not on the documents before it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlm_eval.harness import lm_eval_patches as patches
from dlm_eval.harness.sample_errors import SampleErrors
from dlm_eval.harness.scorer_draws import draws_of
from dlm_eval.harness.tasks import load_tasks

TASK = """
task: draws
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: question
doc_to_target: answer
process_results: !function draws.score
generation_kwargs: {until: []}
metric_list: [{metric: drawn, aggregation: mean, higher_is_better: true}]
"""
SCORER = """
import random

import numpy as np


def score(doc, results):
    return {"drawn": random.random() + np.random.random()}
"""


def drawn(folder: Path, order: Sequence[int], seed: int | None) -> dict[int, float]:
    """Returns the scores of documents, by number, scored in an order."""
    task: Any = load_tasks([str(folder / "draws.yaml")])["tasks"]["draws"]
    errors = SampleErrors(scorer_seed=seed)
    patches.guard_task("draws", task, errors, list)
    docs = list(task.eval_docs)
    return {n: task.process_results(docs[n], ["x"])["drawn"] for n in order}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "draws.yaml").write_text(TASK)
    (tmp_path / "draws.py").write_text(SCORER)
    rows = [f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(rows))
    return tmp_path


def test_order_and_limit_do_not_change_a_score(folder: Path) -> None:
    forward = drawn(folder, [0, 1, 2, 3], seed=7)
    random.seed(99)  # whatever state the generators are in
    np.random.seed(99)
    assert drawn(folder, [3, 1], seed=7) == {n: forward[n] for n in (3, 1)}
    assert len(set(forward.values())) == 4
    assert drawn(folder, [0, 1, 2, 3], seed=8) != forward


def test_the_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    random.seed(1)
    np.random.seed(1)
    wanted = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    with draws_of(7, "a document"):
        inside = random.random(), np.random.random()
    assert (random.random(), np.random.random()) == wanted != inside
    random.seed(1)
    with draws_of(None, "a document"):
        assert random.random() == wanted[0]


def test_langdetect_is_seeded_and_left_as_it_was() -> None:
    langdetect = pytest.importorskip("langdetect")
    before = langdetect.DetectorFactory.seed
    for seed in (0, 3):
        with draws_of(seed, "a document"):
            assert langdetect.DetectorFactory.seed == seed
            # without a seed, a third of the answers is another language
            assert len({langdetect.detect("la mine") for _ in range(30)}) == 1
    assert langdetect.DetectorFactory.seed == before

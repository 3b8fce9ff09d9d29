from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dlm_eval.metrics.text import gsm8k_results, symbolic_answer

OUTPUTS = "DLM_EVAL_DIFFULLAMA_OUTPUTS"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<<2*600=1200>> #### 1,200", "1200"),
        (" <<1+1=2>> #### 2 #### 3 ", "3"),
        ("<<1+1=2>>", "<<1+1=2>>"),
        ("####", ""),
        ("", ""),
    ],
)
def test_answer_after_the_last_mark(written, answer):
    assert symbolic_answer(written) == answer


def test_the_string_must_match():
    doc = {"answer": "1200"}
    assert gsm8k_results(doc, ["<<2*600=1200>> #### 1,200"]) == {"exact_match": 1.0}
    assert gsm8k_results(doc, ["#### 1200.0"]) == {"exact_match": 0.0}
    assert gsm8k_results(doc, ["1200 apples"]) == {"exact_match": 0.0}


@pytest.mark.skipif(
    OUTPUTS not in os.environ,
    reason=f"{OUTPUTS} does not name example_output/ of HKUNLP/DiffuLLaMA",
)
@pytest.mark.parametrize(("file", "right"), [("DiffuGPT-m", 815), ("DiffuLLaMA", 832)])
def test_published_figures_on_the_authors_own_outputs(file, right):
    path = Path(os.environ[OUTPUTS]) / f"{file}-GSM-results.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    scores = [
        gsm8k_results({"answer": row["label"]}, [row["predict"]])["exact_match"] for row in rows
    ]
    assert (sum(scores), len(scores)) == (right, 1319)

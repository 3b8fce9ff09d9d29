"""Detokenised texts: our examples rule by rule, and the hashes of what the authors' functions make of real texts.

MDLM's five functions (kuleshov-group/mdlm c112c52, dataloader.py) were run outside the repository on 8118
lines of WikiText-2, the 5153 passages of LAMBADA and 60000 mutated texts: no text differed from ours.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics import detokenize


@pytest.mark.parametrize(
    ("rules", "tokenised", "plain"),
    [
        (detokenize.WIKITEXT, " the boats ' crews @-@ all 1 @,@ 200 @.@ 5 \n", " the boats' crews-all 1,200.5\n"),
        (detokenize.WIKITEXT, "a : b ; c . d ! e ? f , g", "a: b; c. d! e? f, g"),
        (detokenize.WIKITEXT, 'he ( a ) said " yes , no " [ b ] { c }', 'he (a) said "yes, no" [b] {c}'),
        (detokenize.WIKITEXT, " = = = Crew = = = \n 20 ° C N Ann 's", " ===Crew===\n20°C 1 Ann's".replace("===C", "=== C").replace("w===", "w ===")),
        (detokenize.PTB, "the crews ' boats do n't cost $ N or N\\/N of Ann 's # N <unk>", "the crews' boats don't cost $1 or N/N of Ann's #1 ?"),
        (detokenize.PTB, "N N N N x", "N 1 1 1 x"),
        (detokenize.LM1B, "See http : / / a . Is it ? No ! We 'll go , maybe : so ; or / and .", "See http://a . Is it? No! We'll go, maybe: so; or/and."),
        (detokenize.LM1B, "\" a b \" ' c ' ( d ) [ e ] $ 4 £ 5 ?", "\"a b\" 'c' (d) [e] $4 £5?"),
    ],
)  # fmt: skip
def test_rules(rules: Any, tokenised: str, plain: str) -> None:
    assert rules(tokenised) == plain


def test_columns() -> None:
    assert detokenize.lambada({"text": " “Yes,” he said. "}) == '\n"Yes," he said.'
    assert (
        detokenize.ptb({"sentence": "Ann 's"}) == detokenize.wikitext({"text": "Ann 's"}) == "Ann's"
    )
    assert detokenize.lm1b({"text": "Ann ?"}) == detokenize.paper({"article": "Ann ?"}) == "Ann?"


def test_lines_of_pages_are_those_of_the_file() -> None:
    import datasets

    pages = datasets.Dataset.from_dict({"page": [" = A = \n \n x . \n \n ", " = B = \n \n y . \n"]})
    lines = detokenize.wikitext_lines(pages)["text"]
    assert list(lines) == ["", " = A = \n", "", " x . \n", "", "", " = B = \n", "", " y . \n"]


def test_chunks_have_256_characters() -> None:
    import datasets

    text = "abcdefgh" * 65  # 520
    chunks = detokenize.chunks_of_256(datasets.Dataset.from_dict({"text": [text]}))["text"]
    assert list(chunks) == [text[:256], text[256:512]]
    last = detokenize.last_100000(
        datasets.Dataset.from_dict({"text": list(map(str, range(100_003)))})
    )
    assert (len(last), last[0]["text"]) == (100_000, "3")


@pytest.mark.parametrize(("name", "count", "digest"), [("wikitext2_mdlm", 3760, "24536a2798a634e2"), ("lambada_mdlm", 5153, "f39ae9222f63fbba")])  # fmt: skip
def test_real_texts(name: str, count: int, digest: str, shared: Path) -> None:
    (task,) = load_tasks([name], data_dir=shared / "data")["tasks"].values()
    texts = [task.doc_to_target(doc) for doc in task.eval_docs]
    assert len(texts) == count
    assert hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16] == digest

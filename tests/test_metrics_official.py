"""Scores of the benchmarks' own scripts, recorded by running them on answers that we wrote.

TriviaQA: evaluation/triviaqa_evaluation.py of mandarjoshi90/triviaqa at ca43b582. SQuAD v1.1:
metrics/squad/compute_score.py of huggingface/evaluate at a7dd3383, the official script. SQuAD 2.0:
metrics/squad_v2/compute_score.py there.
"""

from __future__ import annotations

import pytest

from dlm_eval.metrics.text import (
    squad_results,
    squad_v2_answers,
    squad_v2_results,
    token_f1,
    trivia_normalize,
    trivia_results,
)

TRIVIA_ALIASES = {
    "mill": ["The Old_Mill (Varn)", "Varn’s Mill"],
    "plus": ["+", "The plus sign"],
    "id": ["İdris", "X-ray"],
    "num": ["1,834", "Eighteen thirty-four"],
}
TRIVIA = [  # aliases, answer, exact match, F1
    ("mill", "The Old Mill, Varn", 1, 1),
    ("mill", "old_mill_varn", 1, 1),
    ("mill", "OLD  MILL\t(varn)\n", 1, 1),
    ("mill", "an old-mill: the Varn", 1, 1),
    ("mill", "‘old mill varn’", 1, 1),
    ("mill", "“old mill varn”", 0, 0.333333),
    ("mill", "oldmillvarn", 0, 0),
    ("mill", "varns mill", 0, 0.4),
    ("mill", "Varn's mill", 1, 1),
    ("mill", "Varn s mill", 1, 1),
    ("mill", "Varn´s `Mill`", 1, 1),
    ("mill", "Varn’s Mill, 1834", 0, 0.857143),
    ("mill", "mill mill mill varn", 0, 0.571429),
    ("mill", "the", 0, 0),
    ("mill", "", 0, 0),
    ("mill", "Old Mill Varn 😀", 0, 0.857143),
    ("mill", "ｏｌｄ ｍｉｌｌ", 0, 0),
    ("mill", "The Old Mill (Varn) or Varn’s Mill", 0, 0.6),
    ("mill", "mill\xa0varn", 0, 0.8),
    ("mill", "theold mill varn", 0, 0.666667),
    ("plus", "", 1, 0),
    ("plus", "a", 1, 0),
    ("plus", "minus", 0, 0),
    ("plus", "plus_sign", 1, 1),
    ("plus", "... ", 1, 0),
    ("id", "i̇dris", 1, 1),
    ("id", "idris", 0, 0),
    ("id", "x ray", 1, 1),
    ("id", "xray", 0, 0),
    ("id", "X–ray", 0, 0),
    ("id", "x_ray", 1, 1),
    ("num", "1834", 0, 0),
    ("num", "1 834", 1, 1),
    ("num", "1,834.", 1, 1),
    ("num", "thirty four eighteen", 0, 1),
    ("num", "1,834 1,834", 0, 0.666667),
]
SQUAD_ANSWERS = {
    "mill": ["the Old_Mill (Varn)", "Varn’s Mill"],
    "num": ["1,834", "in 1834"],
    "ray": ["X-ray", "The"],
}
SQUAD = [  # answers, written, exact match, F1
    ("mill", "The oldmill varn", 1, 1),
    ("mill", "old_mill_varn", 0, 0),
    ("mill", "Old Mill Varn", 0, 0.4),
    ("mill", "oldmill varn varn", 0, 0.8),
    ("mill", "‘OldMill Varn’", 0, 0),
    ("mill", "Varn’s mill!", 1, 1),
    ("mill", "Varn's mill", 0, 0.5),
    ("mill", "varns mill", 0, 0.5),
    ("mill", "", 0, 0),
    ("mill", "😀 oldmill", 0, 0.5),
    ("mill", "oldmill\xa0varn", 1, 1),
    ("mill", "a an the oldmill, of Varn", 0, 0.8),
    ("num", "1834", 1, 1),
    ("num", "1,834 of 1834", 0, 0.5),
    ("num", "1 834", 0, 0),
    ("num", "１８３４", 0, 0),
    ("num", "in the 1834", 1, 1),
    ("ray", "xray", 1, 1),
    ("ray", "x ray", 0, 0),
    ("ray", "", 1, 0),
    ("ray", "a", 1, 0),
]


@pytest.mark.parametrize("normalized", [False, True])
def test_triviaqa(normalized: bool) -> None:
    """With and without the data set's column of normalised aliases."""
    for name, answer, exact, f1 in TRIVIA:
        given = {"aliases": TRIVIA_ALIASES[name]}
        if normalized:
            given["normalized_aliases"] = [trivia_normalize(a) for a in given["aliases"]]
        scores = trivia_results({"answer": given}, [answer])
        assert scores["em_official"] == exact, (name, answer)
        assert scores["f1"] == pytest.approx(f1, abs=1e-6), (name, answer)


def test_squad() -> None:
    for name, answer, exact, f1 in SQUAD:
        scores = squad_results({"answers": {"text": SQUAD_ANSWERS[name]}}, [answer])
        assert scores == {"f1": pytest.approx(f1, abs=1e-6), "exact_match": exact}, (name, answer)


SQUAD_2 = [  # answers, written, exact match, F1
    (["The mill", "old mill"], "mill", 1, 1),
    (["The mill", "old mill"], "the old stone mill", 0, 0.8),
    (["The mill", "old mill"], "", 0, 0),
    (["The", "mill"], "", 0, 0),  # an answer without words does not count ...
    (["The"], "", 1, 1),  # ... unless there is no other
    ([], "", 1, 1),
    ([], "the", 1, 1),
    ([], "...", 1, 1),
    ([], "mill", 0, 0),
    ([], "unanswerable", 0, 0),
]


def test_squad_2() -> None:
    for answers, written, exact, f1 in SQUAD_2:
        kind = "HasAns" if answers else "NoAns"
        wanted = {"exact": exact, "f1": pytest.approx(f1, abs=1e-6)}
        wanted |= {f"{kind}_{name}": value for name, value in wanted.items()}
        found = squad_v2_results({"answers": {"text": answers}}, [written])
        assert found == wanted, (answers, written)
    said = [["Unanswerable."], [" the unanswerable\t"], ["unanswerable question"], ["mill"]]
    assert squad_v2_answers(said, [{}] * 4) == [[""], [""], ["unanswerable question"], ["mill"]]


def test_the_tables_tell_the_rules_apart() -> None:
    """Neither rule gives the other benchmark's figures, nor does lm-eval's exact match."""
    by_squad = [
        max(token_f1(answer, a) for a in TRIVIA_ALIASES[name]) for name, answer, *_ in TRIVIA
    ]
    assert sum(abs(one - row[3]) > 1e-3 for one, row in zip(by_squad, TRIVIA, strict=True)) > 10
    docs = [{"answer": {"aliases": SQUAD_ANSWERS[name]}} for name, *_ in SQUAD]
    by_trivia = [trivia_results(d, [row[1]]) for d, row in zip(docs, SQUAD, strict=True)]
    assert sum(s["em_official"] != row[2] for s, row in zip(by_trivia, SQUAD, strict=True)) > 3
    known = [{"answer": {"aliases": TRIVIA_ALIASES[name]}} for name, *_ in TRIVIA]
    by_lm_eval = [
        trivia_results(d, [r[1]])["exact_match"] for d, r in zip(known, TRIVIA, strict=True)
    ]
    assert sum(one != row[2] for one, row in zip(by_lm_eval, TRIVIA, strict=True)) > 5

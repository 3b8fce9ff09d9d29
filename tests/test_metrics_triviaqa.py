from __future__ import annotations

import pytest
from lm_eval.api.metrics import exact_match_hf_evaluate

from dlm_eval.metrics.text import (
    alias_match,
    aliases,
    exact_match,
    normalize,
    token_f1,
    trivia_normalize,
    trivia_results,
)

DOC = {"answer": {"aliases": ["The Nile", "River Nile"], "value": "The Nile"}}


@pytest.mark.parametrize(
    ("answer", "official", "exact", "alias", "f1"),
    [
        (" the nile ", 1.0, 1.0, 1.0, 1.0),
        ("River Nile!", 1.0, 1.0, 1.0, 1.0),
        # it is nile of course | nile
        ("It is the Nile, of course", 0.0, 0.0, 1.0, 2 * 1 / (5 + 1)),
        ("Nile", 1.0, 0.0, 1.0, 1.0),  # lm-eval's exact match keeps the article
        ("juvenile", 0.0, 0.0, 1.0, 0.0),  # the paper's rule is a substring of characters
        ("Danube", 0.0, 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_four_ways_to_be_right(answer, official, exact, alias, f1):
    assert trivia_results(DOC, [answer]) == {
        "em_official": official,
        "exact_match": exact,
        "alias_match": alias,
        "f1": pytest.approx(f1),
    }


def test_exact_match_is_lm_evals():
    wanted = ["The Nile", "River Nile", "A.B.C.", "Ångström", ""]
    for answer in [
        "the nile",
        "river-nile",
        "River Nile",
        "abc",
        "a b c",
        "ångström",
        "...",
        "nile",
        "",
    ]:
        theirs = exact_match_hf_evaluate(
            [answer] * len(wanted), wanted, ignore_case=True, ignore_punctuation=True
        )
        assert exact_match(answer, wanted) == float(theirs["exact_match"] > 0), answer


def test_a_letter_that_grows_in_lower_case():
    assert exact_match("İdris", ["Idris the dragon", "İdris"]) == 1.0


def test_normalisation():
    assert normalize("  An  APPLE, a (pear) & the fig! ") == "apple pear fig"
    assert normalize("theatre and another") == "theatre and another"
    assert trivia_normalize("  An  APPLE_pie, a (x-ray) & the fig’s! ") == "apple pie x ray fig s"
    assert normalize("APPLE_pie’s x-ray") == "applepie’s xray"


def test_the_data_sets_own_normalised_aliases_come_first():
    assert aliases({"answer": {"aliases": ["X-ray"], "normalized_aliases": ["x ray"]}}) == ["x ray"]
    assert aliases({"answer": {"aliases": ["X-ray"]}}) == ["xray"]


def test_an_alias_of_punctuation_alone_is_not_in_every_answer():
    doc = {"answer": {"aliases": ["+", "The plus sign"]}}
    assert aliases(doc) == ["plus sign"]
    assert set(trivia_results(doc, ["minus"]).values()) == {0.0}
    assert alias_match("a plus sign", aliases(doc)) == 1.0


def test_f1_counts_repeated_tokens_once_each():
    assert token_f1("nile nile", "nile") == pytest.approx(2 / 3)
    assert token_f1("big blue nile", "blue nile") == pytest.approx(2 * 2 / 5)

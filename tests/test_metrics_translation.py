"""BLEU's variants against sacrebleu on lower-cased texts, texts of Moses put together, headlines, numbers, SQuAD, languages."""

from __future__ import annotations

import datasets
import pytest
import sacrebleu

from dlm_eval.metrics import text, translation

REFERENCES = ["The Mill at Varn, built in 1834, is a museum.", "Drei Hunde – und «eine» Katze."]
WRITTEN = ["the mill of Varn, built in 1834, was A museum.", "drei Hunde und eine katze."]


def test_variants_are_sacrebleu_on_lower_cased_texts() -> None:
    pairs = list(zip(REFERENCES, WRITTEN, strict=True))
    lower = [[t.lower() for t in texts] for texts in (WRITTEN, REFERENCES)]
    for tokenizer, ours in (
        ("13a", translation.bleu_lower_13a),
        ("intl", translation.bleu_lower_intl),
    ):
        truth = sacrebleu.corpus_bleu(lower[0], [lower[1]], tokenize=tokenizer).score
        assert ours(pairs) == pytest.approx(truth, abs=1e-9)
        assert ours([(a, a.upper()) for a, _ in pairs]) == pytest.approx(100)
    assert translation.bleu(pairs) == pytest.approx(
        sacrebleu.corpus_bleu(WRITTEN, [REFERENCES]).score, abs=1e-9
    )
    values = [metric(pairs) for metric in (translation.bleu_lower_13a, translation.bleu)]
    assert values[0] > values[1] > 0 and translation.bleu_lower_intl(pairs) != values[0]
    doc = {"translation": {"de": "ein Haus", "en": "a house", "fr": "une maison"}}
    for function, reference in (
        (translation.into_english, "a house"),
        (translation.into_german, "ein Haus"),
        (translation.into_french, "une maison"),
    ):
        assert set(function(doc, ["x"]).values()) == {(reference, "x")}


def test_texts_of_moses_are_put_together() -> None:
    pytest.importorskip("sacremoses")
    from dlm_eval.metrics.moses import plain_text

    rows = [{"translation": {"de": "ja , das ist es .", "en": "yes , that &apos;s it &quot; ."}}]
    (doc,) = plain_text(datasets.Dataset.from_list(rows))
    assert doc["translation"]["de"] == "ja, das ist es."
    assert doc["translation"]["en"].startswith("yes, that's it")


@pytest.mark.parametrize(
    ("answer", "right"),
    [("so 12 and 1,834.", True), ("1834", True), ("1834 of 2", False), ("none", False), ("", False), ("-1834", True), ("2.1834", True)],
)  # fmt: skip
def test_the_last_whole_number_counts(answer: str, right: bool) -> None:
    doc = {"answer_number": 1834}
    assert text.last_integer_results(doc, [answer]) == {"exact_match": float(right)}


def test_squad_takes_the_best_answer() -> None:
    doc = {"answers": {"text": ["in 1834", "1834"]}}
    assert text.squad_results(doc, ["1834."]) == {"f1": 1.0, "exact_match": 1.0}
    assert text.squad_results(doc, ["year 1834"]) == {
        "f1": pytest.approx(2 / 3),
        "exact_match": 0.0,
    }
    assert text.squad_results(doc, [""]) == {"f1": 0.0, "exact_match": 0.0}


def test_headlines_are_stemmed() -> None:
    doc = {"summary": "Bakers raise prices"}
    assert text.headline_results(doc, ["baker raises price"])["rougeL"] == pytest.approx(100)
    assert text.headline_results(doc, ["raise bakers"])["rougeL"] == pytest.approx(40)


def test_tydiqa_counts_any_answer_and_the_language() -> None:
    pytest.importorskip("langdetect")
    from dlm_eval.metrics import tydiqa

    doc = {"subject": "finnish", "answers": {"text": ["noin vuonna tuhat", "tuhat"]}}
    right = tydiqa.results(doc, [" tuhat "])
    assert right["exact_match"] == 1.0 and right["exact_match_macro"] == ("finnish", 1.0)
    wrong = tydiqa.results(doc, ["приблизительно тысяча лет назад"])
    assert wrong["exact_match"] == 0.0 and wrong["language_match"] == 0.0
    assert tydiqa.language("приблизительно тысяча лет назад") == "ru"
    assert tydiqa.language("1834") is None
    text = "kuka rakensi myllyn ja milloin se rakennettiin"
    assert {tydiqa.language.__wrapped__(text) for _ in range(5)} == {"fi"}  # no draw differs

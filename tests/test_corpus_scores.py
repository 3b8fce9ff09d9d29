"""Scores that are no means over documents: computed from pairs, stored in baselines, and checked."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from run_files import DATE, write_run
from scipy.stats import binom, pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from dlm_eval.errors import UserError
from dlm_eval.reports.files.baseline import Baseline, read_baseline, save_baseline
from dlm_eval.reports.files.corpus_functions import FUNCTIONS
from dlm_eval.reports.files.runs import read_run
from dlm_eval.reports.pages.samples import samples_page
from dlm_eval.reports.pages.site import read_site
from dlm_eval.reports.regression import statistics
from dlm_eval.reports.regression.check import Report, check
from dlm_eval.reports.regression.findings import NOTE, REGRESSION
from dlm_eval.reports.regression.rules import Rules, TaskRules
from dlm_eval.reports.regression.statistics import reported_change, resampled_change
from dlm_eval.reports.regression.task_checks import BOOTSTRAP, PAIRED, REPORTED

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "two",
    "red",
    "birds",
    "in",
    "an",
    "old",
    "tree",
    "near",
    "my",
    "house",
    "today",
    "Anna's",
    "anna's",
    "The",
    "half-open,",
    "3.5",
    "(so)",
]
Pairs = Sequence[tuple[Any, Any]]


def labels(n: int, right: float, seed: int = 0) -> list[tuple[int, int]]:
    """Returns n pairs of labels, of which a share is right."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, n)
    wrong = rng.random(n) > right
    return [(int(t), int(t ^ w)) for t, w in zip(targets, wrong, strict=True)]


def sentences(n: int, kept: float, seed: int = 0) -> list[tuple[str, str]]:
    """Returns n pairs of texts; in the second a share of the words is kept."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        words = rng.choice(WORDS, 9)
        changed = [w if rng.random() < kept else str(rng.choice(WORDS)) for w in words]
        found.append((" ".join(words), " ".join(changed)))
    return found


def columns(pairs: Pairs) -> tuple[list[Any], list[Any]]:
    targets, answers = map(list, zip(*pairs, strict=True))
    return targets, answers


def corpus(score: Callable[..., Any], **options: Any) -> Callable[[Pairs], float]:
    """Returns sacrebleu's score of pairs of reference and translation."""
    return lambda pairs: score(columns(pairs)[1], [columns(pairs)[0]], **options).score


def f1(average: str) -> Callable[[Pairs], float]:
    return lambda pairs: f1_score(*columns(pairs), average=average)


LIBRARIES = {
    "mcc": lambda pairs: matthews_corrcoef(*columns(pairs)),
    "f1": f1("binary"),
    "macro_f1": f1("macro"),
    "weighted_f1": f1("weighted"),
    "micro_f1": f1("micro"),
    "pearson": lambda pairs: pearsonr(*columns(pairs))[0],
    "spearman": lambda pairs: spearmanr(*columns(pairs))[0],
    "bleu": corpus(sacrebleu.corpus_bleu),
    "bleu_lower_13a": corpus(sacrebleu.corpus_bleu, lowercase=True),
    "bleu_lower_intl": corpus(sacrebleu.corpus_bleu, lowercase=True, tokenize="intl"),
    "chrf": corpus(sacrebleu.corpus_chrf),
    "chrf++": corpus(sacrebleu.corpus_chrf, word_order=2),
    "ter": corpus(sacrebleu.corpus_ter),
}
OF_TEXTS = ("bleu", "bleu_lower_13a", "bleu_lower_intl", "chrf", "chrf++", "ter")
OF_CLASSES = ("macro_f1", "weighted_f1", "micro_f1")


def pairs_of(metric: str, quality: float, n: int = 120, seed: int = 0) -> Pairs:
    if metric in OF_TEXTS:
        return sentences(n, quality, seed)
    rng = np.random.default_rng(seed)
    if metric == "pearson":
        x = rng.random(n) * 5
        return [(float(a), float(quality * a + (1 - quality) * 5 * rng.random())) for a in x]
    if metric == "spearman":  # labels in steps of 0.5, so that many are tied
        x = np.round(rng.random(n) * 10) / 2
        return [(float(a), float((quality * a + (1 - quality) * 5 * rng.random()) ** 3)) for a in x]
    if metric in OF_CLASSES:  # the last class is rare: some resamples lack it
        targets = rng.choice(5, n, p=[0.4, 0.3, 0.2, 0.08, 0.02])
        wrong = rng.random(n) > quality
        return [(int(t), int((t + w) % 5)) for t, w in zip(targets, wrong, strict=True)]
    return labels(n, quality, seed)


def as_run(
    folder: Path, metric: str, pairs: Pairs, stderr: float | None = 0.05, value: float | None = None
) -> Path:
    """Writes a run whose headline is a function of pairs; returns its results file."""
    file = write_run(folder, {"t": [0.0] * len(pairs)}, answers=[str(b) for _, b in pairs])
    samples = file.with_name(f"samples_t_{DATE}.jsonl")
    lines = map(json.loads, samples.read_text().splitlines())
    rows = [
        {**line, "metrics": [metric], metric: list(p)} for line, p in zip(lines, pairs, strict=True)
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = json.loads(file.read_text())
    score = float(LIBRARIES[metric](pairs)) if value is None else value
    document["results"]["t"] = {f"{metric},none": score} | (
        {} if stderr is None else {f"{metric}_stderr,none": stderr}
    )
    document["configs"]["t"]["metric_list"] = [{"metric": metric}]
    document["higher_is_better"]["t"] = {metric: metric != "ter"}
    file.write_text(json.dumps(document))
    return file


def content(baseline: Path) -> str:
    return gzip.decompress(baseline.read_bytes()).decode()


def stored(run: Path) -> Baseline:
    """Returns a run's baseline as its file gives it back."""
    file = run.with_suffix(".gz")
    save_baseline(Baseline(read_run(run)), file)
    return read_baseline(file)


@pytest.mark.parametrize("metric", LIBRARIES)
@pytest.mark.parametrize("quality", [0.6, 0.95])
def test_scores_are_those_of_the_libraries(metric: str, quality: float, tmp_path: Path) -> None:
    pairs = pairs_of(metric, quality)
    found = next(
        each
        for each in read_run(as_run(tmp_path, metric, pairs)).tasks["t"].corpus_scores
        if each.function == metric
    )
    keys = list(found.statistics)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, len(keys), (20, len(keys)))
    counts = np.array([np.bincount(row, minlength=len(keys)) for row in drawn], dtype=float)
    scores = found.scores(counts, found.array(keys))
    truth = [LIBRARIES[metric]([pairs[i] for i in row]) for row in drawn]
    assert scores == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("metric", LIBRARIES)
def test_a_score_is_only_the_functions_that_give_it(metric: str, tmp_path: Path) -> None:
    """Lower-cased BLEU differs from BLEU, macro F1 from weighted F1, Spearman from Pearson."""
    found = read_run(as_run(tmp_path, metric, pairs_of(metric, 0.8))).tasks["t"].corpus_scores
    assert [each.function for each in found] == [metric]


def test_classes_can_be_texts_and_no_text_is_stored(tmp_path: Path) -> None:
    names = ["positive", "negative", "neutral", "mixed", "none of them"]
    pairs = [(names[t], names[a]) for t, a in pairs_of("macro_f1", 0.8)]
    run = as_run(tmp_path, "macro_f1", pairs)
    (found,) = stored(run).run.tasks["t"].corpus_scores
    assert found.function == "macro_f1"
    assert not [name for name in names if name in content(run.with_suffix(".gz"))]


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_answers_have_no_correlation(metric: str) -> None:
    function = FUNCTIONS[metric]
    rows = [function.statistics(float(i), 2.0) for i in range(9)]
    assert function.score(np.ones((3, 9)), np.array(rows)).tolist() == [0.0, 0.0, 0.0]


def test_a_perfect_baseline_is_checked_by_the_function_of_the_run(tmp_path: Path) -> None:
    """If all answers are right, MCC and every F1 are 1: the run's score says which one is meant."""
    pairs = pairs_of("macro_f1", 1.0)
    old = stored(as_run(tmp_path / "a", "macro_f1", pairs))
    names = {each.function for each in old.run.tasks["t"].corpus_scores}
    assert {"macro_f1", "weighted_f1", "micro_f1"} <= names
    (test,) = check(
        read_run(as_run(tmp_path / "b", "macro_f1", pairs_of("macro_f1", 0.6))), old
    ).tasks
    assert (test.test, test.old) == (BOOTSTRAP, 1.0)
    assert test.new == pytest.approx(LIBRARIES["macro_f1"](pairs_of("macro_f1", 0.6)))


def test_a_score_that_samples_do_not_give_is_no_function_of_them(tmp_path: Path) -> None:
    run = read_run(as_run(tmp_path, "mcc", labels(50, 0.8), value=0.123))
    assert run.tasks["t"].corpus_scores == ()


def texts(report: Report, kind: str) -> list[str]:
    return [finding.text for finding in report.findings if finding.kind == kind]


@pytest.mark.parametrize("metric", LIBRARIES)
def test_harm_is_found_by_a_bootstrap(metric: str, tmp_path: Path) -> None:
    old = stored(as_run(tmp_path / "a", metric, pairs_of(metric, 0.9)))
    worse = check(read_run(as_run(tmp_path / "b", metric, pairs_of(metric, 0.5))), old)
    (test,) = worse.tasks
    assert (
        worse.code == 3 and test.test == BOOTSTRAP and test.p < 0.01 and test.low < test.change < 0
    )
    assert any(f"by {BOOTSTRAP}" in text for text in texts(worse, REGRESSION))
    assert f"{metric} is no mean over documents: tested by {BOOTSTRAP}" in texts(worse, NOTE)
    same = check(read_run(as_run(tmp_path / "c", metric, pairs_of(metric, 0.9))), old)
    (test,) = same.tasks
    assert same.code == 0 and test.p == 1 and test.change == 0 and math.isnan(test.smallest)
    assert not texts(same, "unproven")


def test_better_scores_are_no_harm(tmp_path: Path) -> None:
    old = stored(as_run(tmp_path / "a", "ter", sentences(120, 0.5)))
    (test,) = check(read_run(as_run(tmp_path / "b", "ter", sentences(120, 0.9))), old).tasks
    assert test.change > 0 and test.p > 0.99 and test.old > test.new


def test_a_baseline_and_the_run_that_it_is_of_give_one_check(tmp_path: Path) -> None:
    first = as_run(tmp_path / "a", "bleu", sentences(60, 0.9))
    run = read_run(as_run(tmp_path / "b", "bleu", sentences(60, 0.85)))
    file = stored(first)
    assert check(run, file).tasks == check(run, Baseline(read_run(first))).tasks
    whole = content(first.with_suffix(".gz"))
    assert not [word for word in WORDS if len(word) > 4 and word in whole]


def test_few_changes_prove_no_more_than_a_sign_test(tmp_path: Path) -> None:
    pairs = labels(40, 0.95)
    right = [place for place, (target, answer) in enumerate(pairs) if target == answer][:4]
    worse = [(t, 1 - a if place in right else a) for place, (t, a) in enumerate(pairs)]
    old = stored(as_run(tmp_path / "a", "mcc", pairs))
    (test,) = check(read_run(as_run(tmp_path / "b", "mcc", worse)), old).tasks
    assert test.change < 0 and test.changed == 4 and test.p >= 0.5**4


def test_the_bootstrap_keeps_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that differ by chance: at alpha 0.05, at most as many alarms in 400 as 0.05 and the few
    documents of MCC explain (binomial, p > 1e-4 for a rate of 0.065). The seeds are fixed.
    """
    monkeypatch.setattr(statistics, "RESAMPLES", 499)
    mcc, alarms = FUNCTIONS["mcc"], 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 2, 150).astype(float)
        left, right = (
            np.array(
                [mcc.statistics(t, float(abs(t - w))) for t, w in zip(targets, wrong, strict=True)]
            )
            for wrong in (rng.random((2, 150)) < 0.2)
        )
        moved = int((left != right).any(axis=1).sum())
        found = resampled_change(
            lambda counts, a=left, b=right: mcc.score(counts, b) - mcc.score(counts, a),
            150, moved, 0.05,
        )  # fmt: skip
        alarms += found.harm <= 0.05
    assert alarms <= binom.isf(1e-4, 400, 0.065) and alarms > 0


def test_other_headlines_are_tested_by_the_reported_errors(tmp_path: Path) -> None:
    pairs = labels(50, 0.8)
    old = stored(as_run(tmp_path / "a", "mcc", pairs, value=0.9, stderr=0.03))
    changed = [(t, a) for t, a in labels(50, 0.7, seed=1)]
    for value, code in ((0.86, 0), (0.6, 3)):
        run = read_run(as_run(tmp_path / f"{value}", "mcc", changed, value=value, stderr=0.04))
        report = check(run, old)
        (test,) = report.tasks
        assert report.code == code and test.test == REPORTED
        assert test.p == pytest.approx(reported_change(value - 0.9, (0.03, 0.04), 0.01).harm)
        assert f"mcc is no mean over documents: tested by {REPORTED}" in texts(report, NOTE)
        assert bool(texts(report, "unproven")) == (code == 0)
        limited = Rules(tasks={"t": TaskRules(floor=0.5)})
        assert not texts(check(run, old, limited), "unproven")
    known = reported_change(-0.1, (0.03, 0.04), 0.05)
    assert known is not None and known.stderr == pytest.approx(0.05)
    assert known.harm == pytest.approx(0.0227501, rel=1e-5) and known.rise == 1 - known.harm
    assert known.low == pytest.approx(-0.1 - 1.6448536 * 0.05)
    assert reported_change(0.1, (None, 0.1), 0.05) is reported_change(0.1, (0.0, 0.0), 0.05) is None


def test_a_mean_has_its_own_test(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, {"t": [1.0, 0.0] * 10}))
    assert [each.test for each in check(run, Baseline(run)).tasks] == [PAIRED]


def edited(run: Path, old: str, new: str) -> Path:
    """Returns a copy of a baseline's file with other text."""
    text = content(run.with_suffix(".gz"))
    assert old in text
    file = run.with_name("edited.gz")
    file.write_bytes(gzip.compress(text.replace(old, new).encode()))
    return file


def test_baselines_of_version_1_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"t": [1.0, 0.0] * 10})
    stored(run)
    file = edited(run, '"version":2', '"version":1')
    lines = content(file).replace('"corpus":[],', "")
    file.write_bytes(gzip.compress(lines.encode()))
    assert check(read_run(run), read_baseline(file)).code == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('["mcc,none","mcc"]', '["mcc,none","mmc"]', "unknown function 'mmc'"),
        ('["mcc,none","mcc"]', '["mcc,none","ter"]', "are not 2 numbers"),
        ('["mcc,none","mcc"]', '["mcc,none"]', "cannot be read"),
        ("[[0,0,0,1]]", "[[0,0,0,null]]", "are not 4 numbers"),
        ("[[0,0,0,1]]", "[[0,0,0,NaN]]", "is not finite"),
        ("[[0,0,0,1]]", "[1]", "are not 4 numbers"),
        ('"version":2', '"version":3', "format version 3"),
    ],
)
def test_a_spoilt_baseline_is_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    run = as_run(tmp_path, "mcc", labels(30, 0.7))
    stored(run)
    with pytest.raises(UserError, match=message) as error:
        read_baseline(edited(run, old, new))
    assert "\n" not in str(error.value)


def test_lost_documents_are_errors(tmp_path: Path) -> None:
    pairs = labels(60, 0.8)
    old = stored(as_run(tmp_path / "a", "mcc", pairs))
    file = as_run(tmp_path / "b", "mcc", pairs, value=float(matthews_corrcoef(*columns(pairs[1:]))))
    samples = file.with_name(f"samples_t_{DATE}.jsonl")
    first, *rest = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join([json.dumps({**json.loads(first), "metrics": []}) + "\n", *rest]))
    report = check(read_run(file), old)
    assert report.code == 1 and "no mcc,none" in texts(report, "broken")[0]


def test_pages_show_no_score_of_a_document(tmp_path: Path) -> None:
    """[target, answer] of MCC was shown as their quotient."""
    as_run(tmp_path, "mcc", labels(20, 0.7))
    site = read_site([tmp_path])
    (page,) = site.pages.values()
    text = samples_page(site, page)
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [row["v"] for row in data["documents"]] == [None] * 20

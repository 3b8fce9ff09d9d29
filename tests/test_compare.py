"""Paired comparison of runs: the statistics against scipy on d1's recorded answers, what is refused, files that are hostile."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from d1_answers import gsm8k_score, pair, rows
from run_files import DATE, write_run
from scipy.stats import binomtest, permutation_test, wilcoxon

import dlm_eval
from dlm_eval.cli import main
from dlm_eval.cli.compare import lines
from dlm_eval.errors import UserError
from dlm_eval.reports.files.baseline import Baseline, open_run, save_baseline
from dlm_eval.reports.files.find import find_run
from dlm_eval.reports.files.runs import read_run
from dlm_eval.reports.files.samples_file import Texts, read_samples
from dlm_eval.reports.regression.collapse import has_other_script, repeats_itself
from dlm_eval.reports.regression.compare import compare, noise_floor
from dlm_eval.reports.regression.statistics import (
    holm,
    lower_bound,
    paired,
    smallest_drop,
    unpaired,
)

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "leaderboards" / "demo"


def text_of(first: Path, second: Path, show: int = 0) -> str:
    return "\n".join(lines(compare(open_run(first), open_run(second)), {}, show))


# -- statistics --------------------------------------------------------------------------------------


def test_p_values_of_d1s_pairs_are_scipys(shared: Path, tmp_path: Path) -> None:
    """The whole way: from files to p. GSM8K is 0/1, Sudoku a share of cells."""
    assert [sum(map(gsm8k_score, rows(shared, "gsm8k", n))) for n in (128, 256)] == [783, 863]
    gsm, sudoku = pair(shared, "gsm8k"), pair(shared, "sudoku")
    files = [
        write_run(tmp_path / str(i), {"gsm8k_d1": gsm[i], "sudoku_d1": sudoku[i]}) for i in (0, 1)
    ]
    found = {task.task: task for task in compare(*map(read_run, files)).tasks}
    right = found["gsm8k_d1"]
    gained, lost = int((gsm[1] > gsm[0]).sum()), int((gsm[1] < gsm[0]).sum())
    assert (len(right.better), len(right.worse), right.n) == (gained, lost, 1130)
    assert right.p == binomtest(gained, gained + lost, 0.5).pvalue < 1e-5
    assert right.difference == pytest.approx((863 - 783) / 1130)
    change = sudoku[1] - sudoku[0]
    theirs = permutation_test(
        (change,), np.mean, permutation_type="samples", n_resamples=9999, random_state=1
    ).pvalue
    cells = found["sudoku_d1"]
    # two Monte Carlo p-values of 9999 draws: 5 standard errors of their difference
    spread = 5 * math.sqrt(2 * max(theirs, 2e-4) / 9999)
    assert cells.p == pytest.approx(theirs, abs=spread)
    assert cells.p < 0.01 and wilcoxon(change).pvalue < 0.01
    assert sorted([right.adjusted, cells.adjusted]) == sorted(holm([right.p, cells.p]))


def test_few_changes_have_the_exact_sign_flip_p_value() -> None:
    first, second = np.zeros(20), np.zeros(20)
    second[:5] = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert paired(first, second).p == pytest.approx(2 / 2**5)


def test_lower_bounds_hold() -> None:
    """2000 seeded draws of 100 documents: the bound at level 0.975 is below the truth in that share of draws, within 4 standard errors."""
    rng = np.random.default_rng(7)
    moved = rng.choice([-1.0, 0.0, 1.0], size=(2000, 100), p=[0.1, 0.75, 0.15])
    hits = sum(lower_bound(change, True, 0.025) <= 0.05 for change in moved)
    assert hits / 2000 > 0.975 - 4 * math.sqrt(0.975 * 0.025 / 2000)


def test_bootstrap_intervals_are_normal_for_many_documents() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 1, 400), rng.normal(0.1, 1, 400)
    found = paired(first, second)
    half = 1.96 * (second - first).std() / math.sqrt(400)
    assert found.low == pytest.approx(found.difference - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.1 * half)
    assert lower_bound(second - first, False, 0.025) == pytest.approx(found.low)


def test_holm_and_the_smallest_drop_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    # 7 lost documents of 100 are the fewest with 0.5 ** 7 <= 0.01
    assert smallest_drop(np.zeros(100), True, 0.01) == pytest.approx(0.07)
    assert math.isnan(smallest_drop(np.zeros(100), False, 0.01))
    assert smallest_drop(np.zeros(4), True, 0.01) == math.inf  # seven are needed
    low, high, p = unpaired(0.1, (0.03, 0.04))
    assert (low, high) == pytest.approx((0.1 - 0.098, 0.1 + 0.098), abs=1e-4)
    assert p == pytest.approx(0.0455, abs=1e-4)


# -- runs --------------------------------------------------------------------------------------------


def test_the_committed_runs_of_tiny_and_tiny_ar(capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that moved come first; a perplexity is compared in nats, choices by their margins."""
    found = compare(read_run(DEMO / "tiny"), read_run(DEMO / "tiny-ar"))
    by_name = {task.task: task for task in found.tasks}
    assert "model.checkpoint" in {moved.name for moved in found.moved}
    last = by_name["demo_last_word"]
    assert last.scale == "nats" and last.margin is not None
    assert last.difference == pytest.approx(math.log(last.first) - math.log(last.second))
    choice = by_name["demo_choice"]
    assert (len(choice.better), len(choice.worse)) == (24, 0)
    assert choice.p == binomtest(24, 24, 0.5).pvalue and choice.margin.low > 0
    assert main(["compare", str(DEMO / "tiny"), str(DEMO / "tiny-ar"), "--show", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("What moved") < shown.index("95 % interval") < shown.index("prompt   ")


def test_a_baseline_is_compared_like_the_run_it_is_from(tmp_path: Path) -> None:
    run = read_run(DEMO / "tiny")
    file = tmp_path / "b.gz"
    save_baseline(Baseline(run), file)
    found = compare(open_run(file), run)
    assert not found.moved and not found.environment
    assert all(task.difference == 0 and task.equal == 1 for task in found.tasks)


def test_several_filters_are_one_document_and_repeats_one_cluster(tmp_path: Path) -> None:
    lines = [
        {"doc_id": 0, "doc_hash": "aa", "filter": f, "metrics": ["exact_match"], "exact_match": v, "resps": [["x", "y"]]}
        for f, v in (("strict", 0.0), ("flexible", 1.0))
    ]  # fmt: skip
    file = tmp_path / "s.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    ((key, document),) = read_samples(file, "generate_until").items()
    assert document.values == {"exact_match,strict": 0.0, "exact_match,flexible": 1.0}
    assert key == "aa" and document.texts.answers == ("x", "y")


def test_without_samples_files_the_difference_is_unpaired(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"t": [1.0, 0.0]})
    second = write_run(tmp_path / "b", {"t": [1.0, 1.0]})
    (tmp_path / "b" / f"samples_t_{DATE}.jsonl").unlink()
    (task,) = compare(read_run(first), read_run(second)).tasks
    assert task.pairs is None and task.p == pytest.approx(unpaired(0.5, (0.1, 0.1))[2])
    assert "unpaired (no samples file)" in text_of(first, second)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shots": 5}, "other shots (0 and 5)"),
        ({"prompt": "Q: "}, "other prompts (4 of 4 documents"),
    ],
)
def test_another_question_is_refused_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, named: str
) -> None:
    values = [1.0, 0.0, 1.0, 0.0]
    first, second = (
        write_run(tmp_path / "a", {"t": values}),
        write_run(tmp_path / "b", {"t": values}, **change),
    )
    assert main(["compare", str(first), str(second)]) == 2
    assert named in capsys.readouterr().err
    assert main(["compare", str(first), str(second), "--other_prompts"]) == 0


def test_another_template_and_other_documents_are_refused(tmp_path: Path) -> None:
    block = {"settings": {"apply_chat_template": True}}
    plain = read_run(write_run(tmp_path / "a", {"t": [1.0, 0.0]}))
    with pytest.raises(UserError, match="other chat template"):
        compare(plain, read_run(write_run(tmp_path / "b", {"t": [1.0, 0.0]}, block=block)))
    with pytest.raises(UserError, match="no task is in both runs"):
        compare(plain, read_run(write_run(tmp_path / "c", {"u": [1.0]})))
    other = write_run(tmp_path / "d", {"t": [1.0, 0.0]}, extra={"doc_hash": "ffff"})
    with pytest.raises(UserError, match="other documents"):
        compare(plain, read_run(other))


def test_a_part_of_the_documents_is_compared_on_what_is_common(tmp_path: Path) -> None:
    first = read_run(write_run(tmp_path / "a", {"t": [1.0, 0.0, 1.0, 1.0]}))
    second = read_run(write_run(tmp_path / "b", {"t": [0.0, 0.0]}))
    (task,) = compare(first, second).tasks
    assert task.n == 2 and task.difference == -0.5
    assert task.notes == ("2 common scored documents of 4 and 2",)


def test_the_noise_floor_is_of_one_configuration(tmp_path: Path) -> None:
    def block(name: str) -> dict:
        return {"tasks": {"t": {"configuration": name}}}

    runs = [
        read_run(write_run(tmp_path / name, {"t": values}, answers, block=block(name[0])))
        for name, values, answers in (
            ("a1", [1.0, 0.0, 1.0], "xyz"),
            ("a2", [1.0, 1.0, 1.0], "xwv"),
            ("b", [1.0, 1.0, 1.0], "xwv"),
        )
    ]
    noise = noise_floor(runs[0], runs[1])["t"]
    assert (noise.n, noise.flips, noise.answers) == (3, 1, 2)
    with pytest.raises(UserError, match="one configuration"):
        noise_floor(runs[0], runs[2])


def test_signs_of_collapse() -> None:
    assert repeats_itself("the cat sat on the mat and " * 8) and repeats_itself("x" * 40)
    assert not repeats_itself("a b c d e f g h i j k l m n o p q r s t u v w x y z")
    assert not repeats_itself("-" * 80) and not repeats_itself("")
    english = Texts("What is it?", "a cat", ())
    assert has_other_script("это кошка", english) and not has_other_script("a cat", english)
    assert not has_other_script("это кошка", Texts("Что это?", "кошка", ()))


# -- files that are hostile ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["[]", "{", '{"doc_id": 1e999}x', "null", '{"resps": 5, "metrics": 3}', '{"metrics": [[]], "exit": 1}',
     '{"resps": [[["nan", "True"]]], "doc_hash": 7, "arguments": [1]}', "[" * 100_000],
)  # fmt: skip
def test_a_broken_samples_file_is_an_error_or_has_no_scores(tmp_path: Path, line: str) -> None:
    file = write_run(tmp_path / "a", {"t": [1.0, 0.0]})
    samples = tmp_path / "a" / f"samples_t_{DATE}.jsonl"
    samples.write_text(samples.read_text() + line + "\n")
    try:
        run = read_run(file)
    except UserError as error:
        assert "samples" in str(error)
    else:
        assert len(run.tasks["t"].documents) == 3


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"t": [1.0, 0.0]}, answers=["\x1b[31mred", "b"])
    second = write_run(tmp_path / "b", {"t": [0.0, 1.0]}, answers=["\u202eevil", "\x07"])
    shown = text_of(first, second, show=2)
    assert "\x1b" not in shown and "\u202e" not in shown and "\x07" not in shown
    assert "\\u001b[31mred" in shown


def test_a_group_is_paired_over_the_documents_of_its_tasks(tmp_path: Path) -> None:
    """If its score is the mean over all documents. A mean over tasks of different size is unpaired. Holm corrects over tasks only."""
    scores = ({"t": [1.0] * 8, "u": [1.0, 0.0]}, {"t": [1.0] * 4 + [0.0] * 4, "u": [1.0, 1.0]})
    for mean, n in ((lambda t, u: (8 * t + 2 * u) / 10, 10), (lambda t, u: (t + u) / 2, None)):
        runs = []
        for place, values in enumerate(scores):
            file = write_run(tmp_path / f"{place} {n}", values)
            document = json.loads(file.read_text())
            found = [document["results"][task]["exact_match,none"] for task in "tu"]
            document["results"]["g"] = {"exact_match,none": mean(*found)}
            document["group_subtasks"] = {"g": ["t", "u"]}
            file.write_text(json.dumps(document))
            runs.append(read_run(file))
        *tasks, group = compare(*runs).tasks
        assert [task.task for task in tasks] == ["t", "u"] and group.task == "g"
        assert group.n == n and math.isnan(group.adjusted)
        assert [task.adjusted for task in tasks] == holm([task.p for task in tasks])
        if n:
            assert group.p == binomtest(1, 5, 0.5).pvalue and group.difference == pytest.approx(
                -0.3
            )


# -- data frames -----------------------------------------------------------------------------------------


def test_results_are_data_frames(tmp_path: Path) -> None:
    shutil.copytree(DEMO / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / "results_broken.json").write_text("{")
    found = dlm_eval.load_results([tmp_path, DEMO / "tiny-ar"])
    assert len(found.runs) == 2 and set(found.runs["model"]) == {"tiny", "tiny-ar"}
    tiny = found.samples[found.samples["source"].str.contains("tiny/")]
    assert len(tiny) == 350 and len(found.scores) == 18
    choice = tiny[tiny["task"] == "demo_choice"]
    assert choice["score:acc"].mean() == pytest.approx(0.76)
    written = tiny[tiny["task"] == "demo_word_problem"]
    assert written["response"].map(len).eq(1).all() and written["forwards"].mean() == 32
    with pytest.raises(UserError, match="does not exist"):
        dlm_eval.load_results(tmp_path / "nothing")


def test_data_frames_have_every_run_of_a_folder_and_compare_the_newest(tmp_path: Path) -> None:
    old = write_run(tmp_path / "b", {"t": [1.0, 0.0]})
    new = write_run(tmp_path / "a", {"t": [1.0, 1.0]})
    written = json.loads(new.read_text())
    new.write_text(json.dumps(written | {"date": json.loads(old.read_text())["date"] + 60}))
    found = dlm_eval.load_results(tmp_path)
    assert len(found.runs) == 2 and len(set(found.scores["source"])) == 2
    newest = found.runs.sort_values("date").source.iloc[-1]
    assert found.samples[found.samples.source == newest]["score:exact_match"].tolist() == [1.0, 1.0]
    assert find_run(tmp_path) == new and Path(newest).parts[-2:] == new.parts[-2:]

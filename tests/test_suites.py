"""Suites: strict reading, runs grouped by their settings, figures beside published ones, failures that cost no other entry."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness_tasks import write_tasks

from dlm_eval import evaluate
from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.harness.run import tasks_of
from dlm_eval.harness.suite_run import Outcome, plan_suite, run_suite
from dlm_eval.harness.suites import Entry, load_suite
from dlm_eval.reports.run import suite_report

BASE: dict[str, Any] = {
    "suite": "mini",
    "about": "our tasks",
    "source": "this repository",
    "models": ["tiny"],
    "settings": {"num_fewshot": 0},
    "entries": [
        {"entry": "choice", "task": "demo_choice", "estimator": "exact", "metric": "acc", "published": {"tiny": 95.0}, "protocol": "same"},
        {"entry": "choice_again", "task": "demo_choice", "estimator": "exact", "metric": "acc_norm"},
        {"entry": "fast", "task": "demo_last_word", "estimator": "left_to_right", "metric": "acc", "published": {"tiny": 80.0}, "protocol": "other"},
        {"entry": "story", "task": "demo_story_infill", "decode": {"strategy": "random", "steps": 2}, "scale": 1},
        {"entry": "code", "task": "demo_code_infill", "code": True},
    ],
    "out_of_reach": [{"benchmark": "Arena", "reason": "needs a judge model"}],
}  # fmt: skip


def write(folder: Path, **changes: Any) -> str:
    content = {**BASE, **changes}
    path = folder / f"{content['suite']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def with_entry(**changes: Any) -> dict[str, Any]:
    return {"entries": [{"entry": "one", "task": "demo_choice", **changes}]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"entris": []}, "key 'entris'.*entries"),
    "unknown entry key": (with_entry(num_fewshots=1), "entry 'one'.*num_fewshots.*num_fewshot"),
    "unknown setting": ({"settings": {"metric": "acc"}}, "settings: key 'metric'"),
    "name differs": ({"suite": "mini", "entries": []}, "entries is empty"),
    "no task": ({"entries": [{"entry": "one"}]}, "task is missing"),
    "text for a number": (with_entry(num_fewshot="five"), "num_fewshot 'five'.*whole number"),
    "a number in quotes": (with_entry(limit="5"), "limit '5'.*whole number"),
    "a fraction": (with_entry(repeats=1.5), "repeats '1.5'.*whole number"),
    "true for a number": (with_entry(num_fewshot=True), "num_fewshot 'True'"),
    "a list for text": (with_entry(metric=["acc"]), "metric .*text"),
    "text for a list": (with_entry(departures="none"), "departures 'none'.*list"),
    "text for a mapping": (with_entry(decode="steps=3"), "decode 'steps=3'.*key: value"),
    "repeats 0": (with_entry(repeats=0), "repeats '0'.*1 or more"),
    "unknown preset": (with_entry(decode={"preset": "llada_bse"}), "llada_bse.*llada_base"),
    "unknown decode setting": (with_entry(decode={"stepps": 3}), "stepps.*steps"),
    "unknown estimator": (with_entry(estimator="exakt"), "exakt.*exact"),
    "unknown checkpoint": (with_entry(published={"lada-1.5": 3.0}, protocol="same"), "lada-1.5.*llada-1.5"),
    "unknown model": ({"models": ["tinny"]}, "models 'tinny'.*tiny"),
    "a figure as text": (with_entry(published={"tiny": "3"}, protocol="same"), "published tiny '3'.*number"),
    "figures without protocol": (with_entry(published={"tiny": 3.0}), "protocol is missing"),
    "unknown protocol": (with_entry(protocol="exact"), "protocol 'exact'.*same"),
    "unknown data": (with_entry(data="mine"), "data 'mine'"),
    "two of a name": ({"entries": [{"entry": "one", "task": "demo_choice"}] * 2}, "'one' is there twice"),
    "a key that is no text": (with_entry(metadata={5: "five"}), "metadata: key '5'.*text"),
    "a name with a comma": ({"entries": [{"entry": "a,b", "task": "demo_choice"}]}, "entry 'a,b'.*letters"),
    "a name as a path": ({"entries": [{"entry": "../a", "task": "demo_choice"}]}, "entry '../a'.*letters"),
    "a name of a control character": ({"entries": [{"entry": "\x1b[31m", "task": "demo_choice"}]}, "letters"),
    "no name": ({"entries": [{"entry": "", "task": "demo_choice"}]}, "entry ''.*letters"),
    "a scale of 0": (with_entry(scale=0), "scale '0'.*above 0"),
    "a figure that is no number": (with_entry(published={"tiny": float("nan")}, protocol="same"), "'nan'.*finite"),
    "two tasks": ({"entries": [{"entry": "one", "task": "demo_choice,demo_last_word"}]}, "task 'demo_choice,demo_last_word'.*one task"),
    "a glob of tasks": ({"entries": [{"entry": "one", "task": "demo_*"}]}, "task 'demo_\\*'.*one task"),
    "an empty task": ({"entries": [{"entry": "one", "task": ""}]}, "task ''.*one task"),
    "no figures": (with_entry(published=None), "published 'None'.*key: value"),
    "no sources": (with_entry(sources=None), "sources 'None'.*key: value"),
    "a mapping for lengths": (with_entry(decode={"lengths": {8: 1}}), "lengths '{8: 1}'.*a list"),
    "text for lengths": (with_entry(decode={"lengths": "long"}), "lengths 'long'.*a list"),
    "two that tell each other's length": (
        {"entries": [
            {"entry": "a", "task": "demo_choice", "without_length": "b"},
            {"entry": "b", "task": "demo_choice", "without_length": "a"},
        ]}, "'a': without_length 'b'.*tells the length"),
    "out of reach without reason": ({"out_of_reach": [{"benchmark": "Arena"}]}, "reason is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        load_suite(write(tmp_path, **changes))
    assert "\n" not in str(caught.value) and "mini" in str(caught.value)


def test_a_file_of_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mini.yaml"
    path.write_text("suite: mini\nabout: " + "x" * (5 << 20))
    with pytest.raises(UserError, match="more than 1 MiB"):
        load_suite(str(path))


def test_the_name_of_a_suite_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(BASE))
    with pytest.raises(UserError, match="suite 'other'.*'mini'.*name of the file"):
        load_suite(str(path))
    with pytest.raises(UserError, match="--suite 'nothing'.*dlm-eval ls suites"):
        load_suite("nothing")


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    path = write(tmp_path)
    first = load_suite(path).digest
    Path(path).write_text("# a comment\n" + Path(path).read_text())
    assert load_suite(path).digest == first
    assert load_suite(write(tmp_path, source="elsewhere")).digest != first


def plan(tmp_path: Path, **given: Any) -> Any:
    return plan_suite({"suite": write(tmp_path), **given})


def test_entries_with_equal_settings_are_one_run(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert [[e.entry for e in one.entries] for one in made.runs] == [
        ["choice", "choice_again"], ["fast"], ["story"],
    ]  # fmt: skip
    assert made.runs[0].settings.tasks == ("demo_choice",) and made.model == "tiny"
    assert made.runs[0].settings.estimator == "exact" and made.runs[0].settings.num_fewshot == 0
    assert dict(made.runs[2].settings.decode) == {"strategy": "random", "steps": 2}
    assert list(made.skipped) == ["code"] and "--confirm_run_unsafe_code" in made.skipped["code"]


def test_options_replace_those_of_all_entries(tmp_path: Path) -> None:
    made = plan(tmp_path, estimator="pseudo", decode="steps=4", limit=3, num_fewshot=1)
    assert len(made.runs) == 2  # one estimator for all; decode differs
    assert made.replaces and not plan(tmp_path, limit=3).replaces
    assert {one.settings.estimator for one in made.runs} == {"pseudo"}
    assert dict(made.runs[1].settings.decode) == {"strategy": "random", "steps": "4"}
    assert dict(made.runs[0].settings.decode) == {"steps": "4"}
    assert all(one.settings.limit == 3 and one.settings.num_fewshot == 1 for one in made.runs)
    assert made.overridden == {
        "estimator": "pseudo", "decode": {"steps": "4"}, "limit": 3, "num_fewshot": 1,
    }  # fmt: skip
    other = plan(tmp_path, decode="preset=llada").runs[-1].settings.decode
    assert dict(other) == {"preset": "llada"}  # another preset replaces all
    assert made.suite.digest == plan(tmp_path).suite.digest


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ({"gen_kwargs": {"steps": 4}}, {"strategy": "threshold", "threshold": 0.8, "gen_length": 12, "steps": 4}),
        ({"gen_kwargs": {"max_gen_toks": 5, "do_sample": True}}, {"strategy": "threshold", "threshold": 0.8, "max_gen_toks": 5}),
        ({"decode": {"max_new_tokens": 5}}, {"strategy": "threshold", "threshold": 0.8, "max_new_tokens": 5}),
        ({"gen_kwargs": {"steps": 4}, "decode": {"steps": 3}}, {"strategy": "threshold", "threshold": 0.8, "gen_length": 12, "steps": 3}),
        ({"decode": {"strategy": "random"}}, {"strategy": "random", "gen_length": 12}),
        ({"decode": {"strategy": "threshold"}}, {"strategy": "threshold", "threshold": 0.8, "gen_length": 12}),
        ({"gen_kwargs": {"preset": "llada"}}, {"preset": "llada"}),
    ],
)  # fmt: skip
def test_generation_settings_of_the_user_replace_those_of_an_entry(
    given: dict[str, Any], merged: dict[str, Any], tmp_path: Path
) -> None:
    """Whichever option and name they have; another strategy comes without the entry's options."""
    own = {"strategy": "threshold", "threshold": 0.8, "gen_length": 12}
    path = write(
        tmp_path, entries=[{"entry": "one", "task": "demo_word_problem", "decode": dict(own)}]
    )
    (one,) = plan_suite({"suite": path, **given}).runs
    assert dict(one.settings.decode) == merged


def test_tasks_choose_entries(tmp_path: Path) -> None:
    made = plan(tmp_path, tasks="choice*,story")
    assert [e.entry for e in made.suite.entries] == ["choice", "choice_again", "story"]
    with pytest.raises(UserError, match="entry 'stori' is not known.*story"):
        plan(tmp_path, tasks=["stori"])
    with pytest.raises(UserError, match="every chosen entry runs generated code"):
        plan(tmp_path, tasks="code")


REFUSED = {
    "shard": ("1/2", "--shard is not possible with --suite"),
    "samples": ('{"demo_choice": [1]}', "--samples is not possible with --suite"),
    "output_path": ("out.json", "a suite needs a folder"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_does_not_go_with_a_suite_is_refused(option: str, tmp_path: Path) -> None:
    value, message = REFUSED[option]
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **{option: value})


def test_unknown_tasks_are_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path, **with_entry(task="demo_choise"))
    with pytest.raises(UserError, match="entry 'one': task 'demo_choise'.*demo_choice"):
        plan_suite({"suite": path})


def test_a_suite_may_lie_beside_its_tasks(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    path = write(folder, **with_entry(task="t_choice"))
    (one,) = plan_suite({"suite": path, "include_path": str(folder)}).runs
    assert list(tasks_of(one.settings)["tasks"]) == ["t_choice"]
    with pytest.raises(UserError, match="mini.yaml' is a suite; run it with --suite"):
        evaluate("tiny", [path])


def test_lm_evals_models_get_no_decode_settings_of_the_suite(tmp_path: Path) -> None:
    made = plan(tmp_path, model="tiny-ar")
    assert len(made.runs) == 1 and not made.runs[0].settings.decode
    assert made.runs[0].settings.estimator == "auto"
    assert plan(tmp_path, model="tiny-ar", decode="steps=3").runs[0].settings.decode


def test_lm_evals_models_get_the_number_of_tokens_of_an_entry(tmp_path: Path) -> None:
    """Also that of its preset; the user's own generation settings replace it, or stand beside it."""
    rows = [
        {"entry": f"e{n}", "task": "demo_word_problem", "decode": decode}
        for n, decode in enumerate(
            [{"gen_length": 12, "steps": 2}, {"preset": "dream_base_sudoku"}, {"steps": 2}]
        )
    ]
    path = write(tmp_path, entries=rows)

    def given(**more: Any) -> list[Any]:
        made = plan_suite({"suite": path, "model": "tiny-ar", **more})
        assert not any(run.settings.decode for run in made.runs)
        return [dict(run.settings.gen_kwargs) for run in made.runs]

    assert given() == [{"max_gen_toks": 12}, {"max_gen_toks": 24}, {}]
    assert given(gen_kwargs={"top_p": 0.9})[0] == {"max_gen_toks": 12, "top_p": 0.9}
    assert given(gen_kwargs={"max_gen_toks": 5}) == [{"max_gen_toks": 5}]
    assert given(gen_kwargs={"max_new_tokens": 5}) == [{"max_new_tokens": 5}]
    other = write(tmp_path, suite="other", entries=[{**rows[0], "decode": {"max_new_tokens": 7}}])
    (one,) = plan_suite({"suite": other, "model": "tiny-ar"}).runs
    assert dict(one.settings.gen_kwargs) == {"max_gen_toks": 7}
    (first, _, _) = evaluate(suite=path, model="tiny-ar", limit=1)["runs"]
    assert first["configs"]["demo_word_problem"]["generation_kwargs"]["max_gen_toks"] == 12


def test_without_a_template_examples_are_no_turns(tmp_path: Path) -> None:
    """--apply_chat_template false also takes back the entry's fewshot_as_multiturn, which needs one."""
    own = {"num_fewshot": 1, "apply_chat_template": True, "fewshot_as_multiturn": True}
    path = write(tmp_path, **with_entry(**own))
    (one,) = plan_suite({"suite": path}).runs
    assert one.settings.fewshot_as_multiturn and one.settings.apply_chat_template
    (one,) = plan_suite({"suite": path, "apply_chat_template": False}).runs
    assert not one.settings.fewshot_as_multiturn and not one.settings.apply_chat_template
    with pytest.raises(UserError, match="fewshot_as_multiturn needs"):
        plan_suite({"suite": path, "apply_chat_template": False, "fewshot_as_multiturn": True})


def test_a_difference_in_standard_errors_by_hand() -> None:
    entry = Entry("one", "t", protocol="same")
    known = Outcome(entry, "acc", "none", 0.6, 0.05, 100, 100, 50.0)
    assert known.deviation == pytest.approx(0.1 / (0.05 * 2**0.5))
    part = Outcome(entry, "acc", "none", 0.6, 0.05, 25, 100, 50.0)  # the whole has half the error
    assert part.deviation == pytest.approx(0.1 / (0.05**2 + 0.025**2) ** 0.5)
    nears = (
        Entry("one", "t", protocol="near"),
        Entry("one", "t", protocol="other"),
        Entry("one", "t"),
    )
    found = [Outcome(e, "acc", "none", 0.6, 0.05, 1, 1, 50.0).deviation is None for e in nears]
    assert found == [False, True, True]
    assert Outcome(entry, "acc", "none", 0.6, 0.0, 9, 9, 50.0).deviation is None
    assert Outcome(entry, "acc", "none", 0.6, 0.05, 9, 9, 50.0, replaced=True).deviation is None
    assert Outcome(entry, "acc", "none", 0.6, 0.1, 9, 9, None).deviation is None


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("results_*.json"))]


def without_data(folder: Path) -> Path:
    """A folder with a task whose dataset nobody has."""
    folder.mkdir()
    (folder / "gone.yaml").write_text(
        "task: t_gone\ndataset_path: nobody/nothing\noutput_type: generate_until\ntest_split: test\n"
        "doc_to_text: a\ndoc_to_target: b\nmetric_list: [{metric: exact_match}]\n"
    )
    return folder


def test_a_suite_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    gone, include = {"entry": "gone", "task": "t_gone"}, without_data(tmp_path / "tasks")
    path = write(tmp_path, entries=[*BASE["entries"], gone])
    command = ["--suite", path, "--limit", "4", "-o", str(out), "--include_path", str(include)]
    assert main([*command, "--verbosity", "ERROR"]) == 1  # one entry fails, and costs no other
    shown = capsys.readouterr().out
    table = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in shown.split("suite mini")[1].splitlines() if line.startswith("| ")
    }  # fmt: skip
    assert list(table) == ["entry", "choice", "choice_again", "fast", "story", "code", "gone"]
    found = results_of(out)
    assert len(found) == 3
    marks = [each["dlm_eval"]["suite"] for each in found]
    assert [list(each["entries"]) for each in marks] == [
        ["choice", "choice_again"],
        ["fast"],
        ["story"],
    ]
    assert all(each["name"] == "mini" and each["overridden"] == {"limit": 4.0} for each in marks)
    assert marks[0]["digest"] == load_suite(path).digest
    assert marks[0]["entries"]["choice"]["published"] == 95.0
    acc, stderr = (
        found[0]["results"]["demo_choice"][key] for key in ("acc,none", "acc_stderr,none")
    )
    assert table["choice"][1:3] == [f"{100 * acc:.2f} ± {100 * stderr:.2f}", "95"]
    assert table["choice"][5] == "same protocol, standard error 0, 4 of 100 documents"
    assert table["fast"][3] == "" and table["fast"][2] == "80"  # another protocol: no difference
    assert table["story"][1].startswith(
        f"{found[2]['results']['demo_story_infill']['rouge1,none']:.2f}"
    )
    assert table["code"][5] == "skipped" and table["gone"][5] == "failed"
    assert "gone: task 't_gone': cannot load dataset" in shown
    assert "overridden for all entries: --limit 4" in shown
    (file,) = out.rglob("suite_mini_*.csv")
    assert f"table: {file}" in shown
    with file.open() as lines:
        cells = {row["entry"]: row for row in csv.DictReader(lines)}
    assert list(cells) == list(table)[1:]
    assert (
        float(cells["choice"]["measured"]) == 100 * acc and cells["choice"]["published"] == "95.0"
    )
    assert (cells["choice"]["n"], cells["choice"]["documents"]) == ("4", "100")
    assert cells["code"]["note"] == "skipped" and cells["gone"]["measured"] == ""
    assert cells["gone"]["reason"].startswith("task 't_gone': cannot load dataset")

    # the journal has every answer: nothing is computed again, and the figures are equal
    assert main([*command, "--verbosity", "ERROR", "--score_only"]) == 1
    again = results_of(out)[3:]
    assert [each["results"] for each in again] == [each["results"] for each in found]


def test_from_python(tmp_path: Path) -> None:
    found = evaluate(suite=write(tmp_path), tasks="choice", limit=5)
    assert (
        found["entries"]["choice"]["value"]
        == found["runs"][0]["results"]["demo_choice"]["acc,none"]
    )
    assert found["entries"]["choice"]["count"] == 5 and found["overridden"] == {"limit": 5}


@pytest.mark.parametrize("devices", [None, pytest.param("cpu:2", marks=pytest.mark.full)])
def test_a_file_of_settings_and_workers(tmp_path: Path, devices: str | None) -> None:
    """`--config` may name the suite, and the model loads once, in workers too; the figures are those of Python in one process."""
    settings = {"suite": write(tmp_path), "tasks": "choice,story", "limit": 3, "devices": devices, "repeats": 2}  # fmt: skip
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, "output_path": str(tmp_path / "out")}))
    assert main(["--config", str(file), "--verbosity", "ERROR"]) == 0
    found = results_of(tmp_path / "out")
    assert len(found) == 2 and found[0]["dlm_eval"]["suite"]["overridden"] == {"limit": 3, "repeats": 2}  # fmt: skip
    alone = evaluate(**{**settings, "devices": None, "verbosity": "ERROR"})["runs"]
    assert [each["results"] for each in found] == [each["results"] for each in alone]
    assert found[1]["configs"]["demo_story_infill"]["repeats"] == 2


def test_one_failing_task_of_a_run_costs_no_other(tmp_path: Path) -> None:
    rows = [{"entry": "bad", "task": "t_gone"}, {"entry": "good", "task": "demo_last_word", "metric": "acc"}]  # fmt: skip
    rows += [{"entry": "absent", "task": "demo_last_word", "metric": "f1"}]
    path = write(tmp_path, entries=rows)
    include = str(without_data(tmp_path / "tasks"))
    made = plan_suite({"suite": path, "limit": 2, "include_path": include})
    assert len(made.runs) == 1
    done = run_suite(made)
    outcome = {o.entry.entry: o for o in done.outcomes}
    assert "cannot load dataset" in outcome["bad"].reason and done.failed
    assert outcome["good"].value is not None and outcome["good"].count == 2
    assert "the results have no f1; they have perplexity,none, acc,none" in outcome["absent"].reason


def test_an_entry_that_the_model_refuses_costs_no_other(tmp_path: Path) -> None:
    """Even the first; but the user's own mistake ends the run."""
    rows = [
        {"entry": "rewritten", "task": "demo_story_infill", "decode": {"preset": "ar2diff"}},
        {"entry": "good", "task": "demo_last_word", "metric": "acc"},
    ]
    path = write(tmp_path, entries=rows)
    found = evaluate(suite=path, limit=1)["entries"]
    assert "rewrite" in found["rewritten"]["reason"] and found["good"]["value"] is not None
    with pytest.raises(UserError, match="rewrite"):
        evaluate(suite=path, limit=1, decode="preset=ar2diff")


def test_ls_show_and_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    assert main(["ls", "suites"]) == 0 and "entries" in capsys.readouterr().out
    assert main(["show", path]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["suite"]
    assert shown["out_of_reach"] == {"Arena": "needs a judge model"}
    assert shown["entries"][0]["estimator"] == "exact" and shown["entries"][0]["num_fewshot"] == 0
    assert main(["validate", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("story")).split()[:4] == ["story", "demo_story_infill", "generate_until", "60"]  # fmt: skip
    wrong = write(tmp_path, entries=[
        {"entry": "a", "task": "demo_code_infill"}, {"entry": "b", "task": "demo_choice", "code": True},
        {"entry": "c", "task": "demo_choice", "decode": {"steps": 2}, "metric": "f1", "filter": "strict"},
        {"entry": "d", "task": "demo_story_infill", "estimator": "exact"},
        {"entry": "e", "task": "demo_story_infill", "decode": {"lengths": [4, 8]}},
        {"entry": "f", "task": "demo_story_infill", "decode": {"strategy": "confidence", "threshold": 0.9}},
        {"entry": "g", "task": "demo_word_problem", "decode": {"lengths": [0]}},
    ])  # fmt: skip
    assert main(["validate", wrong]) == 1
    said = capsys.readouterr().out
    for reason in (
        "a: its task runs generated code; say code: true", "b: code is true, and its task runs no generated code",
        "c: decode is for tasks that generate", "c: metric 'f1' is not one of acc", "c: filter 'strict' is not one of none",
        "d: estimator is for tasks that score", "e: decode lengths are tried, and its task tells the length",
        "f: decode threshold is not used by strategy 'confidence'", "g: decode lengths '[0]' is not allowed",
    ):  # fmt: skip
        assert reason in said


def test_a_dry_run_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    path = write(tmp_path)
    assert main(["--suite", path, "--limit", "2", "-o", str(out), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.count("== ") == 4
        and "== choice, choice_again" in shown
        and "== code: skipped" in shown
    )
    assert not out.exists()
    left = [int(row.split("|")[7]) for row in shown.splitlines() if row.startswith("| demo_")]
    assert len(left) > 1
    assert f"all 3 runs: {sum(left)} forwards to run" in shown and "time: not known" in shown


def test_a_dry_run_says_an_error_that_entries_share_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--suite", write(tmp_path), "--dry_run", "--model", "llada"]
    assert main([*command, "--model_args", f"pretrained={tmp_path / 'nothing'}"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "nothing" in line]
    assert len(failed) == 1 and failed[0].startswith("== choice, choice_again, ")


def test_entries_that_are_only_answered_have_no_figure(tmp_path: Path) -> None:
    found = evaluate(
        suite=write(tmp_path), tasks="choice,story", limit=2, predict_only=True, verbosity="ERROR"
    )
    assert {one["value"] for one in found["entries"].values()} == {None}
    assert {one["reason"] for one in found["entries"].values()} == {"answers only"}


def test_show_prints_every_kind_that_bears_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "diffullama"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert {"family", "checkpoint", "preset", "estimator", "model_args"} <= set(found)
    assert main(["show", "gsm8k"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["task"]["task"] == found["lm-eval's task"]["task"] == "gsm8k"
    assert found["task"] != found["lm-eval's task"]


def test_the_figure_without_being_told_the_length_stands_beside(tmp_path: Path) -> None:
    entries = """
  - {entry: told, task: demo_story_infill, metric: rougeL, scale: 1, without_length: untold}
  - {entry: untold, task: demo_story_infill, metric: rougeL, scale: 1, decode: {lengths: [4, 8]}}
"""
    file = tmp_path / "mine.yaml"
    file.write_text(f"suite: mine\nmodels: [tiny]\nentries:{entries}")
    plan = plan_suite({"suite": str(file), "limit": 3, "verbosity": "ERROR"})
    shown = suite_report.lines(run_suite(plan))
    head = next(line for line in shown if "entry" in line)
    assert "without being told the length" in head
    rows = {cells[1].strip(): cells for line in head.splitlines()[2:] if (cells := line.split("|"))}
    assert rows["told"][-2].strip() == rows["untold"][3].strip() != ""
    assert rows["untold"][-2].strip() == ""
    assert float(rows["told"][3].split("±")[0]) != float(rows["untold"][3].split("±")[0])

    file.write_text(
        f"suite: mine\nmodels: [tiny]\nentries:{entries.replace('untold}', 'untould}', 1)}"
    )
    with pytest.raises(UserError, match="without_length 'untould'.*did you mean 'untold'"):
        load_suite(str(file))


def test_the_table_says_why_there_is_no_difference() -> None:
    """Each reason, and none if there is a difference."""
    mine = Entry("e", "t", published={"tiny": 50.0}, protocol="same")
    whole = Outcome(mine, "acc", "none", 0.5, 0.1, 10, 100, published=50.0)
    nothing = Entry("e", "t")
    for outcome, reason in (
        (whole, ""),
        (replace(whole, published=None), "published for other models"),
        (replace(whole, entry=nothing, published=None), "no published figure"),
        (replace(whole, replaced=True), "overridden"),
        (replace(whole, entry=replace(mine, protocol="other")), "other protocol"),
        (replace(whole, stderr=None), "no standard error"),
        (replace(whole, stderr=0.0), "standard error 0"),
        (replace(whole, total=None), "number of documents unknown"),
        (replace(whole, value=None), "the metric is not a number"),
        (replace(whole, value=None, reason="it has no average"), "it has no average"),
    ):
        cells = dict(zip(suite_report.HEADERS, suite_report.row(outcome), strict=True))
        assert outcome.incomparable == reason
        assert (outcome.deviation is None) == bool(reason) == (cells["difference"] == "")
        assert ("failed" if outcome.reason else reason) in cells["note"]
        assert cells["note"].count("overridden") <= 1 and cells["note"].count("protocol") <= 1

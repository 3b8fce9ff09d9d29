"""Regression checks: planted faults in real runs of `tiny` are found, chance is not, and CI gets what it reads."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from d1_answers import pair
from run_files import write_run

from dlm_eval import evaluate
from dlm_eval.cli import build_parser, main
from dlm_eval.decoding.strategies import Confidence
from dlm_eval.errors import UserError
from dlm_eval.likelihood import masks
from dlm_eval.reports.files.baseline import Baseline, Noise, read_baseline, save_baseline
from dlm_eval.reports.files.runs import Run, read_run, run_of
from dlm_eval.reports.regression.check import Report, check
from dlm_eval.reports.regression.formats import github_annotations, junit, markdown
from dlm_eval.reports.regression.rules import Rules, read_rules
from dlm_eval.reports.regression.statistics import p_value
from dlm_eval.testing import assert_no_regression

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "leaderboards" / "demo"
BASELINE = DEMO / "tiny_baseline.jsonl.gz"
ALPHA = 0.01


def of_tasks(baseline: Baseline, *names: str) -> Baseline:
    tasks = {name: baseline.run.tasks[name] for name in names}
    return replace(baseline, run=replace(baseline.run, tasks=tasks))


def kinds(report: Report) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.kind, []).append(finding.task)
    return found


def as_run(folder: Path, values: Any, **more: Any) -> Run:
    return read_run(write_run(folder, {"t": list(values)}, **more))


# -- planted faults ------------------------------------------------------------------------------------


def test_one_step_in_place_of_many_is_found(tmp_path: Path) -> None:
    """60 documents of `tiny` cannot prove the drop (the smallest that they show is 0.26): the committed rules find it, and so does --strict."""
    tasks = ["demo_word_problem"]
    results = evaluate("tiny", tasks, decode={"steps": 1})
    baseline = of_tasks(read_baseline(BASELINE), *tasks)
    report = check(run_of(results), baseline, rules_of(*tasks))
    texts = [finding.text for finding in report.findings if finding.kind == "regression"]
    assert report.code == 3
    assert any("max_drop is 0.034" in text for text in texts)
    assert any("min_forwards_ratio is 0.9" in text for text in texts)
    save_baseline(baseline, tmp_path / "b.gz")
    assert assert_no_regression(results, tmp_path / "b.gz", margin=0.9).code == 0
    with pytest.raises(AssertionError, match="unproven: demo_word_problem: exact_match"):
        assert_no_regression(results, tmp_path / "b.gz", strict=True)


def rules_of(*names: str) -> Rules:
    rules = read_rules(DEMO / "checks.yaml", {})
    return replace(rules, tasks={name: rules.tasks[name] for name in names})


def test_the_least_confident_position_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the code: no setting moves, and the answers of a batch invariant run change."""
    right = Confidence.commit
    settings = {"limit": 12, "decode": {"steps": 8}}
    before = run_of(evaluate("tiny", ["demo_word_problem"], **settings))
    again = check(run_of(evaluate("tiny", ["demo_word_problem"], **settings)), Baseline(before))
    assert again.code == 0 and not again.findings
    monkeypatch.setattr(
        Confidence, "commit", lambda self, view: right(self, replace(view, score=-view.score))
    )
    report = check(run_of(evaluate("tiny", ["demo_word_problem"], **settings)), Baseline(before))
    texts = [finding.text for finding in report.findings if finding.kind == "regression"]
    assert report.code == 3 and "although model, settings, seeds and environment are" in texts[0]


MIDDLE = """
task: story_middle
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prefix}}}}"
doc_to_target: "{{{{middle}}}}"
target_delimiter: ""
metric_list: [{{metric: perplexity, aggregation: perplexity, higher_is_better: false}}]
"""


def test_an_estimator_without_its_weight_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log-likelihoods are too high: an improvement that nothing explains fails too, also if no bits are promised."""
    task = tmp_path / "story_middle.yaml"
    task.write_text(MIDDLE.format(data=ROOT / "task_configs" / "demo" / "demo_story_infill.jsonl"))
    settings = {"estimator": "mask_count,max_forwards=8", "limit": 16}
    before = run_of(evaluate("tiny", [str(task)], **settings))
    right = masks.sized_plan

    def unweighted(*args: Any) -> masks.Plan:
        plan = right(*args)
        return replace(plan, weight=plan.hidden.astype(float))

    monkeypatch.setattr(masks, "sized_plan", unweighted)
    after = run_of(evaluate("tiny", [str(task)], **settings))
    report = check(replace(after, batch_invariant="unknown"), Baseline(before))
    texts = [finding.text for finding in report.findings if finding.kind == "regression"]
    assert report.code == 3 and len(texts) == 1 and "log-likelihoods rose" in texts[0]
    assert len([f for f in check(after, Baseline(before)).findings if f.kind == "regression"]) == 2


def copied(folder: Path, *changes: tuple[str, str]) -> str:
    """Returns the path of a copy of demo_word_problem with replaced texts."""
    text = (ROOT / "task_configs" / "demo" / "demo_word_problem.yaml").read_text(encoding="utf-8")
    base = (ROOT / "task_configs" / "demo" / "_base").read_text(encoding="utf-8")
    for old, new in (("include: _base\n", base), *changes):
        assert old in text
        text = text.replace(old, new)
    folder.mkdir()
    file = folder / "demo_word_problem.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_scorer_that_strips_nothing_and_a_changed_prompt(tmp_path: Path) -> None:
    """The scorer is a regression on the same answers. The prompt makes another question: exit 2."""
    home = str(tmp_path / "out")
    settings = {"decode": {"steps": 8}, "output_path": home}
    first = evaluate("tiny", [copied(tmp_path / "a")], **settings)
    baseline = Baseline(run_of(first))
    ignore = ", regexes_to_ignore: ['(?s).*#### ']"
    scorer = copied(tmp_path / "b", (ignore, ""))
    report = check(run_of(evaluate("tiny", [scorer], score_only=True, **settings)), baseline)
    assert report.code == 3 and report.tasks[0].changed == 0
    assert kinds(report) == {"regression": ["demo_word_problem"], "changed": ["demo_word_problem"]}
    prompt = copied(tmp_path / "c", ("Question: {{question}}", "Q: {{question}}"))
    changed = run_of(evaluate("tiny", [prompt], decode={"steps": 1}))
    with pytest.raises(UserError, match="other prompts \\(60 of 60 documents"):
        check(changed, baseline)


# -- power and false alarms ------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "draws", "least"), [("gsm8k", 1000, 950), ("sudoku", 100, 85)])
def test_d1s_worse_run_is_found(shared: Path, task: str, draws: int, least: int) -> None:
    """Seeded bootstrap samples of the documents: GSM8K at 128 instead of 256 tokens, Sudoku the other way round."""
    short, long = pair(shared, task)
    change = short - long if task == "gsm8k" else long - short
    rng = np.random.default_rng(0)
    sampled = change[rng.integers(len(change), size=(draws, len(change)))]
    assert sum(p_value(each, task == "gsm8k", "less") <= ALPHA for each in sampled) >= least


@pytest.mark.parametrize("task", ["gsm8k", "sudoku"])
def test_runs_that_are_swapped_at_random_raise_no_alarm(shared: Path, task: str) -> None:
    """The document's two scores change places by a coin: 200 seeded pairs without difference, at most 6 alarms at 0.01."""
    first, second = pair(shared, task)
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        sign = rng.choice([-1.0, 1.0], size=len(first))
        alarms += p_value((second - first) * sign, task == "gsm8k", "less") <= ALPHA
    assert alarms <= 6


# -- verdicts --------------------------------------------------------------------------------------------


def test_errors_fail_and_do_not_shrink_n(tmp_path: Path) -> None:
    """A run that drops its wrong documents as errors has a better mean. It is broken, and the errors count as wrong."""
    old = Baseline(as_run(tmp_path / "a", [1.0] * 5 + [0.0] * 5))
    run = as_run(
        tmp_path / "b", [1.0] * 5 + [0.0] * 5, errors=dict.fromkeys(range(5, 10), "no memory")
    )
    report = check(run, old)
    assert run.tasks["t"].headline.value == 1.0
    assert report.code == 1 and kinds(report)["broken"] == ["t"]
    assert (report.tasks[0].n, report.tasks[0].new) == (10, 0.5)


def test_a_score_that_is_not_a_number_is_broken(tmp_path: Path) -> None:
    old = Baseline(as_run(tmp_path / "a", [1.0, 0.5, 0.0]))
    file = write_run(tmp_path / "b", {"t": [1.0, 0.5, 0.0]})
    (samples,) = (tmp_path / "b").glob("samples_*")
    lines = samples.read_text().splitlines()
    samples.write_text(
        "\n".join([*lines[:2], lines[2].replace('"exact_match": 0.0', '"exact_match": NaN')])
    )
    document = json.loads(file.read_text())
    document["results"]["t"]["exact_match,none"] = 0.75
    file.write_text(json.dumps(document))
    report = check(read_run(file), old)
    assert report.code == 1 and "1 document without answer or score" in report.findings[0].text
    assert report.tasks[0].new == 0.5


def test_a_drop_that_cannot_be_excluded_fails_only_if_strict(tmp_path: Path) -> None:
    old = Baseline(as_run(tmp_path / "a", [1.0] * 60 + [0.0] * 40))
    run = as_run(tmp_path / "b", [1.0] * 58 + [0.0] * 42, answers=["b"] * 100)
    assert kinds(check(run, old))["unproven"] == ["t"]
    assert check(run, old).code == 0 and check(run, old, Rules(strict=True)).code == 3
    assert check(run, old, Rules(strict=True, margin=0.2)).code == 0
    same = as_run(tmp_path / "c", [1.0] * 60 + [0.0] * 40)
    assert check(same, old, Rules(strict=True)).code == 0  # equal answers need no proof


BLOCK = {
    "settings": {"seed": 0},
    "environment": {"torch": "2.13.0", "device_name": "cpu", "batch_invariant": True},
    "tasks": {"t": {"configuration": "c", "fingerprint": "f", "scoring": "s"}},
}


@pytest.mark.parametrize(
    ("environment", "noise", "code", "strict", "named"),
    [
        ({}, None, 3, 3, "batch invariant"),
        ({"torch": "2.14.0"}, None, 0, 3, "1 of 40 answers changed, torch 2.13.0 -> 2.14.0"),
        ({"batch_invariant": "unknown"}, None, 0, 3, "noise floor is not known"),
        ({"batch_invariant": "unknown"}, 1, 0, 0, "differ in 1 of 40"),
    ],
)
def test_changed_answers_of_one_configuration(
    tmp_path: Path, environment: dict, noise: int | None, code: int, strict: int, named: str
) -> None:
    values = [1.0, 0.0] * 20
    old = Baseline(
        as_run(tmp_path / "a", values, block=BLOCK),
        {} if noise is None else {"t": Noise(40, 0.0, 0, noise)},
    )
    block = BLOCK | {"environment": BLOCK["environment"] | environment}
    run = as_run(tmp_path / "b", values, answers=["a"] * 39 + ["other"], block=block)
    rules = Rules(margin=0.5)
    assert check(run, old, rules).code == code
    report = check(run, old, replace(rules, strict=True))
    assert report.code == strict and named in report.findings[0].text


def test_many_changed_answers_are_more_than_the_noise_floor(tmp_path: Path) -> None:
    block = BLOCK | {"environment": {"batch_invariant": False}}
    values = [1.0, 0.0] * 20
    old = Baseline(as_run(tmp_path / "a", values, block=block), {"t": Noise(40, 0.0, 0, 1)})
    run = as_run(tmp_path / "b", values, answers=["a"] * 20 + ["other"] * 20, block=block)
    assert check(run, old).code == 3


def test_another_document_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "base.gz"
    save_baseline(Baseline(as_run(tmp_path / "a", [1.0] * 4)), file)
    run = write_run(tmp_path / "b", {"t": [1.0] * 3})
    assert main(["check", str(run), "--baseline", str(file)]) == 2
    assert (
        "another document set (1 of 4 documents are missing, 0 are new" in capsys.readouterr().err
    )
    other = write_run(tmp_path / "c", {"u": [1.0] * 3})
    assert main(["check", str(other), "--baseline", str(file)]) == 2
    assert "'t'" in capsys.readouterr().err


def test_rules_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "checks.yaml"
    old = Baseline(as_run(tmp_path / "a", [1.0] * 9 + [0.0]))
    run = as_run(tmp_path / "b", [1.0] * 8 + [0.0] * 2, extra={"forwards": 9})
    for rule, fails in {
        "floor: 0.85": True, "floor: 0.8": False, "max_drop: 0.05": True, "max_drop: 0.1": False,
        "max_forwards: 8": True, "max_forwards: 9": False, "max_forwards_ratio: 2": True,
        "max_forwards_ratio: 2.25": False,
    }.items():  # fmt: skip
        file.write_text(f"margin: 0.9\ntasks:\n  t: {{{rule}}}\n")
        assert check(run, old, read_rules(file, {})).code == (3 if fails else 0), rule
    assert read_rules(file, {"margin": 0.3}).margin == 0.3
    for text, named in {
        "alpha: 2": "alpha", "alfa: 0.1": "did you mean 'alpha'", "tasks: {t: {flor: 1}}": "did you mean 'floor'",
        "tasks: [t]": "must map", "- 1": "must be a mapping",
    }.items():  # fmt: skip
        file.write_text(text)
        with pytest.raises(UserError, match=named):
            read_rules(file, {})
    file.write_text("tasks: {tt: {floor: 1}}")
    with pytest.raises(UserError, match="did you mean 't'|'tt' is not known"):
        check(run, old, read_rules(file, {}))


# -- the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--alpha=2", "--alpha '2.0' is not allowed"),
        ("--margin=-1", "--margin '-1.0' is not allowed"),
    ],
)
def test_an_option_is_called_as_it_was_typed(
    tmp_path: Path, option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path), "--baseline", str(tmp_path / "b"), option]) == 2
    assert said in capsys.readouterr().err


def test_a_mistake_is_told_where_a_result_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the summary, which is the body of a comment, and as an annotation."""
    summary = tmp_path / "summary.md"
    words = ["check", str(tmp_path), "--baseline", str(tmp_path / "no_%_such")]
    assert main([*words, "--github", "--markdown", str(summary)]) == 2
    assert "::error title=dlm-eval check::baseline '" in (shown := capsys.readouterr()).out
    assert "no_%25_such" in shown.out and "does not exist" in shown.err
    assert summary.read_text().startswith("<!-- dlm-eval check -->")
    assert r"no\_%\_such" in summary.read_text()


def test_baseline_save_show_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "b.jsonl.gz"
    run = str(DEMO / "tiny")
    assert main(["baseline", "save", run, "-o", str(file), "--noise_floor", run]) == 0
    once = file.read_bytes()
    assert len(once) < 100_000
    assert main(["baseline", "update", run, "-o", str(file)]) == 0
    assert main(["baseline", "save", run, "-o", str(file), "--noise_floor", run]) == 0
    assert file.read_bytes() == once  # equal runs, equal files
    assert main(["baseline", "show", str(file)]) == 0
    assert "0 of 60 answers" in capsys.readouterr().out
    assert main(["check", run, "--baseline", str(file), "--strict"]) == 0


def test_no_text_of_a_document_is_in_a_baseline() -> None:
    text = gzip.decompress(BASELINE.read_bytes()).decode()
    assert "Carl" not in text and BASELINE.stat().st_size < 100_000
    assert os.sep + "root" not in text and os.sep + "work" not in text


def test_a_run_with_errors_or_without_samples_is_no_baseline(tmp_path: Path) -> None:
    broken = as_run(tmp_path / "a", [1.0, 0.0], errors={1: "no memory"})
    with pytest.raises(UserError, match="1 of 2 documents of task 't' have errors"):
        save_baseline(Baseline(broken), tmp_path / "b.gz")
    for file in (tmp_path / "a").glob("samples_*"):
        file.unlink()
    with pytest.raises(UserError, match="no samples file"):
        save_baseline(Baseline(read_run(tmp_path / "a")), tmp_path / "b.gz")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:0],
        lambda lines: ["{}", *lines[1:]],
        lambda lines: [lines[0].replace('"version":1', '"version":3'), *lines[1:]],
        lambda lines: [lines[0], "[1,2]"],
        lambda lines: [lines[0], lines[1].replace("[0,", "[99,", 1)],
        lambda lines: [lines[0], lines[1].replace("[0,", '["x",', 1)],
        lambda lines: lines[:1],
        lambda lines: [lines[0].replace('"tasks":{', '"tasks":{"x":5,'), *lines[1:]],
        lambda lines: [lines[0], "[" * 100_000],
        lambda lines: [lines[0], lines[1][:-2] + "NaN]]"],
    ],
)
def test_a_broken_baseline_is_one_line(tmp_path: Path, spoil: Any) -> None:
    lines = gzip.decompress(BASELINE.read_bytes()).decode().splitlines()
    file = tmp_path / "b.gz"
    file.write_bytes(gzip.compress("\n".join(spoil(lines)).encode()))
    with pytest.raises(UserError, match="cannot be read"):
        read_baseline(file)
    file.write_bytes(BASELINE.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        read_baseline(file)


# -- what CI reads ---------------------------------------------------------------------------------------


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    reason = "</testcase><b>@all\x00 %0A::error::x | [l](http://x)\n::warning::y"
    old = Baseline(as_run(tmp_path / "a", [1.0, 1.0]))
    report = check(as_run(tmp_path / "b", [1.0, 1.0], errors={1: reason}), old)
    tree = ElementTree.fromstring(junit(report))
    assert [case.get("name") for case in tree.iter("testcase")] == ["run", "t"]
    assert tree.find("testsuite").get("errors") == "1" and tree.find(".//b") is None
    shown = list(github_annotations(report))
    assert all(line.startswith("::") and "\n" not in line for line in shown)
    assert "%250A" in shown[0] and sum(line.count("::error") for line in shown) >= 1
    body = markdown(report)
    assert "<b>" not in body and "@all" not in body and "[l](" not in body
    assert not any(line.startswith("::") for line in body.splitlines())


def test_the_workflow_of_the_guide_is_whole() -> None:
    """Checkout, Python, install, run, check: in this order, with inputs that the action has, and a command that parses."""
    page = (ROOT / "docs" / "guides" / "regression.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```yaml\n(# \.github/workflows/.*?)```", page, re.DOTALL)
    workflow = yaml.load(code, Loader=yaml.BaseLoader)  # else YAML reads the key `on` as true
    assert workflow.keys() == {"name", "on", "permissions", "jobs"}
    [job] = workflow["jobs"].values()
    assert job.keys() == {"runs-on", "timeout-minutes", "env", "steps"}
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert step.keys() <= {"uses", "with", "run", "if", "env"}
    said = [step.get("uses") or step["run"] for step in job["steps"]]
    wanted = ("actions/checkout@v4", "actions/setup-python@v5", "pip install", "dlm-eval", "OWNER/dlm_eval/.github/actions/check@REF", "gh pr comment")  # fmt: skip
    assert [text.startswith(start) for text, start in zip(said, wanted, strict=True)] == [True] * 6
    assert "OWNER/dlm_eval@REF" in said[2]  # as the action
    given = build_parser().parse_args(["run", *shlex.split(said[3])[1:]])
    assert given.output_path == "results"
    action = yaml.safe_load((ROOT / ".github" / "actions" / "check" / "action.yml").read_text())
    inputs, settings = action["inputs"], job["steps"][4]["with"]
    assert settings.keys() <= inputs.keys()
    assert {name for name, one in inputs.items() if one.get("required")} <= settings.keys()
    assert inputs["run"]["default"] == given.output_path
    assert f"--body-file {settings['comment']}" in said[5]
    assert workflow["permissions"]["pull-requests"] == "write"


def test_the_github_action_and_the_gitlab_template_run(tmp_path: Path) -> None:
    """Their scripts, in bash: exit code, summary, output and JUnit of a check that fails, and of one that passes."""
    action = yaml.safe_load((ROOT / ".github" / "actions" / "check" / "action.yml").read_text())
    (step,) = action["runs"]["steps"]
    values = {name: str(each.get("default", "")) for name, each in action["inputs"].items()}
    template = yaml.safe_load((ROOT / ".gitlab" / "dlm-eval-check.yml").read_text())
    job = template[".dlm-eval-check"]
    save_baseline(Baseline(as_run(tmp_path / "old", [1.0] * 20)), tmp_path / "b.gz")
    write_run(tmp_path / "bad run", {"t": [0.0] * 20})
    write_run(tmp_path / "good", {"t": [1.0] * 20})
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "dlm-eval"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlm_eval "$@"\n')
    command.chmod(0o755)
    for run, code in (("bad run", 3), ("good", 0)):
        given = values | {"run": run, "baseline": "b.gz", "comment": "comment.md"}
        for name, value in given.items():
            assert step["env"][name.upper()] == f"${{{{ inputs.{name} }}}}"
            given[name] = value
        env = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            **{name.upper(): value for name, value in given.items()},
            **{k: v for k, v in job["variables"].items()},
            "DLM_RUN": run,
            "DLM_BASELINE": "b.gz",
        }
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=env, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert (tmp_path / "output").read_text().splitlines()[-1] == f"code={code}"
        assert "dlm-eval check" in (tmp_path / "comment.md").read_text()
        assert ("::error" in done.stdout) == (code == 3)
        (tmp_path / "dlm-eval-check.xml").unlink()
        done = subprocess.run(["sh", "-ec", job["script"][0]], cwd=tmp_path, env=env)
        assert done.returncode == code and (tmp_path / "dlm-eval-check.xml").exists()


def test_the_committed_rules_and_baseline_hold_the_committed_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As .ci/run does with a fresh run."""
    rules = str(DEMO / "checks.yaml")
    command = ["check", str(DEMO / "tiny"), "--baseline", str(BASELINE), "--rules", rules]
    assert main(command) == 0
    assert "check: passed (5 tasks" in capsys.readouterr().out
    assert main([*command[:1], str(DEMO / "tiny-ar"), *command[2:]]) == 3
    assert not math.isnan(read_baseline(BASELINE).run.tasks["demo_choice"].headline.value)
    assert json.loads(gzip.decompress(BASELINE.read_bytes()).splitlines()[0])["version"] == 1

"""Faults that a review of boards, pages, compare, check, baselines and recorded answers found."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from run_files import DATE, write_run

from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.metrics import d1
from dlm_eval.printable import CONTROL, markdown
from dlm_eval.reports.files.baseline import Baseline, read_baseline, save_baseline
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.result_file import rows_of
from dlm_eval.reports.files.runs import read_run
from dlm_eval.reports.files.samples_file import documents_of
from dlm_eval.reports.pages import viewer, web
from dlm_eval.reports.pages.viewer import Viewer
from dlm_eval.reports.regression.check import check
from dlm_eval.reports.regression.findings import UNPROVEN
from dlm_eval.reports.regression.rules import Rules, TaskRules
from dlm_eval.reports.regression.statistics import p_value, smallest_drop

RIGHT = [1.0, 0.0] * 10


def command(*words: object) -> tuple[int, str]:
    """Returns exit code and standard error of a command."""
    with redirect_stderr(io.StringIO()) as errors:
        code = main([str(word) for word in words])
    return code, errors.getvalue()


def all_commands(run: Path, folder: Path) -> list[tuple[int, str]]:
    """Runs every command that reads runs; `folder` has the baseline b.gz."""
    return [
        command(*words)
        for words in (
            ("leaderboard", run, "-o", folder / "t.csv"),
            ("view", run, "-o", folder / "pages"),
            ("compare", folder / "b.gz", run),
            ("check", run, "--baseline", folder / "b.gz", "--junit", folder / "j.xml"),
            ("export", "json", run, "-o", folder / "e.json"),
            ("export", "parquet", run, "-o", folder / "e"),
            ("baseline", "save", run, "-o", folder / "b2.gz"),
        )
    ]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Returns a run of 20 documents, whose baseline is b.gz beside it."""
    run = write_run(tmp_path / "old", {"t": RIGHT})
    assert command("baseline", "save", run, "-o", tmp_path / "b.gz")[0] == 0
    return run


# -- numbers ---------------------------------------------------------------------------------------


def test_a_loss_of_all_documents_is_significant_at_every_level() -> None:
    """Draws cannot show less than 1e-4; Hoeffding's bound is exp(-n/2) for n equal changes."""
    change = np.full(40, -0.5)
    assert p_value(change, False, "less") == pytest.approx(math.exp(-20))
    assert p_value(change, False) == pytest.approx(2 * math.exp(-20))
    assert p_value(-change, False, "less") == 1.0
    assert p_value(np.full(3, -0.5), False, "less") == 1 / 8


def test_a_set_too_small_for_the_test_has_no_smallest_drop() -> None:
    """A sign-flip test of six documents cannot go below 1/64; seven can give 1/128 <= 0.01."""
    change = np.array([-0.1, 0.1, 0.0, 0.2, -0.1, 0.1, 0.1])
    assert smallest_drop(change[:6], False, 0.01) == math.inf
    assert 0 < smallest_drop(change, False, 0.01) < 1


# -- check: no exit code 0 for a worse run --------------------------------------------------------


def test_a_truncated_newest_run_is_an_error_and_not_passed_over(old: Path, tmp_path: Path) -> None:
    newer = old.with_name("results_2026-11-30T00-00-00.000000.json")
    newer.write_text(old.read_text()[:100])
    code, text = command("check", old.parent, "--baseline", tmp_path / "b.gz")
    assert code == 2 and f"'{newer}' is the newest, and cannot be read" in text
    os.rename(newer, newer.with_name("results_2026-11-01T00-00-00.000000.json"))
    assert command("check", old.parent, "--baseline", tmp_path / "b.gz")[0] == 0


def edited(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(run.read_text())
    change(document)
    run.write_text(json.dumps(document))


def without_metric(document: dict[str, Any]) -> None:
    for part in (document["results"]["t"], document["higher_is_better"]["t"]):
        for name in list(part):
            part[name.replace("exact_match", "acc")] = part.pop(name)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda run, samples: samples.write_text(""), 2),
        (lambda run, samples: samples.write_text(samples.read_text()[:-1]), 0),
        (lambda run, samples: samples.write_text(samples.read_text()[:-5]), 2),  # half a line
        (lambda run, samples: samples.write_text(samples.read_text()[: 3 * 420]), 2),
        (lambda run, samples: samples.unlink(), 2),
        (lambda run, samples: samples.write_text(2 * samples.read_text()), 2),
        (lambda run, samples: samples.write_text(
            samples.read_text().replace('"exact_match": 1.0', '"exact_match": 0.0')), 1),
        (lambda run, samples: samples.write_text(
            samples.read_text().replace('"exact_match": 1.0', '"exact_match": NaN')), 1),
        (lambda run, samples: edited(run, without_metric), 1),
        (lambda run, samples: edited(
            run, lambda d: d["results"].update(u=d["results"].pop("t"))), 2),
        (lambda run, samples: edited(
            run, lambda d: d["results"]["t"].update({"exact_match,none": math.nan})), 1),
        (lambda run, samples: edited(run, lambda d: d["n-shot"].update(t=5)), 2),
    ],
)  # fmt: skip
def test_a_spoilt_run_does_not_pass(spoil: Any, code: int, old: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "new", {"t": RIGHT})
    spoil(run, run.with_name(f"samples_t_{DATE}.jsonl"))
    assert command("check", run, "--baseline", tmp_path / "b.gz")[0] == code


def test_a_headline_that_is_no_mean_is_unproven(tmp_path: Path) -> None:
    """Its score falls from 0.9 to 0.1, no run reports its error, and so there is no test of it:
    --strict fails, so does a floor.
    """

    def scored(name: str, value: float) -> Path:
        run = write_run(tmp_path / name, {"t": RIGHT})
        document = json.loads(run.read_text())
        document["results"]["t"] = {"exact_match,none": value}
        run.write_text(json.dumps(document))
        return run

    baseline = Baseline(read_run(scored("a", 0.9)))
    worse = read_run(scored("b", 0.1))
    report = check(worse, baseline)
    assert [finding.kind for finding in report.findings] == [UNPROVEN] and report.code == 0
    assert check(worse, baseline, Rules(strict=True)).code == 3
    limited = Rules(strict=True, tasks={"t": TaskRules(floor=0.5)})
    assert check(worse, baseline, limited).code == 3
    assert check(read_run(scored("c", 0.9)), baseline, limited).code == 0


def test_names_are_no_commands_of_github(old: Path, tmp_path: Path, capfd: Any) -> None:
    run = write_run(tmp_path / "new", {"t": RIGHT}, errors={1: "##[add-mask]e ::error::x"})
    capfd.readouterr()
    assert command("check", run, "--baseline", tmp_path / "b.gz", "--github")[0] == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("::stop-commands::")
    end = lines.index(f"::{lines[0].rpartition('::')[2]}::")
    unsafe = [place for place, line in enumerate(lines) if "##[add-mask]" in line]
    assert any(place < end for place in unsafe)
    assert all(lines[place].startswith("::") for place in unsafe if place > end)


# -- hostile files ---------------------------------------------------------------------------------

ODD: list[dict[str, Any] | Callable[[int], dict[str, Any]]] = [
    {"exact_match": 1e308}, {"exact_match": [1e308, 1]}, {"exact_match": [1e308, 5e-324]},
    {"exact_match": 10**400}, {"forwards": 1e308}, {"tokens": -1e308}, {"seconds": math.inf},
    {"doc_id": 10**30}, lambda n: {"forwards": (-1) ** n * 1e308},
    lambda n: {"exact_match": (-1) ** n * 1e308},
]  # fmt: skip


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_huge_numbers_of_documents_count_as_missing(odd: Any, old: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "odd", {"t": RIGHT})
    samples = run.with_name(f"samples_t_{DATE}.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    rows = [row | (odd(n) if callable(odd) else odd) for n, row in enumerate(rows)]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    codes = all_commands(run, tmp_path)
    assert {code for code, _ in codes} <= {0, 1}
    spoiled = "exact_match" in (odd(0) if callable(odd) else odd)
    assert codes[3][0] == (1 if spoiled else 0)  # check: a score that is lost breaks the run


@pytest.mark.parametrize(
    ("tokens", "forwards"),
    [(-5, 80), (1e308, 80), (-1e308, 80), (80, -5), (80, 1e308), (80, 5e-324), (-5, -5)],
)
def test_costs_that_cannot_be_are_unknown(tokens: float, forwards: float, tmp_path: Path) -> None:
    cost = {"t": {"samples": 20, "forwards": forwards, "tokens": tokens, "seconds": 1.0}}
    run = write_run(tmp_path / "r", {"t": RIGHT}, block={"cost": cost})
    assert command("view", run, "-o", tmp_path / "pages")[0] == 0
    assert rows_of(Content(json.loads(run.read_text())), "s").rows[0].tokens_per_forward is None


def test_an_impossible_text_has_no_margin_and_its_baseline_can_be_read(tmp_path: Path) -> None:
    sample = {"doc_id": 0, "resps": [[["-inf", "False"]]], "metrics": ["acc"], "acc": 0.0}
    (document,) = documents_of([sample], "loglikelihood").values()
    assert document.margin is None and document.answer == "greedy False"
    run = write_run(tmp_path / "r", {"t": [0.0, 1.0]}, extra={"resps": [[["-inf", "False"]]]})
    document = json.loads(run.read_text())
    document["configs"]["t"]["output_type"] = "loglikelihood"
    run.write_text(json.dumps(document))
    save_baseline(Baseline(read_run(run)), tmp_path / "b.gz")
    assert len(read_baseline(tmp_path / "b.gz").run.tasks["t"].documents or {}) == 2


@pytest.mark.parametrize(
    ("key", "value"), [("stderr", "x"), ("n", "20"), ("filter", {"a": 1}), ("shots", [5])]
)
def test_rows_of_a_baseline_are_typed(key: str, value: Any, old: Path, tmp_path: Path) -> None:
    head, *rest = gzip.decompress((tmp_path / "b.gz").read_bytes()).splitlines()
    document = json.loads(head)
    document["tasks"]["t"]["rows"][0][key] = value
    lines = [json.dumps(document).encode(), *rest]
    (tmp_path / "odd.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    code, text = command("compare", tmp_path / "odd.gz", old)
    assert code == 2 and f"{key} has an unexpected value" in text and text.count("\n") == 1


NESTED = "\n".join(f"b{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))
NINES = "\n".join(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
MERGED = "\n".join(f"b{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"tasks: {'9' * 5000}", "is not valid YAML"),
        ("title: 2026-13-45", "is not valid YAML: month must be in 1..12"),
        ("? [a]\n: 1", "found unhashable key"),
        ("title: !!python/object:os.system x", "could not determine a constructor"),
        (f"b: &a0 [x]\n{NESTED}", "line 101: with its aliases written out"),
        (f"b: &a0 [x,x,x]\n{NINES}\ntitle: *a29", "with its aliases written out"),
        (f"b: &a0 {{k: 1}}\n{MERGED}\ntasks: *a29", "with its aliases written out"),
        ("title: &a [*a]", "line 1: it contains itself"),
    ],
)
def test_yaml_that_explodes_is_one_line(text: str, message: str, old: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    for words in (
        ("check", old, "--baseline", tmp_path / "b.gz", "--rules", file),
        ("leaderboard", old, "--board", file),
        ("run", "--config", file),
    ):
        code, errors = command(*words)
        assert code == 2 and message in errors and errors.count("\n") == 1, (words, errors)


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"x\xff\n::error::")
    run = write_run(folder, {"t": RIGHT})
    assert command("baseline", "save", run, "-o", tmp_path / "b.gz")[0] == 0
    assert all(code == 0 for code, _ in all_commands(folder, tmp_path))
    pages = Viewer([folder])
    (page,) = pages.site().pages.values()
    assert pages.page(f"/samples/{page.id}.html")[0] == 200


LONG = "x" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "RUN", LONG),
        ("compare", "RUN", "RUN", "--noise_floor", "RUN", LONG),
        ("check", LONG, "--baseline", "BASELINE"),
        ("check", "RUN", "--baseline", "BASELINE", "--markdown", "a\0b"),
        ("check", "RUN", "--baseline", "BASELINE", "--junit", ""),
        *(("baseline", "save", "RUN", "-o", path) for path in ("", LONG, "a\0b", "/dev/zero/x")),
        *(("export", kind, "RUN", "-o", "a\0b") for kind in ("json", "parquet")),
        ("export", "json", "RUN", "-o", ""),
        ("export", "json", LONG, "-o", "e.json"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    words: tuple[str, ...], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"RUN": old, "BASELINE": tmp_path / "b.gz"}
    code, text = command(*(named.get(word, word) for word in words))
    assert code == 2 and text.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.gz", "old"]


def test_more_documents_are_shown_than_there_are(old: Path) -> None:
    assert command("compare", old, old, "--show", "9" * 40)[0] == 0


def test_exports_have_no_secrets(tmp_path: Path) -> None:
    """Files of lm-eval alone may have them: in settings by name, in texts by form."""
    token = "hf_" + "a1" * 17
    key = "-----BEGIN PRIVATE KEY-----\nabc"  # without an end: it must not reach into other texts
    run = write_run(tmp_path / "r", {"t": RIGHT}, answers=[token, key] * 10, prompt=token)
    document = json.loads(run.read_text())
    document["config"]["model_args"] = {"pretrained": "m", "api_key": "plain-words"}
    run.write_text(json.dumps(document))
    assert command("export", "json", run, "-o", tmp_path / "e.json")[0] == 0
    assert command("export", "parquet", run, "-o", tmp_path / "e")[0] == 0
    samples = pandas.read_parquet(tmp_path / "e" / "samples.parquet")
    runs = pandas.read_parquet(tmp_path / "e" / "runs.parquet")
    for text in ((tmp_path / "e.json").read_text(), samples.to_json(), runs.to_json()):
        assert token not in text and "plain-words" not in text
    assert "[redacted]" in samples["prompt"][0] and len(samples["response"][0]) == 1
    assert len(json.loads((tmp_path / "e.json").read_text())["samples"]) == 20


def test_pages_spell_out_what_the_terminal_does() -> None:
    """The script's list of hidden characters has all that `printable` escapes."""
    script = (web.TEMPLATES / "house.js").read_text()
    found = re.search(r"HIDDEN = /(\[.*\])/u;", script)
    assert found
    spelled = re.sub(r"\\u\{(\w+)\}", lambda m: f"\\U{int(m[1], 16):08x}", found[1])
    hidden = re.compile(spelled)
    for number in range(0x110000):
        assert bool(hidden.match(chr(number))) == bool(CONTROL.match(chr(number))), hex(number)


def test_an_endless_journal_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view in place of the table counts without end."""
    monkeypatch.setattr(viewer, "MOST_SECONDS", 0.05)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        database.executescript(
            f"PRAGMA application_id={viewer.APPLICATION_ID};"
            "CREATE VIEW answers AS WITH RECURSIVE n(time) AS (SELECT 1.0 UNION ALL SELECT time + 1"
            " FROM n) SELECT time FROM n"
        )
    assert Viewer([tmp_path]).state()["running"] == ""


def test_markdown_has_no_links_mentions_or_html() -> None:
    assert markdown("pass@1 a_b") == r"pass@1 a\_b"
    assert markdown("@all <b> $x$ _http://e www.e") == (
        r"@&#8203;all \<b\> \$x\$ \_h&#8203;ttp://e w&#8203;ww.e"
    )


# -- answers of d1 ---------------------------------------------------------------------------------


def test_odd_answers_of_countdown_are_wrong_and_no_error() -> None:
    document = {"numbers": [2, 5, 8], "target": 1}
    for text in ("9" * 6000, "(-8)**.5//2", "-" * 1900 + "2"):
        assert d1.countdown_results(document, [text]) == {"exact_match": 0.0}
    assert d1.value_of("(-8)**.5//2") is None


@pytest.mark.parametrize("truths", [[10**30], [1, "a"], [[[1, 2], 3], [[1, "b"], 3]], ["\ud800"]])
def test_truths_that_are_no_column_are_one_line(truths: list[Any], tmp_path: Path) -> None:
    rows = [{"question": "q", "ground_truth": truth, "resps": "a"} for truth in truths]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="ground_truth must be of one type"):
        d1.documents(benchmark="gsm8k", answers=str(tmp_path / "a.jsonl"))


def test_a_ground_truth_that_is_a_text_is_an_error_and_not_wrong() -> None:
    with pytest.raises(ValueError, match="must be a number"):
        d1.gsm8k_results({"ground_truth": "72"}, [r"\boxed{72}"])
    assert d1.gsm8k_results({"ground_truth": 72.0}, [r"\boxed{72}"]) == {"exact_match": 1.0}


def test_patterns_of_d1_find_what_they_found() -> None:
    assert d1.countdown_answer("so 8 - 5 * 2 = -2") == "8 - 5 * 2"
    assert d1.countdown_answer("(8 - 5) * 2 = 6") == "(8 - 5) * 2"
    assert d1.countdown_answer("x=3, 8 - 5=3") == "8 - 5"
    assert d1.sudoku_answer("<answer> ```\n 12 34\n```") == "1234"
    assert d1.sudoku_answer("1234123412341234 </answer>") == "1234123412341234"


def test_groups_and_tasks_of_lm_eval_have_the_digests_of_their_settings() -> None:
    """The digest of a task is the one of [settings of the run, its own, names]."""
    import hashlib

    document = {
        "results": {"t": {"acc,none": 0.5}, "g": {"acc,none": 0.5}},
        "group_subtasks": {"g": ["t", "u"]},
        "config": {"model": "hf", "limit": 3, "b": 2, "a": [1]},
        "configs": {"t": {"x": 1}}, "n-shot": {"t": 0}, "model_source": "hf",
    }  # fmt: skip
    whole = [{"model": "hf", "b": 2, "a": [1]}, [{"x": 1}, None, 0], ["hf", None, None]]
    expected = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    task, group = rows_of(Content(document), "s").rows
    assert task.configuration == expected and len(group.configuration or "") == 64


def test_a_viewer_without_paths_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Viewer([tmp_path / "none"]).site()

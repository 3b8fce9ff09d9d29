"""`dlm-eval sweep`: grid, AUP and Pareto front by hand, and a small real sweep whose tables agree with its result files."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import test_autoregressive
import test_samplers_sdlm
from harness_tasks import write_tasks
from scipy.stats import binomtest

from dlm_eval.cli import main
from dlm_eval.counts import total
from dlm_eval.errors import UserError
from dlm_eval.reports.sweep.curves import Sweep
from dlm_eval.reports.sweep.grid import grid
from dlm_eval.reports.sweep.points import Point, mean_of_templates
from dlm_eval.reports.sweep.quality_speed import aup, pareto


def point(**given: Any) -> Point:
    known = {
        "task": "t", "template": "", "decode": {"strategy": "random", "steps": "4"}, "baseline": False, "metric": "acc", "metric_filter": "none",
        "value": 0.5, "stderr": 0.1, "samples": 10, "errors": 0, "forwards": 40, "tokens": 80, "seconds": 2.0,
    }  # fmt: skip
    return Point(**{**known, **given})


def test_a_grid_is_every_combination_once() -> None:
    assert grid([["steps=8,16", "strategy=confidence,random"]]) == [
        {"steps": "8", "strategy": "confidence"}, {"steps": "8", "strategy": "random"},
        {"steps": "16", "strategy": "confidence"}, {"steps": "16", "strategy": "random"},
    ]  # fmt: skip
    assert grid([["steps=8,8"], ["steps=8"], ["threshold=0.5,0.9"]]) == [
        {"steps": "8"},
        {"threshold": "0.5"},
        {"threshold": "0.9"},
    ]
    # as --decode of run writes it
    assert grid([["steps=8,strategy=random"]]) == [{"steps": "8", "strategy": "random"}]
    assert grid([["until=[a,b=c],d"]]) == [{"until": "[a,b=c]"}, {"until": "d"}]


@pytest.mark.parametrize("words", [["8"], ["steps="], ["steps=8", "steps=9"], [""]])
def test_a_wrong_grid_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="--decode"):
        grid([words])


def test_aup_by_hand() -> None:
    # flat at the best accuracy: the plain area, rho_1 y_1 included
    assert aup([(1, 80), (4, 80)], y_max=80) == pytest.approx(80 + 3 * 80)
    weight = math.exp(-3 * (1 - 78 / 80))
    assert aup([(4, 78), (1, 80), (2, 80)], y_max=80) == pytest.approx(80 + 80 + (78 * weight + 80))
    # the first point is weighed where it ends an interval, not in rho_1 y_1
    assert aup([(2, 40), (3, 40)], y_max=80) == pytest.approx(2 * 40 + 40 * math.exp(-1.5))
    assert aup([(2, 90), (3, 90)], y_max=80) == pytest.approx(270)  # no weight above 1
    assert aup([(3, 60)], y_max=80) == 180


def test_aup_leaves_out_points_too_far_below_the_slowest() -> None:
    weight = math.exp(-3 * (1 - 75 / 80))
    assert aup([(1, 80), (2, 75)], y_max=80) == pytest.approx(80 + (75 * weight + 80) / 2)
    assert aup([(1, 80), (2, 74.9)], y_max=80) == 80
    # a gap is bridged by the points that are left
    assert aup([(1, 80), (2, 10), (3, 80)], y_max=80) == pytest.approx(80 + 160)


def test_aup_at_the_edges() -> None:
    assert aup([], 80) == 0 and aup([(1, 0), (2, 0)], 0) == 0
    assert aup([(1, 50), (1, 60)], y_max=60) == 60  # of two points at one rho the better
    with pytest.raises(UserError, match="y_max"):
        aup([(1, 50)], y_max=0)


def test_the_pareto_front_by_hand() -> None:
    points = [(1, 80), (2, 80), (2, 70), (4, 60), (3, 50), (8, 10), (8, 10)]
    assert pareto(points) == [False, True, False, True, False, True, True]
    assert pareto([]) == []


def test_curves_fronts_and_means() -> None:
    slow = point(decode={"strategy": "random", "steps": "8"}, value=0.6, forwards=80)
    fast, other = (
        point(value=0.5),
        point(decode={"strategy": "confidence", "steps": "4"}, value=0.55),
    )
    base = point(decode={}, baseline=True, value=0.6, forwards=160)
    sweep = Sweep("m", [base, fast, slow, other])
    assert sweep.front("t") == [slow, other]  # the baseline is as good as `slow`, but slower
    curves = {c.name: c for c in sweep.curves("t")}
    assert [p.value for p in curves["strategy=random"].points] == [0.6, 0.5] and curves[
        "strategy=random"
    ].y_max == 60
    assert curves["strategy=random"].aup == 60  # 50 is more than 5 points below 60
    given = Sweep("m", [fast], y_max=100.0).curves("t")[0]
    assert given.aup == pytest.approx(2 * 50) and given.y_max == 100
    worse = Sweep(
        "m",
        [
            point(metric="perplexity", value=12.0, better=False),
            point(decode={"steps": "1"}, value=10.0, better=False, forwards=10),
        ],
    )
    assert [p.value for p in worse.front("t")] == [10.0] and worse.curves("t")[0].aup is None
    mean = mean_of_templates(
        [
            point(template="a", value=0.2, stderr=0.1),
            point(template="b", value=0.6, stderr=0.3, forwards=20),
        ]
    )
    assert (mean.value, mean.low, mean.high, mean.templates) == (pytest.approx(0.4), 0.2, 0.6, 2)
    assert (
        mean.stderr == pytest.approx(0.2)
        and mean.tokens_per_forward == pytest.approx(160 / 60)
        and mean.template == ""
    )
    assert mean_of_templates([point(value=None), point()]).value is None


def test_cells_are_safe() -> None:
    text = Sweep("=cmd()", [point(task="=1+1", decode={"steps": "-1"})]).csv()
    (row,) = csv.DictReader(text.splitlines())
    assert row["model"] == "'=cmd()" and row["task"] == "'=1+1" and row["decode.steps"] == "'-1"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    text = (folder / "t_write.yaml").read_text() + "process_results: !function scorer.score\n"
    (folder / "t_write.yaml").write_text(text)
    # The toy's texts are never the word that is asked for; what is scored here differs from document to document.
    (folder / "scorer.py").write_text(
        "def score(doc, results):\n    return {'exact_match': float(len(results[0]) >= 2)}\n"
    )
    (folder / "t_again.yaml").write_text(
        text.replace("task: t_write", "task: t_again").replace('"{{text}}"', '"{{text}} ab"', 1)
    )
    return folder


def test_a_sum_with_an_unknown_number_is_unknown() -> None:
    assert total([1, 2]) == 3 and total([0, 0.5]) == 0.5
    assert total([1, None]) is None and total([]) is None


def sweep(tasks: Path, out: Path, *words: str) -> int:
    base = [
        "sweep",
        "--model",
        "toy",
        "--model_args",
        "vocab=6,inconsistency=0.5",
        "--include_path",
        str(tasks),
        "-o",
        str(out),
        "--verbosity",
        "ERROR",
    ]
    return main([*base, *words])


def values(results: Path) -> list[float]:
    """The values of the documents, in their order, from the samples file of a result file."""
    name = results.name.replace("results_", "samples_t_write_").replace(".json", ".jsonl")
    lines = (results.parent / name).read_text(encoding="utf-8").splitlines()
    samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    return [float(sample["exact_match"]) for sample in samples]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.full  # half a minute or more
def test_a_sweep_agrees_with_its_result_files(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlm_eval.models as models

    loads, original = [], models.load_model
    monkeypatch.setattr(
        models,
        "load_model",
        lambda *args, **options: loads.append(args) or original(*args, **options),
    )
    words = [
        "--tasks",
        "t_write",
        "--decode",
        "steps=2,8",
        "strategy=confidence,random",
        "--decode",
        "strategy=threshold",
        "threshold=0.4",
    ]
    assert sweep(tasks, tmp_path, *words) == 0
    assert len(loads) == 1
    rows = read(tmp_path / "sweep.csv")
    assert [(r["role"], r["decode.strategy"], r["decode.steps"]) for r in rows] == [
        ("baseline", "", ""), ("point", "confidence", "2"), ("point", "random", "2"), ("point", "confidence", "8"), ("point", "random", "8"),
        ("point", "threshold", ""),
    ]  # fmt: skip
    assert len({row["value"] for row in rows}) > 1
    device_rows, scored = [], []
    for row in rows:
        saved = json.loads((tmp_path / "toy" / row["results"]).read_text())
        cost = saved["dlm_eval"]["cost"]["t_write"]
        device_rows.append(saved["dlm_eval"]["cost"]["total"]["device_rows"])
        assert (
            float(row["value"]) == saved["results"]["t_write"]["exact_match,none"]
            and row["metric"] == "exact_match"
        )
        assert float(row["stderr"]) == saved["results"]["t_write"]["exact_match_stderr,none"]
        assert (
            float(row["forwards_per_sample"]) == cost["forwards"] / 5 and int(row["samples"]) == 5
        )
        assert float(row["tokens_per_forward"]) == cost["tokens"] / cost["forwards"]
        assert float(row["tokens_per_second"]) == pytest.approx(cost["tokens"] / cost["seconds"])
        strategy = saved["dlm_eval"]["settings"]["decode"]["strategy"]
        assert strategy == (row["decode.strategy"] or "confidence")
        assert float(row["computed_per_sample"]) == cost["computed_tokens"] / 5
        assert float(row["tokens_per_computed"]) == cost["tokens"] / cost["computed_tokens"]
        scored.append(values(tmp_path / "toy" / row["results"]))
    for row, own in zip(rows[1:], scored[1:], strict=True):  # against the baseline, by document
        changes = [one - other for one, other in zip(own, scored[0], strict=True)]
        assert float(row["minus_baseline"]) == pytest.approx(sum(changes) / 5)
        assert float(row["minus_baseline_low"]) <= sum(changes) / 5
        assert float(row["minus_baseline_high"]) >= sum(changes) / 5
        moved, gained = sum(map(abs, changes)), changes.count(1)
        assert float(row["p"]) == pytest.approx(
            binomtest(gained, int(moved)).pvalue if moved else 1
        )
    assert rows[0]["minus_baseline"] == rows[0]["p"] == ""
    baseline, slow = rows[0], rows[3]
    assert (
        baseline["value"] == slow["value"]
        and baseline["forwards_per_sample"] == slow["forwards_per_sample"]
    )
    # Each run counts its own rows, not those before it; as many steps as tokens is the baseline's own work, known from the journal.
    assert device_rows.pop(3) == 0 and all(0 < count <= 8 * 5 for count in device_rows)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    curves = {row["curve"]: row for row in read(tmp_path / "aup.csv")}
    assert set(curves) == {"strategy=confidence", "strategy=random", "strategy=threshold"}
    assert all(row["y_max_source"] == "best of this sweep" for row in curves.values())
    out = capsys.readouterr().out
    assert "one token per step" in out and "Pareto" in out and "sweep.png" in out
    assert sweep(tasks, tmp_path, *words) == 0  # the journal answers everything
    for row, before in zip(read(tmp_path / "sweep.csv"), rows, strict=True):
        assert (
            json.loads((tmp_path / "toy" / row["results"]).read_text())["dlm_eval"]["cost"][
                "total"
            ]["device_rows"]
            == 0
        )
        assert {**row, "results": ""} == {**before, "results": ""}


@pytest.mark.parametrize(
    "how",
    [
        ["--tasks", "t_write,t_again", "--sweep", "templates"],
        ["--tasks", "t_write", "--templates", "YAML"],
    ],
)
def test_templates_are_averaged(
    how: list[str], tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tasks / "t_again.yaml") if word == "YAML" else word for word in how]
    assert sweep(tasks, tmp_path, *words, "--decode", "steps=2", "--y_max", "90") == 0
    rows = read(tmp_path / "sweep.csv")
    means, worded = rows[:2], rows[2:]
    assert [(r["role"], r["templates"], r["template"]) for r in means] == [
        ("baseline", "2", ""),
        ("point", "2", ""),
    ]
    assert {r["template"] for r in worded} == {"t_write", "t_again"} and len(worded) == 4
    for mean in means:
        own = [float(r["value"]) for r in worded if r["role"] == mean["role"]]
        assert float(mean["value"]) == pytest.approx(sum(own) / 2)
        assert (float(mean["low"]), float(mean["high"])) == (min(own), max(own))
        assert int(mean["samples"]) == 10 and mean["pareto"] in ("true", "false")
    assert all(r["pareto"] == "" for r in worded)
    (curve,) = read(tmp_path / "aup.csv")
    assert (
        curve["y_max"] == "90.0" and curve["y_max_source"] == "given" and float(curve["aup"]) >= 0
    )
    assert "worst to best wording" in capsys.readouterr().out


def test_what_the_model_cannot_do_is_left_out_with_a_line_each(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--decode", "cache=none,dual", "--decode", "strategy=block_n"]
    assert sweep(tasks, tmp_path, "--tasks", "t_write", *grid) == 0
    told = capsys.readouterr()
    for shown in (told.out, told.err):
        lines = [line for line in shown.splitlines() if line.startswith("left out: ")]
        assert "cache 'dual' is not possible: toy" in lines[0]
        assert lines[0].endswith("(task t_write, cache=dual)")
        assert "'block_n' is not for toy" in lines[1] and len(lines) == 2
    assert "[2/2] cache=none" in told.err
    assert [row["decode.cache"] for row in read(tmp_path / "sweep.csv")] == ["", "none"]


def test_samples_that_failed_are_told_with_a_reason(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--decode", "strategy=daedal", "max_gen_length=3", "--decode_fixed", "gen_length=5"]
    assert sweep(tasks, tmp_path, "--tasks", "t_write", "--limit", "2", *grid) == 1
    told = capsys.readouterr().out.splitlines()
    (place,) = (i for i, line in enumerate(told) if "could not be answered or scored" in line)
    assert told[place].startswith("strategy=daedal, max_gen_length=3: 2 samples")
    assert told[place + 1].split()[0] == "2" and "max_gen_length" in told[place + 1]


def test_a_grid_that_the_model_cannot_use_at_all_is_refused(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tasks, tmp_path, "--tasks", "t_write", "--decode", "cache=prefix,dual") == 2
    told = capsys.readouterr().err
    assert "cache 'prefix' is not possible: toy" in told and "(task t_write, cache=prefix)" in told
    assert "nor 1 other" in told and "[1/" not in told and not (tmp_path / "sweep.csv").exists()


@pytest.mark.parametrize(
    ("settings", "speed"),
    [
        ({"strategy": "predict_and_noise", "confidence_threshold": "0.5"}, "confidence_threshold"),
        ({"strategy": "predict_and_noise", "num_steps": "2"}, "num_steps"),
        ({"strategy": "block_n", "gen_block_size": "4"}, "gen_block_size"),
        ({"strategy": "linear_spec", "draft_length": "4"}, "draft_length"),
        ({"strategy": "esolm", "diffusion_steps": "4"}, "diffusion_steps"),
        ({"strategy": "self_speculative", "n_future_tokens": "4"}, "n_future_tokens"),
        ({"cache": "d2", "current_k": "4"}, "current_k"),
        ({"steps": "4"}, "steps"),
    ],
)
def test_an_option_that_trades_quality_for_speed_is_no_part_of_a_curves_name(
    settings: dict[str, str], speed: str
) -> None:
    rest = ", ".join(f"{key}={value}" for key, value in settings.items() if key != speed)
    assert point(decode=settings).curve == rest


@pytest.mark.parametrize(
    ("family", "decode", "baseline"),
    [
        ("sdlm", "strategy=self_speculative", "longest_prefix"),
        ("idlm", "strategy=block_n", "left_to_right"),
    ],
)
def test_the_baseline_of_a_model_that_reads_from_left_to_right(
    tasks: Path, tmp_path: Path, family: str, decode: str, baseline: str
) -> None:
    """The one-token decoder, whose tokens its self-speculation writes in fewer steps."""
    write = {"sdlm": test_samplers_sdlm.checkpoint, "idlm": test_autoregressive.idlm_checkpoint}
    words = ["sweep", "--model", family, "--include_path", str(tasks), "--tasks", "t_write"]
    words += ["--model_args", f"pretrained={write[family](tmp_path / 'model')},dtype=float32"]
    words += ["--decode", decode, "--decode_fixed", "gen_length=5,early_exit=false"]
    assert main([*words, "-o", str(tmp_path / "out"), "--verbosity", "ERROR"]) == 0
    first, point = read(tmp_path / "out" / "sweep.csv")
    told = json.loads(next((tmp_path / "out").rglob(first["results"])).read_text())["dlm_eval"]
    assert (first["role"], told["tasks"]["t_write"]["strategy"]) == ("baseline", baseline)
    assert float(first["forwards_per_sample"]) == 5
    assert first["value"] == point["value"] and float(point["minus_baseline"]) == 0


def test_tasks_that_write_nothing_are_left_out(tasks: Path, tmp_path: Path) -> None:
    assert (
        sweep(
            tasks,
            tmp_path,
            "--tasks",
            "t_all",
            "--decode",
            "steps=1",
            "--limit",
            "2",
            "--no_baseline",
        )
        == 0
    )
    rows = read(tmp_path / "sweep.csv")
    assert [r["task"] for r in rows] == ["t_infill", "t_write"] or [r["task"] for r in rows] == [
        "t_write",
        "t_infill",
    ]
    assert {r["role"] for r in rows} == {"point"}


WRONG = {
    "stepps.*steps": ["--tasks", "t_write", "--decode", "stepps=2"],
    "steps '9'.*8.*t_write, steps=9": ["--tasks", "t_write", "--decode", "steps=2,9"],
    "threshold.*not used by strategy 'random'": [
        "--tasks",
        "t_write",
        "--decode",
        "strategy=random",
        "threshold=0.5",
    ],
    "steps is in the grid": [
        "--tasks",
        "t_write",
        "--decode",
        "steps=2",
        "--decode_fixed",
        "steps=4",
    ],
    "generate no text": ["--tasks", "t_choice", "--decode", "steps=2"],
    "--metric.*exact_match": [
        "--tasks",
        "t_write",
        "--decode",
        "steps=2",
        "--metric",
        "exact_mach",
    ],
    "--y_max '0'": ["--tasks", "t_write", "--decode", "steps=2", "--y_max", "0"],
    "--y_max '50'.*one by one": [
        "--tasks",
        "t_write,t_infill",
        "--decode",
        "steps=2",
        "--y_max",
        "50",
    ],
    "two wordings": ["--tasks", "t_write", "--decode", "steps=2", "--sweep", "templates"],
    "--tasks is empty": ["--decode", "steps=2"],
    "n_samples.*'0'": [
        "--tasks",
        "unconditional",
        "--decode",
        "steps=2",
        "--metadata",
        "judge=asset:tiny-ar,n_samples=0",
    ],
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_mistake_is_one_line_before_a_model_is_loaded(
    expected: str,
    tasks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dlm_eval.models as models

    loads: list[Any] = []
    monkeypatch.setattr(models, "load_model", lambda *args, **options: loads.append(args))
    assert sweep(tasks, tmp_path, *WRONG[expected]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and re.search(expected, error[0]), error
    assert not loads and not list(tmp_path.iterdir())

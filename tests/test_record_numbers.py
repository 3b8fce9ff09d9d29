"""scripts/record_numbers.py: what is recorded comes back bit for bit, and every difference is told."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

OLD = {
    "a/score/k": [{"score": {"logprob": -1.5, "estimator": "k", "words": {"line": "one"}}}],
    "a/fill/x": {"tokens": [1, 2], "nothing": []},
}


@pytest.fixture(scope="module")
def script() -> Any:
    folder = str(Path(__file__).resolve().parents[1] / "scripts")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("record_numbers")
    finally:
        sys.path.remove(folder)


def compared(script: ModuleType, tmp_path: Path, new: Any, table: str = "{}", *more: str) -> int:
    for name, text in (
        ("old.json", json.dumps(OLD)),
        ("new.json", json.dumps(new)),
        ("table.yaml", table),
    ):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in ("old.json", "new.json")]
    return int(script.main(["compare", *files, "--renamed", str(tmp_path / "table.yaml"), *more]))


def changed(old: str, new: str) -> Any:
    text = json.dumps(OLD)
    assert old in text
    return json.loads(text.replace(old, new))


def test_what_is_equal_is_equal(script: ModuleType, tmp_path: Path, capsys: Any) -> None:
    assert compared(script, tmp_path, OLD) == 0
    assert "2 and 2 cases: 0 values differ, 0 words differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("-1.5", "-1.5000000000000002", "a/score/k: 0 > score > logprob: -1.5 -> -1.5000000000000002"),
        ("[1, 2]", "[1, 2, 3]", "a/fill/x: tokens > 2: nothing -> 3"),
        ("[1, 2]", "[1, 2.0]", "a/fill/x: tokens > 1: 2 -> 2.0"),
        ("[]", "[[]]", "a/fill/x: nothing: [] -> nothing"),
        ("a/fill/x", "b/fill/x", "a/fill/x: missing"),
        ("a/fill/x", "b/fill/x", "b/fill/x: new"),
        ("logprob", "logp", "a/score/k: 0 > score > logp: nothing -> -1.5"),
    ],
)  # fmt: skip
def test_a_difference_is_told(
    script: ModuleType, tmp_path: Path, capsys: Any, old: str, new: str, line: str
) -> None:
    assert compared(script, tmp_path, changed(old, new)) == 1
    assert line in capsys.readouterr().out.splitlines()


def test_words_are_counted_apart(script: ModuleType, tmp_path: Path, capsys: Any) -> None:
    new = changed('"one"', '"two"')
    assert compared(script, tmp_path, new) == 0
    assert "0 values differ, 1 words differ" in capsys.readouterr().out
    assert compared(script, tmp_path, new, "{}", "--strict") == 1


def test_changed_names_are_translated(script: ModuleType, tmp_path: Path, capsys: Any) -> None:
    new = changed('"estimator": "k"', '"by": "mask_count", "fresh": 1')
    assert compared(script, tmp_path, new) == 1
    table = "{estimators: {k: mask_count}, keys: {estimator: by, nothing: null}, added: [fresh]}"
    del new["a/fill/x"]["nothing"]
    assert compared(script, tmp_path, new, table) == 0, capsys.readouterr().out


def test_settings_are_spelled_as_the_code_has_them(script: ModuleType) -> None:
    renamed = script.Renamed(
        decode={"quota_is=most": {"max_per_step": "quota"}, "nucleus": "top_p_rule", "gone": None},
        strategies={"margin": "lead"}, estimators={"k": "mask_count"}, estimator_options={"samples": "max_forwards"},
    )  # fmt: skip
    asked = {"strategy": "margin", "quota_is": "most", "nucleus": "reach", "gone": 1, "samples": 3}
    assert renamed.decoding(asked) == {
        "strategy": "lead",
        "max_per_step": "quota",
        "top_p_rule": "reach",
        "samples": 3,
    }
    assert renamed.estimating("k", {"samples": 4}) == ("mask_count", {"max_forwards": 4})


def test_a_record_repeats_itself_and_sees_the_model(script: ModuleType, tmp_path: Path) -> None:
    there = {
        "strategies": ("confidence", "random"),
        "estimators": ("exact", "mask_count"),
        "presets": ("llada",),
    }
    work = script.Work(
        "toy",
        0,
        tmp_path,
        ("toy/score/*", "toy/fill/random*", "toy/fill/default cache=prefix*"),
        script.Renamed(estimator_options={"samples": "max_forwards"}),
        there,
    )
    found = script.answer(work)
    assert script.compare(found, json.loads(json.dumps(script.answer(work))), script.Renamed()) == (
        [],
        [],
    )
    one = found["toy/score/mask_count"]["continuation"]["score"]
    assert (
        1 < one["rows"] <= 8
        and one["kind"] == "lower bound"
        and one["stderr"] > 0
        and "seconds" not in one
    )
    assert len(found["toy/fill/random"][0]["filling"]["tokens"]) == 8
    assert found["toy/fill/default cache=prefix,block_length=4"]["refused"]
    rough = script.answer(
        script.Work("toy_rough", 0, tmp_path, ("toy_rough/score/mask_count",), work.renamed, there)
    )
    old, new = (
        {"case": found["toy/score/mask_count"]},
        {"case": rough["toy_rough/score/mask_count"]},
    )
    assert any("logprob" in line for line in script.compare(old, new, script.Renamed())[0])

"""Files that are edited, or appear, between two calls in one process."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dlm_eval.decoding.token_prior import read_prior
from dlm_eval.file_state import once_per_state
from dlm_eval.harness import code_scan

PRIOR = {"num_token": 10, "p_baseline_dict": {"0": 4, "1": 6}}


def test_a_file_is_read_once_until_it_or_its_folder_changes(tmp_path: Path) -> None:
    read: list[str] = []

    @once_per_state
    def first_letter(file: str) -> str:
        read.append(file)
        return Path(file).read_text()[:1] if os.path.exists(file) else ""

    file = tmp_path / "file"
    assert [first_letter(str(file)) for _ in range(2)] == ["", ""]
    file.write_text("abc")
    assert [first_letter(str(file)) for _ in range(2)] == ["a", "a"]
    file.write_text("xbc")
    os.utime(file, (0, 0))
    assert first_letter(str(file)) == "x" and len(read) == 3
    (tmp_path / "beside").touch()
    os.utime(tmp_path, (0, 0))  # clocks of files are coarse
    assert first_letter(str(file)) == "x" and len(read) == 4


def test_task_code_that_is_edited_is_scanned_again(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("import helper\ndef score(doc, results):\n    return helper.value(results)\n")
    assert not code_scan.reach([(str(code), "score")])
    helper = tmp_path / "helper.py"
    helper.write_text("def value(results):\n    return eval(results[0])\n")
    os.utime(tmp_path, (0, 0))  # clocks of files are coarse
    assert {hit.name for hit in code_scan.reach([(str(code), "score")])} == {"eval"}
    helper.write_text("def value(results):\n    return len(results)\n")
    assert not code_scan.reach([(str(code), "score")])
    code.write_text("def score(doc, results):\n    exec(results[0])\n")
    assert {hit.name for hit in code_scan.reach([(str(code), "score")])} == {"exec"}


def test_a_prior_that_is_edited_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "prior.json"
    file.write_text(json.dumps(PRIOR))
    before = read_prior(str(file))
    assert read_prior(str(file)) is before
    file.write_text(json.dumps({**PRIOR, "num_token": 20}))
    assert read_prior(str(file)).total == 20 and read_prior(str(file)).sha256 != before.sha256

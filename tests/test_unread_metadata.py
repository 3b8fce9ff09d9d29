"""Keys of --metadata that no task reads are named, with the nearest one, and keys that are read are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness_tasks import write_tasks

from dlm_eval import evaluate
from dlm_eval.cli import main
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.harness.unread_metadata import notes, unread

YAML = """task: counted
custom_dataset: !function documents.make
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_choice: [a, b]
doc_to_target: 0
metadata: {version: 1.0, colour: red}
"""
CODE = """import datasets
from sizes_of_documents import size

def make(*, shade="light", **options):
    rows = [{"question": f"{shade} {number}"} for number in range(size(options))]
    return {"test": datasets.Dataset.from_list(rows)}
"""
SIZES = "def size(options):\n    return options.get('how_many', 2)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"counted.yaml": YAML, "documents.py": CODE, "sizes_of_documents.py": SIZES}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_what_code_reads_is_known_and_what_it_does_not_has_the_nearest(folder: Path) -> None:
    tasks = load_tasks(["counted"], include_path=folder)["tasks"]
    given = ("shade", "how_many", "shad", "version", "note_to_self")
    assert unread(tasks, given) == {"shad": None, "note_to_self": None, "version": None}
    assert unread(tasks, ["shad"]) == {"shad": "shade"}
    assert notes({"shad": "shade", "x": None}) == [
        "--metadata shad is read by no task of this run; did you mean 'shade'?",
        "--metadata x is read by no task of this run",
    ]


def test_packaged_tasks_read_what_the_docs_say() -> None:
    own = {"judge": "asset:tiny-ar", "n_samples": 4}
    drawn = load_tasks(["unconditional"], metadata=own)["tasks"]
    assert unread(drawn, [*own, "judge_device"]) == {}
    assert unread(drawn, ["judg", "n_sample"]) == {"judg": "judge", "n_sample": "n_samples"}
    choice = load_tasks(["demo_choice"])["tasks"]
    assert unread(choice, own) == {"judge": None, "n_samples": None}
    assert unread({**choice, **drawn}, own) == {}  # one task of the run is enough


def test_a_run_and_validate_say_it(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    results = evaluate(
        "tiny", ["counted"], include_path=str(folder), metadata={"shad": 1, "how_many": 3}
    )
    assert results["dlm_eval"]["unread_metadata"] == {"shad": "shade"}
    assert results["n-samples"]["counted"]["original"] == 3
    said = "--metadata shad is read by no task of this run; did you mean 'shade'?"
    assert [r.getMessage() for r in caplog.records if "shad" in r.getMessage()] == [said]
    code = main(["validate", "counted", "--include_path", str(folder), "--metadata", "shad=1"])
    assert code == 0 and said in capsys.readouterr().out


def test_a_run_without_such_keys_says_nothing(folder: Path) -> None:
    write_tasks(folder)
    results = evaluate("toy", ["t_write"], include_path=str(folder), model_args={"vocab": 5})
    assert "unread_metadata" not in results["dlm_eval"]

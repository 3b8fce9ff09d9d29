"""Shards on several machines: each answers its own documents, and their merge is the result of one run, byte for byte but for seconds and devices."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval.cli import main
from dlm_eval.errors import RunError, UserError
from dlm_eval.harness import shards
from dlm_eval.harness.run import evaluate
from dlm_eval.harness.shard import Shard, shard_of

# The toy, except that a text that begins with "fab" has no numbers, and short.
MODEL = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from dlm_eval.models.families.toy import Toy, ToySettings


@dataclass(frozen=True)
class Settings:
    bias: int = 0


class Fragile(Toy):
    padding = False

    def logits(self, tokens, valid=None, positions=None):
        logits = super().logits(tokens, valid)
        logits[(tokens[:, :3] == tokens.new_tensor([5, 0, 1])).all(1)] = float("nan")
        if positions is None:
            return logits
        return logits[positions] if positions.dtype == torch.bool else logits[:, positions]

    def describe(self):
        return {"family": "fragile", **vars(self.settings)}


def load(settings: Settings) -> Fragile:
    return Fragile(ToySettings(max_length=40, seed=settings.bias))
"""
LONG = {
    "text": "abc" * 9 + " " + "d" * 20,
    "choices": [" ab", " cc", " d"],
    "answer": 1,
    "word": "cab" * 20,
}
TASKS = ("t_choice", "t_last", "t_write", "t_roll", "t_infill")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks of every kind, on 12 documents of which some fail, and the model."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "model.py").write_text(MODEL)
    (folder / "tasks").mkdir()
    more: list[dict[str, Any]] = [{**doc, "text": f"{doc['text']}e"} for doc in DOCUMENTS]
    write_tasks(folder / "tasks", [*DOCUMENTS, LONG, *more, DOCUMENTS[0]])
    return folder


def command(
    place: Path, home: Path, *options: str, tasks: str = "t_all", model: str = "model.py"
) -> list[str]:
    words = [
        "run",
        "--model",
        str(place / model),
        "--tasks",
        tasks,
        "--include_path",
        str(place / "tasks"),
    ]
    return [*words, "--overlong", "error", "--output_path", str(home), *options]


def run_shards(
    place: Path, home: Path, count: int, *options: str, tasks: str = "t_all"
) -> list[int]:
    return [
        main(command(place, home, *options, "--shard", f"{number}/{count}", tasks=tasks))
        for number in range(1, count + 1)
    ]


def files(home: Path) -> dict[str, bytes]:
    """Returns the bytes of the last results and samples, without seconds, dates and facts about devices."""
    results = json.loads(sorted(home.rglob("results_*.json"))[-1].read_text())
    for name in ("date", "start_time", "end_time", "total_evaluation_time_seconds"):
        results.pop(name, None)
    for name in ("device", "devices", "peak_device_bytes", "machine"):
        results["dlm_eval"]["environment"].pop(name)
    results["dlm_eval"]["cost"].pop("total")
    for cost in results["dlm_eval"]["cost"].values():
        cost.pop("seconds", None)
    found = {"results": json.dumps(results).encode()}
    for file in sorted(home.rglob("samples_*.jsonl")):
        found[re.sub(r"_20\d\d-.*", "", file.name)] = re.sub(
            rb'"seconds": [-0-9.e]+', b"", file.read_bytes()
        )
    return found


def keys(journal: Path) -> set[str]:
    with closing(sqlite3.connect(journal)) as database:
        return {key for (key,) in database.execute("SELECT key FROM answers")}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the error, which is the last line and the only one; a progress bar may come before it."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if "error" in line] == lines[-1:] and "Traceback" not in "".join(
        lines
    ), lines
    return lines[-1]


# -- which documents -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_04_every_document_is_in_one_shard_and_shards_are_equal(count: int) -> None:
    for task in TASKS:
        owners = [
            [n for n in range(1, count + 1) if Shard(n, count).has(task, doc)] for doc in range(100)
        ]
        assert all(len(found) == 1 for found in owners)
        sizes = Counter(found[0] for found in owners)
        assert len(sizes) == count and max(sizes.values()) - min(sizes.values()) <= 1
    # first documents are not all in one shard
    assert len({shard_of(task, 0, 8) for task in TASKS}) > 1


@pytest.mark.parametrize("text", ["3/2", "0/2", "1/0", "1", "a/b", "1/2/3", "1/1000000000"])
def test_04_a_shard_is_one_of_n(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "toy", "--tasks", "demo", "--shard", text]) == 2
    assert f"--shard '{text}' is not allowed; it must be I/N" in said(capsys)


def test_04_limit_and_samples_and_order_change_no_shard(place: Path, tmp_path: Path) -> None:
    alone = ("--no_log_samples",)
    main(command(place, tmp_path / "a", "--shard", "2/3", *alone))
    main(
        command(
            place,
            tmp_path / "b",
            "--shard",
            "2/3",
            "--limit",
            "7",
            *alone,
            tasks="t_write,t_last,t_choice",
        )
    )
    chosen = json.dumps({"t_write": [10, 1, 4], "t_last": [2, 3, 9]})
    main(
        command(
            place,
            tmp_path / "c",
            "--shard",
            "2/3",
            "--samples",
            chosen,
            *alone,
            tasks="t_last,t_write",
        )
    )
    whole, limited, sampled = (
        keys(tmp_path / name / "shard-2-of-3" / "journal.sqlite") for name in "abc"
    )
    assert limited and limited < whole and sampled and sampled < whole


# -- one result ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    assert main(command(place, home)) == 1  # some samples fail
    return home


@pytest.fixture(scope="module")
def halves(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both shards of the run of `whole`, not merged. For reading: tests write into a copy."""
    home = tmp_path_factory.mktemp("halves")
    assert 1 in run_shards(place, home, 2)
    return home


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.full)])
def test_04_the_merge_is_one_runs_result_with_its_errors_and_journal(
    place: Path, whole: Path, halves: Path, tmp_path: Path, count: int
) -> None:
    if count == 2:
        shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    else:
        assert 1 in run_shards(place, tmp_path, count)
    assert not list(tmp_path.rglob("results_*")) and not list(tmp_path.rglob("samples_*"))
    assert main(["merge", str(tmp_path)]) == 1
    merged = files(tmp_path)
    assert merged == files(whole) and len(merged) == 1 + len(TASKS)
    lines = [
        json.loads(line) for line in merged["samples_t_last"].replace(b", ,", b",").splitlines()
    ]
    reasons = [line.get("error", "") for line in lines]
    # found while requests are built
    assert any("tokens do not fit" in reason for reason in reasons)
    # in the model
    assert any("nan" in reason.lower() or "not finite" in reason for reason in reasons), reasons
    assert keys(tmp_path / "journal.sqlite") == keys(whole / "journal.sqlite")


@pytest.mark.parametrize(
    "options",
    [
        ("--decode", "temperature=1", "--seed", "3", "--num_fewshot", "1", "--limit", "9"),
        ("--estimator", "cubature,max_forwards=16,stop_at_error_rate=0.05", "--limit", "4"),
        ("--samples", json.dumps({"t_choice": [1, 7, 9], "t_write": [10, 0, 3, 11]})),
        ("--predict_only", "--limit", "3"),
        ("--limit", "1"),  # a shard without documents of a task
    ],
    ids=lambda options: options[0],
)
def test_04_the_merge_is_one_runs_result_under_other_settings(
    place: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    tasks = "t_choice,t_write" if options[0] == "--samples" else "t_choice,t_write,t_last"
    code = main(command(place, tmp_path / "one", *options, tasks=tasks))
    run_shards(place, tmp_path / "all", 2, *options, tasks=tasks)
    assert main(["merge", str(tmp_path / "all")]) == code
    assert files(tmp_path / "all") == files(tmp_path / "one")


def test_04_costs_are_those_of_all_shards_and_devices_name_theirs(
    halves: Path, tmp_path: Path
) -> None:
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    parts = [json.loads((tmp_path / f"shard-{n}-of-2" / "shard.json").read_text()) for n in (1, 2)]
    main(["merge", str(tmp_path)])
    block = json.loads(sorted(tmp_path.rglob("results_*.json"))[-1].read_text())["dlm_eval"]
    assert (
        block["cost"]["total"]["device_rows"] == sum(part["device"]["rows"] for part in parts) > 0
    )
    assert block["cost"]["total"]["wall_seconds"] >= sum(part["wall_seconds"] for part in parts)
    assert [facts["shard"] for facts in block["environment"]["devices"]] == ["1/2", "2/2"]


def test_04_the_merged_folder_goes_on_as_that_of_one_run(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_shards(place, tmp_path, 2, tasks="t_write,t_roll")
    main(["merge", str(tmp_path)])
    before = files(tmp_path)
    block = json.loads(sorted(tmp_path.rglob("results_*.json"))[-1].read_text())["dlm_eval"]
    rows = block["cost"]["total"]["device_rows"]
    caplog.clear()
    main(command(place, tmp_path, "--limit", "2", "--score_only", tasks="t_write"))
    assert "not in the journal" not in caplog.text
    answers = keys(tmp_path / "journal.sqlite")
    main(command(place, tmp_path, tasks="t_write,t_roll"))
    assert files(tmp_path) == before and keys(tmp_path / "journal.sqlite") == answers
    total = json.loads(sorted(tmp_path.rglob("results_*.json"))[-1].read_text())["dlm_eval"][
        "cost"
    ]["total"]
    assert total["device_rows"] < rows / 2  # errors alone are tried again


def test_04_a_shard_that_ended_early_goes_on_and_is_not_merged_before(
    place: Path,
    whole: Path,
    halves: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    merged = shards._described

    def lost(*_: Any) -> dict[str, Any]:
        raise RunError("the disk is full")

    monkeypatch.setattr(shards, "_described", lost)
    again = command(place, tmp_path, "--shard", "2/2")
    assert main(again) == 1
    capsys.readouterr()
    assert main(["merge", str(tmp_path)]) == 2
    assert re.search(r"shard 2/2 \(.*shard-2-of-2\) is not finished; run it again", said(capsys))
    monkeypatch.setattr(shards, "_described", merged)
    before = keys(tmp_path / "shard-2-of-2" / "journal.sqlite")
    main(again)
    assert keys(tmp_path / "shard-2-of-2" / "journal.sqlite") == before
    main(["merge", str(tmp_path)])
    assert files(tmp_path) == files(whole)


@pytest.mark.full  # two processes, a shard and a merge: each has tests of its own
def test_04_workers_in_a_shard_change_nothing(place: Path, whole: Path, tmp_path: Path) -> None:
    main(command(place, tmp_path, "--shard", "1/2", "--devices", "cpu:2"))
    main(command(place, tmp_path, "--shard", "2/2"))
    main(["merge", str(tmp_path)])
    assert files(tmp_path) == files(whole)


def test_04_secrets_are_not_stored_and_the_merge_says_so(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_shards(
        place,
        tmp_path,
        2,
        "--metadata",
        "api_key=sk-abcdefghijklmnop0123",
        "--limit",
        "2",
        tasks="t_write",
    )
    assert not any(
        b"sk-abcdef" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )
    assert main(["merge", str(tmp_path)]) == 0
    assert "--metadata api_key of the shards is a secret, which is not stored" in caplog.text


# -- what is refused -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards that can be merged."""
    home = tmp_path_factory.mktemp("pair")
    run_shards(place, home, 2, tasks="t_write")
    return home


@pytest.fixture
def own(pair: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(pair, tmp_path / "own"))


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main(["merge", *map(str, words)]) == 2
    return said(capsys)


def test_04_a_missing_shard_is_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "shard 2/2 missing (found: 1/2)" in refused(capsys, own / "shard-1-of-2")
    shutil.rmtree(own / "shard-1-of-2")
    assert "shard 1/2 missing (found: 2/2)" in refused(capsys, own)
    shutil.rmtree(own / "shard-2-of-2")
    assert "has no shard (shard.json)" in refused(capsys, own)
    assert "has no shard (shard.json)" in refused(capsys, own / "nothing")
    assert "has no shard (shard.json)" in refused(capsys, Path("x" * 5000))


def test_04_a_doubled_shard_is_named_and_one_file_twice_is_one(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(own / "shard-1-of-2", tmp_path / "copy")
    text = refused(capsys, own, tmp_path / "copy")
    assert "shard 1/2 is there twice" in text and "copy" in text
    assert (
        len(
            shards.find_shards(
                [str(own), str(own / "shard-1-of-2"), str(own / "shard-2-of-2" / "shard.json")]
            )
        )
        == 2
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--limit", "3"), "limit is None, there 3.0"),
        (("--seed", "5"), r"seed is \[0, 1234, 1234, 1234\], there \[5, 5, 5, 5\]"),
        (("--decode", "steps=3"), "decode.steps is None, there 3"),
        (("--model_args", "bias=1"), "t_write.model.seed is 0, there 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_04_a_shard_of_another_run_is_named_with_the_difference(
    place: Path, own: Path, options: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(place, own, "--shard", "1/2", *options, tasks="t_write"))
    text = refused(capsys, own)
    assert re.search(rf"shard 2/2 \(.*\) is of another run than shard 1/2 \(.*\): {named}", text), (
        text
    )


def test_04_a_mistake_in_a_command_does_not_undo_a_finished_shard(
    place: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (own / "shard-1-of-2" / "shard.json").read_text()
    assert main(command(place, own, "--shard", "1/2", tasks="t_wriet")) == 2
    assert "t_wriet" in said(capsys)
    assert json.loads((own / "shard-1-of-2" / "shard.json").read_text()) == json.loads(before)
    assert [stored.finished for stored in shards.find_shards([str(own)])] == [True, True]


def test_04_the_one_that_differs_from_the_others_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_shards(place, tmp_path, 3, tasks="t_write")
    main(command(place, tmp_path, "--shard", "1/3", "--overlong", "truncate", tasks="t_write"))
    assert re.search(
        r"shard 1/3 \(.*\) is of another run than shard 2/3 \(.*\): overlong",
        refused(capsys, tmp_path),
    )


def test_04_a_shard_of_other_data_is_named(
    place: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = Path(shutil.copytree(place / "tasks", own / "tasks"))
    data = place / "tasks" / "documents.jsonl"
    before = data.read_text()
    try:
        data.write_text(before.replace("cabbage", "cabbagd"))
        main(command(place, own, "--shard", "1/2", tasks="t_write"))
    finally:
        data.write_text(before)
    shutil.rmtree(tasks)
    assert "of another run" in refused(capsys, own) and "t_write.data" in refused(capsys, own)


def test_04_shards_of_other_numbers_are_named(
    place: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(place, own, "--shard", "3/3", tasks="t_write"))
    text = refused(capsys, own)
    assert "shard 3/3 (" in text and "numbers of shards differ" in text


def test_04_a_lost_answer_and_a_damaged_journal_are_named(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = own / "shard-2-of-2" / "journal.sqlite"
    with closing(sqlite3.connect(journal)) as database:
        database.execute("DELETE FROM answers WHERE key = (SELECT MIN(key) FROM answers)")
        database.commit()
    assert re.search(
        r"shard 2/2 \(.*\) lacks 1 answer: its journal is damaged", refused(capsys, own)
    )
    journal.write_bytes(b"no journal" * 999)
    assert re.search(r"shard 2/2 \(.*\): journal.sqlite cannot be read", refused(capsys, own))
    journal.unlink()
    for name in ("journal.sqlite-wal", "journal.sqlite-shm"):
        (own / "shard-2-of-2" / name).unlink(missing_ok=True)
    assert re.search(r"shard 2/2 \(.*\): journal.sqlite cannot be read", refused(capsys, own))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"shard": "1/2"}',
        '{"shard": "1/2", "finished": true}',
        '{"shard": 5}',
        "[" * 10**5,
    ],
)
def test_04_a_file_that_is_no_shards_is_named(
    own: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "shard-1-of-2" / "shard.json").write_text(content)
    assert "shard.json' is not the file of a shard" in refused(capsys, own)


def test_04_another_model_here_is_named(
    own: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in own.rglob("shard.json"):
        data = json.loads(file.read_text())
        data["settings"]["model_args"] = {"bias": 4}
        file.write_text(json.dumps(data))
    assert "is not the shards' model here" in refused(capsys, own)


def test_04_shards_of_several_folders_need_an_output_path_and_only_reading(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (own / "shard-1-of-2").rename(tmp_path / "first")
    assert "--output_path is missing: the shards are in 2 folders" in refused(capsys, first, own)
    for file in first.iterdir():
        file.chmod(0o444)
    first.chmod(0o555)
    try:
        main(["merge", str(first), str(own), "-o", str(tmp_path / "out" / "all.json")])
    finally:
        first.chmod(0o755)
    assert len(list((tmp_path / "out").glob("all*.json"))) == 1
    assert sorted(file.name for file in first.iterdir()) == ["journal.sqlite", "shard.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--no_resume",), "--shard needs the journal of --output_path"),
        (("--score_only",), "--shard needs the journal of --output_path"),
        (("--report_to", "tensorboard"), "--report_to is for `dlm-eval merge`"),
    ],
)
def test_04_what_a_shard_cannot_do_is_refused(
    place: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(place, tmp_path, "--shard", "1/2", *options)) == 2
    assert message in said(capsys)


def test_04_python_is_told() -> None:
    with pytest.raises(UserError, match="shard is for the command line"):
        evaluate("toy", ["demo"], shard="1/2")

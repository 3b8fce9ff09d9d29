"""A second round of attacks on secrets, files and texts: what fell, by number."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval import evaluate, redaction
from dlm_eval.cli import main
from dlm_eval.errors import SampleError, UserError
from dlm_eval.journal import Journal, checksum
from dlm_eval.models import load_model
from dlm_eval.redaction import (
    REDACTED,
    is_secret_name,
    learn,
    learn_words,
    redact,
    redact_message,
    redact_text,
)
from dlm_eval.reports.board.leaderboard import leaderboard


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_learned", set())


# -- 5: secrets ------------------------------------------------------------------------------------

SECRET_NAMES = (
    "webhook_url slack_webhook WEBHOOK passkey pass_key PassKey signature x_signature X-Hub-Signature-256 sig otp OTP_CODE totp private_key pat PAT"
    " sessionid sid connect.sid cookie set_cookie Set-Cookie csrf_token csrftoken xsrf authkey apitoken githubtoken openaikey wandbkey hfkey bearertoken"
)
ORDINARY_NAMES = (
    "eos_token add_bos_token max_gen_tokens bostoken padtoken signature_columns path patch patience pattern pat_length side turkey hotkey keyboard"
    " identity significant sig_level compat format next_token_prob key_mapping num_key_value_heads config_key idkey cookiecutter author doc_to_text"
)


def test_05_more_names_of_secrets_and_of_none() -> None:
    assert [name for name in SECRET_NAMES.split() if not is_secret_name(name)] == []
    assert [name for name in ORDINARY_NAMES.split() if is_secret_name(name)] == []


def _nested(depth: int, value: Any) -> Any:
    for number in range(depth):
        value = {"a": [value]} if number % 2 else (value,)
    return value


def test_05_settings_of_any_depth_are_looked_into_or_cut() -> None:
    shallow, deep = _nested(100, {"token": "deep-4721"}), _nested(3000, {"token": "deeper-4722"})
    learn([shallow, deep, {"token": deep}])
    assert redact_text("deep-4721") == REDACTED and "deep-4721" not in json.dumps(redact(shallow))
    assert "deeper-4722" not in json.dumps(redact(deep))
    endless: list[Any] = []
    endless.append(endless)
    learn(endless)
    learn({"token": endless})
    assert '"..."' in json.dumps(redact(endless))


def test_05_credentials_of_a_url_in_any_place() -> None:
    assert (
        redact_text("https://h/cb#access_token=abc123&x=1")
        == f"https://h/cb#access_token={REDACTED}&x=1"
    )
    assert redact_text("/get?X-Amz-Credential=a1/b&X-Amz-Signature=c2&n=3") == (
        f"/get?X-Amz-Credential={REDACTED}&X-Amz-Signature={REDACTED}&n=3"
    )
    for text in ("me:pw@host.org/x", "u:p%40ss@localhost", "user:pass@proxy:8080"):
        host = text.split("@", 1)[1]
        assert redact_message(f"at {text}!") == f"at {REDACTED}@{host}!"
        assert redact({"base_url": text}) == {"base_url": f"{REDACTED}@{host}"}
        assert redact_text(text) == text  # in a document or program it may be anything
    for text in (
        "mailto:me@host.org",
        "Email:me@x.org",
        "git@github.com:org/repo",
        "12:30@room",
        "//host/a:b",
        "std::vector@x",
    ):
        assert redact_message(text) == text


def test_05_a_password_of_a_url_is_known_without_its_url() -> None:
    learn({"base_url": "https://me:pass-4723@host/v1", "proxy": ["me:pass-4724@host:80"]})
    assert redact_text("401 for pass-4723, pass-4724") == f"401 for {REDACTED}, {REDACTED}"


def test_05_no_place_says_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass-4725@proxy:80")
    assert redact_text("use pass-4725") == f"use {REDACTED}"
    run = [
        "run",
        "--model",
        "toy",
        "--tasks",
        "demo_last_word",
        "--output_path",
        str(tmp_path / "out"),
        "--model_args",
    ]
    for broken in ('{"headers": {"X-Mine": "head-4726"', "headers={'X-Mine':'head-4726',a=1"):
        assert main([*run, broken]) == 2
        assert "head-4726" not in capsys.readouterr().err
    file = write_tasks(tmp_path) / "t_write.yaml"
    file.write_text(
        file.read_text().replace("dataset_kwargs: {", "dataset_kwargs: {token: data-4727, ")
    )
    assert main(["show", "t_write", "--include_path", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "data-4727" not in said and f"token: '{REDACTED}'" in said and "max_gen_toks: 8" in said


@pytest.mark.parametrize(
    "part", ["sk-", "-eyJaaaaaaaa", "SG.aaaaaaaaaaaaaaaaaaaa", "hf_", "://a:", "a='", "bearer ", "a:bcd@", "?token", "authorization:    ", "abc", "."]
)  # fmt: skip
def test_05_no_text_makes_redaction_slow(part: str) -> None:
    text = part * (300_000 // len(part))
    start = time.process_time()
    redact_message(text)
    learn({"x": text})
    learn_words([text])
    assert time.process_time() - start < 20  # a bound, no timing: quadratic, it is many minutes


# -- 6: files and documents ------------------------------------------------------------------------

ODD = """
def deep(value):
    for _ in range(3000):
        value = [value]
    return value

class Rows(list):
    features = {"text": None, "word": None}

def odd(dataset):
    rows = [dict(row) for row in dataset]
    rows[0]["unused"] = "half \\ud800"
    rows[1]["unused"] = {(1, 2): 3}
    rows[2]["unused"] = deep(1)
    rows[3]["word"] = "half \\ud800"
    return Rows(rows)
"""


def test_06_a_document_that_has_no_hash_costs_no_other_its_score(tmp_path: Path) -> None:
    file = write_tasks(tmp_path) / "t_write.yaml"
    file.write_text(file.read_text() + "process_docs: !function odd.odd\n")
    (tmp_path / "odd.py").write_text(ODD)
    results = evaluate(
        "toy", ["t_write"], include_path=str(tmp_path), output_path=str(tmp_path / "out")
    )
    assert (
        "exact_match,none" in results["results"]["t_write"] and "missing" not in results["dlm_eval"]
    )
    lines = results["samples"]["t_write"]
    assert len(lines) == len(DOCUMENTS) and [
        line["doc_id"] for line in lines if "error" in line
    ] == [3]
    assert lines[3]["error"] == "its target holds half of a surrogate pair, which is no text"
    assert len({line["doc_hash"] for line in lines}) == len(lines)
    (saved,) = (tmp_path / "out").rglob("samples_*.jsonl")
    assert len(saved.read_text(encoding="utf-8").splitlines()) == len(lines)


def test_06_half_of_a_surrogate_pair_is_a_sample_error_in_every_tokenizer(
    tmp_path: Path, capsys: Any
) -> None:
    from dlm_eval.metrics.samples import find_judge

    folder = build.llada(tmp_path / "llada", chat=True)[0]
    with pytest.raises(SampleError, match="half of a surrogate pair"):
        load_model("llada", pretrained=folder, device="cpu").encode("a\ud800")
    with pytest.raises(SampleError, match="half of a surrogate pair"):
        find_judge("asset:tiny-ar", "cpu").read("a", "b\udfff")
    (folder / "chat_template.jinja").write_text("{{ '\\ud800' }}")
    arguments = [
        "--model",
        "llada",
        "--model_args",
        f"pretrained={folder}",
        "--prompt",
        "a",
        "--apply_chat_template",
    ]
    assert main(["trace", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "half of a surrogate pair" in said


FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]


@pytest.mark.parametrize("name", FILES)
def test_06_an_empty_file_is_not_even_read(tmp_path: Path, name: str) -> None:
    """So is one that a link leads to in /proc, whose reading need not end."""
    folder = build.llada(tmp_path / "llada", chat=True)[0]
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_model("llada", pretrained=folder, device="cpu")
    said = str(caught.value)
    assert f"{name} is empty" in said or f"{name} is not a safetensors file: it has 0 bytes" in said


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT "


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE answers", f"CREATE VIEW answers AS {ENDLESS} '' key, '' value, 0 checksum, 'm' model, 0.0 time FROM c"],
        [f"CREATE TRIGGER t BEFORE INSERT ON answers BEGIN SELECT COUNT(*) FROM ({ENDLESS} x FROM c); END"],
        ["CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END"],
        ["CREATE INDEX i ON answers(length(hex(zeroblob(1000))))"],
        ["CREATE TABLE more (key TEXT)"],
    ],
)  # fmt: skip
def test_06_a_journal_with_a_program_in_it_is_set_aside(
    tmp_path: Path, statements: list[str], capsys: Any
) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
    assert main(["cache", "ls", str(tmp_path)]) == 2
    assert "it holds other tables than a journal" in capsys.readouterr().err
    journal = Journal(path)
    journal.put("k", {"a": 1}, "m")
    journal.close()
    assert list(tmp_path.glob("journal.sqlite.aside-*")) and Journal(path).get(["k"]) == {
        "k": {"a": 1}
    }


def test_06_rows_that_no_run_wrote_are_no_answers(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.note("model:m", ["no", "name"])
    journal.put("k", {"a": 1}, "m")
    journal.close()
    odd = [
        ("m", float("inf")),
        ("m", -1e300),
        ("m", "abc"),
        (b"\xff\x00", 1.0),
        ("m\x1b[31m\nforged", 1.0),
    ]
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for number, (model, when) in enumerate(odd):
            row = (str(number), "{}", checksum(str(number), "{}"), model, when)
            database.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", row)
        database.execute("INSERT INTO answers VALUES ('z', ?, 0, 'm', 1.0)", [b"\x00" * 9])
    assert main(["cache", "ls", str(tmp_path)]) == main(["cache", "export", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\nforged" not in said and said.count('{"key"') == 2


# -- 7: tables -------------------------------------------------------------------------------------


def _result(**changes: Any) -> str:
    return json.dumps(
        {
            "results": {"t": {"acc,none": 0.5}},
            "config": {"model": "hf"},
            "configs": {},
            "date": 1.0,
            **changes,
        }
    )


LARGE = {
    "scores": lambda: _result(results={f"t{i}": {"acc,none": 1} for i in range(20_001)}),
    "parts of a metric": lambda: _result(results={"t": {"m,none": {f"a{i}": {f"b{j}": 1 for j in range(300)} for i in range(300)}}}),
    "groups": lambda: _result(results={f"t{i}": {"acc,none": 1} for i in range(400)}, group_subtasks={f"t{i}": [f"t{j}" for j in range(400)] for i in range(400)}),
    "nothing": lambda: "",
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_07_a_result_file_that_no_run_writes_is_named_and_left_out(
    kind: str, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "results_good.json").write_text(_result())
    (tmp_path / "results_bad.json").write_text(LARGE[kind]())
    assert len(leaderboard([tmp_path])) == 1
    (line,) = [
        record.getMessage() for record in caplog.records if record.name.startswith("dlm_eval")
    ]
    assert "results_bad.json' is skipped: it" in line


def test_07_a_large_group_is_one_row_of_sums(tmp_path: Path) -> None:
    leaves = [f"u{i}" for i in range(300)]
    groups = {"all": ["half", "rest"], "half": leaves[:150], "rest": [*leaves[150:], "all"]}
    counts = {leaf: {"effective": 2, "original": 3} for leaf in leaves}
    results = {name: {"acc,none": 0.5} for name in groups}
    configs = {leaf: {"metric_list": [{"metric": "acc"}]} for leaf in leaves}
    text = _result(
        **{"results": results, "group_subtasks": groups, "n-samples": counts, "configs": configs}
    )
    (tmp_path / "results_1.json").write_text(text)
    board = leaderboard([tmp_path]).set_index("task")
    assert dict(board["n"]) == {"all": 600, "half": 300, "rest": 600} and set(board["unit"]) == {
        "fraction"
    }

"""Secrets stay out of everything that is written or said, and reach those who need them."""

from __future__ import annotations

import base64
import dataclasses
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from harness_tasks import write_tasks

from dlm_eval import evaluate, redaction
from dlm_eval.cli import main
from dlm_eval.errors import RunError, SampleError, UserError
from dlm_eval.harness.results import public_results
from dlm_eval.harness.run_metadata import public_arguments
from dlm_eval.harness.saving import Reports
from dlm_eval.journal import Journal
from dlm_eval.redaction import (
    REDACTED,
    is_secret_name,
    learn,
    learn_words,
    redact,
    redact_message,
    redact_text,
)
from dlm_eval.reports.files.write import write_files

# No value has a form that is known: they are found by the name of what holds them alone.
ENVIRONMENT = {
    "HF_TOKEN": "env+hub/4711 ümlaut",
    "OPENAI_API_KEY": "env-openai-4712",
    "WANDB_API_KEY": "e" * 39 + "7",
}
TOKEN, KEY, HEADER = "arg/secret?4713=x", "arg-key-4714-y", "arg-header-4715-z"
OTHER = "another-4718"

# A model of the user's that takes a token, checks that it came, and lets it slip wherever it can.
MODEL = """
import logging
import os
import warnings
from dataclasses import asdict, dataclass

from dlm_eval.models import load_model


@dataclass(frozen=True)
class Settings:
    token: str = ""
    api_key: str = ""
    device: str = "cpu"


def leaky(model, settings):
    describe = model.describe
    model.describe = lambda: {**describe(), **asdict(settings)}
    return model


def load(settings: Settings):
    assert settings.token in ("TOKEN", "OTHER") and settings.api_key == "KEY", "the secrets did not come through"
    logging.getLogger("a.library").warning("asked with %s", settings.api_key)
    warnings.warn(f"{settings.token} is old")
    print("key", settings.api_key)
    return leaky(load_model("tiny", device="cpu"), settings)
"""


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_learned", set())


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return ENVIRONMENT


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "TOKEN",
        "hf_token",
        "HF_TOKEN",
        "hfToken",
        "HFToken",
        "api_key",
        "apikey",
        "apiKey",
        "API-KEY",
        "openai_api_key",
        "OPENAI_API_KEY",
        "access_token",
        "use_auth_token",
        "auth_token",
        "auth",
        "authorization",
        "Authorization",
        "basic_auth",
        "oauth",
        "authentication",
        "secret",
        "client_secret",
        "SECRET_TOKEN",
        "password",
        "db_password",
        "PASSWORD",
        "passwd",
        "passphrase",
        "pwd",
        "credentials",
        "credential",
        "creds",
        "bearer",
        "bearer_token",
        "private_key",
        "privateKey",
        "ssh_key",
        "aws_access_key_id",
        "AWS_SECRET_ACCESS_KEY",
        "aws_session_token",
        "AWS_SESSION_TOKEN",
        "session",
        "cookie",
        "cookies",
        "session_id",
        "connection_string",
        "refresh_token",
        "id_token",
        "github_token",
        "GH_TOKEN",
        "github_pat",
        "x-api-key",
        "X-Auth-Token",
        "token_value",
        "access_tokens",
        "api_keys",
        "jwt",
        "dsn",
        "account_key",
        "sas_token",
        "bot_token",
        "azure_openai_key",
        "wandb_key",
        "PGPASSWORD",
        "SMTP_PASS",
        "db_pass",
        "TOKEN_HF",
        "token_github",
        "token2",
        "HF_TOKEN_2",
    ],
)
def test_05_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)
    assert redact({"a": [{name: "x"}]}) == {"a": [{name: REDACTED}]}


@pytest.mark.parametrize(
    "name",
    [
        "eos_token",
        "bos_token",
        "pad_token",
        "mask_token",
        "unk_token",
        "add_bos_token",
        "add_eos_token",
        "max_gen_tokens",
        "max_tokens",
        "max_gen_toks",
        "max_new_tokens",
        "tokenizer",
        "tokenizer_mode",
        "token_ids",
        "token_id",
        "pad_token_id",
        "eos_token_id",
        "num_tokens",
        "tokens",
        "keys",
        "key",
        "sort_key",
        "key_name",
        "answer_key",
        "author",
        "authors",
        "prefix_token",
        "prefix_token_id",
        "think_end_token",
        "end_token",
        "forced_bos_token",
        "trust_remote_code",
        "batch_tokens",
        "token_type_ids",
        "tokens_per_second",
        "nats_per_token",
        "tokenizer_pad_token",
        "stop",
        "keyword",
        "keywords",
        "monkey",
        "secretary",
        "passage",
        "pass_at_1",
        "bypass",
        "tokenized_requests",
        "device",
        "seed",
        "authored",
        "image_token",
        "eos_token_2",
        "first_pass",
        "pass",
        "token_id",
    ],
)
def test_05_an_ordinary_setting_stays(name: str) -> None:
    assert not is_secret_name(name)
    assert redact({name: "<|x|>"}) == {name: "<|x|>"}


SECRETS = {
    "hugging face": "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1gI3k",
    "openai": "sk-proj-" + "Ab3_dE5-gH7jK9mN1pQ3sT5vX7z",
    "anthropic": "sk-ant-api03-" + "Ab3_dE5gH7jK9mN1pQ3",
    "github": "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    "github fine": "github_pat_" + "11ABCDEFG0123456789_abcdefghijklmnop",
    "gitlab": "glpat-" + "abcDEF123456ghiJKL78",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "slack": "xoxb-" + "123456789012-abcdefABCDEF",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "npm": "npm_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "dozjgNryP4J3jVmNHl0w5N_XgL0",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_05_a_secret_is_known_by_its_form(kind: str) -> None:
    secret = SECRETS[kind]
    for text in (secret, f"401 for ({secret}).", f'{{"x": "{secret}"}}'):
        assert secret not in redact_text(text) and REDACTED in redact_text(text)
    assert redact({"note": ["a", (secret,)]}) == {"note": ["a", (REDACTED,)]}


def test_05_urls_and_headers_lose_their_credentials_alone() -> None:
    assert redact_text("GET https://me:pw@host:80/a?x=1&access_token=abc&y=2") == (
        f"GET https://{REDACTED}@host:80/a?x=1&access_token={REDACTED}&y=2"
    )
    assert redact_text("postgresql://u:p@db/x") == f"postgresql://{REDACTED}@db/x"
    assert redact_text("-H 'Authorization: Bearer abc'") == f"-H 'Authorization: Bearer {REDACTED}'"
    assert (
        redact_text("{'Authorization': 'Basic dXNlcg=='}")
        == f"{{'Authorization': 'Basic {REDACTED}'}}"
    )
    assert redact_text("sent Bearer a1b2c3d4e5f6") == f"sent Bearer {REDACTED}"
    assert (
        redact_message("f(token='a b', n=3, password=x)")
        == f"f(token='{REDACTED}', n=3, password={REDACTED})"
    )
    headers = {"headers": {"X-Mine": "abc", "Accept": "json"}, "header": {"X": "y"}, "n": 1}
    assert redact(headers) == {
        "headers": dict.fromkeys(headers["headers"], REDACTED),
        "header": {"X": REDACTED},
        "n": 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download and hf_transformers", "task-specific sk-learn-contrib", "a bearer of news", "Basic mathematics", "ghp_ is a prefix",
        "https://host/a@b?token", "mail me@host.org", "x = tokens[key]", "def f(token): return token == 'x'", "eos_token=</s>, max_tokens=3",
        "token=None, use_auth_token=True", "std::vector<int> a; b://c",
    ],
)  # fmt: skip
def test_05_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text
    if "def " not in text:
        assert redact_message(text) == text


def test_05_what_holds_no_secret_is_returned_as_it_is() -> None:
    data = {"doc": {"token": None, "use_auth_token": True, "n": [1, 2.5, "a"]}, "t": ("x",)}
    assert redact(data) is data


def _spellings(secret: str) -> tuple[str, ...]:
    return (
        secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        quote(secret),
        quote(secret, safe=""),
    )


def _forms(secret: str) -> Iterator[str]:
    """Yields a secret as files could hold it."""
    raw = secret.encode()
    yield from _spellings(secret)
    for before in (b"", b"a", b"ab"):
        code = base64.b64encode(before + raw).decode()
        yield code[4 if before else 0 : len(code) - 4]


@pytest.mark.parametrize("secret", [TOKEN, KEY, "Zürich-4711", 'quo"te\\4717', "abcdef"])
def test_05_a_learned_secret_is_found_in_every_encoding(secret: str) -> None:
    learn({"metadata": [{"hf_token": secret}]})
    for form in _spellings(secret):
        assert form not in redact_text(f"see {form} there"), form
        assert form not in json.dumps(redact({"note": f"<{form}>"}), ensure_ascii=False)
    for before in ("", "me:", "someone:"):
        code = base64.b64encode(f"{before}{secret}:x".encode()).decode()
        assert not [form for form in _forms(secret) if form in redact_text(f"Basic {code}")], (
            before,
            secret,
        )


def test_05_short_and_ordinary_values_do_not_eat_other_texts() -> None:
    learn(
        {"token": "true", "password": "abc", "auth": "default", "secret": "tokens", "api_key": None}
    )
    assert redact_text("true abc default abcdef") == "true abc default abcdef"
    assert redact_text("mytokens tokens_x") == "mytokens tokens_x".replace(
        " tokens", " " + REDACTED
    )


def test_05_secrets_of_a_command_line_are_learned() -> None:
    learn_words(
        [
            "--model_args",
            "token=first-4711,x=1",
            '{"api_key": "second-4712"}',
            "--hf_token",
            "third-4713",
            "--auth=fourth-4714",
        ]
    )
    assert redact_text("first-4711 second-4712 third-4713 fourth-4714") == " ".join([REDACTED] * 4)


def test_05_errors_say_no_secret() -> None:
    learn({"token": TOKEN})
    for kind in (UserError, RunError, SampleError):
        assert str(kind(f"bad {TOKEN} and password='x y' at https://a:b@c/\nnext")) == (
            f"bad {REDACTED} and password='{REDACTED}' at https://{REDACTED}@c/⏎next"
        )


def test_05_names_of_tasks_columns_and_metrics_are_no_settings() -> None:
    results = {
        "results": {"password": {"token,none": 0.5}},
        "configs": {"secret": {"metadata": {"token": "x", "eos_token": "y"}}},
        "config": {"model_args": {"api_key": "x"}},
        "dlm_eval": {"settings": {"model": {"auth": "x"}}, "cost": {"auth": {"tokens": 3}}},
        "samples": {
            "auth": [
                {
                    "doc": {"token": "the", "password": 3},
                    "arguments": [("p", {"headers": {"a": "b"}})],
                }
            ]
        },
    }
    found = public_results(results)
    assert (
        found["results"] == results["results"]
        and found["dlm_eval"]["cost"] == results["dlm_eval"]["cost"]
    )
    assert found["configs"] == {"secret": {"metadata": {"token": REDACTED, "eos_token": "y"}}}
    assert found["config"] == {"model_args": {"api_key": REDACTED}}
    assert found["dlm_eval"]["settings"] == {"model": {"auth": REDACTED}}
    assert found["samples"]["auth"][0]["doc"] == {"token": "the", "password": 3}
    assert found["samples"]["auth"][0]["arguments"] == [("p", {"headers": {"a": REDACTED}})]


def test_05_arguments_in_results_keep_what_is_no_secret() -> None:
    given = {"add_bos_token": True, "key": "k", "token": "x", "pretrained": "a" * 5000}
    assert public_arguments(given) == {**given, "token": REDACTED}


def _written(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields every file as text; the journal also by its rows (SQLite's pages could hide a text)."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield file.name, file.read_bytes().decode("utf-8", "replace")
        if file.suffix == ".sqlite":
            with sqlite3.connect(file) as database:
                yield (
                    "rows",
                    repr(
                        database.execute("SELECT * FROM notes").fetchall()
                        + database.execute("SELECT * FROM answers").fetchall()
                    ),
                )


def _search(texts: Iterator[tuple[str, str]], secrets: list[str]) -> list[tuple[str, str]]:
    return [
        (name, form)
        for name, text in texts
        for secret in secrets
        for form in _forms(secret)
        if form in text
    ]


# A task whose prompt cannot be built for one document; what it raises quotes secrets.
LEAK = """
import os

def text(doc):
    if "fab" in doc["text"]:
        raise ValueError(f"401 for {TOKEN!r}, {os.environ['HF_TOKEN']} and https://me:pw-4716@host/x")
    return doc["text"]
"""


def _prepared(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "tasks").mkdir()
    text = MODEL
    for name, value in {"TOKEN": TOKEN, "OTHER": OTHER, "KEY": KEY}.items():
        text = text.replace(f'"{name}"', repr(value))
    (tmp_path / "leaky.py").write_text(text)
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "leak.py").write_text(f"TOKEN = {TOKEN!r}\n{LEAK}")
    for name in ("t_write", "t_choice"):
        file = tasks / f"{name}.yaml"
        file.write_text(
            file.read_text().replace('doc_to_text: "{{text}}"', "doc_to_text: !function leak.text")
        )
    return tmp_path / "leaky.py", tasks


SECRET_VALUES = [*ENVIRONMENT.values(), TOKEN, KEY, HEADER, "me:pw-4716"]


def test_05_no_file_of_a_run_holds_a_secret(
    tmp_path: Path,
    variables: dict[str, str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, tasks = _prepared(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"metadata: {{headers: {{X-Mine: {HEADER}}}, eos_token: '<e>', password: {KEY}}}\n"
    )
    out = tmp_path / "out"
    command = [
        "run", "--model", str(model), "--model_args", f"token={TOKEN},api_key={KEY}", "--tasks", "t_choice,t_write", "--include_path", str(tasks),
        "--output_path", str(out), "--log_samples", "--config", str(config), "--show_config", "--verbosity", "DEBUG",
    ]  # fmt: skip
    assert main(command) == 1  # one document errs, and its error quotes the secrets
    (file,) = out.rglob("results_*.json")
    saved = json.loads(file.read_text())
    assert saved["configs"]["t_choice"]["metadata"]["token"] == REDACTED
    assert saved["configs"]["t_choice"]["metadata"]["headers"] == {"X-Mine": REDACTED}
    assert saved["configs"]["t_choice"]["metadata"]["eos_token"] == "<e>"
    assert saved["config"]["model_args"] == {"token": REDACTED, "api_key": REDACTED}
    assert saved["dlm_eval"]["settings"]["model"]["token"] == REDACTED
    errors = [
        s["error"]
        for f in out.rglob("samples_*.jsonl")
        for s in map(json.loads, f.read_text().splitlines())
        if "error" in s
    ]
    assert errors and all(
        f"401 for '{REDACTED}', {REDACTED} and https://{REDACTED}@host/x" in error
        for error in errors
    )
    exported = tmp_path / "out" / "export.jsonl"
    assert main(["cache", "export", str(out), "-o", str(exported)]) == 0 and exported.stat().st_size
    assert main(["leaderboard", str(out), "-o", str(out / "more.csv")]) == 0
    assert main(["cache", "ls", str(out)]) == 0
    assert _search(_written(out), SECRET_VALUES) == []
    said = capfd.readouterr()
    spoken = iter([("out", said.out), ("err", said.err), ("log", caplog.text)])
    assert "asked with " + REDACTED in said.err + caplog.text and f"key {REDACTED}" in said.out
    assert _search(spoken, SECRET_VALUES) == []


def test_05_a_run_in_process_holds_no_secret_either_and_the_token_is_no_identity(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    model, tasks = _prepared(tmp_path)
    other = tmp_path / "other.py"
    other.write_text(model.read_text())  # the same model: the file's digest is part of its identity
    found = []
    for place, token in ((model, TOKEN), (other, OTHER)):
        settings: dict[str, Any] = {
            "model_args": {"token": token, "api_key": KEY}, "include_path": str(tasks), "output_path": str(tmp_path / place.stem),
            "metadata": {"inner": [{"Access_Token": HEADER}]}, "system_instruction": f"use {KEY}",
        }  # fmt: skip
        found.append(evaluate(str(place), "t_write,t_choice", **settings))
        assert _search(_written(tmp_path / place.stem), [*SECRET_VALUES, OTHER]) == []
        assert (
            _search(
                iter([("returned", json.dumps(found[-1], default=str))]), [*SECRET_VALUES, OTHER]
            )
            == []
        )
    assert found[0]["dlm_eval"]["fingerprint"] == found[1]["dlm_eval"]["fingerprint"]
    rows = []
    for name in ("leaky", "other"):
        with sqlite3.connect(tmp_path / name / "journal.sqlite") as database:
            rows.append({key for (key,) in database.execute("SELECT key FROM answers")})
    assert rows[0] == rows[1] and rows[0]


def test_05_sweep_and_trace_hold_no_secret(
    tmp_path: Path, variables: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    model, tasks = _prepared(tmp_path)
    out, arguments = (
        tmp_path / "sweep",
        ["--model", str(model), "--model_args", f"token={TOKEN},api_key={KEY}"],
    )
    sweep = [
        "sweep",
        *arguments,
        "--tasks",
        "t_write",
        "--include_path",
        str(tasks),
        "--decode",
        "steps=2",
        "-o",
        str(out),
        "--no_baseline",
    ]
    assert main(sweep) == 1
    assert (
        main(
            [
                "trace",
                *arguments,
                "--prompt",
                f"ab {TOKEN}"[:2],
                "--html",
                str(out / "a.html"),
                "--json",
                str(out / "a.json"),
            ]
        )
        == 0
    )
    assert _search(_written(out), SECRET_VALUES) == [] and (out / "sweep.csv").exists()
    said = capfd.readouterr()
    assert _search(iter([("said", said.out + said.err)]), SECRET_VALUES) == []


@pytest.mark.full  # half a minute or more
def test_05_workers_get_the_secret_and_say_none(tmp_path: Path, variables: dict[str, str]) -> None:
    model, tasks = _prepared(tmp_path)
    command = [
        sys.executable, "-m", "dlm_eval", "--model", str(model), "--model_args", f"token={TOKEN},api_key={KEY}", "--tasks", "t_write",
        "--include_path", str(tasks), "--output_path", str(tmp_path / "out"), "--devices", "cpu:1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and list((tmp_path / "out").rglob("results_*.json")), done.stderr
    assert _search(iter([("said", done.stdout + done.stderr)]), SECRET_VALUES) == []
    assert _search(_written(tmp_path / "out"), SECRET_VALUES) == []


def test_05_a_wrong_argument_is_told_without_its_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(f'token: {KEY}\n  api_key: "{TOKEN}\n')
    for command in (
        ["run", "--model", "toy", "--tasks", "demo_word_problem", "--model_args", f"token={TOKEN}"],
        [
            "run",
            "--model",
            "toy",
            "--tasks",
            "demo_word_problem",
            "--model_args",
            f'{{"token": "{TOKEN}"',
        ],
        [
            "run",
            "--model",
            "dummy",
            "--tasks",
            "demo_word_problem",
            "--model_args",
            f"token={TOKEN}",
            "--estimator",
            "k",
        ],
        ["run", "--model", "toy", "--tasks", "demo_word_problem", "--config", str(broken)],
        ["trace", "--model", "toy", "--prompt", "a", "--model_args", f"api_key={TOKEN}"],
        ["run", "--model", "toy", "--tasks", "demo_word_problem", "--hf_token", KEY],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and TOKEN not in said and KEY not in said, said


def test_05_trackers_get_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's own W&B logger runs; the package below it, which would ask the network, notes what reaches it."""
    seen: list[Any] = []

    class Run:
        config = type("Config", (), {"update": lambda self, values: seen.append(values)})()

        def finish(self) -> None:
            seen.append("finished")

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: seen.append((args, kwargs))

    wandb = type(sys)("wandb")
    wandb.__version__, wandb.run, wandb.Table = (
        "0.20.0",
        None,
        lambda **options: seen.append(options) or Run(),
    )  # type: ignore[attr-defined]
    wandb.init = lambda **options: seen.append((list(sys.argv), options)) or Run()  # type: ignore[attr-defined]
    printer = type(sys)("wandb.sdk.lib.printer")
    printer.new_printer = lambda: None  # type: ignore[attr-defined]
    for name, module in {
        "wandb": wandb,
        "wandb.sdk": type(sys)("sdk"),
        "wandb.sdk.lib": type(sys)("lib"),
        printer.__name__: printer,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(
        sys, "argv", ["dlm-eval", "--model_args", f"token={TOKEN}", "--api_key", KEY]
    )
    arguments = {
        "wandb_args": {"project": "p", "config": {"token": TOKEN}},
        "wandb_config_args": {"api_key": KEY, "lr": 1},
    }
    results = {
        "results": {"t": {"acc,none": 1.0}},
        "samples": {},
        "configs": {},
        "config": {},
        "versions": {},
        "n-shot": {},
    }
    Reports(("wandb",), arguments).send(results, False, tmp_path)
    assert seen[0][1] == {"project": "p", "config": {"token": REDACTED}} and seen[1] == {
        "api_key": REDACTED,
        "lr": 1,
    }
    assert seen[0][0] == ["dlm-eval", "--model_args", f"token={REDACTED}", "--api_key", REDACTED]
    assert TOKEN not in repr(seen) and KEY not in repr(seen)
    assert sys.argv[2] == f"token={TOKEN}"


def test_05_notes_and_boards_hold_no_secret(tmp_path: Path) -> None:
    learn({"token": TOKEN})
    journal = Journal(tmp_path / "journal.sqlite")
    journal.note("model:x", {"name": f"a {TOKEN}", "api_key": "y"})
    assert journal.noted("model:x") == {"name": f"a {REDACTED}", "api_key": REDACTED}
    journal.close()
    write_files({tmp_path / "a.csv": f"model\n{TOKEN}\nhalf \ud800\n"})
    assert (tmp_path / "a.csv").read_text() == f"model\n{REDACTED}\nhalf \\ud800\n"


def test_05_dataclasses_and_odd_objects_are_looked_into() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings:
        token: str = "x"
        steps: int = 3

    class Odd:
        def __str__(self) -> str:
            return f"Odd({TOKEN})"

    learn({"token": TOKEN})
    assert redact({"s": Settings()}) == {"s": {"token": REDACTED, "steps": 3}}
    assert redact({"s": Odd()}) == {"s": f"Odd({REDACTED})"}

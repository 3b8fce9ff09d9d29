"""A second round of attacks on secrets, files and texts: what fell, by number."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval import evaluate, redaction
from dlm_eval.cli import main
from dlm_eval.errors import SampleError
from dlm_eval.models import load_model
from dlm_eval.redaction import REDACTED, is_secret_name, learn, learn_words, redact, redact_message, redact_text


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_learned", set())


# -- 5: secrets --------------------------------------------------------------------------------------------------------

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
    assert redact_text("https://h/cb#access_token=abc123&x=1") == f"https://h/cb#access_token={REDACTED}&x=1"
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


# -- 6: files and documents ----------------------------------------------------------------------------------------------

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
    results = evaluate("toy", ["t_write"], include_path=str(tmp_path), output_path=str(tmp_path / "out"))
    assert "exact_match,none" in results["results"]["t_write"] and "missing" not in results["dlm_eval"]
    lines = results["samples"]["t_write"]
    assert len(lines) == len(DOCUMENTS) and [line["doc_id"] for line in lines if "error" in line] == [3]
    assert lines[3]["error"] == "its target holds half of a surrogate pair, which is no text"
    assert len({line["doc_hash"] for line in lines}) == len(lines)
    (saved,) = (tmp_path / "out").rglob("samples_*.jsonl")
    assert len(saved.read_text(encoding="utf-8").splitlines()) == len(lines)


def test_06_half_of_a_surrogate_pair_is_a_sample_error_in_every_tokenizer(tmp_path: Path, capsys: Any) -> None:
    from dlm_eval.metrics.judge import find_judge

    folder = build.llada(tmp_path / "llada", chat=True)[0]
    with pytest.raises(SampleError, match="half of a surrogate pair"):
        load_model("llada", pretrained=folder, device="cpu").encode("a\ud800")
    with pytest.raises(SampleError, match="half of a surrogate pair"):
        find_judge("asset:tiny-ar", "cpu").read("a", "b\udfff")
    (folder / "chat_template.jinja").write_text("{{ '\\ud800' }}")
    arguments = ["--model", "llada", "--model_args", f"pretrained={folder}", "--prompt", "a", "--apply_chat_template"]
    assert main(["trace", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "half of a surrogate pair" in said

"""Where datasets come from: a local folder first, then the cache and the hub, and one line at once where none helps."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import time

import datasets
import pytest
from huggingface_hub import constants

from dlm_eval import hub
from dlm_eval.errors import UserError
from dlm_eval.harness.lm_eval_patches import local_first
from dlm_eval.hub import hub_reachable

CARD = '---\nconfigs:\n- config_name: "main"\n  data_files:\n  - split: test\n    path: main/test.jsonl\n---\n'


def folder(root, *questions):
    (root / "own" / "quiz" / "main").mkdir(parents=True, exist_ok=True)
    (root / "own" / "quiz" / "README.md").write_text(CARD)
    rows = "".join(json.dumps({"question": question}) + "\n" for question in questions)
    (root / "own" / "quiz" / "main" / "test.jsonl").write_text(rows)
    return root


def questions(data_dir=None):
    with local_first(data_dir):
        return datasets.load_dataset("own/quiz", "main")["test"]["question"][:]


@pytest.fixture
def online(monkeypatch):
    """As a user's process is: nothing said about being offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    hub.endpoint_responds.cache_clear()
    yield
    hub.endpoint_responds.cache_clear()


def test_a_local_folder_is_read(tmp_path):
    assert questions(folder(tmp_path, "how?", "why?")) == ["how?", "why?"]


def test_the_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_EVAL_DATA", str(folder(tmp_path, "where?")))
    assert questions() == ["where?"]


def test_two_folders_of_one_name_hold_different_rows(tmp_path):
    # the library alone would answer with the cached rows of the first
    assert questions(folder(tmp_path / "one", "first")) == ["first"]
    assert questions(folder(tmp_path / "two", "second")) == ["second"]


def test_a_changed_file_is_read_again(tmp_path):
    assert questions(folder(tmp_path, "old")) == ["old"]
    assert questions(folder(tmp_path, "newer")) == ["newer"]


def test_a_folder_in_the_working_directory_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path, "here"))
    assert questions() == ["here"]


def test_nothing_stays_behind(tmp_path):
    before = datasets.load_dataset
    with pytest.raises(KeyError), local_first(folder(tmp_path, "how?")):
        kept = datasets.load_dataset
        assert kept is not before
        raise KeyError
    assert datasets.load_dataset is before
    with pytest.raises(
        Exception
    ) as error:  # a module that kept our function has the original one now
        kept("own/quiz", "main")
    assert not isinstance(error.value, UserError)


def test_a_dataset_that_cannot_be_had_is_one_line(tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        questions(tmp_path)
    assert time.monotonic() - start < 2
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "'own/quiz'",
        "'main'",
        str(tmp_path / "own" / "quiz"),
        "--data_dir",
        "DLM_EVAL_DATA",
        "the Hub is unreachable",
    ):
        assert part in message


def test_a_context_in_a_context(tmp_path):
    with local_first(folder(tmp_path, "how?")):
        assert questions(tmp_path) == ["how?"]
        with local_first(tmp_path / "own"), pytest.raises(UserError) as error:
            datasets.load_dataset("other/quiz")
    assert str(error.value).count("cannot load dataset") == 1


def test_a_configuration_that_the_folder_lacks(tmp_path):
    with (
        local_first(folder(tmp_path, "how?")),
        pytest.raises(UserError, match="'socratic'.*'main'"),
    ):
        datasets.load_dataset("own/quiz", "socratic")


def test_a_torn_file_is_told(tmp_path):
    (folder(tmp_path, "how?") / "own" / "quiz" / "main" / "test.jsonl").write_text(
        '{"question": "ho'
    )
    with pytest.raises(UserError, match="own/quiz cannot be read"):
        questions(tmp_path)


def test_the_data_directory_must_exist(tmp_path):
    with pytest.raises(UserError, match="--data_dir .*absent' is not a directory"):
        questions(tmp_path / "absent")


def test_an_unreachable_hub_costs_two_seconds_once(online, monkeypatch, tmp_path):
    # 192.0.2.0/24 is set aside for documentation: packets to it go nowhere, or are refused at once
    monkeypatch.setattr(constants, "ENDPOINT", "http://192.0.2.1:9")
    start = time.monotonic()
    with pytest.raises(UserError, match="the Hub is unreachable"):
        questions(tmp_path)
    assert time.monotonic() - start < hub.PROBE_SECONDS + 2
    start = time.monotonic()
    with pytest.raises(UserError):
        questions(tmp_path)
    assert time.monotonic() - start < 1
    assert constants.HF_HUB_OFFLINE is False and datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_asked(online, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/nonexistent")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_reachable()
        server.shutdown()


def test_offline_by_choice_is_not_probed(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.endpoint_responds.cache_clear()
    assert not hub_reachable()

"""Loading by hub id, from a small hub on this machine that speaks the real one's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import models_builders as build
import pytest
from huggingface_hub import constants

from dlm_eval.errors import UserError
from dlm_eval.models import load_model, loading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """One repository, `org/model`, with one commit."""

    folder: Path
    asked: list[str]

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body: bool):
        path = self.path.split("?")[0]
        self.asked.append(path)
        file = self.folder / path.rpartition("/")[2]
        if path in ("", "/"):
            self.send(200, b"", body)
        elif path in (
            "/api/models/org/model",
            *(f"/api/models/org/model/revision/{r}" for r in ("main", COMMIT)),
        ):
            files = [{"rfilename": one.name} for one in self.folder.iterdir()]
            self.send(
                200,
                json.dumps({"id": "org/model", "sha": COMMIT, "siblings": files}).encode(),
                body,
            )
        elif path == f"/api/models/org/model/tree/{COMMIT}":
            files = [
                {"type": "file", "path": one.name, "size": one.stat().st_size}
                for one in self.folder.iterdir()
            ]
            files = [
                {**one, "oid": hashlib.sha1(one["path"].encode()).hexdigest()} for one in files
            ]
            self.send(200, json.dumps(files).encode(), body)
        elif path.startswith(f"/org/model/resolve/{COMMIT}/") and file.is_file():
            data = file.read_bytes()
            self.send(200, data, body, ETag=f'"{hashlib.sha1(data).hexdigest()}"')
        else:
            code = (
                "RevisionNotFound" if path.startswith("/api/models/org/model/") else "RepoNotFound"
            )
            self.send(404, b"{}", body, **{"X-Error-Code": code})

    def send(self, status: int, data: bytes, body: bool, **headers: str):
        self.send_response(status)
        for name, value in {
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path):
    Hub.folder, Hub.asked = build.llada(tmp_path / "repository")[0], []
    (Hub.folder / "modeling_llada.py").write_text("raise SystemExit('remote code ran')")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(hub, tmp_path, monkeypatch):
    """Makes that hub ours, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    loading.locate.cache_clear()
    yield
    loading.locate.cache_clear()


def test_a_hub_id_is_fetched_without_code_and_kept(home, monkeypatch):
    described = load_model("llada", pretrained="org/model").describe()
    assert (described["pretrained"], described["revision"]) == ("org/model", COMMIT)
    assert (
        load_model("llada", pretrained="org/model", revision=COMMIT).describe()["revision"]
        == COMMIT
    )
    assert f"/org/model/resolve/{COMMIT}/model.safetensors" in Hub.asked
    assert not any(path.endswith(".py") for path in Hub.asked)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the hub is gone
    loading.locate.cache_clear()
    assert load_model("llada", pretrained="org/model").describe() == described


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"pretrained": "org/model", "revision": "v9"},
            "'org/model' at revision 'v9' cannot be fetched from the hub",
        ),
        ({"pretrained": "org/other"}, "'org/other' cannot be fetched from the hub"),
    ],
)
def test_what_the_hub_does_not_have(home, options, told):
    with pytest.raises(UserError, match=told):
        load_model("llada", **options)

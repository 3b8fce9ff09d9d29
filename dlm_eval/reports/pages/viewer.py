"""The pages of results as files, and served on this machine while a run goes on.

The server listens on the loopback address only. It answers requests that name it as their host, so
that no other web site can read from it by another name. It knows the index page, pages of samples
and the state of a run; no request names a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dlm_eval.errors import DlmEvalError, UserError
from dlm_eval.journal import APPLICATION_ID
from dlm_eval.printable import counted, printable, valid_unicode
from dlm_eval.redaction import redact_text
from dlm_eval.reports.files.find import find_result_files, shown_path
from dlm_eval.reports.files.write import write_files
from dlm_eval.reports.pages.index import index_page
from dlm_eval.reports.pages.samples import samples_page
from dlm_eval.reports.pages.site import Site, check_has_scores, read_site

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
FRESH_SECONDS = 60.0  # a journal with an answer of this age belongs to a running run
MOST_SECONDS = 2.0  # that a journal is read
SAMPLES = re.compile(r"/samples/([0-9a-f]{16})\.html")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def write_pages(site: Site, folder: Path) -> int:
    """Writes all pages below a folder, the index page last; returns how many.

    Raises:
        UserError: there is nothing to show, a samples file is broken, or a file cannot be written.
    """
    check_has_scores(site)
    for page in site.pages.values():
        write_files({folder / "samples" / f"{page.id}.html": samples_page(site, page)})
    write_files({folder / "index.html": index_page(site)})
    return len(site.pages) + 1


@dataclass
class Viewer:
    """The pages of what is below the paths, as it is now.

    Attributes:
        paths, board, texts, keep_all: see `read_site`.
    """

    paths: Sequence[Path]
    board: Path | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    keep_all: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _site: Site | None = None
    _version: str = ""

    def site(self) -> Site:
        """Returns all pages; they are read again if a result file is new or has changed.

        Raises:
            UserError: see `read_site`.
        """
        with self._lock:
            version = self.version()
            if self._site is None or version != self._version:
                self._site = read_site(self.paths, self.board, self.texts, self.keep_all)
                self._version = version
            return self._site

    def version(self) -> str:
        """Returns a digest of the result files' names, sizes and times."""
        seen = hashlib.sha256()
        for path in find_result_files(self.paths):
            try:
                state = path.stat()
            except OSError:  # it was just removed
                continue
            seen.update(os.fsencode(path) + f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return seen.hexdigest()[:16]

    def state(self) -> dict[str, str]:
        """Returns what pages ask for: the version of the results, and what a running run does."""
        return {"version": self.version(), "running": "; ".join(self._running())}

    def _running(self) -> Iterator[str]:
        folders = [path if path.is_dir() else path.parent for path in self.paths]
        for path in sorted({file for folder in folders for file in folder.rglob("journal.sqlite")}):
            count, last = _answers(path)
            age = time.time() - last
            if count and age < FRESH_SECONDS:
                yield (
                    f"a run is going on: {counted(count, 'answer')} in "
                    f"{printable(shown_path(path))}, the last {max(0.0, age):.0f} s ago"
                )

    def page(self, path: str) -> tuple[HTTPStatus, str, str]:
        """Returns status, content type and text of the answer to a request."""
        try:
            if path in ("/", "/index.html"):
                return HTTPStatus.OK, "text/html", redact_text(index_page(self.site(), True))
            if path == "/state":
                return HTTPStatus.OK, "application/json", json.dumps(self.state())
            if asked := SAMPLES.fullmatch(path):
                site = self.site()
                for page in site.pages.values():
                    if page.id == asked[1]:
                        text = redact_text(samples_page(site, page, True))
                        return HTTPStatus.OK, "text/html", text
        except DlmEvalError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", printable(str(error))
        return HTTPStatus.NOT_FOUND, "text/plain", "no such page"


def _answers(journal: Path) -> tuple[int, float]:
    """Returns the number of answers of a journal and the time of the last one; changes nothing."""
    try:
        address = f"{journal.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=1)) as database:
            database.execute("PRAGMA trusted_schema=OFF")
            late = time.monotonic() + MOST_SECONDS  # `answers` of a hostile file may be endless
            database.set_progress_handler(lambda: time.monotonic() > late, 10_000)
            if database.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                return 0, 0.0
            count, last = database.execute("SELECT COUNT(*), MAX(time) FROM answers").fetchone()
    except (sqlite3.Error, OSError):
        return 0, 0.0
    known = isinstance(count, int) and isinstance(last, float)
    return (count, last) if known else (0, 0.0)


# -- the server ------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """A server of a viewer's pages on the loopback address."""

    daemon_threads = True

    def __init__(self, viewer: Viewer, port: int) -> None:
        self.viewer = viewer
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise UserError(
                f"--port '{port}' cannot be used: {reason}; 0 takes a free one"
            ) from error

    def handle_error(self, request: object, client_address: object) -> None:
        """Keeps the terminal quiet if a browser closes its connection early."""
        log.debug("a request failed", exc_info=True)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The values of `Host` that requests may have."""
        return tuple(f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost"))

    @property
    def url(self) -> str:
        """The address of the index page."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "dlm-eval"
    sys_version = ""
    timeout = 30  # seconds that a client may take for its request

    def do_GET(self) -> None:  # noqa: N802
        self._answer(body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            status, kind, text = HTTPStatus.FORBIDDEN, "text/plain", "another host was asked for"
        else:
            status, kind, text = self.server.viewer.page(self.path.partition("?")[0])
        data = valid_unicode(text).encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s", printable(format % args))


def serve(viewer: Viewer, port: int) -> None:
    """Serves until Ctrl-C.

    Raises:
        UserError: a path does not exist, the board's file is wrong, or the port is taken.
    """
    site = viewer.site()
    with Server(viewer, port) as server:
        rows = counted(len(site.board.rows), "row")
        print(f"{server.url}  ({rows}; Ctrl-C ends)", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            log.debug("ended by Ctrl-C")

"""Worker processes on this machine: new interpreters that use a pipe and end with the driver.

A worker is started as a program, not through multiprocessing. The driver's `__main__` is not run
again, so a script or a notebook needs no guard. A worker has its own session: Ctrl-C reaches only
the driver, which then ends its workers.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from dlm_eval.output import safe_output
from dlm_eval.redaction import learn
from dlm_eval.workers.messages import Events, Exited, WorkerConfig, receiver


class LocalLink:
    """One worker process, seen from the driver.

    Args:
        config: what the worker loads.
        label: its device, for messages.
        environment: variables to set (the visible devices).
        events: receives (link, message) for each of its messages, and (link, Exited) when it ends.
    """

    def __init__(
        self, config: WorkerConfig, label: str, environment: Mapping[str, str], events: Events
    ) -> None:
        self.label = label
        ours, theirs = Pipe()
        paths = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dlm_eval.workers.local", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **paths, **environment},
            stdin=subprocess.DEVNULL,
            stdout=2,  # the driver's stdout is for results
            start_new_session=True,
        )
        theirs.close()
        self._connection = ours
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, args=(events,), daemon=True).start()
        self.send(config)

    def send(self, message: Any) -> None:
        """Sends a message; never waits, since a worker that hangs reads nothing."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Ends the worker at once."""
        self._process.kill()

    def _write(self) -> None:
        try:
            while True:
                self._connection.send(self._outbox.get())
        except (OSError, ValueError):
            return  # it has ended; `_read` reports that

    def _read(self, events: Events) -> None:
        try:
            while True:
                events.put((self, self._connection.recv()))
        except (EOFError, OSError):
            self._process.kill()
            events.put((self, Exited(_how(self._process.wait()))))


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def main() -> None:
    """Runs a worker; the program's argument is the number of the inherited pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    config: WorkerConfig = connection.recv()
    learn(config.options)
    logging.basicConfig(
        level=config.verbosity, format=f"%(levelname)s worker {os.getpid()} %(name)s: %(message)s"
    )
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # the driver has ended, so nobody needs an answer
        except Exception as error:  # a file of the user fails here
            inbox.put(error)

    threading.Thread(target=read, daemon=True).start()
    from dlm_eval.workers.worker import serve

    with safe_output():
        serve(config, receiver(inbox), connection.send)


if __name__ == "__main__":
    main()

"""Workers as Ray actors.

Ray places them on this machine or on others. They use the same messages as local processes.

The worker runs in a thread of the actor. Its messages leave through one streaming generator; the
driver's messages arrive as method calls.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.output import SafeRecord
from dlm_eval.reasons import reason
from dlm_eval.redaction import learn, redact_message
from dlm_eval.workers.messages import Events, Exited, Failed, WorkerConfig, receiver

log = logging.getLogger(__name__)


class Actor:
    """A worker inside a Ray actor."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._early: dict[int, Any] = {}  # messages that arrived out of order
        self._next = 0
        self._lock = threading.Lock()

    def put(self, number: int, message: Any) -> None:
        """Takes the driver's message `number`.

        Calls of an actor with several threads can arrive out of order, so messages are sorted.
        """
        with self._lock:
            self._early[number] = message
            while self._next in self._early:
                self._inbox.put(self._early.pop(self._next))
                self._next += 1

    def work(self, config: WorkerConfig) -> Any:
        """Runs the worker and yields lists of its messages until it ends."""
        learn(config.options)
        logging.setLogRecordFactory(SafeRecord)
        logging.basicConfig(level=config.verbosity)

        def run() -> None:
            try:
                from dlm_eval.workers.worker import serve

                serve(config, receiver(self._inbox), self._outbox.put)
            except BaseException as error:  # also a failed import or an exit
                self._outbox.put(Failed(reason(error)))
            self._outbox.put(None)

        threading.Thread(target=run, daemon=True).start()
        messages: list[Any] = []
        while None not in messages:
            messages = [self._outbox.get()]
            while not self._outbox.empty():
                messages.append(self._outbox.get())
            yield [message for message in messages if message is not None]


class RayLink:
    """One Ray actor, as the driver sees it (see `messages.Link`)."""

    def __init__(
        self,
        config: WorkerConfig,
        label: str,
        environment: dict[str, str],
        gpus: int,
        events: Events,
    ) -> None:
        import ray

        self.label = label
        self._sent = itertools.count()
        remote = ray.remote(
            num_cpus=1,
            num_gpus=gpus,
            max_concurrency=4,
            max_restarts=0,
            runtime_env={"env_vars": environment},
        )
        self._actor = remote(Actor).remote()
        messages = self._actor.work.options(num_returns="streaming").remote(config)
        threading.Thread(target=self._read, args=(messages, events), daemon=True).start()

    def send(self, message: Any) -> None:
        """Sends a message, without waiting."""
        self._actor.put.remote(next(self._sent), message)

    def kill(self) -> None:
        """Ends the actor at once."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)

    def _read(self, messages: Any, events: Events) -> None:
        import ray

        how = "ended"
        try:
            for reference in messages:
                for message in ray.get(reference):
                    events.put((self, message))
        except Exception as error:  # Ray has many kinds: the actor, its node or the network is lost
            how = f"was lost ({type(error).__name__})"
        events.put((self, Exited(how)))


def connect(address: str | None, workers: int, gpus: int) -> dict[str, str]:
    """Connects to a Ray cluster, or starts one on this machine; returns environment variables for
    its actors.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has too few CPUs or
            GPUs for the workers.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine 'ray' needs the package ray; install it: pip install 'dlm_eval[ray]'"
        ) from None
    if address:
        _require_answer(address)
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        here = (
            {}
            if address or os.environ.get("RAY_ADDRESS")
            else {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
        )
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                **here,
            )
        except Exception as error:  # Ray raises exceptions of many kinds
            raise UserError(
                f"--ray_address '{address or 'auto'}' cannot be used: "
                f"{redact_message(' '.join(str(error).split()))[:200]}{_token_hint(address)}"
            ) from error
        if threading.current_thread() is threading.main_thread():
            for name, handler in handlers.items():  # Ray replaces the handler of SIGTERM
                signal.signal(name, handler)
    have = ray.cluster_resources()
    for kind, needed in (("CPU", workers), ("GPU", gpus)):
        if have.get(kind, 0) < needed:
            raise UserError(
                f"--devices needs {needed} {kind}s, but the Ray cluster has {have.get(kind, 0):g}"
            )
    # Other machines have their own installation; actors on this one import what the driver imports.
    return {} if address else {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}


def _token_hint(address: str | None) -> str:
    """Returns what to try if a cluster with a token refuses this process.

    Ray (2.60) sends the token only if RAY_AUTH_MODE asks for it.
    """
    if not address or os.environ.get("RAY_AUTH_MODE") == "token":
        return ""
    return "; if the cluster was started with a token, export RAY_AUTH_MODE=token (docs/guides/scaling.md)"


def _require_answer(address: str) -> None:
    """Raises UserError if nothing listens at HOST:PORT; Ray would retry for minutes."""
    if place := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        try:
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray_address '{address}' cannot be reached: {error}") from None


def gpus_of_cluster(address: str | None) -> int:
    """Returns the number of GPUs of the cluster."""
    connect(address, 0, 0)
    import ray

    return int(ray.cluster_resources().get("GPU", 0))

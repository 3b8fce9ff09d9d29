"""The recipe of docs/guides/scaling.md for Ray on several machines, run on two of them.

A machine is a set of Linux namespaces: it has its own network, host name, processes, shared memory
and Ray folder. The two are connected by a virtual cable.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.full
SCRIPTS = Path(sys.executable).parent
RAY = f"{sys.executable} -c 'from ray.scripts.scripts import main; main()'"
SETUP = "mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm"
# The head's address ends in .1. One CPU each, so that two workers are on two machines.
HEAD = f"{RAY} start --head --port=6379 --num-cpus=1 --node-ip-address={{net}}.1 --include-dashboard=false"
JOIN = f"{RAY} start --address={{net}}.1:6379 --num-cpus=1 --node-ip-address={{net}}.2 --block"
TWO = f"until [ $({RAY} status 2>/dev/null | grep -c ' 1 node_') = 2 ]; do sleep 1; done"
RUN = "dlm-eval --model tiny --model_args dtype=float32 --tasks demo_word_problem,demo_choice --limit 8"
ON_BOTH = "--engine ray --devices cpu:2 --ray_address {net}.1:6379"


class Machines:
    """Two machines with a cable between them.

    Args:
        folder: for the home directory that both share, and for their output.
    """

    def __init__(self, folder: Path) -> None:
        self.net = f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
        self.folder = folder
        mark = secrets.token_hex(2)
        self._names = [f"dlm{mark}{number}" for number in (1, 2)]
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def connect(self) -> None:
        """Makes the networks; raises CalledProcessError if this process may not."""
        one, two = self._names
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", one, "netns", one, "type", "veth", "peer", "name", two, "netns", two)
        for number, name in enumerate(self._names, 1):
            _ip("-n", name, "addr", "add", f"{self.net}.{number}/24", "dev", name)
            _ip("-n", name, "link", "set", name, "up")

    def start(self, number: int, script: str) -> subprocess.Popen[bytes]:
        """Runs a script on a machine; its output goes to a file of the folder."""
        name = self._names[number - 1]
        apart = ["unshare", "--uts", "--mount", "--ipc", "--pid", "--fork", "--mount-proc"]
        command = [
            "ip", "netns", "exec", name, *apart, "--kill-child", "bash", "-c",
            f"hostname {name} && {SETUP}\n{script.replace('{net}', self.net)}",
        ]  # fmt: skip
        with open(self.folder / f"machine{number}.log", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        self._running[number] = process
        return process

    def unplug(self, number: int) -> None:
        """Ends all processes of a machine at once."""
        if (process := self._running.pop(number, None)) is not None:
            process.kill()
            process.wait()

    def remove(self) -> None:
        for number in list(self._running):
            self.unplug(number)
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'dlm_eval[ray]')")
    if missing := [name for name in ("ip", "unshare") if shutil.which(name) is None]:
        pytest.skip(f"two machines need the program {missing[0]}")
    both = Machines(tmp_path)
    try:
        try:
            both.connect()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"two machines need the right to make network namespaces ({error})")
        yield both
    finally:
        both.remove()


def samples(folder: Path) -> dict[str, Any]:
    """Returns the answers of all documents, without what depends on time."""
    (file,) = folder.glob("*/results_*.json")
    scores = json.loads(file.read_text())["results"]
    found = {}
    for path in folder.glob("*/samples_*.jsonl"):
        for line in path.read_text().splitlines():
            sample = json.loads(line)
            key = (path.name.partition("_2")[0], sample["doc_id"], sample["filter"])
            found[key] = (sample["resps"], sample["filtered_resps"])
    return {"scores": scores, "answers": found}


def answered(journal: Path) -> int:
    """Returns the number of answers in a journal, which another process may be writing."""
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    except sqlite3.Error:  # it does not exist yet
        return 0


def test_two_machines_give_the_bits_of_one_process_also_if_one_is_lost(
    machines: Machines, tmp_path: Path
) -> None:
    subprocess.run(
        f"{RAY} get-auth-token --generate",
        shell=True, check=True, capture_output=True, env=machines.environment,
    )  # fmt: skip
    runs = [f"{RUN} {ON_BOTH} --output_path {tmp_path}/{name}" for name in ("whole", "lost")]
    machines.start(2, f"until {JOIN}; do sleep 1; done")
    driver = machines.start(1, f"{HEAD} && {TWO} && {runs[0]} && {runs[1]}")
    while driver.poll() is None and answered(tmp_path / "lost" / "journal.sqlite") < 3:
        time.sleep(0.2)
    finished = driver.poll() is not None
    machines.unplug(2)
    assert driver.wait() == 0, (tmp_path / "machine1.log").read_text()[-3000:]
    assert not finished, "the second run ended before its machine was lost"

    here = f"{RUN} --output_path {tmp_path}/here"
    subprocess.run(here, shell=True, check=True, capture_output=True, env=machines.environment)
    expected = samples(tmp_path / "here")
    assert samples(tmp_path / "whole") == expected
    assert samples(tmp_path / "lost") == expected
    (file,) = (tmp_path / "whole").glob("*/results_*.json")
    devices = json.loads(file.read_text())["dlm_eval"]["environment"]["devices"]
    assert len(devices) == 2 and all(device["forwards"] for device in devices)

"""Hostile programs (sandbox_attacks.py) in every kind of sandbox that this machine has, as root and as a user."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sandbox_attacks

import dlm_eval
from dlm_eval.sandbox import KINDS, Limits, Sandbox, filters, usage

# anyone can read it, as may not be so of the Python that runs this
SYSTEM_PYTHON = "/usr/bin/python3"
SPARE_USER = 61900 + os.getpid() % 90  # nobody has anything to lose there
DEEP = """
import os, time
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
for _ in range(40):
    os.mkdir("n" * 250)
    os.chdir("n" * 250)
time.sleep(0.1)
raise ValueError("wrong")
"""
# a filter of this process that refuses `unshare`, as many containers do; then the command line of dlm-eval
WITHOUT_NAMESPACES = """
import ctypes, struct, sys
from dlm_eval.sandbox import filters, kernel
audit, column = filters.ARCHITECTURES[filters.os.uname().machine]
code = [
    filters._instruction(filters.LOAD, filters.NUMBER_AT),
    filters._instruction(filters.JUMP_EQUAL, (272, 97)[column], 0, 1),
    filters._return(filters.REFUSE),
    filters._return(filters.ALLOW),
]
text = ctypes.create_string_buffer(b"".join(code))
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(text))
kernel.call("prctl", kernel.PR_SET_SECCOMP, filters.MODE_FILTER, header, 0, 0)
from dlm_eval.cli import main
sys.exit(main(sys.argv[1:]))
"""
TASK = """
task: code
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
unsafe_code: true
doc_to_text: "{{{{prompt}}}}"
doc_to_target: ""
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 4}}
filter_list:
  - {{name: none, filter: [{{function: custom, filter_fn: !function dlm_eval.metrics.code.note_programs}}]}}
process_results: !function dlm_eval.metrics.code.process_results
metric_list: [{{metric: pass@1, aggregation: mean, higher_is_better: true}}]
"""


def user_command(directory: Path) -> list[str]:
    """Returns the start of a command line by which a user who is not root runs Python."""
    if os.getuid() != 0:
        return [sys.executable]
    if not (shutil.which("setpriv") and os.access(SYSTEM_PYTHON, os.X_OK)):
        pytest.skip("no setpriv or no Python that every user can read: cannot run as another user")
    user = ["--reuid", str(SPARE_USER), "--regid", str(SPARE_USER), "--clear-groups"]
    if subprocess.run(
        ["setpriv", *user, SYSTEM_PYTHON, "-c", "import sys; assert sys.version_info >= (3, 11)"]
    ).returncode:
        pytest.skip(f"{SYSTEM_PYTHON} is too old or cannot be run by another user")
    return ["setpriv", *user, SYSTEM_PYTHON]


@pytest.fixture
def copied():
    """The sandbox and the programs in a folder that everyone can read."""
    directory = Path(tempfile.mkdtemp(prefix="dlm-eval-copy-"))
    try:
        shutil.copytree(
            Path(dlm_eval.__file__).parent / "sandbox", directory / "dlm_eval" / "sandbox"
        )
        shutil.copy(sandbox_attacks.__file__, directory)
        for path in [directory, *directory.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "who",
    [
        "root",
        pytest.param("root with a spare user", marks=pytest.mark.full),
        pytest.param("user", marks=pytest.mark.full),
    ],
)
def test_03_no_hostile_program_reaches_out_or_leaves_the_denominator(copied, kind, who):
    if who != "user" and os.getuid() != 0:
        pytest.skip("not root")
    if who == "root with a spare user" and (
        kind != "plain" or not os.access(SYSTEM_PYTHON, os.X_OK)
    ):
        pytest.skip("the plain kind alone takes a spare user, with a Python that everyone can read")
    command = {"root": [sys.executable], "root with a spare user": [SYSTEM_PYTHON], "user": []}[who]
    run = subprocess.run(
        [*(command or user_command(copied)), str(copied / "sandbox_attacks.py"), str(copied), kind],
        capture_output=True, text=True, timeout=900, cwd="/",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    if "unavailable" in found:
        pytest.skip(found["unavailable"])
    assert (found["uid"] != 0) == (who == "user")
    assert set(found["protections"]) >= {
        "disk",
        "files",
        "leftovers",
        "network",
        "other processes",
    }, run.stderr
    programs = found["programs"]
    assert len(programs) >= 90
    assert {key: one for key, one in programs.items() if one["harm"]} == {}
    wrong = {
        key: one["reason"]
        for key, one in programs.items()
        if one["passed"] or not one["ran"] or re.search("sandbox error|not refused|the disk is full|watcher", one["reason"])
    }  # fmt: skip
    assert wrong == {}
    assert [
        key
        for key, one in programs.items()
        if key.startswith("disk") and one["reason"] == "timed out"
    ] == []
    assert found["left"] == []


def test_03_the_programs_are_attacks():
    """Outside a sandbox what they try succeeds; else the tests above would show nothing. On victims of this test alone."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        given = {"pid": victim.pid, "file": "/nowhere", "mailbox": "x", "path": "x", "port": 1}
        text = sandbox_attacks.programs(given, "dlm-x")["signal: F_SETOWN"]
        subprocess.run([sys.executable, "-c", text], stderr=subprocess.DEVNULL, timeout=30)
        assert victim.wait(timeout=10) == -signal.SIGKILL
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_03_deep_and_long_directories_are_a_wrong_program_and_are_removed(kind):
    box = usable(kind)
    try:
        verdict = box.run(DEEP)
        assert (verdict.passed, verdict.ran, verdict.reason) == (
            False,
            True,
            "failed: ValueError: wrong",
        )
        assert not list(Path(tempfile.gettempdir()).glob(f"program-{servers(box)[0]}-*"))
    finally:
        box.close()


@pytest.mark.parametrize("kind", KINDS)
def test_03_right_programs_may_use_what_is_harmless(kind):
    box = usable(kind)
    try:
        for program in (
            "import asyncio\nasync def f():\n    await asyncio.sleep(0.001)\nasyncio.run(f())",
            "import sqlite3\nwith sqlite3.connect('x.db') as c:\n    c.execute('create table t (a)')",
            "import fcntl\nwith open('x', 'w') as f:\n    fcntl.flock(f, fcntl.LOCK_EX)\n    fcntl.lockf(f, fcntl.LOCK_EX)",
            "import os, shutil, tempfile\nwith tempfile.TemporaryDirectory() as d:\n    open(d + '/x', 'w').write('x')\n    shutil.copyfile(d + '/x', d + '/y')\n    os.replace(d + '/y', 'z')",
            "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.05)",
            "import socket\na, b = socket.socketpair()\na.sendall(b'x' * 100)\nassert b.recv(100) == b'x' * 100",
            "import resource, sys\nsys.setrecursionlimit(10000)\nresource.setrlimit(resource.RLIMIT_STACK, resource.getrlimit(resource.RLIMIT_STACK))",
            "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nos.kill(os.getpid(), signal.SIGUSR1)",
            "import selectors, select\nselectors.DefaultSelector().close()\nselect.poll()",
            "import os, uuid, platform, getpass\nuuid.uuid4()\nplatform.platform()\nos.cpu_count()\nos.urandom(8)",
        ):  # fmt: skip
            assert box.run(program).reason == "passed", program
    finally:
        box.close()


@pytest.mark.parametrize("kind", KINDS)
def test_03_a_lock_on_a_shared_file_holds_nobody_up(kind):
    import fcntl

    box = usable(kind)
    program = f"""
import fcntl, os, time
shared = open({os.__file__!r})
for lock in (fcntl.flock, fcntl.lockf):
    lock(shared, fcntl.LOCK_SH | fcntl.LOCK_NB)
fcntl.flock(shared, fcntl.LOCK_EX)
time.sleep(3)
"""
    try:
        with open(os.__file__) as shared:
            runner = subprocess.Popen(
                [sys.executable, "-c", RUN_ONE, kind, program], stdout=subprocess.PIPE, text=True
            )
            refused = 0
            while runner.poll() is None:
                try:
                    fcntl.flock(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(shared, fcntl.LOCK_UN)
                except BlockingIOError:
                    refused += 1
                time.sleep(0.05)
            assert runner.stdout is not None
            said = runner.stdout.read().strip()
        assert refused == 0 and said  # the program did run, whatever became of its lock
    finally:
        box.close()


# -- servers, watchers and harnesses that are killed -----------------------------------------------

RUN_ONE = """
import sys
from dlm_eval.sandbox import Limits, Sandbox
box = Sandbox(sys.argv[1])
box._protections = ()  # not probed again
print(box.run(sys.argv[2], Limits(wall_seconds=20.0)).reason, flush=True)
box.close()
"""
IMMORTAL = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
libc.prctl(15, b"{name}", 0, 0, 0)
libc.prctl(1, 0, 0, 0, 0)
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
try:
    if os.fork() == 0:
        os.setsid()
        os.fork()
except OSError:
    pass
time.sleep(300)
"""


def usable(kind: str) -> Sandbox:
    """Returns a sandbox of a kind, or skips."""
    from dlm_eval.sandbox import Unavailable

    box = Sandbox(kind)
    try:
        box.start()
    except Unavailable as refusal:
        pytest.skip(str(refusal))
    box._protections = ()  # not probed again
    return box


def servers(box: Sandbox) -> list[int]:
    return [server._process.pid for server in box._idle]


def await_true(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def chain(harness: int) -> list[int]:
    """Returns server, watcher and init below a harness, each the only child of the one before."""
    processes = usage.open_proc()
    try:
        found: list[int] = []
        while len(found) < 3:
            below = usage.descendants(processes, found[-1] if found else harness)
            if not below:
                return []
            found.append(below[0])
        return found
    finally:
        os.close(processes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("victims", ["harness", "server", "watcher", "server and watcher", "all"])
def test_03_nothing_outlives_whoever_is_killed_above_it(kind, victims):
    usable(kind).close()
    name = f"dlm-{os.getpid()}-{KINDS.index(kind)}{victims[:3]}"[:15]
    harness = subprocess.Popen(
        [sys.executable, "-c", RUN_ONE, kind, IMMORTAL.replace("{name}", name)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert await_true(lambda: sandbox_attacks.living(name)), "the program did not start"
        server, watcher, _ = chain(harness.pid)
        killed = {"harness": [harness.pid], "server": [server], "watcher": [watcher], "server and watcher": [server, watcher],
                  "all": [harness.pid, server, watcher]}[victims]  # fmt: skip
        first = sandbox_attacks.living(name)
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):  # it has ended because one above it did
                os.kill(pid, signal.SIGKILL)
        assert await_true(lambda: not set(first) & set(sandbox_attacks.living(name))), "it lives on"
        if victims in ("harness", "watcher"):  # the server is there to tidy up
            homes = Path(tempfile.gettempdir())
            assert await_true(lambda: not list(homes.glob(f"program-{server}-*")))
        if victims == "watcher":
            assert harness.communicate(timeout=60)[0].strip() == "failed: its watcher was ended"
    finally:
        harness.kill()
        harness.wait()
        assert await_true(lambda: not sandbox_attacks.living(name))


# -- the filter and Landlock -----------------------------------------------------------------------


def kernel_tables() -> list[dict[str, int]]:
    """Returns the numbers of all calls by name, of x86-64 and of arm64, from the kernel's headers."""
    files = [
        *Path("/usr/include").glob("**/asm/unistd_64.h"),
        Path("/usr/include/asm-generic/unistd.h"),
    ]
    if len(files) != 2 or not files[1].exists():
        pytest.skip("the kernel's headers are not installed")
    x86 = dict(re.findall(r"#define __NR_(\w+) (\d+)", files[0].read_text()))
    text = files[1].read_text()
    wide = dict(re.findall(r"#define __NR3264_(\w+) (\d+)", text))
    arm = dict(re.findall(r"#define __NR_(\w+) (\d+)", text))
    arm |= {
        name: wide[key]
        for name, key in re.findall(r"#define __NR_(\w+) __NR3264_(\w+)", text)
        if key in wide
    }
    return [{name: int(number) for name, number in table.items()} for table in (x86, arm)]


def test_03_call_numbers_are_the_kernels():
    tables = kernel_tables()
    ours = filters.ALLOWED | filters.ALLOWED_IN_NAMESPACES | filters.WITH_ARGUMENTS
    # calls newer than the installed headers; and those that arm64 has although the generic table leaves them out
    for name, numbers in (ours | sandbox_attacks.CALLS | sandbox_attacks.NUMBERS).items():
        for table, number in zip(tables, numbers, strict=True):
            if name in table or number == filters.NO:
                assert table.get(name, filters.NO) in (
                    number,
                    *((filters.NO,) if number >= 424 else ()),
                ), name


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("machine", list(filters.ARCHITECTURES))
def test_03_what_is_not_listed_is_refused(machine, namespaces, alone):
    audit, column = filters.ARCHITECTURES[machine]
    code = filters._program(machine, namespaces, alone)
    listed = (
        filters.ALLOWED
        | filters.WITH_ARGUMENTS
        | (filters.ALLOWED_IN_NAMESPACES if namespaces else {})
    )
    numbers = {columns[column] for columns in listed.values()}
    for number in range(600):
        result = interpret(code, number, audit, [0] * 6)
        if number not in numbers:
            assert result in (filters.REFUSE, filters.UNKNOWN_CALL), number
    for number in (0, 1, 39):
        assert interpret(code, number | filters.X32_BIT, audit, [0] * 6) != filters.ALLOW
        assert interpret(code, number, 0x40000003, [0] * 6) == filters.REFUSE  # i386
    fork = {"x86_64": 56, "aarch64": 220}[machine]
    thread = 0x3D0F00  # what the C library asks for
    assert (interpret(code, fork, audit, [17] + [0] * 5) == filters.ALLOW) == namespaces
    assert (interpret(code, fork, audit, [thread] + [0] * 5) == filters.ALLOW) == (
        namespaces or not alone
    )
    assert interpret(code, fork, audit, [0x10000000 | 17] + [0] * 5) != filters.ALLOW
    send = {"x86_64": 44, "aarch64": 206}[machine]
    assert interpret(code, send, audit, [3, 0, 0, 0, 0, 0]) == filters.ALLOW
    # an address in the high half
    assert interpret(code, send, audit, [3, 0, 0, 0, 1 << 32, 0]) != filters.ALLOW


def interpret(code: bytes, number: int, audit: int, arguments: list[int]) -> int:
    """Returns what a filter says to a call: classic BPF as far as the filter uses it."""
    import struct

    data = struct.pack("=iIQ6Q", number, audit, 0, *arguments)
    at, loaded = 0, 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        if operation == filters.RETURN:
            return value
        if operation == filters.LOAD:
            loaded = struct.unpack_from("I", data, value)[0]
        elif operation == filters.AND:
            loaded &= value
        else:
            tests = {
                filters.JUMP_EQUAL: loaded == value,
                filters.JUMP_NOT_BELOW: loaded >= value,
                filters.JUMP_SET: bool(loaded & value),
            }
            at += if_true if tests[operation] else if_false


@pytest.mark.parametrize("wall", ["landlock", "filter"])
def test_03_each_wall_holds_signals_by_itself(wall):
    """A user's process sends SIGKILL by F_SETOWN to a process of the same user with only one of the two walls before it."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    given = {"pid": victim.pid, "file": "/nowhere", "mailbox": "x", "path": "x", "port": 1}
    text = sandbox_attacks.programs(given, "dlm-x")["signal: F_SETOWN"]
    try:
        child = os.fork()
        if child == 0:
            from dlm_eval.sandbox import kernel

            try:
                kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
                if wall == "landlock":
                    filters.restrict(["/"], ["/dev/null"], tempfile.gettempdir())
                else:
                    filters.install(namespaces=False, alone=False)
                exec(text, {})
            except OSError:
                os._exit(7)
            finally:
                os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7:
            pytest.skip(f"no {wall} here")
        time.sleep(0.2)
        version = landlock_version() if wall == "landlock" else filters.SCOPE_VERSION
        if version < filters.SCOPE_VERSION:
            pytest.skip(f"Landlock version {version} has no scopes")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def landlock_version() -> int:
    from dlm_eval.sandbox import kernel

    return kernel.call("syscall", filters.CREATE_RULESET, None, 0, filters.VERSION_FLAG)


# -- the kind of sandbox is the user's to choose ---------------------------------------------------


@pytest.mark.full  # half a minute or more
def test_03_a_lesser_kind_is_a_warning_and_an_error_if_namespaces_are_asked_for(tmp_path):
    (tmp_path / "data.jsonl").write_text(
        json.dumps(
            {
                "prompt": "def f(x):\n    return x\n",
                "test": "def check(f):\n    assert f(1) == 1\n",
                "entry_point": "f",
            }
        )
        + "\n"
    )
    (tmp_path / "code.yaml").write_text(TASK.format(file=tmp_path / "data.jsonl"))

    def run(boot: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [
            "run",
            "--model",
            "toy",
            "--tasks",
            "code",
            "--include_path",
            str(tmp_path),
            "--output_path",
            str(tmp_path / "out"),
        ]
        return subprocess.run(
            [sys.executable, *boot, *arguments, "--confirm_run_unsafe_code", *options],
            capture_output=True, text=True, timeout=300, cwd=tmp_path,
        )  # fmt: skip

    refused = ["-c", WITHOUT_NAMESPACES]
    error = run(refused, "--sandbox", "namespaces", "--no_resume")
    assert error.returncode == 2, error.stderr
    last = error.stderr.strip().splitlines()[-1]
    assert "--sandbox 'namespaces'" in last and "unshare" in last
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("results_*.json"))
    lesser = run(refused, "--no_resume")
    assert lesser.returncode == 0, lesser.stderr
    assert re.search(r"WARNING.*kind 'plain'.*namespaces: .*unshare", lesser.stderr)
    assert sandbox_of(tmp_path)[0] == "plain"
    unknown = run(["-m", "dlm_eval"], "--sandbox", "bubblewrap")
    assert unknown.returncode == 2


def sandbox_of(folder: Path) -> list[str]:
    (file,) = (folder / "out").rglob("results_*.json")
    (held,) = json.loads(file.read_text())["dlm_eval"]["environment"][
        "sandbox"
    ].values()  # of the one task
    return held


def test_03_the_kind_is_checked_as_a_setting():
    from dlm_eval.errors import UserError
    from dlm_eval.harness.run_settings import run_settings

    with pytest.raises(
        UserError, match="--sandbox 'namespace' is not known; did you mean 'namespaces'"
    ):
        run_settings({"model": "toy", "tasks": "x", "sandbox": "namespace"})
    assert run_settings({"model": "toy", "tasks": "x", "sandbox": "plain"}).sandbox == "plain"


def test_03_limits_are_those_of_the_program_alone():
    box = usable("plain")
    try:
        program = """
import resource
assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == (0, 0)
assert resource.getrlimit(resource.RLIMIT_MSGQUEUE) == (0, 0)
assert resource.getrlimit(resource.RLIMIT_SIGPENDING)[1] <= 32
"""
        assert box.run(program, Limits()).reason == "passed"
    finally:
        box.close()

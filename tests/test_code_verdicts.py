"""Verdicts that cannot be forged, and verdicts on a busy machine (issue numbers 2 and 4)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dlm_eval.metrics.code import build_program
from dlm_eval.sandbox import Limits, Sandbox, Unavailable, namespaces, values, wire
from dlm_eval.sandbox.judge import APART, ASKED, FORGED, UNTOLD, Program, Run, judge
from dlm_eval.sandbox.limits import PATIENCE, Clock
from dlm_eval.sandbox.runner import Turns

HUMAN_EVAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "openai" / "openai_humaneval"
INFILLING = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "loubnabnl" / "humaneval_infilling"
)

# `close` is a function of the tests, as in HumanEval+
TESTS = """
import math

def close(a, b):
    return abs(a - b) < 1e-6

def check(candidate):
    assert close(candidate(2), 4)
    assert close(candidate(3), 9)
    assert math.isclose(candidate(10), 100)
    assert True

check(square)
"""
RIGHT = "def square(x):\n    return x * x\n"
WRONG = "def square(x):\n    return -1\n"
# plays the part of the sandbox's own code: says that the text has ended, takes the tests, says that they have passed
PLAY = """
import os, time
def play(text_too):
    if text_too:
        os.write(3, b"text ended\\n")
        head = os.read(4, 9)
        missing = int.from_bytes(head[:8], "little")
        while missing:
            missing -= len(os.read(4, missing))
    os.write(3, b"tests ended\\n")
    os.write(3, os.read(4, 16))
    os._exit(0)
"""
JUMP = """
import sys
def jump(frame, event, argument):
    if frame.f_code.co_name == "check" and event == "line":
        last = max(line for _, _, line in frame.f_code.co_lines() if line)
        if frame.f_lineno != last:
            frame.f_lineno = last
    return jump
"""
EMPTY_CHECK = """
def disarm():
    check = globals().get("check")
    if check is not None:
        check.__code__ = (lambda candidate: None).__code__
"""
FORGERS = {
    # named in the issue
    "token out of the frames": """
import os, sys
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, bytes) and len(value) == 16:
            for end in range(3, 64):
                try:
                    os.write(end, value)
                except OSError:
                    pass
            os._exit(0)
    frame = frame.f_back
""",
    "tracer that empties check": EMPTY_CHECK + "import sys\nsys.settrace(lambda *_: disarm())\n",
    "thread that empties check": EMPTY_CHECK
    + """
import threading
def wait():
    while True:
        disarm()
threading.Thread(target=wait, daemon=True).start()
""",
    "tracer that jumps": JUMP + "sys.settrace(jump)\n",
    # ours
    "plays the sandbox before the tests": PLAY + "play(True)\n",
    "plays the sandbox in the tests": PLAY + "def square(x):\n    play(False)\n",
    "plays the sandbox after a right answer": PLAY
    + "def square(x):\n    return 4 if x == 2 else play(False)\n",
    "profiler that empties check": EMPTY_CHECK
    + "import sys\nsys.setprofile(lambda *_: disarm())\n",
    "profiler of all threads": EMPTY_CHECK
    + """
import threading
threading.setprofile(lambda *_: disarm())
threading.settrace(lambda *_: disarm())
getattr(threading, "setprofile_all_threads", threading.setprofile)(lambda *_: disarm())
""",
    "sys.monitoring": EMPTY_CHECK
    + """
import sys
if sys.version_info >= (3, 12):
    tool, events = sys.monitoring.PROFILER_ID, sys.monitoring.events
    sys.monitoring.use_tool_id(tool, "x")
    sys.monitoring.register_callback(tool, events.PY_START, lambda *_: disarm())
    sys.monitoring.set_events(tool, events.PY_START)
""",
    "tracer that keeps itself": JUMP
    + """
frame = sys._getframe()
while frame:
    frame.f_trace, frame.f_trace_opcodes = jump, True
    frame = frame.f_back
set_trace = sys.settrace
set_trace(jump)
sys.settrace = lambda function: set_trace(jump)
""",
    "tracer set in the tests": JUMP
    + """
def square(x):
    frame = sys._getframe(1)
    frame.f_trace = jump
    sys.settrace(jump)
    return 4
""",
    "audit hook that sets a tracer": JUMP
    + """
def hook(event, arguments):
    if event == "exec":
        sys.settrace(jump)
sys.addaudithook(hook)
""",
    "code of check exchanged in the tests": EMPTY_CHECK
    + "def square(x):\n    disarm()\n    return 4\n",
    "function of the tests replaced": """
import sys
def square(x):
    sys._getframe(1).f_globals.update(close=lambda a, b: True)
    import math
    math.isclose = lambda a, b: True
    return 5
""",
    "builtins replaced": """
import builtins
builtins.abs = lambda x: 0.0
builtins.exec = builtins.compile = lambda *_, **__: compile
import math
math.isclose = lambda a, b: True
def square(x):
    return 4
""",
    "namespace of builtins replaced": "__builtins__ = dict(vars(__import__('builtins')), abs=lambda x: 0.0)\n"
    "import math\nmath.isclose = lambda *_: True\ndef square(x):\n    return 4\n",
    "import replaced": """
import builtins, types
real = builtins.__import__
fake = types.SimpleNamespace(isclose=lambda a, b: a == a)
builtins.__import__ = lambda name, *rest, **named: fake if name == "math" else real(name, *rest, **named)
def square(x):
    return {2: 4, 3: 9}.get(x)
""",
    "mark of a coroutine with other code": """
import sys
def square(x):
    check = sys._getframe(1).f_globals["check"]
    check.__code__ = (lambda candidate: None).__code__.replace(co_flags=check.__code__.co_flags ^ 0x100)
    return 4
""",
    "module replaced": """
import sys, types
sys.modules["math"] = types.SimpleNamespace(isclose=lambda a, b: True)
def square(x):
    return {2: 4, 3: 9}.get(x)
""",
    "decorator for the first test": "def square(x):\n    return {2: 4, 3: 9}.get(x, 0)\n"
    "import math\nmath.isclose = lambda *_: 1\n@(lambda f: lambda *_: 0)\n",
    "end of the sandbox's functions replaced": """
import os, sys
frame = sys._getframe()
while frame:
    for name, value in list(frame.f_globals.items()):
        if callable(value) and name.startswith("_") and hasattr(value, "__code__"):
            try:
                value.__code__ = (lambda *_, **__: b"").__code__
            except (ValueError, TypeError):
                pass
    frame = frame.f_back
os.write = os.read = os._exit = lambda *_: b""
""",
    "namespace replaced through the frames": """
import sys
class Names(dict):
    def __setitem__(self, name, value):
        super().__setitem__(name, (lambda *_: None) if name == "check" else value)
frame = sys._getframe()
while frame:
    for name in ("namespace", "execute"):
        if name in frame.f_locals:
            frame.f_locals[name] = Names(globals()) if name == "namespace" else (lambda *_: None)
    frame = frame.f_back
""",
    "child that plays the sandbox": PLAY
    + """
try:
    if os.fork() == 0:
        try:
            play(False)
        finally:
            os._exit(0)
except OSError:
    pass
def square(x):
    time.sleep(30)
""",
    "timer that plays the sandbox": PLAY
    + """
import signal
signal.signal(signal.SIGALRM, lambda *_: play(False))
signal.setitimer(signal.ITIMER_REAL, 1.0)
def square(x):
    time.sleep(2.0)
""",
    "collector's callback": PLAY
    + "import gc\ngc.callbacks.append(lambda phase, _: 'check' in globals() and play(False))\n"
    "def square(x):\n    gc.collect()\n",
    "thread that plays the sandbox": PLAY
    + """
import threading
def wait():
    while "check" not in globals():
        time.sleep(0.001)
    play(False)
threading.Thread(target=wait, daemon=True).start()
def square(x):
    time.sleep(1.0)
""",
    "too much said": PLAY
    + "os.write(3, b'text ended\\ntests ended\\n' + b'x' * 16)\nos._exit(0)\n",
    "exit while destroyed": PLAY
    + "class Last:\n    def __del__(self):\n        play(False)\nlast = Last()\n"
    "def square(x):\n    global last\n    last = None\n",
}


FIND = """
import sys
def found(name):
    frame = sys._getframe(1)
    while frame:
        if name in frame.f_locals:
            return frame.f_locals[name]
        if name in frame.f_globals:
            return frame.f_globals[name]
        frame = frame.f_back
"""
# a function like another that has as many cells; `body` may call `first`
LIKE = """
def like(function, first):
    count = len(function.__code__.co_freevars)
    cells = [f"v{n}" for n in range(count)]
    text = "def outer():\\n    " + "; ".join([f"{c} = 0" for c in cells] or ["pass"])
    text += "\\n    def inner(*a):\\n        __import__('sys').modules['first'](*a)\\n        return\\n        " + ", ".join(cells or ["0"]) + ",\\n    return inner\\n"
    made = {}
    exec(text, made)
    sys.modules["first"] = first
    return made["outer"]().__code__
"""
CLEARING = {
    "code of the clearing function exchanged": FIND
    + JUMP
    + LIKE
    + """
boundary = found("boundary")
boundary.undo.__code__ = like(boundary.undo, lambda *_: sys.settrace(jump))
""",
    "its names exchanged": FIND
    + JUMP
    + """
names = found("boundary").undo.__globals__
names["TRACERS"] = (lambda _: sys.settrace(jump),)
""",
    "a tool of sys.monitoring registered in the clearing": FIND
    + JUMP
    + """
def change(code, offset):
    if code.co_name == "check":
        import math
        globals()["close"] = math.isclose = lambda *_: True
def register(*_):
    events = sys.monitoring.events
    sys.monitoring.use_tool_id(3, "x")
    sys.monitoring.register_callback(3, events.PY_START, change)
    sys.monitoring.set_events(3, events.PY_START)
names = found("boundary").undo.__globals__
names["_clear_monitoring"] = register
""",
    "clearing of the tracer disarmed": FIND
    + JUMP
    + """
import gc
for thing in gc.get_objects():
    if type(thing).__name__ == "partial" and thing.func is sys.settrace:
        thing.__setstate__((len, ((),), {}, {}))
sys.settrace(jump)
""",
    "a finalizer in the middle of the clearing": FIND
    + JUMP
    + """
import gc
class Late:
    def __call__(self, *_):
        pass
    def __del__(self):
        sys._getframe(1).f_globals["TRACERS"] = (lambda _: sys.settrace(jump),)
gc.callbacks.append(Late())
""",
    "a weak reference's callback in the middle of the clearing": FIND
    + JUMP
    + """
import gc, weakref
class Late:
    def __call__(self, *_):
        pass
def late(_):
    sys._getframe(1).f_globals["TRACERS"] = (lambda _: sys.settrace(jump),)
gc.callbacks.append(Late())
reference = weakref.ref(gc.callbacks[-1], late)
""",
    "a signal in the middle of the clearing": FIND
    + JUMP
    + """
import os, signal
def late(*_):
    sys.settrace(jump)
signal.signal(signal.SIGUSR1, late)
names = found("boundary").undo.__globals__
names["TRACERS"] = (lambda _: os.kill(os.getpid(), signal.SIGUSR1),)
""",
    "a thread that the count leaves out": FIND
    + JUMP
    + """
import _thread, time
found("check_threads").__setstate__((len, ((),), {}, {}))
def wait():
    while "check" not in globals():
        time.sleep(0)
    globals()["check"] = lambda candidate: None
_thread.start_new_thread(wait, ())
""",
    "what asks for the tests exchanged, the control told by its mark": FIND
    + """
def receive(read, make, spoil, restore, namespace):
    head = read(4, 9)
    left = int.from_bytes(head[:8], "little")
    while left:
        left -= len(read(4, left))
    yield make("raise AssertionError" if head[8] else "pass", "<tests>", "exec")
found("_receive").__code__ = receive.__code__
""",
    "the sandbox's part played, the control told by its mark": """
import os
def play():
    os.write(3, b"text ended\\n")
    head = os.read(4, 9)
    left = int.from_bytes(head[:8], "little")
    while left:
        left -= len(os.read(4, left))
    if head[8]:
        os._exit(1)
    os.write(3, b"tests ended\\n")
    os.write(3, os.read(4, 16))
    os._exit(0)
play()
""",
    "the expected answer read where it is called": """
import sys
def square(x):
    code = sys._getframe(1).f_code
    numbers = [c for c in code.co_consts if type(c) is int]
    return numbers[numbers.index(x) + 1]
""",
    "a builtin that the tests use": "abs = lambda x: 0.0\n"
    + WRONG
    + """
import sys
class isclose:
    def __radd__(self, x): return x
def square(x):
    return 100 if x == 10 else -1
""",
    "the interpreter's comparison of numbers exchanged": """
import ctypes
kind = ctypes.CFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int)
yes = kind(lambda a, b, how: True)
def square(x):
    for number in (float, int):
        ctypes.c_void_p.from_address(id(number) + 200).value = ctypes.cast(yes, ctypes.c_void_p).value
    return 100 if x == 10 else -1
""",
    "the answers kept for the next run": """
import glob, os, sys
def square(x):
    frame = sys._getframe(1)
    try:
        with open("/tmp/kept", "a") as file:
            file.write(repr(frame.f_code.co_consts))
    except OSError:
        pass
    try:
        known = open("/tmp/kept").read()
    except OSError:
        known = ""
    numbers = [c for c in frame.f_code.co_consts if type(c) is int]
    return numbers[numbers.index(x) + 1] if x in numbers else -1
""",
    "answers that would run where the tests are": FIND
    + """
import os, pickle, sys
class Run:
    def __reduce__(self):
        return eval, ("globals().update(close=lambda *_: True)",)
if found("boundary"):
    def square(x):
        numbers = [c for c in sys._getframe(1).f_code.co_consts if type(c) is int]
        return numbers[numbers.index(x) + 1]
else:
    def tell(data):
        os.write(3, len(data).to_bytes(8, "little") + data)
    tell(b"ready")
    os.read(4, 1 << 16)
    tell(pickle.dumps((True, (Run(), {}), [[], []])))
    os.read(4, 1 << 16)
    tell(pickle.dumps((True, 4, [])))
""",
    "a module sent in place of another": """
import sys, types
beside = [1]
frame = sys._getframe()
while frame:
    beside[0] |= "boundary" in frame.f_locals and 2
    frame = frame.f_back
math = types.SimpleNamespace(isclose=lambda *_: True)
def close(*_):
    return True
def square(x):
    numbers = [c for c in sys._getframe(1).f_code.co_consts if type(c) is int]
    return numbers[numbers.index(x) + 1] if beside[0] & 2 else -1
""",
}
# what these do in the process of the tests fails there already
SEEN_BESIDE = {
    "a thread that the count leaves out",
    *(
        ["a tool of sys.monitoring registered in the clearing"]
        if sys.version_info < (3, 12)
        else []
    ),
    *(["clearing of the tracer disarmed"] if sys.version_info >= (3, 13) else []),
}


# -- 2: forged verdicts ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORGERS)
def test_02_a_wrong_answer_that_says_it_is_right_is_judged_wrong(sandbox, name):
    own = "def square" in FORGERS[name]
    verdict = sandbox.run(
        FORGERS[name] if own else WRONG + FORGERS[name], Limits(wall_seconds=2.0), TESTS
    )
    assert not verdict.passed, verdict
    assert verdict.ran, verdict


@pytest.mark.parametrize("name", CLEARING)
def test_02_whatever_a_text_does_to_its_own_process_a_wrong_answer_is_judged_wrong(sandbox, name):
    text = CLEARING[name] if "square" in CLEARING[name] else WRONG + CLEARING[name]
    verdict = sandbox.run(text, Limits(wall_seconds=4.0), TESTS)
    assert not verdict.passed and verdict.ran, verdict
    # it deceives tests that run beside it
    assert (verdict.reason == APART) == (name not in SEEN_BESIDE), verdict


HONEST = {
    "plain": RIGHT,
    "bare expression": "square = lambda x: x * x",
    "class": "class square:\n    def __new__(cls, x):\n        return x * x\n",
    "partial": "from functools import partial\nsquare = partial(lambda n, x: x ** n, 2)\n",
    "cached": "from functools import lru_cache\n@lru_cache\ndef square(x):\n    return x * x\n",
    "uses a name of the tests": "def square(x):\n    return math.prod([x, x])\n",
    "recursive": "def square(x):\n    return 0 if x == 0 else square(x - 1) + 2 * x - 1\n",
    "thread that has ended": "import threading\nt = threading.Thread(target=print)\ntry:\n    t.start()\n    t.join()\n"
    "except RuntimeError:\n    pass\n" + RIGHT,
    "tracer of its own": "import sys\nsys.settrace(lambda *_: None)\n" + RIGHT,
    "catches everything": "try:\n    1 / 0\nexcept BaseException:\n    pass\n" + RIGHT,
    "deletes its imports": "import math\ndel math\n" + RIGHT,
    "alarm": "import signal\ndef square(x):\n    signal.alarm(5)\n    signal.alarm(0)\n    return x * x\n",
    "main guard": RIGHT + "if __name__ == '__main__':\n    raise ValueError\n",
    "future": "from __future__ import annotations\ndef square(x: nothing) -> nothing:\n    return x * x\n",
}


@pytest.mark.parametrize("name", HONEST)
def test_02_a_right_answer_stays_right(sandbox, name):
    verdict = sandbox.run(HONEST[name], Limits(wall_seconds=30.0), TESTS)
    assert verdict.passed, verdict
    assert not sandbox.run(
        HONEST[name], Limits(wall_seconds=30.0), TESTS.replace("), 4)", "), 5)")
    ).passed


@pytest.mark.parametrize(
    "tests",
    [
        "assert square(2) != 5\nassert not square(0)\nassert square(1) is not None",
        "square(2)",
        "assert True",
        "try:\n    square('a')\nexcept TypeError:\n    pass\n",
        "assert [square(x) for x in range(3)] == [0, 1, 4] and str(square(2)) == '4' and square(2) in (4,)",
        "assert isinstance(square(2), int)\nassert callable(square)",
        # they look at what the function does, not at what it returns
        "try:\n    square('a')\nexcept TypeError:\n    pass\nelse:\n    assert False\n",
        "raised = False\ntry:\n    square('a')\nexcept Exception:\n    raised = True\nassert raised",
        # their imports set `__code__`, for types.coroutine
        "import asyncio\nasync def ask():\n    return square(2)\nassert asyncio.run(ask()) == 4",
        "from unittest.mock import patch\nwith patch('builtins.input', return_value='3'):\n    assert square(int(input())) == 9",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(square(2), 4)\n"
        "assert unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T)).wasSuccessful()",
    ],
)
def test_02_tests_of_any_form_accuse_no_right_answer(sandbox, tests):
    assert sandbox.run(RIGHT, Limits(wall_seconds=30.0), tests).reason == "passed"


def test_02_a_function_that_works_in_place_is_judged_by_what_it_did(sandbox):
    tests = "def check(candidate):\n    numbers = [3, 1, 2]\n    candidate(numbers)\n    assert numbers == [1, 2, 3]\ncheck(put)"
    assert sandbox.run("def put(numbers):\n    numbers.sort()\n", tests=tests).reason == "passed"
    assert (
        sandbox.run("def put(numbers):\n    sorted(numbers)\n", tests=tests).reason
        == "failed: AssertionError"
    )


def test_02_nothing_of_the_tests_is_there_while_the_text_runs(sandbox):
    secret = "the-tests-" + os.urandom(6).hex()
    half = len(secret) // 2  # the text does not hold it in one piece
    program = f"""
import gc, sys
wanted = "".join([{secret[:half]!r}, {secret[half:]!r}])
seen = []
frame = sys._getframe(1)
while frame:
    seen += [repr(value) for value in list(frame.f_locals.values())]
    frame = frame.f_back
seen += [repr(value) for value in gc.get_objects() if type(value) in (dict, list, tuple) and value is not seen]
gc.collect()
try:
    import ctypes
    for line in open("/proc/self/maps"):
        start, end = (int(place, 16) for place in line.split()[0].split("-"))
        if " rw" in line:
            seen.append(repr(ctypes.string_at(start, end - start)))
except OSError:
    pass
assert len(seen) > 50
assert not [text for text in seen if wanted in text and "'wanted'" not in text]
"""
    verdict = sandbox.run(program, Limits(wall_seconds=60.0, cpu_seconds=20), f"assert {secret!r}")
    assert verdict.passed, verdict


def test_02_tracers_are_cleared_before_the_tests(sandbox):
    program = """
import sys, threading
sys.settrace(lambda *_: None)
sys.setprofile(lambda *_: None)
threading.settrace(lambda *_: None)
threading.setprofile(lambda *_: None)
if sys.version_info >= (3, 12):
    sys.monitoring.use_tool_id(3, "x")
    sys.monitoring.set_events(3, sys.monitoring.events.PY_START)
"""
    tests = """
import sys, threading
assert sys.gettrace() is sys.getprofile() is threading.gettrace() is threading.getprofile() is None
assert sys.version_info < (3, 12) or sys.monitoring.get_tool(3) is None
"""
    assert sandbox.run(program, tests=tests).reason == "passed"


def test_02_a_thread_that_is_still_alive_is_a_failure(sandbox):
    program = (
        RIGHT
        + "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    verdict = sandbox.run(program, tests=TESTS)
    assert not verdict.passed
    assert "still alive" in verdict.reason or "can't start new thread" in verdict.reason


def test_02_a_text_must_be_valid_by_itself(sandbox):
    for end in (
        "@(lambda f: lambda *_: None)\n",
        "async \\\n",
        "if False:\n",
        "'''",
        "x = (",
        "def f(:",
    ):
        verdict = sandbox.run(
            RIGHT + end, tests="def check():\n    assert False\ncheck()\n'''", limits=Limits()
        )
        assert verdict.reason.startswith("failed: "), (end, verdict)


def test_02_a_passing_program_is_run_against_controls():
    """Of tests that need the program beside them."""
    ran: list[Program] = []

    def run(outcomes, reason):
        left = iter(outcomes)

        def once(program):
            if program.apart:
                return Run(False, UNTOLD, 0.0)
            ran.append(program)
            return Run(next(left), reason, 0.0)

        return once

    program = Program("text", "tests", Limits(), alone=True)
    for outcomes, reason, passed in (
        ([False], "", False),
        ([True, False], "", True),
        ([True, True, False], ASKED, False),  # passes a control, and the tests do look at values
        ([True, True, False], "failed: AssertionError", True),  # they look at something else
        ([True, True, False], "timed out", False),
        # so does no program at all: the tests ask for no value
        ([True, True, True], "passed", True),
    ):
        ran.clear()
        outcome = judge(run(outcomes, reason), program)
        assert outcome.passed == passed
        assert (outcome.reason == FORGED) == (not passed and len(outcomes) > 1)
        assert len(ran) == len(outcomes)
        assert [each.text for each in ran] == ["text", "text", ""][: len(ran)]
        assert [each.control for each in ran] == [False, True, True][: len(ran)]


def test_02_the_verdict_is_that_of_the_tests_apart():
    program = Program("text", "tests", Limits(), alone=True)
    for apart, passed in (
        ("passed", True),
        ("failed: AssertionError", False),
        ("timed out", False),
        ("", False),
    ):
        ran = []

        def run(program, apart=apart, ran=ran):
            ran.append(program)
            return Run(
                not program.apart or apart == "passed", apart if program.apart else "passed", 1.0
            )

        assert judge(run, program).passed == passed
        assert [(each.apart, each.alone) for each in ran] == [(False, True), (True, False)]
    hungry = judge(
        lambda program: Run(not program.apart, "starved", 0.0, starved=program.apart), program
    )
    assert hungry.starved and not hungry.passed


VALUES = """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
@dataclass(frozen=True)
class Pair:
    a: int
    b: int = 0
    def total(self):
        return self.a + self.b
    def __add__(self, other):
        return Pair(self.a + other, self.b)
    def __radd__(self, other):
        return Pair(self.a + other, self.b)
class Problem(ValueError):
    pass
Point = namedtuple("Point", "x y")
Colour = IntEnum("Colour", "RED BLUE")
def same(x): return x
def put(x): x.sort(); return x
def put_deep(x): x[0].append(1); x.append([2])
def put_keys(x): x["b"] = x.pop("a"); x["c"].add(1)
def count(n): yield from range(n)
def fail(x): raise Problem(x, "why")
def divide(x): return 1 / x
def longest(pairs): return max(pairs, key=Pair.total)
def adder(n): return lambda x: x + n
def nothing(): return None
def ask_twice(f): return f
"""
USES = """
for value in (None, True, 3, 2.5, 1j, "a", b"a", [1, [2]], (1, (2,)), {1}, frozenset([1]), {"a": [1]}, range(3), 10 ** 400,
              float("inf"), "\\ud800", bytearray(b"x"), ...):
    assert same(value) == value and type(same(value)) is type(value)
assert same(float("nan")) != same(float("nan"))
x = [3, 1, 2]
assert put(x) is x and x == [1, 2, 3]
x = [[], 5]
assert put_deep(x) is None and x == [[1], 5, [2]]
x = {"a": 1, "c": set()}
put_keys(x)
assert x == {"b": 1, "c": {1}}
assert list(count(3)) == [0, 1, 2] and next(iter(count(1))) == 0 and sum(count(4)) == 6 and 2 in count(3)
try:
    fail(7)
    assert False
except Problem as error:
    assert error.args == (7, "why") and isinstance(error, ValueError)
try:
    divide(0)
    assert False
except ZeroDivisionError:
    pass
p = Pair(1, 2)
assert p.a == 1 and p.total() == 3 and p == Pair(1, 2) and p != Pair(1) and str(p) == "Pair(a=1, b=2)" and isinstance(p, Pair)
assert longest([Pair(1), p]).total() == 3 and len({p, Pair(1, 2)}) == 1 and p + 1 == Pair(2, 2) == 1 + p and not isinstance(1, Pair)
assert adder(2)(3) == 5 and callable(adder) and not callable(p) and nothing() is None
assert Point(1, 2) == (1, 2) and Point(1, 2).x == 1 and Colour.RED == 1 and list(Point(3, 4)) == [3, 4]
assert same(Counter("aab")) == Counter("aab") and same(deque([1], 2)) == deque([1]) and same(Decimal("1.5")) == Decimal("1.5")
assert same(defaultdict(list, a=[1])) == {"a": [1]} and list(same(OrderedDict(a=1))) == ["a"] and same(Fraction(1, 3)) * 3 == 1
assert same(date(2020, 1, 2)).year == 2020 and same(timedelta(1)).days == 1 and same(datetime(2020, 1, 2, 3)) == datetime(2020, 1, 2, 3)
import copy
assert copy.deepcopy(p) == p and copy.copy(p) == p and hash(p) == hash(Pair(1, 2))
def check(candidate):
    assert candidate(candidate) is candidate and sorted([3, candidate(1)]) == [1, 3]
check(same)
"""


def test_02_values_of_all_kinds_reach_tests_apart(sandbox):
    server = sandbox._take(fresh=False)
    run = server.run(Program(VALUES, USES, Limits(), alone=False, apart=True))
    sandbox._give_back(server)
    assert run.reason == "passed"
    for tests in (
        "assert same(2) == 3",
        "assert Pair(1) == Pair(2)",
        "assert not list(count(2))",
        "fail(1)",
        "same(nobody)",
    ):
        assert not sandbox.run(VALUES, tests=tests).passed
    assert sandbox.run(VALUES, tests=USES).passed


def test_02_tests_that_need_the_program_beside_them_are_told_from_others(sandbox):
    server = sandbox._take(fresh=False)

    def reason(text, tests):
        return server.run(Program(text, tests, Limits(), alone=False, apart=True)).reason

    assert reason(RIGHT, "import sys\nassert square(2) == 4") == UNTOLD
    assert reason("def twice(f): return f(f(1))", "assert twice(lambda x: x + 1) == 3") == UNTOLD
    assert (
        reason(
            "def twice(f): return f(f(1))",
            "try:\n    twice(lambda x: x + 1)\nexcept BaseException:\n    pass",
        )
        == UNTOLD
    )
    assert reason("class the(Exception): pass\ndef f(): raise the", "f()") == "failed: the"
    sandbox._give_back(server)
    assert sandbox.run(
        "def twice(f): return f(f(1))", tests="assert twice(lambda x: x + 1) == 3"
    ).passed
    assert not sandbox.run(
        "def twice(f): return 2", tests="assert twice(lambda x: x + 1) == 3"
    ).passed


def test_02_what_a_program_sends_runs_nothing_where_its_tests_are():
    class Runs:
        def __init__(self, *parts):
            self.parts = parts

        def __reduce__(self):
            return self.parts

    received = values.Received(lambda number, called, base: f"object {number}", lambda value: None)
    seen = []
    for parts in (
        (os.system, ("exit",)), (eval, ("1",)), (getattr, (1, "real")), (type, ("X", (), {})), (object, ()), (open, ("x",)),
        (__import__, ("os",)), (map, (str, [1])), (subprocess.Popen, (["x"],)), (setattr, (1, "x", 1)),
    ):  # fmt: skip
        with pytest.raises(values.NoValue):
            received.load(pickle.dumps(Runs(*parts)))
    # a pickle can set attributes of what it loads; these have none to set
    state = pickle.dumps((None, {"__eq__": 1}), 2)[2:-1]
    for changed in ("int", "ValueError", "list"):
        with pytest.raises((TypeError, AttributeError)):
            received.load(b"\x80\x02cbuiltins\n" + changed.encode() + b"\n" + state + b"b.")
    kept = values.Kept()
    for value in ([1, (2, {"a"})], "x", {1: b""}, 2.0):
        assert received.load(kept.dump(value)) == value
    assert received.load(kept.dump([seen.append])) == ["object 0"]


def human_eval():
    if not HUMAN_EVAL.exists():
        pytest.skip("HumanEval is not beside the worktree")
    import pandas

    files = sorted(HUMAN_EVAL.rglob("*.parquet"))
    lines = [
        json.loads(line) for path in sorted(HUMAN_EVAL.rglob("*.jsonl")) for line in path.open()
    ]
    return lines or pandas.concat([pandas.read_parquet(path) for path in files]).to_dict("records")


def test_02_reference_solutions_pass_and_wrong_ones_fail():
    box = Sandbox()
    problems = human_eval()
    assert len(problems) == 164
    limits = Limits(wall_seconds=30.0)
    verdicts = box.run_many(
        [build_program(doc, doc["canonical_solution"]) for doc in problems], limits=limits
    )
    assert [
        v
        for v in zip([doc["task_id"] for doc in problems], verdicts, strict=True)
        if not v[1].passed
    ] == []
    wrong = box.run_many(
        [build_program(doc, "    return object()\n") for doc in problems], limits=limits
    )
    assert not any(verdict.passed for verdict in wrong)
    box.close()


# -- 4: verdicts on a busy machine -----------------------------------------------------------------


def test_04_waiting_for_a_cpu_is_left_out_and_sleeping_counts():
    thread = (1, 1)
    starved = Clock(0.0, 10.0)
    for second in range(1, 41):  # a fifth of a CPU
        starved.advance(float(second), {thread: (second * 0.2, second * 0.8)})
    assert not starved.over and not starved.starved
    asleep = Clock(0.0, 10.0)
    for second in range(1, 12):
        asleep.advance(float(second), {thread: (0.0, 0.0)})
    assert asleep.over and not asleep.starved


def test_04_a_wait_that_is_told_late_is_left_out():
    clock = Clock(0.0, 1.0)
    clock.advance(0.5, {(1, 1): (0.0, 0.0)})
    clock.advance(1.4, {(1, 1): (0.0, 0.9)})
    assert not clock.over


def test_04_a_program_does_not_starve_itself():
    busy = Clock(0.0, 10.0)  # 32 processes on two CPUs: each waits most of the time, for the others
    for second in range(1, 12):
        busy.advance(float(second), {(n, n): (second / 16, second * 15 / 16) for n in range(32)})
    assert busy.over and not busy.starved
    crowd = Clock(0.0, 10.0)  # and on a machine on which others leave them next to nothing
    for second in range(1, 12):
        crowd.advance(float(second), {(n, n): (second / 100, second * 0.99) for n in range(32)})
    assert crowd.over and not crowd.starved


def test_04_one_who_gets_no_cpu_at_all_is_starved():
    clock = Clock(0.0, 10.0)
    for second in range(1, int(10 * PATIENCE) + 2):
        clock.advance(float(second), {(1, 1): (second * 0.01, second * 0.99)})
    assert clock.starved and not clock.over


def test_04_a_starved_program_runs_again_alone_and_is_an_error_only_then():
    box = Sandbox()
    box._protections = ()
    hungry, fed = Run(False, "starved", 60.0, starved=True), Run(True, "passed", 1.0)
    for outcomes, passed, ran in (([hungry, fed], True, True), ([hungry, hungry], False, False)):
        left = iter(outcomes)
        box._outcome = lambda program, left=left: next(left)
        verdict = box.run("text")
        assert (verdict.passed, verdict.ran) == (passed, ran)
        assert next(left, None) is None


def test_04_one_alone_waits_for_all_others_and_they_for_it():
    turns, seen, lock = Turns(), [], threading.Lock()

    def work(turn, name):
        with turn():
            with lock:
                seen.append(("in", name))
            time.sleep(0.01)
            with lock:
                seen.append(("out", name))

    threads = [
        threading.Thread(target=work, args=(turns.alone if n % 3 == 0 else turns.shared, n))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for place, (way, name) in enumerate(seen):
        if way == "in" and name % 3 == 0:
            assert seen[place + 1] == ("out", name)
            before = seen[:place]
            assert {n for w, n in before if w == "in"} == {n for w, n in before if w == "out"}


@pytest.mark.full  # starves the other tests of the suite
def test_04_a_right_program_passes_on_a_busy_machine(sandbox):
    burn = "import time\nwhile time.process_time() < {}:\n    pass\n"
    hogs = [
        # Linux shares the CPUs between sessions first (autogroups), and the program has one of its own.
        subprocess.Popen([sys.executable, "-I", "-c", "while True: pass"], start_new_session=True)
        # another worker of pytest may take a CPU besides, and the wait is limited (PATIENCE)
        for _ in range(4 * (os.cpu_count() or 1))
    ]
    try:
        # by the clock alone it would have two seconds
        limits = Limits(wall_seconds=2.0, cpu_seconds=2)
        begun = time.monotonic()
        assert sandbox.run(burn.format(0.7), limits).reason == "passed"
        assert time.monotonic() - begun > limits.wall_seconds
        assert (
            sandbox.run("while True:\n    pass", Limits(wall_seconds=4.0, cpu_seconds=1)).reason
            == "cpu limit"
        )
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_04_a_program_of_many_busy_processes_is_wrong_and_no_error(sandbox):
    program = "import os\nfor _ in range(20):\n    try:\n        os.fork()\n    except OSError:\n        pass\nwhile True:\n    pass\n"
    verdict = sandbox.run(program, Limits(wall_seconds=2.0, cpu_seconds=30))
    assert verdict.ran and not verdict.passed, verdict


def test_04_a_python_below_the_temporary_directory_can_use_namespaces(tmp_path):
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("temporary files are not below /tmp")
    library = tmp_path / "library"
    library.mkdir()
    program = f"import os\nassert os.path.isdir({str(library)!r})\nassert not os.access({str(library)!r}, os.W_OK)\n"
    program += "open('file', 'w').write('x')\nassert os.listdir('.') == ['file']\n"
    judged = f"from dlm_eval.sandbox import Sandbox\nprint(Sandbox('namespaces').run({program!r}).reason)"
    if "namespaces" not in Sandbox("namespaces").refused:
        try:
            Sandbox("namespaces").protections()
        except Unavailable as refusal:
            pytest.skip(str(refusal))
    # what is on the library path is bound as the Python installation itself is
    environment = os.environ | {
        namespaces.LIBRARY_PATH: str(library),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    told = subprocess.run(
        [sys.executable, "-c", judged], env=environment, capture_output=True, text=True
    )
    assert told.stdout.strip() == "passed", told


def test_04_libraries_are_found_as_the_harness_finds_them(tmp_path, sandbox):
    import ctypes.util

    name = ctypes.util.find_library("z")
    maps = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[-1] for line in maps if name and f"/{name}" in line]
    if not found:
        pytest.skip("no library to copy")
    shutil.copy(os.path.realpath(found[0]), tmp_path / "libonlyhere.so.1")
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o755)
    program = "import ctypes\nctypes.CDLL('libonlyhere.so.1')"
    judged = f"from dlm_eval.sandbox import Sandbox\nprint(Sandbox({sandbox.kind!r}).run({program!r}).reason)"
    environment = os.environ | {
        namespaces.LIBRARY_PATH: str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    told = subprocess.run(
        [sys.executable, "-c", judged], env=environment, capture_output=True, text=True
    )
    assert told.stdout.strip() == "passed", told
    assert not sandbox.run(program).passed


def test_04_reading_a_long_message_copies_each_byte_once():
    reading, writing = os.pipe()
    text = "x" * (30 << 20)
    writer = threading.Thread(target=wire.send, args=(writing, {"text": text}))
    writer.start()
    before = time.thread_time()
    assert wire.receive(reading) == {"text": text}
    # quadratic: a copy of 15 MB for each of hundreds of pieces
    assert time.thread_time() - before < 5.0
    writer.join()
    os.close(reading)
    os.close(writing)

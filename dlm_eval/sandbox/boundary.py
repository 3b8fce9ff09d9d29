"""Clean-up between a program's text and its tests, inside the process that runs both.

The text may have set a tracer, a timer or a garbage collector callback, or replaced a builtin or a
function of a module that the tests use. All of these would affect the tests, so they are cleared.
An audit hook (PEP 578; it cannot be removed) then refuses to set them again. In a control run, the
program's values are replaced by wrong ones (`spoil_tests`).
"""

from __future__ import annotations

import builtins
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any

IMPLICIT = ("__import__", "__build_class__")  # builtins that tests use without naming them
MARKED = 0x100  # the flag of a generator that counts as a coroutine (inspect.CO_ITERABLE_COROUTINE)
TOOLS = range(6)  # of sys.monitoring: those that a program may claim
# Audit events that no function under test needs and that could skip or change its caller's lines.
REFUSED = frozenset(
    {
        "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback", "sys.addaudithook",
        "gc.get_objects", "gc.get_referrers", "gc.get_referents",
    }
)  # fmt: skip
Undo = Callable[[dict[str, Any]], None]
Restore = Callable[[Iterable[str]], None]


class _Refused(RuntimeError):
    """The program tried to set a tracer or the like while tests run."""


def remember_modules(modules: Iterable[ModuleType]) -> Restore:
    """Returns ``restore(names)``, which restores ``modules`` and the builtins to their present
    state.

    It restores only ``names`` and the builtins in `IMPLICIT`: reading an object changes its
    reference count, and a forked process then copies the memory page.
    """
    kept = {module.__name__: module for module in (builtins, *modules)}
    contents = [(vars(module), dict(vars(module))) for module in kept.values()]
    loaded = sys.modules

    def restore(names: Iterable[str]) -> None:
        for name in (*IMPLICIT, *names):
            if name in kept:
                loaded[name] = kept[name]
            for current, content in contents:
                if name in content:
                    current[name] = content[name]

    return restore


def remember_hooks() -> Undo:
    """Returns ``undo(namespace)``, which clears hooks that the text has set.

    ``namespace`` is the dictionary in which the text ran. Clear ``sys.settrace`` and
    ``sys.setprofile`` before the call, since a tracer could observe it.
    """
    threads = threading
    set_timer, timers = (
        signal.setitimer,
        (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF),
    )
    callbacks, finders, kept_finders = gc.callbacks, sys.meta_path, list(sys.meta_path)
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    add_hook, settrace, refuse = sys.addaudithook, sys.settrace, _refuse

    def undo(namespace: dict[str, Any]) -> None:
        namespace["__builtins__"] = vars(builtins)
        for timer in timers:
            set_timer(timer, 0)
        callbacks.clear()
        finders[:] = kept_finders
        for setter in TRACERS:
            setter(threads)
        if monitoring is not None:
            _clear_monitoring(monitoring)
        add_hook(refuse)
        try:
            settrace(None)
        except _Refused:
            return
        # An audit hook of the text blocked ours.
        raise RuntimeError("tracers cannot be refused")

    return undo


def _clear_threads_hooks(threads: Any) -> None:
    threads.settrace(None)
    threads.setprofile(None)


def _clear_hooks_of_all_threads(threads: Any) -> None:
    threads.settrace_all_threads(None)
    threads.setprofile_all_threads(None)


TRACERS = (
    _clear_threads_hooks,
    *((_clear_hooks_of_all_threads,) if sys.version_info >= (3, 12) else ()),
)


def _clear_monitoring(monitoring: Any) -> None:
    events = [event for event in vars(monitoring.events).values() if event]
    for tool in TOOLS:
        for event in events:
            monitoring.register_callback(tool, event, None)
        if monitoring.get_tool(tool) is not None:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)


def _refuse(event: str, details: tuple[Any, ...]) -> None:
    if event in REFUSED or (
        event == "object.__setattr__" and details[1] == "__code__" and not _only_marks(*details)
    ):
        raise _Refused(f"{event} is refused while tests run")


def _only_marks(function: Any, _: str, code: Any) -> bool:
    """Returns whether new code is the function's own code with `types.coroutine`'s flag added."""
    old = function.__code__
    same = type(code) is CodeType and code == old.replace(co_flags=code.co_flags)
    tables = [getattr(each, "co_exceptiontable", b"") for each in (old, code)]  # Python 3.11
    return same and tables[0] == tables[1] and old.co_flags ^ code.co_flags == MARKED


# -- the control run, which must fail --------------------------------------------------------------
# The program's functions run as usual, but the tests get wrong values instead of their results. If
# the tests pass nevertheless, the program replaced, skipped or disarmed them, unless they check no
# value at all.


WRONG = "wrong answer"  # message of a control run whose tests used a value of the program
MARK = " of the control"  # names in a program cannot contain a space
OPERATIONS = (
    "eq", "ne", "lt", "le", "gt", "ge", "bool", "hash", "len", "iter", "next", "contains", "getitem", "int", "float",
    "index", "complex", "str", "repr", "format", "abs", "neg", "pos", "invert", "round", "trunc", "floor", "ceil",
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod",
    "divmod", "rdivmod", "pow", "rpow", "matmul", "rmatmul", "and", "rand", "or", "ror", "xor", "rxor", "lshift",
    "rlshift", "rshift", "rrshift", "enter", "exit", "reversed", "call", "getattr",
)  # fmt: skip


def _raise(*_: Any, **__: Any) -> Any:
    raise AssertionError(WRONG)


Wrong = type("Wrong", (), {f"__{operation}__": _raise for operation in OPERATIONS})


class Answers:
    """Replaces a value of the program: calls run as usual but return a wrong value."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._value(*arguments, **named)
        return Wrong()

    def __getattr__(self, name: str) -> Any:
        return Answers(getattr(self._value, name))

    def __getitem__(self, key: Any) -> Any:
        return Answers(self._value[key])

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __iter__ = __len__ = (
        __contains__
    ) = _raise
    __hash__ = object.__hash__


def spoil_tests(tests: CodeType, namespace: dict[str, Any], defined: dict[str, Any]) -> CodeType:
    """Returns ``tests`` that use `Answers` in ``namespace`` instead of the names in ``defined``.

    The program's own functions see the original values. An undefined name becomes a function that
    does nothing, so without a program only tests that check no value pass.
    """
    for name in set(used_names(tests)):
        if name in defined:
            if not isinstance(defined[name], ModuleType):
                namespace[name + MARK] = Answers(defined[name])
        elif not hasattr(builtins, name):
            namespace[name] = Answers(lambda *_, **__: None)
    return _renamed(tests, namespace)


def used_names(code: CodeType) -> Iterator[str]:
    """Yields the names that code uses but does not define: globals, attributes, modules."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from used_names(constant)


def _renamed(code: CodeType, namespace: dict[str, Any]) -> CodeType:
    renamed = tuple(name + MARK if name + MARK in namespace else name for name in code.co_names)
    constants = tuple(
        _renamed(constant, namespace) if isinstance(constant, CodeType) else constant
        for constant in code.co_consts
    )
    return code.replace(co_names=renamed, co_consts=constants)

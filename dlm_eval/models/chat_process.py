"""The process that renders chat templates: `python -m dlm_eval.models.chat_process FD` answers requests on an inherited pipe.

A chat template comes with the checkpoint and is a program. transformers' sandbox keeps it from files and from Python's insides, but not from running
for ever or from making a text of a terabyte. Here the kernel ends it: a rendering has `CPU_SECONDS` of processor time (whatever it does, inside a C
function too) and the process `MEMORY` bytes more than it started with.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from multiprocessing.connection import Connection
from typing import Any

CPU_SECONDS = 5  # of one rendering; honest templates take milliseconds
MEMORY = 2**30  # bytes
LONGEST = 2**26  # characters of a rendered text
POWER_BITS = 2**16  # bits of the result of `**`
REPEATED = 2**24  # characters or items of the result of `*`
LONGEST_ERROR = 1000  # characters of what a template says when it refuses
READY = b"ready"


def main() -> None:
    """Answers requests, JSON of `render_jinja_template`'s arguments, with {"text": ...} or {"error": ...}, until the pipe closes."""
    pipe = Connection(int(sys.argv[1]))
    _guard_operators()
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, _address_space() + MEMORY)
    pipe.send_bytes(READY)
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS)
        pipe.send_bytes(json.dumps(_answer(render_jinja_template, request)).encode())


def _answer(render: Any, request: dict[str, Any]) -> dict[str, str]:
    try:
        text = render(**request)[0][0]
        if len(text) > LONGEST:
            return {"limit": f"writes more than {LONGEST} characters"}
        return {"text": text}
    except MemoryError:
        return {"limit": f"needs more than {MEMORY >> 20} MiB"}
    except OverflowError as error:  # ours, and that of jinja's range
        return {"limit": f"asks for too much ({error})"}
    except RecursionError:
        return {"limit": "is nested too deeply"}
    except Exception as error:  # a template may raise anything
        kind = type(error).__name__
        text = str(error) if kind == "TemplateError" else f"{kind}: {error}"
        return {"error": text[:LONGEST_ERROR]}


def _guard_operators() -> None:
    """Refuses results of `**` and `*` that are too large to be meant, before they are computed (constants among them)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    plain = ImmutableSandboxedEnvironment.call_binop

    def call_binop(self: Any, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * max(right, 0) > POWER_BITS:
                raise OverflowError("the result of ** is too large")
        elif operator == "*" and _length(left, right) > REPEATED:
            raise OverflowError("the result of * is too large")
        return plain(self, context, operator, left, right)

    ImmutableSandboxedEnvironment.intercepted_binops = frozenset(["**", "*"])
    ImmutableSandboxedEnvironment.call_binop = call_binop  # type: ignore[method-assign]


def _length(left: Any, right: Any) -> int:
    """Returns the length of a text or list times a number, 0 for other products."""
    pairs = ((left, right), (right, left))
    lengths = [len(one) * by for one, by in pairs if isinstance(one, (str, list, tuple)) and isinstance(by, int)]
    return max(lengths, default=0)


def _limit(kind: int, value: int) -> None:
    """Sets a limit of this process, as low as the one that it has already."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    """Returns the bytes of address space in use, or of the peak memory if the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

"""Chat templates, rendered as transformers renders them, in a process with little time and memory.

A chat template comes with the checkpoint and is a program. transformers' sandbox keeps it from
files and from Python's insides, but not from running for ever or from making a text of a terabyte.
Here the kernel ends it: a rendering has `CPU_SECONDS` of processor time (whatever it does, inside a
C function too) and the process `MEMORY` bytes more than it started with.

`python -m dlm_eval.models.chat FD` is that process: it answers requests on an inherited pipe.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from dlm_eval.errors import RunError, SampleError, UserError

CPU_SECONDS = 5  # of one rendering; honest templates take milliseconds
MEMORY = 2**30  # bytes
LONGEST = 2**26  # characters of a rendered text
POWER_BITS = 2**16  # bits of the result of `**`
REPEATED = 2**24  # characters or items of the result of `*`
LONGEST_ERROR = 1000  # characters of what a template says when it refuses
READY = b"ready"


def main() -> None:
    """Answers requests until the pipe closes.

    A request is JSON of `render_jinja_template`'s arguments. An answer is {"text": ...}, {"error":
    ...} or {"limit": ...}.
    """
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
    """Refuses too large results of `**` and `*`, before they are computed (constants too)."""
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
    lengths = [
        len(one) * by
        for one, by in pairs
        if isinstance(one, (str, list, tuple)) and isinstance(by, int)
    ]
    return max(lengths, default=0)


def _limit(kind: int, value: int) -> None:
    """Sets a limit of this process, as low as the one that it has already."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    """Returns the bytes of address space in use, or of the peak memory if that is unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()


# -- the process that renders ----------------------------------------------------------------------


NO_TEMPLATE = (
    "this checkpoint has no chat template; run without --apply_chat_template (with --suite: "
    "--apply_chat_template false), or choose an instruct checkpoint"
)
LONGEST_TEMPLATE = 2**20  # characters
# a rendering waits for a processor too; longer than this, it counts as hanging
WALL_SECONDS = 120.0


def render_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], name: str, **options: Any
) -> str:
    """Returns a conversation as text, equal to the tokenizer's own `apply_chat_template(...,
    tokenize=False)`.

    Args:
        tokenizer: a transformers tokenizer that has a chat template.
        messages: with 'role' and 'content' each.
        name: of the checkpoint, for messages.
        options: chat_template (its text; else the one that transformers would choose),
            add_generation_prompt, tools, documents, continue_final_message, and what the template
            reads besides; plain JSON.

    Raises:
        UserError: the template is too long, or had to be ended: it takes too much time or memory.
        SampleError: the template refuses this conversation, or fails on it.
        RunError: the process that renders does not start.
    """
    if not messages:
        raise SampleError("an empty conversation has no prompt")
    try:
        template = options.pop("chat_template", None) or tokenizer.get_chat_template(
            tools=options.get("tools")
        )
    except ValueError as error:  # several templates, and none of them the default
        raise UserError(f"'{name}': {' '.join(str(error).split())[:300]}") from None
    if not isinstance(template, str):
        raise UserError(f"the chat template of '{name}' is no text")
    if len(template) > LONGEST_TEMPLATE:
        raise UserError(
            f"the chat template of '{name}' has more than {LONGEST_TEMPLATE} characters; it is not "
            "run"
        )
    # transformers drops keys without a value, and hands the special tokens to the template by name.
    conversation = [
        {key: value for key, value in message.items() if value is not None} for message in messages
    ]
    request = {
        **tokenizer.special_tokens_map,
        **options,
        "conversations": [conversation],
        "chat_template": template,
    }
    answer = _renderer().ask(request)
    if "limit" in answer:
        raise UserError(
            f"the chat template of '{name}' {answer['limit']}; it was ended: mend its chat_template"
        )
    if "error" in answer:
        raise SampleError(
            f"the chat template of '{name}' refuses the conversation: {answer['error']}"
        )
    return answer["text"]


class _Renderer:
    """The process that renders. A template that had to be ended is followed by a new one."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Returns the process's answer, or {"limit": why} if it had to be ended.

        Raises:
            RunError: the process does not start.
        """
        message = json.dumps(request, default=str).encode()
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self.close()  # ended from outside since the last rendering: no template's fault
            pipe = self._pipe or self._start()
            try:
                pipe.send_bytes(message)
                if pipe.poll(WALL_SECONDS):
                    answer: dict[str, str] = json.loads(pipe.recv_bytes())
                    return answer
                self.close()
                return {"limit": f"takes more than {WALL_SECONDS:.0f} s"}
            except (EOFError, ConnectionError):
                return {"limit": _how(self.close())}
            # Ctrl-C: what the process still says would be taken for the next answer
            except BaseException:
                self.close()
                raise

    def close(self) -> int:
        """Ends the process and returns its exit code."""
        if self._process is None or self._pipe is None:
            return 0
        self._pipe.close()
        try:
            # it ends by itself when the pipe is closed, or has ended
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = self._pipe = None
        return code

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        paths = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dlm_eval.models.chat", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **paths},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._pipe = ours
        try:
            if ours.poll(WALL_SECONDS) and ours.recv_bytes() == READY:
                return ours
        except EOFError:
            pass
        raise RunError(
            f"the process that renders chat templates did not start ({_how(self.close())})"
        )


_current: _Renderer | None = None
_choosing = threading.Lock()


def _renderer() -> _Renderer:
    """Returns this process's renderer (a forked child has its parent's no longer)."""
    global _current
    with _choosing:
        if _current is None or _current.owner != os.getpid():
            _current = _Renderer()
            atexit.register(_current.close)
        return _current


def _how(code: int) -> str:
    """Returns, in words for a message, why the process ended."""
    if code == -signal.SIGXCPU:
        return f"takes more than {CPU_SECONDS} s of processor time"
    return (
        f"ended its process by {signal.Signals(-code).name}"
        if code < 0
        else f"ended its process with code {code}"
    )

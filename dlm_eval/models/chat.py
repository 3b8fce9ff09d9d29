"""Chat templates, rendered as transformers renders them, in a process of their own that has little time and memory (see `chat_process`)."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from dlm_eval.errors import RunError, SampleError, UserError
from dlm_eval.models.chat_process import CPU_SECONDS, READY

LONGEST_TEMPLATE = 2**20  # characters
WALL_SECONDS = 120.0  # a rendering waits for a processor too; longer than this, it counts as hanging


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], name: str, **options: Any) -> str:
    """Returns a conversation as text, equal to the tokenizer's own `apply_chat_template(..., tokenize=False)`.

    Args:
        tokenizer: a transformers tokenizer that has a chat template.
        messages: with 'role' and 'content' each.
        name: of the checkpoint, for messages.
        options: chat_template (its text; else the one that transformers would choose), add_generation_prompt, tools, documents, continue_final_message, and what the template reads besides; plain JSON.

    Raises:
        UserError: the template is too long, or had to be ended: it takes too much time or memory.
        SampleError: the template refuses this conversation, or fails on it.
        RunError: the process that renders does not start.
    """
    if not messages:
        raise SampleError("an empty conversation has no prompt")
    try:
        template = options.pop("chat_template", None) or tokenizer.get_chat_template(tools=options.get("tools"))
    except ValueError as error:  # several templates, and none of them the default
        raise UserError(f"'{name}': {' '.join(str(error).split())[:300]}") from None
    if not isinstance(template, str):
        raise UserError(f"the chat template of '{name}' is no text")
    if len(template) > LONGEST_TEMPLATE:
        raise UserError(f"the chat template of '{name}' has more than {LONGEST_TEMPLATE} characters; it is not run")
    # transformers drops keys without a value, and hands the special tokens to the template by name.
    conversation = [{key: value for key, value in message.items() if value is not None} for message in messages]
    request = {**tokenizer.special_tokens_map, **options, "conversations": [conversation], "chat_template": template}
    answer = _renderer().ask(request)
    if "limit" in answer:
        raise UserError(f"the chat template of '{name}' {answer['limit']}; it was ended: mend its chat_template")
    if "error" in answer:
        raise SampleError(f"the chat template of '{name}' refuses the conversation: {answer['error']}")
    return answer["text"]


class _Renderer:
    """The process that renders: started with the first request, and again after a template that had to be ended."""

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
            except BaseException:  # Ctrl-C: what the process still says would be taken for the next answer
                self.close()
                raise

    def close(self) -> int:
        """Ends the process and returns its exit code."""
        if self._process is None or self._pipe is None:
            return 0
        self._pipe.close()
        try:
            code = self._process.wait(timeout=1)  # it ends by itself when the pipe is closed, or has ended
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = self._pipe = None
        return code

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        paths = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dlm_eval.models.chat_process", str(theirs.fileno())],
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
        raise RunError(f"the process that renders chat templates did not start ({_how(self.close())})")


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
    return f"ended its process by {signal.Signals(-code).name}" if code < 0 else f"ended its process with code {code}"

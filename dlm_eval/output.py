"""Output of a command: streams, log, warnings and progress bars show no control characters and no
secrets.

While a command runs (`safe_output`), standard output and error have an encoding that escapes
control characters (`printable`) and redacts secrets in everything written to them. It keeps
newlines. Texts from outside that are part of a line (log messages, errors, table cells) are made
one line before.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

import tqdm.std

from dlm_eval.errors import unknown_name_error
from dlm_eval.patching import replaced
from dlm_eval.printable import printable, printable_lines
from dlm_eval.redaction import redact_message, redact_text

PREFIX = "printable_"
LEAST_WIDTH = 24  # minimum width of a wrapped column
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MOVES = re.compile(r"[\r\n]|\n*(\x1b\[A)*")  # written by progress bars to move the cursor
FOLLOWS = "\n    "  # indents further lines of a message, so that none looks like another message


def one_line(text: str) -> str:
    """Returns a message on one line, printable and without secrets."""
    return printable(redact_message(text))


def table(
    rows: Sequence[Sequence[Any]], headers: Sequence[str], width: int | None = None, **options: Any
) -> str:
    """Returns a table as text. Cells are made printable and are never reformatted as numbers.

    Args:
        rows: cells.
        headers: headers of the columns.
        width: maximum characters of a line; the last column is wrapped to fit. None wraps nothing.
        options: options of tabulate.
    """
    from tabulate import tabulate

    cells = [[printable(str(value)) for value in row] for row in rows]
    names = [printable(name) for name in headers]
    if width is not None and cells:
        headed = [f"{name}  " for name in names]  # tabulate pads headers
        longest = [max(map(len, column)) for column in zip(headed, *cells, strict=True)]
        left = width - sum(longest[:-1]) - 2 * (len(names) - 1)
        options["maxcolwidths"] = [None] * (len(names) - 1) + [max(LEAST_WIDTH, left)]
    shown: str = tabulate(cells, names, disable_numparse=True, **options)
    return shown


def write_raw(stream: TextIO, text: str) -> None:
    """Writes text with our own control characters; other texts must be printable already."""
    if not isinstance(stream, io.TextIOWrapper):
        stream.write(text)
        return
    stream.flush()
    stream.buffer.write(text.encode(_base(stream.encoding), "backslashreplace"))
    stream.buffer.flush()


@contextmanager
def safe_output() -> Iterator[None]:
    """Makes all output of this process printable and free of secrets until the command ends.

    After an unexpected exception the streams stay safe, since Python still has to print the
    traceback.
    """
    streams = [
        stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)
    ]
    before = [
        (stream, stream.encoding, stream.errors)
        for stream in streams
        if not stream.encoding.startswith(PREFIX)
    ]
    for stream, encoding, _ in before:
        stream.reconfigure(encoding=PREFIX + codecs.lookup(encoding).name.replace("-", "_"))
    with ExitStack() as stack:
        stack.enter_context(safe_log())
        stack.enter_context(replaced(warnings, "formatwarning", _warning))
        stack.enter_context(replaced(tqdm.std.tqdm, "__init__", _begin_bar))
        try:
            yield
        except Exception:
            raise
        except BaseException:
            _restore(before)
            raise
        _restore(before)


@contextmanager
def safe_log() -> Iterator[None]:
    """Makes every log message one printable line without secrets, for all loggers and handlers."""
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(SafeRecord)
    try:
        # A failing handler would print a traceback.
        with replaced(logging, "raiseExceptions", False):
            yield
    finally:
        logging.setLogRecordFactory(before)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes the log to the present `sys.stderr`."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


# transformers imports torchao wherever it is installed, which warns of what the machine lacks,
# whether a model is quantized or not.
UNASKED = ("torchao", "torch.utils._pytree")


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Shows a command's log on standard error, from the level that `set_verbosity` sets."""
    root, handler = logging.getLogger(), _StandardError()
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, UNASKED))}
    root.addHandler(handler)
    for name in UNASKED:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)


def set_verbosity(level: Any) -> None:
    """Sets the lowest level of the log that is shown; None for $LMEVAL_LOG_LEVEL, else warnings.

    Raises:
        UserError: there is no such level.
    """
    name = str(level or os.environ.get("LMEVAL_LOG_LEVEL") or "WARNING").upper()
    if name not in LEVELS:
        raise unknown_name_error("--verbosity", name, LEVELS)
    logging.getLogger().setLevel(name)
    if name != "DEBUG":
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _restore(streams: Sequence[tuple[io.TextIOWrapper, str, str | None]]) -> None:
    for stream, encoding, errors in streams:
        with suppress(OSError, ValueError):  # the reader has ended, or the stream is closed
            stream.reconfigure(encoding=encoding, errors=errors)


# -- streams ---------------------------------------------------------------------------------------


def _encoder(base: str) -> Callable[..., codecs.IncrementalEncoder]:
    class Encoder(codecs.IncrementalEncoder):
        def encode(self, text: str, final: bool = False) -> bytes:
            return _encode(text, base)

    return Encoder


def _encode(text: str, base: str) -> bytes:
    return printable_lines(redact_text(text)).encode(base, "backslashreplace")


def _codec(name: str) -> codecs.CodecInfo | None:
    """Returns `printable_X`: X with control characters escaped and secrets redacted."""
    if not name.startswith(PREFIX):
        return None
    base = codecs.lookup(name.removeprefix(PREFIX)).name
    return codecs.CodecInfo(
        encode=lambda text, errors="strict": (_encode(text, base), len(text)),
        decode=codecs.lookup(base).decode,
        incrementalencoder=_encoder(base),  # type: ignore[arg-type]
        incrementaldecoder=codecs.lookup(base).incrementaldecoder,
        name=name,
    )


codecs.register(_codec)


def _base(encoding: str) -> str:
    return encoding.removeprefix(PREFIX)


# -- log and warnings ------------------------------------------------------------------------------


class SafeRecord(logging.LogRecord):
    """A log record whose message is one line without secrets under any formatter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = printable(str(self.name))
        if self.exc_info and self.exc_info[0] is not None:
            lines = "".join(traceback.format_exception(*self.exc_info)).rstrip("\n")
            self.exc_text = "    " + FOLLOWS.join(
                printable_lines(redact_message(lines)).split("\n")
            )

    def getMessage(self) -> str:  # noqa: N802
        """Returns the message with its arguments in it."""
        return one_line(super().getMessage())


def _warning(
    message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{one_line(filename)}:{lineno}: {category.__name__}: {one_line(str(message))}\n"


# -- progress bars ---------------------------------------------------------------------------------


class BarStream:
    """The stream of a progress bar: cursor movements pass, texts are made printable."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = _base(stream.encoding or "utf-8")

    def write(self, text: str) -> None:
        """Shows a bar's text."""
        if MOVES.fullmatch(text):
            write_raw(self._stream, text)
            return
        back = "\r" if text.startswith("\r") else ""
        write_raw(self._stream, back + one_line(text[len(back) :]))

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._stream  # tqdm compares it with the terminal's stream

    def __hash__(self) -> int:
        return hash(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_begin = tqdm.std.tqdm.__init__


def _begin_bar(self: Any, *args: Any, **kwargs: Any) -> None:
    """Initialises a tqdm bar; one on standard error writes through `BarStream`."""
    if len(args) <= 4 and kwargs.get("file") in (None, sys.stderr) and sys.stderr is not None:
        kwargs["file"] = BarStream(sys.stderr)
    _begin(self, *args, **kwargs)

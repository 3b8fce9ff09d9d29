"""Files written atomically: all of them, or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from dlm_eval.errors import UserError
from dlm_eval.printable import valid_unicode
from dlm_eval.redaction import redact_text


def write_files(texts: Mapping[Path, str | bytes]) -> None:
    """Writes all files atomically. If one cannot be written, none is changed.

    Texts lose their secrets; bytes are written as they are.

    Raises:
        UserError: a path cannot be written.
    """
    temporary: dict[Path, Path] = {}
    current = Path()
    try:
        for current, whole in texts.items():
            text = valid_unicode(redact_text(whole)) if isinstance(whole, str) else whole
            temporary[current] = (
                current.parent / f".{len(temporary)}.{current.name[-100:]}.{os.getpid()}.tmp"
            )
            if os.path.isdir(current):
                raise IsADirectoryError(0, "is a directory")
            if os.path.exists(current) and not os.path.isfile(current):
                # os.replace would replace a device by a file.
                raise OSError(0, "is no ordinary file")
            current.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(temporary[current], text)
        for current in texts:
            os.replace(temporary[current], current)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UserError(
            f"output '{current}' cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from error
    finally:
        for path in temporary.values():
            with contextlib.suppress(OSError, ValueError):  # it was never written, or is renamed
                path.unlink()


def _write_synced(path: Path, text: str | bytes) -> None:
    with path.open("wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())

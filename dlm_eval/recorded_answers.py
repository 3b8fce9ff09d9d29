"""Files of answers that another harness, engine or paper has recorded.

A file has one JSON object per line (``.jsonl``, also ``.jsonl.gz``), or one JSON list of objects
(``.json``). lm-eval's and our own ``samples_*.jsonl`` are such files. Files are untrusted: sizes
are limited, and types are checked where a field is read.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError, unknown_name_error

MOST_BYTES = 4 << 30  # of a file, unpacked
MOST_LINE = 64 << 20  # bytes of a line


@dataclass(frozen=True)
class RecordedAnswer:
    """One answer of a file.

    Attributes:
        fields: the JSON object.
        path: the file.
        number: number of the answer in the file, from 0.
    """

    fields: dict[str, Any]
    path: str
    number: int

    def value(self, name: str) -> Any:
        """Returns a field.

        Raises:
            UserError: the answer has no such field; the message has the nearest name.
        """
        if name not in self.fields:
            error = unknown_name_error("field", name, list(self.fields))
            raise UserError(f"{self.path}, answer {self.number}: {error}")
        return self.fields[name]

    def text(self, name: str) -> str:
        """Returns a field that is a text.

        Raises:
            UserError: there is none, or it is no text.
        """
        found = self.value(name)
        if not isinstance(found, str):
            raise self.wrong(name, "it must be a text")
        return found

    def texts(self, name: str) -> list[str]:
        """Returns the texts of a field: one text, or a list of them (lm-eval's `resps` is a list of
        lists, with one text per repeat).

        Raises:
            UserError: it is neither.
        """
        found = self.value(name)
        while isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
            found = found[0]
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.wrong(name, "it must be a text or a list of texts")
        return texts

    def wrong(self, name: str, why: str) -> UserError:
        """Returns the error of a field with a value of the wrong form."""
        return UserError(f"{self.path}, answer {self.number}: '{name}' is not allowed; {why}")


def read_answers(path: str) -> list[RecordedAnswer]:
    """Returns the answers of a file, in its order.

    Raises:
        UserError: the file cannot be read, is too large, or a line is no JSON object.
    """
    try:
        objects = list(_objects(Path(path)))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"answers '{path}' cannot be read: {reason}") from error
    except (EOFError, zlib.error, ValueError) as error:  # a cut or broken gzip; a NUL in the path
        raise UserError(f"answers '{path}' cannot be read: {error}") from error
    if not objects:
        raise UserError(f"answers '{path}' has no answers")
    return [RecordedAnswer(fields, path, number) for number, fields in enumerate(objects)]


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    whole = path.suffixes[-1:] == [".json"]
    left = MOST_BYTES
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        number = 0
        while line := stream.readline(MOST_BYTES if whole else MOST_LINE):
            number, left = number + 1, left - len(line)
            if left < 0 or (not whole and len(line) >= MOST_LINE):
                raise UserError(f"answers '{path}', line {number}: the file or line is too large")
            if whole:
                line += stream.read(left)
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"answers '{path}', line {number} is not JSON: {error}") from error
            objects = found if whole and isinstance(found, list) else [found]
            if not all(isinstance(one, dict) for one in objects):
                raise UserError(f"answers '{path}', line {number} is no JSON object")
            yield from objects

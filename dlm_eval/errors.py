"""The exceptions of dlm_eval.

A ``UserError`` is a mistake of the user (exit code 2). A ``RunError`` is a run that failed (exit
code 1). A ``SampleError`` is the failure of one sample; it is stored with the sample, and the run
continues.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dlm_eval.printable import printable
from dlm_eval.redaction import redact_message

LONGEST = 2400  # maximum characters of an error; a list of all models takes 1600


class DlmEvalError(Exception):
    """Base of all errors that dlm_eval raises.

    Its text is one printable line without secrets, of limited length.
    """

    def __str__(self) -> str:
        text = printable(redact_message(super().__str__()))
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


class UserError(DlmEvalError):
    """A setting that cannot be used (exit code 2).

    The message names it, its value and what is allowed.
    """


class RunError(DlmEvalError):
    """A run, or a part of it, that failed for another reason than its settings (exit code 1)."""


class SampleError(DlmEvalError):
    """A request that could not be answered. It is stored with its sample, and the run continues."""


class OutOfMemory(SampleError):
    """A request that does not fit the device's memory even alone."""


def nearest(value: object, allowed: Iterable[str], count: int = 1) -> list[str]:
    """Returns up to ``count`` allowed names similar to ``value``, the most similar first, without
    ``value``.
    """
    spelled = {name.lower(): name for name in allowed if name != str(value)}
    found = difflib.get_close_matches(str(value).lower(), spelled, n=count, cutoff=0.5)
    return [spelled[name] for name in found]


def unknown_name_error(
    setting: str, value: object, allowed: Iterable[str], listed: str | None = None
) -> UserError:
    """Returns the error for a name that is not one of ``allowed``, with the nearest one.

    Args:
        setting: The setting, as the user wrote it (``--estimator``, ``model``).
        value: Its value.
        allowed: The allowed names.
        listed: The command that lists them. If given, the message has only the three nearest names.
    """
    names = sorted(allowed)
    near = [f"'{name}'" for name in nearest(value, names, 3 if listed else 1)]
    guess = (
        f"did you mean {', '.join(near[:-1]) + ' or ' * (len(near) > 1) + near[-1]}? "
        if near
        else ""
    )
    shown = f"`{listed}` lists them" if listed else f"allowed: {', '.join(names) or 'none'}"
    return UserError(f"{setting} '{value}' is not known; {guess}{shown}")

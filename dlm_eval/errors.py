"""The exceptions of dlm_eval: whose fault it was, in one line.

A ``UserError`` is the user's mistake (exit 2), a ``RunError`` a run that failed (exit 1), a ``SampleError`` the fault
of one sample, which is recorded beside it while the run goes on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dlm_eval.printable import printable
from dlm_eval.redaction import redact_message

LONGEST = (
    2400  # characters of an error: the names of all models are sixteen hundred, a quoted value may be a whole file
)


class DlmEvalError(Exception):
    """Base of every error that dlm_eval raises on purpose. Its text is one printable line without secrets, whatever it quotes, and not endless."""

    def __str__(self) -> str:
        text = printable(redact_message(super().__str__()))
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


class UserError(DlmEvalError):
    """A setting that cannot be used: the message names it, its value and what is allowed (exit code 2)."""


class RunError(DlmEvalError):
    """A run, or a part of it, that failed through no fault of the settings (exit code 1)."""


class SampleError(DlmEvalError):
    """One request that could not be answered; it is stored with its sample and the run goes on."""


class OutOfMemory(SampleError):
    """One request that does not fit the device's memory even alone."""


def nearest(value: object, allowed: Iterable[str], count: int = 1) -> list[str]:
    """Returns up to ``count`` allowed names that look like ``value``, the most alike first; never ``value`` itself."""
    spelled = {name.lower(): name for name in allowed if name != str(value)}
    found = difflib.get_close_matches(str(value).lower(), spelled, n=count, cutoff=0.5)
    return [spelled[name] for name in found]


def unknown_name_error(setting: str, value: object, allowed: Iterable[str], listed: str | None = None) -> UserError:
    """Returns the error for a name that is not one of ``allowed``, with the nearest one.

    Args:
        setting: What the user set, as the user wrote it (``--estimator``, ``model``).
        value: What it was set to.
        allowed: The names that would have been accepted.
        listed: The command that lists them. The message then has the three nearest names, not all.
    """
    names = sorted(allowed)
    near = [f"'{name}'" for name in nearest(value, names, 3 if listed else 1)]
    guess = f"did you mean {', '.join(near[:-1]) + ' or ' * (len(near) > 1) + near[-1]}? " if near else ""
    shown = f"`{listed}` lists them" if listed else f"allowed: {', '.join(names) or 'none'}"
    return UserError(f"{setting} '{value}' is not known; {guess}{shown}")

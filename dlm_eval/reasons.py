"""Why something failed: an unexpected exception as one line, with the place in a file of the user."""

from __future__ import annotations

import traceback
from pathlib import Path

from dlm_eval.output import one_line
from dlm_eval.user_files import is_users

LONGEST = 600  # characters of an exception's text


def reason(error: BaseException) -> str:
    """Returns the type and text of an exception on one line, without secrets and not too long, and
    where in a file of the user it was raised.
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's own exception may have a broken __str__
        text = ""
    # Redacted before it is cut, since redaction does not recognise half of a secret.
    said = one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]} …"
    return said + place_of(error)


def place_of(error: BaseException) -> str:
    """Returns " (in FILE, line N)": where in a file of the user an exception was raised, or what that
    file called. "" if none of the user's files was involved.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if is_users(file):
            return one_line(f" (in {file.name}, line {frame.lineno})")
    return ""

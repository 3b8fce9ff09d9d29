"""Names of tasks and models in the names of result files."""

from __future__ import annotations

import re

from dlm_eval.printable import valid_unicode
from dlm_eval.rng import digest

LONGEST = 150  # maximum bytes of a task's or model's name in a file name (255 with the date)
NOT_IN_FILES = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\[\]*?\"<>|:\u2028\u2029\u202a-\u202e]|^\.+")


def file_name(name: str, most: int = LONGEST) -> str:
    """Returns the name of a task or model for use in a file name.

    Forbidden characters are replaced; the name then ends in a hash.
    """
    kept = NOT_IN_FILES.sub("_", valid_unicode(name)).encode()[:most].decode(errors="ignore")
    return name if kept == name else f"{kept}-{digest(name)[:8]}"

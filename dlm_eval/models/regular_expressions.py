"""Whether a regular expression of a file can run for ever."""

from __future__ import annotations

import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any


def explodes(pattern: str) -> bool:
    """Returns whether a regular expression takes exponential time on some texts.

    That is the case if it repeats something that repeats or chooses itself, such as (a+)+.
    """
    try:
        return _nested(parser.parse(pattern), inside=False)
    except (re.error, RecursionError, OverflowError):
        return True


def _nested(tree: Any, inside: bool) -> bool:
    for code, value in tree:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, body = value
            several = most > 1
            if (inside and most > least) or _nested(body, inside or several):
                return True
        elif code is codes.BRANCH:
            if inside or any(_nested(branch, inside) for branch in value[1]):
                return True
        elif code is codes.SUBPATTERN:
            if _nested(value[-1], inside):
                return True
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            if _nested(value[1], inside):
                return True
        elif code is codes.GROUPREF_EXISTS:
            return True
    return False

"""The grid of decode settings: all combinations of the words of --decode."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from dlm_eval.errors import UserError
from dlm_eval.settings import split_commas


def grid(groups: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Returns all combinations of settings, group by group, without duplicates.

    Args:
        groups: the words of each --decode, for example "steps=8,16". A comma outside brackets
            separates alternatives.

    Raises:
        UserError: a word is not key=value[,value...], or a group has a key twice.
    """
    points: list[dict[str, str]] = []
    for words in groups:
        axes = _axes(words)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            if point not in points:
                points.append(point)
    return points


def _axes(words: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    wrong = UserError(
        f"--decode '{' '.join(words)}' is not of the form key=value[,value...] key=value[,value...]"
    )
    for part in split_commas(",".join(words)):
        named = re.match(r"(\w+)\s*=\s*(.*)", part, re.DOTALL)
        if named and named[1] in axes:
            raise UserError(
                f"--decode {named[1]} is given twice; write its alternatives with commas: "
                f"{named[1]}=VALUE,VALUE"
            )
        if named:
            axes[named[1]] = []
        value = named[2] if named else part
        if not axes or not value:
            raise wrong
        axes[next(reversed(axes))].append(value)
    if not axes:
        raise wrong
    return axes

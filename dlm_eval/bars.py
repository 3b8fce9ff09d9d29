"""Progress bars in terminals and in notebooks. Elsewhere nothing moves, so no bar is drawn."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tqdm import tqdm


def is_notebook() -> bool:
    """Returns whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def can_draw() -> bool:
    """Returns whether standard error can show a bar: a terminal, or the output of a notebook."""
    return sys.stderr.isatty() or is_notebook()


def bar(title: str, total: int, unit: str, hidden: bool = False) -> Any:
    """Returns a bar of tqdm; it draws nothing if `hidden` or if there is no place for it.

    In a notebook it is a widget if `ipywidgets` is installed, else a line of text.
    """
    shown = not hidden and can_draw()
    kind: Any = tqdm
    if shown and is_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget

        kind = widget
    room = {} if kind is not tqdm else _room()
    return kind(total=total, desc=title, unit=unit, disable=not shown, mininterval=0.2, **room)


def counting(
    title: str, total: int, progress: bool | None, then: Callable[..., None] | None = None
) -> tuple[Any, Callable[..., None]]:
    """Returns a bar, and a function to be called as each of `total` things is done.

    Args:
        progress: whether to show the bar; None shows it in notebooks if there are several things.
        then: is called with the arguments of each call.
    """
    shown = (is_notebook() and total > 1) if progress is None else progress
    drawn = bar(title, total, "canvas", hidden=not shown)

    def done(*given: Any) -> None:
        drawn.update()
        if then is not None:
            then(*given)

    return drawn, done


def _room() -> dict[str, Any]:
    """Returns tqdm's size options: the terminal's size, or a default if the terminal has none.

    tqdm would show nothing in containers and recordings.
    """
    with suppress(OSError, ValueError):  # a kernel's stream has no descriptor, or another's
        if min(os.get_terminal_size(sys.stderr.fileno())) > 0:
            return {"dynamic_ncols": True}
    return {"ncols": 140 if not is_notebook() else 100, "nrows": 20}

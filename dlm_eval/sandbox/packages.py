"""Packages that programs may import beside the standard library, because their tests need them.

Never by default: a score does not depend on what else is installed. The tests of a program decide, not the program
(see dlm_eval/metrics/code.py). The folders are found on the harness's side and can only be read inside.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Packages:
    """What one server has beside the standard library.

    Attributes:
        name: of the package; "" for none.
        folders: its own, and those of the libraries that its files need.
    """

    name: str = ""
    folders: tuple[str, ...] = ()


def numpy() -> Packages:
    """Returns numpy as the harness itself has it.

    Raises:
        LookupError: It is not installed as files.
    """
    found = importlib.util.find_spec("numpy")
    if found is None or found.origin is None:
        raise LookupError("numpy is not installed")
    folder = os.path.dirname(os.path.realpath(found.origin))
    libraries = folder + ".libs"  # where wheels keep the libraries that their files link
    return Packages("numpy", (folder, libraries) if os.path.isdir(libraries) else (folder,))

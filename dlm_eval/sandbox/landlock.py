"""Landlock: the file system out of reach without any privilege, where namespaces are refused (Linux 5.13).

A program under it may read the Python installation and do as it likes in its working directory. It can still ask
whether a file exists and how large it is; see docs/sandbox.md. Later kernels also close TCP (6.7), and signals to and
abstract sockets of processes outside (6.12); behind the system call filter that is a second wall.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from . import kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, PATH_BENEATH = 1, 1
WRITE_FILE, READ_FILE, READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
RIGHTS_IN_VERSION = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
NETWORK_VERSION, BIND_AND_CONNECT_TCP = 4, 0b11
SCOPE_VERSION, ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11


def restrict(readable: Iterable[str], devices: Iterable[str], home: str) -> None:
    """Leaves this process and its children ``readable`` to read, ``devices`` to read and write, ``home`` for all.

    Raises:
        OSError: The kernel has no Landlock, or it is switched off.
    """
    version = kernel.call("syscall", CREATE_RULESET, None, 0, VERSION_FLAG)
    every_right = RIGHTS_IN_VERSION[min(version, len(RIGHTS_IN_VERSION) - 1)]
    handled = struct.pack("Q", every_right)
    handled += struct.pack("Q", BIND_AND_CONNECT_TCP) if version >= NETWORK_VERSION else b""
    handled += struct.pack("Q", ABSTRACT_SOCKETS_AND_SIGNALS) if version >= SCOPE_VERSION else b""
    rules = kernel.call("syscall", CREATE_RULESET, handled, len(handled), 0)
    try:
        _allow(rules, [home], every_right)
        _allow(rules, readable, READ_FILE | READ_DIRECTORY)
        _allow(rules, devices, READ_FILE | WRITE_FILE)
        kernel.call("syscall", RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, paths: Iterable[str], rights: int) -> None:
    for path in paths:
        rights_here = rights if os.path.isdir(path) else rights & (READ_FILE | WRITE_FILE)
        place = os.open(path, os.O_PATH)
        try:
            kernel.call("syscall", ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", rights_here, place), 0)
        finally:
            os.close(place)

"""Thin calls to the Linux kernel for what Python 3.10's ``os`` lacks. Nothing here decides
anything.

Every function raises ``OSError`` when the kernel refuses, and ``AttributeError`` where the C
library has no such call.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
CAPABILITY_VERSION_3 = 0x20080522
LAST_POSSIBLE_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Returns what the C library's ``name`` returned; -1 becomes an ``OSError``."""
    # ints must travel as longs: an int passed bare is cut to 32 bits
    typed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    function = getattr(_libc, name)
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result = int(function(*typed))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Moves this process (for pids: its future children) into new namespaces."""
    call("unshare", flags)


def prctl(option: int, value: int) -> None:
    """Sets one property of this process."""
    call("prctl", option, value, 0, 0, 0)


def mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    """Mounts ``source`` on ``target``, or changes the mount that is there."""
    texts = [
        None if text is None else os.fsencode(text) for text in (source, target, kind, options)
    ]
    call("mount", texts[0], texts[1], texts[2], flags, texts[3])


def make_read_only(target: str) -> None:
    """Makes the mount at ``target`` read-only, and those below it (Linux 5.12)."""
    attributes = (MS_RDONLY | MS_NOSUID | MS_NODEV).to_bytes(8, "little") + bytes(24)
    try:
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        call(
            "syscall",
            MOUNT_SETATTR,
            AT_FDCWD,
            os.fsencode(target),
            AT_RECURSIVE,
            buffer,
            len(attributes),
        )
    except OSError:
        # flags that the host locked must be repeated in a remount, or it is refused
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def pivot_root(new_root: str) -> None:
    """Makes ``new_root`` the root of this mount namespace and lets go of the old root."""
    os.chdir(new_root)
    call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent dies; ends it if that is dead."""
    prctl(PR_SET_PDEATHSIG, 9)
    if os.getppid() not in (parent, 0):  # 0: it lives outside this pid namespace
        os._exit(1)


def drop_bounding_set() -> None:
    """Makes sure that no program started from here on can gain a capability."""
    with contextlib.suppress(OSError):  # EINVAL: past the last capability; EPERM: none to drop
        for capability in range(LAST_POSSIBLE_CAPABILITY + 1):
            prctl(PR_CAPBSET_DROP, capability)


def drop_privileges(uid: int | None) -> None:
    """Gives up every capability for good; becomes user and group ``uid``, if given."""
    if uid is not None:
        # a namespace without its own group map refuses, and has none to drop
        with contextlib.suppress(OSError):
            os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    call("capset", header, bytes(24))

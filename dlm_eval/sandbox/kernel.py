"""Thin wrappers of Linux system calls that Python 3.10's ``os`` lacks.

Every function raises ``OSError`` if the kernel refuses, and ``AttributeError`` if the C library has
no such call.
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
    """Returns the result of the C library's function ``name``; -1 becomes an ``OSError``."""
    # ctypes would cut a plain int to 32 bits.
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
        # The kernel refuses a remount that drops flags locked by the host.
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def pivot_root(new_root: str) -> None:
    """Makes ``new_root`` the root of this mount namespace and detaches the old root."""
    os.chdir(new_root)
    call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def die_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when its parent dies; exits if the parent is dead."""
    prctl(PR_SET_PDEATHSIG, 9)
    if os.getppid() not in (parent, 0):  # 0: the parent is outside this pid namespace
        os._exit(1)


def drop_bounding_set() -> None:
    """Prevents programs that are started later from gaining a capability."""
    with contextlib.suppress(OSError):  # EINVAL: past the last capability; EPERM: none to drop
        for capability in range(LAST_POSSIBLE_CAPABILITY + 1):
            prctl(PR_CAPBSET_DROP, capability)


def drop_privileges(uid: int | None) -> None:
    """Gives up every capability permanently; becomes user and group ``uid`` if it is given."""
    if uid is not None:
        # A namespace without a group map refuses, but has no groups to drop.
        with contextlib.suppress(OSError):
            os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    call("capset", header, bytes(24))

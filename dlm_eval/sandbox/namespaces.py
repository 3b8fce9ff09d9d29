"""A private view of the machine: no network, no other processes, a root with nothing but Python.

The server enters user, mount, network, IPC and host-name namespaces once (`enter`); each program
then gets its own pid, IPC and mount namespace with an empty disk of its own
(`enter_for_one_program`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence

from . import kernel

# Candidates for the program's working directory inside; the first free one is used.
HOMES = ("/tmp", "/home", "/program", "/sandbox")
LIBRARY_PATH = "LD_LIBRARY_PATH"
INSIDE_USER, OUTSIDE_USER = 1000, 65534  # programs of root run as "nobody" outside
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
LIBRARY_ROOTS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
INSTALLED_PACKAGES = ("site-packages", "dist-packages")
# The new root is assembled here: it always exists, and nothing below it is ever bound.
STAGE = "/proc"


def python_roots() -> list[str]:
    """Returns the directories that Python may need to read: its own and shared libraries."""
    wanted = [
        standard_library(),
        os.path.join(sys.base_prefix, "lib"),
        os.path.join(sys.base_exec_prefix, "lib"),
    ]
    wanted += LIBRARY_ROOTS
    wanted += [
        place
        for place in re.split("[:;]", os.environ.get(LIBRARY_PATH, ""))
        if place.startswith("/")
    ]
    real = sorted({os.path.realpath(path) for path in wanted if os.path.exists(path)} - {"/"})
    return [path for path in real if not any(path.startswith(other + "/") for other in real)]


def standard_library() -> str:
    """Returns the directory of the standard library."""
    return os.path.dirname(os.path.realpath(os.__file__))


def home(packages: Sequence[str] = ()) -> str:
    """Returns the programs' working directory inside, which overlaps nothing that they may read."""
    roots = [*python_roots(), *LIBRARY_ROOTS, *packages]
    free = (
        path
        for path in HOMES
        if not any(
            f"{root}/".startswith(f"{path}/") or f"{path}/".startswith(f"{root}/") for root in roots
        )
    )
    return next(free, HOMES[-1])


def library_links() -> list[tuple[str, str]]:
    """Returns the (link, target) pairs by which a merged-/usr system finds its libraries."""
    return [(path, os.readlink(path)) for path in LIBRARY_ROOTS if os.path.islink(path)]


def enter(home: str, packages: Sequence[str] = ()) -> int | None:
    """Moves this process into new namespaces with a minimal root.

    Args:
        home: A directory that is empty inside (`home`).
        packages: Directories that programs may read beside the Python installation.

    Returns:
        The user id for programs inside, or None if only this process's own id could be mapped.

    Raises:
        OSError: The kernel refuses. The process is then in an undefined state and must end.
    """
    flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET
    program_user = _unshare_with_ids(flags | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    name = b"sandbox"
    kernel.call("sethostname", name, len(name))
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("root", STAGE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    _furnish(STAGE, home, packages)
    kernel.pivot_root(STAGE)
    read_only = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | read_only)
    return program_user


def enter_for_one_program(home: str, disk_bytes: int) -> None:
    """Gives future children of this process a pid namespace and an empty disk at ``home``."""
    kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("disk", home, "tmpfs", flags, f"size={disk_bytes},nr_inodes=4096,mode=1777")
    os.chdir(home)


def _unshare_with_ids(flags: int) -> int | None:
    if os.geteuid() != 0:
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(flags)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
        return None
    # Only a process outside may map more ids than its own.
    target = os.getpid()
    wait, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(_map_two_users(target))
    os.close(wait)
    kernel.unshare(flags)
    os.close(go)
    mapped_both = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) == 0
    if not mapped_both:
        _write("/proc/self/uid_map", "0 0 1")
        _write("/proc/self/gid_map", "0 0 1")
    return INSIDE_USER if mapped_both else None


def _map_two_users(target: int) -> int:
    try:
        for kind in ("uid_map", "gid_map"):
            _write(f"/proc/{target}/{kind}", f"0 0 1\n{INSIDE_USER} {OUTSIDE_USER} 1\n")
    except OSError:
        return 1
    return 0


def _furnish(root: str, home: str, packages: Sequence[str]) -> None:
    for path in python_roots():
        _bind(path, root)
        kernel.make_read_only(root + path)
    # Generated code gets only the standard library; hide installed packages.
    installed = [root + os.path.join(standard_library(), name) for name in INSTALLED_PACKAGES]
    covered = [path for path in installed if os.path.isdir(path)]
    for path in covered:
        kernel.mount(
            "empty", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,mode=755"
        )
    for path in packages:  # they may be below a folder that was just hidden
        _bind(path, root)
        kernel.make_read_only(root + path)
    for path in covered:
        kernel.make_read_only(path)
    for link, target in library_links():
        if not os.path.lexists(root + link):
            os.symlink(target, root + link)
    for path in DEVICES:
        _bind(path, root)
    os.mkdir(root + home)


def _bind(path: str, root: str) -> None:
    here = root + path
    if os.path.isdir(path):
        os.makedirs(here, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(here), exist_ok=True)
        os.close(os.open(here, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, here, None, kernel.MS_BIND | kernel.MS_REC)


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    with contextlib.closing(os.fdopen(file, "w")) as stream:
        stream.write(text)

"""Restrictions of a program that need no privilege: system calls (seccomp) and files (Landlock).

System calls that Python programs need are allowed; all others, including those of later kernels,
are refused. The filter is the second line of defence after namespaces, and the first one if the
kernel refuses namespaces. It is classic BPF (Linux
`Documentation/userspace-api/seccomp_filter.rst`) and needs only ``no_new_privs``.

Landlock (Linux 5.13) blocks access to the file system if namespaces are refused. A program may then
read the Python installation and use its working directory freely. It can still find out whether a
file exists and how large it is; see docs/reference/sandbox.md. Landlock of later kernels also blocks TCP
(6.7), and signals to and abstract sockets of outside processes (6.12). The system call filter
blocks these already.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Iterable

from . import kernel

# audit number, column in the tables below
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
NO = -1  # no such call on this architecture

# name: numbers on (x86_64, aarch64). tests/test_sandbox_attacks.py compares them
# with the kernel's tables.
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, NO),
    "fstat": (5, 80), "lstat": (6, NO), "newfstatat": (262, 79), "statx": (332, 291), "poll": (7, NO),
    "ppoll": (271, 73), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233), "msync": (26, 227), "mincore": (27, 232),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, NO),
    "restart_syscall": (219, 128), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287), "access": (21, NO),
    "faccessat": (269, 48), "faccessat2": (439, 439), "pipe": (22, NO), "pipe2": (293, 59), "select": (23, NO),
    "pselect6": (270, 72), "sched_yield": (24, 124), "dup": (32, 23), "dup2": (33, NO), "dup3": (292, 24),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "getitimer": (36, 102), "setitimer": (38, 103),
    "alarm": (37, NO), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "getpgid": (121, 155), "getpgrp": (111, NO),
    "getsid": (124, 156), "setsid": (112, 157), "sendfile": (40, 71), "copy_file_range": (326, 285),
    "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95),
    "uname": (63, 160), "fsync": (74, 82), "fdatasync": (75, 83), "fadvise64": (221, 223), "ftruncate": (77, 46),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, NO),
    "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, NO), "mkdirat": (258, 34), "rmdir": (84, NO),
    "link": (86, NO), "linkat": (265, 37), "unlink": (87, NO), "unlinkat": (263, 35), "symlink": (88, NO),
    "symlinkat": (266, 36), "readlink": (89, NO), "readlinkat": (267, 78), "umask": (95, 166),
    "gettimeofday": (96, 169), "time": (201, NO), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "capget": (125, 90),
    "getpriority": (140, 141), "statfs": (137, 43), "fstatfs": (138, 44), "futex": (202, 98),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "set_tid_address": (218, 96), "rseq": (334, 293),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getcpu": (309, 168),
    "epoll_create": (213, NO), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, NO),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19), "getrandom": (318, 278), "getxattr": (191, 8),
    "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11), "llistxattr": (195, 12),
    "flistxattr": (196, 13), "close_range": (436, 436),
}  # fmt: skip
# Processes, signals and file attributes. With namespaces, a program reaches only its own. Landlock
# does not protect attributes.
ALLOWED_IN_NAMESPACES = {
    "fork": (57, NO), "vfork": (58, NO), "setpgid": (109, 154), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "truncate": (76, 45), "chmod": (90, NO), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, NO), "fchown": (93, 55), "lchown": (94, NO), "fchownat": (260, 54),
    "utime": (132, NO), "utimes": (235, NO), "futimesat": (261, NO), "utimensat": (280, 88),
}  # fmt: skip
# Allowed only for some arguments (`_argument_rules`).
WITH_ARGUMENTS = {
    "open": (2, NO), "openat": (257, 56), "ioctl": (16, 29), "fcntl": (72, 25), "flock": (73, 32), "prctl": (157, 167),
    "prlimit64": (302, 261), "setrlimit": (160, 164), "socketpair": (53, 199), "sendto": (44, 206),
    "clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "fallocate": (285, 47),
}  # fmt: skip

# The C library has fallbacks for the calls that Linux 5.1 and later have added.
FIRST_NEW_CALL = 424
FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS, TIOCGWINSZ = (
    0x541B,
    0x5421,
    0x5450,
    0x5451,
    0x5401,
    0x5413,
)
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 5, 1030
F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW = 6, 7, 37, 38
PR_SET_NAME, PR_GET_NAME = 15, 16
RLIMIT_CORE = 4
AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF
O_ACCMODE, O_TRUNC, O_ASYNC = 0o3, 0o1000, 0o20000
# What a thread must share with its process. A "thread" with its own file table could hide files
# from the disk limit.
CLONE_THREAD = 0x00010000 | 0x00000100 | 0x00000200 | 0x00000400 | 0x00000800
CLONE_NEW_ANYTHING = 0x7E020080
X32_BIT = 0x40000000

LOAD, JUMP, JUMP_EQUAL, JUMP_NOT_BELOW, JUMP_SET, AND, RETURN = (
    0x20,
    0x05,
    0x15,
    0x35,
    0x45,
    0x54,
    0x06,
)
ALLOW, ERROR = 0x7FFF0000, 0x00050000
REFUSE, UNKNOWN_CALL, NOT_SUPPORTED, PRETEND = (
    ERROR | errno.EPERM, ERROR | errno.ENOSYS, ERROR | errno.EOPNOTSUPP, ERROR,
)  # fmt: skip
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
MODE_FILTER = 2


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _load(argument: int, high: bool = False) -> bytes:
    """Loads half of an argument. The kernel also reads commands, flags and pids as 32 bits."""
    return _instruction(LOAD, ARGUMENTS_AT + 8 * argument + 4 * high)


def _return(value: int) -> bytes:
    return _instruction(RETURN, value)


def _if_equal(values: tuple[int, ...], result: int) -> list[bytes]:
    """Returns instructions that return ``result`` if the loaded value is one of ``values``."""
    return [
        part
        for value in values
        for part in (_instruction(JUMP_EQUAL, value, 0, 1), _return(result))
    ]


def _argument_rules(namespaces: bool, alone: bool) -> dict[str, list[bytes]]:
    """Returns the instructions for each call of WITH_ARGUMENTS; each list ends with a return."""
    # Before version 3, Landlock does not check whether a file opened for reading may be truncated.
    opening = [
        [
            _load(flags),
            _instruction(AND, O_ACCMODE | O_TRUNC),
            *_if_equal((O_TRUNC,), REFUSE),
            _return(ALLOW),
        ]
        for flags in (1, 2)
    ]
    # Locks only pretend to work. The program is alone in its directory and needs none, and a lock
    # on another user's file would block that user.
    file_control = (
        _if_equal((F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_DUPFD_CLOEXEC), ALLOW)
        + _if_equal((F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW), PRETEND)
        + [_instruction(JUMP_EQUAL, F_SETFL, 0, 3)]
        + [_load(2), _instruction(JUMP_SET, O_ASYNC, 1, 0), _return(ALLOW)]
        + [_return(REFUSE)]
    )
    limits = [*_if_equal((RLIMIT_CORE,), REFUSE), _return(ALLOW)]
    rules = {
        "open": opening[0],
        "openat": opening[1],
        "ioctl": [
            _load(1),
            *_if_equal((FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS, TIOCGWINSZ), ALLOW),
            _return(REFUSE),
        ],
        "fcntl": [_load(1), *file_control],
        "flock": [_return(PRETEND)],
        "prctl": [_load(0), *_if_equal((PR_SET_NAME, PR_GET_NAME), ALLOW), _return(REFUSE)],
        # Only for the caller (pid 0). Core dumps stay off, as the host handles them outside.
        "prlimit64": [_load(0), _instruction(JUMP_EQUAL, 0, 1, 0), _return(REFUSE), _load(1), *limits],
        "setrlimit": [_load(0), *limits],
        # A pair of streams connects to no other process. asyncio and multiprocessing need it.
        "socketpair": [
            _load(0), _instruction(JUMP_EQUAL, AF_UNIX, 1, 0), _return(REFUSE),
            _load(1), _instruction(AND, SOCK_TYPE_MASK), *_if_equal((SOCK_STREAM,), ALLOW), _return(REFUSE),
        ],
        # no address
        "sendto": [
            _load(4), _instruction(JUMP_EQUAL, 0, 1, 0), _return(REFUSE),
            _load(4, high=True), *_if_equal((0,), ALLOW), _return(REFUSE),
        ],
        # It may exceed the file size limit. The C library writes zeros instead.
        "fallocate": [_return(NOT_SUPPORTED)],
    }  # fmt: skip
    if namespaces:
        rules["clone"] = [
            _load(0),
            _instruction(JUMP_SET, CLONE_NEW_ANYTHING, 0, 1),
            _return(REFUSE),
            _return(ALLOW),
        ]
        return rules
    myself = [_load(0), *_if_equal((os.getpid(),), ALLOW), _return(REFUSE)]
    # Threads only: the kernel ends them with their process, and the process with its parent.
    threads = [
        _load(0), _instruction(JUMP_SET, CLONE_NEW_ANYTHING, 0, 1), _return(REFUSE),
        _instruction(AND, CLONE_THREAD), *_if_equal((CLONE_THREAD,), ALLOW), _return(REFUSE),
    ]  # fmt: skip
    # root is exempt from the limit on threads
    return rules | {
        "kill": myself,
        "tgkill": myself,
        "clone": [_return(REFUSE)] if alone else threads,
    }


def _program(machine: str, namespaces: bool, alone: bool) -> bytes:
    audit, column = ARCHITECTURES[machine]
    code = [
        _instruction(LOAD, ARCHITECTURE_AT),
        _instruction(JUMP_EQUAL, audit, 1, 0),
        _return(REFUSE),  # 32-bit calls of a 64-bit process
        _instruction(LOAD, NUMBER_AT),
    ]
    if machine == "x86_64":  # the x32 twins of all calls
        code += [_instruction(JUMP_NOT_BELOW, X32_BIT, 0, 1), _return(REFUSE)]
    for name, rule in _argument_rules(namespaces, alone).items():
        number = WITH_ARGUMENTS[name][column]
        if number != NO:
            code += [_instruction(JUMP_EQUAL, number, 0, len(rule)), *rule]
    return b"".join(code) + allowed(column, namespaces)


@functools.cache
def allowed(column: int, namespaces: bool) -> bytes:
    """Returns the instructions common to all programs, built once in the server and inherited."""
    calls = ALLOWED | (ALLOWED_IN_NAMESPACES if namespaces else {})
    code = _if_equal(
        tuple(numbers[column] for numbers in calls.values() if numbers[column] != NO), ALLOW
    )
    code += [
        _instruction(JUMP_NOT_BELOW, FIRST_NEW_CALL, 0, 1),
        _return(UNKNOWN_CALL),
        _return(REFUSE),
    ]
    return b"".join(code)


def prepare(namespaces: bool) -> None:
    """Prepares what `install` needs in every program."""
    if os.uname().machine in ARCHITECTURES:
        allowed(ARCHITECTURES[os.uname().machine][1], namespaces)


def install(namespaces: bool, alone: bool) -> None:
    """Permanently filters the system calls of this process and of all that it starts.

    Args:
        namespaces: Whether the process is alone in its pid and mount namespaces. It may then start
            processes, send signals and change file attributes; otherwise only start threads.
        alone: Whether it may not even start threads.

    Raises:
        OSError: The kernel has no seccomp filters.
        KeyError: No call numbers are known for this machine.
    """
    code = _program(os.uname().machine, namespaces, alone)
    text = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(text))
    kernel.call("prctl", kernel.PR_SET_SECCOMP, MODE_FILTER, header, 0, 0)


# -- Landlock: the file system ---------------------------------------------------------------------


CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, PATH_BENEATH = 1, 1
WRITE_FILE, READ_FILE, READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
RIGHTS_IN_VERSION = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
NETWORK_VERSION, BIND_AND_CONNECT_TCP = 4, 0b11
SCOPE_VERSION, ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11


def restrict(readable: Iterable[str], devices: Iterable[str], home: str) -> None:
    """Restricts the files of this process and its children: ``readable`` can be read, ``devices``
    read and written, ``home`` used freely.

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
            kernel.call(
                "syscall", ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", rights_here, place), 0
            )
        finally:
            os.close(place)

"""A filter of system calls: what no benchmark program needs and what would reach out of a sandbox.

It stands behind the namespaces as a second wall, and is the first wall where the kernel gives no namespaces. The filter
is classic BPF (Linux `Documentation/userspace-api/seccomp_filter.rst`); it needs no privileges, only ``no_new_privs``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from . import kernel

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit number, column in the tables below
NEW = -1  # no such call on this architecture

# name: numbers on (x86_64, aarch64)
ALWAYS_REFUSED = {
    "socket": (41, 198), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kcmp": (312, 272),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
# attributes of other people's files, which Landlock does not guard
REFUSED_WITHOUT_NAMESPACES = {
    "chmod": (90, NEW), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, NEW),
    "fchown": (93, 55), "lchown": (94, NEW), "fchownat": (260, 54), "utime": (132, NEW), "utimes": (235, NEW),
    "futimesat": (261, NEW), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130),
}  # fmt: skip
# root is exempt from the limit on processes
REFUSED_TO_ROOT = {"fork": (57, NEW), "vfork": (58, NEW), "clone": (56, 220)}
# a signal without namespaces only to oneself; limits always only of oneself (pid 0)
SIGNALS = {"kill": (62, 129), "tgkill": (234, 131)}
PRLIMIT = (302, 261)
CLONE, CLONE3 = (56, 220), (435, 435)
CLONE_NEW_ANYTHING = 0x7E020080
X32_BIT = 0x40000000

LOAD, JUMP_EQUAL, JUMP_ABOVE, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, UNKNOWN_CALL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NUMBER_AT, ARCHITECTURE_AT, ARGUMENT_0_AT = 0, 4, 16
MODE_FILTER = 2


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refuse_unless_argument(number: int, allowed: int) -> list[bytes]:
    """Refuses call ``number`` unless the low half of its first argument is ``allowed``."""
    return [
        _instruction(JUMP_EQUAL, number, 0, 4),
        _instruction(LOAD, ARGUMENT_0_AT),
        _instruction(JUMP_EQUAL, allowed, 0, 1),
        _instruction(RETURN, ALLOW),
        _instruction(RETURN, REFUSE),
    ]


def _program(machine: str, namespaces: bool, alone: bool) -> bytes:
    audit, column = ARCHITECTURES[machine]
    code = [
        _instruction(LOAD, ARCHITECTURE_AT),
        _instruction(JUMP_EQUAL, audit, 1, 0),
        _instruction(RETURN, REFUSE),
        _instruction(LOAD, NUMBER_AT),
    ]
    if machine == "x86_64":  # the x32 twins of all calls
        code += [_instruction(JUMP_ABOVE, X32_BIT, 0, 1), _instruction(RETURN, REFUSE)]
    tables = [ALWAYS_REFUSED]
    tables += [] if namespaces else [REFUSED_WITHOUT_NAMESPACES]
    tables += [REFUSED_TO_ROOT] if alone else []
    for numbers in (numbers for table in tables for numbers in table.values()):
        if numbers[column] != NEW:
            code += [_instruction(JUMP_EQUAL, numbers[column], 0, 1), _instruction(RETURN, REFUSE)]
    for numbers in () if namespaces else SIGNALS.values():
        code += _refuse_unless_argument(numbers[column], os.getpid())
    code += _refuse_unless_argument(PRLIMIT[column], 0)
    # clone3's flags lie in memory, out of a filter's sight: the C library falls back to clone on ENOSYS
    code += [_instruction(JUMP_EQUAL, CLONE3[column], 0, 1), _instruction(RETURN, UNKNOWN_CALL)]
    code += [
        _instruction(JUMP_EQUAL, CLONE[column], 0, 3),
        _instruction(LOAD, ARGUMENT_0_AT),
        _instruction(JUMP_SET, CLONE_NEW_ANYTHING, 0, 1),
        _instruction(RETURN, REFUSE),
        _instruction(RETURN, ALLOW),
    ]
    return b"".join(code)


def install(namespaces: bool, alone: bool) -> None:
    """Filters the calls of this process and all that it starts, for good.

    Args:
        namespaces: The process is alone in its pid and mount namespaces, so signals and file attributes are its own.
        alone: It may start no other process or thread.

    Raises:
        OSError: The kernel has no seccomp filters.
        KeyError: No call numbers are known for this machine.
    """
    code = _program(os.uname().machine, namespaces, alone)
    text = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(text))
    kernel.call("prctl", kernel.PR_SET_SECCOMP, MODE_FILTER, header, 0, 0)

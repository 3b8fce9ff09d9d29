"""Hostile programs, each with what it tries; run by test_sandbox_attacks.py in every kind of sandbox.

Every program is wrong: it ends in an exception, or is ended. What it reaches is looked at from outside, on victims that
were made for it: a process, two mailboxes (datagram sockets), a listening port, a file. Where a statement that is refused
shows more than its effect would, `TRY` is used: it ends with the names of those that were not refused.
"""

from __future__ import annotations

import glob
import importlib
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from types import ModuleType

# what every program may use; "{pid}" and the like are victims
START = """
import ctypes, errno, fcntl, mmap, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
done = []
def attempt(name, act):
    try:
        act()
    except (OSError, AttributeError, ValueError, MemoryError, RuntimeError, ArithmeticError):
        pass
    else:
        done.append(name)
VICTIM, FILE, MAILBOX, PATH, PORT = {pid}, {file}, {mailbox}, {path}, {port}
"""
END = """
if done:
    raise ValueError("not refused: " + ", ".join(done))
raise SystemExit
"""

# -- signals to a process that is not its own ------------------------------------------------------
ASYNC = """
a, b = socket.socketpair()
def arm(end):
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
"""
SIGNALS = {
    "kill": "attempt('kill', lambda: os.kill(VICTIM, 9))",
    "kill its group": "attempt('killpg', lambda: os.killpg(VICTIM, 9))",
    "kill parent": "attempt('kill', lambda: os.getppid() > 1 and os.kill(os.getppid(), 9) or 1 / (os.getppid() > 1))",
    "tkill": "attempt('tkill', lambda: call({tkill}, VICTIM, 9))",
    "tgkill": "attempt('tgkill', lambda: call({tgkill}, VICTIM, VICTIM, 9))",
    "rt_sigqueueinfo": "attempt('queue', lambda: call({rt_sigqueueinfo}, VICTIM, 9, struct.pack('iiii', 9, 0, -1, 0) + bytes(112)))",
    "rt_tgsigqueueinfo": "attempt('queue', lambda: call({rt_tgsigqueueinfo}, VICTIM, VICTIM, 9, struct.pack('iiii', 9, 0, -1, 0) + bytes(112)))",
    "pidfd": "attempt('pidfd', lambda: call(424, call(434, VICTIM, 0), 9, None, 0))",
    "F_SETOWN": ASYNC + """
attempt('owner', lambda: fcntl.fcntl(a, fcntl.F_SETOWN, VICTIM))
attempt('signal', lambda: fcntl.fcntl(a, 10, 9))
attempt('async', lambda: arm(a))
b.send(b'x')
""",
    "F_SETOWN_EX": ASYNC + """
attempt('owner', lambda: fcntl.fcntl(a, 15, struct.pack('ii', 1, VICTIM)))
attempt('signal', lambda: fcntl.fcntl(a, 10, 9))
attempt('async', lambda: arm(a))
b.send(b'x')
""",
    "F_SETOWN of a pipe": ASYNC + """
r, w = os.pipe()
attempt('owner', lambda: fcntl.fcntl(r, fcntl.F_SETOWN, VICTIM))
attempt('signal', lambda: fcntl.fcntl(r, 10, 9))
attempt('async', lambda: arm(r))
os.write(w, b'x')
""",
    "FIOSETOWN": ASYNC + """
attempt('owner', lambda: fcntl.ioctl(a, 0x8901, struct.pack('i', VICTIM)))
attempt('async', lambda: fcntl.ioctl(a, 0x5452, struct.pack('i', 1)))
b.send(b'x')
""",
    "SIOCSPGRP": ASYNC + """
attempt('owner', lambda: fcntl.ioctl(a, 0x8902, struct.pack('i', VICTIM)))
attempt('async', lambda: fcntl.ioctl(a, 0x5452, struct.pack('i', 1)))
b.send(b'x')
""",
    "F_NOTIFY": """
d = os.open('.', os.O_RDONLY)
attempt('owner', lambda: fcntl.fcntl(d, fcntl.F_SETOWN, VICTIM))
attempt('notify', lambda: fcntl.fcntl(d, fcntl.F_NOTIFY, 4 | 0x80000000 - (1 << 32)))
open('new', 'w').close()
""",
    "lease": """
open('leased', 'w').close()
f = os.open('leased', os.O_RDONLY)
attempt('owner', lambda: fcntl.fcntl(f, fcntl.F_SETOWN, VICTIM))
attempt('lease', lambda: fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK))
try:
    os.close(os.open('leased', os.O_WRONLY | os.O_NONBLOCK))
except OSError:
    pass
""",
    "lease of a library": "attempt('lease', lambda: fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK))",
    "timer for a thread": """
timer = ctypes.c_int()
event = struct.pack('QiiI', 0, 9, 4, VICTIM & 0xffffffff) + bytes(48)  # SIGEV_THREAD_ID
attempt('timer', lambda: call({timer_create}, 1, event, ctypes.byref(timer)))
""",
    "mq_notify": "attempt('queue', lambda: call({mq_open}, b'mailbox', os.O_CREAT | os.O_RDWR, 0o600, None))",
    "limits of others": "attempt('prlimit', lambda: __import__('resource').prlimit(VICTIM, 0, (1, 1)))",
    "priority of others": "attempt('setpriority', lambda: os.setpriority(os.PRIO_PROCESS, VICTIM, 19))",
    "CPUs of others": "attempt('affinity', lambda: os.sched_setaffinity(VICTIM, {0}))",
    "policy of others": "attempt('policy', lambda: os.sched_setscheduler(VICTIM, os.SCHED_IDLE, os.sched_param(0)))",
    "ptrace": "attempt('ptrace', lambda: call({ptrace}, 16, VICTIM, 0, 0))",
    "memory of others": "attempt('read', lambda: call({process_vm_readv}, VICTIM, None, 0, None, 0, 0))",
    "proc of others": """
attempt('memory', lambda: open(f'/proc/{VICTIM}/mem'))
attempt('environment', lambda: open(f'/proc/{VICTIM}/environ').read())
attempt('score', lambda: open(f'/proc/{VICTIM}/oom_score_adj', 'w').write('1000'))
""",
}  # fmt: skip

# -- processes that live on ------------------------------------------------------------------------
IMMORTAL = {
    "no signal when the parent dies": """
libc.prctl(1, 0, 0, 0, 0)
libc.prctl(15, NAME, 0, 0, 0)
for pid in (os.getppid(), VICTIM):
    attempt('kill', lambda: pid > 1 and os.kill(pid, 9) or 1 / (pid > 1))
done.clear()
time.sleep(60)
""",
    "session of its own": """
libc.prctl(15, NAME, 0, 0, 0)
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            libc.prctl(1, 0, 0, 0, 0)
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            time.sleep(60)
        os._exit(0)
except OSError:
    pass
""",
    "vfork and clone": """
libc.prctl(15, NAME, 0, 0, 0)
for flags in (17, 17 | 0x8000, 0x4000 | 0x100 | 17):  # a child, a sibling, what vfork is
    if flags != (0x4000 | 0x100 | 17):
        try:
            if call({clone}, flags, 0, 0, 0, 0) == 0:
                time.sleep(60)
                os._exit(0)
        except OSError:
            pass
""",
    "a thread when the first has ended": """
libc.prctl(15, NAME, 0, 0, 0)
threading.Thread(target=time.sleep, args=(60,)).start()
call({exit}, 0)
""",
    "a server that waits": """
libc.prctl(15, NAME, 0, 0, 0)
a, b = socket.socketpair()
a.recv(1)
""",
}  # fmt: skip

# -- the network, sockets of the host --------------------------------------------------------------
SOCKETS = {
    "datagram to a name": "attempt('send', lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', MAILBOX))",
    "datagram to a path": "attempt('send', lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', PATH))",
    "datagram connected": "attempt('send', lambda: (lambda s: (s.connect(MAILBOX), s.send(b'x')))(socket.socketpair(type=socket.SOCK_DGRAM)[0]))",
    "sequence to a name": "attempt('send', lambda: socket.socketpair(type=socket.SOCK_SEQPACKET)[0].sendto(b'x', MAILBOX))",
    "stream to a name": "attempt('send', lambda: socket.socketpair()[0].sendto(b'x', MAILBOX))",
    "descriptor to a name": """
attempt('send', lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendmsg(
    [b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', 1))], 0, MAILBOX))
""",
    "descriptor in a pair": """
attempt('send', lambda: socket.socketpair()[0].sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', 1))]))
""",
    "all families": """
for family in range(46):
    for kind in (1, 2, 3, 4, 5, 10):
        attempt(f'socket {family} {kind}', lambda: call({socket}, family, kind, 0))
        if (family, kind) != (1, 1):
            attempt(f'pair {family} {kind}', lambda: call({socketpair}, family, kind, 0, bytes(8)))
""",
    "listening": "attempt('listen', lambda: socket.socketpair()[0].listen())",
    "connection": "attempt('connect', lambda: socket.create_connection(('127.0.0.1', PORT), 1))",
}  # fmt: skip

# -- files of others, shared resources, other doors to the kernel ----------------------------------
# x86-64 and arm64 numbers of calls that no program needs; with arguments that mean nothing
CALLS = {
    "inotify_init1": (294, 26), "fanotify_init": (300, 262), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_unlink": (241, 181),
    "io_uring_setup": (425, 425), "io_setup": (206, 0), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "memfd_create": (319, 279), "memfd_secret": (447, 447), "personality": (135, 92),
    "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "sync": (162, 81), "syncfs": (306, 267),
    "mlock": (149, 228), "mlockall": (151, 230), "mlock2": (325, 284), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "kcmp": (312, 272), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430), "open_tree": (428, 428),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "acct": (163, 89),
    "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "sethostname": (170, 161), "init_module": (175, 105), "finit_module": (313, 273), "syslog": (103, 116),
    "vhangup": (153, 58), "setuid": (105, 146), "setgid": (106, 144), "setgroups": (116, 159), "setresuid": (117, 147),
    "capset": (126, 91), "seccomp": (317, 277), "landlock_create_ruleset": (444, 444), "vmsplice": (278, 75),
    "splice": (275, 76), "tee": (276, 77), "ioprio_set": (251, 30), "sched_setattr": (314, 274),
    "timer_create": (222, 107), "signalfd4": (289, 74), "membarrier": (324, 283), "openat2": (437, 437),
    "cachestat": (451, 451), "pidfd_getfd": (438, 438), "execve": (59, 221), "execveat": (322, 281),
}  # fmt: skip
REFUSED_CALLS = """
for name, number in {calls}:
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        done.append(f'{name} {ctypes.get_errno()}')
"""
OTHERS = {
    "calls that nobody needs": REFUSED_CALLS,
    "files of others": """
attempt('read', lambda: open(FILE).read())
attempt('write', lambda: open(FILE, 'w').write('dead'))
attempt('truncate', lambda: os.truncate(FILE, 0))
attempt('chmod', lambda: os.chmod(FILE, 0))
attempt('utime', lambda: os.utime(FILE, (1, 1)))
attempt('xattr', lambda: os.setxattr(FILE, 'user.x', b'x'))
attempt('link', lambda: os.link(FILE, 'link'))
attempt('rename', lambda: os.rename(FILE, 'renamed'))
attempt('remove', lambda: os.remove(FILE))
attempt('directory', lambda: os.mkdir(FILE + '.d'))
attempt('symlink', lambda: (os.symlink(FILE, 'here'), open('here', 'w')))
attempt('exchange', lambda: (open('mine', 'w').close(), call({renameat2}, -100, b'mine', -100, FILE.encode(), 2)))
""",
    "emptied by reading": "open('own', 'w').write('x')\nattempt('empty', lambda: os.open('own', os.O_RDONLY | os.O_TRUNC))",
    "shared memory": "attempt('open', lambda: open('/dev/shm/dlm-eval-attack', 'w'))",
    "pipe of a megabyte": "attempt('grow', lambda: fcntl.fcntl(os.pipe()[0], 1031, 1 << 20))",
    "core dumps": """
import resource
attempt('limit', lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
attempt('limit', lambda: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0)))
assert not done
ctypes.string_at(0)
""",
    "dumpable": "attempt('prctl', lambda: libc.prctl(4, 1, 0, 0, 0) and call(-1))",
    "terminal": "attempt('tty', lambda: open('/dev/tty'))\nattempt('push', lambda: fcntl.ioctl(0, 0x5412, b'x'))",
    "x32 calls": "attempt('getpid', lambda: call(0x40000000 | 39))",
    "32-bit calls": """
if os.uname().machine == 'x86_64':
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex('53b814000000cd805bc3'))  # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    if run() > 0:
        done.append('getpid')
""",
    "a thread with files of its own": """
stack = mmap.mmap(-1, 1 << 16)
attempt('clone', lambda: call({clone}, 0x10000 | 0x100 | 0x800 | 0x10000000, 0, 0, 0, 0))
""",
    "signals without end": """
attempts = 0
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
try:
    for attempts in range(5000):
        call({rt_sigqueueinfo}, os.getpid(), 40, struct.pack('iiii', 40, 0, -1, 0) + bytes(112))
except OSError:
    pass
if attempts > 1000:
    done.append('pending signals')
""",
}  # fmt: skip

OTHERS |= {
    "new ways to start and open processes": """
attempt('clone3', lambda: call(435, struct.pack('QQQQQQQQ', 0, 0, 0, 0, 17, 0, 0, 0), 64))
attempt('pidfd_open', lambda: call(434, VICTIM, 0))
attempt('process_vm_writev', lambda: call({process_vm_writev}, VICTIM, None, 0, None, 0, 0))
""",
    "higher limits": """
import resource
for name in ('CPU', 'AS', 'FSIZE', 'NOFILE', 'NPROC', 'MEMLOCK'):
    kind = getattr(resource, 'RLIMIT_' + name)
    attempt(name, lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
attempt('nice', lambda: os.nice(-5))
""",
    "an end that is ignored": "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass\n",
    "a name for a socket": """
end = socket.socketpair()[0]
attempt('bind', lambda: end.bind('\\0dlm-eval-bound'))
attempt('bind', lambda: end.bind('bound'))
attempt('credentials', lambda: end.setsockopt(socket.SOL_SOCKET, 16, 1) or call(-1))
""",
    "proc and sys": """
for path in ('/proc/self/mem', '/proc/self/environ', '/proc/1/environ', '/proc/self/root/etc/passwd', '/proc/kcore',
             '/proc/sysrq-trigger', '/sys/kernel/profiling', '/sys/fs/cgroup/cgroup.procs', '/dev/mem', '/dev/kmsg'):
    attempt(path, lambda: open(path, 'rb').read(1))
    attempt(path, lambda: os.open(path, os.O_WRONLY))
""",
    "devices": """
import stat
for kind, number in ((stat.S_IFBLK, (8, 0)), (stat.S_IFCHR, (1, 1)), (stat.S_IFCHR, (5, 2))):
    attempt('mknod', lambda: os.mknod(f'device{number}', kind | 0o600, os.makedev(*number)))
""",
    "out of the root by descriptor": """
for path in ('/', '.', '..', '/..', os.path.dirname(os.__file__)):
    try:
        top = os.open(path, os.O_PATH)
    except OSError:
        continue
    attempt(path, lambda: os.open('../../../../../../../../etc/passwd', os.O_RDONLY, dir_fd=top))
    attempt(path, lambda: (os.fchdir(top), open('etc/passwd')))
    attempt(path, lambda: open(f'/proc/self/fd/{top}/etc/passwd'))
""",
    "descriptors of others": """
for end in range(5, 1024):
    attempt(f'write {end}', lambda: os.write(end, b'x'))
    attempt(f'read {end}', lambda: os.read(end, 1))
""",
    "a flood of reports": """
try:
    for _ in range(4096):
        os.write(3, b'text ended\\ntests ended\\n' * 1000)
except OSError:
    pass
""",
    "stopping whoever is above": """
for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGKILL, signal.SIGXCPU, signal.SIGCHLD):
    for pid in (os.getppid(), -1, 0):
        try:
            if pid or number == signal.SIGCHLD:
                os.kill(pid, number)
        except OSError:
            pass
""",
    "the directory itself": """
home = os.getcwd()
attempt('rename', lambda: os.rename(home, home + 'x'))
attempt('remove', lambda: os.rmdir(home))
attempt('beside', lambda: open(home + 'x', 'w'))
attempt('link', lambda: os.link(os.__file__, 'linked'))
attempt('library', lambda: open(os.__file__, 'r+'))
attempt('python', lambda: open(sys.executable or '/nowhere', 'r+'))
""",
    "memory that is shared": """
attempt('map', lambda: mmap.mmap(-1, 1 << 31))
attempt('map', lambda: mmap.mmap(-1, 1 << 31, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000))  # without reserving
kept = []
def keep():
    while True:
        kept.append(mmap.mmap(-1, 1 << 24))
attempt('maps', keep)
""",
}  # fmt: skip

# -- the disk --------------------------------------------------------------------------------------
# each would hold 64 MiB where 8 MiB are allowed: it is ended, or refused with "no space left", long before
FILL = """
kept = []
mib = bytes(1 << 20)
for number in range(64):
    {fill}
    time.sleep(0.002)
time.sleep(5)
raise ValueError("the disk is full")
"""
NEW = "f = open(f'f{number}', 'w+b'); f.write(mib); f.flush(); "
DISK = {
    "files": NEW + "f.close()",
    "unlinked, open": NEW + "os.remove(f.name); kept.append(f)",
    "unlinked, mapped": NEW + "kept.append(mmap.mmap(f.fileno(), 4096)); os.remove(f.name); f.close()",
    "unlinked, mapped to read": NEW + "kept.append(mmap.mmap(f.fileno(), 4096, prot=1)); os.remove(f.name); f.close()",
    "in directories that cannot be read": "os.mkdir(f'd{number}', 0o300); os.chdir(f'd{number}'); " + NEW + "f.close()",
    "in directories that cannot be entered": "m = os.umask(0o777); os.mkdir(f'd{number}'); os.umask(m); " + NEW + "f.close()",
    "files that cannot be read": "m = os.umask(0o777); " + NEW + "f.close(); os.umask(m)",
    "without a name": "f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, mib); kept.append(f)",
    "allocated": "f = os.open(f'f{number}', os.O_CREAT | os.O_RDWR); os.posix_fallocate(f, 0, 1 << 20); os.close(f)",
    "allocated beyond its size": "f = os.open(f'f{number}', os.O_CREAT | os.O_RDWR); call({fallocate}, f, 1, 0, 1 << 30)",
    "in memory": "f = os.memfd_create('x'); os.write(f, mib); kept.append(f)",
    "written through a map": "f = open(f'f{number}', 'w+b'); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0); m[:] = mib; os.remove(f.name); f.close(); kept.append(m)",
    "hard links across directories": NEW + "f.close(); os.mkdir(f'd{number}'); os.link(f.name, f'd{number}/x'); os.remove(f.name)",
    "small files": "[open(f'{number}-{i}', 'w').close() for i in range(400)]",
    "long links": "[os.symlink('x' * 4000, f'{number}-{i}') for i in range(400)]",
    "empty directories": "[os.mkdir(f'{number}-{i}') for i in range(400)]",
    "descriptors on their way": NEW + "a, b = socket.socketpair(); a.sendmsg([b'x'], [(1, 1, struct.pack('i', f.fileno()))]); f.close(); os.remove(f'f{number}'); kept += [a, b]",
    "copied": "open('s', 'wb').write(mib); a = os.open('s', 0); b = os.open(f'f{number}', os.O_CREAT | os.O_WRONLY); os.sendfile(b, a, 0, 1 << 20); os.close(a); os.close(b)",
}  # fmt: skip
HIDE = """
def fill():
    kept = []
    for number in range(64):
        f = open(f'f{number}', 'w+b')
        f.write(bytes(1 << 20))
        f.flush()
        os.remove(f.name)
        kept.append(f)
        time.sleep(0.002)
    time.sleep(5)
"""
HIDDEN = {
    "when the first thread has ended": HIDE + "threading.Thread(target=fill).start()\ntime.sleep(0.01)\ncall({exit}, 0)",
    "in directories that move": """
def move():
    while True:
        for a, b in (('x/d', 'y/d'), ('y/d', 'x/d')):
            os.rename(a, b)
for name in ('x', 'y', 'x/d', 'x/d/e'):
    os.mkdir(name)
threading.Thread(target=move, daemon=True).start()
os.chdir('x/d/e')
for number in range(64):
    with open(f'f{number}', 'wb') as file:
        file.write(bytes(1 << 20))
    time.sleep(0.002)
time.sleep(5)
raise ValueError("the disk is full")
""",
}  # fmt: skip

# -- directories that break whoever looks at them --------------------------------------------------
TREES = {
    "1500 directories deep": "for _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\n",
    "40 names of 250 letters": "for _ in range(40):\n    os.mkdir('n' * 250)\n    os.chdir('n' * 250)\n",
    "closed on the way": "for _ in range(40):\n    os.mkdir('d', 0o300)\n    os.chdir('d')\nopen('file', 'w').close()\n",
    "names of all bytes": "for byte in set(range(1, 256)) - {47}:\n    os.mkdir(bytes([byte]) if byte != 46 else b'.x')\n",
    "links to everywhere": "for n, to in enumerate(('/', '..', '.', FILE, 'l4', '/proc/self/fd')):\n    os.symlink(to, f'l{n}')\n",
    "a pipe and a socket file": "os.mkfifo('pipe') if hasattr(os, 'mkfifo') else None\n",
}  # fmt: skip

NUMBERS = {
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "timer_create": (222, 107), "mq_open": (240, 180), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "clone": (56, 220), "exit": (60, 93), "socket": (41, 198), "socketpair": (53, 199), "renameat2": (316, 276),
    "fallocate": (285, 47),
}  # fmt: skip


def programs(victims: dict[str, object], name: str) -> dict[str, str]:
    """Returns all hostile programs by name.

    Args:
        victims: ``pid``, ``file``, ``mailbox``, ``path``, ``port``.
        name: What processes that try to live on call themselves.
    """
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    values = {key: repr(value) for key, value in victims.items()}
    values |= {call: str(columns[column]) for call, columns in NUMBERS.items()}
    values["calls"] = repr([(call, columns[column]) for call, columns in CALLS.items()])

    def filled(text: str) -> str:
        for key, value in values.items():
            text = text.replace("{" + key + "}", value)
        return text

    head = filled(START) + f"NAME = {name.encode()!r}\n"
    groups = {"signal": SIGNALS, "socket": SOCKETS, "other": OTHERS, "immortal": IMMORTAL}
    found = {
        f"{kind}: {key}": filled(text) + END
        for kind, group in groups.items()
        for key, text in group.items()
    }
    found |= {f"disk: {key}": FILL.replace("{fill}", filled(text)) for key, text in DISK.items()}
    found |= {f"disk: {key}": filled(text) for key, text in HIDDEN.items()}
    found |= {
        f"tree: {key}": filled(text) + "time.sleep(0.1)\nraise ValueError('wrong')"
        for key, text in TREES.items()
    }
    return {key: head + text for key, text in found.items()}


# -- run as a program of its own, by any user: tests/sandbox_attacks.py FOLDER_OF_DLM_EVAL KIND ----


class Victims:
    """What the programs aim at; `harm` says what was reached."""

    def __init__(self, directory: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.file = os.path.join(directory, "file")
        with open(self.file, "w") as file:
            file.write("alive")
        os.chmod(self.file, 0o666)
        self.names = [f"\0dlm-eval-mailbox-{os.getpid()}", os.path.join(directory, "mailbox")]
        self.mailboxes = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in self.names]
        for mailbox, name in zip(self.mailboxes, self.names, strict=True):
            mailbox.bind(name)
        os.chmod(self.names[1], 0o777)
        self.port = socket.create_server(("127.0.0.1", 0))
        for end in (*self.mailboxes, self.port):
            end.setblocking(False)
        self.status = self._status()

    def _status(self) -> tuple[object, ...]:
        status = os.stat(self.file)
        with open(f"/proc/{self.process.pid}/sched") as file:
            policy = [line for line in file if line.startswith(("policy", "prio"))]
        limits = resource.prlimit(self.process.pid, resource.RLIMIT_CPU)
        return status.st_mode, status.st_mtime_ns, status.st_size, status.st_nlink, policy, limits

    def given(self) -> dict[str, object]:
        name, path = self.names
        port = self.port.getsockname()[1]
        return {
            "pid": self.process.pid,
            "file": self.file,
            "mailbox": name,
            "path": path,
            "port": port,
        }

    def harm(self, name: str) -> list[str]:
        found = [] if self.process.poll() is None else ["the process is dead"]
        if not found and self._status() != self.status:
            found.append("the file or the process was changed")
        if sorted(os.listdir(os.path.dirname(self.file))) != ["file", "mailbox"]:
            found.append("the directory was changed")
        for end, take in (
            (self.mailboxes[0], "recv"),
            (self.mailboxes[1], "recv"),
            (self.port, "accept"),
        ):
            try:
                getattr(end, take)(*([1] if take == "recv" else []))
                found.append("a socket was reached")
            except BlockingIOError:
                pass
        return found + [f"{pid} lives on" for pid in living(name)]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (*self.mailboxes, self.port):
            end.close()


def living(name: str) -> list[int]:
    """Returns the pids of all processes of that name."""
    found = []
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            with open(path) as file:
                found += [int(path.split("/")[2])] if file.read().strip() == name[:15] else []
        except OSError:
            pass
    return found


def load(folder: str) -> ModuleType:
    """Returns dlm_eval.sandbox alone: a user's Python may have nothing that the rest needs."""
    package = ModuleType("dlm_eval")
    package.__path__ = [os.path.join(folder, "dlm_eval")]
    sys.modules["dlm_eval"] = package
    return importlib.import_module("dlm_eval.sandbox")


def limits(key: str) -> dict[str, float]:
    """Returns what this program may use."""
    kind = key.split(":")[0]
    return {
        "wall_seconds": 0.5 if kind == "immortal" else 4.0,
        "disk_bytes": (8 if kind == "disk" else 64) << 20,
    }


def main(folder: str, kind: str) -> None:
    """Runs all programs in one kind of sandbox and prints what became of each as JSON."""
    sandbox = load(folder)
    box = sandbox.Sandbox(kind)
    name = f"dlm-{os.getpid()}"
    directory = tempfile.mkdtemp(prefix="dlm-eval-victims-")
    os.chmod(directory, 0o777)
    victims = Victims(directory)
    try:
        try:
            protections = box.protections()
        except sandbox.Unavailable as refusal:
            print(json.dumps({"unavailable": str(refusal)}))
            return
        found = {}
        for key, text in programs(victims.given(), name).items():
            verdict = box.run(text, sandbox.Limits(**limits(key)))
            found[key] = {
                "passed": verdict.passed,
                "ran": verdict.ran,
                "reason": verdict.reason,
                "harm": victims.harm(name),
            }
        homes = glob.glob(
            os.path.join(tempfile.gettempdir(), f"program-{box._idle[0]._process.pid}-*")
        )
        print(
            json.dumps(
                {"protections": protections, "programs": found, "left": homes, "uid": os.getuid()}
            )
        )
    finally:
        victims.close()
        box.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

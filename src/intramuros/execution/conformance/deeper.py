"""Runs inside a sandbox, as text, after ``inside.py``: the attempts that need more than one step.

The same rules: nothing here does harm should it succeed, standard library only, and each outcome is
``ok`` when the attempt succeeded, otherwise the error's name or a word for what was met.
"""

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NEW = {"uts": 0x4000000, "ipc": 0x8000000, "cgroup": 0x2000000, "net": 0x40000000}
NEW.update({"pid": 0x20000000, "mount": 0x20000})


def named(code: int | None) -> str:
    """Return an error's name."""
    return errno.errorcode.get(code or 0, str(code))


def call(number: int, *args: int) -> str:
    """Make a system call."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    return "ok" if result >= 0 else named(ctypes.get_errno())


def tried(function: Callable[[], object]) -> str:
    """Do something."""
    try:
        function()
    except OSError as error:
        return named(error.errno) if error.errno else repr(error)
    except ValueError as error:
        return repr(error)
    return "ok"


def forked(function: Callable[[], str]) -> str:
    """Do something in a child, which may die of it or be changed for good."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, function().encode())
        finally:
            os._exit(0)
    os.close(write)
    said = os.read(read, 4096).decode()
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    return said or f"signal {status & 127}"


def _n(x86: int, arm: int) -> int:
    return x86 if X86 else arm


def refused() -> dict[str, str]:
    """Make calls that the filter or the lack of powers must refuse."""
    clone, unshare, ptrace = _n(56, 220), _n(272, 97), _n(101, 117)
    # Without CLONE_VM and a stack a success would be an ordinary child, which ends at once.
    found = {f"clone {n}": forked(partial(_cloned, clone, f)) for n, f in NEW.items()}
    found.update({f"unshare {n}": forked(partial(call, unshare, f)) for n, f in NEW.items()})
    found["unshare time"] = forked(lambda: call(unshare, 0x80))
    prctl, personality, ioctl = _n(157, 167), _n(135, 92), _n(16, 29)
    found.update(
        {
            "ptrace traceme": forked(lambda: call(ptrace, 0, 0, 0, 0)),
            "ptrace seize 1": call(ptrace, 0x4206, 1, 0, 0),
            "process_vm_writev 1": call(_n(311, 271), 1, 0, 0, 0, 0, 0),
            "io_uring_register": call(427, -1, 0, 0, 0),
            "memfd_secret": call(447, 0),
            "statmount": call(457, 0, 0, 0, 0),
            "listmount": call(458, 0, 0, 0, 0),
            "fsconfig": call(431, -1, 0, 0, 0, 0),
            "fsmount": call(432, -1, 0, 0),
            "fspick": call(433, -100, 0, 0),
            "open_tree_attr": call(467, -100, 0, 0, 0, 0),
            "quotactl_fd": call(443, -1, 0, 0, 0),
            "lookup_dcookie": call(_n(212, 18), 0, 0, 0),
            "get_mempolicy": call(_n(239, 236), 0, 0, 0, 0, 0),
            "set_mempolicy": call(_n(238, 237), 0, 0, 0),
            "migrate_pages": call(_n(256, 238), 1, 0, 0, 0),
            "move_pages": call(_n(279, 239), 1, 0, 0, 0, 0, 0),
            "setdomainname": call(_n(171, 162), 0, 0),
            "clock_adjtime": call(_n(305, 266), 0, 0),
            "fanotify_mark": call(_n(301, 263), -1, 0, 0, -1, 0),
            "remap_file_pages": call(_n(216, 234), 0, 0, 0, 0, 0),
            "syslog size": call(_n(103, 116), 10, 0, 0),
            "personality without random addresses": forked(lambda: call(personality, 0x40000)),
            "personality with executable data": forked(lambda: call(personality, 0x400000)),
            "prctl memory map": call(prctl, 35, 1, 0, 0, 0),
            "prctl secure bits": call(prctl, 28, 0, 0, 0, 0),
            "prctl equal pages": forked(lambda: call(prctl, 67, 1, 0, 0, 0)),
            "prctl core scheduling": call(prctl, 62, 0, 0, 0, 0),
            "TIOCLINUX": call(ioctl, 0, 0x541C, 0),
            "TIOCSETD": call(ioctl, 0, 0x5423, 0),
            "TIOCCONS": call(ioctl, 0, 0x541D, 0),
            "setuid 0": forked(lambda: tried(lambda: os.setresuid(0, 0, 0))),
            "setgid 0": forked(lambda: tried(lambda: os.setresgid(0, 0, 0))),
            "setgroups": forked(lambda: tried(lambda: os.setgroups([0]))),
            "raise a capability": forked(_capable),
            "raise open files": forked(_more_files),
            "real-time scheduling": forked(_real_time),
            "nice -20": forked(lambda: tried(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))),
            "out of memory last": forked(_never_killed),
            "a device node": tried(lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))),
        }
    )
    if X86:
        found["32-bit call"] = forked(_old_call)
        found["uselib"] = call(134, 0)
        found["sysfs"] = call(139, 3)
        found["ustat"] = call(136, 0, 0)
    return found


def _cloned(number: int, flag: int) -> str:
    ctypes.set_errno(0)
    pid = libc.syscall(ctypes.c_long(number), ctypes.c_long(flag | 17), *[ctypes.c_long(0)] * 4)
    if pid == 0:
        os._exit(0)
    return "ok" if pid > 0 else named(ctypes.get_errno())


def _capable() -> str:
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", 0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFF, 0xFF, 0))
    return "ok" if libc.capset(header, data) == 0 else named(ctypes.get_errno())


def _more_files() -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return tried(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1)))


def _real_time() -> str:
    return tried(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


def _never_killed() -> str:
    def write() -> None:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")

    return tried(write)


def _old_call() -> str:
    """Ask for the process number the 32-bit way: mov eax, 20; int 0x80; ret."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return "ok" if result >= 0 else named(-result)


def reached(given: dict[str, Any]) -> dict[str, str]:
    """Reach for the host and for neighbours by other roads than a plain connection."""
    found = {}
    for name, family, address in [
        ("link-local 6", socket.AF_INET6, ("fe80::1", 80, 0, 1)),
        ("all nodes 6", socket.AF_INET6, ("ff02::1", 9, 0, 1)),
        ("unique local 6", socket.AF_INET6, ("fd00:ec2::254", 80)),
        ("mapped 6", socket.AF_INET6, ("::ffff:169.254.169.254", 80)),
        ("multicast", socket.AF_INET, ("224.0.0.251", 5353)),
        ("carrier metadata", socket.AF_INET, ("100.100.100.200", 80)),
        ("any address", socket.AF_INET, ("0.0.0.0", given["port"])),
    ]:
        found[f"connect {name}"] = _connected(family, address)
    for name, family, kind, protocol in [
        ("raw IPv4", socket.AF_INET, socket.SOCK_RAW, 255),
        ("raw IPv6", socket.AF_INET6, socket.SOCK_RAW, 58),
        ("raw UDP", socket.AF_INET, socket.SOCK_RAW, 17),
        ("SCTP", socket.AF_INET, socket.SOCK_STREAM, 132),
        ("DCCP", socket.AF_INET, 6, 33),
        ("netfilter", socket.AF_NETLINK, socket.SOCK_RAW, 12),
        ("audit", socket.AF_NETLINK, socket.SOCK_RAW, 9),
        ("kernel events", socket.AF_NETLINK, socket.SOCK_RAW, 15),
        ("generic netlink", socket.AF_NETLINK, socket.SOCK_RAW, 16),
        ("socket monitor", socket.AF_NETLINK, socket.SOCK_RAW, 4),
    ]:
        found[f"socket {name}"] = tried(partial(_opened, family, kind, protocol))
    found["look up a name that carries data"] = tried(
        lambda: socket.getaddrinfo(f"{'0123456789abcdef' * 3}.tunnel.example.", 80)
    )
    return found


def _opened(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def _connected(family: int, address: Any) -> str:
    def connect() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(2)
            sock.connect(address)

    return tried(connect)


def shared(given: dict[str, Any]) -> dict[str, str]:
    """Reach for memory, signals and descriptors of the host and of neighbours."""
    found = {"shared memory of the host": call(_n(29, 194), given["shared memory"], 0, 0)}
    for name, pid in given["pids"].items():
        found[f"signal {name}"] = tried(partial(os.kill, pid, 0))
        found[f"pidfd of {name}"] = call(434, pid, 0)
        found[f"priority of {name}"] = tried(partial(os.getpriority, os.PRIO_PROCESS, pid))
        found[f"limits of {name}"] = tried(partial(resource.prlimit, pid, resource.RLIMIT_NOFILE))
        found[f"processors of {name}"] = tried(partial(os.sched_getaffinity, pid))
        for part in ("environ", "cmdline", "mem", "root", "fd", "cwd", "maps"):
            found[f"{part} of {name}"] = tried(partial(os.stat, f"/proc/{pid}/{part}"))
    found["a directory descriptor that leads out"] = _open_directories()
    for path in given["paths"]:
        found[f"stat {path}"] = tried(partial(os.stat, path))
    return found


def _open_directories() -> str:
    for number in range(3, 1024):
        try:
            if stat.S_ISDIR(os.fstat(number).st_mode):
                return "ok"
        except OSError:
            continue
    return "EBADF"


def seen(canary: str) -> dict[str, str]:
    """Look for a canary of the host in all files that are not the system's programs."""
    wanted, found = canary.encode(), []
    for top in sorted(os.listdir("/")):
        if top in ("usr", "bin", "lib", "lib64", "sbin", "sys"):
            continue
        for folder, _, names in os.walk(f"/{top}"):
            for name in names:
                path = os.path.join(folder, name)
                if canary in name or _holds(path, wanted):
                    found.append(path)
    own = f"/proc/{os.getpid()}/"
    # Our own command line and memory brought the canary here, to look for it.
    mine = ("/proc/self/", "/proc/thread-self/", own)
    left = [path for path in found if not path.startswith(mine)]
    limits = {
        "kernel addresses": _addresses(),
        "keys": _text("/proc/keys"),
        "timers": _text("/proc/timer_list"),
        "devices": ",".join(sorted(set(os.listdir("/dev")) - _USUAL_DEVICES)),
        "set-user-ID programs": forked(_set_user_id),
        "groups": ",".join(str(g) for g in os.getgroups() if g not in (os.getgid(), 65534)),
        "control group": _control_group(),
    }
    return {"canaries of the host in files": ",".join(left), **limits}


_USUAL_DEVICES = {
    *("console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm"),
    *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
}


def _holds(path: str, wanted: bytes) -> bool:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            return wanted in file.read(1 << 20)
    except OSError:
        return False


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(100).strip()
    except OSError:
        return ""


def _addresses() -> str:
    try:
        with open("/proc/kallsyms") as file:
            lines = (file.readline() for _ in range(2000))
            shown = [line for line in lines if line.strip() and line.split()[0].strip("0")]
    except OSError:
        return ""
    return shown[0].strip() if shown else ""


def _control_group() -> str:
    """Return a control group that is not the root of what this sandbox sees."""
    with open("/proc/self/cgroup") as file:
        paths = {line.rstrip("\n").split(":", 2)[2] for line in file}
    return ",".join(sorted(paths - {"/"}))


def _set_user_id() -> str:
    """Run a program that is marked to run as its owner; say who it ran as if somebody else."""
    with open("/bin/sh", "rb") as source, open("/tmp/marked", "wb") as target:
        target.write(source.read())
    os.chmod("/tmp/marked", 0o6755)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.execv("/tmp/marked", ["sh", "-p", "-c", "id -ru; id -u; id -rg; id -g"])
    os.close(write)
    os.waitpid(pid, 0)
    said = os.read(read, 100).decode().split()
    usual = [str(os.getuid())] * 2 + [str(os.getgid())] * 2
    return "none" if said == usual else ",".join(said)


def main(given: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Make all attempts; those that look come before those that may change this process."""
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    parts: dict[str, Callable[[], dict[str, str]]] = {
        "seen": partial(seen, given["canary"]),
        "shared": partial(shared, given),
        "reached": partial(reached, given),
        "refused": refused,
    }
    return {name: part() for name, part in parts.items() if name not in given.get("without", ())}


if __name__ == "__main__":
    import json

    print(json.dumps(main(json.loads(sys.argv[1]))))

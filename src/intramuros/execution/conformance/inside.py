"""Runs inside a sandbox, as text: tries to get out, and prints what each attempt met, as JSON.

Nothing here may do harm should it succeed: files are opened and not written, calls get arguments
that are refused for another reason if they are let through, and no packet carries anything.
Standard library only; ``ok`` means that the attempt succeeded, otherwise it is the error's name.
"""

import ctypes
import errno
import glob
import json
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
OURS = b"HOME=/home/agent\0"
"""What a runtime adds to an empty environment."""
X86 = platform.machine() == "x86_64"


def named(code: int | None) -> str:
    """Return an error's name."""
    return errno.errorcode.get(code or 0, str(code))


def call(number: int, *args: int) -> str:
    """Make a system call."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    return "ok" if result >= 0 else named(ctypes.get_errno())


def opened(path: str, flags: int) -> str:
    """Open a file."""
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return named(error.errno)
    return "ok"


def peeked(path: str) -> str:
    """Read from a file that gVisor opens to all, and has only what it was started with in it."""
    try:
        with open(path, "rb") as file:
            return "ok" if file.read().replace(OURS, b"") else "ENOENT"
    except OSError as error:
        return named(error.errno)


def tried(function: Callable[[], object]) -> str:
    """Do something."""
    try:
        function()
    except OSError as error:
        return named(error.errno) if error.errno else repr(error)
    return "ok"


def _n(x86: int, arm: int) -> int:
    return x86 if X86 else arm


def syscalls() -> dict[str, str]:
    """Try the system calls that escapes are made of."""
    new = {"user": 0x10000000, "mount": 0x20000, "net": 0x40000000, "pid": 0x20000000}
    found = {f"unshare {name}": call(_n(272, 97), flag) for name, flag in new.items()}
    found.update(
        {
            # An exit signal of 17 would make a real child; an invalid flag pair refuses it late.
            "clone user": call(_n(56, 220), 0x10000000 | 0x10000 | 17, 0, 0, 0, 0),
            "clone3": call(435, 0, 0),
            "mount": call(_n(165, 40), 0, 0, 0, 0, 0),
            "umount": call(_n(166, 39), 0, 0),
            "pivot_root": call(_n(155, 41), 0, 0),
            "chroot": tried(lambda: os.chroot("/")),
            "setns": call(_n(308, 268), -1, 0),
            "ptrace attach 1": call(_n(101, 117), 16, 1, 0, 0),
            "process_vm_readv 1": call(_n(310, 270), 1, 0, 0, 0, 0, 0),
            "pidfd_getfd": call(438, -1, 0, 0),
            "bpf": call(_n(321, 280), 0, 0, 0),
            "perf_event_open": call(_n(298, 241), 0, 0, -1, -1, 0),
            "io_uring_setup": call(425, 0, 0),
            "io_uring_enter": call(426, -1, 0, 0, 0, 0, 0),
            "add_key": call(_n(248, 217), 0, 0, 0, 0, 0),
            "request_key": call(_n(249, 218), 0, 0, 0, 0),
            "keyctl": call(_n(250, 219), 0, 0, 0, 0, 0),
            "userfaultfd": call(_n(323, 282), 0),
            "open_by_handle_at": call(_n(304, 265), -1, 0, 0),
            "name_to_handle_at": call(_n(303, 264), -1, 0, 0, 0, 0),
            "kexec_load": call(_n(246, 104), 0, 0, 0, 0),
            "kexec_file_load": call(_n(320, 294), -1, -1, 0, 0, 0),
            "init_module": call(_n(175, 105), 0, 0, 0),
            "finit_module": call(_n(313, 273), -1, 0, 0),
            "delete_module": call(_n(176, 106), 0, 0),
            "reboot": call(_n(169, 142), 0, 0, 0, 0),
            "swapon": call(_n(167, 224), 0, 0),
            "swapoff": call(_n(168, 225), 0),
            "settimeofday": call(_n(164, 170), 0, 0),
            "clock_settime": call(_n(227, 112), 0, 0),
            "adjtimex": call(_n(159, 171), 0),
            "sethostname": call(_n(170, 161), 0, 0),
            "fsopen": call(430, 0, 0),
            "open_tree": call(428, -100, 0, 1),
            "move_mount": call(429, -1, 0, -1, 0, 0),
            "mount_setattr": call(442, -1, 0, 0, 0, 0),
            "quotactl": call(_n(179, 60), 0, 0, 0, 0),
            "acct": call(_n(163, 89), 0),
            "syslog": call(_n(103, 116), 3, 0, 0),
            "fanotify_init": call(_n(300, 262), 0, 0),
            "kcmp": call(_n(312, 272), 1, 1, 0, 0, 0),
            "process_madvise": call(440, -1, 0, 0, 0, 0),
            "mbind": call(_n(237, 235), 0, 0, 0, 0, 0, 0),
            "vhangup": call(_n(153, 58)),
            "TIOCSTI": call(_n(16, 29), 0, 0x5412, 0),
        }
    )
    if X86:
        found["iopl"] = call(172, 3)
        found["ioperm"] = call(173, 0, 1, 1)
        found["modify_ldt"] = call(154, 0, 0, 0)
        found["x32 getpid"] = call(0x40000000 | 39)
    return found


def files() -> dict[str, str]:
    """Open what belongs to the host."""
    writes = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sysrq-trigger.",
        "/proc/1/oom_score_adj",
        "/proc/1/exe",
        "/usr/bin/env",
        "/etc/passwd",
        "/opt/intramuros/intramuros/execution/sandbox/inside/supervisor.py",
    ]
    reads = [
        "/proc/1/mem",
        "/proc/1/environ",
        "/proc/1/root/etc/passwd",
        "/proc/1/cwd",
        "/proc/1/fd/3",
        "/proc/kmsg",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/dev/kvm",
        "/dev/net/tun",
        "/dev/fuse",
        "/dev/loop-control",
        "/dev/loop0",
        "/dev/vsock",
        "/etc/shadow",
        "/etc/gshadow",
        "/root",
        "/sys/kernel",
        "/sys/fs/cgroup",
        "/sys/kernel/uevent_helper",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/tmp/.X11-unix",
    ]
    found = {f"write {path}": opened(path, os.O_WRONLY) for path in writes}
    found.update({f"read {path}": opened(path, os.O_RDONLY) for path in reads})
    found["read /proc/1/environ"] = peeked("/proc/1/environ")
    found["rdwr /proc/1/mem"] = opened("/proc/1/mem", os.O_RDWR)
    for place in ("/", "/usr", "/etc", "/dev", "/opt", "/home", "/var", "/proc", "/run"):
        found[f"create in {place}"] = opened(f"{place}/planted", os.O_WRONLY | os.O_CREAT)
    found["mknod"] = tried(lambda: os.mknod("/workspace/node", 0o60600, os.makedev(254, 0)))
    return found


def made(family: int, kind: int, protocol: int = 0) -> None:
    """Make a socket."""
    socket.socket(family, kind, protocol).close()


def connect(family: int, kind: int, address: Any) -> None:
    """Connect a socket."""
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        sock.connect(address)


def sockets(host_port: int, abstract: str) -> dict[str, Any]:
    """Reach for the network, the hypervisor and the host's own listeners."""
    found: dict[str, Any] = {}
    families = {"vsock": 40, "packet": 17, "alg": 38, "bluetooth": 31, "key": 15, "xdp": 44}
    families.update({"tipc": 30, "can": 29, "rds": 21, "smc": 43, "nfc": 39, "appletalk": 5})
    for name, family in families.items():
        found[f"socket {name}"] = tried(partial(made, family, socket.SOCK_DGRAM))
    icmp = socket.IPPROTO_ICMP
    found["socket icmp"] = tried(partial(made, socket.AF_INET, socket.SOCK_RAW, icmp))
    stream, packet = socket.SOCK_STREAM, socket.SOCK_DGRAM
    for name, family, kind, address in [
        ("host loopback", socket.AF_INET, stream, ("127.0.0.1", host_port)),
        ("host loopback 6", socket.AF_INET6, stream, ("::1", host_port)),
        ("private", socket.AF_INET, stream, ("10.0.0.1", 80)),
        ("metadata", socket.AF_INET, stream, ("169.254.169.254", 80)),
        ("documentation", socket.AF_INET, stream, ("192.0.2.1", 443)),
        ("documentation 6", socket.AF_INET6, stream, ("2001:db8::1", 443)),
        ("dns", socket.AF_INET, packet, ("192.0.2.53", 53)),
        ("quic", socket.AF_INET, packet, ("192.0.2.1", 443)),
        ("broadcast", socket.AF_INET, packet, ("192.0.2.255", 9)),
        ("abstract", socket.AF_UNIX, stream, "\0" + abstract),
    ]:
        found[f"connect {name}"] = tried(partial(connect, family, kind, address))
    found["interfaces"] = sorted(name for _, name in socket.if_nameindex())
    with open("/proc/net/route") as table:
        found["routes"] = len(table.read().splitlines()) - 1
    return found


def facts(canary: str, host_pid: int) -> dict[str, Any]:
    """Look at what this process is, and at what it can see."""
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    seen = []
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
        # Our own command line brought the canary here, to look for it.
        if path.startswith(f"/proc/{os.getpid()}/cmdline"):
            continue
        try:
            with open(path, "rb") as file:
                if canary.encode() in file.read():
                    seen.append(path)
        except OSError:
            pass
    fds: list[list[Any]] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            fds.append([int(name), os.readlink(f"/proc/self/fd/{name}")])
        except OSError:
            pass
    return {
        "uid": os.getuid(),
        "caps": [status[name] for name in status if name.startswith("Cap")],
        "no_new_privs": str(libc.prctl(39, 0, 0, 0, 0)),
        "seccomp": status["Seccomp"],
        "canary": seen,
        "own environment": sorted(os.environ),
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "kill host": tried(lambda: os.kill(host_pid, 0)),
        "fds": fds,
        "core limit": resource.getrlimit(resource.RLIMIT_CORE),
        "namespaces": {
            name: os.readlink(f"/proc/self/ns/{name}")
            for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
            if os.path.lexists(f"/proc/self/ns/{name}")  # gVisor knows a few only
        },
        "hostname": socket.gethostname(),
        "passwd": open("/etc/passwd").read().count("\n"),
        "setuid root": os.path.exists("/usr/bin/su") and os.system("su -c id 2>/dev/null") == 0,
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    # System calls last: where they are let through, they change what the others would see.
    report = {
        "facts": facts(given["canary"], given["pid"]),
        "sockets": sockets(given["port"], given["abstract"]),
        "files": files(),
        "syscalls": syscalls(),
    }
    print(json.dumps(report))

"""The system-call filter of a sandbox: what is not listed is refused (no libseccomp needed).

:mod:`syscalls` lists what passes; here is what is asked of arguments. Each rule is there because
the call is needed and some use of it is a way out, or into rarely walked corners of the kernel.
Pure: bytes in, bytes out.
"""

from errno import EAFNOSUPPORT, EINVAL, ENOSYS, EPERM, EPROTONOSUPPORT
from functools import cache
from typing import Final

from intramuros.kernel import bpf, syscalls
from intramuros.kernel.bpf import Answer, AnyBit, Decision, OneOf

_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_PASS: Final = Answer()
_REFUSE: Final = Answer(EPERM)

_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}."""
_OWN_COPIES: Final = 0x00050F00
"""CLONE_{VM,FS,FILES,SIGHAND,THREAD,SYSVSEM}: all that unshare may be asked for."""

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM = 1, 2
_KIND_OF_SOCKET: Final = 0xF
"""The rest of the argument is flags."""
_PROTOCOLS: Final = (0, 1, 6, 17, 58)
"""Any, ICMP, TCP, UDP, ICMPv6. Asking for others loads modules of the kernel."""
_ROUTES: Final = 0
"""NETLINK_ROUTE: interfaces and addresses; no firewall, no audit, no kernel events."""

_KIND_OF_FILE: Final = 0xF000
_DEVICES: Final = (0x2000, 0x6000)

_TERMINAL_TRICKS: Final = (0x5412, 0x541C, 0x541D, 0x5423, 0x5437)
"""TIOCSTI and TIOCLINUX type into someone else's terminal, TIOCCONS takes the console's output,
TIOCSETD loads line disciplines, TIOCVHANGUP hangs others up."""

_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, its 32-bit and 2.6 names, and the question which one it is; none that weakens memory."""

_PRCTL: Final = (
    *(1, 2, 3, 4),  # death signal, dumpable
    *(7, 8, 13, 14, 15, 16),  # keep capabilities, timing, names
    *(21, 22, 23, 24, 25, 26, 27),  # filters, giving up capabilities, time-stamp counter, bits
    *(29, 30, 33, 34, 36, 37, 38, 39, 40),  # timer slack, memory errors, reaping, privileges
    *(41, 42, 45, 46, 47, 50, 51, 52, 53),  # huge pages, float modes, vectors, speculation
    *(54, 55, 56, 59, 60, 61, 63, 64, 65, 66),  # pointer keys and tags, dispatch, exec memory
    *(74, 75, 76, 77, 78),  # shadow stacks, timers, futexes
    *(0x53564D41, 0x59616D61),  # names of memory areas, who may trace
)
"""Left out: moving the parts of one's memory map, secure bits, merging of equal pages (a way to
read neighbours' memory), scheduling cookies, exemption from write-back limits."""

_INTERNET: Final = OneOf(
    1,
    (_STREAM, _DATAGRAM),
    OneOf(2, _PROTOCOLS, _PASS, Answer(EPROTONOSUPPORT)),
    _REFUSE,
    mask=_KIND_OF_SOCKET,
)
_RULES: Final[dict[str, Decision]] = {
    "clone": AnyBit(0, _NEW_NAMESPACES, _REFUSE, _PASS),
    "unshare": AnyBit(0, 0xFFFFFFFF & ~_OWN_COPIES, _REFUSE, _PASS),
    # vsock would reach the hypervisor past the network namespace; others are attack surface.
    "socket": OneOf(
        0,
        (_UNIX,),
        _PASS,
        OneOf(
            0,
            (_INET, _INET6),
            _INTERNET,
            OneOf(
                0,
                (_NETLINK,),
                OneOf(2, (_ROUTES,), _PASS, Answer(EPROTONOSUPPORT)),
                Answer(EAFNOSUPPORT),
            ),
        ),
    ),
    "socketpair": OneOf(0, (_UNIX,), _PASS, Answer(EAFNOSUPPORT)),
    "ioctl": OneOf(1, _TERMINAL_TRICKS, _REFUSE, _PASS),
    "mknod": OneOf(1, _DEVICES, _REFUSE, _PASS, mask=_KIND_OF_FILE),
    "mknodat": OneOf(2, _DEVICES, _REFUSE, _PASS, mask=_KIND_OF_FILE),
    "personality": OneOf(0, _PERSONALITIES, _PASS, _REFUSE),
    "prctl": OneOf(0, _PRCTL, _PASS, Answer(EINVAL)),
}


def supported(machine: str) -> bool:
    """Return whether there is a filter for a machine as ``os.uname().machine`` calls it."""
    return machine in _AUDIT


@cache
def assemble(machine: str) -> bytes:
    """Return the filter program for a machine, ready for ``bwrap --seccomp``.

    Raises:
        KeyError: no filter for this machine; ask :func:`supported` first.
    """
    audit = _AUDIT[machine]
    numbers: dict[int, Decision] = dict.fromkeys(syscalls.allowed(machine).values(), _PASS)
    for name, number in syscalls.argued(machine).items():
        numbers[number] = _RULES[name]
    for number in syscalls.ABSENT:
        numbers[number] = Answer(ENOSYS)
    unused = syscalls.UNUSED[machine]
    # The x32 way of calling sets bit 30 of the number: above the newest.
    steps = [
        (0, EPERM),
        (unused.start, ENOSYS),
        (unused.stop, EPERM),
        (syscalls.NEWEST + 1, ENOSYS),
    ]
    return bpf.program(audit, numbers, steps)

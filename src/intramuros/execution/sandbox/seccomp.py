"""The system-call filter of a sandbox, assembled as classic BPF (no libseccomp needed).

Everything ordinary programs use passes; what reaches the kernel's rarely walked corners, other
namespaces, clocks, keys, modules or the hypervisor is refused. Pure: bytes in, bytes out.

The kernel remembers which calls always pass without looking at arguments, so the length of the
list costs nothing on them (Linux 5.11).
"""

import struct
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM

_LD, _JEQ, _JSET, _JGE, _RET = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # offsets in struct seccomp_data, low words first
_X32_BIT = 0x40000000

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}."""
_NEW_TIME = 0x80
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK; vsock would reach the hypervisor past the namespace."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: typing into someone else's terminal."""

# name → (x86_64, aarch64); None where the architecture has no such call. Refused with EPERM.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "_sysctl": (156, None),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_kernel_syms": (177, None),
    "get_mempolicy": (239, 236),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "query_module": (178, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "ustat": (136, None),
    "vhangup": (153, 58),
}


@dataclass(frozen=True)
class _Machine:
    audit: int
    column: int
    clone: int
    clone3: int
    unshare: int
    socket: int
    ioctl: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 0, clone=56, clone3=435, unshare=272, socket=41, ioctl=16),
    "aarch64": _Machine(0xC00000B7, 1, clone=220, clone3=435, unshare=97, socket=198, ioctl=29),
}


def supported(machine: str) -> bool:
    """Return whether there is a filter for a machine as ``os.uname().machine`` calls it."""
    return machine in _MACHINES


def assemble(machine: str) -> bytes:
    """Return the filter program for a machine, ready for ``bwrap --seccomp``.

    Raises:
        KeyError: no filter for this machine; ask :func:`supported` first.
    """
    facts = _MACHINES[machine]
    code: list[tuple[int, int, int, int]] = [
        (_LD, 0, 0, _ARCH),
        # Calls of another architecture (32-bit mode) would be numbered differently: refuse all.
        (_JEQ, 1, 0, facts.audit),
        (_RET, 0, 0, _ERRNO | ENOSYS),
        (_LD, 0, 0, _NR),
        (_JGE, 0, 1, _X32_BIT),
        (_RET, 0, 0, _ERRNO | ENOSYS),
        # clone3 hides its flags behind a pointer; without it libc falls back to clone.
        (_JEQ, 0, 1, facts.clone3),
        (_RET, 0, 0, _ERRNO | ENOSYS),
        *_mask(facts.clone, _NEW_NAMESPACES),
        *_mask(facts.unshare, _NEW_NAMESPACES | _NEW_TIME),
        *_only(facts.socket, _ARG0, _FAMILIES, EAFNOSUPPORT),
        *_never(facts.ioctl, _ARG1, _TERMINAL_INPUT, EPERM),
    ]
    numbers = sorted(n for pair in REFUSED.values() if (n := pair[facts.column]) is not None)
    for number in numbers:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ERRNO | EPERM)]
    code.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _mask(number: int, bits: int) -> list[tuple[int, int, int, int]]:
    """Refuse a call whose first argument has any of ``bits``."""
    return [
        (_JEQ, 0, 4, number),
        (_LD, 0, 0, _ARG0),
        (_JSET, 0, 1, bits),
        (_RET, 0, 0, _ERRNO | EPERM),
        (_RET, 0, 0, _ALLOW),
    ]


def _only(
    number: int, argument: int, values: tuple[int, ...], error: int
) -> list[tuple[int, int, int, int]]:
    """Allow a call for these values of an argument alone."""
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [
        (_JEQ, 0, len(values) + 3, number),
        (_LD, 0, 0, argument),
        *tests,
        (_RET, 0, 0, _ERRNO | error),
        (_RET, 0, 0, _ALLOW),
    ]


def _never(
    number: int, argument: int, values: tuple[int, ...], error: int
) -> list[tuple[int, int, int, int]]:
    """Refuse a call for these values of an argument."""
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [
        (_JEQ, 0, len(values) + 3, number),
        (_LD, 0, 0, argument),
        *tests,
        (_RET, 0, 0, _ALLOW),
        (_RET, 0, 0, _ERRNO | error),
    ]

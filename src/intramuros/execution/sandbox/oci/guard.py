"""A few instructions in front of the system-call filter, by which nobody signals process 1. Pure.

Linux keeps a namespace's process 1 from signals of those inside; gVisor lets them kill it.
"""

import struct
from errno import EPERM
from typing import Final

_LD, _JEQ, _JA, _RET = 0x20, 0x15, 0x05, 0x06
_NR, _ARG0 = 0, 16  # offsets in struct seccomp_data, low words first
_ERRNO = 0x00050000

# kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open: all name a process first.
SIGNALLING: Final = {
    "x86_64": (62, 200, 234, 129, 297, 434),
    "aarch64": (129, 130, 131, 138, 240, 434),
}


def guarded(machine: str, program: bytes) -> bytes:
    """Return a filter that refuses to signal process 1, and otherwise does what ``program`` does.

    Args:
        program: classic BPF, entered where this one has nothing to say.

    Raises:
        KeyError: nothing is known of this machine.
    """
    numbers = SIGNALLING[machine]
    code = [(_LD, 0, 0, _NR)]
    code += [(_JEQ, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    code += [
        (_JA, 0, 0, 3),
        (_LD, 0, 0, _ARG0),
        (_JEQ, 0, 1, 1),
        (_RET, 0, 0, _ERRNO | EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code) + program

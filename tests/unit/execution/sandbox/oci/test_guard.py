import struct
from errno import EPERM

import pytest

from intramuros.execution.sandbox.oci.guard import SIGNALLING, guarded

PASSED_ON = 7
REFUSED = 0x00050000 | EPERM


def run(machine: str, number: int, *arguments: int) -> int:
    """Interpret the filter with a program behind it that returns PASSED_ON."""
    behind = struct.pack("=HBBI", 0x06, 0, 0, PASSED_ON)
    code = list(struct.iter_unpack("=HBBI", guarded(machine, behind)))
    data = struct.pack("=IIQ6Q", number, 0, 0, *arguments, *[0] * (6 - len(arguments)))
    at = value = 0
    while True:
        kind, yes, no, k = code[at]
        at += 1
        if kind == 0x20:
            value = struct.unpack_from("=I", data, k)[0]
        elif kind == 0x15:
            at += yes if value == k else no
        elif kind == 0x05:
            at += k
        else:
            assert kind == 0x06
            return k


@pytest.mark.parametrize("machine", sorted(SIGNALLING))
def test_nobody_signals_process_1(machine: str) -> None:
    for number in SIGNALLING[machine]:
        assert run(machine, number, 1, 9) == REFUSED
        assert run(machine, number, 1 << 32 | 1, 9) == REFUSED  # the kernel takes an int of it
        for other in (0, 2, 2**64 - 1, 2**64 - 5):
            assert run(machine, number, other, 9) == PASSED_ON


def test_all_else_is_for_the_filter_behind_it() -> None:
    for number in (0, 1, 61, 63, 435):
        assert run("x86_64", number, 1, 1) == PASSED_ON
    with pytest.raises(KeyError):
        guarded("vax", b"")

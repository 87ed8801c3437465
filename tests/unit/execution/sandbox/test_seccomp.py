"""The filter is run here by a small interpreter of its instructions."""

import struct
from errno import EAFNOSUPPORT, ENOSYS, EPERM

import pytest

from intramuros.execution.sandbox import seccomp

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW = 0x7FFF0000


def run(machine: str, number: int, *args: int, audit: int | None = None) -> int:
    """Return the error a call meets, 0 when it is let through."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, audit or AUDIT[machine], 0, *padded)
    program = list(struct.iter_unpack("=HBBI", seccomp.assemble(machine)))
    at = accumulator = 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == 0x20:
            [accumulator] = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return 0 if value == ALLOW else value & 0xFFFF
        else:
            hit = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += yes if hit else no


NUMBERS = {
    "x86_64": {"read": 0, "clone": 56, "unshare": 272, "socket": 41, "ioctl": 16, "execve": 59},
    "aarch64": {"read": 63, "clone": 220, "unshare": 97, "socket": 198, "ioctl": 29, "execve": 221},
}
MACHINES = sorted(NUMBERS)


@pytest.mark.parametrize("machine", MACHINES)
def test_everything_on_the_list_is_refused_and_nothing_else(machine: str) -> None:
    column = MACHINES[::-1].index(machine)
    listed = {pair[column] for pair in seccomp.REFUSED.values()} - {None}
    special = {NUMBERS[machine][name] for name in ("clone", "unshare", "socket", "ioctl")} | {435}
    for number in range(600):
        if number not in special:
            assert run(machine, number) == (EPERM if number in listed else 0), number


@pytest.mark.parametrize("machine", MACHINES)
def test_new_namespaces_are_refused_and_threads_are_not(machine: str) -> None:
    clone, unshare = NUMBERS[machine]["clone"], NUMBERS[machine]["unshare"]
    for bit in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(machine, clone, bit | 17) == EPERM
        assert run(machine, unshare, bit) == EPERM
    assert run(machine, unshare, 0x80) == EPERM
    assert run(machine, clone, 0x3D0F00) == 0
    assert run(machine, clone, 17) == 0
    assert run(machine, 435) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_only_ordinary_socket_families_pass(machine: str) -> None:
    passed = [f for f in range(64) if run(machine, NUMBERS[machine]["socket"], f) == 0]
    assert passed == [1, 2, 10, 16]
    assert run(machine, NUMBERS[machine]["socket"], 40) == EAFNOSUPPORT


@pytest.mark.parametrize("machine", MACHINES)
def test_typing_into_a_terminal_is_refused(machine: str) -> None:
    ioctl = NUMBERS[machine]["ioctl"]
    assert run(machine, ioctl, 0, 0x5412) == EPERM
    assert run(machine, ioctl, 0, 0x541C) == EPERM
    assert run(machine, ioctl, 0, 0x5401) == 0


def test_other_ways_of_calling_are_refused() -> None:
    assert run("x86_64", 0, audit=0x40000003) == ENOSYS
    assert run("x86_64", 0x40000000 | 39) == ENOSYS


def test_jumps_fit_and_machines_are_known() -> None:
    assert seccomp.supported("x86_64")
    assert not seccomp.supported("riscv64")
    for machine in MACHINES:
        assert len(seccomp.assemble(machine)) // 8 < 4096

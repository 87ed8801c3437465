"""The numbers are held against the kernel's own headers where this machine has them."""

import re
from pathlib import Path

import pytest

from intramuros.kernel import syscalls

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
# The generic header calls them by the names that 32-bit machines need.
WIDE = {
    "fadvise64_64": "fadvise64", "fcntl": "fcntl", "fstat": "fstat", "fstatfs": "fstatfs",
    "fstatat": "newfstatat", "ftruncate": "ftruncate", "lseek": "lseek", "mmap": "mmap",
    "sendfile": "sendfile", "statfs": "statfs", "truncate": "truncate", "fadvise64": "fadvise64",
}  # fmt: skip


@pytest.mark.parametrize("machine", sorted(HEADERS))
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"no {HEADERS[machine]} on this machine")
    text = HEADERS[machine].read_text()
    known = {
        name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)\b", text)
    }
    wide = re.findall(r"#define __NR3264_(\w+)\s+(\d+)", text)
    known |= {WIDE[name]: int(number) for name, number in wide if name in WIDE}
    ours = syscalls.allowed(machine) | syscalls.argued(machine)
    newest = max(number for name, number in known.items() if name != "syscalls")
    missing = {name for name, number in ours.items() if name not in known and number <= newest}
    assert missing == set()
    wrong = {name: number for name, number in ours.items() if known.get(name, number) != number}
    assert wrong == {}


@pytest.mark.parametrize("machine", sorted(HEADERS))
def test_no_number_stands_twice(machine: str) -> None:
    ours = [*syscalls.allowed(machine).values(), *syscalls.argued(machine).values()]
    assert len(ours) == len(set(ours)) > 250
    assert not set(ours) & syscalls.ABSENT
    assert not set(ours) & set(syscalls.UNUSED[machine])
    assert max(ours) <= syscalls.NEWEST


def test_older_calls_are_x86_64_s_alone() -> None:
    assert "open" in syscalls.allowed("x86_64")
    assert "open" not in syscalls.allowed("aarch64")
    assert "mknod" not in syscalls.argued("aarch64")
    with pytest.raises(KeyError, match="riscv64"):
        syscalls.allowed("riscv64")

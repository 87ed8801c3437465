import os
from pathlib import Path

import pytest

from intramuros.execution.room import Reserve, Room

MIB = 2**20


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 4096000 kB\nMemAvailable: 307200 kB\n")
    (tmp_path / "loadavg").write_text("3.00 2.00 1.00 1/200 4711\n")
    return tmp_path


@pytest.mark.parametrize(
    ("reserve", "lack"),
    [
        (Reserve(256 * MIB, 0), None),
        (Reserve(301 * MIB, 0), "300 MiB of memory are free"),
        (Reserve(0, 1.4), "the load is 1.5 for each processor"),
        (Reserve(0, 1.6), None),
        (Reserve(0, 0), None),
        (Reserve(256 * MIB, 1.0), "the load is 1.5 for each processor"),
    ],
)
def test_there_is_room_or_the_reason_is_named(
    proc: Path, reserve: Reserve, lack: str | None
) -> None:
    room = Room(reserve, cpus=2, proc=proc)
    assert room.lack() == lack
    assert room.free() is (lack is None)


def test_what_the_kernel_does_not_tell_holds_nobody_up(tmp_path: Path) -> None:
    assert Room(Reserve(MIB, 1.0), proc=tmp_path).free()
    (tmp_path / "meminfo").write_text("MemTotal: 4096000 kB\n")
    (tmp_path / "loadavg").write_text("")
    assert Room(Reserve(MIB, 1.0), proc=tmp_path).free()


def test_a_disk_that_is_nearly_full_takes_no_more(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    assert Room(Reserve(0, 0, 1, tmp_path)).free()
    assert Room(Reserve(0, 0, 0, tmp_path)).free()
    assert "MiB of the disk are free" in str(Room(Reserve(0, 0, 2 * free, tmp_path)).lack())
    assert Room(Reserve(0, 0, 2**60, tmp_path / "none")).free(), "nobody can tell"


def test_this_host_is_looked_at_by_default() -> None:
    assert Room(Reserve(1, 0)).free()
    assert "MiB of memory are free" in str(Room(Reserve(2**60, 0)).lack())

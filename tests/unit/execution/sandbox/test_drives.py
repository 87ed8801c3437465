import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from intramuros.execution.sandbox import drives as module
from intramuros.execution.sandbox.base import MIB, Level, Limits, SandboxBusy, SandboxError
from intramuros.execution.sandbox.drives import Drives, Shape, disk_finding
from tests.waiting import until

pytestmark = pytest.mark.anyio
SMALL = Shape.of(Limits(disk_bytes=4 * MIB))


@pytest.fixture
def drives(tmp_path: Path) -> Drives:
    made = Drives(tmp_path)
    if made.lack:
        pytest.skip(f"no drives on this host: {made.lack}")
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, content: bytes) -> None:
    """Write through to the file that the drive is in."""
    for place, flags in ((path, os.O_WRONLY | os.O_CREAT), (path.parent, os.O_RDONLY)):
        fd = os.open(place, flags, 0o644)
        if place is path:
            os.write(fd, content)
        os.fsync(fd)
        os.close(fd)


@pytest.mark.parametrize(("megabytes", "files"), [(4, 1024), (64, 16_384), (4096, 500_000)])
def test_small_drives_have_fewer_files(megabytes: int, files: int) -> None:
    shape = Shape.of(Limits(disk_bytes=megabytes * MIB))
    assert (shape.data_bytes, shape.files) == (megabytes * MIB, files)
    assert shape.size > shape.data_bytes + files * 256


def test_a_limit_of_files_is_taken_as_it_is() -> None:
    assert Shape.of(Limits(disk_files=3000)).files == 3000


async def test_it_holds_what_it_should_and_costs_what_it_holds(
    tmp_path: Path, drives: Drives
) -> None:
    shape = Shape.of(Limits(disk_bytes=1024 * MIB))
    await drives.make(tmp_path / "a.img", shape)
    drive = await drives.open(tmp_path / "a.img", shape)
    info = os.statvfs(drive.root)
    drive.close()
    assert 1024 * MIB <= info.f_bavail * info.f_frsize <= 1.05 * 1024 * MIB
    assert shape.files * 0.99 <= info.f_favail <= shape.files * 1.05
    assert (tmp_path / "a.img").stat().st_blocks * 512 < MIB
    assert (tmp_path / "a.img").stat().st_mode & 0o777 == 0o600


async def test_nobody_mounts_one_twice(
    tmp_path: Path, drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_S", 0.05)
    image = tmp_path / "a.img"
    await drives.make(image, SMALL)
    first = await drives.open(image, SMALL)
    with pytest.raises(SandboxBusy, match="in use"):
        await Drives(tmp_path).open(image, SMALL)
    first.close()
    monkeypatch.setattr(module, "_BUSY_S", 5.0)
    (await drives.open(image, SMALL)).close()


async def test_what_the_machine_died_with_is_checked(tmp_path: Path, drives: Drives) -> None:
    image = tmp_path / "a.img"
    await drives.make(image, SMALL)
    drive = await drives.open(image, SMALL)
    write(drive.workspace / "f", b"x")
    torn = tmp_path / "torn.img"
    torn.write_bytes(image.read_bytes())  # as the disk had it when the power went
    drive.close()
    state = torn.read_bytes()[1024 + 0x3A]
    assert not state & 1, "the kernel has noted that it was not closed"
    again = await drives.open(torn, SMALL)
    assert (again.workspace / "f").read_text() == "x"
    again.close()


def damage(image: Path, at: int, count: int) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(count))


async def kept_one(drives: Drives, image: Path, shape: Shape) -> None:
    """Make a drive with a file in it, and close it."""
    await drives.make(image, shape)
    drive = await drives.open(image, shape)
    write(drive.workspace / "kept", b"kept")
    drive.close()


LARGE = Shape.of(Limits(disk_bytes=300 * MIB))


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["template", "backup"])
@pytest.mark.parametrize("count", [4, 2048], ids=["fields", "whole"])
async def test_a_lost_superblock_is_had_from_elsewhere(
    tmp_path: Path, drives: Drives, shape: Shape, count: int
) -> None:
    image = tmp_path / "a.img"
    await kept_one(drives, image, shape)
    if shape is LARGE:
        drives._named(shape).unlink()  # then only its own copy is left
    # Only some fields: it still says that all is well, and the kernel does not believe it.
    damage(image, 1024 + 0x18 if count == 4 else 0, count)
    drive = await drives.open(image, shape)
    try:
        assert (drive.workspace / "kept").read_bytes() == b"kept"
        write(drive.workspace / "more", b"more")
    finally:
        drive.close()
    drive = await drives.open(image, shape)
    assert sorted(path.name for path in drive.workspace.iterdir()) == ["kept", "more"]
    drive.close()


async def test_what_cannot_be_mended_is_refused_and_named_each_time(
    tmp_path: Path, drives: Drives
) -> None:
    image, other = tmp_path / "a.img", tmp_path / "b.img"
    await kept_one(drives, image, SMALL)
    damage(image, 0, image.stat().st_size)
    before = image.stat().st_size
    for _ in range(2):
        with pytest.raises(SandboxError, match=r"cannot mount .* workspace is not found"):
            await drives.open(image, SMALL)
    assert image.stat().st_size == before
    await kept_one(drives, other, SMALL)  # and nobody else minds


async def test_files_that_have_lost_their_place_are_no_empty_workspace(
    tmp_path: Path, drives: Drives
) -> None:
    image = tmp_path / "a.img"
    await kept_one(drives, image, SMALL)
    debug = ["/usr/sbin/debugfs", "-w", "-R", "unlink workspace", str(image)]
    subprocess.run(debug, check=True, capture_output=True)  # noqa: ASYNC221 - short
    with image.open("r+b") as file:
        file.seek(1024 + 0x3A)
        file.write(b"\0\0")  # the machine died
    for _ in range(2):
        with pytest.raises(SandboxError, match="its workspace is not found"):
            await drives.open(image, SMALL)


async def test_limits_that_changed_change_it(tmp_path: Path, drives: Drives) -> None:
    image = tmp_path / "a.img"
    await drives.make(image, SMALL)
    drive = await drives.open(image, SMALL)
    (drive.workspace / "f").write_text("x")
    drive.close()
    for megabytes in (64, 8):
        drive = await drives.open(image, Shape.of(Limits(disk_bytes=megabytes * MIB)))
        info = os.statvfs(drive.root)
        assert (drive.workspace / "f").read_text() == "x"
        drive.close()
        assert info.f_blocks * info.f_frsize < 1.2 * megabytes * MIB
        assert info.f_blocks * info.f_frsize > 0.8 * megabytes * MIB


def state_of(image: Path) -> int:
    with image.open("rb") as file:
        file.seek(1024 + 0x3A)
        return file.read(1)[0]


async def test_what_was_found_broken_is_checked(tmp_path: Path, drives: Drives) -> None:
    image = tmp_path / "a.img"
    await drives.make(image, SMALL)
    # Closed, and with errors, as an interrupted resize2fs leaves it, too.
    module._run("debugfs", ["-w", "-R", "set_super_value state 3", str(image)])
    assert state_of(image) == 3
    (await drives.open(image, SMALL)).close()
    await until(lambda: state_of(image) == 1, 30)


async def test_a_kill_before_it_is_resized_is_made_good(
    tmp_path: Path, drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, larger = tmp_path / "a.img", Shape.of(Limits(disk_bytes=64 * MIB))
    await drives.make(image, SMALL)
    run = module._run

    def die(name: str, *more: Any) -> None:
        if name == "resize2fs":
            raise MemoryError
        run(name, *more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_run", die)
        with pytest.raises(MemoryError):
            await drives.open(image, larger)
    drive = await drives.open(image, larger)
    info = os.statvfs(drive.root)
    drive.close()
    assert info.f_blocks * info.f_frsize > 50 * MIB
    assert image.stat().st_size == larger.size


CHECKER = """#!/bin/sh
: >"{0}/began"
until test -e "{0}/go"; do /bin/sleep 0.05; done
"""
CHECKED = """
import os, sys
from pathlib import Path
from intramuros.execution.sandbox import drives
drives._SEARCH = sys.argv[1]
image = Path(sys.argv[2])
drives._prepare(os.open(image, os.O_RDWR | os.O_CLOEXEC), image, drives.Shape(1 << 20, 1024))
"""


def checking(*arguments: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHECKED, *map(str, arguments)])


async def test_what_a_killed_worker_has_checked_is_nobody_elses_until_then(tmp_path: Path) -> None:
    image, checker = tmp_path / "a.img", tmp_path / "e2fsck"
    image.write_bytes(bytes(1 << 20))
    checker.write_text(CHECKER.format(tmp_path))
    checker.chmod(0o755)
    with checking(tmp_path, image) as worker:
        try:
            await until((tmp_path / "began").exists, 30)
        finally:
            worker.kill()
    with image.open("r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").touch()
        await to_thread.run_sync(fcntl.flock, file, fcntl.LOCK_EX)


async def test_room_that_was_used_is_given_back(
    tmp_path: Path, drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLACK_BYTES", MIB)
    image = tmp_path / "a.img"
    await drives.make(image, SMALL)
    drive = await drives.open(image, SMALL)
    write(drive.workspace / "f", os.urandom(3 * MIB))
    full = image.stat().st_blocks
    (drive.workspace / "f").unlink()
    drive.trim()
    assert image.stat().st_blocks * 512 < full * 512 - 2 * MIB
    drive.close()


async def test_what_is_no_drive_is_not_mounted(tmp_path: Path, drives: Drives) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(SMALL.size))
    with pytest.raises(SandboxError, match="cannot mount the sandbox's disk"):
        await drives.open(image, SMALL)
    image.unlink()
    with pytest.raises(SandboxError, match="No such file"):
        await drives.open(image, SMALL)


async def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    await drives.make(tmp_path / "first.img", SMALL)
    before = names(tmp_path)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with pytest.raises(SandboxError, match="No space left"):
        await drives.make(tmp_path / "a.img", SMALL)
    assert names(tmp_path) == before


async def test_disks_that_copy_nothing_themselves_are_read_and_written(
    tmp_path: Path, drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    await drives.make(tmp_path / "a.img", SMALL)
    (await drives.open(tmp_path / "a.img", SMALL)).close()


async def test_one_is_ready_before_it_is_wanted(tmp_path: Path, drives: Drives) -> None:
    def ready() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("ready-*"))

    first = await drives.new(tmp_path / "a.img", SMALL)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drives.keep)
        await until(ready)
        await until(lambda: drives._ready)
        drives.tidy()
        waiting = ready()
        second = await drives.new(tmp_path / "b.img", SMALL)
        assert waiting[0] not in ready(), "it is the one that was ready"
        (second.workspace / "f").write_text("x")
        await until(lambda: drives._ready)
        other = Shape.of(Limits(disk_bytes=8 * MIB))
        third = await drives.new(tmp_path / "c.img", other)
        await until(lambda: other in drives._ready)
        assert len(ready()) == 1, "of what is wanted now, and no other"
        tasks.cancel_scope.cancel()
    assert ready() == []
    for drive in (first, second, third):
        drive.close()
    again = await drives.open(tmp_path / "b.img", SMALL)
    assert (again.workspace / "f").read_text() == "x"
    again.close()


async def test_what_is_left_is_closed_soon_and_waited_for(tmp_path: Path, drives: Drives) -> None:
    image = tmp_path / "a.img"
    first = await drives.new(image, SMALL)
    (first.workspace / "f").write_text("x")
    await drives.leave(first)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(first.root)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drives.keep)
        await anyio.lowlevel.checkpoint()
        second = await drives.open(image, SMALL)
        await drives.leave(second)
        third = await drives.open(image, SMALL)
        assert (third.workspace / "f").read_text() == "x"
        await drives.leave(third)
        tasks.cancel_scope.cancel()
    (await drives.open(image, SMALL)).close()


async def test_what_a_killed_worker_had_ready_goes(tmp_path: Path, drives: Drives) -> None:
    (tmp_path / "ready-0.img").touch()
    drives.tidy()
    assert not (tmp_path / "ready-0.img").exists()


async def test_where_none_can_be_made_ready_each_makes_his_own(
    tmp_path: Path, drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await drives.new(tmp_path / "a.img", SMALL)).close()
    with monkeypatch.context() as patch:
        patch.setattr(Drives, "_make", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with anyio.move_on_after(0.05):
            await drives.keep()
    (await drives.new(tmp_path / "b.img", SMALL)).close()


def test_why_there_are_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Drives(tmp_path).lack == "the worker is not root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "_SEARCH", "/nowhere")
    assert Drives(tmp_path).lack == "there is no mke2fs"

    def fail(*_: object) -> None:
        raise subprocess.CalledProcessError(1, "mke2fs", b"", b"first\nlast word\n")

    monkeypatch.setattr(module, "_format", fail)
    assert Drives(tmp_path).lack == "mke2fs: last word"


def test_the_doctor_is_told_the_whole() -> None:
    assert disk_finding("", as_root=True).level is Level.OK
    lacking = disk_finding("there is no mke2fs", as_root=True)
    assert (lacking.level, "e2fsprogs" in lacking.fix) == (Level.WARNING, True)
    assert "there is no mke2fs" in lacking.what and "watched" in lacking.what
    assert "name a provider" in disk_finding(None, as_root=True).fix
    assert "run the worker as root" in disk_finding("the worker is not root", as_root=False).fix

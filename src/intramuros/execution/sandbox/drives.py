"""Drives: a file system in a file for each session, which ends where its quota ends.

What a sandbox writes to its workspace meets the kernel's own "no space left", in bytes and in
number of files, and takes nothing from its neighbours. A drive is a sparse copy of a template, so
making one costs the time of copying some hundred kilobytes; the host's disk gives what is used.

A drive has no journal and does not wait for the disk, for the kernel writes it back whole however
the worker ends. Only where the machine itself lost its power is one found that was not closed; it
is checked before it is mounted again. Its superblock, the one place that nothing else tells, is had
from the copy in the drive, or from the template that it was made of; what the check cannot bring
back is refused, and costs its own session alone.
"""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from secrets import token_hex
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.sandbox import loops
from intramuros.execution.sandbox.base import (
    MIB,
    Finding,
    Level,
    Limits,
    SandboxBusy,
    SandboxError,
)
from intramuros.kernel.telemetry import logger

WORKSPACE: Final = "workspace"
"""The directory of a drive that its sandbox sees."""
KIND: Final = "ext4"
OPTIONS: Final = ("noinit_itable", "nobarrier")
SUFFIX: Final = ".img"
_READY, _NEW = "ready-", "new-"
_BLOCK, _INODE = 4096, 256
_MIN_FILES: Final = 1024
_GROUP_BYTES: Final = 128 * MIB
_RESERVED_BYTES: Final = 16 * MIB
"""What the kernel keeps back at most, so that it never lacks room for its own ends."""
_TOOL_S: Final = 120.0
_BUSY_S: Final = 5.0
_SLACK_BYTES: Final = 64 * MIB
_SUPER_AT, _SUPER_BYTES = 1024, 1024
_MARK_AT, _MARK = 0x38, 0xEF53
_CLEAN, _ERRORS = 1, 2
_DAMAGED: Final = (errno.EINVAL, errno.EUCLEAN, errno.EIO, errno.EBADMSG)
"""What the kernel says of a file system that it cannot read."""
_FOUND, _LOST = "lost+found", "lost-workspace"
_SEARCH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_REPAIRED: Final = 3
"""The highest status with which e2fsck says that all is well now."""
_SETTINGS: Final = "lazy_itable_init=1,nodiscard,num_backup_sb=1"
_FEATURES: Final = "^has_journal,^resize_inode,sparse_super2"
_log = logger("sandbox")


class Care(Enum):
    """What was needed to have a drive whole."""

    NONE = 0
    CHECKED = 1
    RESTORED = 2
    """Its superblock was the template's."""


@dataclass(frozen=True)
class Shape:
    """How large a drive is: what fits in it, in bytes and in number of files."""

    data_bytes: int
    files: int

    @classmethod
    def of(cls, limits: Limits) -> "Shape":
        """Return the shape that holds a sandbox to its limits."""
        most = max(limits.disk_bytes // _BLOCK, _MIN_FILES)
        return cls(limits.disk_bytes, max(min(limits.disk_files, most), 16))

    @property
    def size(self) -> int:
        """Bytes of the file: what fits, and what the file system needs to keep it."""
        groups = -(-self.data_bytes // _GROUP_BYTES) + 2
        needed = self.data_bytes + self.files * _INODE + groups * 3 * _BLOCK + 64 * _BLOCK
        needed += min(self.data_bytes // 49, _RESERVED_BYTES)
        return -(-needed // _BLOCK) * _BLOCK


@dataclass(frozen=True)
class Drive:
    """One that is mounted; it stays so while its descriptor is open."""

    image: Path
    device: str
    root: int
    """A descriptor of its root directory."""

    @property
    def workspace(self) -> Path:
        """Where this process, and no other, finds the workspace."""
        return Path(f"/proc/self/fd/{self.root}/{WORKSPACE}")

    def trim(self) -> None:
        """Give free space back to the host's disk, if there is enough of it."""
        info = os.statvfs(self.root)
        used = (info.f_blocks - info.f_bfree) * info.f_frsize
        if self.image.stat().st_blocks * 512 - used > _SLACK_BYTES:
            loops.trim(self.root)

    def close(self) -> None:
        """Let it go: it is written back and gone, once no sandbox has it."""
        with suppress(OSError):  # it may have been removed
            self.trim()
        os.close(self.root)


class Drives:
    """Makes and mounts the drives of one provider.

    Args:
        directory: where templates lie; on the file system of the drives, so that copying is cheap.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reason: str | None = None
        self._ready: dict[Shape, Drive] = {}
        self._wanted: Shape | None = None
        self._leaving: list[Drive] = []
        self._keeping = False
        self._woken = anyio.Event()

    @property
    def lack(self) -> str:
        """Why this host has no drives; empty when it has. Tried for real, once."""
        if self._reason is None:
            self._reason = _try()
        return self._reason

    async def new(self, image: Path, shape: Shape) -> Drive:
        """Return a new drive, mounted: the one that is ready, or one made now.

        Raises:
            SandboxError: the host's disk refuses, or it cannot be mounted.
        """
        self._wanted = shape
        self._woken.set()
        ready = self._ready.pop(shape, None)
        if ready is not None:
            try:
                ready.image.rename(image)
                return Drive(image, ready.device, ready.root)
            except OSError:
                await to_thread.run_sync(_discard, ready)
        await self.make(image, shape)
        return await self.open(image, shape)

    async def keep(self) -> None:
        """Close what is left and have one ready, of the shape wanted last, until cancelled."""
        self._keeping = True
        try:
            while True:
                self._woken = anyio.Event()
                await self._close_left()
                shape = self._wanted
                if shape is not None and shape not in self._ready:
                    with anyio.CancelScope(shield=True):  # what is half made would stay mounted
                        await self._prepare(shape)
                await self._woken.wait()
        finally:
            self._keeping = False
            await self._close_left()
            await self._let_go()

    async def leave(self, drive: Drive) -> None:
        """Let a drive go: soon where somebody keeps them, or else now. It has no sandbox any more.

        Until then whoever opens it waits.
        """
        self._leaving.append(drive)
        if self._keeping:
            self._woken.set()
        else:
            await self._close_left()

    async def _close_left(self) -> None:
        with anyio.CancelScope(shield=True):  # one that is on no list would stay mounted
            while self._leaving:
                await to_thread.run_sync(self._leaving.pop(0).close)

    async def _prepare(self, shape: Shape) -> None:
        await self._let_go()
        image = self._directory / f"{_READY}{token_hex(8)}{SUFFIX}"
        try:
            await self.make(image, shape)
            self._ready[shape] = await self.open(image, shape)
        except SandboxError as error:
            # Who wants one makes his own, and says what is wrong.
            _log.warning("drive_not_prepared", error=str(error))
            image.unlink(missing_ok=True)

    async def _let_go(self) -> None:
        with anyio.CancelScope(shield=True):
            while self._ready:
                _, drive = self._ready.popitem()
                await to_thread.run_sync(_discard, drive)

    def tidy(self) -> None:
        """Remove what a worker that was killed had ready."""
        kept = {drive.image for drive in self._ready.values()}
        for image in self._directory.glob(f"{_READY}*"):
            if image not in kept:
                image.unlink(missing_ok=True)

    async def make(self, image: Path, shape: Shape) -> None:
        """Make an empty drive, whole or not at all.

        Raises:
            SandboxError: the host's disk refuses.
        """
        try:
            await to_thread.run_sync(self._make, image, shape)
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(f"cannot make the sandbox's disk ({_said(error)})") from error

    async def open(self, image: Path, shape: Shape) -> Drive:
        """Mount a drive; one that was made for other limits gets those of now.

        Raises:
            SandboxBusy: a sandbox has it.
            SandboxError: it cannot be mounted.
        """
        with anyio.move_on_after(_BUSY_S):
            while True:
                try:
                    return await to_thread.run_sync(_open, image, shape, self._named(shape))
                except BlockingIOError:
                    # Whoever had it was killed, and it is being written back.
                    await anyio.sleep(0.002)
                except (OSError, subprocess.SubprocessError) as error:
                    said = _said(error)
                    raise SandboxError(f"cannot mount the sandbox's disk ({said})") from error
        raise SandboxBusy(f"the disk of sandbox {image.stem} is in use")

    def _make(self, image: Path, shape: Shape) -> None:
        template = self._template(shape)
        draft = self._directory / f"{_NEW}{token_hex(8)}"
        try:
            _copy(template, draft)
            draft.rename(image)
        finally:
            draft.unlink(missing_ok=True)

    def _named(self, shape: Shape) -> Path:
        return self._directory / f"{shape.size}-{shape.files}{SUFFIX}"

    def _template(self, shape: Shape) -> Path:
        path = self._named(shape)
        if not path.exists():
            draft = self._directory / f"{_NEW}{token_hex(8)}"
            try:
                _format(draft, shape)
                draft.rename(path)
            finally:
                draft.unlink(missing_ok=True)
        return path


def disk_finding(lack: str | None, *, as_root: bool) -> Finding:
    """Return what there is to say about disk quotas.

    Args:
        lack: why there are no drives here; empty where there are, None where the provider has none.
        as_root: whether the worker is root.
    """
    scratch = "/tmp, the home directory and /dev/shm are limited by the kernel"  # noqa: S108 - inside
    if lack == "":
        return Finding(
            Level.OK,
            "the workspace has a hard disk quota, in bytes and number of files: a file system of"
            f" its own, in a file; {scratch}; directories that the worker shares are watched",
        )
    fix = "install e2fsprogs, and give the worker CAP_SYS_ADMIN and /dev/loop-control"
    if not as_root:
        fix = "run the worker as root, which gives each sandbox a file system of its own"
    if lack is None:
        fix = "name a provider that keeps sandboxes apart (bubblewrap, oci, gvisor)"
    return Finding(
        Level.WARNING,
        f"no hard disk quota ({lack or 'sandboxes are none'}): single files and {scratch}; the"
        " workspace as a whole is watched, and what outgrows its quota is stopped a moment later",
        fix,
    )


def _try() -> str:
    """Return why a tiny drive cannot be made and mounted here, or nothing."""
    if os.geteuid() != 0:
        return "the worker is not root"
    try:
        with tempfile.TemporaryDirectory(prefix="intramuros-drive-") as folder:
            image = Path(folder) / "trial"
            shape = Shape(MIB, _MIN_FILES)
            _format(image, shape)
            os.close(_open(image, shape).root)
    except (OSError, subprocess.SubprocessError) as error:
        return _said(error)
    return ""


def _discard(drive: Drive) -> None:
    os.close(drive.root)
    drive.image.unlink(missing_ok=True)


def _format(image: Path, shape: Shape) -> None:
    with image.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(shape.size)
    argv = ["-q", "-F", "-t", KIND, "-b", str(_BLOCK), "-I", str(_INODE), "-N", str(shape.files)]
    _run("mke2fs", [*argv, "-m", "0", "-O", _FEATURES, "-E", _SETTINGS, str(image)])


def _open(image: Path, shape: Shape, template: Path | None = None) -> Drive:
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        care = _prepare(fd, image, shape, template)
        try:
            path, root = _mount(fd)
        except OSError as error:
            if care is not Care.NONE or error.errno not in _DAMAGED:
                raise
            # It said that all was well.
            care = _check(fd, image, template)
            path, root = _mount(fd)
    finally:
        os.close(fd)
    try:
        _furnish(root, care)
    except BaseException:
        os.close(root)
        raise
    return Drive(image, path, root)


def _mount(fd: int) -> tuple[str, int]:
    path, device = loops.attach(fd)
    try:
        return path, loops.mount(path, KIND, OPTIONS)
    finally:
        os.close(device)


def _furnish(root: int, care: Care) -> None:
    """Have a workspace in a drive.

    Raises:
        OSError: there was one, but the check could not say any more where its files belong.
    """
    try:
        os.mkdir(WORKSPACE, 0o700, dir_fd=root)
    except FileExistsError:
        return
    if care is Care.RESTORED or (care is Care.CHECKED and _strays(root)):
        with suppress(FileExistsError):
            os.mkdir(_LOST, 0o700, dir_fd=root)  # by which it is known later, when it is whole
    with suppress(FileNotFoundError):
        os.stat(_LOST, dir_fd=root)
        os.rmdir(WORKSPACE, dir_fd=root)
        raise OSError(errno.EUCLEAN, "it is damaged, and its workspace is not found; remove it")


def _strays(root: int) -> bool:
    """Return whether a check found files whose directories are gone."""
    try:
        found = os.open(_FOUND, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return False
    try:
        with os.scandir(found) as entries:
            return any(entries)
    finally:
        os.close(found)


def _prepare(fd: int, image: Path, shape: Shape, template: Path | None = None) -> Care:
    """Lock a drive; check it if the machine died with it, and give it the size it should have."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mark, state = struct.unpack("<HH", os.pread(fd, 4, _SUPER_AT + _MARK_AT).ljust(4, b"\0"))
    # What was found broken while it was mounted, or was being resized, says so beside "clean".
    clean = mark == _MARK and state & (_CLEAN | _ERRORS) == _CLEAN
    size = os.fstat(fd).st_size
    if clean and size == shape.size:
        return Care.NONE
    care = _check(fd, image, template if size == shape.size else None)
    if size == shape.size:
        return care
    if size < shape.size:
        # A wrong size, until it is done: whoever opens it after we are killed begins again.
        os.ftruncate(fd, shape.size + _BLOCK)
    with suppress(subprocess.CalledProcessError):
        # What is in use stays, where it is more than is allowed now.
        _run("resize2fs", [str(image), f"{shape.size // 1024}K"], 0, fd)
        os.ftruncate(fd, shape.size)
    return care


def _check(fd: int, image: Path, template: Path | None) -> Care:
    """Mend a locked drive.

    Args:
        template: what it was made of, if it still has the same size.

    Raises:
        subprocess.CalledProcessError: nothing can be made of it.
    """
    _log.warning("drive_checked", image=image.name)
    arguments = ["-f", "-y", str(image)]
    try:
        # It looks for the superblock's copy by itself.
        _run("e2fsck", arguments, _REPAIRED, fd)
        return Care.CHECKED
    except subprocess.CalledProcessError:
        if template is None or not template.exists():
            raise
        _log.warning("drive_superblock_restored", image=image.name)
        with template.open("rb") as whole:
            os.pwrite(fd, os.pread(whole.fileno(), _SUPER_BYTES, _SUPER_AT), _SUPER_AT)
        _run("e2fsck", arguments, _REPAIRED, fd)
        return Care.RESTORED


def _copy(source: Path, target: Path) -> None:
    """Copy what a sparse file holds; the holes stay holes."""
    with source.open("rb") as old, target.open("xb") as new:
        os.fchmod(new.fileno(), 0o600)
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                at += _move(old.fileno(), new.fileno(), at, end - at)


def _move(old: int, new: int, at: int, count: int) -> int:
    try:
        moved = os.copy_file_range(old, new, count, at, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        moved = os.pwrite(new, os.pread(old, min(count, MIB), at), at)
    if not moved:
        raise OSError(errno.EIO, "a template became shorter")
    return moved


def _run(name: str, arguments: list[str], most: int = 0, locked: int | None = None) -> None:
    """Run a program of e2fsprogs; a locked file stays so until it ends, even if we are killed."""
    program = shutil.which(name, path=_SEARCH)
    if program is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no {name}")
    done = subprocess.run(  # noqa: S603 - a fixed command line
        [program, *arguments],
        env={"PATH": _SEARCH},
        stdin=subprocess.DEVNULL,
        pass_fds=() if locked is None else (locked,),
        capture_output=True,
        timeout=_TOOL_S,
        check=False,
    )
    if done.returncode > most:
        raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)


def _said(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        return f"{error.cmd}: {(lines or ['no reason given'])[-1][:200]}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)

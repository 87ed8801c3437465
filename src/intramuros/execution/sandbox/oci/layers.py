"""Unpack the layers of an image: foreign archives, which must not write outside nor fill the disk.

Names are resolved by the kernel with the image as their root (``openat2``), so a link leads into
the image whatever it says. Devices, pipes and set-user-id bits are left out. Nobody in a sandbox
has another id than the agent's, and nothing in an image can be written: so each file gets the
rights that the image gives the agent, for everybody.
"""

import ctypes
import errno
import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

from intramuros.execution.sandbox import trees
from intramuros.execution.sandbox.base import GIB, SandboxError
from intramuros.execution.sandbox.rootfs import AGENT_ID

MAX_ENTRIES: Final = 1_000_000
_OPENAT2: Final = 437
_IN_ROOT, _NO_MAGIC_LINKS = 0x10, 0x02
_OPAQUE, _WHITEOUT = ".wh..wh..opq", ".wh."
_DESCRIPTIONS: Final = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
_MAX_DESCRIPTION: Final = 1024 * 1024
_LATEST: Final = 1 << 33
_CHUNK: Final = 1024 * 1024
_PATH: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class BadImage(SandboxError):
    """The image breaks the format or a limit: the text says how."""


class _Entry(tarfile.TarInfo):
    """An entry whose own description is bounded; tarfile reads it into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        if self.type in _DESCRIPTIONS and self.size > _MAX_DESCRIPTION:
            raise BadImage("an entry's description is too long")
        known: tarfile.TarInfo | None = super()._proc_member(archive)  # type: ignore[misc]  # typeshed lacks it
        return known


@dataclass(frozen=True)
class Allowance:
    """What one image may take, unpacked."""

    size_bytes: int = 16 * GIB
    entries: int = MAX_ENTRIES


class Unpacker:
    """Puts layers on top of one another.

    Args:
        root: an empty directory of the host that nobody else can write.
    """

    def __init__(self, root: str, allowance: Allowance | None = None) -> None:
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._left = allowance or Allowance()
        self._size = 0
        self._entries = 0
        self._modes: dict[str, int] = {}
        self._new: set[str] = set()

    def add(self, layer: IO[bytes]) -> None:
        """Unpack one layer, an uncompressed tar stream, over those before it.

        Raises:
            BadImage: it is broken, escapes or is too much.
        """
        self._new = set()
        try:
            with tarfile.open(fileobj=layer, mode="r|", errorlevel=2, tarinfo=_Entry) as archive:
                while (entry := archive.next()) is not None:
                    self._add(archive, entry)
                    archive.members.clear()  # type: ignore[attr-defined]  # which would hold each of them
        except tarfile.TarError as error:
            raise BadImage(f"a layer is no archive ({error})") from error
        except OSError as error:
            raise BadImage(f"a layer cannot be unpacked ({error})") from error
        while layer.read(_CHUNK):
            pass  # what follows the archive's end counts for its digest

    def finish(self) -> None:
        """Give directories the rights that they were to have, and let go of the image.

        Raises:
            BadImage: that fails.
        """
        try:
            for path, mode in sorted(self._modes.items(), reverse=True):
                self._close_down(path, mode)
        except OSError as error:
            raise BadImage(f"its directories cannot be closed ({error})") from error
        finally:
            self.close()

    def _close_down(self, path: str, mode: int) -> None:
        """Set a directory's mode; what has become a link or a file meanwhile stays as it is."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with self._parent(path) as (parent, name):
                fd = os.open(name, flags, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the image. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _add(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = clean(entry.name)
        self._entries += 1
        self._size += entry.size if entry.isreg() else 0
        if self._entries > self._left.entries or self._size > self._left.size_bytes:
            raise BadImage("it holds more files or bytes than an image may")
        if path == "":
            return
        name = path.rpartition("/")[2]
        if name.startswith(_WHITEOUT):
            self._white_out(path, name)
            return
        if entry.isdir():
            self._directory(path, entry)
        elif entry.isreg() or entry.issym() or entry.islnk():
            with self._parent(path, make=True) as (fd, last):
                self._remove(fd, last)
                if entry.isreg():
                    _write(archive, entry, fd, last)
                elif entry.issym():
                    os.symlink(entry.linkname, last, dir_fd=fd)
                else:
                    self._link(entry, fd, last)
        while path and path not in self._new:
            self._new.add(path)
            path = path.rpartition("/")[0]

    def _directory(self, path: str, entry: tarfile.TarInfo) -> None:
        with self._parent(path, make=True) as (fd, name):
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                if not _is_directory(fd, name):
                    self._remove(fd, name)
                    os.mkdir(name, 0o700, dir_fd=fd)
        self._modes[path] = rights(entry) | 0o500 if rights(entry) else 0o500

    def _link(self, entry: tarfile.TarInfo, fd: int, name: str) -> None:
        with self._parent(clean(entry.linkname)) as (other, source):
            if _is_directory(other, source):
                raise BadImage(f"{entry.name!r} links to a directory")
            os.link(source, name, src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)

    def _white_out(self, path: str, name: str) -> None:
        """Hide what lower layers have; what this layer brings itself stays."""
        folder = path.removesuffix(name).rstrip("/")
        try:
            if name == _OPAQUE:
                fd = self._open(folder or ".")
                try:
                    self._clear(fd, folder)
                finally:
                    os.close(fd)
            else:
                target = f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/")
                if clean(target) and target not in self._new:
                    with self._parent(target) as (fd, last):
                        self._remove(fd, last)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _clear(self, pinned: int, folder: str) -> None:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pinned)
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                path = f"{folder}/{name}".lstrip("/")
                if path not in self._new:
                    self._remove(fd, name)
                elif _is_directory(fd, name):
                    # Of the new ones some may lie among the old.
                    below = os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=fd)
                    try:
                        self._clear(below, path)
                    finally:
                        os.close(below)
        finally:
            os.close(fd)

    def _remove(self, fd: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            trees.remove(f"/proc/self/fd/{fd}/{name}")

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Give the directory that an entry lies in, made if need be, and its name there."""
        folder, _, name = path.rpartition("/")
        try:
            fd = self._open(folder or ".")
        except FileNotFoundError:
            if not make:
                raise
            self._make(folder)
            fd = self._open(folder)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _make(self, folder: str) -> None:
        parts = folder.split("/")
        for count in range(1, len(parts) + 1):
            path = "/".join(parts[:count])
            try:
                os.close(self._open(path))
            except FileNotFoundError:
                with self._parent(path) as (fd, name):
                    os.mkdir(name, 0o700, dir_fd=fd)
                self._modes[path] = 0o555

    def _open(self, path: str) -> int:
        """Open a directory of the image, links in the way led inside it."""
        how = struct.pack("=QQQ", _PATH, 0, _IN_ROOT | _NO_MAGIC_LINKS)
        call = (ctypes.c_long(_OPENAT2), ctypes.c_int(self._fd), os.fsencode(path))
        fd = int(_libc.syscall(*call, how, ctypes.c_size_t(len(how))))
        if fd < 0:
            code = ctypes.get_errno()
            if code == errno.ENOSYS:
                raise BadImage("this kernel cannot unpack images (Linux 5.6 and newer can)")
            raise OSError(code, os.strerror(code), path)
        return fd


def clean(name: str) -> str:
    """Return an entry's path without a leading slash; empty for the root.

    Raises:
        BadImage: it leads out, or is no path.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(name.encode(errors="surrogateescape")) > 4096:
        raise BadImage(f"{name[:200]!r} is no path in an image")
    return "/".join(parts)


def rights(entry: tarfile.TarInfo) -> int:
    """Return the mode of a file that gives everybody what the image gives the agent."""
    if entry.uid == AGENT_ID:
        mine = entry.mode >> 6
    elif entry.gid == AGENT_ID:
        mine = entry.mode >> 3
    else:
        mine = entry.mode
    return (mine & 0o5) * 0o111


def _is_directory(fd: int, name: str) -> bool:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode & 0o170000 == 0o040000
    except FileNotFoundError:
        return False


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, fd: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    source = archive.extractfile(entry)
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=fd), "wb") as file:
        left = entry.size
        while source is not None and left > 0:
            data = source.read(min(_CHUNK, left))
            if not data:
                raise BadImage(f"{entry.name!r} is cut short")
            file.write(data)
            left -= len(data)
        file.flush()
        os.fchmod(file.fileno(), rights(entry))
        changed = min(max(entry.mtime, 0), _LATEST)
        os.utime(file.fileno(), (changed, changed))

"""Directory trees as one stream of bytes, and back: what hibernation keeps of a sandbox's files.

Both directions run inside a sandbox, in a child of process 1, as the sandbox's user: whatever a
stream says, it can reach nothing that this user cannot. Layout (numbers unsigned, big-endian)::

    stream  := "IMPK1\\n"  root*  "Z"
    root    := "R" label:text  meta  node*  "."
    node    := "D" name meta node* "."             directory
             | "F" name meta size:8 data* "e"      file
             | "H" name number:4                   another name of the number-th file of this root
             | "L" name mtime_ns:8 target:text     symbolic link
             | "P" name meta                       named pipe
    data    := "d" offset:8 length:4 bytes         what lies between is a hole
    meta    := mode:2 mtime_ns:8 count:1 (name value)*   extended attributes
    text    := length:2 bytes;  value := length:4 bytes

A node has a name, never a path, so nothing can be written outside of the directory that is open.
Sockets belong to processes and are left out; so are mounts, which are made anew.
"""

from __future__ import annotations

import errno
import os
import stat

from intramuros.execution.sandbox.inside.paths import open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = b"IMPK1\n"
MAX_DEPTH = 100
"""As deep as a disk quota looks; what is nested deeper is refused, not cut off."""
MAX_ENTRIES = 500_000
"""As many as a disk quota counts."""
CHUNK = 256 * 1024
_MAX_ATTRIBUTE = 64 * 1024
_MAX_ATTRIBUTES = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_BITS, _FOLDER_BITS = 0o777, 0o3777
"""Modes that are kept: a file never gains the right to run as somebody else."""
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.ENODATA)


class PackError(Exception):
    """The tree cannot be kept, or the stream cannot be believed; the text says why."""


def mount_points() -> set[bytes]:
    """Return every place in this mount namespace where something is mounted."""
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split()[4] for line in file]
    return {_unescaped(field) for field in fields}


def _unescaped(field: bytes) -> bytes:
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def _number(value: int, length: int) -> bytes:
    return value.to_bytes(length, "big")


def _text(value: bytes) -> bytes:
    return _number(len(value), 2) + value


class Packer:
    """Writes trees to a stream.

    Args:
        write: takes bytes; blocks while nobody reads.
        mounted: places that are left out, as absolute paths.
    """

    def __init__(self, write: Callable[[bytes], None], mounted: set[bytes]) -> None:
        self._write_out = write
        self._mounted = mounted
        self._buffer = bytearray()
        self._links: dict[tuple[int, int], int] = {}
        self._files = 0
        self.entries = 0
        self.data_bytes = 0
        self.sockets: list[str] = []
        """Paths of sockets, which were left out; the first few."""

    def pack(self, roots: dict[bytes, bytes]) -> None:
        """Write whole trees: label, which is what counts when they are restored, to path.

        Raises:
            PackError: something in them cannot be kept.
        """
        self._write(MAGIC)
        for label, path in roots.items():
            self._links.clear()
            self._files = 0
            try:
                fd = open_directory(path)
                self._write(b"R" + _text(label) + self._meta(fd, os.fstat(fd), _FOLDER_BITS))
                self._folder(fd, path)
            except OSError as error:
                where = os.fsdecode(getattr(error, "place", path))
                raise PackError(f"{where}: {(error.strerror or 'unreadable').lower()}") from error
        self._write(b"Z")
        self.flush()

    def flush(self) -> None:
        """Write out what is held back."""
        if self._buffer:
            self._write_out(bytes(self._buffer))
            self._buffer.clear()

    def _write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            self.flush()

    def _folder(self, top: int, path: bytes) -> None:
        """Write what is in an open directory, which this closes."""
        levels = [(top, path, iter(_names(top)))]
        try:
            while levels:
                fd, path, names = levels[-1]
                name = next(names, None)
                if name is None:
                    self._write(b".")
                    os.close(levels.pop()[0])
                    continue
                below = self._node(fd, name, path + b"/" + name)
                if below is not None:
                    if len(levels) > MAX_DEPTH:
                        os.close(below)
                        raise PackError(
                            f"directories are nested more deeply than {MAX_DEPTH} in"
                            f" {os.fsdecode(path)[:200]}"
                        )
                    levels.append((below, path + b"/" + name, iter(_names(below))))
        except OSError as error:
            error.place = path  # type: ignore[attr-defined]  # told in pack()
            raise
        finally:
            for fd, _, _ in levels:
                os.close(fd)

    def _node(self, parent: int, name: bytes, path: bytes) -> int | None:
        """Write one entry; returns the descriptor of a directory whose entries are to follow."""
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if path in self._mounted:
            return None
        if stat.S_ISSOCK(info.st_mode):
            if len(self.sockets) < 20:
                self.sockets.append(os.fsdecode(path))
            return None
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise PackError(f"there are more than {MAX_ENTRIES} files")
        if stat.S_ISDIR(info.st_mode):
            fd = _opened(parent, name, info, _DIRECTORY)
            self._write(b"D" + _text(name) + self._meta(fd, info, _FOLDER_BITS))
            return fd
        if stat.S_ISREG(info.st_mode):
            self._file(parent, name, info)
        elif stat.S_ISLNK(info.st_mode):
            target = os.readlink(name, dir_fd=parent)
            self._write(b"L" + _text(name) + _time(info) + _text(target))
        elif stat.S_ISFIFO(info.st_mode):
            bare = _number(info.st_mode & _FILE_BITS, 2) + _time(info) + b"\0"
            self._write(b"P" + _text(name) + bare)
        else:
            raise PackError(f"{os.fsdecode(path)} is a device")
        return None

    def _file(self, parent: int, name: bytes, info: os.stat_result) -> None:
        key = (info.st_dev, info.st_ino)
        if key in self._links:
            self._write(b"H" + _text(name) + _number(self._links[key], 4))
            return
        if info.st_nlink > 1:
            self._links[key] = self._files
        self._files += 1
        fd = _opened(parent, name, info, _FILE)
        try:
            head = b"F" + _text(name) + self._meta(fd, info, _FILE_BITS)
            self._write(head + _number(info.st_size, 8))
            for start, end in _extents(fd, info):
                self._extent(fd, start, end)
        finally:
            os.close(fd)
        self._write(b"e")

    def _extent(self, fd: int, at: int, end: int) -> None:
        while at < end:
            data = os.pread(fd, min(CHUNK, end - at), at)
            if not data:
                return
            if data[0] or data[-1] or data.count(0) != len(data):  # gVisor tells of no holes
                self.data_bytes += len(data)
                self._write(b"d" + _number(at, 8) + _number(len(data), 4) + data)
            at += len(data)

    def _meta(self, fd: int, info: os.stat_result, bits: int) -> bytes:
        try:
            names = [name for name in os.listxattr(fd) if name.startswith("user.")]
            values = {name: os.getxattr(fd, name) for name in names}
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            values = {}
        if len(values) > _MAX_ATTRIBUTES:
            raise PackError(f"a file has more than {_MAX_ATTRIBUTES} extended attributes")
        parts = [_number(info.st_mode & bits, 2), _time(info), _number(len(values), 1)]
        for name, value in values.items():
            parts += (_text(os.fsencode(name)), _number(len(value), 4), value)
        return b"".join(parts)


def _names(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in sorted(os.listdir(fd))]


def _time(info: os.stat_result) -> bytes:
    return _number(max(info.st_mtime_ns, 0), 8)


def _opened(parent: int, name: bytes, info: os.stat_result, flags: int) -> int:
    """Open a file or directory, also one that its owner closed to himself."""
    try:
        if flags & os.O_DIRECTORY:
            return open_directory(name, parent)
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            place = f"/proc/self/fd/{pinned}"
            mode = stat.S_IMODE(info.st_mode)
            os.chmod(place, mode | 0o700)
            try:
                return os.open(place, flags & ~os.O_NOFOLLOW)
            finally:
                os.chmod(place, mode)
        finally:
            os.close(pinned)


def _extents(fd: int, info: os.stat_result) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that hold data."""
    if info.st_blocks * 512 >= info.st_size:
        if info.st_size:
            yield 0, info.st_size
        return
    at = 0
    while at < info.st_size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        yield start, at


class Unpacker:
    """Reads trees from a stream.

    Args:
        read: returns up to that many bytes, and none at the end.
        roots: the directories that may be filled, by their labels.
        limit_bytes: of data, at most.
    """

    def __init__(
        self, read: Callable[[int], bytes], roots: dict[bytes, bytes], limit_bytes: int
    ) -> None:
        self._read_in = read
        self._buffer = bytearray()
        self._at = 0
        self._allowed = dict(roots)
        self._left = limit_bytes
        self._files: list[tuple[bytes, ...]] = []
        self._place: tuple[bytes, ...] = ()
        self.entries = 0
        self.attributes_lost = 0

    def unpack(self) -> None:
        """Fill the roots from the whole stream.

        Raises:
            PackError: the stream is damaged, too large, or leads elsewhere.
            OSError: the disk refuses.
        """
        if self._take(len(MAGIC)) != MAGIC:
            raise PackError("this is no stream of files")
        while (kind := self._take(1)) == b"R":
            label = self._text()
            if label not in self._allowed:
                raise PackError(f"{os.fsdecode(label)[:200]} is not a place to restore to")
            self._root(self._allowed.pop(label))
        if kind != b"Z" or self._more():
            raise PackError("the stream does not end where it should")

    def _root(self, path: bytes) -> None:
        fd = open_directory(path)
        self._files.clear()
        levels = [(fd, b"", self._meta(_FOLDER_BITS))]
        try:
            while levels:
                kind = self._take(1)
                fd, _, meta = levels[-1]
                if kind == b".":
                    if len(levels) > 1:
                        self._apply(fd, meta)
                    os.close(levels.pop()[0])
                    continue
                self._count(len(levels))
                name = self._name()
                if kind == b"D":
                    below = self._meta(_FOLDER_BITS)
                    levels.append((_made(fd, name), name, below))
                else:
                    self._place = (*(level[1] for level in levels[1:]), name)
                    self._node(kind, levels[0][0], fd, name)
        finally:
            for fd, _, _ in levels:
                os.close(fd)

    def _count(self, depth: int) -> None:
        self.entries += 1
        if self.entries > MAX_ENTRIES or depth > MAX_DEPTH + 1:
            raise PackError("the stream holds too many files, or too deeply nested ones")

    def _node(self, kind: bytes, root: int, parent: int, name: bytes) -> None:
        if kind == b"F":
            self._files.append(self._place)
            self._file(parent, name)
        elif kind == b"H":
            self._hard_link(root, parent, name)
        elif kind == b"L":
            when = self._int(8)
            os.symlink(self._text(), name, dir_fd=parent)
            os.utime(name, ns=(when, when), dir_fd=parent, follow_symlinks=False)
        elif kind == b"P":
            mode, when, _ = self._meta(_FILE_BITS)
            os.mkfifo(name, mode, dir_fd=parent)
            os.utime(name, ns=(when, when), dir_fd=parent, follow_symlinks=False)
        else:
            raise PackError("the stream holds something unknown")

    def _file(self, parent: int, name: bytes) -> None:
        meta = self._meta(_FILE_BITS)
        size = self._int(8)
        if size >= 1 << 62:
            raise PackError("a file is too large")
        fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            while (kind := self._take(1)) == b"d":
                at, length = self._int(8), self._int(4)
                self._left -= length
                if length > CHUNK or at + length > size or self._left < 0:
                    raise PackError("a file is larger than it may be")
                view = memoryview(self._take(length))
                while view:
                    count = os.pwrite(fd, view, at)
                    view, at = view[count:], at + count
            if kind != b"e":
                raise PackError("a file does not end where it should")
            os.ftruncate(fd, size)
            self._apply(fd, meta)
        finally:
            os.close(fd)

    def _hard_link(self, root: int, parent: int, name: bytes) -> None:
        number = self._int(4)
        if number >= len(self._files):
            raise PackError("a link leads to no file of this directory")
        *folders, other = self._files[number]
        source = _walk(root, tuple(folders))
        try:
            os.link(other, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _apply(self, fd: int, meta: tuple[int, int, dict[bytes, bytes]]) -> None:
        mode, when, attributes = meta
        for name, value in attributes.items():
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self.attributes_lost += 1
        os.fchmod(fd, mode)
        os.utime(fd, ns=(when, when))

    def _meta(self, bits: int) -> tuple[int, int, dict[bytes, bytes]]:
        mode, when, count = self._int(2), self._int(8), self._int(1)
        if mode & ~bits:
            raise PackError("a file would run as somebody else")
        if count > _MAX_ATTRIBUTES:
            raise PackError("too many extended attributes")
        attributes = {}
        for _ in range(count):
            name = self._text()
            length = self._int(4)
            if not name.startswith(b"user.") or b"\0" in name or length > _MAX_ATTRIBUTE:
                raise PackError("an extended attribute is not a user's")
            attributes[name] = self._take(length)
        return mode, when, attributes

    def _name(self) -> bytes:
        name = self._text()
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
            raise PackError("a name leads elsewhere")
        return name

    def _int(self, length: int) -> int:
        return int.from_bytes(self._take(length), "big")

    def _text(self) -> bytes:
        return self._take(self._int(2))

    def _take(self, count: int) -> bytes:
        while len(self._buffer) - self._at < count:
            if not self._fill():
                raise PackError("the stream is cut short")
        end = self._at + count
        data = bytes(self._buffer[self._at : end])
        self._at = end
        return data

    def _fill(self) -> bool:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        data = self._read_in(CHUNK)
        self._buffer += data
        return bool(data)

    def _more(self) -> bool:
        return len(self._buffer) > self._at or self._fill()


def _walk(root: int, folders: tuple[bytes, ...]) -> int:
    """Open a directory below ``root`` step by step; links are not followed."""
    fd = os.dup(root)
    for name in folders:
        try:
            below = open_directory(name, fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _made(parent: int, name: bytes) -> int:
    """Make a directory and open it; one that is there, because of a mount below it, will do."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass
    return open_directory(name, parent)

"""A memory store as a directory that a sandbox has mounted while we read and write it.

What runs in the sandbox may change the directory under our hands, and we may be root: so no path is
ever followed. Each part is opened by itself, below the one before it, and never through a symbolic
link; only regular files are read, and no more of them than a memory may hold.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox import trees
from intramuros.protocol.resources.memory import MAX_CONTENT_BYTES, MAX_PATH_SEGMENTS

# Names the store that a directory holds; never a memory (contract 25.22).
MARKER: Final = ".anthropic-memory-store"
# Entries looked at in one directory tree; far more than a store holds.
MAX_ENTRIES: Final = 20_000
# A file that cannot become a memory is known by a digest that no memory has.
UNFIT: Final = "unfit"

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not to wait for the other end of a pipe.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """One store's directory, and beside it what was last agreed with the control plane.

    Args:
        home: a directory of ours; the sandbox sees only ``home/files``.
        store_id: whose memories it holds.
    """

    def __init__(self, home: Path, store_id: str) -> None:
        self.home = home
        self.path = home / "files"
        self._base = home / "base.json"
        self._marker = f"version 1\n{store_id}".encode()

    def create(self) -> bool:
        """Make the directory; False when it is there with what was agreed, so it can be resumed."""
        known = self._base.is_file() and self.marked()
        if not known:
            trees.remove(os.fspath(self.home))
            self.home.mkdir(mode=0o700, parents=True)
            self.path.mkdir(mode=0o700)
        return not known

    def remove(self) -> None:
        """Remove everything; harmless when there is nothing."""
        trees.remove(os.fspath(self.home))

    def load(self) -> dict[str, str]:
        """Return the digests that were last agreed on; nothing if they cannot be read."""
        with suppress(OSError, ValueError):
            found = json.loads(self._base.read_bytes())
            return {str(path): str(sha) for path, sha in found.items()}
        return {}

    def save(self, base: dict[str, str]) -> None:
        """Keep the digests for a worker that comes after us."""
        fresh = self.home / "base.new"
        fresh.write_text(json.dumps(base), encoding="utf-8")
        fresh.replace(self._base)

    def mark(self) -> None:
        """Say whose directory it is."""
        self.write(MARKER, self._marker)

    def marked(self) -> bool:
        """Tell whether the marker still stands and names our store."""
        return self.read(MARKER) == self._marker

    def scan(self) -> dict[str, str]:
        """Return the digest of each file by its path, without a leading slash; no marker.

        Raises:
            OSError: the directory cannot be read, or holds more than any store does.
        """
        found: dict[str, str] = {}
        seen = 0
        queue: list[tuple[str, ...]] = [()]
        while queue:
            parts = queue.pop()
            with self._folder(parts) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MAX_ENTRIES:
                        raise OSError(errno.EFBIG, "too many files in a memory store")
                    here = (*parts, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        # What lies deeper than a path may go stays where it is.
                        if len(here) < MAX_PATH_SEGMENTS:
                            queue.append(here)
                    elif entry.is_file(follow_symlinks=False):
                        found["/".join(here)] = _digest(fd, entry.name)
        found.pop(MARKER, None)
        return found

    def digest(self, path: str) -> str | None:
        """Return a file's digest, or None when there is none."""
        *folder, name = path.split("/")
        try:
            with self._folder(tuple(folder)) as fd:
                os.stat(name, dir_fd=fd, follow_symlinks=False)
                return _digest(fd, name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or None when it is gone, no plain file, or too large."""
        *folder, name = path.split("/")
        try:
            with self._folder(tuple(folder)) as fd:
                return _read(fd, name)
        except OSError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """Put a file in its place, whole, and let the sandbox's user own it.

        Raises:
            OSError: something else is in its way.
        """
        *folder, name = path.split("/")
        # Where the sandbox cannot see it, and apart from other files that are written just now.
        fresh = self.home / f"fresh-{hashlib.sha256(path.encode()).hexdigest()[:32]}"
        with suppress(FileNotFoundError):
            fresh.unlink()
        owner = self.path.lstat()
        fd = os.open(fresh, _NEW, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            _give(fd, owner)
        with self._folder(tuple(folder), owner) as target:
            os.rename(fresh, name, dst_dir_fd=target)

    def delete(self, path: str) -> None:
        """Remove a file; one that is gone is fine.

        Raises:
            OSError: it cannot be removed.
        """
        *folder, name = path.split("/")
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(tuple(folder)) as fd:
            os.unlink(name, dir_fd=fd)

    @contextmanager
    def _folder(self, parts: tuple[str, ...], make: os.stat_result | None = None) -> Iterator[int]:
        """Open a directory below ours, part by part; ``make`` owns the parts that are missing."""
        fd = os.open(self.path, _FOLDER)
        try:
            for part in parts:
                below = _enter(fd, part, make)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)


def _enter(fd: int, part: str, make: os.stat_result | None) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=fd)
    except FileNotFoundError:
        if make is None:
            raise
    os.mkdir(part, 0o755, dir_fd=fd)
    below = os.open(part, _FOLDER, dir_fd=fd)
    _give(below, make)
    return below


def _give(fd: int, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _read(folder: int, name: str) -> bytes | None:
    with os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        content = file.read(MAX_CONTENT_BYTES + 1)
    return content if len(content) <= MAX_CONTENT_BYTES else None


def _digest(folder: int, name: str) -> str:
    try:
        content = _read(folder, name)
        if content is not None:
            return hashlib.sha256(content).hexdigest()
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return UNFIT
    return f"{UNFIT} {state.st_size} {state.st_mtime_ns}"

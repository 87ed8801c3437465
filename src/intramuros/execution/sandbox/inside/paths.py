"""Which files the file tools may touch, and the words they use when they may not.

Relative paths start at the working directory; ``.`` and ``..`` fold lexically, then every symbolic
link is followed, the last one and dangling ones included, and the result must lie in the working
directory or an allowed root (contract 23.10). The wall that matters is the mount namespace around
us; this policy keeps the model to the session's own places.
"""

from __future__ import annotations

import errno
import os

_MAX_LINKS = 40
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_PHRASES = {
    errno.ENOENT: "no such file or directory",
    errno.ENOTDIR: "not a directory",
    errno.EISDIR: "is a directory",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EEXIST: "file already exists",
    errno.ELOOP: "too many levels of symbolic links",
}


class ToolError(Exception):
    """The tool failed in a way the model is meant to read."""


def phrase(error: OSError) -> str:
    """Return the fixed words for a file-system error (contract 23.11)."""
    return _PHRASES.get(error.errno or 0) or (os.strerror(error.errno or errno.EIO)).lower()


def failure(op: str, path: str, error: OSError) -> ToolError:
    """Return the error result of ``op`` on ``path`` as the model gave it."""
    return ToolError(f"{op}: {path}: {phrase(error)}")


_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_at(full: str, flags: int, mode: int = 0o666) -> int:
    """Open a canonical path without following any link, and return the descriptor.

    A path was judged by its name, and whoever else writes here may have put a link in the place of
    any part of it since; so every part is opened from the one before.

    Raises:
        OSError: also ENOTDIR or ELOOP where a link has come since.
    """
    fd, name = descend(full)
    try:
        if flags & os.O_DIRECTORY and not flags & os.O_PATH:
            return open_directory(name, fd)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
    finally:
        os.close(fd)


def open_directory(name: str | bytes, at: int | None = None) -> int:
    """Open a directory for reading, itself and never one that a link of its name leads to.

    gVisor follows a last link in spite of O_NOFOLLOW as soon as O_DIRECTORY is asked for, too
    (google/gvisor#14786), but not with O_PATH: so what has the name is pinned first, and then
    opened through itself.

    Args:
        name: relative to ``at``, if that is given.
        at: descriptor of a directory.

    Raises:
        OSError: ENOTDIR of whatever else has the name, a link included.
    """
    pinned = os.open(name, _STEP, dir_fd=at)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pinned)
    finally:
        os.close(pinned)


def descend(full: str, make: bool = False) -> tuple[int, str]:
    """Return a descriptor of the directory that holds a canonical path, and its name in there.

    Args:
        full: absolute, without links.
        make: make directories that are missing.

    Raises:
        OSError: as of ``os.makedirs`` with ``make``.
    """
    parts = [part for part in full.split("/") if part] or ["."]
    at = os.open("/", _STEP)
    for number, part in enumerate(parts[:-1], 2):
        try:
            below = _step(part, at, make)
        except NotADirectoryError as error:
            if make and number == len(parts):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            raise
        finally:
            os.close(at)
        at = below
    return at, parts[-1]


def _step(name: str, at: int, make: bool) -> int:
    try:
        return os.open(name, _STEP, dir_fd=at)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, dir_fd=at)
    except FileExistsError:
        pass  # somebody else was faster
    return os.open(name, _STEP, dir_fd=at)


def within(path: str, root: str) -> bool:
    """Return whether ``path`` is ``root`` or lies below it; both are canonical."""
    return path == root or path.startswith(root if root.endswith("/") else root + "/")


def canonical(path: str) -> str:
    """Return ``path`` with every symbolic link followed; missing last parts stay as spelled.

    Raises:
        OSError: a loop, or a part that cannot be examined.
    """
    prefix = os.path.normpath(path)
    tail: list[str] = []
    hops = 0
    while True:
        try:
            return os.path.join(_real(prefix), *reversed(tail))
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            unresolved = error
        try:
            is_link = os.path.stat.S_ISLNK(os.lstat(prefix).st_mode)  # type: ignore[attr-defined]  # os.path imports stat; a second import costs start-up
        except OSError as error:
            parent = os.path.dirname(prefix)
            if error.errno not in _MISSING or parent == prefix:
                raise
            tail.append(os.path.basename(prefix))
            prefix = parent
            continue
        if not is_link:
            raise unresolved
        hops += 1
        if hops > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        joined = os.path.join(_real(os.path.dirname(prefix)), os.readlink(prefix), *reversed(tail))
        prefix = os.path.normpath(joined)
        tail.clear()


def _real(path: str) -> str:
    """Return the real path of something that exists (``strict=`` came with 3.10)."""
    resolved = os.path.realpath(path)
    os.stat(path)
    return resolved


class Policy:
    """The roots of one sandbox."""

    def __init__(self, workdir: str, roots: list[str], read_only: list[str]) -> None:
        self.workdir = workdir
        self._roots = roots
        self._read_only = read_only

    def resolve(self, path: str) -> str:
        """Return the canonical path, inside a root.

        Raises:
            ValueError: outside every root, or it cannot be resolved; the text says which.
        """
        if "\0" in path:
            raise ValueError("embedded null byte")
        workdir = os.path.realpath(self.workdir)
        try:
            full = canonical(os.path.join(workdir, path))
        except OSError as error:
            raise ValueError(f"path {path!r}: {phrase(error)}") from error
        if self.allows(full):
            return full
        others = " and its other permitted directories" if self._roots else ""
        raise ValueError(f"path {path!r} is outside the session's working directory{others}")

    def allows(self, full: str) -> bool:
        """Return whether a canonical path lies in the working directory or another root."""
        roots = [self.workdir, *self._roots]
        return any(within(full, os.path.realpath(root)) for root in roots)

    def reject_read_only(self, op: str, full: str, path: str) -> None:
        """Raise ToolError when ``full`` lies in a read-only root (contract 23.18)."""
        for root in self._read_only:
            if within(full, os.path.realpath(root)):
                raise ToolError(f"{op}: {path} is inside read-only directory {root}")

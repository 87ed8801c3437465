"""Walk, measure and remove trees that somebody hostile made, from outside his sandbox.

A path can be swapped for a link while it is walked and can be longer than the kernel takes, so
every step goes from an open directory to a name in it. Directories may be nested without bound and
closed to their owner; neither hides what is in them, nor costs more than a few descriptors here.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex

MAX_DEPTH = 100
"""Deeper trees are not measured; one descriptor is open for each level."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


_LEFT_MEANWHILE = (FileNotFoundError, NotADirectoryError)


class Hidden(Exception):
    """Some of the tree was not reached; whoever counts it must take it for too large."""


class TooDeep(Hidden):
    """The tree is nested more deeply than :data:`MAX_DEPTH`."""


@dataclass
class _Level:
    """A directory being walked."""

    fd: int
    restore: int | None
    """The mode to give back when it was closed to us."""
    below: list[str] = field(default_factory=list)

    def leave(self) -> None:
        if self.restore is not None:
            with suppress(OSError):
                os.fchmod(self.fd, self.restore)
        os.close(self.fd)


def walk(path: str) -> Iterator[os.stat_result]:
    """Yield the status of everything below a directory, links not followed, in no special order.

    What disappears meanwhile is passed over.

    Raises:
        Hidden: some of it was not reached.
    """
    levels: list[_Level] = []
    try:
        with suppress(*_LEFT_MEANWHILE):
            levels.append(_enter(path, None))
            yield from _look(levels[-1])
        while levels:
            if not levels[-1].below:
                levels.pop().leave()
                continue
            name = levels[-1].below.pop()
            if len(levels) >= MAX_DEPTH:
                raise TooDeep
            try:
                levels.append(_enter(name, levels[-1].fd))
            except _LEFT_MEANWHILE:
                continue
            yield from _look(levels[-1])
    except OSError as error:
        # Out of descriptors, or closed again by somebody between two steps: not the same as empty.
        raise Hidden from error
    finally:
        for level in reversed(levels):
            level.leave()


def _enter(name: str, parent: int | None) -> _Level:
    """Open a directory, if need be by giving ourselves the right for as long as it is open."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        if os.geteuid() == 0 or os.fstat(fd).st_mode & stat.S_IXUSR:
            return _Level(fd, None)
        os.close(fd)
    except PermissionError:
        pass
    pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(pinned).st_mode)
        # The name may lead elsewhere by now; the descriptor does not.
        os.chmod(f"/proc/self/fd/{pinned}", mode | 0o700)
        fd = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(pinned)
    return _Level(fd, mode)


def _look(level: _Level) -> Iterator[os.stat_result]:
    with os.scandir(level.fd) as entries:
        for entry in entries:
            with suppress(*_LEFT_MEANWHILE):
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    level.below.append(entry.name)
                yield info


def remove(path: str) -> None:
    """Remove a tree in which no process is left; harmless when there is none.

    Subdirectories are moved up to the top before they are emptied, so that no depth is too much.

    Raises:
        OSError: something of it cannot be removed.
    """
    try:
        top = _enter(path, None)
    except FileNotFoundError:
        return
    try:
        os.fchmod(top.fd, 0o700)
        _empty(top.fd, top.fd)
        while names := os.listdir(top.fd):
            for name in names:
                os.chmod(name, 0o700, dir_fd=top.fd)
                level = _enter(name, top.fd)
                try:
                    _empty(level.fd, top.fd)
                finally:
                    os.close(level.fd)
                os.rmdir(name, dir_fd=top.fd)
    finally:
        os.close(top.fd)
    os.rmdir(path)


def _empty(fd: int, top: int) -> None:
    """Unlink the files of a directory and move its subdirectories to ``top``, open to us."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif fd != top:
            # A directory that is moved must itself be writable to us.
            os.chmod(name, 0o700, dir_fd=fd)
            os.rename(name, token_hex(16), src_dir_fd=fd, dst_dir_fd=top)

"""All files below a directory whose names match: ``**/*.py``, the usual glob, for large trees.

The same files in the same order as ``pathlib`` finds them, with one look at each directory, and
from descriptor to descriptor: a link that comes meanwhile leads nowhere.
"""

from __future__ import annotations

import fnmatch
import os
import re

from intramuros.execution.sandbox.inside.paths import (
    canonical,
    open_at,
    open_directory,
    within,
)

MAX_DEPTH = 400
"""Of directories; each level holds a descriptor open while those below are looked at."""


def find(root: str, name: str, limit: int) -> list[tuple[float, str]]:
    """Return the time of the last change and the path of what matches below ``root``.

    Args:
        root: canonical.
        name: a pattern for the last part, with a star in it.
        limit: how many to find at most.
    """
    search = _Search(root, re.compile(fnmatch.translate(name)), limit)
    try:
        fd = open_at(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    search.enter(fd, root, 0)
    return search.found


class _Search:
    def __init__(self, root: str, names: re.Pattern[str], limit: int) -> None:
        self.found: list[tuple[float, str]] = []
        self._root = root
        self._names = names
        self._left = limit

    def enter(self, fd: int, path: str, depth: int) -> None:
        """Look at a directory, then at those in it; takes the descriptor."""
        try:
            below = self._look(fd, path)
            for name in below if depth < MAX_DEPTH else ():
                if not self._left:
                    return
                try:
                    down = open_directory(name, fd)
                except OSError:
                    continue
                self.enter(down, f"{path}/{name}", depth + 1)
        finally:
            os.close(fd)

    def _look(self, fd: int, path: str) -> list[str]:
        """Keep what matches, and return the directories."""
        below = []
        prefix = path if path.endswith("/") else path + "/"
        matches = self._names.match
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                    if self._left and matches(entry.name):
                        self._left -= 1
                        self._keep(entry, prefix + entry.name)
        except OSError:
            pass  # closed to us, or gone: what was seen of it stands
        return below

    def _keep(self, entry: os.DirEntry[str], full: str) -> None:
        try:
            if not entry.is_symlink():
                self.found.append((entry.stat(follow_symlinks=False).st_mtime, full))
            elif within(canonical(full), self._root):
                self.found.append((mtime(full), full))
        except OSError:
            return


def mtime(path: str) -> float:
    """Return the time of the last change; 0 of a link that leads nowhere."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0

"""A disk quota that is watched: for workspaces without a drive, and for what the worker shares.

A single file cannot grow past the quota at all (RLIMIT_FSIZE); a tree of files is measured while
commands run, more often the closer it is, and a command still running past the limit is stopped.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic

import anyio
from anyio import to_thread

from intramuros.execution.sandbox import processes, trees
from intramuros.execution.sandbox.base import MIB

UNCOUNTABLE = 1 << 62
MAX_COUNTED = 500_000
"""Entries looked at when measuring; a tree with more counts as over any quota."""
_FIRST_LOOK_S = 0.5
_LONGEST_WAIT_S = 5.0
_FRESH_S = 2.0
_LOOKS = 3
"""How often a tree is looked at before what hides counts as too much: one look may be unlucky."""


class Quota:
    """Measures what one sandbox wrote, in all its directories, against its limit."""

    def __init__(
        self,
        directories: Sequence[Path],
        limit_bytes: int,
        limit_files: int = MAX_COUNTED,
        pids: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        """Take what is measured, the limits of all together, and what tells its host pids."""
        self._pids = pids
        self._directories = directories
        self._limit = limit_bytes
        self._files = min(limit_files, MAX_COUNTED)
        self._used = 0
        self._measured_at = float("-inf")
        self._changed_at = float("-inf")
        self._cost_s = 0.0

    def changed(self) -> None:
        """Take note that a command ran: what was measured before it ended says nothing."""
        self._changed_at = monotonic()

    async def is_over(self) -> bool:
        """Return whether they are over; measures when the last look is stale."""
        if not self._directories:
            return False
        stale = monotonic() - self._measured_at > max(_FRESH_S, 20 * self._cost_s)
        if stale or self._measured_at <= self._changed_at:
            await self._measure()
        return self._used > self._limit

    async def wait_until_over(self, scope: anyio.CancelScope) -> None:
        """Cancel ``scope`` once they are over their limit."""
        if not self._directories:
            return
        wait_s = _FIRST_LOOK_S
        while True:
            await anyio.sleep(wait_s)
            await self._measure()
            if self._used > self._limit:
                scope.cancel()
                return
            # Looking may not cost more than a tenth of the time; near the limit look often.
            far = 1 - self._used / max(self._limit, 1)
            wait_s = max(10 * self._cost_s, _LONGEST_WAIT_S * far, 0.1)

    async def _measure(self) -> None:
        began = monotonic()
        self._used = await to_thread.run_sync(self._usage, abandon_on_cancel=True)
        self._measured_at = began
        self._cost_s = monotonic() - began

    def _usage(self) -> int:
        pids = tuple(self._pids())
        return sum(usage_bytes(one, pids, self._files) for one in self._directories)

    async def grew_over(self) -> bool:
        """Measure, and return whether they are over and larger than at the last look."""
        if not self._directories:
            return False
        before = self._used
        if monotonic() - self._measured_at > 20 * self._cost_s:
            await self._measure()
        return self._used > max(self._limit, before)

    def message(self, tool: str) -> str:
        """Return what the model reads when it is over."""
        if self._used >= UNCOUNTABLE:
            return (
                f"{tool}: the workspace has more than {self._files} files or more than"
                f" {trees.MAX_DEPTH} nested directories, or a process hides the files it holds"
                " open; remove some first, or end it"
            )
        return (
            f"{tool}: the workspace is over its disk quota"
            f" ({self._used // MIB} of {self._limit // MIB} MiB used); remove files first"
        )


def usage_bytes(path: Path, pids: Iterable[int] = (), most: int = MAX_COUNTED) -> int:
    """Return the disk space a tree takes, in bytes; links are not followed.

    Whatever cannot be counted counts as :data:`UNCOUNTABLE`.

    Args:
        pids: host pids of processes that may hold files of it open that have no name any more.
        most: how many files and directories are counted.
    """
    pids = tuple(pids)
    for _ in range(_LOOKS):
        try:
            return _count(path, pids, most)
        except FileNotFoundError:
            return 0
        except trees.TooDeep:
            return UNCOUNTABLE
        except (trees.Hidden, OSError):
            continue
    return UNCOUNTABLE


def _count(path: Path, pids: Iterable[int], most: int) -> int:
    """Measure once.

    Raises:
        trees.Hidden: some of it could not be seen.
        FileNotFoundError: there is no such tree.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    device = path.stat().st_dev
    for counted, info in enumerate(trees.walk(os.fspath(path)), 1):
        if counted > most:
            return UNCOUNTABLE
        total += _blocks(info, seen)
    return total + sum(
        _blocks(info, seen)
        for pid in pids
        for info in processes.opened(pid)
        if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_dev == device
    )


def _blocks(info: os.stat_result, seen: set[tuple[int, int]]) -> int:
    """Return what a file takes, and nothing for one that was seen."""
    if info.st_nlink != 1 and not stat.S_ISDIR(info.st_mode):
        if (info.st_dev, info.st_ino) in seen:
            return 0
        seen.add((info.st_dev, info.st_ino))
    return info.st_blocks * 512

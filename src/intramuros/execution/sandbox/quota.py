"""A workspace's disk quota, watched: neither tmpfs nor a project quota may hold it here.

A single file cannot grow past the quota at all (RLIMIT_FSIZE); a tree of files is measured while
commands run, more often the closer it is, and a command still running past the limit is stopped.
"""

import os
import stat
from pathlib import Path
from time import monotonic

import anyio
from anyio import to_thread

from intramuros.execution.sandbox.base import MIB

MAX_COUNTED = 500_000
"""Entries looked at when measuring; a tree with more counts as over any quota."""
_FIRST_LOOK_S = 0.5
_LONGEST_WAIT_S = 5.0
_FRESH_S = 2.0


class Quota:
    """Measures one workspace against its limit."""

    def __init__(self, workspace: Path, limit_bytes: int) -> None:
        self._workspace = workspace
        self._limit = limit_bytes
        self._used = 0
        self._measured_at = float("-inf")
        self._cost_s = 0.0

    async def is_over(self) -> bool:
        """Return whether the workspace is over; measures when the last look is stale."""
        if monotonic() - self._measured_at > max(_FRESH_S, 20 * self._cost_s):
            await self._measure()
        return self._used > self._limit

    async def wait_until_over(self, scope: anyio.CancelScope) -> None:
        """Cancel ``scope`` once the workspace is over its limit."""
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
        self._used = await to_thread.run_sync(usage_bytes, self._workspace, abandon_on_cancel=True)
        self._measured_at = monotonic()
        self._cost_s = self._measured_at - began

    def message(self, tool: str) -> str:
        """Return what the model reads when it is over."""
        return (
            f"{tool}: the workspace is over its disk quota"
            f" ({self._used // MIB} of {self._limit // MIB} MiB used); remove files first"
        )


def usage_bytes(path: Path) -> int:
    """Return the disk space a tree takes, in bytes; links are not followed."""
    total = counted = 0
    queue = [os.fspath(path)]
    seen: set[tuple[int, int]] = set()
    while queue:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    counted += 1
                    if counted > MAX_COUNTED:
                        return 1 << 62
                    info = entry.stat(follow_symlinks=False)
                    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                        if (info.st_dev, info.st_ino) in seen:
                            continue
                        seen.add((info.st_dev, info.st_ino))
                    total += info.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
        except OSError:
            continue
    return total

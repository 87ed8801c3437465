"""Whether this host can hold another sandbox: asked before each claim, and before one is warmed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intramuros.kernel.telemetry import logger

log = logger("room")

_PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Reserve:
    """What is left to the host; 0 asks for nothing."""

    memory_bytes: int
    load_per_cpu: float
    """Runnable processes of each processor, over the last minute, at most."""
    disk_bytes: int = 0
    disk: Path = Path("/")
    """Of whose file system: where workspaces lie, which are promised more than there is."""


class Room:
    """What the host has free.

    Args:
        cpus: how many processors this process may use.
    """

    def __init__(self, reserve: Reserve, cpus: int | None = None, proc: Path = _PROC) -> None:
        self._reserve = reserve
        self._cpus = cpus or len(os.sched_getaffinity(0))
        self._proc = proc

    def lack(self) -> str | None:
        """Return why there is no room, for people; None when there is, or nobody can tell."""
        try:
            if self._reserve.memory_bytes:
                free = self._free_bytes()
                if free is not None and free < self._reserve.memory_bytes:
                    return f"{free // 2**20} MiB of memory are free"
            if self._reserve.disk_bytes:
                disk = os.statvfs(self._reserve.disk)
                free = disk.f_bavail * disk.f_frsize
                if free < self._reserve.disk_bytes:
                    return f"{free // 2**20} MiB of the disk are free"
            if self._reserve.load_per_cpu:
                load = float((self._proc / "loadavg").read_text().split()[0]) / self._cpus
                if load > self._reserve.load_per_cpu:
                    return f"the load is {load:.1f} for each processor"
        except (OSError, ValueError, IndexError) as error:
            log.warning("room_not_known", error=repr(error))
        return None

    def free(self) -> bool:
        """Tell whether there is room."""
        return self.lack() is None

    def _free_bytes(self) -> int | None:
        for line in (self._proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None

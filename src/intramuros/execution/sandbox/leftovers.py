"""Control groups that belonged to workers which are gone: known by their names, removed when empty.

Records tell what a worker left behind as long as its state directory is there. Where that went
too, or the disk lost it, only the group's own name still says whose it was.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox.cgroups import PREFIX, Groups
from intramuros.execution.sandbox.records import Identity, identify

_NAME: Final = re.compile(
    re.escape(PREFIX) + r"(?P<space>\d{1,20})-(?P<pid>\d{1,10})-(?P<start>\d{1,20})-.+", re.ASCII
)


def name_of(worker: Identity, sandbox_id: str, proc: Path = Path("/proc")) -> str:
    """Return a name for a sandbox's groups that no other worker of this host gives.

    Args:
        worker: this process.
    """
    return f"{_space(proc)}-{worker.pid}-{worker.start_ticks}-{sandbox_id}"


def remove_left(groups: Groups, proc: Path = Path("/proc")) -> list[str]:
    """Remove groups of workers that are gone; returns their names.

    Those with a process inside stay, and those of other process namespaces: whether their worker
    lives cannot be told from here. Groups do not outlive the host's boot, and a namespace's number
    is not used again while anybody is in it.
    """
    space, removed = _space(proc), set()
    for parent in set(groups.parents.values()):
        for path in _groups(parent):
            found = _NAME.fullmatch(path.name)
            if found is None or int(found["space"]) != space:
                continue
            if _is_gone(int(found["pid"]), int(found["start"]), proc):
                with suppress(OSError):  # busy, or removed meanwhile
                    path.rmdir()
                    removed.add(path.name)
    return sorted(removed)


def _groups(parent: Path) -> list[Path]:
    try:
        return list(parent.glob(f"{PREFIX}*"))
    except OSError:
        return []


def _space(proc: Path) -> int:
    return (proc / "self/ns/pid").stat().st_ino


def _is_gone(pid: int, start_ticks: int, proc: Path) -> bool:
    """Return whether a process has certainly ended."""
    with suppress(OSError, ValueError, IndexError):
        found = identify(pid, proc)
        if found is not None:
            return found.start_ticks != start_ticks
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    # A zombie, or one that is hidden from us.
    return False

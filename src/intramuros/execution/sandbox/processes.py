"""Trees of host processes: find, stop, release."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from intramuros.execution.sandbox.trees import Hidden

_PROC = Path("/proc")


def parents(proc: Path = _PROC) -> dict[int, int]:
    """Return the parent of every process now running."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1])
    return found


def descendants(root: int, parent_of: dict[int, int]) -> list[int]:
    """Return the processes below ``root``, nearest first, without it."""
    children: dict[int, list[int]] = {}
    for pid, parent in parent_of.items():
        children.setdefault(parent, []).append(pid)
    found = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def children(pid: int, proc: Path = _PROC) -> list[int]:
    """Return the children of a process's first thread, the oldest first."""
    try:
        listed = (proc / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        # The kernel may lack that file (CONFIG_PROC_CHILDREN).
        return sorted(child for child, parent in parents(proc).items() if parent == pid)
    return [int(child) for child in listed]


def first_child(pid: int, proc: Path = _PROC) -> int | None:
    """Return a process's first child, or None."""
    return next(iter(children(pid, proc)), None)


def signal_tree(root: int, number: signal.Signals) -> None:
    """Send a signal to every process below ``root``; with SIGSTOP until no new one appears.

    A process that forks while we look leaves a child running; another look finds it, and a stopped
    parent makes no more.
    """
    done: set[int] = set()
    while True:
        fresh = [pid for pid in descendants(root, parents()) if pid not in done]
        if not fresh:
            return
        for pid in fresh:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        done.update(fresh)


def opened(pid: int, proc: Path = _PROC) -> Iterator[os.stat_result]:
    """Yield the status of every file that a sandbox's process holds open.

    A process can close itself to others of its uid, and then only root sees what it holds. Our own
    processes inside do so and hold no files; the model's are told apart by a limit that only ours
    still have, since nobody in there may raise one (``inside/spawn.py``).

    Raises:
        Hidden: the process is not ours and may not be looked at.
    """
    try:
        for entry in (proc / str(pid) / "fd").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                yield entry.stat()
    except (FileNotFoundError, ProcessLookupError):
        return
    except PermissionError as error:
        if not _is_ours(pid, proc):
            raise Hidden from error


def _is_ours(pid: int, proc: Path) -> bool:
    """Return whether a process may still have message queues; of one that is gone, True."""
    try:
        limits = (proc / str(pid) / "limits").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    rows = [line.split() for line in limits.splitlines() if line.startswith("Max msgqueue size ")]
    return any(row[4] != "0" for row in rows)

"""Hold everything inside still while its files are read, and say what was running.

Only what is below us may be touched: as process 1 of a pid namespace that is all of it, otherwise
our own descendants.
"""

from __future__ import annotations

import os
import select

_SIGSTOP, _SIGCONT = 19, 18
_MAX_PROCESSES = 64
_MAX_COMMAND = 200
_LOOKS = 100


def table(proc: str = "/proc") -> dict[int, tuple[str, int, int]]:
    """Return state, parent and start (in clock ticks) of every process that can be seen."""
    found = {}
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(name)] = (fields[0], int(fields[1]), int(fields[19]))
    return found


def below(pid: int, seen: dict[int, tuple[str, int, int]]) -> list[int]:
    """Return the living processes below one."""
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop()
        for child, (state, of, _) in seen.items():
            if of == parent:
                queue.append(child)
                if state not in "ZX":
                    found.append(child)
    return sorted(found)


def hold() -> list[int]:
    """Stop all that runs below us; returns what was stopped, for :func:`release`."""
    held: list[int] = []
    for _ in range(_LOOKS):
        seen = table()
        running = [pid for pid in below(os.getpid(), seen) if seen[pid][0] not in "Tt"]
        if not running:
            break
        fresh = [pid for pid in running if pid not in held]
        for pid in fresh:
            _signal(pid, _SIGSTOP)
        held += fresh
        if not fresh:
            select.poll().poll(1)  # told already: it waits for a disk, or has not come to it
    return held


def release(held: list[int]) -> None:
    """Let go on what :func:`hold` stopped."""
    for pid in held:
        _signal(pid, _SIGCONT)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def processes(own: set[int], shell: int | None) -> bytes:
    """Return what runs in the background: ``pid TAB seconds TAB command``, separated by NUL.

    Args:
        own: pids of our own processes.
        shell: the pid of the persistent shell, which is put away by other means.
    """
    return _listed(os.getppid(), own, shell)


def _listed(top: int, own: set[int], shell: int | None) -> bytes:
    seen = table()
    with open("/proc/uptime") as file:
        now = float(file.read().split()[0])
    ticks = os.sysconf("SC_CLK_TCK")
    lines = []
    for pid in below(top, seen):
        if pid in own or pid == shell:
            continue
        age = max(0, int(now - seen[pid][2] / ticks))
        lines.append(f"{pid}\t{age}\t{_command(pid)}")
    more = len(lines) - _MAX_PROCESSES
    if more > 0:
        lines[_MAX_PROCESSES:] = [f"0\t0\tand {more} more"]
    return "\0".join(lines).encode("utf-8", "replace")


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    said = b" ".join(words).decode("utf-8", "replace") or "(a process that hides its command line)"
    plain = "".join(c if c.isprintable() else " " for c in said)
    return plain if len(plain) <= _MAX_COMMAND else plain[: _MAX_COMMAND - 1] + "…"


def descriptors(pid: int) -> list[str]:
    """Return which files a shell holds open besides its own pipes: ``number → file``.

    What it put aside itself, while it redirects something, closes with the next program.
    """
    found = []
    try:
        for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
            if int(name) not in (0, 1, 2, 200, 255) and not _closes(pid, name):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                found.append(f"{name} → {target[:_MAX_COMMAND]}")
    except OSError:
        pass  # it hides them, or just ended
    return found[:_MAX_PROCESSES]


def _closes(pid: int, name: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{name}") as file:
        rows = dict(line.split(":", 1) for line in file if ":" in line)
    return bool(int(rows.get("flags", "0"), 8) & os.O_CLOEXEC)

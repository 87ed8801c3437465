"""What a session is told when its sandbox was put away and came back."""

import time
from collections.abc import Sequence
from dataclasses import replace

from intramuros.execution.sandbox.keeping import Facts, Process, Told

MAX_CHARS = 6000


def losses(facts: Facts, told: Told) -> tuple[str, ...]:
    """Return what a snapshot does not hold of a sandbox, one line each, exactly."""
    lines = [
        _process(replace(process, command=told.jobs.get(process.pid, process.command)))
        for process in facts.processes
    ]
    lines += [f"the socket {path}" for path in facts.sockets]
    lines += told.lost
    return tuple(lines)


def _process(process: Process) -> str:
    if not process.pid:
        return f"background processes: {process.command}"
    return f"background process {process.pid} ({_age(process.age_s)}): {process.command}"


def _age(seconds: int) -> str:
    if seconds < 120:
        return f"running for {seconds} s"
    if seconds < 7200:
        return f"running for {seconds // 60} min"
    return f"running for {seconds // 3600} h"


def woken(put_away_at: float, lost: Sequence[str], complaints: Sequence[str]) -> str:
    """Return what is to be read before the next result; empty when nothing is missing."""
    if not lost and not complaints:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(put_away_at))
    lines = [
        f"This sandbox was put away while the session was idle (at {at}) and has been restored."
        " Its files are as they were. Not kept:"
    ]
    lines += [f"- {line}" for line in lost]
    if complaints:
        lines.append("While it took its state back, the shell complained:")
        lines += [f"- {line}" for line in complaints]
    lines.append("Start again what you still need.")
    return cut("\n".join(lines))


def away(put_away_at: float) -> str:
    """Return what is to be read when the last to wake a session did not put it away again."""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(put_away_at))
    return (
        "This session was last active in a sandbox that was lost with its worker. The sandbox has"
        f" been restored as it was put away before that, at {at}: files that were changed later,"
        " and the shell's state since then, are gone. Look before you rely on them."
    )


def cut(text: str) -> str:
    """Return a text that is not too long."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 2] + "\n…"


def expired() -> str:
    """Return what is to be read when a snapshot was removed because it was too old."""
    return (
        "This session slept for longer than this worker keeps what was put away: the sandbox is"
        " new, and its former files, processes and shell state are gone."
    )


def lost() -> str:
    """Return what is to be read in a new sandbox over the workspace of one that died."""
    return (
        "The sandbox of this session ended without being put away, and a new one was made: the"
        " files in /workspace are as they were left; background processes, the shell's state, and"
        " files in /tmp and the home directory are gone."
    )

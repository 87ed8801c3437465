"""What the host remembers of each live sandbox, so that a later worker can clean up after us.

One JSON file per sandbox, written before its first process starts and removed after the last is
gone. A process is identified by pid, start time and boot, so a reused pid is never taken for it.
"""

import hashlib
import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from intramuros.execution.sandbox.base import SandboxError

_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UID_FLOOR = 0x6000_0000
_UID_COUNT = 0x0FFF_FFFF
"""Above what distributions and user-namespace ranges hand out, below 2**31."""


@dataclass(frozen=True)
class Identity:
    """One process, for as long as it lives."""

    pid: int
    start_ticks: int
    boot: str


@dataclass(frozen=True)
class Record:
    """One live sandbox."""

    sandbox_id: str
    worker: Identity
    outer: Identity | None = None
    """Its outermost process; None until that has started."""
    cgroups: list[str] = field(default_factory=list)
    uid: int | None = None


def check_id(sandbox_id: str) -> str:
    """Return the id, which becomes a file name.

    Raises:
        ValueError: not 1 to 64 of ``[A-Za-z0-9_-]``.
    """
    if not _VALID_ID.fullmatch(sandbox_id):
        raise ValueError(f"{sandbox_id!r} is not a sandbox id: use 1 to 64 of A-Za-z0-9_-")
    return sandbox_id


def identify(pid: int, proc: Path = Path("/proc")) -> Identity | None:
    """Return who has this pid now; None when nobody has, or only a zombie."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in ("Z", "X"):
        return None
    return Identity(pid, int(fields[19]), boot)


def is_alive(identity: Identity) -> bool:
    """Return whether exactly this process still runs."""
    return identify(identity.pid) == identity


def kill(identity: Identity) -> bool:
    """Kill exactly this process; False when it is gone already."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity):
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    finally:
        os.close(pidfd)


def choose_uid(sandbox_id: str, uid_map: str, taken: set[int], wanted: int | None = None) -> int:
    """Return a host uid for a sandbox: the same each time unless it is taken.

    Args:
        uid_map: content of ``/proc/self/uid_map``; inside a container few uids exist.
        taken: uids of live sandboxes.
        wanted: whose its workspace is already, if it is such a uid.

    Raises:
        ValueError: no uid above the reserved ones is mapped here.
    """
    digest = int.from_bytes(hashlib.sha256(sandbox_id.encode()).digest()[:8], "big")
    floor, count = _UID_FLOOR, _UID_COUNT
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    if not any(start <= floor and start + size > floor + count for start, _, size in ranges):
        start, _, size = max(ranges, key=lambda entry: entry[2], default=(0, 0, 0))
        floor, count = start + size // 2, size // 2 - 1
    if count < 1 or floor < 1000:
        raise ValueError("no spare user ids are mapped in this user namespace")
    if wanted is not None and floor <= wanted < floor + count and wanted not in taken:
        return wanted
    for step in range(len(taken) + 1):
        uid = floor + (digest + step) % count
        if uid not in taken:
            return uid
    raise ValueError("every spare user id is taken")


class Records:
    """The directory of records."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, record: Record) -> None:
        """Write a record whole or not at all.

        Raises:
            SandboxError: the host's disk refuses.
        """
        path = self._directory / f"{record.sandbox_id}.json"
        draft = path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(asdict(record)))
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise SandboxError(f"cannot note down the sandbox ({error.strerror})") from error

    def load(self, sandbox_id: str) -> Record | None:
        """Return the record, or None when there is none that can be read."""
        try:
            raw = json.loads((self._directory / f"{sandbox_id}.json").read_text())
            outer = raw.pop("outer")
            return Record(
                **{**raw, "worker": Identity(**raw["worker"])},
                outer=Identity(**outer) if outer else None,
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def remove(self, sandbox_id: str) -> None:
        """Forget a record; harmless when there is none."""
        (self._directory / f"{sandbox_id}.json").unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """Return every record that can be read."""
        found = (self.load(path.stem) for path in sorted(self._directory.glob("*.json")))
        return [record for record in found if record is not None]

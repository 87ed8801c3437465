"""The worker's audit file: what crossed the wall and what ran, written before it happens.

Kinds of records::

    worker.start      a worker began; environment, worker id
    work.claim     in an item was claimed: work id, session id
    skill.fetch    in a skill was downloaded, before it is unpacked: size, digest
    repository.clone in a repository is about to be cloned in a sandbox, with its token or without
    repository.cloned  it is there, at a commit; or repository.left_out, and why
    tool.call      in a call is about to run: tool, rule, size and digest of its input
    tool.result   out an outcome is about to be posted: size, digest, and what was found in it
    memory.read    in memories are about to reach a sandbox: how many, size, digest
    memory.write  out a file is about to become a memory: size, digest, and what was found in it
    memory.withheld   a file does not become a memory, because of what was found in it
    output.send   out a file is about to become an output: path, size, digest, what was found in it
    output.withheld   a file does not become an output, because of what was found in it
    repository.report out what a clone holds is about to be told: commit, skills
    memory.delete out a memory is about to be deleted, because its file is gone
    tool.refused      the control plane did not take a result
    egress.request    a sandbox is about to reach a host, or is refused: host, port, method, path,
                      rule, names of the secrets that go along
    egress.end        what became of it: size and digest both ways
    sandbox.away      a session's sandbox is away: from now on it wakes from that snapshot
    sandbox.wake      a session's sandbox is about to be restored from a snapshot
    snapshot.create   a sandbox is about to be stored; name, if it was given one
    snapshot.expire   a snapshot was removed because it was too old
    desk.…            an operator of this host is about to get what he asked for, and his user id
    web.call       in a web call of the server's is about to be made: tool, size and digest
    web.result    out its answer is about to be given: size, digest, how many secrets were masked
    web.abandoned     nobody waited for it any more
    work.end          the item was given back, and why
    ssh.open       in a person was let into a sandbox, by which certificate of whose
    ssh.run        in what they are about to run: shell, exec, sftp or forward; size and digest
    ssh.recorded      a recording of their terminal: size and digest
    ssh.close         they are gone: seconds, bytes both ways, and why
    egress.lookup out a sandbox asked for a name that it may not reach; once for each name
    egress.request out a sandbox's request is about to be sent, or is refused: verdict and rule
    egress.end    out what became of it: status, sizes, digests; written within a second

Fields hold ids, sizes and digests, never content. ``direction`` is ``in`` or ``out`` on every
record of a crossing. What was found is ``masked`` (how many places), ``rules`` (how often each
matched) and ``found`` (digests of the secrets, keyed with ``outflow.key``: equal ones can be told,
and none can be guessed).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
from anyio import lowlevel, to_thread

from intramuros.kernel.appendlog import MAX_LINE_BYTES, AppendLog
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, rfc3339
from intramuros.protocol.audit import AuditRecord, BrokenChain, Head, head_of, seal

log = logger("record")

# A disk that answers this soon, in seconds, is waited for where we are: to wake a thread takes as
# long, and to be woken by it too. One slow answer sends the next ones to a thread again.
_QUICK_S: Final = 0.005
_PROOF: Final = 16

INWARD: Final = "in"
OUTWARD: Final = "out"


class RecordFailed(Exception):
    """The record could not be written: do not do what it announces."""


@dataclass(frozen=True)
class Weight:
    """Size and digest of something that crosses: ``size`` in bytes of its canonical JSON."""

    size: int
    sha256: str


def weigh(content: object) -> Weight:
    """Return the size and digest of a JSON value."""
    data = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    return Weight(len(data), hashlib.sha256(data).hexdigest())


class Heard(Protocol):
    """Who listens to what is recorded."""

    def __call__(self, kind: str, fields: Mapping[str, Any], *, written: bool) -> None:
        """Take note; must neither wait nor raise."""
        ...


def _nobody(kind: str, fields: Mapping[str, Any], *, written: bool) -> None:
    """Nobody listens."""


@dataclass(eq=False)
class _Entry:
    """A record on its way to the disk."""

    record: AuditRecord
    settled: bool = False
    error: Exception | None = None


class Record:
    """The open audit file of one worker. ``write`` may be called from many tasks."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create the file and continue its chain.

        Raises:
            OperatorError: it cannot be opened, is in use, or its last record is damaged.
        """
        self.clock = clock
        self.heard: Heard = _nobody
        """Told of each record that was written, or should have been and was not."""
        self._file = AppendLog(path)
        self._mutex = anyio.Lock(fast_acquire=True)
        self._waiting: list[_Entry] = []
        self._doubt = _PROOF
        """How many more quick answers of the disk it takes to wait for it without a thread."""
        try:
            last = self._file.last_line
            self._head = head_of(last) if last is not None else Head()
        except (BrokenChain, KeyError) as error:
            self._file.close()
            raise OperatorError(
                f"the last record of {path} is damaged",
                "move the file away and keep it as evidence; a new one is begun",
            ) from error

    @property
    def head(self) -> Head:
        """The end of the chain."""
        return self._head

    async def write(self, kind: str, **fields: Any) -> None:  # noqa: ANN401  JSON members
        """Append one record and return once it is on disk.

        Records that come meanwhile are written together, with one wait for the disk.

        Raises:
            RecordFailed: the disk refused it; nothing of it remains.
        """
        entry = self._enter(kind, fields)
        try:
            # Whoever else is about to record something comes along.
            await lowlevel.checkpoint()
            async with self._mutex:
                if not entry.settled:
                    await self._flush()
        finally:
            if not entry.settled and entry in self._waiting:
                self._waiting.remove(entry)  # cancelled: what it announces is not done
        if entry.error is not None:
            raise RecordFailed(f"cannot write the audit record: {entry.error}") from entry.error

    def note(self, kind: str, **fields: Any) -> None:  # noqa: ANN401  JSON members
        """Append one record soon: with the next that is written, flushed, or at the close.

        For what has happened already, and needs no record to be let happen.
        """
        self._enter(kind, fields)

    async def flush(self) -> None:
        """Write what was noted; one that the disk refuses is lost, and logged."""
        async with self._mutex:
            await self._flush()

    def _enter(self, kind: str, fields: dict[str, Any]) -> "_Entry":
        entry = _Entry(AuditRecord(rfc3339(self.clock.now()), kind, fields))
        self._waiting.append(entry)
        return entry

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        lines, head = self._seal(batch)
        try:
            if self._doubt:
                # Not abandoned on cancellation: the head moves exactly when the lines are there.
                await to_thread.run_sync(self._append, lines)
            else:
                self._append(lines)
        except OSError as error:
            self._fail(batch, error)
        except BaseException:
            # Cancelled before it began: whoever else waits writes his own.
            self._waiting = [*batch, *self._waiting]
            raise
        else:
            self._head = head
            self._told(batch)
        for entry in batch:
            entry.settled = True

    def _told(self, batch: list["_Entry"]) -> None:
        for entry in batch:
            self.heard(entry.record.kind, entry.record.fields, written=entry.error is None)

    def _fail(self, batch: list["_Entry"], error: Exception) -> None:
        for entry in batch:
            entry.error = error
        self._told(batch)
        log.error("not_recorded", records=len(batch), error=str(error))

    def _append(self, lines: list[str]) -> None:
        if lines:
            began_s = self.clock.monotonic()
            self._file.append_all(lines)
            slow = self.clock.monotonic() - began_s > _QUICK_S
            self._doubt = _PROOF if slow else max(0, self._doubt - 1)

    def _seal(self, batch: list["_Entry"]) -> tuple[list[str], Head]:
        """Return the lines of a batch and the head after them; one that cannot be is left out."""
        lines, head = [], self._head
        for entry in batch:
            try:
                line, after = seal(head, entry.record)
                if len(line.encode()) >= MAX_LINE_BYTES:
                    raise ValueError("a record must be shorter than 1 MiB")
            except (ValueError, TypeError) as error:
                entry.error = error
                continue
            lines.append(line)
            head = after
        return lines, head

    def settle(self) -> None:
        """Write what was noted, now; blocks on the disk."""
        batch, self._waiting = self._waiting, []
        lines, head = self._seal(batch)
        try:
            self._append(lines)
            self._head = head
        except OSError as error:
            self._fail(batch, error)
        else:
            self._told(batch)

    def close(self) -> None:
        """Write what was noted, and close the file."""
        self.settle()
        self._file.close()

"""The audit file of an edge or a gateway: hash-chained, durable before ``append`` returns.

Records that arrive while the disk is busy are written together with one sync, so that many calls
at once cost hardly more than one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from intramuros.kernel.appendlog import AppendLog
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, rfc3339
from intramuros.protocol.audit import AuditRecord, BrokenChain, Head, head_of, seal

log = logger("audit")

# An outcome waits this long for an intent to share its sync with.
RIDE_ALONG_S: Final = 0.05
# Outcomes that wait at most; beyond it the disk is behind and the next intent waits for it anyway.
MAX_WAITING: Final = 10_000


class AuditUnavailable(Unavailable):
    """The record could not be written, so the act must not happen: free the disk, then retry."""


@dataclass(eq=False)
class _Entry:
    record: AuditRecord
    noted: bool
    """Nobody waits for it; if the disk refuses, it is tried again with the next batch."""
    done: bool = False
    error: Exception | None = None


class Ledger:
    """One audit file. Records keep the order in which they were appended."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create the file and continue its chain.

        Raises:
            OperatorError: it cannot be opened, is in use, or its end is no audit record.
        """
        self._log = AppendLog(path)
        self._clock = clock
        self._lock = anyio.Lock()
        self._pending: list[_Entry] = []
        self._noted = anyio.Event()
        try:
            last = self._log.last_line
            self._head = head_of(last) if last is not None else Head()
        except BrokenChain as error:
            self._log.close()
            raise OperatorError(
                f"{path} does not end in an audit record ({error})",
                "move the file away and keep it for inspection",
            ) from error

    @property
    def head(self) -> Head:
        """The end of the chain, to be copied to the other side of the wall."""
        return self._head

    async def append(self, kind: str, fields: Mapping[str, object]) -> None:
        """Record what is about to happen and return once it is on disk.

        Raises:
            AuditUnavailable: the disk refused it; nothing was recorded.
        """
        entry = self._enqueue(kind, fields, noted=False)
        await self._flush(entry)
        if entry.error is not None:
            raise AuditUnavailable(
                "the audit record cannot be written, so nothing was done",
                code="audit_unavailable",
            ) from entry.error

    def note(self, kind: str, fields: Mapping[str, object]) -> None:
        """Record what has happened, without waiting; :meth:`run` or :meth:`close` writes it.

        What is done cannot be undone by a full disk, so the record is kept and tried again.
        """
        if len(self._pending) >= MAX_WAITING:
            log.error("audit_failed", kind=kind, reason="too many records wait for the disk")
            return
        self._enqueue(kind, fields, noted=True)
        self._noted.set()

    async def run(self) -> None:
        """Write noted records soon, until cancelled."""
        while True:
            await self._noted.wait()
            self._noted = anyio.Event()
            await anyio.sleep(RIDE_ALONG_S)
            if self._pending:
                await self._flush(self._pending[-1])

    def close(self) -> None:
        """Write what is noted and release the file."""
        batch, self._pending = self._pending, []
        self._write(batch)
        self._log.close()

    def _enqueue(self, kind: str, fields: Mapping[str, object], *, noted: bool) -> _Entry:
        entry = _Entry(AuditRecord(rfc3339(self._clock.now()), kind, fields), noted)
        self._pending.append(entry)
        return entry

    async def _flush(self, entry: _Entry) -> None:
        """Write everything that waits, unless another task did so while we waited for it."""
        async with self._lock:
            if not entry.done:
                batch, self._pending = self._pending, []
                # The thread keeps the disk off the event loop; the lock keeps the chain's order.
                await anyio.to_thread.run_sync(self._write, batch)
                again = [late for late in batch if not late.done]
                self._pending = again + self._pending

    def _write(self, batch: list[_Entry]) -> None:
        head, lines, sealed = self._head, [], []
        for entry in batch:
            entry.done = True
            try:
                line, head = seal(head, entry.record)
            except ValueError as error:
                entry.error = error
                log.error("audit_failed", kind=entry.record.kind, reason=repr(error))
                continue
            lines.append(line)
            sealed.append(entry)
        if not lines:
            return
        try:
            self._log.append_all(lines)
            self._head = head
        except (OSError, ValueError) as error:
            log.error("audit_failed", records=len(lines), reason=repr(error))
            for entry in sealed:
                entry.error = error
                entry.done = not entry.noted

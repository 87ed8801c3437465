"""The audit file of an edge or a gateway: hash-chained, durable before ``append`` returns.

Records that arrive while the disk is busy are written together with one sync, so that many calls
at once cost hardly more than one. A disk that does not answer refuses what waits for it in time.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import anyio

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
# A network disk may take seconds to fail over; one that needs longer for one sync is as good as
# none, and callers rather hear so than hang.
LONGEST_S: Final = 10.0


class AuditUnavailable(Unavailable):
    """The record could not be written, so the act must not happen: free the disk, then retry."""

    late = False
    """Whether the record may still be written, once the disk answers; the act has not happened."""


@dataclass(eq=False)
class _Entry:
    record: AuditRecord
    noted: bool
    """Nobody waits for it; if the disk refuses, it is tried again with the next batch."""
    done: bool = False
    error: Exception | None = None
    settled: anyio.Event = field(default_factory=anyio.Event)


class Ledger:
    """One audit file. Records keep the order in which they were appended."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create the file and continue its chain.

        Raises:
            OperatorError: it cannot be opened, is in use, or its end is no audit record.
        """
        self._log = AppendLog(path)
        self._clock = clock
        # One thread keeps the disk off the event loop, and the chain in order.
        self._disk = ThreadPoolExecutor(1, "audit")
        self._writing = False
        self.failing = False
        """Whether the last that was to be recorded could not be."""
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
            AuditUnavailable: the disk refused it, and nothing was recorded; or it does not answer,
                and what is ``late`` may still be recorded.
        """
        entry = self._enqueue(kind, fields, noted=False)
        if not self._writing:
            self._start()
        with anyio.move_on_after(LONGEST_S):
            await entry.settled.wait()
        settled = entry.settled.is_set()
        if settled and entry.error is None:
            return
        refused = AuditUnavailable(
            "the audit record cannot be written, so nothing was done", code="audit_unavailable"
        )
        if not settled:
            self.failing = True
            log.error("audit_failed", kind=kind, reason=f"the disk took over {LONGEST_S:g} s")
            refused.late = entry not in self._pending
            if not refused.late:
                self._pending.remove(entry)
        raise refused from (entry.error if settled else TimeoutError())

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
            if self._pending and not self._writing:
                self._start()

    def close(self) -> None:
        """Write what is noted and release the file."""
        self._disk.shutdown(wait=True)
        batch, self._pending = self._pending, []
        self._write(batch)
        self._log.close()

    def _enqueue(self, kind: str, fields: Mapping[str, object], *, noted: bool) -> _Entry:
        entry = _Entry(AuditRecord(rfc3339(self._clock.now()), kind, fields), noted)
        self._pending.append(entry)
        return entry

    def _start(self) -> None:
        """Hand everything that waits to the disk."""
        batch, self._pending = self._pending, []
        self._writing = True
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(self._disk, self._write, batch)
        writing.add_done_callback(partial(self._wrote, batch))

    def _wrote(self, batch: list[_Entry], writing: "asyncio.Future[None]") -> None:
        self._writing = False
        # Only a defect of ours raises; it must not pass for a record.
        defect = None if writing.cancelled() else writing.exception()
        for entry in batch:
            if isinstance(defect, Exception):
                entry.done, entry.error = True, defect
            if entry.done:
                entry.settled.set()
        self.failing = any(entry.error is not None for entry in batch)
        self._pending = [entry for entry in batch if not entry.done] + self._pending
        if any(not entry.noted for entry in self._pending):
            self._start()

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

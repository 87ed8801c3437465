"""The audit file of an edge or a gateway: hash-chained, durable before ``append`` returns."""

from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from intramuros.kernel.appendlog import AppendLog
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.timing import Clock, rfc3339
from intramuros.protocol.audit import AuditRecord, BrokenChain, Head, head_of, seal


class AuditUnavailable(Unavailable):
    """The record could not be written, so the act must not happen: free the disk, then retry."""


class Ledger:
    """One audit file. Records keep the order in which they were appended."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create the file and continue its chain.

        Raises:
            OperatorError: it cannot be opened, is in use, or its end is no audit record.
        """
        self._log = AppendLog(path)
        self._clock = clock
        # One writer at a time keeps the chain; the thread keeps the disk off the event loop.
        self._writer = anyio.CapacityLimiter(1)
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
        """Record something and return once it is on disk.

        Raises:
            AuditUnavailable: the disk refused it; nothing was recorded.
        """
        record = AuditRecord(rfc3339(self._clock.now()), kind, fields)
        try:
            await anyio.to_thread.run_sync(self._append, record, limiter=self._writer)
        except (OSError, ValueError) as error:
            raise AuditUnavailable(
                "the audit record cannot be written, so nothing was done",
                code="audit_unavailable",
            ) from error

    def close(self) -> None:
        """Release the file."""
        self._log.close()

    def _append(self, record: AuditRecord) -> None:
        line, head = seal(self._head, record)
        self._log.append(line)
        self._head = head

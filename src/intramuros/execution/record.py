"""The worker's audit file: what crossed the wall and what ran, written before it happens.

Kinds of records::

    worker.start      a worker began; environment, worker id
    work.claim     in an item was claimed: work id, session id
    skill.fetch    in a skill was downloaded, before it is unpacked: size, digest
    tool.call      in a call is about to run: tool, rule, size and digest of its input
    tool.result   out an outcome is about to be posted: size, digest, how many secrets were masked
    memory.read    in memories are about to reach a sandbox: how many, size, digest
    memory.write  out a file is about to become a memory: size, digest, how many secrets were masked
    memory.delete out a memory is about to be deleted, because its file is gone
    tool.refused      the control plane did not take a result
    work.end          the item was given back, and why

Fields hold ids, sizes and digests, never content. ``direction`` is ``in`` or ``out`` on every
record of a crossing.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread

from intramuros.kernel.appendlog import AppendLog
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import Clock, rfc3339
from intramuros.protocol.audit import AuditRecord, BrokenChain, Head, head_of, seal

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


class Record:
    """The open audit file of one worker. ``write`` may be called from many tasks."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create the file and continue its chain.

        Raises:
            OperatorError: it cannot be opened, is in use, or its last record is damaged.
        """
        self.clock = clock
        self._file = AppendLog(path)
        self._mutex = anyio.Lock()
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

        Raises:
            RecordFailed: the disk refused it; nothing of it remains.
        """
        async with self._mutex:
            at = rfc3339(self.clock.now())
            try:
                line, head = seal(self._head, AuditRecord(at, kind, fields))
                # Not abandoned on cancellation: the head must move exactly when the line is there.
                await to_thread.run_sync(self._file.append, line)
            except (OSError, ValueError) as error:
                raise RecordFailed(f"cannot write the audit record: {error}") from error
            self._head = head

    def close(self) -> None:
        """Close the file."""
        self._file.close()

"""What egress writes into the worker's record: each request before it is dialled, and its end.

``egress.request`` says who wants what from whom, what the rules say, and which secrets would go
along, by their names; ``egress.end`` how much went each way, with digests. Neither holds content:
no query, no header, no body.
"""

import hashlib
from dataclasses import dataclass, field

from intramuros.execution.egress.http1 import Head, Place
from intramuros.execution.record import Record, RecordFailed
from intramuros.kernel.telemetry import logger

log = logger("egress")

# Longer paths are cut: the record is to be read.
MAX_PATH_CHARS = 512


@dataclass
class Passage:
    """What went one way: size and digest of bodies, as they were on the outside."""

    size: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, chunk: bytes) -> None:
        """Count a chunk."""
        self.size += len(chunk)
        self.digest.update(chunk)


@dataclass
class Tally:
    """What became of one request or passed-through connection."""

    sent: Passage = field(default_factory=Passage)
    received: Passage = field(default_factory=Passage)
    status: int | None = None
    scrubbed: int = 0
    """How many times a secret was taken out of the answer."""
    ended: str = "aborted"


@dataclass(frozen=True)
class Claim:
    """What is about to be done, or refused, as the record says it."""

    place: Place
    rule: str
    allowed: bool
    head: Head | None = None
    secrets: tuple[str, ...] = ()

    def fields(self) -> dict[str, object]:
        """Return the members of the record."""
        told: dict[str, object] = {
            "host": self.place.name,
            "port": self.place.port,
            "verdict": "allow" if self.allowed else "deny",
            "rule": self.rule,
        }
        if self.head is not None:
            told["method"] = self.head.method.decode("ascii", "replace")[:32]
            told["path"] = self.head.path[:MAX_PATH_CHARS]
        if self.secrets:
            told["secrets"] = list(self.secrets)
        return told


class Ledger:
    """The record of one sandbox's egress."""

    def __init__(self, record: Record, session_id: str) -> None:
        self._record = record
        self._session_id = session_id

    async def ask(self, claim: Claim) -> None:
        """Record what is about to be done.

        Raises:
            RecordFailed: it could not be recorded: do not do it.
        """
        await self._record.write("egress.request", session_id=self._session_id, **claim.fields())

    async def refuse(self, place: Place, rule: str, head: Head | None = None) -> None:
        """Record what is not done; it is not done either way, so this may fail."""
        log.info("egress_refused", host=place.name, port=place.port, rule=rule)
        try:
            await self.ask(Claim(place, rule, False, head))
        except RecordFailed as error:
            log.error("not_recorded", kind="egress.request", error=str(error))

    def end(self, claim: Claim, tally: Tally, ms: int) -> None:
        """Record what became of it, soon; it happened anyway, so nobody waits for the disk."""
        told = claim.fields()
        names = ("host", "port", "method", "path", "rule")
        fields = {name: told[name] for name in names if name in told} | {
            "status": tally.status,
            "request_bytes": tally.sent.size,
            "request_sha256": tally.sent.digest.hexdigest(),
            "response_bytes": tally.received.size,
            "response_sha256": tally.received.digest.hexdigest(),
            "scrubbed": tally.scrubbed,
            "ended": tally.ended,
            "ms": ms,
        }
        self._record.note("egress.end", session_id=self._session_id, **fields)

"""The transactions of a delivery: begin an attempt, and keep what came of it.

An attempt is counted and its use of the secret audited before anything is sent; what came of it is
kept afterwards. A process killed between the two leaves a delivery that somebody attempts again:
the endpoint may hear of an event twice and knows it by its id (R276).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from intramuros.control.identity import audit
from intramuros.control.store import deliveries, leases
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.deliveries import Attempt
from intramuros.control.store.leases import Lease
from intramuros.control.store.notify import Hub
from intramuros.control.webhooks import endpoints
from intramuros.control.webhooks.endpoints import FAILING, NOT_PUBLIC, REDIRECTED, Endpoints
from intramuros.control.webhooks.post import Message, Outcome, Post, Result
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, from_micros, rfc3339, to_micros
from intramuros.protocol.webhooks import payload

log = logger("webhooks")

MICROS: Final = 1_000_000
MAX_ATTEMPTS: Final = 3
_REASONS: Final = {Outcome.REDIRECTED: REDIRECTED, Outcome.NOT_PUBLIC: NOT_PUBLIC}


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds (R274, R275, Q24).

    Args:
        retry_min_s: the shortest wait before a retry.
        retry_max_s: the longest.
        disable_after_s: how long deliveries to an endpoint may fail without a success between.
    """

    retry_min_s: float = 5.0
    retry_max_s: float = 120.0
    disable_after_s: float = 24 * 3600.0

    def wait_s(self, attempt: int, rand: float) -> float:
        """Return the wait after a failed attempt: longer each time, and never the same.

        Args:
            attempt: numbered from 1.
            rand: from 0 to 1.
        """
        shortest_s = self.retry_min_s * 4.0 ** (attempt - 1)
        return min(self.retry_max_s, shortest_s * (1 + 5 * rand))


@dataclass(frozen=True)
class Desk:
    """What delivering needs of the process."""

    db: Database
    clock: Clock
    hub: Hub
    endpoints: Endpoints
    post: Post
    patience: Patience
    organization_id: str

    def now_us(self) -> int:
        """Return the time in microseconds since the epoch."""
        return to_micros(self.clock.now())

    def is_due(self, tx: Tx, endpoint_id: str, apart: Collection[str]) -> bool:
        """Tell whether :meth:`begin` would find something; cheap, for use before it."""
        return deliveries.next_due(tx, endpoint_id, self.now_us(), apart) is not None

    def begin(self, tx: Tx, lease: Lease, apart: Collection[str]) -> tuple[Attempt, Message] | None:
        """Begin the attempt that is due longest; None if none is, or if it had too many already.

        The endpoint is read here, so that a new URL or secret holds from the next attempt on.

        Args:
            apart: events that are being delivered already.

        Raises:
            LostLease: somebody else may serve the endpoint.
        """
        leases.check(tx, lease.queue, lease.key, lease.epoch)
        event_id = deliveries.next_due(tx, lease.key, self.now_us(), apart)
        if event_id is None:
            return None
        attempt = deliveries.begin(tx, lease.key, event_id, MAX_ATTEMPTS)
        if attempt is None:
            log.warning("webhook_given_up", endpoint=lease.key, event_id=event_id)
            return None
        row, about = endpoints.find_row(tx, lease.key), str(attempt.data["id"])
        audit.record(
            tx,
            self.clock,
            "webhook.send",
            workspace_id=row.workspace_id,
            session_id=about if about.startswith("sesn_") else None,
            fields={
                "endpoint_id": row.id,
                "event_id": event_id,
                "event": attempt.data["type"],
                "about": about,
                "attempt": attempt.number,
            },
        )
        body = payload(
            event_id, rfc3339(from_micros(attempt.at_us)), self.organization_id, attempt.data
        )
        secret = self.endpoints.open_secret(row)
        return attempt, Message(row.url, event_id, body, secret, self.clock.now())

    def settle(self, tx: Tx, attempt: Attempt, result: Result, rand: Callable[[], float]) -> None:
        """Keep what came of an attempt, unless a later one has begun or nobody waits any more."""
        if not deliveries.is_newest(tx, attempt):
            return
        row, now_us = endpoints.find_row(tx, attempt.endpoint_id), self.now_us()
        if result.outcome is Outcome.DELIVERED:
            deliveries.end(tx, attempt.endpoint_id, attempt.event_id)
            endpoints.note(tx, row, None)
            return
        log.info(
            "webhook_failed",
            endpoint=row.id,
            event_id=attempt.event_id,
            attempt=attempt.number,
            seen=result.seen,
        )
        since_us = row.failing_since_us if row.failing_since_us is not None else now_us
        reason = _REASONS.get(result.outcome)
        if now_us - since_us >= self.patience.disable_after_s * MICROS:
            reason = reason or FAILING
        if reason is not None:
            endpoints.disable(tx, self.clock, row, reason)
            return
        endpoints.note(tx, row, since_us)
        if attempt.number >= MAX_ATTEMPTS:
            deliveries.end(tx, attempt.endpoint_id, attempt.event_id)
            return
        wait_s = self.patience.wait_s(attempt.number, rand())
        deliveries.postpone(tx, attempt, now_us + round(wait_s * MICROS))

    def release(self, tx: Tx, lease: Lease) -> None:
        """Give an endpoint back until its next delivery is due, or for good if none is.

        Raises:
            LostLease: it is no longer ours.
        """
        now_us, due_us = self.now_us(), deliveries.next_due_us(tx, lease.key)
        if due_us is None:
            leases.finish(tx, lease, now_us)
        else:
            leases.postpone(tx, lease, now_us, max(now_us, due_us))

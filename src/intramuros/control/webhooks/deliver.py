"""Delivers what the outbox holds: at least once, unordered, a few at a time to each endpoint.

Each endpoint has one lease, so that one process at a time serves it, however many there are, and
makes up to so many attempts to it at once. A slow endpoint therefore keeps its own events waiting
and no others. Retries hold nothing: the lease is given back until the next one is due.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from intramuros.control.store import leases, outbox
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.store.notify import WEBHOOK_TOPIC
from intramuros.control.webhooks.desk import Desk
from intramuros.control.webhooks.serve import Serving
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("webhooks")

MICROS: Final = 1_000_000
_FAREWELL_S: Final = 2.0
# An endpoint that could not be served for a reason of ours comes back after this long.
FAILED_PAUSE_S: Final = 30.0


@dataclass(frozen=True)
class DeliverSettings:
    """How endpoints are served.

    Args:
        endpoints: served at once by this process.
        lease_s: how long a claim lasts without a sign of life.
        poll_s: how often to look for something due when no hint comes.
    """

    endpoints: int = 64
    lease_s: float = 15.0
    poll_s: float = 1.0


class Deliverer:
    """The loop of a server process.

    Args:
        holder: this process's name in the lease table, for people.
        rand: numbers in [0, 1), to spread retries.
    """

    def __init__(
        self,
        desk: Desk,
        holder: str,
        rand: Callable[[], float],
        settings: DeliverSettings | None = None,
    ) -> None:
        self._desk = desk
        self._holder = holder
        self._rand = rand
        self._settings = settings or DeliverSettings()
        self._slots = anyio.Semaphore(self._settings.endpoints)

    async def run(self, stop: Stop) -> None:
        """Serve endpoints until a stop is asked for; then let attempts under way end."""
        async with anyio.create_task_group() as served:
            with self._desk.hub.subscribe(WEBHOOK_TOPIC, whispers=False, news=False) as hints:
                async with anyio.create_task_group() as waiting:

                    async def cut() -> None:
                        await stop.wait()
                        waiting.cancel_scope.cancel()

                    waiting.start_soon(cut)
                    while not stop.requested:
                        await self._slots.acquire()
                        hints.clear()
                        lease, wait_s = await self._claim()
                        if lease is None:
                            self._slots.release()
                            await hints.wait(wait_s)
                        else:
                            served.start_soon(self._serve, lease, stop)

    async def _claim(self) -> tuple[Lease | None, float]:
        """Claim the endpoint that has waited longest, or say how long to wait."""
        now_us, poll_s = self._desk.now_us(), self._settings.poll_s
        try:
            ready_us, expired = await self._desk.db.read(lambda tx: _look(tx, now_us))
            due = ready_us is not None and ready_us <= now_us
            if due or expired:
                return await self._desk.db.write(self._take), 0.0
        except Unavailable as error:
            log.error("claim_failed", error=repr(error))
            return None, poll_s
        if ready_us is not None:
            poll_s = min(poll_s, (ready_us - now_us) / MICROS)
        return None, poll_s

    def _take(self, tx: Tx) -> Lease | None:
        now_us = self._desk.now_us()
        for endpoint_id in leases.reap(tx, outbox.QUEUE, now_us):
            log.info("webhook_lease_expired", endpoint=endpoint_id)
        ttl_us = round(self._settings.lease_s * MICROS)
        return leases.claim(tx, outbox.QUEUE, self._holder, now_us, ttl_us)

    async def _serve(self, lease: Lease, stop: Stop) -> None:
        now_us = self._desk.now_us()
        try:
            serving = Serving(self._desk, lease, self._settings.lease_s, self._rand)
            await serving.run(stop)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                await self._give_back(lease, now_us)
            raise
        except Exception as error:
            log.error(
                "webhook_serving_failed", endpoint=lease.key, error=repr(error), exc_info=error
            )
            at_us = self._desk.now_us() + round(FAILED_PAUSE_S * MICROS)
            await self._give_back(lease, at_us)
        finally:
            self._slots.release()

    async def _give_back(self, lease: Lease, at_us: int) -> None:
        now_us = self._desk.now_us()
        try:
            await self._desk.db.write(lambda tx: leases.postpone(tx, lease, now_us, at_us))
        except (LostLease, Unavailable) as error:
            log.info("webhook_lease_not_given_back", endpoint=lease.key, error=repr(error))


def _look(tx: Tx, now_us: int) -> tuple[int | None, bool]:
    return leases.next_ready_us(tx, outbox.QUEUE), leases.has_expired(tx, outbox.QUEUE, now_us)

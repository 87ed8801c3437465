"""One endpoint while this process serves it: attempts side by side, up to so many."""

from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from intramuros.control.store.deliveries import Attempt
from intramuros.control.store.leases import Lease, LostLease, beat
from intramuros.control.webhooks.desk import Desk
from intramuros.control.webhooks.post import Message
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("webhooks")

MICROS: Final = 1_000_000
# Attempts to one endpoint at once: events of one turn need not wait for each other.
AT_ONCE: Final = 4
# While attempts are under way, something new is looked for this often.
LOOK_S: Final = 0.5
# After this long the endpoint goes to the back of the queue, for others that wait for a place.
TERM_S: Final = 60.0


class Serving:
    """Serves one endpoint under its lease.

    Args:
        lease_s: how long the lease lasts without a sign of life.
        rand: numbers in [0, 1), to spread retries.
    """

    def __init__(self, desk: Desk, lease: Lease, lease_s: float, rand: Callable[[], float]) -> None:
        self._desk = desk
        self._lease = lease
        self._lease_s = lease_s
        self._rand = rand
        self._under_way: set[str] = set()
        self._ended = anyio.Event()

    async def run(self, stop: Stop) -> None:
        """Make attempts until none is due, the term is over or a stop is asked for."""
        async with anyio.create_task_group() as beating:
            beating.start_soon(self._beat, beating)
            try:
                async with anyio.create_task_group() as attempts:
                    await self._loop(attempts, stop)
                await self._desk.db.write(lambda tx: self._desk.release(tx, self._lease))
            except* LostLease:
                log.info("webhook_lease_lost", endpoint=self._lease.key)
            beating.cancel_scope.cancel()

    async def _loop(self, attempts: TaskGroup, stop: Stop) -> None:
        until_s = self._desk.clock.monotonic() + TERM_S
        while not stop.requested and self._desk.clock.monotonic() < until_s:
            self._ended = anyio.Event()
            begun = await self._begin() if len(self._under_way) < AT_ONCE else None
            if begun is not None:
                self._under_way.add(begun[0].event_id)
                attempts.start_soon(self._attempt, *begun)
            elif self._under_way:
                with anyio.move_on_after(LOOK_S):
                    await self._ended.wait()
            else:
                return

    async def _begin(self) -> tuple[Attempt, Message] | None:
        key, apart = self._lease.key, frozenset(self._under_way)
        if not await self._desk.db.read(lambda tx: self._desk.is_due(tx, key, apart)):
            return None
        # Transactions run to their end in a cancelled task as well: an attempt that is broken off
        # would be begun again here, and again, until it had been made too often.
        await checkpoint_if_cancelled()
        return await self._desk.db.write(lambda tx: self._desk.begin(tx, self._lease, apart))

    async def _attempt(self, attempt: Attempt, message: Message) -> None:
        try:
            result = await self._desk.post.send(message)
            # What came of it must be kept, or the endpoint hears of it again.
            with anyio.CancelScope(shield=True):
                await self._desk.db.write(
                    lambda tx: self._desk.settle(tx, attempt, result, self._rand)
                )
        finally:
            self._under_way.discard(attempt.event_id)
            self._ended.set()

    async def _beat(self, group: TaskGroup) -> None:
        while True:
            await anyio.sleep(self._lease_s / 3)
            expires_us = self._desk.now_us() + round(self._lease_s * MICROS)
            extend = partial(beat, lease=self._lease, expires_us=expires_us)
            try:
                await self._desk.db.write(extend)
            except LostLease:
                group.cancel_scope.cancel()
            except Unavailable as error:
                log.warning("webhook_beat_failed", endpoint=self._lease.key, error=repr(error))

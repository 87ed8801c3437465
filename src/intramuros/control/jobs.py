"""Periodic work: turns and work items whose holders are gone, and sessions that sleep."""

from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
from sqlalchemy import select

from intramuros.control.session.phase import Status
from intramuros.control.session.state import load
from intramuros.control.session.work import WorkQueue
from intramuros.control.store import leases
from intramuros.control.store import work as rows
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import TURN_TOPIC, Hub
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import DomainError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.work import Item

log = logger("jobs")

# How late a lapsed lease may be noticed, in seconds.
PERIOD_S: Final = 2.0
# A session that sleeps this long lets go of its worker, in seconds.
DORMANCY_S: Final = 300.0


class Reaper:
    """Gives back what dead holders held.

    Args:
        dormancy_s: a worker is asked to let go of a session that is idle, has no open calls and
            has had no event for this long (AMB 14); 0 never asks.
        rand: numbers in [0, 1), to spread replicas.
    """

    def __init__(
        self,
        db: Database,
        hub: Hub,
        clock: Clock,
        work: WorkQueue,
        *,
        dormancy_s: float = DORMANCY_S,
        rand: Callable[[], float],
    ) -> None:
        self._db = db
        self._hub = hub
        self._clock = clock
        self._work = work
        self._dormancy_us = int(dormancy_s * 1_000_000)
        self._rand = rand

    async def run(self, stop: Stop) -> None:
        """Look every :data:`PERIOD_S` seconds until asked to stop."""
        while not stop.requested:
            try:
                await self.reap_once()
            except DomainError as error:
                log.warning("reap_failed", error=repr(error))
            with anyio.move_on_after(PERIOD_S * (0.75 + self._rand() / 2)):
                await stop.wait()

    async def reap_once(self) -> None:
        """Give back what is due now; writes only if there is something."""
        now_us = to_micros(self._clock.now())
        expired, lapsed, asleep = await self._db.read(lambda tx: self._due(tx, now_us))
        if expired:
            await self._db.write(self._reap_turns)
        if lapsed:
            for item in await self._db.write(self._work.reap):
                log.info("work_lapsed", work_id=item.id, state=item.state.value)
        for item in asleep:
            await self._db.write(partial(self._work.sleep, item=item))
            log.info("session_sleeps", session_id=item.session_id, work_id=item.id)

    def _due(self, tx: Tx, now_us: int) -> tuple[bool, bool, list[Item]]:
        expired = leases.has_expired(tx, leases.TURNS, now_us)
        lapsed = bool(rows.lapsed(tx, now_us))
        if self._dormancy_us <= 0:
            return expired, lapsed, []
        before_us = now_us - self._dormancy_us
        asleep = [item for item in rows.held(tx) if _sleeps(tx, item, before_us)]
        return expired, lapsed, asleep

    def _reap_turns(self, tx: Tx) -> None:
        keys = leases.reap(tx, leases.TURNS, to_micros(self._clock.now()))
        for key in keys:
            log.info("turn_expired", session_id=key)
        if keys:
            tx.after_commit(lambda: self._hub.hint(TURN_TOPIC))


def _sleeps(tx: Tx, item: Item, before_us: int) -> bool:
    if item.acknowledged_us is None or item.acknowledged_us > before_us:
        return False
    row = tx.execute(
        select(sessions.c.status, sessions.c.updated_us, sessions.c.state).where(
            sessions.c.id == item.session_id
        )
    ).first()
    return (
        row is not None
        and row.status == Status.IDLE
        and row.updated_us <= before_us
        and not load(row.state).open_calls
    )

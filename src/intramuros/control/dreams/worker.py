"""Claims dreams that are due and does what they do next. Any process may run one.

Each act takes one transaction, under the lease of the dream: the look at what surrounds it, the
decision, the act, and the end of the claim.
"""

from dataclasses import dataclass, replace
from typing import Final

import anyio

from intramuros.control.dreams import rows
from intramuros.control.dreams.acts import Acts
from intramuros.control.dreams.closing import Closing
from intramuros.control.dreams.plan import Act, Close, Copy, Done, Fail, Start
from intramuros.control.store import leases
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.store.notify import DREAM_TOPIC
from intramuros.kernel.errors import DomainError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("dreams")

_MICROS: Final = 1_000_000
# A claim lasts this long; an act takes far less.
_LEASE_US: Final = 120 * _MICROS
# How often a dream looks around by itself while its session works, in seconds.
_LOOK_US: Final = 2 * _MICROS
# A dream that failed for a reason of ours comes back after this long, so that it cannot spin.
_FAILED_US: Final = 30 * _MICROS
_POLL_S: Final = 1.0
_LANES: Final = 2


@dataclass(frozen=True)
class Worker:
    """Claims dreams that are due and does one act of each.

    Args:
        holder: this process's name in the lease table, for people.
    """

    db: Database
    acts: Acts
    closing: Closing
    holder: str

    async def run(self, stop: Stop) -> None:
        """Work until a stop is asked for; an act that has begun is finished."""
        async with anyio.create_task_group() as lanes:
            for _ in range(_LANES):
                lanes.start_soon(self._lane, stop)

    async def _lane(self, stop: Stop) -> None:
        with self.acts.stage.hub.subscribe(DREAM_TOPIC, whispers=False, news=False) as hints:
            while not stop.requested:
                hints.clear()
                try:
                    if await self.work_once():
                        continue
                except DomainError as error:
                    log.warning("dream_not_claimed", error=repr(error))
                async with anyio.create_task_group() as group:

                    async def cut() -> None:
                        await stop.wait()
                        group.cancel_scope.cancel()

                    group.start_soon(cut)
                    await hints.wait(_POLL_S)
                    group.cancel_scope.cancel()

    async def work_once(self) -> bool:
        """Do one act of the dream that is due longest; False if none is due."""
        now_us = self.acts.stage.now_us()
        due = await self.db.read(lambda tx: self._due(tx, now_us))
        if not due:
            return False

        def claim(tx: Tx) -> Lease | None:
            leases.reap(tx, leases.DREAMS, now_us)
            return leases.claim(tx, leases.DREAMS, self.holder, now_us, _LEASE_US)

        lease = await self.db.write(claim)
        if lease is None:
            return False
        try:
            await self._act(lease)
        except LostLease:
            log.info("dream_lease_lost", session=lease.key)
        except Exception as error:
            log.error("dream_act_failed", session=lease.key, error=repr(error), exc_info=error)
            await self._put_off(lease)
        return True

    def _due(self, tx: Tx, now_us: int) -> bool:
        ready_us = leases.next_ready_us(tx, leases.DREAMS)
        if ready_us is not None and ready_us <= now_us:
            return True
        return leases.has_expired(tx, leases.DREAMS, now_us)

    async def _act(self, lease: Lease) -> None:
        act = await self.db.write(lambda tx: self._decide_and_do(tx, lease))
        if isinstance(act, Close):
            await self.closing.close(lease, act)

    def _decide_and_do(self, tx: Tx, lease: Lease) -> Act | None:
        """Do the next act, and give the claim back unless the act needs more than this."""
        leases.check(tx, leases.DREAMS, lease.key, lease.epoch)
        dream = rows.of_session(tx, lease.key)
        act = None if dream is None else self.acts.next(tx, dream)
        if dream is None or act is None or isinstance(act, Done):
            leases.drop(tx, leases.DREAMS, lease.key)
        elif not isinstance(act, Close):
            self.acts.do(tx, dream, act)
            now_us = self.acts.stage.now_us()
            pause_us = 0 if isinstance(act, Start | Copy | Fail) else _LOOK_US
            leases.postpone(tx, lease, now_us, now_us + pause_us)
        return act

    async def _put_off(self, lease: Lease) -> None:
        """Count the stumble, and come back later."""
        now_us = self.acts.stage.now_us()

        def count(tx: Tx) -> None:
            leases.postpone(tx, lease, now_us, now_us + _FAILED_US)
            if (dream := rows.of_session(tx, lease.key)) is not None:
                stumbles = dream.progress.stumbles + 1
                rows.change(tx, dream, progress=replace(dream.progress, stumbles=stumbles))

        try:
            await self.db.write(count)
        except (LostLease, DomainError) as error:
            log.info("dream_not_put_off", session=lease.key, error=repr(error))

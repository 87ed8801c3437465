"""Keeps the SSH certificates that are remembered true and few, again and again.

What takes a certificate's ground away revokes it in the same transaction; what a release to come
forgets to, this finds. Every server may do it; doing it twice is the same as doing it once.
"""

from collections.abc import Callable
from typing import Final

import anyio

from intramuros.control.identity import ssh_certificates
from intramuros.control.store.db import Database
from intramuros.kernel.errors import DomainError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros

log = logger("ssh")

# How late, in seconds, something may be noticed; it looks at every certificate of a day.
PERIOD_S: Final = 60.0


class VisitUpkeep:
    """Looks at all of them.

    Args:
        rand: numbers in [0, 1), to spread replicas.
    """

    def __init__(self, db: Database, clock: Clock, rand: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock
        self._rand = rand

    async def run(self, stop: Stop) -> None:
        """Look every :data:`PERIOD_S` seconds until asked to stop."""
        while not stop.requested:
            try:
                await self.look()
            except DomainError as error:
                log.warning("ssh_upkeep_failed", error=repr(error))
            with anyio.move_on_after(PERIOD_S * (0.75 + self._rand() / 2)):
                await stop.wait()

    async def look(self) -> None:
        """Forget and revoke what is due now; writes only if there is something."""
        now_us = to_micros(self._clock.now())
        if not await self._db.read(lambda tx: ssh_certificates.needs_care(tx, now_us)):
            return
        forgotten, revoked = await self._db.write(lambda tx: ssh_certificates.care(tx, self._clock))
        log.info("ssh_certificates_cared_for", forgotten=forgotten, revoked=revoked)

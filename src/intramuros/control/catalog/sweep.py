"""Keeps the blob store in step with the database: expired files, and blobs that nobody holds.

An upload that never became a file, a deletion whose bytes stayed: whatever cut the work short, the
bytes are found here. Every server may sweep; doing it twice is the same as doing it once.
"""

from datetime import timedelta
from functools import partial
from typing import Final

import anyio

from intramuros.control.catalog import files
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database
from intramuros.kernel.errors import DomainError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros

log = logger("sweep")

# How late the bytes of an expired file may go, in seconds; they cannot be read in between.
PERIOD_S: Final = 60.0
# A blob may wait this long for the row that refers to it: longer than any upload takes.
ORPHAN_AGE: Final = timedelta(hours=24)
_ORPHAN_PERIOD_S: Final = 3600.0
# The metadata of an expired file stays this long (contract-2 R179).
METADATA_AGE: Final = timedelta(days=30)


class Sweeper:
    """Removes what has expired and what nobody holds."""

    def __init__(self, db: Database, blobs: Blobs, clock: Clock, ids: IdFactory) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._ids = ids
        self._orphans_at_s = 0.0

    async def run(self, stop: Stop) -> None:
        """Sweep every minute until asked to stop; look for orphans every hour."""
        self._orphans_at_s = self._clock.monotonic()
        while not stop.requested:
            try:
                await self.expire()
                if self._clock.monotonic() >= self._orphans_at_s:
                    self._orphans_at_s = self._clock.monotonic() + _ORPHAN_PERIOD_S
                    await self.remove_orphans()
            except DomainError as error:
                log.warning("sweep_failed", error=repr(error))
            with anyio.move_on_after(PERIOD_S):
                await stop.wait()

    async def expire(self) -> None:
        """Remove the bytes of expired files, and the metadata of long expired ones."""
        now_us = to_micros(self._clock.now())
        before_us = to_micros(self._clock.now() - METADATA_AGE)
        due, old = await self._db.read(
            lambda tx: (holdings.any_expired(tx, now_us), holdings.expired_before(tx, before_us))
        )
        if due:
            keys = await self._db.write(lambda tx: holdings.expire(tx, now_us))
            await self._blobs.remove(keys)
            log.info("files_expired", count=len(keys))
        for workspace_id, file_id in old:
            actor = Actor(self._clock, self._ids, workspace_id, "expiry")
            await self._db.write(partial(files.remove, actor=actor, file_id=file_id))

    async def remove_orphans(self) -> int:
        """Remove blobs older than a day that nobody holds; returns how many."""
        before = self._clock.now() - ORPHAN_AGE
        removed = await self._blobs.remove_partial(before)
        async for keys in self._blobs.older_than(before):
            orphans = await self._db.read(partial(holdings.unknown, keys=keys))
            await self._blobs.remove(orphans)
            removed += len(orphans)
        if removed:
            log.info("orphans_removed", count=removed)
        return removed

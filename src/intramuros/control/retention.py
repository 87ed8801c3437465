"""What goes with time: sessions that are over, their logs, and the partitions those lay in.

Every server does this, and none leads. A session goes in one transaction that looks at it again; a
row of a log goes only while its session is remembered as deleted; a partition is changed in one
transaction beside which nobody writes. Killed anywhere, the next look finds what is left to do.
"""

import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final

import anyio
from sqlalchemy.exc import DBAPIError

from intramuros.control.identity import audit
from intramuros.control.session import removal
from intramuros.control.session.removal import Removal
from intramuros.control.store import partitions, removed_logs
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.partitions import Partition
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, rfc3339, to_micros

log = logger("retention")

# How long after its time something may go, in seconds.
PERIOD_S: Final = 60.0
# Sessions of one look, and how many of them share a commit. Where there are more, the next look
# follows at once; others write in between.
SESSIONS: Final = 400
TOGETHER: Final = 8
# Transactions that remove rows of logs, of one look.
CLEARED: Final = 200
MAX_DAYS: Final = 36_500.0
# A cut that was begun and left is taken up again only if it lies this far ahead.
_LEFT: Final = timedelta(days=1)


class Retention:
    """Removes what is over, and lays out the log ahead of time.

    Args:
        days: that a session is kept after its end; 0 for good.
        rand: numbers in [0, 1), to spread replicas.

    Raises:
        OperatorError: no such number of days.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        sessions: Removal,
        *,
        days: float,
        rand: Callable[[], float],
    ) -> None:
        if not (math.isfinite(days) and 0 <= days <= MAX_DAYS):
            raise OperatorError(
                f"sessions cannot be kept for {days:g} days",
                f"choose 0 to {MAX_DAYS:.0f} for session_retention_days",
            )
        self._db = db
        self._clock = clock
        self._sessions = sessions
        self._kept = timedelta(days=days)
        self._rand = rand
        self._divided = db.engine.dialect.name != "sqlite"

    async def run(self, stop: Stop) -> None:
        """Look every :data:`PERIOD_S` seconds until asked to stop."""
        while not stop.requested:
            more = False
            try:
                more = await self.look_once(stop)
            except (DomainError, DBAPIError) as error:
                # Another server may have been faster, or somebody reads the log for long.
                log.warning("look_failed", error=repr(error))
            if not more:
                with anyio.move_on_after(PERIOD_S * (0.75 + self._rand() / 2)):
                    await stop.wait()

    async def look_once(self, stop: Stop | None = None) -> bool:
        """Do what is due, up to a bound; tell whether there is more."""
        stop = stop or Stop()
        if self._divided:
            await self.lay_out(stop)
        if self._kept and await self._expire(stop):
            return True
        if not self._divided:
            return False
        await self._drop_free()
        return await self._clear()

    async def lay_out(self, stop: Stop) -> None:
        """Cut the last partition if the month behind it is near.

        An empty one is cut in one transaction. Of one with rows, as the whole log of a database
        that was there before partitions were, it is proven first that none lies behind the cut:
        that takes as long as reading it, while everybody reads and writes.
        """
        due = await self._db.read(self._due)
        if due is None:
            return
        last, at = due
        if last.row_bytes and not (last.proven and last.cut == at):
            await self._db.write(partial(self._begin_cut, name=last.name, at=at))
            if not await self._prove(last, stop):
                return
        if await self._db.write(partial(self._finish_cut, name=last.name, at=at)):
            log.info("log_cut", partition=last.name, at=at)

    async def _prove(self, last: Partition, stop: Stop) -> bool:
        """Prove a cut on a thread of its own; tell whether that came to its end."""
        proof = partitions.Proof(self._db.engine, last)

        async def watch() -> None:
            await stop.wait()
            proof.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            done = await anyio.to_thread.run_sync(proof.run)
            group.cancel_scope.cancel()
        return done

    def _due(self, tx: Tx) -> tuple[Partition, str] | None:
        now, parts = self._clock.now(), partitions.found(tx.connection)
        if not partitions.whole(parts):
            log.error("log_has_holes", partitions=[part.name for part in parts])
            return None
        last = parts[-1]
        left = partitions.time_of(last.cut or "")
        if last.cut is not None and left is not None and left > now + _LEFT:
            return last, last.cut
        at = partitions.next_cut(tx.connection, last, now)
        return None if at is None else (last, at)

    def _begin_cut(self, tx: Tx, name: str, at: str) -> None:
        last = _last(tx)
        if last is not None and last.name == name and last.cut != at:
            with partitions.briefly(tx.connection):
                partitions.begin_cut(tx.connection, last, at)

    def _finish_cut(self, tx: Tx, name: str, at: str) -> bool:
        last = _last(tx)
        if last is None or last.name != name or partitions.watched(tx.connection):
            return False
        if last.row_bytes and not (last.proven and last.cut == at):
            return False
        with partitions.briefly(tx.connection):
            partitions.finish_cut(tx.connection, last, at)
        return True

    async def _expire(self, stop: Stop) -> bool:
        """Delete sessions that are over, in half of the time; tell whether there may be more."""
        before_us = to_micros(self._clock.now() - self._kept)
        ids = await self._db.read(partial(removal.over, before_us=before_us, limit=SESSIONS))
        gone = 0

        async def expire(session_id: str) -> None:
            nonlocal gone
            act = partial(self._sessions.expire, session_id=session_id, before_us=before_us)
            try:
                gone += await self._db.write(act)
            except (DomainError, DBAPIError) as error:
                log.warning("session_stays", session_id=session_id, error=repr(error))

        for start in range(0, len(ids), TOGETHER):
            if stop.requested:
                break
            began_s = self._clock.monotonic()
            async with anyio.create_task_group() as group:
                for session_id in ids[start : start + TOGETHER]:
                    group.start_soon(expire, session_id)
            # These keep all other writers out; the rest of the time is theirs.
            await anyio.sleep(self._clock.monotonic() - began_s)
        if gone:
            log.info("sessions_expired", count=gone)
        return gone > 0 and len(ids) == SESSIONS

    async def _drop_free(self) -> None:
        for name in await self._db.read(self._free):
            dropped = await self._db.write(partial(self._drop, name=name))
            if dropped is not None:
                log.info("partition_dropped", partition=name, bytes=dropped.all_bytes)

    def _free(self, tx: Tx) -> list[str]:
        now, here = self._clock.now(), tx.connection
        return [
            part.name
            for part in partitions.found(here)
            if part.row_bytes and partitions.is_free(here, part, now)
        ]

    def _drop(self, tx: Tx, name: str) -> Partition | None:
        now, here = self._clock.now(), tx.connection
        parts = partitions.found(here)
        part = next((one for one in parts if one.name == name and one.row_bytes), None)
        if part is None or not partitions.whole(parts) or partitions.watched(here):
            return None
        if not partitions.is_free(here, part, now):
            return None
        begins, ends = partitions.time_of(part.lower), partitions.time_of(part.upper or "")
        fields = {
            "by": removal.BY,
            "partition": name,
            "from": None if begins is None else rfc3339(begins),
            "to": None if ends is None else rfc3339(ends),
            "sessions": partitions.removed_in(here, part),
            "bytes": part.all_bytes,
        }
        audit.record(tx, self._clock, "log.drop", workspace_id=None, fields=fields)
        with partitions.briefly(here):
            partitions.drop(here, parts, part, now)
        return part

    async def _clear(self) -> bool:
        """Remove rows of deleted sessions' logs, but not of those that go with their partition."""
        left = CLEARED
        for session_id in await self._db.read(self._to_clear):
            while await self._db.write(
                partial(removed_logs.clear, session_id=session_id), [session_id]
            ):
                left -= 1
                if not left:
                    return True
        return False

    def _to_clear(self, tx: Tx) -> list[str]:
        now, here = self._clock.now(), tx.connection
        leaving = [
            (part.lower, part.upper)
            for part in partitions.found(here)
            if part.upper is not None and part.ended(now) and partitions.is_bare(here, part)
        ]
        return removed_logs.waiting(tx, CLEARED, leaving)


def _last(tx: Tx) -> Partition | None:
    parts = partitions.found(tx.connection)
    return parts[-1] if partitions.whole(parts) else None

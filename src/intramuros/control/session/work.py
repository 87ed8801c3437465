"""The work queues of environments: who serves a session's sandbox calls, and since when.

The moves are protocol/work.py's; here they meet the rows, the sessions tokens and the waiting
pollers. Whoever changes an item does it in one transaction with what follows from it.
"""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from intramuros.control.identity import audit, credentials
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store import work as rows
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import Hub, Subscription, work_topic
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, from_micros, rfc3339, to_micros
from intramuros.protocol import work
from intramuros.protocol.work import LIVE, Beat, Item, WorkState

# A held poll looks at the table by itself this often, should a hint be lost.
SAFETY_S: Final = 5.0
# What a worker may still send once its item is over (AMB 42).
GRACE_US: Final = 60 * 1_000_000
# A worker counts as polling for this long (contract 9.38), and is noted at most this often.
POLLING_US: Final = 30 * 1_000_000
NOTE_EVERY_S: Final = 10.0
_MAX_NOTED: Final = 10_000
# No environment's id: who serves all cloud environments waits for this.
POOL: Final = "pool"


@dataclass(frozen=True)
class Poll:
    """A worker's request for work.

    Args:
        environment_id: whose queue; None for those of all cloud environments.
        wait_s: how long an empty poll is held open, in seconds.
        reclaim_us: contract 9.14, in microseconds.
        gone: tells whether the worker has hung up, so that nothing is handed to nobody.
    """

    environment_id: str | None
    worker_id: str | None
    wait_s: float
    reclaim_us: int
    gone: Callable[[], Awaitable[bool]]


class WorkQueue:
    """The queues of all environments."""

    def __init__(self, db: Database, hub: Hub, clock: Clock, ids: IdFactory) -> None:
        self._db = db
        self._hub = hub
        self._clock = clock
        self._ids = ids
        self._noted: dict[tuple[str, str], float] = {}

    def ensure(self, tx: Tx, environment_id: str, session_id: str) -> None:
        """Make sure that a live item serves the session (contract 9.2, AMB 13)."""
        for item in rows.of_session(tx, environment_id, session_id):
            if item.state in LIVE:
                return
            revived = work.revive(item)
            if revived is not None:
                rows.save(tx, revived)
                return
        rows.add(tx, Item(self._ids.new("work"), environment_id, session_id, self._now_us()))
        self._hint(tx, environment_id)

    def release(self, tx: Tx, environment_id: str, session_id: str, *, force: bool) -> None:
        """Stop whatever serves a session that has ended; ``force`` when it is deleted."""
        now_us = self._now_us()
        for item in rows.of_session(tx, environment_id, session_id):
            self._save(tx, work.stop(item, now_us, force=force))

    def sleep(self, tx: Tx, item: Item) -> None:
        """Ask the holder to let go of a session that sleeps (AMB 14)."""
        current = rows.get(tx, item.environment_id, item.id, hold=True)
        if current is not None and current.state in LIVE - {WorkState.QUEUED}:
            rows.save(tx, work.stop(current, self._now_us(), force=False, dormant=True))

    def reap(self, tx: Tx) -> list[Item]:
        """Requeue or stop every item whose lease has run out and return them as they are now."""
        now_us = self._now_us()
        reaped = []
        for item in rows.lapsed(tx, now_us):
            lapsed = work.lapse(item, now_us)
            if lapsed.state is WorkState.QUEUED:
                rows.requeue(tx, lapsed, now_us)
                credentials.revoke_work(tx, item.id, now_us + GRACE_US)
                self._hint(tx, item.environment_id)
            else:
                self._save(tx, lapsed)
            reaped.append(lapsed)
        return reaped

    async def poll(self, principal: Principal, poll: Poll) -> tuple[Item, str] | None:
        """Hand out the next item and the secret that goes with it (contract 2.5), or None.

        Waits for at most ``poll.wait_s`` seconds.
        """
        await self._note(poll)
        end_s = self._clock.monotonic() + poll.wait_s
        with self._hub.subscribe(work_topic(poll.environment_id or POOL)) as subscription:
            while True:
                subscription.clear()
                if await self._has_work(poll):
                    # Asked also by the first look: a busy server may come to it late.
                    if await poll.gone():
                        return None
                    # No key: what others are claiming is passed over.
                    found = await self._db.write(lambda tx: self._claim(tx, principal, poll), ())
                    if found is not None:
                        return found
                if subscription.closed or not await self._wait(subscription, end_s):
                    return None
                if await poll.gone():
                    return None

    async def _wait(self, subscription: Subscription, end_s: float) -> bool:
        left_s = end_s - self._clock.monotonic()
        if left_s <= 0:
            return False
        await subscription.wait(min(left_s, SAFETY_S))
        return True

    async def _has_work(self, poll: Poll) -> bool:
        now_us = self._now_us()

        def waits(tx: Tx) -> bool:
            if poll.environment_id is None:
                return rows.has_hosted(tx, now_us, poll.reclaim_us)
            return rows.has_claimable(tx, poll.environment_id, now_us, poll.reclaim_us)

        return await self._db.read(waits)

    def _claim(self, tx: Tx, principal: Principal, poll: Poll) -> tuple[Item, str] | None:
        now_us = self._now_us()
        holder = poll.worker_id or principal.credential_id
        found = _next(tx, principal, poll, holder, now_us)
        if found is None:
            return None
        item, workspace_id = found
        item = work.hand_out(item, now_us)
        rows.save(tx, item)
        credential_id, token = credentials.mint(
            tx,
            self._ids,
            self._clock,
            kind=CredentialKind.SESSIONS_TOKEN,
            workspace_id=workspace_id,
            name=item.id,
            environment_id=item.environment_id,
            session_id=item.session_id,
            work_id=item.id,
        )
        fields: dict[str, object] = {"holder": holder, "token": credential_id}
        self._audit(tx, "work.claim", replace(principal, workspace_id=workspace_id), item, fields)
        return item, _secret(token)

    def acknowledge(self, tx: Tx, principal: Principal, environment_id: str, work_id: str) -> Item:
        """Take an item off the queue (contract 9.13).

        Raises:
            NotFound: no such item in this environment.
            Conflict: somebody else was first.
        """
        item = work.acknowledge(self._hold(tx, environment_id, work_id), self._now_us())
        rows.save(tx, item)
        self._audit(tx, "work.acknowledge", principal, item, {})
        return item

    def beat(
        self,
        tx: Tx,
        environment_id: str,
        work_id: str,
        *,
        expected: str | None,
        desired_ttl_s: int | None,
    ) -> tuple[Item, bool]:
        """Record a heartbeat and return the item and whether its lease was extended.

        Raises:
            NotFound: no such item in this environment.
            PreconditionFailed: contract 9.22.
        """
        now_us = self._now_us()
        beat = Beat(now_us, rfc3339(from_micros(now_us)), expected, desired_ttl_s)
        item, extended = work.heartbeat(self._hold(tx, environment_id, work_id), beat)
        rows.save(tx, item)
        return item, extended

    def stop(
        self, tx: Tx, principal: Principal, environment_id: str, work_id: str, *, force: bool
    ) -> tuple[Item, bool]:
        """Stop an item; return it, and whether its own holder gave it up unasked.

        Raises:
            NotFound: no such item in this environment.
            Conflict: it is stopped already.
        """
        before = self._hold(tx, environment_id, work_id)
        item = work.stop(before, self._now_us(), force=force)
        self._save(tx, item)
        self._audit(tx, "work.stop", principal, item, {"force": force})
        unasked = force and before.state in (WorkState.STARTING, WorkState.ACTIVE)
        return item, unasked and not principal.scoped

    def update(
        self, tx: Tx, environment_id: str, work_id: str, patch: dict[str, str | None]
    ) -> Item:
        """Change an item's metadata.

        Raises:
            NotFound: no such item in this environment.
            InvalidRequest: contract 3.10.
        """
        item = work.patch_metadata(self._hold(tx, environment_id, work_id), patch)
        rows.save(tx, item)
        return item

    def get(self, tx: Tx, environment_id: str, work_id: str) -> Item:
        """Return an item.

        Raises:
            NotFound: no such item in this environment.
        """
        return _found(rows.get(tx, environment_id, work_id), environment_id, work_id)

    def _hold(self, tx: Tx, environment_id: str, work_id: str) -> Item:
        item = rows.get(tx, environment_id, work_id, hold=True)
        return _found(item, environment_id, work_id)

    async def _note(self, poll: Poll) -> None:
        if poll.worker_id is None or poll.environment_id is None:
            return
        key, now_s = (poll.environment_id, poll.worker_id), self._clock.monotonic()
        if now_s - self._noted.get(key, float("-inf")) < NOTE_EVERY_S:
            return
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted[key] = now_s
        now_us = self._now_us()
        await self._db.write(lambda tx: rows.note_poller(tx, *key, now_us))

    def _save(self, tx: Tx, item: Item) -> None:
        rows.save(tx, item)
        if item.state is WorkState.STOPPED:
            credentials.revoke_work(tx, item.id, self._now_us() + GRACE_US)
            self._hint(tx, item.environment_id)  # a successor may have waited for this

    def _hint(self, tx: Tx, environment_id: str) -> None:
        def hint() -> None:
            self._hub.hint(work_topic(environment_id))
            self._hub.hint(work_topic(POOL))

        tx.after_commit(hint)

    def _audit(
        self, tx: Tx, kind: str, principal: Principal, item: Item, fields: dict[str, object]
    ) -> None:
        audit.record(
            tx,
            self._clock,
            kind,
            workspace_id=principal.workspace_id,
            session_id=item.session_id,
            fields={"work_id": item.id, "credential": principal.credential_id, **fields},
        )

    def _now_us(self) -> int:
        return to_micros(self._clock.now())


def _next(
    tx: Tx, principal: Principal, poll: Poll, holder: str, now_us: int
) -> tuple[Item, str] | None:
    """Return the item that a poll gets, and the workspace it is for."""
    if poll.environment_id is None:
        return rows.claim_hosted(tx, holder, now_us, poll.reclaim_us)
    found = rows.claim(tx, poll.environment_id, holder, now_us, poll.reclaim_us)
    return None if found is None else (found, principal.workspace_id)


def _found(item: Item | None, environment_id: str, work_id: str) -> Item:
    if item is None:
        raise NotFound(f"no work item {work_id!r} in environment {environment_id!r}")
    return item


def _secret(token: str) -> str:
    """Return the payload that the worker unpacks: URL-safe base64 of JSON (contract 2.5)."""
    text = json.dumps({"sessions_token": token}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

"""A session held by a turn lease: its view, and the only way the loop changes it.

The log is loaded once when the lease is claimed. Appending compares: rows decided on a view are
written only if nothing has been appended behind that view, else the view catches up and the loop
decides again. So every decision was made on exactly the log it follows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
from sqlalchemy import bindparam, select

from intramuros.control.identity import audit
from intramuros.control.session import ledger
from intramuros.control.session.journal import Journal
from intramuros.control.session.state import initial
from intramuros.control.session.turn import Wait
from intramuros.control.session.view import Subject, View
from intramuros.control.store import events, leases, session_skills
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import NotFound
from intramuros.kernel.timing import Clock, to_micros

# Built once: it runs in every turn.
_SUBJECT: Final = select(
    sessions.c.workspace_id,
    sessions.c.agent,
    sessions.c.resources,
    sessions.c.state,
    sessions.c.last_seq,
).where(sessions.c.id == bindparam("session_id"))


# Sees what the loop has written, in the same transaction.
Watch = Callable[[Tx, View, Sequence[Record]], None]


@dataclass(frozen=True)
class Desk:
    """What holding a session needs of the process.

    Args:
        served: the web tools that this server runs.
    """

    db: Database
    journal: Journal
    clock: Clock
    watches: Sequence[Watch] = ()
    served: frozenset[str] = frozenset()

    def now_us(self) -> int:
        """Return the time in microseconds since the epoch."""
        return to_micros(self.clock.now())

    def follow(self, tx: Tx, view: View, written: Sequence[Record]) -> None:
        """Do what follows from rows that the loop has written, in the same transaction.

        Each call outside is recorded before it is made, what came of it, and each call denied.

        Args:
            view: through those rows.
        """
        for record in written:
            act = ledger.entry(view, record)
            if act is not None:
                audit.record(
                    tx,
                    self.clock,
                    act.kind,
                    workspace_id=view.subject.workspace_id,
                    session_id=view.subject.session_id,
                    fields=act.fields,
                )
        for watch in self.watches:
            watch(tx, view, written)

    def release(self, tx: Tx, lease: Lease, until_us: int | None) -> None:
        """Give a session back: done, or to be claimed again at a time.

        Raises:
            LostLease: it is no longer ours.
        """
        now_us = self.now_us()
        if until_us is None:
            leases.finish(tx, lease, now_us)
        else:
            leases.postpone(tx, lease, now_us, until_us)


class Hold:
    """One session under one lease."""

    def __init__(self, desk: Desk, lease: Lease, view: View) -> None:
        self._desk = desk
        self.lease = lease
        self.view = view
        self._turns = anyio.Lock()  # one look at the log at a time

    async def append(self, drafts: Sequence[Draft], release: Wait | None = None) -> bool:
        """Append rows, and give the session back with them when ``release`` says until when.

        Returns:
            False if the log has grown meanwhile: nothing was written, and the view has caught up.

        Raises:
            LostLease: somebody else may hold the session; nothing was written.
        """
        async with self._turns:
            return await self._append(drafts, release)

    async def _append(self, drafts: Sequence[Draft], release: Wait | None) -> bool:
        if not drafts and release is None:
            return True
        before = self.view

        def work(tx: Tx) -> tuple[bool, list[Record]]:
            session_id, after = self.lease.key, before.state.last_seq
            try:
                held = self._desk.journal.held(tx, session_id, self.lease.epoch)
            except NotFound as error:
                raise LostLease(f"session {session_id} is gone") from error
            if held.end.seq != after:
                return False, events.read(tx, session_id, after_seq=after)
            written: list[Record] = []
            if drafts:
                written = self._desk.journal.record(tx, held, drafts, lambda: let_go(tx))
                self._desk.follow(tx, before.extend(written), written)
            else:
                let_go(tx)
            return True, written

        def let_go(tx: Tx) -> None:
            if release is not None:
                self._desk.release(tx, self.lease, release.until_us)

        done, added = await self._desk.db.jot(work, (self.lease.key,))
        self.view = before.extend(added)
        return done

    async def refresh(self) -> None:
        """Catch up with the log."""
        async with self._turns:
            after = self.view.state.last_seq
            added = await self._desk.db.read(
                lambda tx: events.read(tx, self.lease.key, after_seq=after)
            )
            self.view = self.view.extend(added)

    async def beat(self, ttl_us: int) -> None:
        """Extend the lease.

        Raises:
            LostLease: it is no longer ours.
        """
        expires_us = self._desk.now_us() + ttl_us
        await self._desk.db.write(
            lambda tx: leases.beat(tx, self.lease, expires_us), (self.lease.key,)
        )

    async def give_back(self, at_us: int) -> None:
        """Give the session back in the middle of a turn, to be claimed again at a time.

        Raises:
            LostLease: it is no longer ours.
        """
        await self._desk.db.jot(
            lambda tx: self._desk.release(tx, self.lease, at_us), (self.lease.key,)
        )


def load_view(
    tx: Tx, session_id: str, known: View | None, served: frozenset[str] = frozenset()
) -> View:
    """Return a session as it is now.

    Args:
        known: what this process still knows of it; only newer rows are read.
        served: the web tools that this server runs.

    Raises:
        LostLease: the session was deleted.
    """
    row = tx.execute(_SUBJECT, {"session_id": session_id}).first()
    if row is None:
        raise LostLease(f"session {session_id} is gone")
    if known is not None:
        view = known.renewed(row.agent, row.resources)
    else:
        library = {s.skill_id: s.manifest for s in session_skills.of(tx, session_id)}
        subject = Subject(
            session_id,
            row.workspace_id,
            row.agent,
            row.resources,
            library=library,
            served=served,
        ).of(row.agent)
        empty = initial(
            row.state["thread_id"],
            self_hosted=row.state["self_hosted"],
            crewed="crew" in row.state,
        )
        view = View.empty(subject, empty)
    after = view.state.last_seq
    return view.extend(events.read(tx, session_id, after_seq=after, upto_seq=row.last_seq))

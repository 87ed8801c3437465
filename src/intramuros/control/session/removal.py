"""How a session goes: what is removed with it, and which sessions have been over for long enough.

On SQLite its log goes in the same transaction; on PostgreSQL a trigger remembers it, and it is
removed soon after (store/removed_logs.py). Nobody sees it in between, for its session is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, case, delete, func, or_, select

from intramuros.control.catalog import files
from intramuros.control.identity import audit, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.session import spills
from intramuros.control.session.journal import Journal
from intramuros.control.session.phase import Status
from intramuros.control.session.work import WorkQueue
from intramuros.control.store import leases
from intramuros.control.store.db import Tx
from intramuros.control.store.notify import Hub, session_topic
from intramuros.control.store.tables import sessions, workspaces
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock
from intramuros.protocol.resources.dreams import ENVIRONMENT_KIND

# Who acts, in the audit chain.
BY: Final = "retention"


class Removal:
    """Removes sessions."""

    def __init__(
        self, clock: Clock, ids: IdFactory, hub: Hub, journal: Journal, work: WorkQueue
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._hub = hub
        self._journal = journal
        self._work = work

    def remove(self, tx: Tx, actor: Actor, row: Row[Any]) -> None:
        """Remove a session that is held, and what is its own; that is audited already.

        Its work is stopped, its files go, whoever is inside by SSH is shown out, and streams end.
        """
        session_id = str(row.id)
        self._work.release(tx, row.environment_id, session_id, force=True)
        leases.drop(tx, leases.TURNS, session_id)
        files.remove_of_session(tx, actor, session_id)
        spills.release(tx, session_id)
        tx.execute(delete(sessions).where(sessions.c.id == session_id))
        ssh_certificates.reconsider(tx, self._clock, ssh_certificates.in_session(session_id))
        tx.after_commit(lambda: self._hub.hint(session_topic(session_id)))

    def expire(self, tx: Tx, session_id: str, before_us: int) -> bool:
        """Remove a session that ended before a time, as its client could (contract 10.23).

        Returns:
            whether it did; not if it is gone already, or something happened to it since.
        """
        try:
            row = self._journal.hold(tx, session_id).row
        except NotFound:
            return False
        if not _is_over(row, before_us):
            return False
        audit.record(
            tx,
            self._clock,
            "session.delete",
            workspace_id=row.workspace_id,
            session_id=session_id,
            fields={"by": BY, "events": row.last_seq},
        )
        self.remove(tx, Actor(self._clock, self._ids, row.workspace_id, BY), row)
        return True


def over(tx: Tx, before_us: int, limit: int) -> list[str]:
    """Return up to ``limit`` sessions that ended before a time, each workspace's oldest first.

    By the index of statuses: what ended before was made before, and few sessions that were made
    before ended later.
    """
    ids: list[str] = []
    everywhere = select(workspaces.c.id).order_by(workspaces.c.id)
    for workspace_id in tx.execute(everywhere).scalars().all():
        query = (
            select(sessions.c.id)
            .where(sessions.c.workspace_id == workspace_id, _over(before_us))
            .order_by(sessions.c.created_us, sessions.c.id)
            .limit(limit - len(ids))
        )
        ids += tx.execute(query).scalars()
        if len(ids) >= limit:
            break
    return ids


@dataclass(frozen=True)
class Share:
    """What a workspace has of sessions that ended before a time."""

    workspace_id: str
    sessions: int
    events: int


def shares(tx: Tx, before_us: int) -> Sequence[Share]:
    """Return what would go, by workspace; those of which nothing would are left out."""
    query = (
        select(sessions.c.workspace_id, func.count(), func.sum(sessions.c.last_seq))
        .where(_over(before_us))
        .group_by(sessions.c.workspace_id)
        .order_by(sessions.c.workspace_id)
    )
    return [Share(here, int(count), int(events)) for here, count, events in tx.execute(query)]


def between(tx: Tx, lower: str, upper: str | None, before_us: int) -> tuple[int, int]:
    """Return how many sessions there are in a range of ids, and how many of them would go."""
    within = [sessions.c.id >= lower, *([] if upper is None else [sessions.c.id < upper])]
    gone = func.coalesce(func.sum(case((_over(before_us), 1), else_=0)), 0)
    row = tx.execute(select(func.count(), gone).where(*within)).one()
    return int(row[0]), int(row[1])


def _over(before_us: int) -> ColumnElement[bool]:
    here = sessions.c
    return and_(
        here.status == Status.TERMINATED.value,
        here.created_us < before_us,
        here.updated_us < before_us,
        or_(here.archived_us.is_(None), here.archived_us < before_us),
        # A dream is its session's client until it has archived it.
        or_(here.environment_kind != ENVIRONMENT_KIND, here.archived_us.is_not(None)),
    )


def _is_over(row: Row[Any], before_us: int) -> bool:
    if row.status != Status.TERMINATED or (
        row.environment_kind == ENVIRONMENT_KIND and row.archived_us is None
    ):
        return False
    return bool(max(row.updated_us, row.archived_us or 0) < before_us)

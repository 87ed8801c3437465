"""What workers hold back, and what people decide about it.

Each function runs inside the caller's transaction. A question and its answer are audited with the
worker's keyed digest, as they are on the worker's side, so that the two records can be compared.
"""

from typing import Any, Final

from sqlalchemy import Row, func, insert, select, update

from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal
from intramuros.control.session.sessions import Sessions
from intramuros.control.store.db import Tx
from intramuros.control.store.release_tables import releases
from intramuros.kernel.errors import Conflict, NotFound
from intramuros.kernel.timing import Clock, from_micros, rfc3339, to_micros
from intramuros.protocol.resources.releases import ReleaseRequest, ReleaseVerdict

# Of one session, answered ones included; a worker asks about one result at a time.
MAX_KEPT: Final = 1_000
MAX_SHOWN: Final = 100

Shown = dict[str, Any]


class Releases:
    """Questions of workers, and answers of people."""

    def __init__(self, clock: Clock, sessions: Sessions) -> None:
        self._clock = clock
        self._sessions = sessions

    def ask(self, tx: Tx, principal: Principal, session_id: str, wanted: ReleaseRequest) -> Shown:
        """Keep a question; the same one again is the same.

        Raises:
            NotFound: no such session for this caller.
            Conflict: another question has its id, or the session has too many.
        """
        self._sessions.get(tx, principal, session_id)
        body = wanted.model_dump(mode="json", exclude={"id", "wait_s"})
        row = self._row(tx, session_id, wanted.id)
        if row is not None:
            if row.body != body:
                raise Conflict(f"{wanted.id!r} asks about something else already")
            return self._shown(row)
        count = select(func.count()).where(releases.c.session_id == session_id)
        if tx.execute(count).scalar_one() >= MAX_KEPT:
            raise Conflict(f"a session holds at most {MAX_KEPT} questions")
        now_us = to_micros(self._clock.now())
        tx.execute(
            insert(releases).values(
                session_id=session_id,
                id=wanted.id,
                body=body,
                created_us=now_us,
                expires_us=now_us + wanted.wait_s * 1_000_000,
            )
        )
        fields = {"id": wanted.id, "rules": body["rules"], "digest": wanted.digest}
        self._audit(tx, "release.ask", principal, session_id, fields)
        return self.get(tx, principal, session_id, wanted.id)

    def decide(
        self, tx: Tx, principal: Principal, session_id: str, id: str, verdict: ReleaseVerdict
    ) -> Shown:
        """Answer a question once; the same answer again is the same.

        Raises:
            NotFound: no such session or question for this caller.
            Conflict: it is answered otherwise, or nobody waits for it any more.
        """
        self._sessions.get(tx, principal, session_id)
        row = self._row(tx, session_id, id)
        if row is None:
            raise _none(id)
        now_us = to_micros(self._clock.now())
        if row.result is not None:
            if row.result != verdict.result:
                raise Conflict(f"{id!r} has been answered: {row.result}")
            return self._shown(row)
        if row.expires_us <= now_us:
            raise Conflict(f"nobody waits for {id!r} any more")
        tx.execute(
            update(releases)
            .where(releases.c.session_id == session_id, releases.c.id == id)
            .values(
                result=verdict.result,
                deny_message=verdict.deny_message,
                decided_us=now_us,
                decided_by=principal.credential_id,
            )
        )
        fields = {"id": id, "result": verdict.result, "digest": row.body["digest"]}
        self._audit(tx, "release.decide", principal, session_id, fields)
        return self.get(tx, principal, session_id, id)

    def get(self, tx: Tx, principal: Principal, session_id: str, id: str) -> Shown:
        """Return a question.

        Raises:
            NotFound: no such session or question for this caller.
        """
        self._sessions.get(tx, principal, session_id)
        row = self._row(tx, session_id, id)
        if row is None:
            raise _none(id)
        return self._shown(row)

    def find(self, tx: Tx, principal: Principal, session_id: str) -> list[Shown]:
        """Return a session's newest questions, the newest first: ids of events grow."""
        self._sessions.get(tx, principal, session_id)
        which = select(releases).where(releases.c.session_id == session_id)
        rows = tx.execute(which.order_by(releases.c.id.desc()).limit(MAX_SHOWN)).all()
        return [self._shown(row) for row in rows]

    def _row(self, tx: Tx, session_id: str, id: str) -> Row[Any] | None:
        which = select(releases).where(releases.c.session_id == session_id, releases.c.id == id)
        return tx.execute(which).first()

    def _shown(self, row: Row[Any]) -> Shown:
        lapsed = row.expires_us <= to_micros(self._clock.now())
        return {
            "id": row.id,
            "type": "release",
            "session_id": row.session_id,
            **row.body,
            "status": {"allow": "allowed", "deny": "denied"}.get(
                row.result, "expired" if lapsed else "open"
            ),
            "deny_message": row.deny_message,
            "decided_by": row.decided_by,
            "created_at": rfc3339(from_micros(row.created_us)),
            "expires_at": rfc3339(from_micros(row.expires_us)),
        }

    def _audit(
        self, tx: Tx, kind: str, principal: Principal, session_id: str, fields: Shown
    ) -> None:
        audit.record(
            tx,
            self._clock,
            kind,
            workspace_id=principal.workspace_id,
            session_id=session_id,
            fields={"by": principal.credential_id, **fields},
        )


def _none(id: str) -> NotFound:
    return NotFound(f"nothing is held back as {id[:80]!r}")

"""What workers are told of the repositories to clone, and what they tell of them.

Each function runs inside the caller's transaction. The caller holds the token of one work item: it
reaches that item's session and nothing else.
"""

from typing import Any

from sqlalchemy import Row, update

from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal
from intramuros.control.session import repositories
from intramuros.control.session.drafts import failure
from intramuros.control.session.journal import Journal
from intramuros.control.session.sessions import Sessions
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.resources.repositories import ERRORS, RepositoryReport

Shown = dict[str, Any]


class Checkouts:
    """The way between a session's repositories and the worker that serves it."""

    def __init__(self, clock: Clock, journal: Journal, sessions: Sessions) -> None:
        self._clock = clock
        self._journal = journal
        self._sessions = sessions

    def reveal(self, tx: Tx, principal: Principal, session_id: str) -> list[Shown]:
        """Return what to clone, tokens included; that a token is given away is audited first.

        Raises:
            NotFound: no such session for this caller.
            InvalidRequest: a self-hosted one.
        """
        row = self._row(tx, principal, session_id)
        now_us = to_micros(self._clock.now())
        self._keep(tx, row, [repositories.begun(shown, now_us) for shown in row.resources])
        told: list[Shown] = []
        for shown in repositories.of(row.resources):
            token = self._sessions.tokens.open(tx, shown["id"])
            if token is not None:
                fields = {"id": shown["id"], "repository": shown["url"]}
                self._audit(tx, "secret.use", principal, session_id, fields)
            told.append(
                {
                    **{name: shown[name] for name in ("id", "url", "mount_path", "checkout")},
                    "updated_at": shown["updated_at"],
                    "authorization_token": token,
                }
            )
        return told

    def report(
        self,
        tx: Tx,
        principal: Principal,
        session_id: str,
        resource_id: str,
        report: RepositoryReport,
    ) -> None:
        """Note what became of a checkout; trouble is an event (contract-2 R396).

        Raises:
            NotFound: no such session or repository for this caller.
            InvalidRequest: a self-hosted session.
        """
        row = self._row(tx, principal, session_id)
        shown = next(
            (one for one in repositories.of(row.resources) if one["id"] == resource_id), None
        )
        if shown is None:
            raise NotFound(f"no repository {resource_id[:80]!r} in this session")
        if shown.get("_attempt") == report.attempt or row.status == "terminated":
            return
        after = repositories.told(shown, report)
        self._keep(tx, row, [after if one is shown else one for one in row.resources])
        fields: dict[str, object] = {
            "id": resource_id,
            "trouble": report.trouble,
            "commit": report.commit,
            "skills": len(report.skills),
        }
        self._audit(tx, "session.checkout", principal, session_id, fields)
        if report.trouble is not None:
            error = failure(
                ERRORS[report.trouble],
                repositories.explain(shown, report.trouble),
                "retrying",
                repository_url=shown["url"],
            )
            self._journal.append(tx, self._journal.hold(tx, session_id), [error])
        self._journal.wake(tx, session_id)

    def _row(self, tx: Tx, principal: Principal, session_id: str) -> Row[Any]:
        if self._sessions.get(tx, principal, session_id).environment_kind != "cloud":
            raise InvalidRequest("repositories: only sessions of cloud environments have them")
        return self._journal.hold(tx, session_id).row

    def _keep(self, tx: Tx, row: Row[Any], resources: list[Shown]) -> None:
        if resources != row.resources:
            tx.execute(update(sessions).where(sessions.c.id == row.id).values(resources=resources))

    def _audit(
        self,
        tx: Tx,
        kind: str,
        principal: Principal,
        session_id: str,
        fields: dict[str, object],
    ) -> None:
        audit.record(
            tx,
            self._clock,
            kind,
            workspace_id=principal.workspace_id,
            session_id=session_id,
            fields={"by": principal.credential_id, **fields},
        )

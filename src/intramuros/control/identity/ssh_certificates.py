"""Which SSH certificates of this server's may let somebody in, and which of them no more.

A certificate stands as long as it would be made today: its credential works, the person behind it
is here and may still do what it takes, and the session is not over. Whatever changes one of these
has what hangs on it looked at again in its own transaction (:func:`reconsider`). What was revoked
stays revoked. A row lives for as long as a connection by its certificate may, so that those who
came in time are seen out, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, insert, select, update

from intramuros.control.identity import audit, standing
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.ssh_tables import ssh_certificates as table
from intramuros.control.store.tables import credentials, sessions
from intramuros.kernel.errors import PermissionDenied, RateLimited
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.ssh import STAY_S

# Remembered at once: workers read lists that hold as many.
MAX_OF_ENVIRONMENT: Final = 20_000
MAX_OF_CLOUD: Final = 80_000
# So that nobody uses up what is everybody's.
MAX_OF_CREDENTIAL: Final = 5_000
_MICROS: Final = 1_000_000
_FULL_S: Final = 60
CLOUD: Final = "cloud"

ASKED: Final = "asked"
SESSION_OVER: Final = "session_over"
CREDENTIAL: Final = "credential"
PERSON: Final = "person"
ROLE: Final = "role"


@dataclass(frozen=True)
class Issued:
    """A certificate that is being made; ``key`` is the fingerprint of its holder's."""

    serial: int
    key_id: str
    key: str
    expires_us: int


def keep(tx: Tx, clock: Clock, principal: Principal, session: Row[Any], issued: Issued) -> None:
    """Remember a certificate before anybody has it.

    Args:
        session: its session's row.

    Raises:
        PermissionDenied: whoever asks for it may not, any more.
        RateLimited: there are too many of the caller's, or in the session's environment.
    """
    now_us = to_micros(clock.now())
    _check_room(tx, principal, session)
    tx.execute(
        insert(table).values(
            serial=issued.serial,
            workspace_id=session.workspace_id,
            session_id=session.id,
            environment_id=session.environment_id,
            environment_kind=session.environment_kind,
            key_id=issued.key_id,
            key=issued.key,
            credential_id=principal.credential_id,
            principal_id=principal.user_id or principal.service_account_id,
            created_us=now_us,
            expires_us=issued.expires_us,
            forget_us=issued.expires_us + STAY_S * _MICROS,
        )
    )
    # The caller was let in by an earlier transaction, and may have lost what it took since.
    if any(_fallen(tx, now_us, table.c.serial == issued.serial)):
        raise PermissionDenied("this credential may not ask for certificates any more")


def ends_us(tx: Tx, principal: Principal) -> int | None:
    """Return when a caller's credential stops working by itself; None for never."""
    query = select(credentials.c.expires_us).where(credentials.c.id == principal.credential_id)
    found: int | None = tx.scalar(query)
    return found


def reconsider(tx: Tx, clock: Clock, *which: ColumnElement[bool]) -> int:
    """Revoke those certificates, of some or of all, that do not stand any more.

    Each is audited. Call it behind the change, in its transaction.

    Args:
        which: conditions, such as :func:`of_credential`.

    Returns:
        how many it was.
    """
    fallen = list(_fallen(tx, to_micros(clock.now()), *which))
    for row, why in fallen:
        _revoke(tx, clock, row, why)
    return len(fallen)


def withdraw(
    tx: Tx, clock: Clock, by: Principal, session_id: str, serial: int | None = None
) -> None:
    """Revoke a session's certificates, or one of them, because somebody asks for it."""
    which = [table.c.session_id == session_id, table.c.revoked_us.is_(None)]
    if serial is not None:
        which.append(table.c.serial == serial)
    for row in tx.execute(select(table).where(*which).order_by(table.c.serial)).all():
        _revoke(tx, clock, row, ASKED, by=by.credential_id)


def of_session(tx: Tx, session_id: str, limit: int) -> list[Row[Any]]:
    """Return the certificates of a session that are remembered, the newest first."""
    order = (table.c.created_us.desc(), table.c.serial.desc())
    query = select(table).where(in_session(session_id)).order_by(*order).limit(limit)
    return list(tx.execute(query).all())


def find(tx: Tx, session_id: str, serial: int) -> Row[Any] | None:
    """Return one of a session's."""
    query = select(table).where(table.c.serial == serial, in_session(session_id))
    return tx.execute(query).first()


def revoked(tx: Tx, environment_id: str | None) -> frozenset[int]:
    """Return the serials of those that were revoked: in one environment, or in all cloud ones."""
    if environment_id is not None:
        here = table.c.environment_id == environment_id
    else:
        here = table.c.environment_kind == CLOUD
    query = select(table.c.serial).where(here, table.c.revoked_us.is_not(None))
    return frozenset(tx.execute(query).scalars())


def needs_care(tx: Tx, now_us: int) -> bool:
    """Tell whether :func:`care` has anything to do."""
    old = select(table.c.serial).where(table.c.forget_us <= now_us).limit(1)
    return tx.scalar(old) is not None or any(_fallen(tx, now_us))


def care(tx: Tx, clock: Clock) -> tuple[int, int]:
    """Forget what nobody can be inside by, and revoke what does not stand.

    Returns:
        how many were forgotten, and how many revoked.
    """
    gone = tx.execute(delete(table).where(table.c.forget_us <= to_micros(clock.now()))).rowcount
    return gone, reconsider(tx, clock)


def in_session(session_id: str) -> ColumnElement[bool]:
    """Those for a session."""
    return table.c.session_id == session_id


def of_credential(credential_id: str) -> ColumnElement[bool]:
    """Those that were asked for by a credential."""
    return table.c.credential_id == credential_id


def of_principal(*principal_ids: str) -> ColumnElement[bool]:
    """Those of users or service accounts."""
    return table.c.principal_id.in_(principal_ids)


def in_workspace(workspace_id: str) -> ColumnElement[bool]:
    """Those for sessions of a workspace."""
    return table.c.workspace_id == workspace_id


def _fallen(tx: Tx, now_us: int, *which: ColumnElement[bool]) -> Iterator[tuple[Row[Any], str]]:
    """Yield each certificate that does not stand any more, and why."""
    joined = table.outerjoin(credentials, credentials.c.id == table.c.credential_id).outerjoin(
        sessions, sessions.c.id == table.c.session_id
    )
    query = (
        select(
            table,
            credentials.c.id.label("credential"),
            credentials.c.disabled_us,
            credentials.c.revoked_us.label("ended_us"),
            credentials.c.scopes,
            sessions.c.id.label("session"),
            sessions.c.status,
            sessions.c.archived_us,
        )
        .select_from(joined)
        .where(table.c.revoked_us.is_(None), *which)
        .order_by(table.c.serial)
    )
    people: dict[tuple[str, str], str | None] = {}
    for row in tx.execute(query).all():
        why = _over(row) or _ended(row, now_us)
        if why is None:
            by = (row.credential_id, row.workspace_id)
            if by not in people:
                people[by] = _barred(tx, row)
            why = people[by]
        if why is not None:
            yield row, why


def _over(row: Row[Any]) -> str | None:
    over = row.session is None or row.archived_us is not None or row.status == "terminated"
    return SESSION_OVER if over else None


def _ended(row: Row[Any], now_us: int) -> str | None:
    revoked_us = row.ended_us
    ended = row.credential is None or row.disabled_us is not None
    return CREDENTIAL if ended or (revoked_us is not None and revoked_us <= now_us) else None


def _barred(tx: Tx, row: Row[Any]) -> str | None:
    """Tell what keeps a credential from asking for such a certificate now."""
    scopes, restricted = frozenset(row.scopes), False
    if standing.is_user(row.principal_id):
        narrowed = standing.narrow(tx, row.principal_id, row.workspace_id, scopes)
        if narrowed is None:
            return PERSON
        scopes, restricted = narrowed
    return ROLE if restricted or Scope.DEVELOPER not in scopes else None


def _revoke(tx: Tx, clock: Clock, row: Row[Any], why: str, by: str | None = None) -> None:
    fields = {"serial": str(row.serial), "key_id": row.key_id, "why": why}
    audit.record(
        tx,
        clock,
        "ssh.revoke",
        workspace_id=row.workspace_id,
        session_id=row.session_id,
        fields=fields if by is None else {**fields, "by": by},
    )
    changed = update(table).where(table.c.serial == row.serial)
    tx.execute(changed.values(revoked_us=to_micros(clock.now()), revoked_why=why))


def _check_room(tx: Tx, principal: Principal, session: Row[Any]) -> None:
    full = [
        _beyond(tx, of_credential(principal.credential_id), MAX_OF_CREDENTIAL),
        _beyond(tx, table.c.environment_id == session.environment_id, MAX_OF_ENVIRONMENT),
    ]
    if session.environment_kind == CLOUD:
        full.append(_beyond(tx, table.c.environment_kind == CLOUD, MAX_OF_CLOUD))
    if any(full):
        raise RateLimited("too many SSH certificates were made here", retry_after_s=_FULL_S)


def _beyond(tx: Tx, which: ColumnElement[bool], limit: int) -> bool:
    query = select(table.c.serial).where(which).limit(1).offset(limit - 1)
    return tx.scalar(query) is not None

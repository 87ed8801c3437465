"""Who stands behind a call to a private server: told to its gateway, which judges by it.

A session is answered for by everybody who has steered it (``protocol/who.py`` says why): the one
who made it and each who sent it events. What a person is and which groups they are in is looked up
anew for each ticket, so that who leaves a group loses what it gave within a ticket's life.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, select, update

from intramuros.control.identity import standing
from intramuros.control.identity.principal import Principal
from intramuros.control.mcp.base import Caller
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import credentials, group_members, groups, sessions, users
from intramuros.protocol.who import MAX_GROUPS, MAX_PEOPLE, Group, Kind, Who

# One kind and id in a session's row.
Mark = dict[str, str]

_NOT_NOTED: Final[Mark] = {"kind": Kind.UNKNOWN.value, "id": ""}

_SESSION: Final = Prepared(
    select(
        sessions.c.workspace_id,
        sessions.c.agent_id,
        sessions.c.agent_version,
        sessions.c.steered_by,
    ).where(sessions.c.id == bindparam("of_id"))
)
_STEERED: Final = Prepared(select(sessions.c.steered_by).where(sessions.c.id == bindparam("of_id")))
_CREDENTIAL: Final = Prepared(
    select(credentials.c.workspace_id, credentials.c.principal_id).where(
        credentials.c.id == bindparam("of_id")
    )
)
_USER: Final = Prepared(
    select(users.c.email).where(users.c.id == bindparam("of_id"), users.c.removed_us.is_(None))
)
_GROUPS: Final = Prepared(
    select(groups.c.id, groups.c.name)
    .join(group_members, group_members.c.group_id == groups.c.id)
    .where(group_members.c.user_id == bindparam("of_id"))
    .order_by(groups.c.id)
    .limit(MAX_GROUPS + 1)
)


@dataclass(frozen=True)
class Behind:
    """What a call ticket says of a call beyond its session."""

    workspace_id: str
    agent_id: str = ""
    agent_version: int = 0
    who: tuple[Who, ...] = ()


def first_marks(principal: Principal, deployment_id: str | None) -> list[Mark]:
    """Return who is noted in the row of a new session: its deployment, if any, and its maker."""
    of = None if deployment_id is None else {"kind": Kind.DEPLOYMENT.value, "id": deployment_id}
    return [mark for mark in (of, _mark_of(principal)) if mark is not None]


def steered(marks: Sequence[Mapping[str, str]], principal: Principal) -> dict[str, list[Mark]]:
    """Return the columns of a session's row that change when somebody steers it; often none.

    One more than a ticket holds is kept, which says that there were too many.
    """
    mark = _mark_of(principal)
    if mark is None or mark in marks or len(marks) > MAX_PEOPLE:
        return {}
    # Its maker was not noted: a version made it that did not, and its other people are lost too.
    known = [*map(dict, marks)] or [_NOT_NOTED]
    return {"steered_by": [*known, mark]}


def steering(tx: Tx, session_id: str) -> list[Mark] | None:
    """Return who has steered a session so far; None of what is no session."""
    found: list[Mark] | None = tx.run(_STEERED, {"of_id": session_id}).scalar()
    return found


def behind(tx: Tx, caller: Caller) -> Behind:
    """Return who stands behind a caller: a session, or a credential that asks for a message."""
    row = tx.run(_SESSION, {"of_id": caller.session_id}).first()
    if row is not None and row.workspace_id == caller.workspace_id:
        who = tuple(_look_up(tx, mark) for mark in row.steered_by[: MAX_PEOPLE + 1])
        return Behind(row.workspace_id, row.agent_id, row.agent_version, who)
    row = tx.run(_CREDENTIAL, {"of_id": caller.session_id}).first()
    if row is None or row.workspace_id != caller.workspace_id:
        return Behind(caller.workspace_id)
    mark = _mark(row.principal_id, caller.session_id)
    return Behind(caller.workspace_id, who=(_look_up(tx, mark),))


def change(tx: Tx, row: Row[Any], principal: Principal, changes: Mapping[str, object]) -> None:
    """Change columns of a session's row, and note who did."""
    values = {**changes, **steered(row.steered_by, principal)}
    tx.execute(update(sessions).where(sessions.c.id == row.id).values(values))


def _mark_of(principal: Principal) -> Mark | None:
    """Return who a caller is; None for workers, which only report, and for schedules."""
    if not principal.scoped or principal.scheduled:
        return None
    return _mark(principal.user_id or principal.service_account_id, principal.credential_id)


def _mark(principal_id: str | None, credential_id: str) -> Mark:
    if principal_id is None:
        return {"kind": Kind.API_KEY.value, "id": credential_id}
    person = standing.is_user(principal_id)
    kind = Kind.USER if person else Kind.SERVICE_ACCOUNT
    return {"kind": kind.value, "id": principal_id}


def _look_up(tx: Tx, mark: Mapping[str, Any]) -> Who:
    kind, id = Kind(mark["kind"]), str(mark["id"])
    if kind is not Kind.USER:
        return Who(kind, id)
    email = tx.run(_USER, {"of_id": id}).scalar()
    found = tx.run(_GROUPS, {"of_id": id}).all()
    if email is None or len(found) > MAX_GROUPS:
        return Who(Kind.UNKNOWN, id)
    return Who(kind, id, email, tuple(Group(row.id, row.name) for row in found))

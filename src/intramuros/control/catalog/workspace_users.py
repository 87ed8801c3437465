"""Which people belong to a workspace, and with which role.

A membership is written when somebody is added. What follows from a role of the organization is not:
administrators and billing members belong to every workspace, everybody belongs to the default one,
and neither can be changed here.
"""

from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, or_, select, update

from intramuros.control.catalog import workspaces
from intramuros.control.identity import audit, people, roles, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span, fetch
from intramuros.control.store.tables import user_workspaces as table
from intramuros.control.store.tables import users
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.people import UserMember

Shown = dict[str, Any]


def get(tx: Tx, workspace_id: str, user_id: str) -> Shown:
    """Return a membership as shown.

    Raises:
        NotFound: no such workspace, or no member of it.
    """
    workspaces.get(tx, workspace_id)
    role = _role(tx, workspace_id, people.row_of(tx, user_id))
    if role is None:
        raise NotFound(f"user {user_id!r} is no member of workspace {workspace_id!r}")
    return _shown(workspace_id, user_id, role)


def find(tx: Tx, workspace_id: str, span: Span) -> tuple[list[Shown], bool]:
    """Return a page of the members, those who joined the organization last first.

    Raises:
        NotFound: no such workspace.
    """
    workspaces.get(tx, workspace_id)
    which: list[ColumnElement[bool]] = [users.c.removed_us.is_(None)]
    if workspace_id != default_workspace(tx):
        added = select(table.c.user_id).where(table.c.workspace_id == workspace_id)
        inherits = users.c.role.in_((roles.ADMIN, roles.BILLING))
        which.append(or_(users.c.id.in_(added), inherits))
    rows, more = fetch(tx, users, which, span)
    ids = [row.id for row in rows]
    written = select(table.c.user_id, table.c.role).where(
        table.c.workspace_id == workspace_id, table.c.user_id.in_(ids)
    )
    given = {row.user_id: row.role for row in tx.execute(written)}
    default = workspace_id == default_workspace(tx)
    found = ((row.id, _settle(row.role, given.get(row.id), default=default)) for row in rows)
    return [_shown(workspace_id, user_id, role) for user_id, role in found if role], more


def add(tx: Tx, actor: Actor, workspace_id: str, user_id: str, role: str) -> Shown:
    """Make a user a member.

    Raises:
        NotFound: no such workspace or user.
        InvalidRequest: the workspace is archived, or the default one.
        Conflict: a member already.
    """
    _changeable(tx, workspace_id)
    user = people.row_of(tx, user_id)
    if user.role == roles.ADMIN or _given(tx, workspace_id, user_id) is not None:
        raise Conflict(f"user {user_id!r} is a member of workspace {workspace_id!r} already")
    _audit(tx, actor, "user.join", workspace_id, user_id, role=role)
    now_us = to_micros(actor.clock.now())
    values = {"workspace_id": workspace_id, "user_id": user_id, "role": role}
    tx.execute(insert(table).values(**values, created_us=now_us))
    return get(tx, workspace_id, user_id)


def change(tx: Tx, actor: Actor, workspace_id: str, user_id: str, role: str) -> Shown:
    """Give a member another role.

    Raises:
        NotFound: no such workspace, or no member of it.
        InvalidRequest: the workspace is archived or the default one, the role follows from the
            organization's, or it is ``workspace_billing``, which is never given (R364).
    """
    _changeable(tx, workspace_id)
    user = people.row_of(tx, user_id)
    current = _given(tx, workspace_id, user_id)
    if current is None or user.role == roles.ADMIN:
        implied = get(tx, workspace_id, user_id)["workspace_role"]
        if role == implied:
            return _shown(workspace_id, user_id, role)
        raise _inherited(user)
    if role == "workspace_billing":
        raise InvalidRequest(
            "workspace_role: workspace_billing comes with the organization's role billing"
        )
    if role != current:
        _audit(tx, actor, "user.workspace_role", workspace_id, user_id, role=role, previous=current)
        tx.execute(update(table).where(*_is(workspace_id, user_id)).values(role=role))
        _reconsider(tx, actor, workspace_id, user_id)
    return get(tx, workspace_id, user_id)


def remove(tx: Tx, actor: Actor, workspace_id: str, user_id: str) -> None:
    """Take a user out of a workspace; what acts as them there may do nothing any more.

    Raises:
        NotFound: no such workspace, or no member of it.
        InvalidRequest: the workspace is archived or the default one, or the membership follows
            from a role of the organization.
    """
    _changeable(tx, workspace_id)
    user = people.row_of(tx, user_id)
    if user.role == roles.ADMIN or _given(tx, workspace_id, user_id) is None:
        get(tx, workspace_id, user_id)
        raise _inherited(user)
    _audit(tx, actor, "user.leave", workspace_id, user_id)
    tx.execute(delete(table).where(*_is(workspace_id, user_id)))
    _reconsider(tx, actor, workspace_id, user_id)


def _reconsider(tx: Tx, actor: Actor, workspace_id: str, user_id: str) -> None:
    """End what the user was given here in another shape, if they may not have it any more."""
    ssh_certificates.reconsider(
        tx,
        actor.clock,
        ssh_certificates.in_workspace(workspace_id),
        ssh_certificates.of_principal(user_id),
    )


def _changeable(tx: Tx, workspace_id: str) -> None:
    workspaces.active_row(tx, workspace_id)
    if workspace_id == default_workspace(tx):
        raise InvalidRequest(
            "everybody belongs to the default workspace with their organization's role"
        )


def _inherited(user: Row[Any]) -> InvalidRequest:
    return InvalidRequest(
        f"user {user.id!r} belongs to every workspace by the organization's role {user.role!r}"
    )


def _role(tx: Tx, workspace_id: str, user: Row[Any]) -> str | None:
    default = workspace_id == default_workspace(tx)
    return _settle(user.role, _given(tx, workspace_id, user.id), default=default)


def _settle(organization_role: str, given: str | None, *, default: bool) -> str | None:
    """Return somebody's role in a workspace: an administrator's, the given one, the implied one."""
    implied = roles.implied(organization_role, default=default)
    return implied if default or organization_role == roles.ADMIN else given or implied


def _given(tx: Tx, workspace_id: str, user_id: str) -> str | None:
    role: str | None = tx.scalar(select(table.c.role).where(*_is(workspace_id, user_id)))
    return role


def _is(workspace_id: str, user_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (table.c.workspace_id == workspace_id, table.c.user_id == user_id)


def _shown(workspace_id: str, user_id: str, role: str) -> Shown:
    return UserMember(
        user_id=user_id,
        workspace_id=workspace_id,
        workspace_role=role,  # type: ignore[arg-type]  # one of the five, as it was stored
    ).model_dump()


def _audit(
    tx: Tx, actor: Actor, kind: str, workspace_id: str, user_id: str, **more: object
) -> None:
    fields = {"id": user_id, "by": actor.by, **more}
    audit.record(tx, actor.clock, kind, workspace_id=workspace_id, fields=fields)

"""Who belongs to which workspace: service accounts with a role, federation rules without."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete, insert, select, update

from intramuros.control.catalog import workspaces
from intramuros.control.catalog.kinds import SERVICE_ACCOUNT, Kind
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.control.store.tables import workspace_members as table
from intramuros.kernel.errors import Conflict, NotFound
from intramuros.kernel.timing import to_micros

IMPLICIT_ROLE: Final = "workspace_user"


@dataclass(frozen=True)
class Member:
    """A membership; ``implicit`` is the one every service account has in the default workspace."""

    workspace_id: str
    member_id: str
    role: str | None
    created_by: str | None
    created_us: int
    implicit: bool = False


def of_member(tx: Tx, kind: Kind, member_id: str) -> list[Member]:
    """Return where a member belongs, oldest first; for service accounts the default is among it."""
    rows = tx.execute(
        select(table)
        .where(table.c.member_id == member_id)
        .order_by(table.c.created_us, table.c.workspace_id)
    )
    found = [Member(r.workspace_id, member_id, r.role, r.created_by, r.created_us) for r in rows]
    if kind is SERVICE_ACCOUNT:
        home = default_workspace(tx)
        if all(member.workspace_id != home for member in found):
            found.insert(0, Member(home, member_id, IMPLICIT_ROLE, None, 0, implicit=True))
    return found


def of_workspace(tx: Tx, workspace_id: str) -> list[Member]:
    """Return the service accounts of a workspace, oldest first; archived ones are left out.

    Raises:
        NotFound: no such workspace.
    """
    workspaces.get(tx, workspace_id)
    home = default_workspace(tx)
    rows = tx.execute(
        select(resources.c.id, table.c.role, table.c.created_by, table.c.created_us)
        .select_from(
            resources.outerjoin(
                table,
                (table.c.member_id == resources.c.id) & (table.c.workspace_id == workspace_id),
            )
        )
        .where(
            resources.c.workspace_id == home,
            resources.c.kind == SERVICE_ACCOUNT.name,
            resources.c.archived_us.is_(None),
        )
        .order_by(resources.c.created_us, resources.c.id)
    )
    found = []
    for row in rows:
        if row.role is not None:
            member = Member(workspace_id, row.id, row.role, row.created_by, row.created_us)
            found.append(member)
        elif workspace_id == home:
            found.append(Member(workspace_id, row.id, IMPLICIT_ROLE, None, 0, implicit=True))
    return found


def get(tx: Tx, workspace_id: str, kind: Kind, member_id: str) -> Member:
    """Return a membership.

    Raises:
        NotFound: no such workspace, or no member of it.
    """
    workspaces.get(tx, workspace_id)
    for member in of_member(tx, kind, member_id):
        if member.workspace_id == workspace_id:
            return member
    raise NotFound(f"{member_id[:80]!r} is no member of workspace {workspace_id!r}")


def add(
    tx: Tx, actor: Actor, workspace_id: str, kind: Kind, member_id: str, role: str | None = None
) -> Member:
    """Make somebody that exists a member.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: the workspace is archived.
        Conflict: a member already.
    """
    workspaces.active_row(tx, workspace_id)
    if tx.scalar(select(table.c.kind).where(*_is(workspace_id, member_id))) is not None:
        raise Conflict(f"{member_id!r} is a member of workspace {workspace_id!r} already")
    _audit(tx, actor, f"{kind.name}.join", workspace_id, member_id, role)
    tx.execute(
        insert(table).values(
            workspace_id=workspace_id,
            member_id=member_id,
            kind=kind.name,
            role=role,
            created_by=actor.service_account_id,
            created_us=to_micros(actor.clock.now()),
        )
    )
    return get(tx, workspace_id, kind, member_id)


def change(
    tx: Tx, actor: Actor, workspace_id: str, kind: Kind, member_id: str, role: str
) -> Member:
    """Give a member another role; an implicit membership becomes a written one.

    Raises:
        NotFound: no such workspace, or no member of it.
        InvalidRequest: the workspace is archived.
    """
    workspaces.active_row(tx, workspace_id)
    current = get(tx, workspace_id, kind, member_id)
    if current.implicit:
        return add(tx, actor, workspace_id, kind, member_id, role)
    if current.role != role:
        _audit(tx, actor, f"{kind.name}.role", workspace_id, member_id, role, current.role)
        tx.execute(update(table).where(*_is(workspace_id, member_id)).values(role=role))
    return get(tx, workspace_id, kind, member_id)


def remove(tx: Tx, actor: Actor, workspace_id: str, kind: Kind, member_id: str) -> None:
    """End a membership; one that there is not, or an implicit one, changes nothing (R361).

    Raises:
        NotFound: no such workspace.
        InvalidRequest: the workspace is archived.
    """
    workspaces.active_row(tx, workspace_id)
    if tx.scalar(select(table.c.kind).where(*_is(workspace_id, member_id))) is not None:
        _audit(tx, actor, f"{kind.name}.leave", workspace_id, member_id, None)
        tx.execute(delete(table).where(*_is(workspace_id, member_id)))


def _is(workspace_id: str, member_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (table.c.workspace_id == workspace_id, table.c.member_id == member_id)


def _audit(
    tx: Tx,
    actor: Actor,
    kind: str,
    workspace_id: str,
    member_id: str,
    *roles: str | None,
) -> None:
    """Record a change; ``roles`` are the new one and the one before it, as far as there are any."""
    fields = {"id": member_id, "by": actor.by}
    fields |= {name: role for name, role in zip(("role", "previous"), roles, strict=False) if role}
    audit.record(tx, actor.clock, kind, workspace_id=workspace_id, fields=fields)

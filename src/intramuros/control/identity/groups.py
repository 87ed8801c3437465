"""Groups of users, and the built-in roles that they give (contract-2 section 20, D36)."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, and_, delete, func, insert, or_, select, update

from intramuros.control.identity import audit, people, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import Scope
from intramuros.control.identity.roles import BY_ID
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import group_members, groups, users
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.people import Group, GroupMember

Shown = dict[str, Any]
Position = tuple[int, str]

MAX_GROUPS: Final = 1_000


def create(tx: Tx, actor: Actor, name: str) -> Shown:
    """Make a group without roles or members.

    Raises:
        InvalidRequest: there are too many.
    """
    if (tx.scalar(select(func.count()).select_from(groups)) or 0) >= MAX_GROUPS:
        raise InvalidRequest(f"an organization has at most {MAX_GROUPS} groups")
    now_us = to_micros(actor.clock.now())
    group_id = actor.ids.new("rbac_group")
    _audit(tx, actor, "group.create", group_id, name=name)
    values = {"id": group_id, "name": name, "role_ids": []}
    tx.execute(insert(groups).values(**values, created_us=now_us, updated_us=now_us))
    return present(row_of(tx, group_id))


def row_of(tx: Tx, group_id: str) -> Row[Any]:
    """Return a group's row.

    Raises:
        NotFound: no such group (``rbac_group_not_found``).
    """
    row = tx.execute(select(groups).where(groups.c.id == group_id)).first()
    if row is None:
        raise NotFound(f"no group {group_id[:80]!r}", code="rbac_group_not_found")
    return row


def exists(tx: Tx, group_id: str) -> bool:
    """Return whether there is such a group."""
    return tx.scalar(select(groups.c.id).where(groups.c.id == group_id)) is not None


def find(tx: Tx, limit: int, after: Position | None) -> tuple[list[Row[Any]], bool]:
    """Return a page of groups, newest first, and whether there is more."""
    query = select(groups)
    if after is not None:
        at_us, last_id = after
        same = and_(groups.c.created_us == at_us, groups.c.id < last_id)
        query = query.where(or_(groups.c.created_us < at_us, same))
    order = (groups.c.created_us.desc(), groups.c.id.desc())
    rows = tx.execute(query.order_by(*order).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def rename(tx: Tx, actor: Actor, group_id: str, name: str | None) -> Shown:
    """Give a group another name; none, or the same, changes nothing.

    Raises:
        NotFound: no such group.
    """
    row = row_of(tx, group_id)
    if name is not None and name != row.name:
        _audit(tx, actor, "group.update", group_id, name=name)
        _touch(tx, actor, row, name=name)
    return present(row_of(tx, group_id))


def set_roles(tx: Tx, actor: Actor, group_id: str, role_ids: Sequence[str]) -> Shown:
    """Give a group exactly these roles; its members have them from the next request on.

    Raises:
        NotFound: no such group, or no such role (``rbac_role_not_found``).
        InvalidRequest: a role that administers the organization, which only a person has
            (``rbac_group_grants_owner_access``).
    """
    row = row_of(tx, group_id)
    wanted = sorted(set(role_ids))
    for role_id in wanted:
        if role_id not in BY_ID:
            raise NotFound(f"no role {role_id[:80]!r}", code="rbac_role_not_found")
        if Scope.ORG_ADMIN in BY_ID[role_id].scopes:
            raise InvalidRequest(
                "role_ids: groups do not administer the organization; appoint a person",
                code="rbac_group_grants_owner_access",
            )
    for role_id in sorted(set(wanted) - set(row.role_ids)):
        _audit(tx, actor, "group.role_add", group_id, role_id=role_id)
    for role_id in sorted(set(row.role_ids) - set(wanted)):
        _audit(tx, actor, "group.role_remove", group_id, role_id=role_id)
    if wanted != row.role_ids:
        _touch(tx, actor, row, role_ids=wanted)
        _reconsider(tx, actor, _members(tx, group_id))
    return present(row_of(tx, group_id))


def remove(tx: Tx, actor: Actor, group_id: str) -> None:
    """Delete a group; its members stay in the organization and lose its roles.

    Raises:
        NotFound: no such group.
    """
    row = row_of(tx, group_id)
    _audit(tx, actor, "group.delete", group_id, name=row.name)
    left = _members(tx, group_id)
    tx.execute(delete(group_members).where(group_members.c.group_id == group_id))
    tx.execute(delete(groups).where(groups.c.id == group_id))
    _reconsider(tx, actor, left)


def members(
    tx: Tx, group_id: str, limit: int, after: Position | None
) -> tuple[list[Row[Any]], bool]:
    """Return a page of a group's members, newest first, and whether there is more.

    Raises:
        NotFound: no such group.
    """
    row_of(tx, group_id)
    table = group_members.c
    which = [table.group_id == group_id]
    if after is not None:
        at_us, last_id = after
        same = and_(table.created_us == at_us, table.user_id < last_id)
        which.append(or_(table.created_us < at_us, same))
    query = select(group_members, users.c.email).join_from(group_members, users)
    order = (table.created_us.desc(), table.user_id.desc())
    rows = tx.execute(query.where(*which).order_by(*order).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def add_member(tx: Tx, actor: Actor, group_id: str, user_id: str) -> Shown:
    """Put a user into a group; a second time changes nothing.

    Raises:
        NotFound: no such group or user.
    """
    row_of(tx, group_id)
    people.row_of(tx, user_id)
    which = and_(group_members.c.group_id == group_id, group_members.c.user_id == user_id)
    if tx.scalar(select(group_members.c.user_id).where(which)) is None:
        _audit(tx, actor, "group.member_add", group_id, user_id=user_id)
        now_us = to_micros(actor.clock.now())
        values = {"group_id": group_id, "user_id": user_id, "created_us": now_us}
        tx.execute(insert(group_members).values(**values))
    query = select(group_members, users.c.email).join_from(group_members, users)
    return present_member(tx.execute(query.where(which)).one())


def remove_member(tx: Tx, actor: Actor, group_id: str, user_id: str) -> None:
    """Take a user out of a group.

    Raises:
        NotFound: no such group, or the user is not in it.
    """
    row_of(tx, group_id)
    which = and_(group_members.c.group_id == group_id, group_members.c.user_id == user_id)
    if tx.scalar(select(group_members.c.user_id).where(which)) is None:
        raise NotFound(f"user {user_id[:80]!r} is not in group {group_id!r}")
    _audit(tx, actor, "group.member_remove", group_id, user_id=user_id)
    tx.execute(delete(group_members).where(which))
    _reconsider(tx, actor, [user_id])


def present(row: Row[Any]) -> Shown:
    """Return a group as the API shows it."""
    return Group(
        id=row.id,
        created_at=rfc3339(from_micros(row.created_us)),
        name=row.name,
        role_ids=row.role_ids,
        updated_at=rfc3339(from_micros(row.updated_us)),
    ).model_dump()


def present_member(row: Row[Any]) -> Shown:
    """Return a membership as the API shows it."""
    return GroupMember(
        created_at=rfc3339(from_micros(row.created_us)),
        email=row.email,
        rbac_group_id=row.group_id,
        user_id=row.user_id,
    ).model_dump()


def _members(tx: Tx, group_id: str) -> list[str]:
    query = select(group_members.c.user_id).where(group_members.c.group_id == group_id)
    return list(tx.execute(query).scalars())


def _reconsider(tx: Tx, actor: Actor, user_ids: Sequence[str]) -> None:
    """End what these people were given in another shape, if they may not have it any more."""
    ssh_certificates.reconsider(tx, actor.clock, ssh_certificates.of_principal(*user_ids))


def _touch(tx: Tx, actor: Actor, row: Row[Any], **values: object) -> None:
    now_us = max(to_micros(actor.clock.now()), row.updated_us)
    tx.execute(update(groups).where(groups.c.id == row.id).values(**values, updated_us=now_us))


def _audit(tx: Tx, actor: Actor, kind: str, group_id: str, **more: object) -> None:
    fields = {"id": group_id, "by": actor.by, **more}
    audit.record(tx, actor.clock, kind, workspace_id=None, fields=fields)

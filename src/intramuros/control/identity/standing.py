"""What the person behind a credential may do, read from what is stored."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy import select

from intramuros.control.identity import roles
from intramuros.control.identity.roles import Standing
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import (
    group_members,
    groups,
    user_workspaces,
    users,
    workspaces,
)

USER_PREFIX: Final = "user_"
# The default workspace is the one that the installation was made with.
OLDEST_WORKSPACE: Final = (
    select(workspaces.c.id).order_by(workspaces.c.created_us, workspaces.c.id).limit(1)
)


def is_user(principal_id: str | None) -> bool:
    """Return whether a credential acts as a person."""
    return principal_id is not None and principal_id.startswith(USER_PREFIX)


def find(tx: Tx, user_id: str, workspace_id: str) -> Standing | None:
    """Return where a person stands in a workspace, or None if they are not here any more."""
    here = (users.c.id == user_id, users.c.removed_us.is_(None))
    role = tx.scalar(select(users.c.role).where(*here))
    if role is None:
        return None
    membership = select(user_workspaces.c.role).where(
        user_workspaces.c.workspace_id == workspace_id, user_workspaces.c.user_id == user_id
    )
    default = tx.scalar(OLDEST_WORKSPACE) == workspace_id
    return Standing(role, tx.scalar(membership), default, _group_roles(tx, user_id))


def narrow(
    tx: Tx, user_id: str, workspace_id: str, scopes: Iterable[str]
) -> tuple[frozenset[str], bool] | None:
    """Return which of a credential's scopes hold for the person it acts as.

    Returns:
        the scopes, and whether the person may not read content (a restricted developer); None if
        the person is not here any more.
    """
    standing = find(tx, user_id, workspace_id)
    if standing is None:
        return None
    restricted = standing.workspace_role == roles.RESTRICTED and not standing.default
    allowed = frozenset(scopes) & roles.ceiling(standing)
    return allowed, restricted and standing.organization_role != roles.ADMIN


def _group_roles(tx: Tx, user_id: str) -> frozenset[str]:
    joined = groups.join(group_members, group_members.c.group_id == groups.c.id)
    query = select(groups.c.role_ids).select_from(joined)
    found = tx.execute(query.where(group_members.c.user_id == user_id)).scalars()
    return frozenset(role_id for role_ids in found for role_id in role_ids)

"""User profiles that are attached to workspaces (contract-2 R295, R367).

A platform that serves one customer from a workspace attaches the customer's profile to it; then
every inference request there must name that profile, so that none is made for somebody else.
"""

from typing import Any

from sqlalchemy import select, update

from intramuros.control.catalog.kinds import USER_PROFILE
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources, workspaces
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.envelope import PROFILE_HEADER


def check_exists(tx: Tx, profile_id: str) -> None:
    """Refuse what is no user profile of the organization.

    Raises:
        InvalidRequest: with the code ``user_profile_not_found``.
    """
    which = (resources.c.id == profile_id, resources.c.kind == USER_PROFILE.name)
    if tx.scalar(select(resources.c.id).where(*which)) is None:
        raise InvalidRequest(
            f"user_profile_id: no user profile {profile_id[:80]!r}", code="user_profile_not_found"
        )


def check_named(tx: Tx, workspace_id: str, named: str | None) -> None:
    """Refuse an inference request that does not name its workspace's profile, if it has one.

    Raises:
        InvalidRequest: it names none (``user_profile_required``), or another one.
    """
    body: dict[str, Any] | None = tx.scalar(
        select(workspaces.c.body).where(workspaces.c.id == workspace_id)
    )
    wanted = (body or {}).get("user_profile_id")
    if wanted is None or named == wanted:
        return
    if named is None:
        raise InvalidRequest(
            f"this workspace serves one user profile: name it in {PROFILE_HEADER}",
            code="user_profile_required",
        )
    raise InvalidRequest(f"{PROFILE_HEADER}: this workspace serves another user profile")


def release(tx: Tx, actor: Actor, profile_id: str) -> None:
    """Detach a profile that is being deleted from every workspace that has it."""
    attached = workspaces.c.body["user_profile_id"].as_string() == profile_id
    for row in tx.execute(select(workspaces.c.id, workspaces.c.body).where(attached)).all():
        fields = {"id": row.id, "by": actor.by, "released": profile_id}
        audit.record(tx, actor.clock, "workspace.update", workspace_id=row.id, fields=fields)
        body = {**row.body, "user_profile_id": None}
        tx.execute(update(workspaces).where(workspaces.c.id == row.id).values(body=body))

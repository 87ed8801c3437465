"""What service accounts, issuers and rules share: slugs, and who touched them last."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import Kind
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import Conflict
from intramuros.kernel.timing import from_micros, rfc3339


def at_home(tx: Tx, actor: Actor) -> Actor:
    """Return the actor in the default workspace, which keeps what is the organization's."""
    return replace(actor, workspace_id=default_workspace(tx))


def get(tx: Tx, kind: Kind, resource_id: str) -> Resource:
    """Return one.

    Raises:
        NotFound: there is none.
    """
    return service.get(tx, default_workspace(tx), kind, resource_id)


def create(
    tx: Tx, actor: Actor, kind: Kind, body: Mapping[str, Any], *, parent_id: str | None = None
) -> Resource:
    """Store a new one.

    Raises:
        Conflict: the name is taken (contract-2 R359).
    """
    check_free(tx, kind, body["name"])
    by = actor.service_account_id
    stamped = {**body, "created_by": by, "updated_by": by, "archived_by": None}
    return service.create(tx, at_home(tx, actor), kind, stamped, parent_id=parent_id)


def change(
    tx: Tx, actor: Actor, kind: Kind, current: Resource, sent: Mapping[str, Any]
) -> Resource:
    """Store what was sent over what there is; the same again changes nothing.

    Raises:
        InvalidRequest: it is archived.
        Conflict: the new name is taken.
    """
    service.check_active(kind, current)
    body = {**current.body, **sent}
    if body == current.body:
        return current
    if body["name"] != current.body["name"]:
        check_free(tx, kind, body["name"])
    body["updated_by"] = actor.service_account_id
    return service.change(tx, at_home(tx, actor), kind, current, body)


def archive(tx: Tx, actor: Actor, kind: Kind, current: Resource) -> Resource:
    """Archive one; a second time changes nothing."""
    if current.archived_us is None and actor.service_account_id is not None:
        stamped = {**current.body, "archived_by": actor.service_account_id}
        current = service.change(tx, at_home(tx, actor), kind, current, stamped)
    return service.archive(tx, at_home(tx, actor), current)


def check_free(tx: Tx, kind: Kind, name: str) -> None:
    """Refuse a name that another one has, archived ones included.

    Raises:
        Conflict: it is taken.
    """
    taken = select(resources.c.id).where(
        resources.c.workspace_id == default_workspace(tx),
        resources.c.kind == kind.name,
        resources.c.body["name"].as_string() == name,
    )
    if tx.scalar(taken.limit(1)) is not None:
        raise Conflict(f"name: there is a {kind.noun} {name!r} already")


def stamps(found: Resource) -> dict[str, Any]:
    """Return the members that say when and by whom."""
    archived_us = found.archived_us
    return {
        "created_at": rfc3339(from_micros(found.created_us)),
        "updated_at": rfc3339(from_micros(found.updated_us)),
        "archived_at": None if archived_us is None else rfc3339(from_micros(archived_us)),
        "created_by_actor_id": found.body["created_by"],
        "updated_by_actor_id": found.body["updated_by"],
        "archived_by_actor_id": found.body["archived_by"],
    }

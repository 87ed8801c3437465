"""Workspaces: the boundary between tenants of one installation (contract-2 section 20).

Everything configured belongs to one workspace and every credential reaches one. The oldest one is
the default; it is made with the installation and carries what belongs to the organization.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, func, insert, select, update

from intramuros.control.catalog import attached
from intramuros.control.identity import audit, credentials, lockout, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span, fetch
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.base import merge_metadata
from intramuros.protocol.resources.organization import (
    ResidencyCreate,
    ResidencyUpdate,
    WorkspaceCreate,
    WorkspaceUpdate,
)

Shown = dict[str, Any]

MAX_ACTIVE: Final = 100
# A member of the body that is ours and not shown (``allowances.py``).
MODELS: Final = "models"
_COLOR: Final = "#6C5BB9"
_RESIDENCY: Final = {
    "allowed_inference_geos": "unrestricted",
    "default_inference_geo": "global",
    "workspace_geo": "us",
}


@dataclass(frozen=True)
class Filter:
    """Which workspaces to list; ``ids`` None is all of them."""

    ids: Sequence[str] | None = None
    include_archived: bool = False
    include_default: bool = False


def create(tx: Tx, actor: Actor, request: WorkspaceCreate) -> Shown:
    """Make a workspace.

    Raises:
        InvalidRequest: there are too many, or the configuration contradicts itself.
    """
    _check_served(request)
    active = select(func.count()).where(workspaces.c.archived_us.is_(None))
    if (tx.scalar(active) or 0) >= MAX_ACTIVE:
        raise InvalidRequest(f"an organization has at most {MAX_ACTIVE} workspaces; archive one")
    # Never as old as the default one, which is known by its age, whatever the clock says.
    newest_us = tx.scalar(select(func.max(workspaces.c.created_us))) or 0
    workspace_id = actor.ids.new("wrkspc")
    if request.user_profile_id is not None:
        attached.check_exists(tx, request.user_profile_id)
    body = {
        "user_profile_id": request.user_profile_id,
        "display_color": request.display_color or _COLOR,
        "tags": request.tags or {},
        "data_residency": _residency(_RESIDENCY, request.data_residency),
    }
    _audit(tx, actor, "workspace.create", workspace_id)
    tx.execute(
        insert(workspaces).values(
            id=workspace_id,
            name=request.name,
            created_us=max(to_micros(actor.clock.now()), newest_us + 1),
            body=body,
        )
    )
    return get(tx, workspace_id)


def get(tx: Tx, workspace_id: str) -> Shown:
    """Return a workspace as shown.

    Raises:
        NotFound: no such workspace.
    """
    return _shown(_row(tx, workspace_id))


def find(tx: Tx, wanted: Filter, span: Span) -> tuple[list[Shown], bool]:
    """Return a page of workspaces, newest first, and whether there is more (contract-2 R366)."""
    which: list[ColumnElement[bool]] = []
    if wanted.ids is not None:
        which.append(workspaces.c.id.in_(wanted.ids))
    if not wanted.include_archived:
        which.append(workspaces.c.archived_us.is_(None))
    if not wanted.include_default:
        which.append(workspaces.c.id != default_workspace(tx))
    rows, more = fetch(tx, workspaces, which, span)
    return [_shown(row) for row in rows], more


def configure(tx: Tx, actor: Actor, workspace_id: str, request: WorkspaceUpdate) -> Shown:
    """Change a workspace; what was not sent stays.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: archived, the default one's name, another profile than it has, or the
            result contradicts itself.
    """
    _check_served(request)
    row = active_row(tx, workspace_id)
    name = request.name if request.name is not None else row.name
    if name != row.name and workspace_id == default_workspace(tx):
        raise InvalidRequest("name: the default workspace cannot be renamed")
    body = dict(_body(row))
    body["display_color"] = request.display_color or body["display_color"]
    body["data_residency"] = _residency(body["data_residency"], request.data_residency)
    body["user_profile_id"] = _attach(tx, row, request.user_profile_id)
    if request.sent("tags"):
        body["tags"] = _tags(body["tags"], request.tags)
    if (name, body) != (row.name, _body(row)):
        _audit(tx, actor, "workspace.update", workspace_id, changes=_changes(row, name, body))
        changed = update(workspaces).where(workspaces.c.id == workspace_id)
        tx.execute(changed.values(name=name, body=body))
    return get(tx, workspace_id)


def archive(tx: Tx, actor: Actor, workspace_id: str) -> Shown:
    """Archive a workspace and revoke its credentials; a second time changes nothing.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: the default one, or no other key could administer the organization then.
    """
    row = _row(tx, workspace_id)
    if workspace_id == default_workspace(tx):
        raise InvalidRequest("the default workspace cannot be archived")
    if row.archived_us is None:
        now_us = to_micros(actor.clock.now())
        lockout.check_workspace(tx, workspace_id, now_us)
        _audit(tx, actor, "workspace.archive", workspace_id)
        credentials.revoke_workspace(tx, workspace_id, now_us)
        ssh_certificates.reconsider(tx, actor.clock, ssh_certificates.in_workspace(workspace_id))
        archived = update(workspaces).where(workspaces.c.id == workspace_id)
        tx.execute(archived.values(archived_us=max(now_us, row.created_us)))
    return get(tx, workspace_id)


def active_row(tx: Tx, workspace_id: str) -> Row[Any]:
    """Return a workspace's row.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: it is archived.
    """
    row = _row(tx, workspace_id)
    if row.archived_us is not None:
        raise InvalidRequest(f"workspace {workspace_id!r} is archived")
    return row


def settings(tx: Tx, workspace_id: str) -> Mapping[str, Any]:
    """Return everything that is set of a workspace, shown or not.

    Raises:
        NotFound: no such workspace.
    """
    return _body(_row(tx, workspace_id))


def _row(tx: Tx, workspace_id: str) -> Row[Any]:
    row = tx.execute(select(workspaces).where(workspaces.c.id == workspace_id)).first()
    if row is None:
        raise NotFound(f"no workspace {workspace_id[:80]!r}")
    return row


def _body(row: Row[Any]) -> Mapping[str, Any]:
    plain = {"display_color": _COLOR, "tags": {}, "data_residency": _RESIDENCY}
    return {**plain, "user_profile_id": None, **(row.body or {})}


def _shown(row: Row[Any]) -> Shown:
    archived_us = row.archived_us
    return {
        "id": row.id,
        "type": "workspace",
        "name": row.name,
        "created_at": rfc3339(from_micros(row.created_us)),
        "archived_at": None if archived_us is None else rfc3339(from_micros(archived_us)),
        "compartment_id": f"cmpt_{hashlib.sha256(row.id.encode()).hexdigest()[:24]}",
        **{name: value for name, value in _body(row).items() if name != MODELS},
        "external_key_id": None,
    }


def _residency(
    stored: Mapping[str, Any], request: ResidencyCreate | ResidencyUpdate | None
) -> Mapping[str, Any]:
    sent = {} if request is None else request.model_dump(exclude_none=True)
    merged = {**stored, **sent}
    allowed = merged["allowed_inference_geos"]
    if allowed != "unrestricted" and merged["default_inference_geo"] not in allowed:
        raise InvalidRequest(
            "data_residency.default_inference_geo: must be one of allowed_inference_geos"
        )
    return merged


def _tags(stored: dict[str, str], patch: dict[str, str | None] | None) -> dict[str, str]:
    try:
        return {} if patch is None else merge_metadata(stored, patch)
    except ValueError as error:
        raise InvalidRequest(f"tags: {error}") from error


def _check_served(request: WorkspaceCreate | WorkspaceUpdate) -> None:
    if request.external_key_id is not None:
        raise InvalidRequest("external_key_id: this server has no such objects to attach")


def _attach(tx: Tx, row: Row[Any], sent: str | None) -> str | None:
    """Return the profile that a workspace has after an update: once set, it stays (R367)."""
    current: str | None = _body(row)["user_profile_id"]
    if sent is None or sent == current:
        return current
    if row.id == default_workspace(tx):
        raise InvalidRequest("user_profile_id: the default workspace has none")
    if current is not None:
        raise InvalidRequest("user_profile_id: it is attached for good; delete it to detach it")
    attached.check_exists(tx, sent)
    return sent


def _changes(row: Row[Any], name: str, body: Mapping[str, Any]) -> list[Shown]:
    """Return what changes, for the record: plain settings by their values, tags not at all."""
    old = _body(row)
    before = {"name": row.name, "display_color": old["display_color"], **old["data_residency"]}
    after = {"name": name, "display_color": body["display_color"], **body["data_residency"]}
    return [
        {"type": key, "previous_value": str(before[key]), "current_value": str(value)}
        for key, value in after.items()
        if value != before[key]
    ]


def _audit(tx: Tx, actor: Actor, kind: str, workspace_id: str, **more: object) -> None:
    fields = {"id": workspace_id, "by": actor.by, **more}
    audit.record(tx, actor.clock, kind, workspace_id=workspace_id, fields=fields)

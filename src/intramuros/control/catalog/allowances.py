"""Which models a workspace may use: an administrator's list, ours (``/x``), beside its settings.

A workspace without a list may use every model. Checked when an agent is stored, when a session or a
deployment takes one, and again by the meter before every request: a list that became shorter stops
sessions that run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, select, update

from intramuros.control.catalog import rosters, workspaces
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.model.allowed import AllowList, refused
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import workspaces as table
from intramuros.kernel.errors import PermissionDenied

Shown = dict[str, Any]

_BODY: Final = Prepared(select(table.c.body).where(table.c.id == bindparam("of_id")))


def get(tx: Tx, workspace_id: str) -> Shown:
    """Return a workspace's list as shown.

    Raises:
        NotFound: no such workspace.
    """
    body = workspaces.settings(tx, workspace_id)
    return _shown(workspace_id, body.get(workspaces.MODELS))


def put(tx: Tx, actor: Actor, workspace_id: str, models: Sequence[str] | None) -> Shown:
    """Set a workspace's list; None lets it use every model again.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: it is archived.
    """
    row = workspaces.active_row(tx, workspace_id)
    body = dict(row.body or {})
    listed = None if models is None else sorted(set(models))
    if body.pop(workspaces.MODELS, None) != listed:
        audit.record(
            tx,
            actor.clock,
            "workspace.models",
            workspace_id=workspace_id,
            fields={"by": actor.by, "models": listed},
        )
        kept = body if listed is None else {**body, workspaces.MODELS: listed}
        tx.execute(update(table).where(table.c.id == workspace_id).values(body=kept))
    return _shown(workspace_id, listed)


def every(tx: Tx) -> dict[str, AllowList]:
    """Return the lists that there are, by workspace."""
    rows = tx.execute(select(table.c.id, table.c.body).where(table.c.body.is_not(None))).all()
    found = {row.id: (row.body or {}).get(workspaces.MODELS) for row in rows}
    return {name: AllowList.of(models) for name, models in found.items() if models is not None}


def check(tx: Tx, workspace_id: str, models: Sequence[str], known: Catalogue | None = None) -> None:
    """Refuse models that a workspace may not use.

    Raises:
        PermissionDenied: naming them.
    """
    body = tx.run(_BODY, {"of_id": workspace_id}).scalar() or {}
    listed = body.get(workspaces.MODELS)
    if listed is not None:
        deny(models, AllowList.of(listed), known or shipped_catalogue())


def check_agent(
    tx: Tx, workspace_id: str, agent: Mapping[str, Any], known: Catalogue | None = None
) -> None:
    """Refuse an agent, stored or of a session, that could run a model its workspace may not use.

    Raises:
        PermissionDenied: naming the models.
    """
    team = agent.get("multiagent")
    asked = [agent["model"]["id"]]
    if team is not None:
        # A stored roster names agents, whose models were checked when they were stored; that of a
        # session holds their whole definitions.
        found = [member.get("model") for member in rosters.members(team)]
        asked += [model["id"] for model in found if isinstance(model, dict)]
        advisor = rosters.advisor_model(team)
        asked += [] if advisor is None else [advisor]
    check(tx, workspace_id, asked, known)


def deny(models: Sequence[str], allowed: AllowList | None, known: Catalogue) -> None:
    """Refuse models that a list does not permit.

    Raises:
        PermissionDenied: naming them.
    """
    barred = refused(models, allowed, known)
    if barred:
        named = ", ".join(repr(model[:80]) for model in barred)
        raise PermissionDenied(
            f"model: this workspace may not use {named}; an administrator of the organization can "
            "permit it"
        )


def _shown(workspace_id: str, models: Sequence[str] | None) -> Shown:
    return {
        "type": "workspace_models",
        "workspace_id": workspace_id,
        "models": None if models is None else list(models),
    }

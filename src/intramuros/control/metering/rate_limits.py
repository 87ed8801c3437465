"""Rate limits as administrators see and set them (contract-2 R370, R371)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import and_, delete, insert, select

from intramuros.control.catalog import workspaces
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.metering.groups import ENFORCED, Group, Groups
from intramuros.control.metering.rates import Key, Rates
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import rate_limits
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.resources.limits import RateLimitUpdate

Shown = dict[str, Any]

_ORGANIZATION: Final = {"type": "organization"}
_WORKSPACE: Final = {"type": "workspace"}


def entries(groups: Groups, group_type: str | None, model: str | None) -> list[Shown]:
    """Return the organization's entries.

    Raises:
        NotFound: no group lists the model.
    """
    found = [group for group in groups.all if group_type in (None, group.type)]
    if model is not None:
        group = groups.find(model)
        if group is None or group not in found:
            raise NotFound(f"no rate limits for the model {model[:80]!r}")
        found = [group]
    return [_entry(group) for group in found]


def of_workspace(
    tx: Tx, groups: Groups, workspace_id: str, group_type: str | None, *, inherited: bool
) -> list[Shown]:
    """Return a workspace's own limits, and with ``inherited`` the organization's it lives under.

    Raises:
        NotFound: no such workspace.
    """
    workspaces.get(tx, workspace_id)
    own = _own(tx, workspace_id)
    shown = [
        _workspace_entry(group, workspace_id, own.get(group.id, {}), inherited=inherited)
        for group in groups.all
        if group_type in (None, group.type)
    ]
    return [entry for entry in shown if entry["limits"]]


def change(
    tx: Tx, actor: Actor, rates: Rates, target: tuple[str, str], request: RateLimitUpdate
) -> Shown:
    """Set and clear a workspace's limits in one group; they hold from the commit on.

    Args:
        target: the workspace's id and the organization's entry.

    Raises:
        NotFound: no such workspace or entry.
        InvalidRequest: the workspace is archived or the default one, or the group knows no such
            limiter.
    """
    workspace_id, entry_id = target
    workspaces.active_row(tx, workspace_id)
    group = rates.groups.entry(entry_id)
    if group is None:
        raise NotFound(f"no rate limit {entry_id[:80]!r}")
    if workspace_id == default_workspace(tx):
        raise InvalidRequest("the default workspace has the organization's limits and no own ones")
    for one in request.limits:
        if one.type not in ENFORCED[group.type]:
            known = ", ".join(sorted(ENFORCED[group.type]))
            raise InvalidRequest(f"limits: a {group.type} group has {known}, not {one.type}")
    changes = {one.type: one.value for one in request.limits}
    audit.record(
        tx,
        actor.clock,
        "rate_limit.update",
        workspace_id=workspace_id,
        fields={"group": group.id, "by": actor.by, "limits": changes},
    )
    for limiter, value in changes.items():
        row = {"workspace_id": workspace_id, "group_id": group.id, "limiter": limiter}
        tx.execute(
            delete(rate_limits).where(and_(*(rate_limits.c[n] == v for n, v in row.items())))
        )
        if value is not None:
            tx.execute(insert(rate_limits).values(**row, value=value))
    values = overrides(tx)
    tx.after_commit(lambda: rates.override(values))
    own = _own(tx, workspace_id).get(group.id, {})
    return _workspace_entry(group, workspace_id, own, inherited=False)


def overrides(tx: Tx) -> dict[Key, int]:
    """Return every workspace's own limits."""
    return {
        Key(row.workspace_id, row.group_id, row.limiter): row.value
        for row in tx.execute(select(rate_limits)).all()
    }


def _own(tx: Tx, workspace_id: str) -> dict[str, dict[str, int]]:
    own: dict[str, dict[str, int]] = {}
    which = select(rate_limits).where(rate_limits.c.workspace_id == workspace_id)
    for row in tx.execute(which.order_by(rate_limits.c.limiter)).all():
        own.setdefault(row.group_id, {})[row.limiter] = row.value
    return own


def _entry(group: Group) -> Shown:
    return {
        "id": group.entry_id,
        "type": "rate_limit",
        "group": group.shown(),
        "models": group.models(),
        "limits": [{"type": name, "value": value} for name, value in sorted(group.limits.items())],
    }


def _workspace_entry(
    group: Group, workspace_id: str, own: Mapping[str, int], *, inherited: bool
) -> Shown:
    limits: Sequence[Shown] = [
        {
            "type": name,
            "value": own.get(name, group.limits.get(name)),
            "org_limit": group.limits.get(name),
            "source": _WORKSPACE if name in own else _ORGANIZATION,
        }
        for name in sorted({*own, *(group.limits if inherited else ())})
    ]
    return {
        "rate_limit_id": group.entry_id,
        "type": "workspace_rate_limit",
        "workspace_id": workspace_id,
        "group": group.shown(),
        "models": group.models(),
        "limits": limits,
    }

"""Spend limits: caps on what models cost at list price, by day, week and month (R372).

A limit is kept by looking at the sums before each model request. Requests that are under way when
it is reached are let finish, so it can be overshot by what was in flight, and by no more. Above
what administrators set, the operator may have a cap of their own, which nobody changes through the
API (``usage_tier``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, func, insert, or_, select, tuple_, update

from intramuros.control.catalog import workspaces
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.metering.periods import end_us, start_us
from intramuros.control.metering.rates import ORGANIZATION
from intramuros.control.metering.usage import NANO
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import spend_days, spend_limits
from intramuros.control.store.tables import workspaces as workspaces_table
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.limits import (
    OrganizationScope,
    SpendLimitSet,
    UserScope,
    WorkspaceScope,
)

Shown = dict[str, Any]

# The scopes of an organization of this kind; others exist where members have seats.
SCOPES: Final = ("organization", "usage_tier", "workspace")
_CODE: Final = "organization_type_not_supported"


# The operator's own cap for the whole installation, as the contract's usage tiers have one.
TIER: Final = "usage_tier"
TIER_CODE: Final = "enforced_spend_limit_reached"


@dataclass(frozen=True)
class Limit:
    """A limit; ``scope_key`` is a workspace, :data:`ORGANIZATION` or :data:`TIER`."""

    id: str
    scope_key: str
    period: str
    cents: int | None
    created_us: int
    updated_us: int


@dataclass(frozen=True)
class Query:
    """Which limits to list; ``after`` is the (created_us, id) of the last one shown."""

    limit: int
    after: tuple[int, str] | None = None
    scope_types: Sequence[str] | None = None
    workspace_id: str | None = None


@dataclass(frozen=True)
class Reached:
    """A limit that is used up, and what to say of it; ``tier`` if it is the operator's own."""

    id: str
    message: str
    tier: bool = False


def set_limit(tx: Tx, actor: Actor, request: SpendLimitSet) -> Shown:
    """Make a limit, or overwrite the one for the same scope and period.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: it is archived, or the scope is of another kind of organization.
    """
    scope = _scope(tx, request.scope)
    cents = None if request.amount is None else int(request.amount)
    now_us = to_micros(actor.clock.now())
    mine = (spend_limits.c.scope_key == scope, spend_limits.c.period == request.period)
    row = tx.execute(select(spend_limits).where(*mine)).first()
    limit_id = row.id if row else actor.ids.new("spl")
    _audit(tx, actor, "spend_limit.set", limit_id, scope, period=request.period, cents=cents)
    if row is None:
        tx.execute(
            insert(spend_limits).values(
                id=limit_id,
                scope_key=scope,
                period=request.period,
                cents=cents,
                created_us=now_us,
                updated_us=now_us,
            )
        )
    else:
        changed = {"cents": cents, "updated_us": max(now_us, row.updated_us)}
        tx.execute(update(spend_limits).where(*mine).values(**changed))
    return shown(_limit(_row(tx, limit_id)))


def tier(tx: Tx, cents: int) -> Limit | None:
    """Return the operator's cap as a limit, as old as the installation; None for 0, no cap."""
    if not cents:
        return None
    oldest = default_workspace(tx)
    born = select(workspaces_table.c.created_us).where(workspaces_table.c.id == oldest)
    born_us = int(tx.scalar(born) or 0)
    return Limit(f"spl_tier{oldest.partition('_')[2]}", TIER, "monthly", cents, born_us, born_us)


def get(tx: Tx, limit_id: str, cap: Limit | None = None) -> Shown:
    """Return a limit as shown.

    Raises:
        NotFound: no such limit.
    """
    return shown(cap if cap and cap.id == limit_id else _limit(_row(tx, limit_id)))


def find(tx: Tx, query: Query, cap: Limit | None = None) -> tuple[list[Limit], bool]:
    """Return a page of limits, newest first, and whether there is more.

    Raises:
        InvalidRequest: a scope type of another kind of organization.
    """
    which: list[ColumnElement[bool]] = []
    if query.scope_types is not None:
        wrong = [scope for scope in query.scope_types if scope not in SCOPES]
        if wrong:
            raise InvalidRequest(f"scope_type: {wrong[0][:40]!r} does not apply here", code=_CODE)
        is_organization = spend_limits.c.scope_key == ORGANIZATION
        wanted = {"organization": is_organization, "workspace": ~is_organization}
        which.append(or_(False, *(wanted[s] for s in query.scope_types if s in wanted)))
    if query.workspace_id is not None:
        which.append(spend_limits.c.scope_key == query.workspace_id)
        which.append(spend_limits.c.scope_key != ORGANIZATION)
    if query.after is not None:
        which.append(tuple_(spend_limits.c.created_us, spend_limits.c.id) < query.after)
    order = (spend_limits.c.created_us.desc(), spend_limits.c.id.desc())
    chosen = select(spend_limits).where(*which).order_by(*order).limit(query.limit + 1)
    found = [_limit(row) for row in tx.execute(chosen).all()]
    if cap is not None and _lists(query, cap):
        found.append(cap)  # nothing is older
    return found[: query.limit], len(found) > query.limit


def remove(tx: Tx, actor: Actor, limit_id: str, cap: Limit | None = None) -> Shown:
    """Take a limit away.

    Raises:
        NotFound: no such limit.
        InvalidRequest: it is the operator's.
    """
    if cap and cap.id == limit_id:
        raise InvalidRequest("the usage tier's limit is set by the server's operator")
    row = _row(tx, limit_id)
    _audit(tx, actor, "spend_limit.delete", limit_id, row.scope_key, period=row.period)
    tx.execute(delete(spend_limits).where(spend_limits.c.id == limit_id))
    return {"id": limit_id, "type": "spend_limit_deleted"}


def shown(limit: Limit) -> Shown:
    """Return a limit as the API shows it."""
    scope = {"type": limit.scope_key}
    if limit.scope_key not in (ORGANIZATION, TIER):
        scope = {"type": "workspace", "workspace_id": limit.scope_key}
    return {
        "id": limit.id,
        "type": "spend_limit",
        "amount": None if limit.cents is None else str(limit.cents),
        "currency": "USD",
        "is_enabled": True,
        "period": limit.period,
        "scope": scope,
        "created_at": rfc3339(from_micros(limit.created_us)),
        "updated_at": rfc3339(from_micros(limit.updated_us)),
    }


def any_set(tx: Tx) -> bool:
    """Tell whether there is any limit with an amount."""
    which = select(spend_limits.c.id).where(spend_limits.c.cents.is_not(None)).limit(1)
    return tx.scalar(which) is not None


def reached(tx: Tx, workspace_id: str, at_us: int, cap: Limit | None = None) -> Reached | None:
    """Return a limit of the workspace or the organization that is used up now, or None.

    Args:
        cap: the operator's, which goes before all others.
    """
    if cap and cap.cents is not None:
        again = _again(cap, at_us)
        if spent(tx, ORGANIZATION, cap.period, at_us) >= cap.cents * NANO:
            message = (
                "You have reached your API usage limits: your organization has crossed its monthly "
                f"API usage threshold. {again}"
            )
            return Reached(cap.id, message, tier=True)
    scopes = (ORGANIZATION, workspace_id)
    which = select(spend_limits).where(
        spend_limits.c.scope_key.in_(scopes), spend_limits.c.cents.is_not(None)
    )
    over = [
        limit
        for limit in map(_limit, tx.execute(which).all())
        if spent(tx, limit.scope_key, limit.period, at_us) >= (limit.cents or 0) * NANO
    ]
    if not over:
        return None
    last = max(over, key=lambda limit: end_us(limit.period, at_us))  # the one to wait for
    whose = "" if last.scope_key == ORGANIZATION else "workspace "
    message = f"You have reached your specified {whose}API usage limits. {_again(last, at_us)}"
    return Reached(last.id, message)


def spent(tx: Tx, scope: str, period: str, at_us: int) -> int:
    """Return what a scope has spent in the period of a time, in billionths of a cent."""
    total = tx.scalar(
        select(func.sum(spend_days.c.nanocents)).where(
            spend_days.c.scope_key == scope,
            spend_days.c.day_us >= start_us(period, at_us),
            spend_days.c.day_us < end_us(period, at_us),
        )
    )
    return int(total or 0)


def _scope(tx: Tx, scope: OrganizationScope | WorkspaceScope | UserScope) -> str:
    match scope:
        case OrganizationScope():
            return ORGANIZATION
        case WorkspaceScope():
            workspaces.active_row(tx, scope.workspace_id)
            return scope.workspace_id
        case UserScope():
            raise InvalidRequest("scope: this organization limits itself and its workspaces")


def _again(limit: Limit, at_us: int) -> str:
    at = from_micros(end_us(limit.period, at_us)).strftime("%Y-%m-%d at %H:%M UTC")
    return f"You will regain access on {at}."


def _lists(query: Query, cap: Limit) -> bool:
    if query.workspace_id is not None:
        return False
    if query.scope_types is not None and TIER not in query.scope_types:
        return False
    return query.after is None or (cap.created_us, cap.id) < tuple(query.after)


def _limit(row: Row[Any]) -> Limit:
    return Limit(row.id, row.scope_key, row.period, row.cents, row.created_us, row.updated_us)


def _row(tx: Tx, limit_id: str) -> Row[Any]:
    row = tx.execute(select(spend_limits).where(spend_limits.c.id == limit_id)).first()
    if row is None:
        raise NotFound(f"no spend limit {limit_id[:80]!r}")
    return row


def _audit(tx: Tx, actor: Actor, kind: str, limit_id: str, scope: str, **fields: object) -> None:
    body = {"id": limit_id, "scope": scope, "by": actor.by, **fields}
    audit.record(tx, actor.clock, kind, workspace_id=actor.workspace_id, fields=body)

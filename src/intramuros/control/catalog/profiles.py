"""User profiles: whom a platform serves. Nothing here judges or restricts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import USER_PROFILE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import from_micros, parse_rfc3339, rfc3339
from intramuros.protocol.resources.base import merge_metadata
from intramuros.protocol.resources.profiles import (
    ExternalUserDetails,
    ProfileCreate,
    ProfileUpdate,
)

# Clocks of platforms may run ahead of ours by so much (R292).
AHEAD: Final = timedelta(minutes=1)
_OLD_FIELDS: Final = ("external_id", "external_user_onboarded_at")


@dataclass(frozen=True)
class Order:
    """How a list is sorted, and the last row already seen."""

    by: Literal["created_at", "name"] = "created_at"
    way: Literal["asc", "desc"] = "desc"
    after: tuple[Any, ...] | None = None


def create(tx: Tx, actor: Actor, request: ProfileCreate, *, legacy: bool) -> Resource:
    """Store a new profile.

    Raises:
        InvalidRequest: a field of the other shape, or a time ahead of ours.
    """
    config = {
        "access_type": request.access_type,
        "name": request.name,
        "metadata": dict(request.metadata or {}),
        "external": _details(ExternalUserDetails(), request, actor.clock.now(), legacy=legacy),
    }
    return service.create(tx, actor, USER_PROFILE, config)


def update(
    tx: Tx, actor: Actor, profile_id: str, request: ProfileUpdate, *, legacy: bool
) -> Resource:
    """Change a profile.

    Raises:
        NotFound: no such profile here.
        InvalidRequest: a field of the other shape, a time ahead of ours, or a detail cleared.
    """
    current = service.get(tx, actor.workspace_id, USER_PROFILE, profile_id)
    config = dict(current.body)
    if request.access_type is not None:
        config["access_type"] = request.access_type
    if request.sent("name"):
        config["name"] = request.name
    config["metadata"] = _merge(config["metadata"], request.metadata)
    _check_kept(request)
    stored = ExternalUserDetails(**config["external"])
    config["external"] = _details(stored, request, actor.clock.now(), legacy=legacy)
    return service.change(tx, actor, USER_PROFILE, current, config)


def find(tx: Tx, workspace_id: str, order: Order, limit: int) -> tuple[list[Resource], bool]:
    """Return a page, and whether there is more."""
    columns = _columns(order)
    conditions = [
        resources.c.workspace_id == workspace_id,
        resources.c.kind == USER_PROFILE.name,
    ]
    if order.after is not None:
        conditions.append(_beyond(columns, order))
    sorts = [c.asc() if order.way == "asc" else c.desc() for c in columns]
    if order.by == "name":
        sorts[0] = columns[0].asc()  # those without a name come last either way
    ids = tx.execute(
        select(resources.c.id).where(*conditions).order_by(*sorts).limit(limit + 1)
    ).scalars()
    found = [service.get(tx, workspace_id, USER_PROFILE, found_id) for found_id in ids.all()]
    return found[:limit], len(found) > limit


def position(profile: Resource, order: Order) -> tuple[Any, ...]:
    """Return where a profile stands in a list, for the cursor."""
    if order.by == "created_at":
        return (profile.created_us, profile.id)
    name = profile.body["name"]
    return (int(name is None), _low(name or ""), profile.id)


def present(profile: Resource, *, legacy: bool) -> dict[str, Any]:
    """Return the profile as answers show it, in either shape (R290, R291)."""
    body, external = profile.body, profile.body["external"]
    shown = {
        "id": profile.id,
        "type": "user_profile",
        "access_type": body["access_type"],
        "name": body["name"],
        "metadata": body["metadata"],
        "created_at": rfc3339(from_micros(profile.created_us)),
        "updated_at": rfc3339(from_micros(profile.updated_us)),
    }
    if legacy:
        return {
            **shown,
            "trust_grants": {},
            "external_id": external["reference_id"],
            "external_user_onboarded_at": external["onboarded_at"],
        }
    return {
        **shown,
        "external_user_details": external,
        # No programme and no enforcement exists here.
        "programs": {"cyber": None, "efs": None},
        "enforcement_status": "unrestricted",
        "enforcement_actions": [],
    }


def _details(
    stored: ExternalUserDetails,
    request: ProfileCreate | ProfileUpdate,
    now: datetime,
    *,
    legacy: bool,
) -> dict[str, Any]:
    details = stored.model_dump()
    if legacy:
        if request.sent("external_user_details"):
            raise InvalidRequest(
                "external_user_details: under this beta send external_id and "
                "external_user_onboarded_at"
            )
        if request.sent("external_id"):
            details["reference_id"] = request.external_id or None
        if request.external_user_onboarded_at is not None:
            at = request.external_user_onboarded_at
            details["onboarded_at"] = _moment("external_user_onboarded_at", at, now)
        return details
    for name in _OLD_FIELDS:
        if request.sent(name):
            raise InvalidRequest(f"{name}: send external_user_details instead")
    sent = request.external_user_details
    if sent is not None:
        details |= sent.model_dump(exclude_unset=True)
        if sent.onboarded_at is not None:
            name = "external_user_details.onboarded_at"
            details["onboarded_at"] = _moment(name, sent.onboarded_at, now)
    return details


def _check_kept(request: ProfileUpdate) -> None:
    sent = request.external_user_details
    cleared = [
        f"external_user_details.{name}"
        for name in (sent.model_fields_set if sent else ())
        if getattr(sent, name) is None
    ]
    cleared += [
        name
        for name in ("external_user_details", "external_user_onboarded_at")
        if request.sent(name) and getattr(request, name) is None
    ]
    if cleared:
        raise InvalidRequest(f"{min(cleared)}: can be changed but not cleared")


def _moment(name: str, text: str, now: datetime) -> str:
    try:
        at = parse_rfc3339(text)
    except ValueError:
        raise InvalidRequest(f"{name}: expected a timestamp such as 2026-01-31T12:00:00Z") from None
    if at > now + AHEAD:
        raise InvalidRequest(f"{name}: is more than a minute ahead")
    return rfc3339(at)


def _merge(stored: dict[str, str], patch: Mapping[str, str] | None) -> dict[str, str]:
    try:
        return merge_metadata(stored, {key: value or None for key, value in (patch or {}).items()})
    except ValueError as error:
        raise InvalidRequest(f"metadata: {error}") from error


def _columns(order: Order) -> list[ColumnElement[Any]]:
    if order.by == "created_at":
        return [resources.c.created_us, resources.c.id]
    name = resources.c.body["name"].as_string()
    return [case((name.is_(None), 1), else_=0), func.coalesce(func.lower(name), ""), resources.c.id]


def _beyond(columns: list[ColumnElement[Any]], order: Order) -> ColumnElement[bool]:
    """Return the condition of rows behind the last one seen."""
    ways = [order.way] * len(columns)
    if order.by == "name":
        ways[0] = "asc"
    steps = []
    for index, (column, way, last) in enumerate(zip(columns, ways, order.after or (), strict=True)):
        same = [c == v for c, v in zip(columns[:index], order.after or (), strict=False)]
        steps.append(and_(*same, column > last if way == "asc" else column < last))
    return or_(*steps)


def _low(text: str) -> str:
    """Return text with the case of ASCII letters ignored."""
    return "".join(c.lower() if c.isascii() else c for c in text)

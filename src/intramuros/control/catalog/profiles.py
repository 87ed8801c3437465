"""User profiles: whom a platform serves. Nothing here judges or restricts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import USER_PROFILE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
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
    ids: list[str] = []
    for section in _sections(order):
        rows = select(resources.c.id).where(
            resources.c.workspace_id == workspace_id,
            resources.c.kind == USER_PROFILE.name,
            *section.which,
        )
        if section.after is not None:
            ascending = order.way == "asc"
            rows = rows.where(beyond(section.columns, section.after, ascending=ascending))
        sorts = (c.asc() if order.way == "asc" else c.desc() for c in section.columns)
        ids += tx.execute(rows.order_by(*sorts).limit(limit + 1 - len(ids))).scalars()
    found = [service.get(tx, workspace_id, USER_PROFILE, found_id) for found_id in ids]
    return found[:limit], len(found) > limit


def position(profile: Resource, order: Order) -> tuple[Any, ...]:
    """Return where a profile stands in a list, for the cursor."""
    if order.by == "created_at":
        return (profile.created_us, profile.id)
    key = service.sort_key(USER_PROFILE, profile.body)
    return (int(key is None), key or "", profile.id)


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


@dataclass(frozen=True)
class _Section:
    """A part of a list that one index holds in order."""

    columns: tuple[ColumnElement[Any], ...]
    which: tuple[ColumnElement[bool], ...] = ()
    after: tuple[Any, ...] | None = None


def _sections(order: Order) -> list[_Section]:
    """Return the parts that are still to be read; those without a name come last either way."""
    if order.by == "created_at":
        return [_Section((resources.c.created_us, resources.c.id), after=order.after)]
    key, id = resources.c.sort_key, resources.c.id
    is_nameless, name, last_id = order.after or (0, None, None)
    nameless = _Section((id,), (key.is_(None),), (last_id,) if is_nameless else None)
    if is_nameless:
        return [nameless]
    named = _Section((key, id), (key.is_not(None),), None if name is None else (name, last_id))
    return [named, nameless]

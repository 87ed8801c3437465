"""Compliance settings, and ``GET /v1/compliance/activities``, which is in no SDK (D42)."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.boundary import context_of
from intramuros.control.api.lists import time_bound
from intramuros.control.api.pages import check_limit
from intramuros.control.api.replies import reply
from intramuros.control.api.spans import span
from intramuros.control.identity import activities, compliance
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import PermissionDenied
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.compliance import (
    DEFAULT_ACTIVITIES,
    MAX_ACTIVITIES,
    ActivityQuery,
    SettingsUpdate,
)

router = APIRouter(tags=["compliance"])

MAX_URL_CHARS = 2048
_SETTINGS = "/v1/organizations/compliance_settings"

SettingsBody = Annotated[SettingsUpdate, Depends(Body(SettingsUpdate))]
Wanted = Annotated[ActivityQuery, Query()]


@router.get(_SETTINGS)
async def retrieve(_caller: OrgAdmin, svc: ServicesDep) -> Response:
    """Return whether activities are captured."""
    return reply(_settings(on=await svc.db.read(compliance.enabled)))


@router.post(_SETTINGS)
async def update(caller: OrgAdmin, svc: ServicesDep, body: SettingsBody) -> Response:
    """Capture activities from now on, or no more."""
    actor, on = actor_of(svc, caller), body.state.type == "enabled"
    await svc.db.write(lambda tx: activities.set_state(tx, actor, on=on))
    return reply(_settings(on=on))


@router.get("/v1/compliance/activities")
async def find(caller: OrgAdmin, svc: ServicesDep, request: Request, wanted: Wanted) -> Response:
    """List activities, newest first unless asked otherwise."""
    query = _query(wanted)
    ours = {svc.organization_id, activities.organization_tag(svc.organization_id)}
    elsewhere = wanted.organization_ids is not None and ours.isdisjoint(wanted.organization_ids)
    now_us = to_micros(svc.clock.now())

    def read(tx: Tx) -> tuple[list[activities.Shown], bool]:
        if not compliance.enabled(tx):
            raise PermissionDenied(f"activities are not captured: enable them at {_SETTINGS}")
        found, more = activities.find(tx, query, svc.organization_id, now_us)
        return ([], False) if elsewhere else (found, more)

    found, more = await svc.db.page(read)
    actor = actor_of(svc, caller)
    request_id, url = context_of(request.scope).request_id, str(request.url)[:MAX_URL_CHARS]
    await svc.db.write(lambda tx: activities.note_access(tx, actor, request_id, url))
    return reply(span(found, more=more))


def _query(wanted: ActivityQuery) -> activities.Query:
    since_us, before_us = _times(wanted)
    actors = None
    if wanted.actor_ids is not None or wanted.user_ids is not None:
        actors = [*(wanted.actor_ids or ()), *(wanted.user_ids or ())]
    return activities.Query(
        limit=check_limit(wanted.limit, DEFAULT_ACTIVITIES, MAX_ACTIVITIES),
        oldest_first=wanted.order == "asc",
        types=wanted.types,
        not_types=wanted.not_types,
        actor_ids=actors,
        organization_only=wanted.organization_ids is not None,
        since_us=since_us,
        before_us=before_us,
        after_id=wanted.after_id or None,
        before_id=wanted.before_id or None,
    )


def _times(wanted: ActivityQuery) -> tuple[int | None, int | None]:
    """Return the narrowest of the bounds: from when, inclusively, until when, exclusively."""
    since: list[int] = []
    before: list[int] = []
    for comparison, name, text in wanted.bounds():
        at_us = time_bound(name, text) or 0
        # Times are whole microseconds: after one is from the next.
        (since if comparison.startswith("g") else before).append(
            at_us + 1 if comparison in ("gt", "lte") else at_us
        )
    return max(since, default=None), min(before, default=None)


def _settings(*, on: bool) -> dict[str, object]:
    return {"type": "compliance_settings", "state": {"type": "enabled" if on else "disabled"}}

"""``/v1/user_profiles``."""

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import Paging
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.catalog import attached, profiles, service
from intramuros.control.catalog.kinds import DEFAULT_PAGE, USER_PROFILE
from intramuros.control.identity.principal import Principal
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import NotFound
from intramuros.protocol.envelope import BETA_HEADER, parse_betas
from intramuros.protocol.resources.profiles import LEGACY_BETAS, ProfileCreate, ProfileUpdate

router = APIRouter(prefix="/v1/user_profiles", tags=["user profiles"])

# The current shape needs no beta; the dated ones choose the older shape.
Platform = Annotated[Principal, Depends(Gate(beta=None))]
CreateBody = Annotated[ProfileCreate, Depends(Body(ProfileCreate))]
UpdateBody = Annotated[ProfileUpdate, Depends(Body(ProfileUpdate))]
Statuses = Annotated[
    list[Literal["unrestricted", "pending", "restricted", "banned"]] | None,
    Query(alias="enforcement_status[]"),
]


async def _legacy(request: Request) -> bool:
    return bool(LEGACY_BETAS & parse_betas(",".join(request.headers.getlist(BETA_HEADER))))


Legacy = Annotated[bool, Depends(_legacy)]


@router.post("")
async def create(caller: Platform, svc: ServicesDep, body: CreateBody, legacy: Legacy) -> Response:
    """Create a user profile."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: profiles.create(tx, actor, body, legacy=legacy))
    return reply(profiles.present(made, legacy=legacy))


async def _paging(
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    order_by: Annotated[Literal["created_at", "name"], Query()] = "created_at",
    limit: int | None = None,
    page: str | None = None,
) -> tuple[profiles.Order, Paging]:
    return profiles.Order(order_by, order), Paging(limit, page or None)


PagingDep = Annotated[tuple[profiles.Order, Paging], Depends(_paging)]


@router.get("")
async def find(
    caller: Platform,
    svc: ServicesDep,
    legacy: Legacy,
    paging: PagingDep,
    enforcement_status: Statuses = None,
) -> Response:
    """List user profiles; all of them are unrestricted."""
    order, asked = paging
    limit = check_limit(asked.limit, DEFAULT_PAGE, USER_PROFILE.max_page)
    if enforcement_status and "unrestricted" not in enforcement_status:
        return reply(page([], None))
    bound = {
        "list": USER_PROFILE.name,
        "workspace": caller.workspace_id,
        "by": order.by,
        "way": order.way,
    }
    if asked.page is not None:
        order = replace(order, after=tuple(svc.cursors.open(bound, asked.page)))
    found, more = await svc.db.page(lambda tx: profiles.find(tx, caller.workspace_id, order, limit))
    next_page = svc.cursors.seal(bound, profiles.position(found[-1], order)) if more else None
    return reply(page([profiles.present(one, legacy=legacy) for one in found], next_page))


@router.get("/{user_profile_id}")
async def retrieve(
    caller: Platform, svc: ServicesDep, user_profile_id: str, legacy: Legacy
) -> Response:
    """Return a user profile."""
    found = await svc.db.read(
        lambda tx: service.get(tx, caller.workspace_id, USER_PROFILE, user_profile_id)
    )
    return reply(profiles.present(found, legacy=legacy))


@router.post("/{user_profile_id}")
async def update(
    caller: Platform, svc: ServicesDep, user_profile_id: str, body: UpdateBody, legacy: Legacy
) -> Response:
    """Change a user profile."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(
        lambda tx: profiles.update(tx, actor, user_profile_id, body, legacy=legacy)
    )
    return reply(profiles.present(changed, legacy=legacy))


@router.delete("/{user_profile_id}")
async def delete(caller: Platform, svc: ServicesDep, user_profile_id: str) -> Response:
    """Delete a user profile."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> None:
        found = service.get(tx, caller.workspace_id, USER_PROFILE, user_profile_id)
        attached.release(tx, actor, user_profile_id)
        service.remove(tx, actor, found)

    await svc.db.write(work)
    return reply({"id": user_profile_id, "type": "user_profile_deleted"})


@router.post("/{user_profile_id}/enrollment_url")
@router.post("/{user_profile_id}/action_urls")
async def enroll(_caller: Platform, user_profile_id: str) -> Response:
    """Refuse: there is nothing to enroll in."""
    raise NotFound(
        f"user profile {user_profile_id[:80]!r} cannot enroll: the programs belong to the hosted "
        "service, a server of your own has none"
    )

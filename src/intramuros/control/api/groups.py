"""``/v1/organizations/rbac_groups`` and ``rbac_roles``: groups of users and what they give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import Row
from starlette.responses import Response

from intramuros.control.api.access import OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.api.spans import MAX_PAGE
from intramuros.control.catalog.kinds import DEFAULT_PAGE
from intramuros.control.identity import groups, roles
from intramuros.control.identity.bootstrap import made_us
from intramuros.control.identity.groups import Position
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import NotFound
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.people import (
    GroupCreate,
    GroupMemberAdd,
    GroupRoles,
    GroupUpdate,
)

router = APIRouter(prefix="/v1/organizations", tags=["groups"])
own_router = APIRouter(prefix="/x", tags=["groups"])

Shown = dict[str, Any]
Rows = tuple[list[Row[Any]], bool]

CreateBody = Annotated[GroupCreate, Depends(Body(GroupCreate))]
UpdateBody = Annotated[GroupUpdate, Depends(Body(GroupUpdate))]
MemberBody = Annotated[GroupMemberAdd, Depends(Body(GroupMemberAdd))]
RolesBody = Annotated[GroupRoles, Depends(Body(GroupRoles))]

_GROUPS = "/rbac_groups"
_ONE = "/rbac_groups/{rbac_group_id}"
_ROLES = "/rbac_roles"


@dataclass(frozen=True)
class Walk:
    """The parameters of these lists."""

    limit: int
    page: str | None


async def _walk(limit: int | None = None, page: str | None = None) -> Walk:
    return Walk(check_limit(limit, DEFAULT_PAGE, MAX_PAGE), page or None)


WalkDep = Annotated[Walk, Depends(_walk)]


@router.post(_GROUPS)
async def create(caller: OrgAdmin, svc: ServicesDep, body: CreateBody) -> Response:
    """Make a group."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: groups.create(tx, actor, body.name)))


@router.get(_GROUPS)
async def find(_caller: OrgAdmin, svc: ServicesDep, walk: WalkDep) -> Response:
    """List groups, newest first."""
    return await _page(
        svc,
        walk,
        "groups",
        "id",
        groups.present,
        lambda tx, after: groups.find(tx, walk.limit, after),
    )


@router.get(_ONE)
async def retrieve(_caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str) -> Response:
    """Return a group."""
    return reply(await svc.db.read(lambda tx: groups.present(groups.row_of(tx, rbac_group_id))))


@router.post(_ONE)
async def update(
    caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str, body: UpdateBody
) -> Response:
    """Rename a group."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: groups.rename(tx, actor, rbac_group_id, body.name)))


@router.delete(_ONE)
async def remove(caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str) -> Response:
    """Delete a group; its members lose its roles."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: groups.remove(tx, actor, rbac_group_id))
    return reply({"id": rbac_group_id, "type": "rbac_group_deleted"})


@own_router.post(_ONE + "/roles")
async def set_roles(
    caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str, body: RolesBody
) -> Response:
    """Say which roles a group gives; the official API only shows them."""
    actor, role_ids = actor_of(svc, caller), body.role_ids
    changed = await svc.db.write(lambda tx: groups.set_roles(tx, actor, rbac_group_id, role_ids))
    return reply(changed)


@router.get(_ONE + "/members")
async def find_members(
    _caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str, walk: WalkDep
) -> Response:
    """List the users in a group, newest first."""
    return await _page(
        svc,
        walk,
        rbac_group_id,
        "user_id",
        groups.present_member,
        lambda tx, after: groups.members(tx, rbac_group_id, walk.limit, after),
    )


@router.post(_ONE + "/members")
async def add_member(
    caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str, body: MemberBody
) -> Response:
    """Put a user into a group."""
    actor, user_id = actor_of(svc, caller), body.user_id
    made = await svc.db.write(lambda tx: groups.add_member(tx, actor, rbac_group_id, user_id))
    return reply(made)


@router.delete(_ONE + "/members/{user_id}")
async def remove_member(
    caller: OrgAdmin, svc: ServicesDep, rbac_group_id: str, user_id: str
) -> Response:
    """Take a user out of a group."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: groups.remove_member(tx, actor, rbac_group_id, user_id))
    kind = "rbac_group_member_deleted"
    return reply({"type": kind, "rbac_group_id": rbac_group_id, "user_id": user_id})


@router.get(_ROLES)
async def find_roles(_caller: OrgAdmin, svc: ServicesDep, walk: WalkDep) -> Response:
    """List the built-in roles."""
    at = rfc3339(from_micros(await svc.db.read(made_us)))
    return _slice(svc, walk, "roles", [_role(role, at) for role in roles.BUILT_IN])


@router.get(_ROLES + "/{rbac_role_id}")
async def retrieve_role(_caller: OrgAdmin, svc: ServicesDep, rbac_role_id: str) -> Response:
    """Return a built-in role."""
    role = _built_in(rbac_role_id)
    return reply(_role(role, rfc3339(from_micros(await svc.db.read(made_us)))))


@router.get(_ROLES + "/{rbac_role_id}/permissions")
async def find_permissions(
    _caller: OrgAdmin, svc: ServicesDep, rbac_role_id: str, walk: WalkDep
) -> Response:
    """List what a role gives: the scopes of credentials."""
    resource = {"type": "organization", "organization_id": svc.organization_id}
    shown: list[Shown] = [
        {"type": "rbac_role_permission", "action": scope.value, "resource": resource}
        for scope in _built_in(rbac_role_id).scopes
    ]
    return _slice(svc, walk, rbac_role_id, shown)


def _built_in(role_id: str) -> roles.BuiltIn:
    role = roles.BY_ID.get(role_id)
    if role is None:
        raise NotFound(f"no role {role_id[:80]!r}", code="rbac_role_not_found")
    return role


def _role(role: roles.BuiltIn, at: str) -> Shown:
    return {
        "id": role.id,
        "type": "rbac_role",
        "created_at": at,
        "updated_at": at,
        "display_name": role.display_name,
        "source": {"type": "built_in"},
    }


async def _page(
    svc: Services,
    walk: Walk,
    which: str,
    key: str,
    present: Callable[[Row[Any]], Shown],
    read: Callable[[Tx, Position | None], Rows],
) -> Response:
    """Answer with a page of a list whose position is a time and ``key``."""
    bound = {"list": "groups", "which": which}
    after: Position | None = None
    if walk.page is not None:
        at_us, last_id = svc.cursors.open(bound, walk.page)
        after = (at_us, last_id)
    rows, more = await svc.db.page(lambda tx: read(tx, after))
    last = (rows[-1].created_us, getattr(rows[-1], key)) if more else None
    return reply(
        page([present(row) for row in rows], svc.cursors.seal(bound, last) if last else None)
    )


def _slice(svc: Services, walk: Walk, which: str, entries: Sequence[Shown]) -> Response:
    """Answer with a page of a list that never changes; the position is a number."""
    bound = {"list": "roles", "which": which}
    start = svc.cursors.open(bound, walk.page)[0] if walk.page is not None else 0
    end = start + walk.limit
    following = svc.cursors.seal(bound, [end]) if end < len(entries) else None
    return reply(page(entries[start:end], following))

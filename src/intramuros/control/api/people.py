"""``/v1/organizations``: users, invites and the members of workspaces."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Gate, OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.api.spans import SpanDep, span
from intramuros.control.catalog import workspace_users
from intramuros.control.identity import invites, people
from intramuros.control.identity.principal import Principal, Scope
from intramuros.kernel.timing import to_micros
from intramuros.protocol.envelope import SIGN_OUT_BETA
from intramuros.protocol.resources.people import (
    InviteAccept,
    InviteCreate,
    InviteStatus,
    OrganizationRole,
    UserMemberAdd,
    UserMemberUpdate,
    UserUpdate,
)

router = APIRouter(prefix="/v1/organizations", tags=["people"])
own_router = APIRouter(prefix="/x", tags=["people"])

SignOutAdmin = Annotated[
    Principal, Depends(Gate(scope=Scope.ORG_ADMIN, beta=SIGN_OUT_BETA, organization=True))
]
UserBody = Annotated[UserUpdate, Depends(Body(UserUpdate))]
InviteBody = Annotated[InviteCreate, Depends(Body(InviteCreate))]
AcceptBody = Annotated[InviteAccept, Depends(Body(InviteAccept))]
MemberBody = Annotated[UserMemberAdd, Depends(Body(UserMemberAdd))]
MemberPatch = Annotated[UserMemberUpdate, Depends(Body(UserMemberUpdate))]
Roles = Annotated[list[OrganizationRole] | None, Query(alias="roles[]", max_length=20)]
Statuses = Annotated[list[InviteStatus] | None, Query(alias="statuses[]", max_length=20)]

_MEMBERS = "/workspaces/{workspace_id}/members"


@router.get("/users")
async def find_users(
    _caller: OrgAdmin, svc: ServicesDep, at: SpanDep, email: str | None = None, roles: Roles = None
) -> Response:
    """List the organization's members, newest first."""
    wanted = people.Filter(email, roles)
    found, more = await svc.db.page(lambda tx: people.find(tx, wanted, at))
    return reply(span(found, more=more))


@router.get("/users/{user_id}")
async def retrieve_user(_caller: OrgAdmin, svc: ServicesDep, user_id: str) -> Response:
    """Return a member."""
    return reply(await svc.db.read(lambda tx: people.present(people.row_of(tx, user_id))))


@router.post("/users/{user_id}")
async def update_user(caller: OrgAdmin, svc: ServicesDep, user_id: str, body: UserBody) -> Response:
    """Give a member another role."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: people.change_role(tx, actor, user_id, body.role)))


@router.delete("/users/{user_id}")
async def remove_user(caller: OrgAdmin, svc: ServicesDep, user_id: str) -> Response:
    """Remove a member; what acts as them stops at once."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: people.remove(tx, actor, user_id))
    return reply({"id": user_id, "type": "user_deleted"})


@router.post("/users/{user_id}/sign_out")
async def sign_out(caller: SignOutAdmin, svc: ServicesDep, user_id: str) -> Response:
    """End what a member signed in with."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: people.sign_out(tx, actor, user_id)))


@router.post("/invites")
async def create_invite(caller: OrgAdmin, svc: ServicesDep, body: InviteBody) -> Response:
    """Invite an address."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: invites.create(tx, actor, body)))


async def _invite_filter(
    email: str | None = None, roles: Roles = None, statuses: Statuses = None
) -> invites.Filter:
    return invites.Filter(email, roles, statuses)


@router.get("/invites")
async def find_invites(
    _caller: OrgAdmin,
    svc: ServicesDep,
    at: SpanDep,
    wanted: Annotated[invites.Filter, Depends(_invite_filter)],
) -> Response:
    """List invites, newest first; withdrawn ones are left out."""
    now_us = to_micros(svc.clock.now())
    found, more = await svc.db.page(lambda tx: invites.find(tx, wanted, at, now_us))
    return reply(span(found, more=more))


@router.get("/invites/{invite_id}")
async def retrieve_invite(_caller: OrgAdmin, svc: ServicesDep, invite_id: str) -> Response:
    """Return an invite."""
    now_us = to_micros(svc.clock.now())
    return reply(await svc.db.read(lambda tx: invites.get(tx, invite_id, now_us)))


@router.delete("/invites/{invite_id}")
async def remove_invite(caller: OrgAdmin, svc: ServicesDep, invite_id: str) -> Response:
    """Withdraw a pending invite."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: invites.remove(tx, actor, invite_id))
    return reply({"id": invite_id, "type": "invite_deleted"})


@own_router.post("/invites/{invite_id}/accept")
async def accept_invite(
    caller: OrgAdmin, svc: ServicesDep, invite_id: str, body: AcceptBody
) -> Response:
    """Let the invited person in, whom the caller vouches for."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: invites.accept(tx, actor, invite_id, body.name)))


@router.post(_MEMBERS)
async def add_member(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, body: MemberBody
) -> Response:
    """Make a user a member of a workspace."""
    actor, user_id, role = actor_of(svc, caller), body.user_id, body.workspace_role
    made = await svc.db.write(
        lambda tx: workspace_users.add(tx, actor, workspace_id, user_id, role)
    )
    return reply(made)


@router.get(_MEMBERS)
async def find_members(
    _caller: OrgAdmin, svc: ServicesDep, workspace_id: str, at: SpanDep
) -> Response:
    """List the members of a workspace."""
    found, more = await svc.db.page(lambda tx: workspace_users.find(tx, workspace_id, at))
    return reply(span(found, more=more, key="user_id"))


@router.get(_MEMBERS + "/{user_id}")
async def retrieve_member(
    _caller: OrgAdmin, svc: ServicesDep, workspace_id: str, user_id: str
) -> Response:
    """Return a user's membership of a workspace."""
    return reply(await svc.db.read(lambda tx: workspace_users.get(tx, workspace_id, user_id)))


@router.post(_MEMBERS + "/{user_id}")
async def update_member(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, user_id: str, body: MemberPatch
) -> Response:
    """Give a member of a workspace another role there."""
    actor, role = actor_of(svc, caller), body.workspace_role
    changed = await svc.db.write(
        lambda tx: workspace_users.change(tx, actor, workspace_id, user_id, role)
    )
    return reply(changed)


@router.delete(_MEMBERS + "/{user_id}")
async def remove_member(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, user_id: str
) -> Response:
    """Take a user out of a workspace."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: workspace_users.remove(tx, actor, workspace_id, user_id))
    kind = "workspace_member_deleted"
    return reply({"type": kind, "user_id": user_id, "workspace_id": workspace_id})

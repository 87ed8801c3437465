"""Service accounts, their workspaces, federation issuers and rules."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import Paging, PagingDep
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import (
    issuers,
    members,
    named,
    rules,
    service,
    service_accounts,
    workspaces,
)
from intramuros.control.catalog.kinds import DEFAULT_PAGE, ISSUER, RULE, SERVICE_ACCOUNT, Kind
from intramuros.control.catalog.members import Member
from intramuros.control.catalog.service import Query, Resource
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.store.db import Tx
from intramuros.protocol.resources import federation as wire

router = APIRouter(prefix="/v1/organizations", tags=["federation"])

Shown = Mapping[str, Any]

AccountBody = Annotated[wire.ServiceAccountCreate, Depends(Body(wire.ServiceAccountCreate))]
AccountPatch = Annotated[wire.ServiceAccountUpdate, Depends(Body(wire.ServiceAccountUpdate))]
MemberOfBody = Annotated[wire.MemberOf, Depends(Body(wire.MemberOf))]
MemberBody = Annotated[wire.MemberAdd, Depends(Body(wire.MemberAdd))]
MemberPatch = Annotated[wire.MemberUpdate, Depends(Body(wire.MemberUpdate))]
IssuerBody = Annotated[wire.IssuerCreate, Depends(Body(wire.IssuerCreate))]
IssuerPatch = Annotated[wire.IssuerUpdate, Depends(Body(wire.IssuerUpdate))]
RuleBody = Annotated[wire.RuleCreate, Depends(Body(wire.RuleCreate))]
RulePatch = Annotated[wire.RuleUpdate, Depends(Body(wire.RuleUpdate))]
RuleWorkspaceBody = Annotated[wire.RuleWorkspaceAdd, Depends(Body(wire.RuleWorkspaceAdd))]

_ACCOUNTS = "/service_accounts"
_ISSUERS = "/federation_issuers"
_RULES = "/federation_rules"


@router.post(_ACCOUNTS)
async def create_account(caller: OrgAdmin, svc: ServicesDep, body: AccountBody) -> Response:
    """Create a service account."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: service_accounts.create(tx, actor, body))
    return reply(service_accounts.present(made))


@router.get(_ACCOUNTS)
async def find_accounts(_caller: OrgAdmin, svc: ServicesDep, paging: PagingDep) -> Response:
    """List service accounts, newest first."""
    return await _list(svc, SERVICE_ACCOUNT, paging, lambda _, r: service_accounts.present(r))


@router.get(_ACCOUNTS + "/{account_id}")
async def retrieve_account(_caller: OrgAdmin, svc: ServicesDep, account_id: str) -> Response:
    """Return a service account."""
    found = await svc.db.read(lambda tx: named.get(tx, SERVICE_ACCOUNT, account_id))
    return reply(service_accounts.present(found))


@router.post(_ACCOUNTS + "/{account_id}")
async def update_account(
    caller: OrgAdmin, svc: ServicesDep, account_id: str, body: AccountPatch
) -> Response:
    """Change a service account."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(lambda tx: service_accounts.update(tx, actor, account_id, body))
    return reply(service_accounts.present(changed))


@router.post(_ACCOUNTS + "/{account_id}/archive")
async def archive_account(caller: OrgAdmin, svc: ServicesDep, account_id: str) -> Response:
    """Archive a service account; its tokens stop working."""
    actor = actor_of(svc, caller)
    archived = await svc.db.write(lambda tx: service_accounts.archive(tx, actor, account_id))
    return reply(service_accounts.present(archived))


@router.get(_ACCOUNTS + "/{account_id}/workspaces")
async def find_workspaces_of(
    _caller: OrgAdmin, svc: ServicesDep, account_id: str, paging: PagingDep
) -> Response:
    """List the workspaces of a service account."""

    def read(tx: Tx) -> list[Shown]:
        named.get(tx, SERVICE_ACCOUNT, account_id)
        found = members.of_member(tx, SERVICE_ACCOUNT, account_id)
        return [service_accounts.present_member(member) for member in found]

    return await _slice(svc, ["account", account_id], paging, "workspace_id", read)


@router.post(_ACCOUNTS + "/{account_id}/workspaces")
async def add_workspace_of(
    caller: OrgAdmin, svc: ServicesDep, account_id: str, body: MemberOfBody
) -> Response:
    """Add a service account to a workspace."""
    wanted = wire.MemberAdd(service_account_id=account_id, workspace_role=body.workspace_role)
    return await add_member(caller, svc, body.workspace_id, wanted)


@router.delete(_ACCOUNTS + "/{account_id}/workspaces/{workspace_id}")
async def remove_workspace_of(
    caller: OrgAdmin, svc: ServicesDep, account_id: str, workspace_id: str
) -> Response:
    """Take a service account out of a workspace."""
    return await remove_member(caller, svc, workspace_id, account_id)


@router.get("/workspaces/{workspace_id}/service_accounts")
async def find_members(
    _caller: OrgAdmin, svc: ServicesDep, workspace_id: str, paging: PagingDep
) -> Response:
    """List the service accounts of a workspace."""

    def read(tx: Tx) -> list[Shown]:
        found = members.of_workspace(tx, workspace_id)
        return [service_accounts.present_member(member) for member in found]

    return await _slice(svc, ["workspace", workspace_id], paging, "service_account_id", read)


@router.post("/workspaces/{workspace_id}/service_accounts")
async def add_member(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, body: MemberBody
) -> Response:
    """Add a service account to a workspace."""
    actor, account_id = actor_of(svc, caller), body.service_account_id

    def write(tx: Tx) -> Member:
        service.check_active(SERVICE_ACCOUNT, named.get(tx, SERVICE_ACCOUNT, account_id))
        role = body.workspace_role
        return members.add(tx, actor, workspace_id, SERVICE_ACCOUNT, account_id, role)

    return reply(service_accounts.present_member(await svc.db.write(write)))


@router.get("/workspaces/{workspace_id}/service_accounts/{account_id}")
async def retrieve_member(
    _caller: OrgAdmin, svc: ServicesDep, workspace_id: str, account_id: str
) -> Response:
    """Return a service account's membership of a workspace."""

    def read(tx: Tx) -> Member:
        named.get(tx, SERVICE_ACCOUNT, account_id)
        return members.get(tx, workspace_id, SERVICE_ACCOUNT, account_id)

    return reply(service_accounts.present_member(await svc.db.read(read)))


@router.post("/workspaces/{workspace_id}/service_accounts/{account_id}")
async def update_member(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, account_id: str, body: MemberPatch
) -> Response:
    """Give a service account another role in a workspace."""
    actor = actor_of(svc, caller)

    def write(tx: Tx) -> Member:
        service.check_active(SERVICE_ACCOUNT, named.get(tx, SERVICE_ACCOUNT, account_id))
        role = body.workspace_role
        return members.change(tx, actor, workspace_id, SERVICE_ACCOUNT, account_id, role)

    return reply(service_accounts.present_member(await svc.db.write(write)))


@router.delete("/workspaces/{workspace_id}/service_accounts/{account_id}")
async def remove_member(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, account_id: str
) -> Response:
    """Take a service account out of a workspace."""
    actor = actor_of(svc, caller)

    def write(tx: Tx) -> None:
        named.get(tx, SERVICE_ACCOUNT, account_id)
        members.remove(tx, actor, workspace_id, SERVICE_ACCOUNT, account_id)

    await svc.db.write(write)
    kind = "service_account_workspace_member_deleted"
    return reply({"type": kind, "service_account_id": account_id, "workspace_id": workspace_id})


@router.post(_ISSUERS)
async def create_issuer(caller: OrgAdmin, svc: ServicesDep, body: IssuerBody) -> Response:
    """Register an issuer."""
    actor, check = actor_of(svc, caller), svc.exchange.keys.check_url
    made = await svc.db.write(lambda tx: issuers.create(tx, actor, body, check))
    return _issuer(svc, made)


@router.get(_ISSUERS)
async def find_issuers(_caller: OrgAdmin, svc: ServicesDep, paging: PagingDep) -> Response:
    """List issuers, newest first."""
    status = svc.exchange.keys.status
    return await _list(svc, ISSUER, paging, lambda _, r: issuers.present(r, status(r)))


@router.get(_ISSUERS + "/{issuer_id}")
async def retrieve_issuer(_caller: OrgAdmin, svc: ServicesDep, issuer_id: str) -> Response:
    """Return an issuer."""
    return _issuer(svc, await svc.db.read(lambda tx: named.get(tx, ISSUER, issuer_id)))


@router.post(_ISSUERS + "/{issuer_id}")
async def update_issuer(
    caller: OrgAdmin, svc: ServicesDep, issuer_id: str, body: IssuerPatch
) -> Response:
    """Change an issuer."""
    actor, check = actor_of(svc, caller), svc.exchange.keys.check_url
    changed = await svc.db.write(lambda tx: issuers.update(tx, actor, issuer_id, body, check))
    return _issuer(svc, changed)


@router.post(_ISSUERS + "/{issuer_id}/archive")
async def archive_issuer(caller: OrgAdmin, svc: ServicesDep, issuer_id: str) -> Response:
    """Archive an issuer that no live rule refers to."""
    actor = actor_of(svc, caller)
    return _issuer(svc, await svc.db.write(lambda tx: issuers.archive(tx, actor, issuer_id)))


@router.post(_RULES)
async def create_rule(caller: OrgAdmin, svc: ServicesDep, body: RuleBody) -> Response:
    """Create a rule."""
    actor = actor_of(svc, caller)
    return await _rule(svc, lambda tx: rules.create(tx, actor, body))


@router.get(_RULES)
async def find_rules(
    _caller: OrgAdmin, svc: ServicesDep, paging: PagingDep, issuer_id: str | None = None
) -> Response:
    """List rules, newest first."""
    return await _list(svc, RULE, paging, rules.present, issuer_id)


@router.get(_RULES + "/{rule_id}")
async def retrieve_rule(_caller: OrgAdmin, svc: ServicesDep, rule_id: str) -> Response:
    """Return a rule."""
    shown = await svc.db.read(lambda tx: rules.present(tx, named.get(tx, RULE, rule_id)))
    return reply(shown)


@router.post(_RULES + "/{rule_id}")
async def update_rule(
    caller: OrgAdmin, svc: ServicesDep, rule_id: str, body: RulePatch
) -> Response:
    """Change a rule."""
    actor = actor_of(svc, caller)
    return await _rule(svc, lambda tx: rules.update(tx, actor, rule_id, body))


@router.post(_RULES + "/{rule_id}/archive")
async def archive_rule(caller: OrgAdmin, svc: ServicesDep, rule_id: str) -> Response:
    """Archive a rule; tokens that it gave live on."""
    actor = actor_of(svc, caller)
    return await _rule(svc, lambda tx: rules.archive(tx, actor, rule_id))


@router.get(_RULES + "/{rule_id}/workspaces")
async def find_rule_workspaces(
    _caller: OrgAdmin, svc: ServicesDep, rule_id: str, paging: PagingDep
) -> Response:
    """List the workspaces that a rule is enabled for."""

    def read(tx: Tx) -> list[Shown]:
        named.get(tx, RULE, rule_id)
        return [
            rules.present_workspace(member, workspaces.get(tx, member.workspace_id)["name"])
            for member in members.of_member(tx, RULE, rule_id)
        ]

    return await _slice(svc, ["rule", rule_id], paging, "workspace_id", read)


@router.post(_RULES + "/{rule_id}/workspaces")
async def add_rule_workspace(
    caller: OrgAdmin, svc: ServicesDep, rule_id: str, body: RuleWorkspaceBody
) -> Response:
    """Enable a rule for one more workspace."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: rules.enable(tx, actor, rule_id, body.workspace_id))
    return reply(rules.present_workspace(made, None))


@router.delete(_RULES + "/{rule_id}/workspaces/{workspace_id}")
async def remove_rule_workspace(
    caller: OrgAdmin, svc: ServicesDep, rule_id: str, workspace_id: str
) -> Response:
    """Disable a rule for a workspace."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: rules.disable(tx, actor, rule_id, workspace_id))
    kind = "federation_rule_workspace_deleted"
    return reply({"type": kind, "federation_rule_id": rule_id, "workspace_id": workspace_id})


def _issuer(svc: Services, found: Resource) -> Response:
    return reply(issuers.present(found, svc.exchange.keys.status(found)))


async def _rule(svc: Services, act: Callable[[Tx], Resource]) -> Response:
    return reply(await svc.db.write(lambda tx: rules.present(tx, act(tx))))


async def _list(
    svc: Services,
    kind: Kind,
    paging: Paging,
    present: Callable[[Tx, Resource], Shown],
    parent_id: str | None = None,
) -> Response:
    limit = check_limit(paging.limit, DEFAULT_PAGE, kind.max_page)
    bound = {"list": kind.name, "archived": paging.include_archived, "parent": parent_id}
    after = None
    if paging.page is not None:
        at_us, last_id = svc.cursors.open(bound, paging.page)
        after = (at_us, last_id)
    query = Query(limit, after, paging.include_archived, parent_id)

    def read(tx: Tx) -> tuple[list[Shown], tuple[int, str] | None]:
        found, more = service.find(tx, default_workspace(tx), kind, query)
        last = (found[-1].created_us, found[-1].id) if more else None
        return [present(tx, resource) for resource in found], last

    shown, last = await svc.db.page(read)
    return reply(page(shown, svc.cursors.seal(bound, last) if last else None))


async def _slice(
    svc: Services,
    which: list[str],
    paging: Paging,
    member: str,
    read: Callable[[Tx], list[Shown]],
) -> Response:
    """Answer with a page of a short list; the cursor is the last entry's ``member``."""
    limit = check_limit(paging.limit, DEFAULT_PAGE, SERVICE_ACCOUNT.max_page)
    bound = {"list": "members", "which": which}
    after = svc.cursors.open(bound, paging.page)[0] if paging.page is not None else None
    found = await svc.db.page(read)
    start = 0
    for index, entry in enumerate(found):
        if entry[member] == after:
            start = index + 1
    shown = found[start : start + limit]
    more = start + limit < len(found)
    return reply(page(shown, svc.cursors.seal(bound, [shown[-1][member]]) if more else None))

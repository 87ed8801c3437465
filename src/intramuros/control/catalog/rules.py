"""Federation rules: which assertions of an issuer become tokens of which service account."""

from collections.abc import Mapping
from typing import Any

from intramuros.control.catalog import members, named, service
from intramuros.control.catalog.claims import is_sufficient, pins_tenant
from intramuros.control.catalog.issuers import check_manages
from intramuros.control.catalog.kinds import ISSUER, RULE, SERVICE_ACCOUNT
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import Scope
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.federation import RuleCreate, RuleUpdate


def create(tx: Tx, actor: Actor, request: RuleCreate) -> Resource:
    """Store a new rule, enabled for one workspace or for all.

    Raises:
        InvalidRequest: it lets in too much, or names what is archived or is not there.
        Conflict: the name is taken.
        PermissionDenied: a federated caller may not grant these scopes (contract-2 R357).
    """
    check_manages(actor, request.oauth_scope)
    if request.workspace_id is None and not request.applies_to_all_workspaces:
        raise InvalidRequest("workspace_id: needed unless applies_to_all_workspaces is true")
    body = {
        "name": request.name,
        "description": request.description,
        "match": request.match.model_dump(),
        "oauth_scope": request.oauth_scope,
        "service_account_id": request.target.service_account_id,
        "token_lifetime_seconds": request.token_lifetime_seconds,
        "applies_to_all_workspaces": request.applies_to_all_workspaces,
    }
    issuer = named.get(tx, ISSUER, request.issuer_id)
    service.check_active(ISSUER, issuer)
    _check(tx, body, issuer, request.attributes)
    made = named.create(tx, actor, RULE, _stored(body), parent_id=issuer.id)
    if request.workspace_id is not None:
        members.add(tx, actor, request.workspace_id, RULE, made.id)
    return made


def update(tx: Tx, actor: Actor, rule_id: str, request: RuleUpdate) -> Resource:
    """Change a rule; what was not sent stays.

    Raises:
        NotFound: no such rule.
        InvalidRequest: archived, or the result lets in too much.
        Conflict: the new name is taken.
        PermissionDenied: a federated caller may not manage these scopes (contract-2 R357).
    """
    current = named.get(tx, RULE, rule_id)
    service.check_active(RULE, current)
    check_manages(actor, current.body["oauth_scope"])
    check_manages(actor, request.oauth_scope or current.body["oauth_scope"])
    names = ("name", "oauth_scope", "token_lifetime_seconds", "applies_to_all_workspaces")
    sent = {n: v for n in names if (v := getattr(request, n)) is not None}
    if request.sent("description"):
        sent["description"] = request.description or ""
    if request.match is not None:
        sent["match"] = request.match.model_dump()
    if request.target is not None:
        sent["target"] = {"service_account_id": request.target.service_account_id}
    body = {**current.body, **sent}
    body["service_account_id"] = body["target"]["service_account_id"]
    _check(tx, body, named.get(tx, ISSUER, current.parent_id or ""), request.attributes)
    if request.workspace_id is not None:
        _move(tx, actor, rule_id, request.workspace_id)
    if not body["applies_to_all_workspaces"] and not members.of_member(tx, RULE, rule_id):
        raise InvalidRequest("applies_to_all_workspaces: no workspace would remain enabled")
    return named.change(tx, actor, RULE, current, sent)


def archive(tx: Tx, actor: Actor, rule_id: str) -> Resource:
    """Archive a rule: no more exchanges; tokens that it gave live on (contract-2 R360).

    Raises:
        NotFound: no such rule.
        PermissionDenied: a federated caller may not manage its scopes.
    """
    current = named.get(tx, RULE, rule_id)
    check_manages(actor, current.body["oauth_scope"])
    return named.archive(tx, actor, RULE, current)


def enable(tx: Tx, actor: Actor, rule_id: str, workspace_id: str) -> members.Member:
    """Enable a rule for one more workspace.

    Raises:
        NotFound: no such rule or workspace.
        InvalidRequest: one of them is archived.
        Conflict: it is enabled there already.
        PermissionDenied: a federated caller may not manage its scopes.
    """
    current = named.get(tx, RULE, rule_id)
    service.check_active(RULE, current)
    check_manages(actor, current.body["oauth_scope"])
    return members.add(tx, actor, workspace_id, RULE, rule_id)


def disable(tx: Tx, actor: Actor, rule_id: str, workspace_id: str) -> None:
    """Disable a rule for a workspace; a second time changes nothing.

    Raises:
        NotFound: no such rule or workspace.
        InvalidRequest: it is the last one of a rule that needs one.
        PermissionDenied: a federated caller may not manage its scopes.
    """
    current = named.get(tx, RULE, rule_id)
    check_manages(actor, current.body["oauth_scope"])
    enabled = [m.workspace_id for m in members.of_member(tx, RULE, rule_id)]
    if enabled == [workspace_id] and not current.body["applies_to_all_workspaces"]:
        raise InvalidRequest("a rule stays enabled for one workspace at least: archive the rule")
    members.remove(tx, actor, workspace_id, RULE, rule_id)


def present(tx: Tx, found: Resource) -> dict[str, Any]:
    """Return a rule as the API shows it."""
    body = found.body
    issuer = named.get(tx, ISSUER, found.parent_id or "")
    account = named.get(tx, SERVICE_ACCOUNT, body["target"]["service_account_id"])
    return {
        "id": found.id,
        "type": "federation_rule",
        "name": body["name"],
        "description": body["description"],
        "issuer_id": issuer.id,
        "issuer_name": issuer.body["name"],
        "match": body["match"],
        "attributes": None,
        "oauth_scope": body["oauth_scope"],
        "target": {
            "type": "service_account",
            "service_account_id": account.id,
            "service_account_name": account.body["name"],
        },
        "token_lifetime_seconds": body["token_lifetime_seconds"],
        "applies_to_all_workspaces": body["applies_to_all_workspaces"],
        "workspace_id": None,
        "workspace_ids": [m.workspace_id for m in members.of_member(tx, RULE, found.id)],
        **named.stamps(found),
    }


def present_workspace(member: members.Member, name: str | None) -> dict[str, Any]:
    """Return a rule's workspace as the API shows it; the name only in lists."""
    return {
        "type": "federation_rule_workspace",
        "federation_rule_id": member.member_id,
        "workspace_id": member.workspace_id,
        "workspace_name": name,
        "created_at": rfc3339(from_micros(member.created_us)),
        "created_by_actor_id": member.created_by,
    }


def _stored(body: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in body.items() if name != "service_account_id"}
    return {**rest, "target": {"service_account_id": body["service_account_id"]}}


def _check(
    tx: Tx, body: Mapping[str, Any], issuer: Resource, attributes: dict[str, str] | None
) -> None:
    match = body["match"]
    if attributes:
        raise InvalidRequest("attributes: not supported; leave it out")
    if match["condition"] is not None:
        raise InvalidRequest("match.condition: not supported; use subject_prefix and claims")
    if not is_sufficient(match):
        raise InvalidRequest(
            "match: needs claims or a subject_prefix other than *; the audience is not enough"
        )
    if not pins_tenant(issuer.body["issuer_url"], match):
        raise InvalidRequest(
            "match: many share this issuer; name your tenant in subject_prefix or claims"
        )
    account = named.get(tx, SERVICE_ACCOUNT, body["service_account_id"])
    service.check_active(SERVICE_ACCOUNT, account)
    is_admin = account.body["organization_role"] == "admin"
    if Scope.ORG_ADMIN.value in body["oauth_scope"].split() and not is_admin:
        raise InvalidRequest("oauth_scope: org:admin needs a service account with role admin")


def _move(tx: Tx, actor: Actor, rule_id: str, workspace_id: str) -> None:
    enabled = [m.workspace_id for m in members.of_member(tx, RULE, rule_id)]
    if len(enabled) > 1:
        raise InvalidRequest("workspace_id: the rule has several workspaces; use its sub-resource")
    if enabled != [workspace_id]:
        members.add(tx, actor, workspace_id, RULE, rule_id)
        for old in enabled:
            members.remove(tx, actor, old, RULE, rule_id)

"""Service accounts: named identities of programs; what they may do stands in federation rules."""

from typing import Any

from sqlalchemy import select

from intramuros.control.catalog import named
from intramuros.control.catalog.kinds import RULE, SERVICE_ACCOUNT
from intramuros.control.catalog.members import Member
from intramuros.control.catalog.service import Resource
from intramuros.control.identity import credentials, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.federation import ServiceAccountCreate, ServiceAccountUpdate


def create(tx: Tx, actor: Actor, request: ServiceAccountCreate) -> Resource:
    """Store a new service account.

    Raises:
        Conflict: the name is taken.
    """
    return named.create(tx, actor, SERVICE_ACCOUNT, request.model_dump())


def update(tx: Tx, actor: Actor, account_id: str, request: ServiceAccountUpdate) -> Resource:
    """Change a service account; what was not sent stays.

    Raises:
        NotFound: no such service account.
        InvalidRequest: it is archived.
    """
    current = named.get(tx, SERVICE_ACCOUNT, account_id)
    sent: dict[str, Any] = {}
    if request.sent("description"):
        sent["description"] = request.description or ""
    if request.organization_role is not None:
        sent["organization_role"] = request.organization_role
    return named.change(tx, actor, SERVICE_ACCOUNT, current, sent)


def archive(tx: Tx, actor: Actor, account_id: str) -> Resource:
    """Archive a service account; tokens that act as it stop working at once.

    Raises:
        NotFound: no such service account.
        InvalidRequest: a live rule refers to it (contract-2 R360).
    """
    current = named.get(tx, SERVICE_ACCOUNT, account_id)
    target = resources.c.body["target"]["service_account_id"].as_string()
    live = select(resources.c.id).where(
        resources.c.kind == RULE.name, resources.c.archived_us.is_(None), target == account_id
    )
    rule_id = tx.scalar(live.limit(1))
    if rule_id is not None:
        raise InvalidRequest(
            f"federation rule {rule_id!r} targets this service account: archive the rule first"
        )
    archived = named.archive(tx, actor, SERVICE_ACCOUNT, current)
    credentials.revoke_principal(tx, account_id, to_micros(actor.clock.now()))
    ssh_certificates.reconsider(tx, actor.clock, ssh_certificates.of_principal(account_id))
    return archived


def present(found: Resource) -> dict[str, Any]:
    """Return a service account as the API shows it."""
    body = found.body
    return {
        "id": found.id,
        "type": "service_account",
        "name": body["name"],
        "description": body["description"],
        "organization_role": body["organization_role"],
        **named.stamps(found),
    }


def present_member(member: Member) -> dict[str, Any]:
    """Return a service account's membership as the API shows it."""
    return {
        "type": "service_account_workspace_member",
        "service_account_id": member.member_id,
        "workspace_id": member.workspace_id,
        "workspace_role": member.role,
        "implicit": member.implicit,
        "created_by_actor_id": member.created_by,
    }

"""Who did what the compliance feed tells of (contract-2 R376). Pure.

Nine of the documented kinds of actor exist here; what a provider is to its customers, the operator
at the machine is to this organization.
"""

from collections.abc import Mapping
from typing import Any, Final

from intramuros.control.identity.activity_types import EXCHANGE, Type

Fields = Mapping[str, Any]

# How the operator's commands sign (``Actor.by``).
_COMMAND: Final = "intramuros "
_OPERATORS: Final = frozenset({"bootstrap"})


def actor_id(fields: Fields) -> str | None:
    """Return the id by which activities are found: a person's, an account's or a credential's."""
    origin: Fields = fields.get("origin", {})
    found = origin.get("user_id") or origin.get("service_account_id")
    return found or origin.get("credential_id")


def actor(kind: Type, fields: Fields) -> dict[str, Any]:
    """Return the actor of a record as the feed shows it, without what must be looked up.

    Those are a user's ``email_address`` and the URL of a federated identity's ``issuer``.
    """
    origin: Fields | None = fields.get("origin")
    if origin is None:
        return _without_request(fields)
    seen = {"ip_address": origin["address"], "user_agent": origin["agent"]}
    if "user_id" in origin:
        shown = {"type": "user_actor", "user_id": origin["user_id"], "email_address": ""}
    elif "service_account_id" in origin:
        account_id = origin["service_account_id"]
        shown = {"type": "service_account_actor", "service_account_id": account_id}
    elif "credential_id" in origin:
        name = "admin_api_key" if kind.admin else "api"
        key = "admin_api_key_id" if kind.admin else "api_key_id"
        shown = {"type": f"{name}_actor", key: origin["credential_id"]}
    elif kind.name == EXCHANGE and "issuer" in fields:
        shown = _federated(fields)
    else:
        shown = {"type": "unauthenticated_user_actor", "unauthenticated_email_address": None}
    return {**shown, **seen}


def _federated(fields: Fields) -> dict[str, Any]:
    """Return who exchanged an assertion; of one that was refused nothing is vouched for."""
    if "refused" in fields:
        provider = {"type": "oidc", "issuer": None}
        return {"type": "federated_actor", "provider": provider, "subject": None}
    return {
        "type": "federated_identity_actor",
        "issuer": fields["issuer"],
        "subject": fields.get("subject", ""),
        "audience": fields.get("audience", []),
    }


def _without_request(fields: Fields) -> dict[str, Any]:
    by = fields.get("by")
    if isinstance(by, str) and (by in _OPERATORS or by.startswith(_COMMAND)):
        return {"type": "anthropic_actor", "email_address": None}
    return {"type": "system_actor", "service": by}

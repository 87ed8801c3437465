"""Which audit records are activities of the compliance feed, and how they show there. Pure.

The names are the documented ones (contract-2 R377) where there is one. What the documentation lacks
and a self-hoster needs is named in the same manner (Q31); docs/how-to/organization.md lists those.
A record that is not named here is no activity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Fields = Mapping[str, Any]
Shape = Callable[[Fields], dict[str, Any]]

EXCHANGE: Final = "platform_federated_authentication"
ACCESSED: Final = "compliance_api_accessed"


@dataclass(frozen=True)
class Type:
    """An activity type.

    Args:
        name: as the feed shows it.
        shape: makes the type's own members from the record's fields.
        admin: whether API keys that cause it count as admin keys.
    """

    name: str
    shape: Shape
    admin: bool = False


def _members(**sources: str) -> Shape:
    """Return a shape that copies fields: member of the activity = field of the record."""
    return lambda fields: {member: fields.get(source) for member, source in sources.items()}


def _here(**sources: str) -> Shape:
    return _members(**sources, workspace_id="workspace_id")


def _kind(
    kind: str, name: str, acts: Mapping[str, str], shape: Shape, *, admin: bool = False
) -> dict[str, Type]:
    """Return the entries of one kind: its audit verbs and how each ends the activity's name."""
    return {f"{kind}.{act}": Type(f"{name}_{done}", shape, admin) for act, done in acts.items()}


def _changed(**sources: str) -> Shape:
    copied = _members(**sources)

    def shape(fields: Fields) -> dict[str, Any]:
        return {**copied(fields), "updates": fields.get("changes", [])}

    return shape


def _member_role(**sources: str) -> Shape:
    copied = _members(**sources, workspace_id="workspace_id")

    def shape(fields: Fields) -> dict[str, Any]:
        before, after = fields.get("previous"), fields.get("role")
        change = {"type": "workspace_role", "previous_value": before, "current_value": after}
        return {**copied(fields), "updates": [change]}

    return shape


def _credential(fields: Fields) -> dict[str, Any]:
    return {
        "vault_credential_id": fields.get("id"),
        "vault_id": fields.get("parent_id") or fields.get("vault_id"),
        "workspace_id": fields.get("workspace_id"),
    }


def _group_member(fields: Fields) -> dict[str, Any]:
    return {"group_id": fields.get("id"), "member_ids": [fields.get("user_id")]}


def _group_role(fields: Fields) -> dict[str, Any]:
    return {
        "principal_id": fields.get("id"),
        "principal_type": "group",
        "role_id": fields.get("role_id"),
    }


def _invited(fields: Fields) -> dict[str, Any]:
    return {
        "invite_id": fields.get("id"),
        "invited_email": None,  # looked up, because records hold no addresses of people
        "invited_role": fields.get("role"),
        "invited_rbac_group_ids": fields.get("groups", []),
        "invited_seat_tier": None,
    }


def _signed_out(fields: Fields) -> dict[str, Any]:
    ended = fields.get("ended", 0)
    return {
        "user_id": fields.get("id"),
        "completed": True,
        "devices_revoked_count": 0,
        "sessions_revoked_count": ended,
    }


def _settings(fields: Fields) -> dict[str, Any]:
    enabled = fields.get("enabled")
    return {"compliance_api_enabled": enabled, "compliance_api_logging_enabled": enabled}


def _limited(fields: Fields) -> dict[str, Any]:
    limits: Mapping[str, Any] = fields.get("limits", {})
    return {
        "workspace_id": fields.get("workspace_id"),
        "model_group": fields.get("group"),
        "limiter_type": ",".join(sorted(limits)),
        "value": next(iter(limits.values())) if len(limits) == 1 else None,
        "values": dict(limits),
    }


def _exchanged(fields: Fields) -> dict[str, Any]:
    refused = fields.get("refused")
    token = None
    if refused is None:
        token = {"claims": {"sub": fields.get("subject")}, "jti": None}
    parties = (("federation_rule", "rule"), ("federation_issuer", "issuer"))
    named = (*parties, ("service_account", "service_account"), ("access_token", "id"))
    return {
        "event_data": {
            "federation_rule_id": fields.get("rule"),
            "issuer_id": fields.get("issuer"),
            "oidc_token": token,
            "requested_service_account_id": fields.get("service_account"),
        },
        "request_id": fields.get("origin", {}).get("request_id"),
        "resources": [
            {"type": kind, "id": fields[field]} for kind, field in named if field in fields
        ],
        "status": {
            "outcome": "succeeded" if refused is None else "denied",
            "reason": refused,
            "detail": None,
        },
    }


_CHANGES: Final = {"create": "created", "update": "updated", "archive": "archived"}
_ALL: Final = {**_CHANGES, "delete": "deleted"}
_MEMORY: Final = {"memory_store_id": "store_id", "workspace_id": "workspace_id"}

TYPES: Final[Mapping[str, Type]] = {
    # What agents are and do.
    **_kind("agent", "platform_agent", _ALL, _here(agent_id="id")),
    **_kind("session", "platform_agent_session", _ALL, _here(session_id="session_id")),
    **_kind(
        "session.resource",
        "platform_agent_session_resource",
        {"add": "added", "update": "updated", "remove": "deleted"},
        _here(session_id="session_id", resource_id="id"),
    ),
    "session.thread_archive": Type(
        "platform_agent_session_thread_archived",
        _here(session_id="session_id", thread_id="thread"),
    ),
    **_kind(
        "deployment",
        "platform_agent_deployment",
        {**_ALL, "pause": "paused", "unpause": "unpaused", "run": "run_triggered"},
        _here(deployment_id="id"),
    ),
    **_kind("memory_store", "platform_memory_store", _ALL, _here(memory_store_id="id")),
    **_kind(
        "memory",
        "platform_memory",
        {"create": "created", "update": "updated", "delete": "deleted"},
        _members(memory_id="id", memory_version_id="version_id", **_MEMORY),
    ),
    "memory_version.redact": Type(
        "platform_memory_version_redacted",
        _members(memory_id="memory_id", memory_version_id="id", **_MEMORY),
    ),
    "file.create": Type("platform_file_uploaded", _members(file_id="id", session_id="parent_id")),
    "file.delete": Type("platform_file_deleted", _members(file_id="id")),
    "file.download": Type("platform_file_content_downloaded", _members(file_id="id")),
    **_kind(
        "skill_version",
        "platform_skill_version",
        {"create": "created", "delete": "deleted"},
        _members(skill_id="parent_id", version="id"),
    ),
    "tunnel.create": Type("tunnel_created", _members(tunnel_id="id")),
    "tunnel.archive": Type("tunnel_archived", _members(tunnel_id="id")),
    **_kind(
        "tunnel_certificate",
        "tunnel_certificate",
        {"create": "added", "archive": "revoked"},
        _members(tunnel_id="parent_id", certificate_id="id"),
    ),
    **_kind(
        "tunnel_token",
        "tunnel_token",
        {"reveal": "revealed", "rotate": "rotated"},
        _members(
            tunnel_id="tunnel_id",
            tunnel_token_id="id",  # noqa: S106  a member's name, not a secret
            reason="reason",
        ),
    ),
    # The same, undocumented (Q31).
    **_kind("environment", "platform_environment", _ALL, _here(environment_id="id")),
    **_kind(
        "environment_key",
        "platform_environment_key",
        {"create": "created", "revoke": "revoked"},
        _here(environment_id="environment_id", environment_key_id="id"),
    ),
    **_kind(
        "pool_key",
        "platform_pool_key",
        {"create": "created", "revoke": "revoked"},
        _here(pool_key_id="id"),
    ),
    **_kind("vault", "platform_vault", _ALL, _here(vault_id="id")),
    **_kind(
        "vault_credential",
        "platform_vault_credential",
        {**_ALL, "refresh": "refreshed", "refresh_failed": "refresh_failed"},
        _credential,
    ),
    **_kind(
        "webhook_endpoint",
        "platform_webhook",
        {
            **_ALL,
            "disable": "disabled",
            "regenerate_signing_secret": "signing_secret_regenerated",
        },
        _here(webhook_endpoint_id="id"),
    ),
    **_kind(
        "dream",
        "platform_dream",
        {"create": "created", "cancel": "canceled", "archive": "archived", "end": "ended"},
        _here(dream_id="id"),
    ),
    **_kind(
        "user_profile",
        "platform_user_profile",
        {"create": "created", "update": "updated", "delete": "deleted"},
        _here(user_profile_id="id"),
    ),
    # The organization.
    **_kind(
        "telemetry_destination",
        "platform_telemetry_destination",
        {"create": "created", "update": "updated", "delete": "deleted"},
        _members(telemetry_destination_id="id"),
        admin=True,
    ),
    "invite.create": Type("org_user_invite_sent", _invited, admin=True),
    "invite.delete": Type("org_user_invite_deleted", _members(invite_id="id"), admin=True),
    "invite.accept": Type(
        "org_user_invite_accepted", _members(invite_id="id", user_id="user_id"), admin=True
    ),
    "user.add": Type("platform_user_added", _members(user_id="id", role="role"), admin=True),
    "user.role": Type(
        "platform_user_role_updated",
        _members(user_id="id", role="role", previous_role="previous"),
        admin=True,
    ),
    "user.remove": Type("org_user_deleted", _members(deleted_user_id="id"), admin=True),
    "user.sign_out": Type("org_user_trusted_devices_revoked", _signed_out, admin=True),
    **_kind(
        "user",
        "platform_workspace_member",
        {"join": "added", "leave": "removed"},
        _here(user_id="id"),
        admin=True,
    ),
    "user.workspace_role": Type(
        "platform_workspace_member_updated", _member_role(user_id="id"), admin=True
    ),
    **_kind(
        "group",
        "group",
        {"create": "created", "update": "updated", "delete": "deleted"},
        _members(group_id="id", group_name="name"),
        admin=True,
    ),
    **_kind(
        "group",
        "group",
        {"member_add": "member_added", "member_remove": "member_removed"},
        _group_member,
        admin=True,
    ),
    "group.role_add": Type("rbac_role_assigned", _group_role, admin=True),
    "group.role_remove": Type("rbac_role_unassigned", _group_role, admin=True),
    **_kind("workspace", "platform_workspace", _CHANGES, _here(), admin=True),
    "workspace.update": Type("platform_workspace_updated", _changed(workspace_id="id"), admin=True),
    "api_key.create": Type("platform_api_key_created", _members(api_key_id="id"), admin=True),
    "api_key.update": Type("platform_api_key_updated", _changed(api_key_id="id"), admin=True),
    "api_key.revoke": Type("platform_api_key_updated", _changed(api_key_id="id"), admin=True),
    **_kind(
        "service_account",
        "platform_service_account",
        _CHANGES,
        _changed(service_account_id="id"),
        admin=True,
    ),
    **_kind(
        "service_account",
        "platform_service_account_workspace_member",
        {"join": "added", "leave": "removed"},
        _here(service_account_id="id"),
        admin=True,
    ),
    "service_account.role": Type(
        "platform_service_account_workspace_member_updated",
        _member_role(service_account_id="id"),
        admin=True,
    ),
    **_kind(
        "federation_issuer",
        "platform_federation_issuer",
        _CHANGES,
        _changed(federation_issuer_id="id"),
        admin=True,
    ),
    **_kind(
        "federation_rule",
        "platform_federation_rule",
        _CHANGES,
        _changed(federation_rule_id="id"),
        admin=True,
    ),
    **_kind(
        "federation_rule",
        "platform_federation_rule_workspace",
        {"join": "added", "leave": "removed"},
        _here(federation_rule_id="id"),
        admin=True,
    ),
    "federation.exchange": Type(EXCHANGE, _exchanged),
    "rate_limit.update": Type("platform_workspace_rate_limit_updated", _limited, admin=True),
    "spend_limit.set": Type(
        "platform_spend_limit_updated", _members(spend_limit_id="id"), admin=True
    ),
    "spend_limit.delete": Type(
        "platform_spend_limit_deleted", _members(spend_limit_id="id"), admin=True
    ),
    "compliance.update": Type("org_compliance_api_settings_updated", _settings, admin=True),
    "compliance.access": Type(
        ACCESSED,
        _members(
            request_id="request_id",
            request_method="method",
            status_code="status",
            url="url",
            request_body="body",
        ),
    ),
}

NAMES: Final = frozenset(kind.name for kind in TYPES.values())

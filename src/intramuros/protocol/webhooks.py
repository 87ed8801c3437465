"""What webhooks tell of, and how (contract-2 section 13). Pure.

An event carries ids, never objects: who receives one fetches the object and sees it as it is.
"""

import json
from collections.abc import Mapping
from typing import Final, Literal, get_args

SessionKind = Literal[
    "session.status_run_started",
    "session.status_idled",
    "session.status_rescheduled",
    "session.status_terminated",
    "session.budget_reached",
    "session.thread_created",
    "session.thread_idled",
    "session.thread_terminated",
    "session.outcome_evaluation_ended",
    "session.updated",
    "session.deleted",
]
# Older names: they may be subscribed to and nothing emits them (R262, Q23).
LegacyKind = Literal[
    "session.created",
    "session.pending",
    "session.running",
    "session.idled",
    "session.requires_action",
    "session.archived",
]
ResourceKind = Literal[
    "agent.created",
    "agent.updated",
    "agent.archived",
    "agent.deleted",
    "deployment.created",
    "deployment.updated",
    "deployment.paused",
    "deployment.unpaused",
    "deployment.archived",
    "deployment.deleted",
    "deployment_run.started",
    "deployment_run.succeeded",
    "deployment_run.failed",
    "environment.created",
    "environment.updated",
    "environment.archived",
    "environment.deleted",
    "memory_store.created",
    "memory_store.archived",
    "memory_store.deleted",
    "vault.created",
    "vault.archived",
    "vault.deleted",
    "vault_credential.created",
    "vault_credential.archived",
    "vault_credential.deleted",
    "vault_credential.refresh_failed",
]
# A workspace's endpoints hear of these ...
WorkspaceKind = Literal[SessionKind, LegacyKind, ResourceKind]
# ... and the organization's of these, which belong to no workspace (R250, R259).
OrganizationKind = Literal[
    "external_key.failed",
    "external_key.recovered",
    "user_profile.enforcement_action_opened",
    "user_profile.enforcement_action_resolved",
    "user_profile.program_status_updated",
]

LEGACY_KINDS: Final[frozenset[str]] = frozenset(get_args(LegacyKind))
WORKSPACE_KINDS: Final[frozenset[str]] = frozenset(get_args(WorkspaceKind))
ORGANIZATION_KINDS: Final[frozenset[str]] = frozenset(get_args(OrganizationKind))
# What is ever told of.
EMITTED: Final = (WORKSPACE_KINDS | ORGANIZATION_KINDS) - LEGACY_KINDS


def payload(
    event_id: str, created_at: str, organization_id: str, data: Mapping[str, object]
) -> str:
    """Return the body of a delivery (R258), the same for every attempt.

    Args:
        created_at: when it happened, as RFC 3339.
        data: ``type``, ``id`` and what else the kind carries, but for the organization.
    """
    shown = {
        "type": "event",
        "id": event_id,
        "created_at": created_at,
        "data": {**data, "organization_id": organization_id},
    }
    return json.dumps(shown, separators=(",", ":"))

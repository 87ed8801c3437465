"""Which administrative acts webhooks tell of: a few of those that the audit chain records.

The chain records only what really changed, so an update without an effect and a repeated archive
tell nothing (R264, R140), and an archived vault tells of each credential it held (R042). Events of
sessions come from their log instead (control/session/notices.py), except for the last one.
"""

from collections.abc import Mapping
from typing import Final

from intramuros.control.store import outbox
from intramuros.control.store.db import Tx
from intramuros.kernel.timing import Clock

# The audit record's kind → the webhook's.
TOLD: Final[Mapping[str, str]] = {
    "agent.create": "agent.created",
    "agent.update": "agent.updated",
    "agent.archive": "agent.archived",
    "agent.delete": "agent.deleted",
    "deployment.create": "deployment.created",
    "deployment.update": "deployment.updated",
    "deployment.pause": "deployment.paused",
    "deployment.unpause": "deployment.unpaused",
    "deployment.archive": "deployment.archived",
    "deployment.delete": "deployment.deleted",
    "environment.create": "environment.created",
    "environment.update": "environment.updated",
    "environment.archive": "environment.archived",
    "environment.delete": "environment.deleted",
    "memory_store.create": "memory_store.created",
    "memory_store.archive": "memory_store.archived",
    "memory_store.delete": "memory_store.deleted",
    "session.delete": "session.deleted",
    "vault.create": "vault.created",
    "vault.archive": "vault.archived",
    "vault.delete": "vault.deleted",
    "vault_credential.create": "vault_credential.created",
    "vault_credential.archive": "vault_credential.archived",
    "vault_credential.delete": "vault_credential.deleted",
    "vault_credential.refresh_failed": "vault_credential.refresh_failed",
}


def pass_on(
    tx: Tx,
    clock: Clock,
    kind: str,
    *,
    workspace_id: str | None,
    fields: Mapping[str, object],
    source: str,
) -> None:
    """Tell webhooks of an act that is being recorded, if it is one they tell of.

    Args:
        fields: the record's, with the workspace and the session.
        source: the record's hash, which no other has.
    """
    told = TOLD.get(kind)
    if told is None:
        return
    more: dict[str, str] = {}
    if kind.startswith("vault_credential."):
        more["vault_id"] = str(fields.get("vault_id") or fields["parent_id"])
    outbox.tell(
        tx,
        clock,
        told,
        workspace_id=workspace_id,
        resource_id=str(fields["session_id" if kind == "session.delete" else "id"]),
        source=source,
        **more,
    )

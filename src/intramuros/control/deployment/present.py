"""Deployments and runs as answers show them. Nothing is written or waited for."""

from contextlib import suppress
from typing import Any

from sqlalchemy import Row

from intramuros.control.deployment.deployments import Deployment
from intramuros.control.session import uploads
from intramuros.kernel.timing import from_micros, rfc3339

Shown = dict[str, Any]


def deployment(found: Deployment, now_us: int) -> Shown:
    """Return a deployment (contract-2 R208 to R210)."""
    resource, body = found.resource, found.body
    archived = resource.archived_us is not None
    reason = None if archived else body["paused_reason"]
    shown: Shown = {
        "id": resource.id,
        "type": "deployment",
        "name": body["name"],
        "description": body["description"],
        "status": "active" if reason is None else "paused",
        "paused_reason": reason,
        "agent": {"type": "agent", **body["agent"]},
        "environment_id": body["environment_id"],
        "initial_events": body["initial_events"],
        "resources": [uploads.public(resource) for resource in body["resources"]],
        "vault_ids": body["vault_ids"],
        "schedule": _schedule(found, now_us, archived=archived),
        "metadata": body["metadata"],
        "created_at": rfc3339(from_micros(resource.created_us)),
        "updated_at": rfc3339(from_micros(resource.updated_us)),
        "archived_at": _time(resource.archived_us),
    }
    if body["budget"] is not None:
        # Absent, not null, when there is none: that is how the SDK's types have it.
        shown["budget"] = body["budget"]
    return shown


def run(row: Row[Any]) -> Shown:
    """Return a run (contract-2 R230, R231)."""
    trigger: Shown = {"type": "manual"}
    if row.scheduled_us is not None:
        trigger = {"type": "schedule", "scheduled_at": _time(row.scheduled_us)}
    error = None
    if row.error_type is not None:
        error = {"type": row.error_type, "message": row.error_message}
    return {
        "id": row.id,
        "type": "deployment_run",
        "deployment_id": row.deployment_id,
        "agent": {"type": "agent", "id": row.agent_id, "version": row.agent_version},
        "trigger_context": trigger,
        "session_id": row.session_id,
        "error": error,
        "created_at": _time(row.created_us),
    }


def _schedule(found: Deployment, now_us: int, *, archived: bool) -> Shown | None:
    schedule = found.body["schedule"]
    if schedule is None:
        return None
    upcoming: list[int] = []
    # A machine that the database was moved to may not know the zone.
    with suppress(ValueError):
        table = None if archived else found.timetable()
        upcoming = table.upcoming(now_us) if table else []
    return {
        **schedule,
        "last_run_at": _time(found.last_run_us),
        "upcoming_runs_at": [_time(at_us) for at_us in upcoming],
    }


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(from_micros(at_us))

"""Sessions, threads and work items as answers show them. No clock, no waiting."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from sqlalchemy import Row

from intramuros.control.session import budget, uploads
from intramuros.control.session.phase import Status
from intramuros.control.session.state import initial, load
from intramuros.control.session.usage import SECOND_US, UsageTotals, running_us, snapshot
from intramuros.control.store.codec import Part
from intramuros.kernel.timing import micros_rfc3339
from intramuros.protocol.work import Item

Shown = dict[str, Any]


@dataclass(frozen=True)
class _Clock:
    """Time that a thread spent running, and since when it runs if it does."""

    active_us: int
    running_since_us: int | None

    def at(self, now_us: int) -> int:
        return running_us(self.active_us, self.running_since_us, now_us)


@dataclass(frozen=True)
class _Crew(_Clock):
    """What is shown of :class:`~intramuros.control.session.state.Crew`, as it is dumped."""

    members: list[list[_Clock | str | bool | None]]
    departed_us: int | None = None


@dataclass(frozen=True)
class _Kept(_Clock):
    """What is shown of a session's state."""

    usage: UsageTotals
    budget_cents: int | None = None
    crew: _Crew | None = None

    def summed(self, now_us: int) -> int:
        """Return the time that each thread spent running, all added up (contract 10.27)."""
        if self.crew is None:
            return self.at(now_us)
        parts = chain.from_iterable(self.crew.members)
        clocks = [self.crew, *(part for part in parts if isinstance(part, _Clock))]
        return sum(clock.at(now_us) for clock in clocks) + (self.crew.departed_us or 0)


_KEPT: Final = Part(_Kept)


def session(row: Row[Any], now_us: int) -> Shown:
    """Return a session (contract 10.15, 10.27, 10.28).

    Args:
        row: whole, or with the columns of ``listing.SHOWN``.
    """
    kept = _KEPT.of(row.state)
    return {
        "id": row.id,
        "type": "session",
        "status": row.status,
        "agent": row.agent,
        "environment_id": row.environment_id,
        "title": row.title,
        "metadata": row.metadata,
        "resources": [uploads.public(resource) for resource in row.resources],
        "vault_ids": row.vault_ids,
        "budget": budget.shown(kept.budget_cents),
        "deployment_id": row.deployment_id,
        "outcome_evaluations": row.outcomes,
        "stats": _stats(row, kept.summed(now_us), now_us),
        "usage": snapshot(kept.usage, kept.at(now_us)),
        **_times(row),
    }


def thread(row: Row[Any], now_us: int) -> Shown:
    """Return the primary thread of a session (contract 19.1-19.4)."""
    state, status = load(row.state), row.status
    if state.crew is not None:
        # The session's status, clock and usage are those of all its threads.
        status = state.own_status.value
        if state.own_status is Status.IDLE and state.own_due:
            status = Status.RUNNING.value
        own = state.crew
        state = replace(
            state,
            usage=own.usage,
            active_us=own.active_us,
            running_since_us=own.running_since_us,
        )
    # The roster is the session's, not the thread's.
    agent = {name: value for name, value in row.agent.items() if name != "multiagent"}
    idled = state.stop is not None or row.status == "terminated"
    stats = {**_stats(row, state.active_us_at(now_us), now_us), "startup_seconds": 0.0}
    used = snapshot(state.usage, state.active_us_at(now_us), runtime=False)
    return {
        "id": state.thread_id,
        "type": "session_thread",
        "session_id": row.id,
        "parent_thread_id": None,
        "workflow_run_id": None,
        "agent": agent,
        "status": status,
        "stats": stats if state.thread_announced else None,
        "usage": used if idled or state.turn > 1 else None,
        **_times(row),
    }


def child(row: Row[Any], session_id: str, primary_id: str, now_us: int) -> Shown:
    """Return a child thread (contract 19.1-19.4); its times freeze once it has ended."""
    state = load(row.state) if row.state else initial(row.id, self_hosted=False)
    over = row.status == Status.TERMINATED.value
    until_us = row.updated_us if over else now_us
    used = snapshot(state.usage, state.active_us_at(until_us), runtime=False)
    return {
        "id": row.id,
        "type": "session_thread",
        "session_id": session_id,
        "parent_thread_id": primary_id,
        "workflow_run_id": state.run_id,
        "agent": row.agent,
        "status": row.status,
        "stats": {
            "active_seconds": state.active_us_at(until_us) / SECOND_US,
            "duration_seconds": max(0, until_us - row.created_us) / SECOND_US,
            "startup_seconds": 0.0,
        }
        if state.thread_announced
        else None,
        "usage": used if state.stop is not None or over or state.turn > 1 else None,
        **_times(row),
    }


def work(item: Item, secret: str | None = None) -> Shown:
    """Return a work item; only a poll passes its secret (contract 9.8)."""
    return {
        "id": item.id,
        "type": "work",
        "environment_id": item.environment_id,
        "data": {"type": "session", "id": item.session_id},
        "state": item.state.value,
        "secret": secret,
        "metadata": item.metadata,
        "created_at": time_text(item.created_us),
        "acknowledged_at": time_text(item.acknowledged_us),
        "started_at": time_text(item.started_us),
        "latest_heartbeat_at": item.heartbeat,
        "stop_requested_at": time_text(item.stop_requested_us),
        "stopped_at": time_text(item.stopped_us),
    }


def heartbeat(item: Item, *, extended: bool) -> Shown:
    """Return the answer to a heartbeat (contract 9.25)."""
    return {
        "type": "work_heartbeat",
        "last_heartbeat": item.heartbeat or "",
        "lease_extended": extended,
        "state": item.state.value,
        "ttl_seconds": item.ttl_s,
    }


def _times(row: Row[Any]) -> Mapping[str, str | None]:
    return {
        "created_at": time_text(row.created_us),
        "updated_at": time_text(row.updated_us),
        "archived_at": time_text(row.archived_us),
    }


def _stats(row: Row[Any], active_us: int, now_us: int) -> Shown:
    """Return the times; they freeze once the session has ended."""
    until_us = row.updated_us if row.status == "terminated" else now_us
    return {
        "active_seconds": active_us / SECOND_US,
        "duration_seconds": max(0, until_us - row.created_us) / SECOND_US,
    }


def time_text(at_us: int | None) -> str | None:
    """Return a stored time as answers show it."""
    return None if at_us is None else micros_rfc3339(at_us)

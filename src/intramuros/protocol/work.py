"""A work item of an environment's queue and its moves. Pure: times and texts are arguments.

::

                    poll (the state stays, ``claimed_us`` is set)
                    ┌──┐
    enqueue ──► queued ◄─┘──ack──► starting ──first heartbeat──► active
                  ▲ │                │ │                          │ │
                  │ │ stop           │ └─────────── stop ─────────┘ │
                  │ │                │               ▼               │
                  │ │                │            stopping           │
                  │ ▼                │               │ forced stop,   │
                  │ stopped ◄────────┼───────────────┘ lapse          │
                  └───────────────── lapse ──────────────────────────┘

A forced stop leads to ``stopped`` from anywhere. Rules: contract 9.1-9.44, AMB 6-16.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from intramuros.kernel.errors import Conflict, InvalidRequest, PreconditionFailed

SECOND_US: Final = 1_000_000

# Lease lifetimes in seconds (contract 9.27, AMB 7).
DEFAULT_TTL_S: Final = 300
MIN_TTL_S: Final = 10
MAX_TTL_S: Final = 600
# Until the first heartbeat: a worker whose beats all fail gives the item up after 90 s (contract
# 9.29), so that whoever is silent for longer is dead, and its session need not wait any more.
STARTING_TTL_S: Final = 100

# Polling, in milliseconds (contract 9.9, 9.14).
MAX_BLOCK_MS: Final = 999
DEFAULT_RECLAIM_MS: Final = 5_000

NO_HEARTBEAT: Final = "NO_HEARTBEAT"

# Metadata (contract 3.10; the limits are those of sessions, contract 4.5).
MAX_PAIRS: Final = 16
MAX_KEY: Final = 64
MAX_VALUE: Final = 512


class WorkState(StrEnum):
    """States as the API shows them (contract 9.1)."""

    QUEUED = "queued"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPED = "stopped"


# An item in one of these keeps its session served; at most one exists per session (AMB 13).
LIVE: Final = frozenset({WorkState.QUEUED, WorkState.STARTING, WorkState.ACTIVE})
LEASED: Final = frozenset({WorkState.STARTING, WorkState.ACTIVE, WorkState.STOPPING})


@dataclass(frozen=True)
class Item:
    """A work item. Times are microseconds since the epoch.

    Args:
        session_id: what the item is about (contract 9.4).
        claimed_us: when a poll last handed it out, while it is queued and not acknowledged.
        expires_us: when its lease lapses; None while queued or stopped.
        ttl_s: the lease's lifetime, as last asked for.
        heartbeat: the newest heartbeat as the text that clients must echo (contract 9.22).
        dormant: the stop was our own idea, because the session slept.
        stop_seen: the holder has been told that it should stop.
    """

    id: str
    environment_id: str
    session_id: str
    created_us: int
    state: WorkState = WorkState.QUEUED
    claimed_us: int | None = None
    acknowledged_us: int | None = None
    started_us: int | None = None
    stop_requested_us: int | None = None
    stopped_us: int | None = None
    expires_us: int | None = None
    ttl_s: int = DEFAULT_TTL_S
    heartbeat: str | None = None
    dormant: bool = False
    stop_seen: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


def clamp_ttl_s(desired_s: int | None) -> int:
    """Return the lifetime that a wish results in, in seconds (AMB 7)."""
    return DEFAULT_TTL_S if desired_s is None else max(MIN_TTL_S, min(MAX_TTL_S, desired_s))


def hand_out(item: Item, now_us: int) -> Item:
    """Return a queued item as claimed by a poll; it stays queued (contract 9.13)."""
    return replace(item, claimed_us=now_us)


def acknowledge(item: Item, now_us: int) -> Item:
    """Return the item as taken from the queue.

    Raises:
        Conflict: it is not queued any more (AMB 11).
    """
    if item.state is not WorkState.QUEUED:
        raise Conflict(f"work item {item.id} is {item.state}, not queued")
    return replace(
        item,
        state=WorkState.STARTING,
        acknowledged_us=now_us,
        claimed_us=None,
        expires_us=now_us + min(item.ttl_s, STARTING_TTL_S) * SECOND_US,
    )


@dataclass(frozen=True)
class Beat:
    """A heartbeat: its parameters (contract 9.20), and its time as number and as text."""

    now_us: int
    now_text: str
    expected: str | None = None
    desired_ttl_s: int | None = None


def heartbeat(item: Item, beat: Beat) -> tuple[Item, bool]:
    """Return the item after a heartbeat, and whether its lease was extended.

    Raises:
        PreconditionFailed: another one holds the lease, or nobody may (contract 9.22, 9.26).
    """
    if item.state in (WorkState.STOPPING, WorkState.STOPPED):
        return replace(item, stop_seen=True), False
    held = item.heartbeat if item.heartbeat is not None else NO_HEARTBEAT
    if item.state is WorkState.QUEUED or (beat.expected is not None and beat.expected != held):
        raise PreconditionFailed(
            "expected_last_heartbeat does not match: another worker may hold this item",
            code="heartbeat_precondition_failed",
            details={"current_state": lease_state(item)},
        )
    ttl_s = item.ttl_s if beat.desired_ttl_s is None else clamp_ttl_s(beat.desired_ttl_s)
    extended = replace(
        item,
        state=WorkState.ACTIVE,
        started_us=item.started_us if item.started_us is not None else beat.now_us,
        heartbeat=beat.now_text,
        ttl_s=ttl_s,
        expires_us=beat.now_us + ttl_s * SECOND_US,
    )
    return extended, True


def lease_state(item: Item) -> dict[str, object]:
    """Return the lease as a refused heartbeat shows it (contract 9.26)."""
    return {
        "state": item.state.value,
        "ttl_seconds": item.ttl_s,
        "lease_extended": False,
        "last_heartbeat": item.heartbeat,
    }


def stop(item: Item, now_us: int, *, force: bool, dormant: bool = False) -> Item:
    """Return the item after a request to stop (contract 9.34, AMB 12).

    Raises:
        Conflict: it is stopped already (contract 9.35).
    """
    if item.state is WorkState.STOPPED:
        raise Conflict(f"work item {item.id} is stopped already")
    if force or item.state is WorkState.QUEUED:
        return _stopped(item, now_us)
    if item.state is WorkState.STOPPING:
        return item if dormant else replace(item, dormant=False)
    return replace(item, state=WorkState.STOPPING, stop_requested_us=now_us, dormant=dormant)


def revive(item: Item) -> Item | None:
    """Return a sleeping session's item as active again, or None if it is too late.

    Only our own wish to stop can be taken back, and only before the holder has heard of it;
    otherwise the same session would be served twice or not at all.
    """
    if item.state is not WorkState.STOPPING or not item.dormant or item.stop_seen:
        return None
    return replace(
        item,
        state=WorkState.ACTIVE if item.heartbeat is not None else WorkState.STARTING,
        stop_requested_us=None,
        dormant=False,
    )


def lapse(item: Item, now_us: int) -> Item:
    """Return the item after its lease ran out: queued anew, or stopped if that was asked (AMB 10).

    Raises:
        Conflict: the lease has not run out.
    """
    if item.state not in LEASED or item.expires_us is None or item.expires_us > now_us:
        raise Conflict(f"the lease of work item {item.id} has not run out")
    if item.state is WorkState.STOPPING:
        return _stopped(item, now_us)
    return replace(
        item,
        state=WorkState.QUEUED,
        claimed_us=None,
        acknowledged_us=None,
        started_us=None,
        heartbeat=None,
        expires_us=None,
        ttl_s=DEFAULT_TTL_S,
    )


def patch_metadata(item: Item, patch: dict[str, str | None]) -> Item:
    """Return the item with its metadata changed: text sets, null removes (contract 9.39).

    Raises:
        InvalidRequest: too many or too long, each problem named (contract 3.10).
    """
    merged = {**item.metadata, **patch}
    bag = {key: value for key, value in merged.items() if value is not None}
    problems = [
        *(f"key {key!r} must have 1 to {MAX_KEY} characters" for key in bag if _bad_key(key)),
        *(
            f"value of {key!r} is longer than {MAX_VALUE} characters"
            for key, value in bag.items()
            if len(value) > MAX_VALUE
        ),
    ]
    if len(bag) > MAX_PAIRS:
        problems.append(f"{len(bag)} pairs, at most {MAX_PAIRS} are allowed")
    if problems:
        raise InvalidRequest("metadata: " + "; ".join(problems), code="invalid_metadata")
    return replace(item, metadata=bag)


def _bad_key(key: str) -> bool:
    return not 1 <= len(key) <= MAX_KEY


def _stopped(item: Item, now_us: int) -> Item:
    return replace(
        item,
        state=WorkState.STOPPED,
        stop_requested_us=item.stop_requested_us or now_us,
        stopped_us=now_us,
        claimed_us=None,
        expires_us=None,
    )

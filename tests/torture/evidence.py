"""Everything that is left of a world, as plain values that can be judged without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intramuros.control.store.records import Record
from tests.torture.journal import Entry, entries


@dataclass(frozen=True)
class SessionEvidence:
    """A session as the database holds it, and as the API tells it.

    Args:
        state: what is stored as the fold of the log.
        told: the public events, as the list shows them.
    """

    id: str
    rows: Sequence[Record]
    last_seq: int
    status: str
    state: Mapping[str, Any]
    told: Sequence[Mapping[str, Any]]
    self_hosted: bool = True


@dataclass(frozen=True)
class Lease:
    """A row of the durable queue."""

    id: str
    queue: str
    key: str
    state: str


@dataclass(frozen=True)
class Effect:
    """A mark that a tool left in a sandbox: whose, what, and when by the machine's clock."""

    worker: str
    nonce: str
    at_ns: int


@dataclass(frozen=True)
class Evidence:
    """What the checker looks at.

    Args:
        clients: journals of clients, by name.
        model: the model's journal; ``upstream`` the MCP server's.
        chains: the audit chain of each program, by name: its lines.
        relayed: what the edge wrote down of the bytes that it passed on.
        inside: texts from inside the sandboxes, by file.
        left: processes and connections that should be gone.
        secrets: texts that must be nowhere outside their places.
        skewed_us: the farthest that a clock was moved.
        unfinished: clients that still waited when time was up.
    """

    sessions: Mapping[str, SessionEvidence] = field(default_factory=dict)
    leases: Sequence[Lease] = ()
    clients: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    model: Sequence[Entry] = ()
    upstream: Sequence[Entry] = ()
    effects: Sequence[Effect] = ()
    reached: Sequence[str] = ()
    chains: Mapping[str, Sequence[str]] = field(default_factory=dict)
    relayed: Sequence[bytes] = ()
    inside: Mapping[str, str] = field(default_factory=dict)
    left: Sequence[str] = ()
    crashes: Sequence[str] = ()
    integrity: str = "ok"
    secrets: Sequence[str] = ()
    skewed_us: int = 0
    unfinished: Sequence[str] = ()


def client_journals(folder: Path) -> dict[str, list[Entry]]:
    """Return the journals of all clients."""
    return {file.stem: entries(file) for file in sorted(folder.glob("client-*.jsonl"))}


def effects_of(worker: str, log: Path) -> tuple[list[Effect], list[str]]:
    """Return the marks in a worker's file, and those that say that something forbidden worked."""
    found: list[Effect] = []
    reached: list[str] = []
    for line in log.read_text().splitlines() if log.exists() else ():
        first, _, second = line.partition(" ")
        if first == "REACHED":
            reached.append(second)
        else:
            found.append(Effect(worker, first, int(second)))
    return found, reached

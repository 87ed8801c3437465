"""What holds for every work item of one worker, and how serving one can end."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from intramuros.execution.egress.station import Station
from intramuros.execution.figures import Figures
from intramuros.execution.memory import MemoryTerms
from intramuros.execution.server import Server


class Outcome(StrEnum):
    """How serving an item ended."""

    RACED = "raced"
    SKIPPED = "skipped"
    ENDED = "session_ended"
    IDLE = "idle"
    DRAINED = "drained"
    LEASE = "lease"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Terms:
    """What holds for every item of one worker."""

    max_idle_s: float
    lease_ttl_s: int | None = None
    memory: MemoryTerms | None = None
    """None leaves memory stores out of sandboxes."""
    server: Server = field(default_factory=lambda: Server(""))
    """For what only an Intramuros server has; without an address there is none."""
    files: Path = Path("files")
    """Where the files of cloud sessions lie on this host."""
    freeze_after_s: float = 15.0
    """Seconds after the end of a turn until the sandbox stands still; ``max_idle_s`` or more: never
    while the item is held."""
    station: Station | None = None
    """The way out of sandboxes; None gives them no network."""
    figures: Figures = field(default_factory=Figures)

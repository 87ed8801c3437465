"""Where the two halves of egress meet: what captures connections, and what judges them.

The capture knows names and ports only; every decision about what may be said to whom is the gate's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.names import Names, canonical


class Gate(Protocol):
    """Judges and forwards one sandbox's connections."""

    async def serve(self, client: Leg, name: str, port: int) -> None:
        """Serve one captured TCP connection, and close it; raises nothing but cancellation.

        Args:
            client: the sandbox's end.
            name: whom the sandbox looked up; admitted at that time.
            port: that it connected to.
        """
        ...

    async def serve_proxied(self, client: Leg) -> None:
        """Serve one connection to the sandbox's proxy, and close it; raises like ``serve``."""
        ...


@dataclass(frozen=True)
class Passage:
    """What the sandbox of one session may reach, and what it is told for that."""

    names: Names
    gate: Gate
    trust: Path | None = None
    """PEM certificates that programs inside trust instead of the system's; readable by all."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of programs inside; placeholders, never a secret."""
    path: tuple[str, ...] = ()
    """Directories inside where programs are looked for first."""


__all__ = ["Gate", "Names", "Passage", "canonical"]

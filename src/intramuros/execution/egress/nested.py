"""A connection inside of another one's TLS: to a host, through a proxy that is spoken to in TLS."""

import asyncio
from typing import Any

from intramuros.execution.egress.leg import Leg


def within(outer: Leg) -> Leg:
    """Return a leg whose bytes travel inside ``outer``, which has agreed on TLS.

    The outer one is its carrier from now on, and must not be read from or written to any more.
    """
    inner = Leg()
    inner.connection_made(Carrier(outer))
    outer.carry(inner)
    return inner


class Carrier(asyncio.Transport):
    """What the inner leg takes for its socket."""

    def __init__(self, outer: Leg) -> None:
        super().__init__()
        self._outer = outer

    def write(self, data: Any) -> None:  # noqa: ANN401  bytes of any kind, as asyncio has it
        """Send bytes inside the outer TLS."""
        self._outer.put(bytes(data))

    def is_closing(self) -> bool:
        """Tell whether the outer connection ends."""
        return not self._outer.alive

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  asyncio's
        """Return what is known of the socket beneath."""
        return self._outer.about(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The outer leg has its own."""

    def get_write_buffer_size(self) -> int:
        """Return how much waits to be sent."""
        return self._outer.unsent

    def pause_reading(self) -> None:
        """Hold the other end back."""
        self._outer.hold(held=True)

    def resume_reading(self) -> None:
        """Let the other end go on."""
        self._outer.hold(held=False)

    def can_write_eof(self) -> bool:
        """TLS ends both ways at once."""
        return False

    def write_eof(self) -> None:
        """Say nothing: TLS ends both ways at once."""

    def close(self) -> None:
        """Close the outer connection once everything was sent."""
        self._outer.shut()

    def abort(self) -> None:
        """Close the outer connection at once."""
        self._outer.abort()

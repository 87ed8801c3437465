"""Up to where the database was written when a request came: what its lists hold at least.

A client may have been answered by any server, and told others. So a list may come from a replica
only if that has all that was committed before the list was asked for. The first read of a request
(who is asking) tells where the database stood then, at no cost of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Final

# Where a connection's info has the position of the snapshot that it reads.
POSITION: Final = "position"


@dataclass(frozen=True)
class Position:
    """A place in what a PostgreSQL server has written.

    Args:
        system: the number that ``initdb`` gave the cluster; replicas have their primary's.
        timeline: which of the histories of that cluster; a promotion begins another.
        offset: bytes of the write-ahead log.
    """

    system: int
    timeline: int
    offset: int


@dataclass
class Arrival:
    """One request that came."""

    position: Position | None = None
    """Where the database stood since; None as long as nobody has looked, or after a change."""


_CURRENT: ContextVar[Arrival | None] = ContextVar("arrival", default=None)


@contextmanager
def arriving() -> Iterator[Arrival]:
    """Serve a request until the block ends; reads note where the database stands."""
    arrival = Arrival()
    token = _CURRENT.set(arrival)
    try:
        yield arrival
    finally:
        _CURRENT.reset(token)


def current() -> Arrival | None:
    """Return the request that is served here, if there is one."""
    return _CURRENT.get()


def note(context: Context, position: Position | None) -> None:
    """Note where the database stood when a read began that a request asked for."""
    arrival = context.get(_CURRENT)
    if arrival is not None:
        arrival.position = position


def forget() -> None:
    """Know that something was written for this request, which its lists must hold too."""
    arrival = _CURRENT.get()
    if arrival is not None:
        arrival.position = None


def offset_of(text: str) -> int:
    """Return a position of the write-ahead log as a number.

    Args:
        text: as PostgreSQL writes it, two hexadecimal numbers: ``16/B374D848``.
    """
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)

"""Connections to hosts that wait for another request of the same sandbox.

Most programs open a connection for each request. Where the last one to the same place is still good
and idle, a request that can safely be sent twice (RFC 9110 9.2.1, without a body) takes it over,
which saves name, TCP and TLS. Should the host have hung up meanwhile, the request goes out once
more on a new connection: nothing had come back. Other requests are not exposed to that.

Nothing here is shared between sandboxes, and a connection that carried a lent header, which one
process alone may use, is not kept.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from intramuros.execution.egress.http1 import Head, Place
from intramuros.execution.egress.leg import Leg
from intramuros.kernel.timing import Clock

# A host may hang up on a connection that rests; we do first.
REST_S: Final = 10.0
# Of one sandbox, whose descriptors are counted: few hosts, and few programs at once.
MAX_RESTING: Final = 4
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
# Known to bind who somebody is to the connection, not to the request.
_BOUND: Final = (b"negotiate", b"ntlm")


@dataclass(eq=False)
class Resting:
    """An idle connection to a host."""

    place: Place
    leg: Leg
    since_s: float
    bound: bool = False
    """Whether it carried what is one program's alone."""

    def good(self, now_s: float) -> bool:
        """Tell whether it can carry another request."""
        return now_s - self.since_s <= REST_S and not self.leg.stale()


class Pool:
    """The idle connections of one sandbox, the one that rested longest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._resting: list[Resting] = []

    def __len__(self) -> int:
        return len(self._resting)

    def take(self, place: Place) -> Leg | None:
        """Return a connection to a place that is still good, the latest; drop what is not."""
        now_s = self._clock.monotonic()
        self._resting, tired = _parted(self._resting, now_s)
        for one in tired:
            one.leg.abort()
        for one in reversed(self._resting):
            if one.place == place:
                self._resting.remove(one)
                return one.leg
        return None

    def rest(self, resting: Resting) -> None:
        """Keep a connection for a while; the one that rested longest makes room."""
        if self._closed:
            resting.leg.abort()
            return
        self._resting.append(resting)
        while len(self._resting) > MAX_RESTING:
            self._resting.pop(0).leg.abort()
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(REST_S, self._tidy)

    def _tidy(self) -> None:
        """Close what rested too long, and look again while anything rests."""
        self._sweep = None
        self._resting, tired = _parted(self._resting, self._clock.monotonic())
        for one in tired:
            one.leg.abort()
        if self._resting:
            self._sweep = asyncio.get_running_loop().call_later(REST_S / 2, self._tidy)

    def close(self) -> None:
        """Close all of them, and whatever else is left here. Idempotent."""
        self._closed = True
        for one in self._resting:
            one.leg.abort()
        self._resting.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def repeatable(head: Head) -> bool:
    """Tell whether a request may be sent a second time if nothing came back."""
    return head.method in _SAFE and head.length == 0 and not head.websocket


def shareable(head: Head) -> bool:
    """Tell whether a connection that carried a request may carry another program's."""
    return not head.header(b"authorization").strip().lower().startswith(_BOUND)


def _parted(resting: list[Resting], now_s: float) -> tuple[list[Resting], list[Resting]]:
    good: list[Resting] = []
    tired: list[Resting] = []
    for one in resting:
        (good if one.good(now_s) else tired).append(one)
    return good, tired

"""What one sandbox's next connection to a host may resume: TLS sessions that were verified lately.

A resumed handshake is shorter by the host's certificates, which were judged when the session began;
so it is kept for minutes only, for the very name and port, and for one sandbox alone: two sandboxes
have nothing in common that a host could tell them by.
"""

from collections import OrderedDict
from typing import Final

from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.leg import Leg
from intramuros.kernel.timing import Clock

TICKET_S: Final = 300.0
# One takes some kilobytes.
MAX_TICKETS: Final = 64


class Tickets:
    """The sessions of one sandbox, by place."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Place, tuple[float, object]] = OrderedDict()

    def get(self, place: Place) -> object:
        """Return a session to resume, or None."""
        begun_s, session = self._kept.get(place, (0.0, None))
        if session is not None and self._clock.monotonic() - begun_s > TICKET_S:
            del self._kept[place]
            return None
        return session

    def keep(self, place: Place, leg: Leg) -> None:
        """Keep a connection's session, if its host gave one and none is kept yet."""
        if place in self._kept or place.scheme != "https":
            return
        session = leg.session
        if session is None:
            return
        self._kept[place] = (self._clock.monotonic(), session)
        if len(self._kept) > MAX_TICKETS:
            self._kept.popitem(last=False)

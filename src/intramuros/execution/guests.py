"""Who is in which sandbox in person, and how they are asked to leave."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

# A connection that is told to end is gone at once, unless its other end is.
_LEAVE_S: Final = 3.0


@dataclass(eq=False)
class Guest:
    """One person's connection to one sandbox."""

    session_id: str
    who: str
    close: Callable[[str], None]
    """Ends the connection, soon, with a reason for its end."""
    since_s: float
    seen_s: float
    """When it last did anything, on the clock of whoever let it in."""
    bytes_in: int = 0
    bytes_out: int = 0


class Guests:
    """The guests of one worker."""

    def __init__(self) -> None:
        self._here: dict[str, set[Guest]] = {}
        self._left = anyio.Event()

    def enter(self, guest: Guest) -> None:
        """Note that somebody came."""
        self._here.setdefault(guest.session_id, set()).add(guest)

    def leave(self, guest: Guest) -> None:
        """Note that somebody is gone. Idempotent."""
        among = self._here.get(guest.session_id, set())
        among.discard(guest)
        if not among:
            self._here.pop(guest.session_id, None)
        self._left.set()
        self._left = anyio.Event()

    def all(self) -> list[Guest]:
        """Return everybody."""
        return [guest for among in self._here.values() for guest in among]

    def of(self, session_id: str) -> int:
        """Return how many are in a session's sandbox."""
        return len(self._here.get(session_id, ()))

    def dismiss(self, session_id: str, why: str) -> None:
        """Ask everybody in a session's sandbox to leave."""
        for guest in list(self._here.get(session_id, ())):
            guest.close(why)

    async def evict(self, session_id: str, why: str) -> None:
        """See everybody out of a session's sandbox."""
        self.dismiss(session_id, why)
        with anyio.move_on_after(_LEAVE_S, shield=True):
            await self.empty(session_id)

    async def empty(self, session_id: str) -> None:
        """Return once nobody is in a session's sandbox."""
        while self.of(session_id):
            await self._left.wait()

    async def emptied(self, session_id: str) -> bool:
        """Wait until nobody is in a session's sandbox; True if somebody was.

        Their own limits end that, so it may take long.
        """
        if not self.of(session_id):
            return False
        await self.empty(session_id)
        return True

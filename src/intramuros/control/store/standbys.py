"""The read replicas of a database: which of them reads a list, if any does."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import anyio

from intramuros.control.store.arrival import Position
from intramuros.control.store.drivers import Elsewhere
from intramuros.control.store.standby import LONGEST_S, PROMPT_S, Ask, Standby
from intramuros.control.store.standing import RESTING
from intramuros.control.store.transactions import landed
from intramuros.control.store.tx import Tx

T = TypeVar("T")

# What the server's own limit did not end by then, in seconds.
_LATE_S: Final = LONGEST_S + PROMPT_S


class Standbys:
    """Reads lists where there is least to do.

    Args:
        urls: of the replicas, as for :class:`Standby`.
        statement_s: seconds that a statement may take; 0 for as long as it takes.
    """

    def __init__(self, urls: Sequence[str], statement_s: float) -> None:
        self.all: Final = [Standby(url, statement_s) for url in urls]

    def any_ready(self) -> bool:
        """Tell whether a list is worth a try at one of them."""
        # Each is asked: it also sees after one that failed.
        ready = [one.ready() for one in self.all]
        if not any(ready):
            self.all[0].count(RESTING)
        return any(ready)

    async def read(self, work: Callable[[Tx], T], position: Position) -> T:
        """Read a list from a replica that has all of ``position``.

        Raises:
            Elsewhere: none has, or can.
            Exception: whatever ``work`` raised.
        """
        ready = [one for one in self.all if one.ready()]
        if not ready:
            raise Elsewhere(RESTING)
        standby = min(ready, key=lambda one: one.waiting)
        ask = Ask(work, position)
        try:
            standby.put(ask)
        except Elsewhere as error:
            standby.count(error.reason)
            raise
        try:
            await _wait(ask, standby)
        except BaseException:
            ask.dropped.set()
            raise
        return ask.done.result()

    def close(self) -> None:
        """Release all connections."""
        for one in self.all:
            one.close()


async def _wait(ask: Ask[Any], standby: Standby) -> None:
    """Wait until a list was read, as long as the replica is alive.

    Raises:
        Elsewhere: it took too long.
    """
    landing = landed(ask.done)
    for limit_s in (PROMPT_S, _LATE_S):
        with anyio.move_on_after(limit_s):
            await landing.wait()
        if ask.done.done():
            return
        if not ask.begun:
            break
    raise Elsewhere(standby.drop(ask))

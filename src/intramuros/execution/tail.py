"""Follow one session's events: open the stream, then read the history, then the stream.

In that order nothing can fall between the two (contract 22.1); what comes twice is recognised by
its id. Any cut, a failed history included, means another try with back-off.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import anyio

from intramuros.execution.client import Away, Refused
from intramuros.execution.dispatch import Dispatch, Event
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s

log = logger("tail")

# Contract 22.2.
BACKOFF_BASE_S: Final = 0.5
BACKOFF_CAP_S: Final = 10.0


class Source(Protocol):
    """Where events come from."""

    def stream(self) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Open the live stream."""
        ...

    async def history(self) -> list[Event]:
        """Return all events so far."""
        ...


class Tail:
    """One session's follower. ``changed`` is called after each change of ``dispatch``."""

    def __init__(
        self,
        source: Source,
        dispatch: Dispatch,
        changed: Callable[[], None],
        clock: Clock,
        rand: Callable[[], float],
    ) -> None:
        self._source = source
        self._dispatch = dispatch
        self._changed = changed
        self._clock = clock
        self._rand = rand
        self._failures = 0

    async def loop(self) -> None:
        """Follow until the session ended or the control plane refuses (contract 22.3, 22.19)."""
        while self._dispatch.ended is None:
            try:
                await self._once()
            except Refused as error:
                log.error("stream_refused", status=error.status)
                return
            except Away as error:
                log.info("stream_cut", error=str(error), failures=self._failures)
            if self._dispatch.ended is not None:
                return
            pause_s = backoff_s(self._failures, BACKOFF_BASE_S, BACKOFF_CAP_S, self._rand())
            self._failures += 1
            await anyio.sleep(pause_s)

    async def _once(self) -> None:
        async with self._source.stream() as live:
            try:
                events = await self._source.history()
            except Refused as error:
                # Only a refused stream is final; the list is tried again (contract 22.3).
                raise Away(f"history refused ({error.status})") from error
            self._dispatch.history(events, self._clock.monotonic())
            self._changed()
            async for event in live:
                self._failures = 0
                self._dispatch.live(event, self._clock.monotonic())
                self._changed()
                if self._dispatch.ended is not None:
                    return

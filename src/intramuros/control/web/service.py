"""The web tools of this server: what the operator allows, so many calls at once."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

from intramuros.control.mcp.guard import Resolver, Threads
from intramuros.control.web.policy import Policy
from intramuros.control.web.ways import ServerWays
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.web.base import FETCH, SEARCH, Answer, Code, Fetch, Search, refusal
from intramuros.web.fetch import Fetcher, Note
from intramuros.web.reader import Reader
from intramuros.web.search import Searcher

log = logger("web")

# Calls at once; more wait. Each may hold as much of a page as one may have.
CALLS: Final = 32


class WebTools:
    """A :class:`~intramuros.web.base.Web` over real connections.

    Args:
        note: records each further host that a page leads to.
    """

    def __init__(
        self, policy: Policy, clock: Clock, note: Note, resolver: Resolver | None = None
    ) -> None:
        resolver = resolver or Threads()
        self.offered = policy.tools
        self._room = anyio.CapacityLimiter(CALLS)
        ways = ServerWays(policy, resolver)
        self._fetcher = Fetcher(policy, Reader(), note, clock, ways)
        self._searcher = Searcher(policy, policy.engine, ways) if policy.engine else None

    async def fetch(self, wanted: Fetch) -> Answer:
        """Read one page."""
        if FETCH not in self.offered:
            return _away(FETCH)
        return await self._made(FETCH, partial(self._fetcher.fetch, wanted))

    async def search(self, wanted: Search) -> Answer:
        """Search once."""
        if SEARCH not in self.offered or self._searcher is None:
            return _away(SEARCH)
        return await self._made(SEARCH, partial(self._searcher.search, wanted))

    async def _made(self, name: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        began_s = anyio.current_time()
        async with self._room:
            try:
                answer = await call()
            except Exception as error:  # noqa: BLE001  a call has a result, whatever happened to it
                # Its text may hold what a page or an engine said.
                log.error("web_call_failed", tool=name, error=type(error).__name__)
                answer = refusal(Code.UNAVAILABLE, "the server could not make the call")
        seconds = round(anyio.current_time() - began_s, 3)
        log.info("web_call", tool=name, seconds=seconds, **answer.seen)
        return answer


def _away(name: str) -> Answer:
    return refusal(Code.UNAVAILABLE, f"{name} is not switched on at this server")

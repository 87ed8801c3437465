"""Where recorded requests go: to servers over the network, or to programs of the gateway's own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import httpcore2

from intramuros.tunnel.callers import Caller
from intramuros.tunnel.routes import Route

if TYPE_CHECKING:
    from intramuros.tunnel.in_process import InProcess


class RequestHandler(Protocol):
    """The pool's one method that is used."""

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request and return once the response's head is there."""
        ...


class Destinations:
    """Sends requests where their routes lead.

    Args:
        pool: reaches servers over the network.
        programs: by route.
    """

    def __init__(self, pool: RequestHandler, programs: Mapping[str, "InProcess"]) -> None:
        self.pool = pool
        self._programs = programs

    async def send(
        self, request: httpcore2.Request, route: Route, caller: Caller
    ) -> httpcore2.Response:
        """Return the answer's head, and its body as it comes.

        Raises:
            UpstreamRefused: the server's address is not allowed.
            httpcore2.NetworkError, TimeoutException, ProtocolError: there is no answer.
        """
        program = self._programs.get(route.key)
        if program is None:
            return await self.pool.handle_async_request(request)
        return await program.answer(request, {"owner": caller.owner, "sharers": caller.sharers})

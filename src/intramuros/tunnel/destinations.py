"""Where recorded requests go: to servers over the network, or to programs of the gateway's own."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
import httpcore2

from intramuros.kernel.timing import Clock
from intramuros.tunnel.callers import Caller
from intramuros.tunnel.confine import check, find_bwrap, launch
from intramuros.tunnel.in_process import InProcess
from intramuros.tunnel.programs import Program
from intramuros.tunnel.routes import Route, RouteTable


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

    def __init__(self, pool: RequestHandler, programs: Mapping[str, InProcess]) -> None:
        self._pool = pool
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
            return await self._pool.handle_async_request(request)
        # A session is one person's in one session of an agent: who joins it opens another.
        owner = (caller.workspace, caller.session, caller.who)
        return await program.answer(request, {"owner": owner})


@asynccontextmanager
async def destinations(
    routes: RouteTable,
    pool: RequestHandler,
    clock: Clock,
    rand: Callable[[], float],
) -> AsyncIterator[tuple[Destinations, Callable[[], int]]]:
    """Give the destinations of a gateway, and what counts its programs' sessions.

    Raises:
        OperatorError: a route's program cannot be run as configured.
    """
    found = {key: what for key, what in routes.routes.items() if isinstance(what, Program)}
    bwrap = find_bwrap() if any(program.confined for program in found.values()) else ""
    for program in found.values():
        await anyio.to_thread.run_sync(check, program, bwrap)
    if not found:
        yield Destinations(pool, {}), lambda: 0
        return
    # A gateway without programs shall not carry the MCP package's 30 MB.
    from intramuros.tunnel.program_sessions import ProgramSessions

    sessions = {
        key: ProgramSessions(
            key, partial(launch, program, bwrap), program.sessions, program.idle_s, clock, rand
        )
        for key, program in found.items()
    }
    async with anyio.create_task_group() as group:
        for held in sessions.values():
            await group.start(held.run)
        programs = {key: InProcess(held, group) for key, held in sessions.items()}
        try:
            yield (
                Destinations(pool, programs),
                lambda: sum(held.count for held in sessions.values()),
            )
        finally:
            group.cancel_scope.cancel()

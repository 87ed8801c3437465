"""Hold what a gateway reaches: its pool of connections and its routes' programs, and change it.

What a change leaves alone lives on: connections if nothing about upstreams changed, and the
sessions of a program whose route is the same. What it takes away is ended once nobody is under way
on it, or after some time.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import httpcore2
from anyio.abc import TaskGroup

from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.tunnel.config import GatewayConfig
from intramuros.tunnel.confine import check, find_bwrap, launch
from intramuros.tunnel.destinations import Destinations
from intramuros.tunnel.in_process import InProcess
from intramuros.tunnel.programs import Program
from intramuros.tunnel.reach import Lease, Reach
from intramuros.tunnel.routes import RouteTable
from intramuros.tunnel.upstream import upstream_pool

if TYPE_CHECKING:
    from intramuros.tunnel.program_sessions import ProgramSessions

log = logger("gateway")

CHANGED: Final = "its route was changed or removed"


@dataclass(frozen=True)
class Checked:
    """A configuration whose routes can be served, and what serving them takes."""

    config: GatewayConfig
    context: ssl.SSLContext | None
    """Whom to believe to be a private server; None where upstreams are reached as before."""
    bwrap: str
    """What makes the programs' sandboxes; empty if there are none."""


def check_programs(config: GatewayConfig, known: Mapping[str, object]) -> str:
    """See that the programs of a configuration can be run; waits for them.

    Args:
        config: as read.
        known: routes that run already, which are not tried again.

    Returns:
        What makes their sandboxes.

    Raises:
        OperatorError: one cannot be run as configured.
    """
    programs = _programs(config)
    bwrap = find_bwrap() if any(program.confined for program in programs.values()) else ""
    for key, program in programs.items():
        if known.get(key) != program:
            check(program, bwrap)
    if programs:
        # A gateway without programs shall not carry the MCP package's 30 MB, and one that gets its
        # first must not stand still while they are read.
        import intramuros.tunnel.program_sessions  # noqa: F401
    return bwrap


@dataclass
class InForce:
    """The configuration that a gateway works by now."""

    config: GatewayConfig


class Reaching:
    """What a gateway holds to reach its private servers.

    Args:
        group: runs what programs and changes need.
        clock: where time comes from.
        rand: a number in [0, 1).
        in_force: the configuration to begin with; kept up to date.
        context: whom to believe to be a private server.
    """

    def __init__(
        self,
        group: TaskGroup,
        clock: Clock,
        rand: Callable[[], float],
        in_force: InForce,
        context: ssl.SSLContext,
    ) -> None:
        self._in_force = in_force
        self._group = group
        self._clock = clock
        self._rand = rand
        self._pool = upstream_pool(in_force.config.addresses, context)
        self._sessions: dict[str, ProgramSessions] = {}
        self._retiring: set[ProgramSessions] = set()
        # Nothing has a route until the first configuration is taken up.
        self.reach = Reach(RouteTable({}, ""), Destinations(self._pool, {}))

    @property
    def program_count(self) -> int:
        """How many sessions of programs there are."""
        return sum(held.count for held in (*self._sessions.values(), *self._retiring))

    async def take_up(self, checked: Checked) -> None:
        """Have requests from now on go by another configuration.

        Those under way go on as they began; what they hold is closed after them. Event streams of
        routes that are gone, or lead elsewhere now, and programs that nobody's route runs any more
        have ``shutdown_timeout`` to end.
        """
        config, before = checked.config, self._in_force.config
        kept, fresh = self._sort(config)
        for key, program in fresh.items():
            kept[key] = await self._begin(key, program, checked.bwrap)
        gone = [held for held in self._sessions.values() if held not in kept.values()]
        self._sessions = kept
        pool, self._pool = self._pool, self._pool_for(checked)
        programs = {key: InProcess(held, self._group) for key, held in kept.items()}
        self._limit(config)
        self._in_force.config = config
        self.reach.replace(config.routes, Destinations(self._pool, programs))
        # No wait may come between the lines above: a request sees the old or the new, whole.
        narrowed = _narrowed(before, config)
        for held in gone:
            self._retiring.add(held)
            self._group.start_soon(self._retire, held, config.shutdown_timeout_s)
        ended = self.reach.held(partial(_led_elsewhere, config.routes, narrowed=narrowed))
        if ended:
            self._group.start_soon(_cut_off, ended, config.shutdown_timeout_s)
        if pool is not self._pool:
            self._group.start_soon(self._close, pool)

    async def aclose(self) -> None:
        """Close the connections to private servers."""
        await self._pool.aclose()

    def _sort(
        self, config: GatewayConfig
    ) -> "tuple[dict[str, ProgramSessions], dict[str, Program]]":
        """Return what runs on, and what is to be begun."""
        wanted, before = _programs(config), self._in_force.config.routes.routes
        kept = {
            key: held for key, held in self._sessions.items() if wanted.get(key) == before.get(key)
        }
        return kept, {key: program for key, program in wanted.items() if key not in kept}

    async def _begin(self, key: str, program: Program, bwrap: str) -> "ProgramSessions":
        from intramuros.tunnel.program_sessions import ProgramSessions

        held = ProgramSessions(
            key,
            partial(launch, program, bwrap),
            program.idle_s,
            self._clock,
            self._rand,
        )
        await self._group.start(held.run)
        return held

    def _limit(self, config: GatewayConfig) -> None:
        """Have programs that run on keep to the limits that a configuration names."""
        for key, program in _programs(config).items():
            self._sessions[key].limit(program.sessions, program.per_person)

    def _pool_for(self, checked: Checked) -> httpcore2.AsyncConnectionPool:
        if checked.context is None:
            return self._pool
        return upstream_pool(checked.config.addresses, checked.context)

    async def _retire(self, held: "ProgramSessions", within_s: float) -> None:
        try:
            await held.retire(CHANGED, within_s)
        finally:
            self._retiring.discard(held)

    async def _close(self, pool: httpcore2.AsyncConnectionPool) -> None:
        """Close a pool once nobody is under way on it; nobody begins."""
        try:
            for lease in self.reach.held(lambda lease: lease.destinations.pool is pool):
                await lease.ended.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await pool.aclose()


@asynccontextmanager
async def reaching(
    in_force: InForce, context: ssl.SSLContext, clock: Clock, rand: Callable[[], float]
) -> AsyncIterator[Reaching]:
    """Lend what reaches a configuration's private servers.

    Raises:
        OperatorError: a route's program cannot be run as configured.
    """
    bwrap = await anyio.to_thread.run_sync(check_programs, in_force.config, {})
    async with anyio.create_task_group() as group:
        held = Reaching(group, clock, rand, in_force, context)
        await held.take_up(Checked(in_force.config, None, bwrap))
        try:
            yield held
        finally:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await held.aclose()


def _programs(config: GatewayConfig) -> dict[str, Program]:
    found = config.routes.routes.items()
    return {key: what for key, what in found if isinstance(what, Program)}


def _narrowed(before: GatewayConfig, now: GatewayConfig) -> bool:
    """Whether a server that could be reached before may be refused now."""
    return before.upstream_tls != now.upstream_tls or not now.addresses.covers(before.addresses)


def _led_elsewhere(table: RouteTable, lease: Lease, *, narrowed: bool) -> bool:
    """Whether a stream goes by a route that is gone, leads elsewhere now, or might not be made."""
    route = lease.route
    same = table.routes.get(route.key) == route.upstream
    return lease.streams and not (same and (isinstance(route.upstream, Program) or not narrowed))


async def _cut_off(leases: list[Lease], within_s: float) -> None:
    with anyio.move_on_after(within_s):
        for lease in leases:
            await lease.ended.wait()
    for lease in leases:
        if not lease.ended.is_set():
            lease.cut_off()

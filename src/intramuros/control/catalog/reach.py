"""Where an MCP server is: behind a tunnel of the caller's workspace, or on the public network.

A host under the tunnel suffix is only ever reached through a tunnel. One that belongs to another
workspace gets the same answer as one that nobody has (R112).
"""

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast

import httpx2

from intramuros.control.catalog import tunnels
from intramuros.control.catalog.behind import behind, steering
from intramuros.control.catalog.tunnels import Issuer, Route
from intramuros.control.mcp.base import Caller, McpError, McpFailure, McpServer
from intramuros.control.mcp.dial import Edge, TunnelDialer
from intramuros.control.mcp.guard import GuardedTransport
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.control.store.db import Database
from intramuros.kernel.addresses import Network
from intramuros.kernel.errors import NotFound
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, from_micros
from intramuros.protocol.tickets import CallTicket, DialTicket, Fence

log = logger("reach")

# After a rotation, links that were opened with the old token go on serving this long, so that the
# operator can hand the new one to the gateways without a gap (R306); then they get no more calls.
ROTATION_GRACE: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Edges:
    """The edges and how they are known.

    ``context`` is the outer TLS, from :func:`~intramuros.control.mcp.dial.outer_context`.
    """

    addresses: Sequence[Edge]
    context: ssl.SSLContext


class Reach:
    """Opens the way to an MCP server for one session.

    Args:
        exceptions: networks that are no public ones and may be reached directly all the same.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        issuer: Issuer,
        edges: Edges,
        exceptions: Sequence[Network] = (),
    ) -> None:
        self._db = db
        self._clock = clock
        self._issuer = issuer
        self._edges = edges
        self._exceptions = exceptions
        self._reached: set[str] = set()

    async def transport_for(self, caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        """Return a new transport to the server.

        Raises:
            McpError: the host is under the tunnel suffix and no tunnel of this workspace owns it.
        """
        if not self.is_tunnel(server.url):
            return GuardedTransport(self._exceptions)
        host = httpx2.URL(server.url).host.lower()
        if await self._route(caller, host) is None:
            raise McpError(server.name, McpFailure.CONNECTION, f"no tunnel serves {host}")
        return TunnelTransport(self._dialer(caller))

    def carries_secrets(self, url: str) -> bool:
        """Tell whether a credential may be sent to this URL.

        TLS protects it, or the tunnel does (which is TLS inside); in the clear it goes only to an
        address of the operator's own networks, never to a name, which might resolve elsewhere.
        """
        try:
            parts = httpx2.URL(url)
        except httpx2.InvalidURL:
            return False
        if parts.scheme == "https" or self.is_tunnel(url):
            return True
        try:
            address = ipaddress.ip_address(parts.host)
        except ValueError:
            return False
        networks = (n for n in self._exceptions if n.version == address.version)
        return any(address in network for network in networks)

    def is_tunnel(self, url: str) -> bool:
        """Tell whether a URL's host is under the tunnel suffix, whoever's tunnel it is."""
        try:
            host = httpx2.URL(url).host.lower()
        except httpx2.InvalidURL:
            return False
        return host.endswith(f".tunnel.{self._issuer.base_domain}")

    async def fence(self, tunnel_id: str, version: int, *, sever: bool) -> None:
        """Tell every edge that tokens below ``version`` open no new links; best effort.

        An edge that misses it learns the version with the next dial.
        """
        if not self._edges.addresses:
            return
        now_s = self._clock.now().timestamp()
        statement = self._issuer.key.mint_fence(Fence(tunnel_id, version, sever), now_s)
        missed = await self._dialer(None).fence(statement)
        if missed:
            log.warning("edges_not_told", tunnel=tunnel_id, edges=missed)

    def _dialer(self, caller: Caller | None) -> TunnelDialer:
        async def mint(host: str, connection: str) -> str:
            route = await self._need(caller, host)
            grace = self._clock.now() < from_micros(route.rotated_us) + ROTATION_GRACE
            return self._issuer.key.mint_dial_ticket(
                DialTicket(
                    tunnel=route.tunnel_id,
                    domain=route.domain,
                    host=host,
                    version=route.token_version,
                    session=caller.session_id if caller else "",
                    trace=os.urandom(16).hex(),
                    floor=max(1, route.token_version - 1) if grace else None,
                    connection=connection,
                ),
                self._clock.now().timestamp(),
            )

        async def vouch(host: str) -> str:
            route = await self._need(caller, host)
            # A route was found, so there is a caller.
            ticket = await self._call_ticket(cast("Caller", caller), route, host)
            return self._issuer.key.mint_call_ticket(ticket, self._clock.now().timestamp())

        async def cas(host: str) -> Sequence[str]:
            return (await self._need(caller, host)).ca_pems

        dialer = TunnelDialer(
            self._edges.addresses, self._edges.context, mint, vouch, cas, self._reached
        )
        if caller is not None:
            # Somebody else's event may have come since the last call; the ticket must say so.
            dialer.answering = lambda: self._db.read(lambda tx: steering(tx, caller.session_id))
        return dialer

    async def _call_ticket(self, caller: Caller, route: Route, host: str) -> CallTicket:
        found = await self._db.read(lambda tx: behind(tx, caller))
        return CallTicket(
            tunnel=route.tunnel_id,
            host=host,
            session=caller.session_id,
            trace=os.urandom(16).hex(),
            workspace=found.workspace_id,
            agent=found.agent_id,
            agent_version=found.agent_version,
            who=found.who,
        )

    async def _need(self, caller: Caller | None, host: str) -> Route:
        route = await self._route(caller, host) if caller else None
        if route is None:
            raise NotFound(f"no tunnel serves {host}")
        return route

    async def _route(self, caller: Caller, host: str) -> Route | None:
        return await self._db.read(lambda tx: tunnels.route(tx, caller.workspace_id, host))

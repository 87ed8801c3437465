"""How a gateway reaches an edge: straight or through a proxy, as plain frames or in WebSocket."""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio

from intramuros.kernel.forward_proxy import ForwardProxy, connect_through
from intramuros.kernel.telemetry import logger
from intramuros.kernel.wire import ConnectFailed, Wire, connect_tls
from intramuros.protocol.dial import LINK_ALPN
from intramuros.tunnel import websocket

log = logger("gateway")

CONNECT_S: Final = 10.0
# Between a try with our own protocol and one with WebSocket.
PAUSE_S: Final = 0.25
# What a box that knows only HTTP in TLS does to ours.
_IN_THE_WAY: Final = frozenset({"tls", "reset", "protocol"})


@dataclass(frozen=True, slots=True)
class EdgeAddress:
    """Where an edge listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Transport(StrEnum):
    """What the link's bytes travel in."""

    AUTO = "auto"
    """Frames of our own; WebSocket where something on the way does not pass them."""
    DIRECT = "direct"
    WEBSOCKET = "websocket"


@dataclass(frozen=True)
class Trust:
    """TLS settings of the three kinds of connection."""

    direct: ssl.SSLContext
    websocket: ssl.SSLContext
    proxy: ssl.SSLContext


class EdgeDialer:
    """Makes connections to edges.

    Args:
        trust: whom to believe to be an edge or a proxy.
        transport: what the link's bytes travel in.
        proxy_for: which proxy is on the way to a host, if any.
    """

    def __init__(
        self,
        trust: Trust,
        transport: Transport = Transport.AUTO,
        proxy_for: Callable[[str], ForwardProxy | None] = lambda _host: None,
    ) -> None:
        self._trust = trust
        self._transport = transport
        self._proxy_for = proxy_for
        # Edges that frames of our own did not reach, when last tried.
        self._wrapped: set[EdgeAddress] = set()

    async def connect(self, edge: EdgeAddress) -> Wire:
        """Return a connection on which the preamble comes next.

        Raises:
            ConnectFailed: says which step failed.
        """
        if self._transport is Transport.WEBSOCKET:
            return await self._websocket(edge)
        if self._transport is Transport.AUTO and edge in self._wrapped:
            try:
                return await self._websocket(edge)
            except ConnectFailed:
                # What was on the way may be there no more: next time both are tried.
                self._wrapped.discard(edge)
                raise
        try:
            return await self._direct(edge)
        except ConnectFailed as error:
            if self._transport is Transport.DIRECT or error.reason not in _IN_THE_WAY:
                raise
            log.info("link_in_websocket", edge=str(edge), reason=str(error))
        await anyio.sleep(PAUSE_S)
        wire = await self._websocket(edge)
        self._wrapped.add(edge)
        return wire

    async def _direct(self, edge: EdgeAddress) -> Wire:
        wire = await self._tls(edge, self._trust.direct)
        if wire.alpn == LINK_ALPN:
            return wire
        wire.abort()
        raise ConnectFailed("protocol", "the other end of TLS is no edge, or something is between")

    async def _websocket(self, edge: EdgeAddress) -> Wire:
        outer = await self._tls(edge, self._trust.websocket)
        try:
            with anyio.fail_after(CONNECT_S):
                return await websocket.ask(outer, edge.host, edge.port)
        except (TimeoutError, websocket.UpgradeFailed, *websocket.GONE) as error:
            outer.abort()
            reason = str(error) or "no WebSocket: the other end hung up or does not answer"
            raise ConnectFailed("websocket", reason) from error

    def _tls(self, edge: EdgeAddress, context: ssl.SSLContext) -> Awaitable[Wire]:
        proxy = self._proxy_for(edge.host)
        if proxy is None:
            return connect_tls(
                edge.host, edge.port, context, server_name=edge.host, timeout_s=CONNECT_S
            )
        return connect_through(
            proxy,
            edge.host,
            edge.port,
            context,
            proxy_context=self._trust.proxy,
            timeout_s=CONNECT_S,
        )

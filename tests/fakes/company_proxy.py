"""A company's proxy on loopback: it keeps the heads that it was asked with, and tunnels."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

REFUSAL = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Company:
    port: int
    leads_to: int
    """The port that every tunnel ends at."""
    address: str = "127.0.0.1"
    """Whose port it is."""
    accepts: str | None = None
    """The ``Proxy-Authorization`` that lets pass; all do when not set."""
    tunnels: set[anyio.CancelScope] = field(default_factory=set)
    answer: bytes = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 company\r\n\r\n"
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, raw: SocketStream, context: ssl.SSLContext | None) -> None:
        async with raw:
            try:
                stream: ByteStream = raw
                if context is not None:
                    stream = await TLSStream.wrap(
                        raw, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await self._tunnel(stream)
            except GONE:
                return

    async def _tunnel(self, stream: ByteStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive()
        self.heads.append(head)
        shown = [line for line in head.split(b"\r\n") if line.lower().startswith(b"proxy-auth")]
        if self.accepts is not None and shown != [f"Proxy-Authorization: {self.accepts}".encode()]:
            await stream.send(REFUSAL)
            return
        await stream.send(self.answer)
        if b" 200 " not in self.answer:
            return
        async with (
            await anyio.connect_tcp(self.address, self.leads_to) as there,
            anyio.create_task_group() as group,
        ):
            self.tunnels.add(group.cancel_scope)
            group.start_soon(self._copy, stream, there, group.cancel_scope)
            await self._copy(there, stream, group.cancel_scope)
        self.tunnels.discard(group.cancel_scope)

    def die(self) -> None:
        """Break off every tunnel."""
        for scope in self.tunnels:
            scope.cancel()

    async def _copy(self, one: ByteStream, other: ByteStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await other.send(await one.receive())
        except GONE:
            scope.cancel()


@asynccontextmanager
async def company(
    leads_to: int,
    context: ssl.SSLContext | None = None,
    port: int = 0,
    *,
    address: str = "127.0.0.1",
) -> AsyncIterator[Company]:
    """Run a proxy, in TLS when there is a context, before a host at this address and port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    made = Company(listener.extra(SocketAttribute.local_port), leads_to, address)

    async def serve(stream: SocketStream) -> None:
        await made.serve(stream, context)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield made
        group.cancel_scope.cancel()

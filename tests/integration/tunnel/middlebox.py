"""What companies put between a gateway and the internet: a proxy, and a box that opens TLS."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError)
Handler = Callable[[SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Accept connections on loopback; gives the port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)

    async def each(stream: SocketStream) -> None:
        async with stream:
            await handler(stream)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, each)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def copy(one: ByteStream, other: ByteStream, idle_s: float = 60.0) -> None:
    """Pass bytes both ways until one end is gone, or nothing came for a while."""

    async def towards(source: ByteStream, target: ByteStream) -> None:
        nonlocal last_s
        try:
            while True:
                await target.send(await source.receive())
                last_s = anyio.current_time()
        except _GONE:
            group.cancel_scope.cancel()

    async def watch() -> None:
        # Bytes do not tell the time.
        while anyio.current_time() - last_s < idle_s:  # noqa: ASYNC110
            await anyio.sleep(idle_s / 10)
        group.cancel_scope.cancel()

    last_s = anyio.current_time()

    async with anyio.create_task_group() as group:
        group.start_soon(towards, one, other)
        group.start_soon(towards, other, one)
        group.start_soon(watch)


async def head_of(stream: ByteStream) -> bytes:
    """Return a request's head."""
    held = b""
    while b"\r\n\r\n" not in held:
        held += await stream.receive()
    return held


@dataclass
class ConnectProxy:
    """Opens tunnels for who shows the credentials, if there are any."""

    authorization: str | None = None
    refuses: int | None = None
    idle_s: float = 60.0
    asked: list[str] = field(default_factory=list)

    async def handle(self, stream: SocketStream) -> None:
        """Serve one connection."""
        head = (await head_of(stream)).decode()
        line, *fields = head.split("\r\n")
        self.asked.append(line)
        shown = [each for each in fields if each.lower().startswith("proxy-authorization:")]
        if self.authorization and shown != [f"Proxy-Authorization: {self.authorization}"]:
            await stream.send(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n")
            return
        if self.refuses:
            await stream.send(f"HTTP/1.1 {self.refuses} No\r\n\r\n".encode())
            return
        host, _, port = line.split(" ")[1].rpartition(":")
        async with await anyio.connect_tcp(host.strip("[]"), int(port)) as there:
            await stream.send(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 box\r\n\r\n")
            await copy(stream, there, self.idle_s)


@dataclass
class InspectingBox:
    """Ends TLS with a certificate of its own, and passes on what looks like HTTP only."""

    port: int
    context: ssl.SSLContext
    trust: ssl.SSLContext
    dropped: list[bytes] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)

    async def handle(self, stream: SocketStream) -> None:
        """Serve one connection."""
        try:
            here = await TLSStream.wrap(
                stream, ssl_context=self.context, server_side=True, standard_compatible=False
            )
            held = await here.receive()
            if not held.startswith(b"GET "):
                self.dropped.append(held)
                return
            raw = await anyio.connect_tcp("127.0.0.1", self.port)
            async with await TLSStream.wrap(
                raw, hostname="127.0.0.1", ssl_context=self.trust, standard_compatible=False
            ) as there:
                self.seen.append(held)
                await there.send(held)
                await copy(here, there)
        except _GONE:
            return

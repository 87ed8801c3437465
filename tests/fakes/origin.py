"""A real host on loopback: it keeps what arrived, byte for byte, and answers as it is told."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

Answer = Callable[["Visit"], Awaitable[None]]
# Of its own: what other tests left behind may still dial a port of 127.0.0.1 that was theirs once.
ADDRESS = "127.0.83.1"


def answer(body: bytes = b"ok", status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Visit:
    """One request as it arrived."""

    stream: ByteStream
    head: bytes
    body: bytes

    @property
    def first(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    def header(self, name: str) -> list[str]:
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [v.strip().decode("latin-1") for n, _, v in lines if n.lower() == name.encode()]

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)


async def say_ok(visit: Visit) -> None:
    await visit.send(answer())


@dataclass
class Origin:
    port: int
    answer: Answer = say_ok
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0
    early: bytes | None = None
    """Said as soon as a head is there, in place of everything else."""

    async def serve(self, raw: SocketStream, context: ssl.SSLContext | None) -> None:
        self.connections += 1
        async with raw:
            try:
                stream: ByteStream = raw
                if context is not None:
                    stream = await TLSStream.wrap(
                        raw, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await self._requests(stream)
            except (
                anyio.EndOfStream,
                anyio.BrokenResourceError,
                anyio.ClosedResourceError,
                OSError,
            ):
                return

    async def _requests(self, stream: ByteStream) -> None:
        held = b""
        while True:
            while b"\r\n\r\n" not in held:
                held += await stream.receive()
            head, _, held = held.partition(b"\r\n\r\n")
            visit = Visit(stream, head, b"")
            if self.early is not None:
                await visit.send(self.early)
                return
            if visit.header("content-length"):
                size = int(visit.header("content-length")[0])
                while len(held) < size:
                    held += await stream.receive()
                visit.body, held = held[:size], held[size:]
            elif visit.header("transfer-encoding"):
                visit.body, held = await self._chunks(stream, held)
            self.visits.append(visit)
            await self.answer(visit)
            if b"101" in visit.head or visit.header("upgrade"):
                return

    async def _chunks(self, stream: ByteStream, held: bytes) -> tuple[bytes, bytes]:
        body = b""
        while True:
            while b"\r\n" not in held:
                held += await stream.receive()
            size, _, held = held.partition(b"\r\n")
            count = int(size, 16)
            while len(held) < count + 2:
                held += await stream.receive()
            body, held = body + held[:count], held[count + 2 :]
            if count == 0:
                return body, held


@asynccontextmanager
async def origin(context: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    listener = await anyio.create_tcp_listener(local_host=ADDRESS, local_port=0)
    made = Origin(listener.extra(SocketAttribute.local_port))
    async with listener, anyio.create_task_group() as group:
        group.start_soon(lambda: listener.serve(lambda stream: made.serve(stream, context)))
        try:
            yield made
        finally:
            group.cancel_scope.cancel()

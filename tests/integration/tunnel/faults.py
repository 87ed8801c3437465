"""A path between a gateway and an edge on which anything may happen to the bytes."""

import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
_SECONDS = 0.2


@dataclass
class FaultyPath:
    """Passes TCP connections on to a port; :meth:`hurt` does one of the usual things to them."""

    target: int
    port: int = 0
    _pairs: list[tuple[SocketStream, SocketStream]] = field(default_factory=list)
    _open: anyio.Event = field(default_factory=anyio.Event)
    _byte_by_byte: bool = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FaultyPath"]:
        """Serve on loopback."""
        self._open.set()
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._handle)
            yield self
            group.cancel_scope.cancel()

    async def hurt(self, dice: random.Random) -> None:
        """Cut, reset, stall or trickle; whatever it was before ends."""
        await self.heal()
        kind = dice.choice(["cut", "reset", "stall", "trickle"])
        if kind == "stall":
            self._open = anyio.Event()
        elif kind == "trickle":
            self._byte_by_byte = True
        else:
            pairs, self._pairs = self._pairs, []
            for pair in pairs:
                for end in pair:
                    if kind == "reset":
                        raw = end.extra(SocketAttribute.raw_socket)
                        linger = struct.pack("ii", 1, 0)
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    await end.aclose()

    async def heal(self) -> None:
        """Let bytes pass again."""
        self._byte_by_byte = False
        self._open.set()

    async def _handle(self, near: SocketStream) -> None:
        try:
            far = await anyio.connect_tcp("127.0.0.1", self.target)
        except OSError:
            await near.aclose()
            return
        self._pairs.append((near, far))
        async with near, far, anyio.create_task_group() as group:
            group.start_soon(self._pass, near, far, group.cancel_scope)
            group.start_soon(self._pass, far, near, group.cancel_scope)

    async def _pass(self, one: SocketStream, other: SocketStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await one.receive()
                await self._open.wait()
                if self._byte_by_byte:
                    with anyio.move_on_after(_SECONDS):
                        while data:
                            await other.send(data[:1])
                            data = data[1:]
                            await anyio.sleep(0.001)
                if data:
                    await other.send(data)
        except _GONE:
            scope.cancel()

"""A wire between two programs that can be cut, stopped, slowed and made to lose connections."""

import random
import socket
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.abc

CHUNK_BYTES = 64 * 1024
OPEN, CUT, BLACKHOLE, SLOW, FLAKY = "open", "cut", "blackhole", "slow", "flaky"


class Link:
    """Carries TCP connections to a port, or to a Unix socket.

    What it does to them: ``cut`` ends them and refuses new ones, ``blackhole`` takes everything and
    passes nothing on (and takes up again where it stopped), ``slow`` holds each piece back,
    ``flaky`` ends a connection with a probability at each piece.
    """

    def __init__(self, name: str, target: tuple[str, int] | Path, host: str = "127.0.0.1") -> None:
        self.name = name
        self.target = target
        self._mode, self._size = OPEN, 0.0
        self._changed = anyio.Event()
        self._dice = random.Random(name)
        self._scopes: set[anyio.CancelScope] = set()
        self._socket = socket.create_server((host, 0))
        self.host, self.port = self._socket.getsockname()[:2]
        self.carried = 0

    def set(self, mode: str, size: float = 0.0) -> None:
        """Behave like this from now on."""
        self._mode, self._size = mode, size
        if mode == CUT:
            for scope in list(self._scopes):
                scope.cancel()
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def run(self) -> None:
        """Carry connections until cancelled."""
        listener = await anyio.abc.SocketListener.from_socket(self._socket)
        async with listener:
            await listener.serve(self._connection)

    async def _connection(self, near: anyio.abc.SocketStream) -> None:
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with near:
                with anyio.CancelScope() as scope:
                    self._scopes.add(scope)
                    try:
                        await self._carry(near)
                    finally:
                        self._scopes.discard(scope)
                if scope.cancelled_caught:
                    _reset(near)

    async def _carry(self, near: anyio.abc.SocketStream) -> None:
        if self._mode == CUT:
            _reset(near)
            return
        await self._passing()
        far = await self._dial()
        async with far, anyio.create_task_group() as both:
            both.start_soon(self._pump, near, far, both.cancel_scope)
            both.start_soon(self._pump, far, near, both.cancel_scope)

    async def _dial(self) -> anyio.abc.ByteStream:
        if isinstance(self.target, Path):
            there = socket.socket(socket.AF_UNIX)
            there.connect(str(self.target))
            there.setblocking(False)
            return await anyio.abc.SocketStream.from_socket(there)
        return await anyio.connect_tcp(*self.target)

    async def _pump(
        self,
        source: anyio.abc.ByteStream,
        sink: anyio.abc.ByteStream,
        scope: anyio.CancelScope,
    ) -> None:
        try:
            while True:
                data = await source.receive(CHUNK_BYTES)
                await self._passing()
                if self._mode == SLOW:
                    await anyio.sleep(self._size)
                if self._mode == FLAKY and self._dice.random() < self._size:
                    break
                await sink.send(data)
                self.carried += len(data)
        except anyio.EndOfStream:
            with suppress(OSError, anyio.BrokenResourceError, NotImplementedError):
                await sink.send_eof()
            return
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()

    async def _passing(self) -> None:
        while self._mode == BLACKHOLE:
            await self._changed.wait()


def _reset(stream: anyio.abc.SocketStream) -> None:
    """Make the end of a connection a reset: no farewell reaches the other side."""
    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

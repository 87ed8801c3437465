"""Catch what one sandbox connects to, and hand it to its gate under the name it looked up.

The listeners live in the sandbox's network and are held here. Whatever ends this - a defect, the
end of the worker, a detach - closes them, and then the sandbox reaches nothing at all.
"""

import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import SocketStream, TaskGroup, TaskStatus

from intramuros.execution.egress.addresses import Addresses
from intramuros.execution.egress.base import Gate, Passage
from intramuros.execution.egress.dns import MAX_QUERY_BYTES, Answerer
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.netns import Sockets
from intramuros.execution.egress.pace import Pace
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("egress")

MAX_REFUSED: Final = 256
"""Refused names that are told of, in the life of one sandbox; each once."""
_CONNECTIONS_PER_S, _CONNECTION_BURST = 100.0, 200
_QUERIES_PER_S, _QUERY_BURST = 300.0, 300
_NAME_STREAMS: Final = 8
_NAME_STREAM_S: Final = 5.0
_FULL_S: Final = 0.25
_RESET: Final = struct.pack("=ii", 1, 0)
_FULL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Refused = Callable[[str], None]
Serving = Callable[[Gate, Leg], Awaitable[None]]


@dataclass(frozen=True)
class Means:
    """What a capture works with."""

    clock: Clock
    refused: Refused
    """Told each name that may not be looked up, once; bounded in number."""
    max_connections: int
    """Served at a time; more wait in the kernel, and then are refused there."""


class Capture:
    """One sandbox's connections, from attach to detach.

    Args:
        sandbox_id: for the log.
        sockets: in the sandbox's network; closed here.
        addresses: what stands for names; of the usual network when None.
    """

    def __init__(
        self,
        sandbox_id: str,
        sockets: Sockets,
        passage: Passage,
        means: Means,
        addresses: Addresses | None = None,
    ) -> None:
        self._id = sandbox_id
        self._sockets = sockets
        self._passage = passage
        self._clock = means.clock
        self._refused = means.refused
        self._slots = anyio.Semaphore(means.max_connections)
        self._addresses = Addresses() if addresses is None else addresses
        self._answerer = Answerer(passage.names, self._addresses, self._note)
        self._told: set[str] = set()
        now = means.clock.monotonic()
        self._connections = Pace(_CONNECTIONS_PER_S, _CONNECTION_BURST, now)
        self._queries = Pace(_QUERIES_PER_S, _QUERY_BURST, now)

    def renew(self, passage: Passage) -> None:
        """Judge by these from now on; names keep their addresses, connections their gate."""
        self._passage = passage
        self._answerer.names = passage.names

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Catch connections until cancelled; every one of them ends with this."""
        try:
            async with anyio.create_task_group() as group:
                for port, listener in self._sockets.streams.items():
                    group.start_soon(self._accept, group, listener, port)
                group.start_soon(self._answer_datagrams)
                group.start_soon(self._accept_names, group)
                group.start_soon(self._accept_proxied, group)
                task_status.started()
        finally:
            own = (self._sockets.datagrams, self._sockets.names, self._sockets.proxy)
            for sock in (*self._sockets.streams.values(), *own):
                anyio.notify_closing(sock)
            self._sockets.close()

    async def _accept(self, group: TaskGroup, listener: socket.socket, port: int) -> None:
        while True:
            made = await _accepted(listener)
            name = self._whose(made)
            if name is None:
                _reset(made)
                await anyio.sleep(self._connections.take(self._clock.monotonic()))
                continue
            await self._admit(made)
            group.start_soon(self._serve, made, _to(name, port))

    async def _accept_proxied(self, group: TaskGroup) -> None:
        while True:
            made = await _accepted(self._sockets.proxy)
            await self._admit(made)
            group.start_soon(self._serve, made, lambda gate, client: gate.serve_proxied(client))

    async def _admit(self, made: socket.socket) -> None:
        """Wait until there is room for one more connection."""
        try:
            await anyio.sleep(self._connections.take(self._clock.monotonic()))
            await self._slots.acquire()
        except BaseException:
            _reset(made)
            raise

    def _whose(self, made: socket.socket) -> str | None:
        """Return the name whose address was connected to, if it still may be."""
        try:
            address = made.getsockname()[0]
        except OSError:
            return None
        name = self._addresses.name(address)
        return name if name is not None and self._passage.names.admits(name) else None

    async def _serve(self, made: socket.socket, by: Serving) -> None:
        """Let the gate serve one connection; its failure is this connection's alone."""
        client: Leg | None = None
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = await Leg.over(made)
            await by(self._passage.gate, client)
        except Exception:
            log.exception("egress_connection_failed", sandbox=self._id)
        finally:
            self._slots.release()
            if client is None:
                _reset(made)
            else:
                await client.aclose()

    async def _answer_datagrams(self) -> None:
        sock = self._sockets.datagrams
        while True:
            await anyio.wait_readable(sock)
            # What the network says about an earlier answer is no query, and no end of ours either.
            with suppress(OSError):
                query, asker = sock.recvfrom(MAX_QUERY_BYTES + 1)
                answer = self._answerer.answer(query)
                if answer is not None:
                    sock.sendto(answer, asker)
            await anyio.sleep(self._queries.take(self._clock.monotonic()))

    async def _accept_names(self, group: TaskGroup) -> None:
        slots = anyio.Semaphore(_NAME_STREAMS)
        while True:
            made = await _accepted(self._sockets.names)
            try:
                await anyio.sleep(self._connections.take(self._clock.monotonic()))
                await slots.acquire()
            except BaseException:
                made.close()
                raise
            group.start_soon(self._answer_stream, made, slots)

    async def _answer_stream(self, made: socket.socket, slots: anyio.Semaphore) -> None:
        """Answer the queries of one connection: two bytes of length before each message."""
        try:
            with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                async with await SocketStream.from_socket(made) as stream:
                    with anyio.move_on_after(_NAME_STREAM_S):
                        while await self._answer_next(stream):
                            pass
        finally:
            slots.release()
            made.close()

    async def _answer_next(self, stream: SocketStream) -> bool:
        """Answer one query; False when there is no sense in going on."""
        length = int.from_bytes(await _exactly(stream, 2))
        if length > MAX_QUERY_BYTES:
            return False
        answer = self._answerer.answer(await _exactly(stream, length))
        await anyio.sleep(self._queries.take(self._clock.monotonic()))
        if answer is None:
            return False
        await stream.send(len(answer).to_bytes(2) + answer)
        return True

    def _note(self, name: str) -> None:
        if name not in self._told and len(self._told) < MAX_REFUSED:
            self._told.add(name)
            self._refused(name)


def _to(name: str, port: int) -> Serving:
    return lambda gate, client: gate.serve(client, name, port)


async def _accepted(listener: socket.socket) -> socket.socket:
    """Return the next connection, however long that takes, and whatever is short meanwhile."""
    while True:
        await anyio.wait_readable(listener)
        try:
            made, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in _FULL:
                log.warning("egress_out_of_descriptors", error=error.strerror)
                await anyio.sleep(_FULL_S)
            elif error.errno != errno.ECONNABORTED:
                raise
        else:
            made.setblocking(False)
            return made


def _reset(made: socket.socket) -> None:
    """Close a connection so that its other end meets an error, not an end."""
    with suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    made.close()


async def _exactly(stream: SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive(size - len(data))
    return data

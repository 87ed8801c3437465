"""One TCP connection under TLS as an anyio byte stream, over asyncio's own TLS.

anyio's TLS stream costs two more task switches a chunk and knows no write coalescing, which shows
when one connection carries a whole tunnel. A :class:`Wire` can be read in two ways: pull
(``receive``, ``read_line``), or push (``subscribe``), where each chunk goes straight to a callback.
"""

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, cast

import anyio
from anyio.abc import ByteStream, TaskGroup, TaskStatus

from intramuros.kernel.errors import OperatorError

KIB: Final = 1024
# Unread bytes at which we stop reading, and unsent bytes at which senders wait. One large frame
# of the tunnel (256 KiB) fits.
READ_HIGH: Final = 256 * KIB
WRITE_HIGH: Final = 256 * KIB
HANDSHAKE_S: Final = 10.0
# A peer that does not answer our close within this time is cut off.
CLOSE_S: Final = 2.0


class ConnectFailed(Exception):
    """No connection.

    ``reason`` is resolve, refused, timeout, certificate, tls, reset or network, or names a step of
    what lies between.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LineTooLong(ValueError):
    """The peer sent no newline within the limit."""


class Wire(ByteStream, asyncio.Protocol):
    """One established connection."""

    def __init__(self, on_connected: "Callable[[Wire], None] | None" = None) -> None:
        self._on_connected = on_connected
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._paused_reading = False
        self._writable = True
        self._lost = False
        self._closing = False
        self._error: Exception | None = None
        self._readable_event: anyio.Event | None = None
        self._writable_event: anyio.Event | None = None
        self._lost_event = anyio.Event()
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[Exception | None], None] | None = None
        self._on_writable: Callable[[], None] | None = None

    # What the connection is

    @property
    def alpn(self) -> str | None:
        """The protocol that TLS negotiated."""
        tls = self._tls()
        return tls.selected_alpn_protocol() if tls else None

    @property
    def finished(self) -> bytes:
        """What both ends of this TLS connection know, and nobody has of any other; may be empty.

        It is the Finished message of whoever called, a MAC over the whole handshake. Python has no
        exporter (RFC 9266) as yet.
        """
        tls = self._tls()
        return (tls.get_channel_binding("tls-unique") if tls else None) or b""

    @property
    def peer(self) -> str:
        """The other end as ``address:port``, for logs."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return f"{name[0]}:{name[1]}" if name else "unknown"

    @property
    def lost(self) -> bool:
        """Whether the connection is gone; unread bytes may remain."""
        return self._lost

    @property
    def writable(self) -> bool:
        """Whether the unsent bytes are below the limit."""
        return self._writable and not self._lost and not self._closing

    @property
    def readable(self) -> bool:
        """Whether a read would return at once, with bytes or with the end."""
        return bool(self._chunks) or self._lost

    def transport(self) -> asyncio.Transport:
        """What carries it.

        Raises:
            ConnectionResetError: nothing does any more, or yet.
        """
        if self._transport is None or self._lost:
            raise ConnectionResetError
        return self._transport

    # Pull

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes.

        Raises:
            EndOfStream: the peer closed.
            BrokenResourceError: the connection failed.
        """
        while not self._chunks:
            if self._lost:
                if self._error is not None:
                    raise anyio.BrokenResourceError from self._error
                raise anyio.EndOfStream
            self._readable_event = anyio.Event()
            await self._readable_event.wait()
        chunk = take(self._chunks, max_bytes)
        self._unread -= len(chunk)
        if self._paused_reading and self._unread < READ_HIGH // 2:
            self.resume_reading()
        return chunk

    async def read_line(self, limit: int) -> bytes:
        """Return the bytes before the next newline, and consume it.

        Raises:
            LineTooLong: no newline within ``limit`` bytes.
            EndOfStream: the peer closed first.
            BrokenResourceError: the connection failed.
        """
        held = b""
        while b"\n" not in held:
            if len(held) >= limit:
                raise LineTooLong(f"no newline within {limit} bytes")
            held += await self.receive(limit)
        line, _, rest = held.partition(b"\n")
        if len(line) >= limit:
            raise LineTooLong(f"no newline within {limit} bytes")
        self.unread(rest)
        return line

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""
        if data:
            self._chunks.appendleft(data)
            self._unread += len(data)

    # Push

    def subscribe(
        self,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[Exception | None], None],
        on_writable: Callable[[], None],
    ) -> None:
        """Send every chunk, also those unread, to a callback from now on.

        ``on_lost`` is called once, with the error or None; ``on_writable`` when unsent bytes fell
        below the limit after having exceeded it.
        """
        self._on_data, self._on_lost, self._on_writable = on_data, on_lost, on_writable
        while self._chunks:
            on_data(self._chunks.popleft())
        self._unread = 0
        if self._paused_reading:
            self.resume_reading()
        if self._lost:
            on_lost(self._error)

    def pause_reading(self) -> None:
        """Take no more from the socket."""
        if self._transport and not self._paused_reading and not self._lost:
            self._paused_reading = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the socket again."""
        if self._transport and self._paused_reading and not self._lost:
            self._paused_reading = False
            self._transport.resume_reading()

    # Write and close

    def write_now(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Queue bytes without waiting; the caller watches ``writable``."""
        # asyncio's transport breaks when it is written to between abort and connection_lost.
        if self._transport and not self._lost and not self._closing and chunks:
            self._transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    async def send(self, item: bytes) -> None:
        """Write bytes and wait while too many are unsent.

        Raises:
            BrokenResourceError: the connection is gone.
        """
        if self._lost or self._closing:
            raise anyio.BrokenResourceError from self._error
        self.write_now((item,))
        await self.drained()

    async def drained(self) -> None:
        """Wait until the unsent bytes are below the limit.

        Raises:
            BrokenResourceError: the connection is gone.
        """
        while not self._writable and not self._lost:
            if self._writable_event is None or self._writable_event.is_set():
                self._writable_event = anyio.Event()
            await self._writable_event.wait()
        if self._lost:
            raise anyio.BrokenResourceError from self._error

    async def send_eof(self) -> None:
        """Not possible: Python's TLS has no half-close."""
        raise NotImplementedError("TLS connections close in both directions at once")

    async def aclose(self) -> None:
        """Send what is queued and close; cut the peer off if it does not answer."""
        if self._transport is None or self._lost:
            return
        self._closing = True
        self._transport.close()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._lost_event.wait()
        if not self._lost:
            self.abort()

    def hang_up(self) -> None:
        """Send what is queued and close, without waiting for either."""
        if self._transport is not None and not self._lost:
            self._closing = True
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection at once; unsent bytes are lost."""
        if self._transport is not None and not self._lost:
            self._closing = True
            self._transport.abort()

    async def wait_lost(self) -> None:
        """Return when the connection is gone."""
        await self._lost_event.wait()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        if self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._on_data is not None:
            self._on_data(bytes(data))
            return
        self._chunks.append(bytes(data))
        self._unread += len(data)
        if self._unread >= READ_HIGH:
            self.pause_reading()
        if self._readable_event is not None:
            self._readable_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the connection is gone."""
        self._lost = True
        self._error = exc
        self._lost_event.set()
        for event in (self._readable_event, self._writable_event):
            if event is not None:
                event.set()
        if self._on_lost is not None:
            self._on_lost(exc)

    def pause_writing(self) -> None:
        """Learn that too much is unsent."""
        self._writable = False

    def resume_writing(self) -> None:
        """Learn that enough was sent."""
        self._writable = True
        if self._writable_event is not None:
            self._writable_event.set()
        if self._on_writable is not None:
            self._on_writable()

    def _tls(self) -> ssl.SSLObject | None:
        return self._transport.get_extra_info("ssl_object") if self._transport else None


def take(chunks: deque[bytes], max_bytes: int) -> bytes:
    """Remove and return what is first in a queue of chunks, joined up to a size."""
    if len(chunks) == 1 and len(chunks[0]) <= max_bytes:
        return chunks.popleft()
    taken, size = [], 0
    while chunks and size < max_bytes:
        chunk = chunks.popleft()
        if size + len(chunk) > max_bytes:
            chunks.appendleft(chunk[max_bytes - size :])
            chunk = chunk[: max_bytes - size]
        taken.append(chunk)
        size += len(chunk)
    return b"".join(taken)


async def connect_tls(
    host: str, port: int, context: ssl.SSLContext, *, server_name: str, timeout_s: float
) -> Wire:
    """Connect and do the TLS handshake.

    Args:
        host: address or name to connect to.
        port: TCP port.
        context: client settings; ALPN comes from it.
        server_name: the name that the server's certificate must carry.
        timeout_s: for everything together, in seconds.

    Raises:
        ConnectFailed: says which step failed.
    """
    loop = asyncio.get_running_loop()
    with explained(host, port, timeout_s), anyio.fail_after(timeout_s):
        _, wire = await loop.create_connection(
            Wire, host, port, ssl=context, server_hostname=server_name
        )
        return wire


async def connect_tcp(host: str, port: int) -> Wire:
    """Connect without TLS, which :func:`start_tls` may add; errors are the operating system's."""
    _, wire = await asyncio.get_running_loop().create_connection(Wire, host, port)
    return wire


async def start_tls(wire: Wire, context: ssl.SSLContext, server_name: str) -> Wire:
    """Do a TLS handshake on a connection from which everything was read; errors are TLS's own.

    Returns:
        what speaks inside; the connection that was given is part of it from now on.

    Raises:
        ConnectionResetError: the connection is gone.
    """
    inner = Wire()
    transport = await asyncio.get_running_loop().start_tls(
        wire.transport(), inner, context, server_hostname=server_name
    )
    if transport is None:
        raise ConnectionResetError
    inner.connection_made(transport)
    return inner


@contextmanager
def explained(host: str, port: int, timeout_s: float) -> Iterator[None]:
    """Say of what goes wrong while connecting which step it was.

    Raises:
        ConnectFailed: for every error of the network, of TLS and of time.
    """
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConnectFailed("certificate", error.verify_message) from error
    except ssl.SSLError as error:
        raise ConnectFailed("tls", str(error.reason or error)) from error
    except TimeoutError as error:
        raise ConnectFailed("timeout", f"no answer within {timeout_s:g} s") from error
    except socket.gaierror as error:
        raise ConnectFailed("resolve", f"cannot resolve {host!r}") from error
    except ConnectionRefusedError as error:
        raise ConnectFailed("refused", f"nothing listens on {host}:{port}") from error
    except ConnectionResetError as error:
        raise ConnectFailed("reset", "the other end cut the connection") from error
    except OSError as error:
        raise ConnectFailed("network", error.strerror or str(error)) from error


async def serve_tls(
    handler: Callable[[Wire], Awaitable[None]],
    *,
    host: str,
    port: int,
    context: ssl.SSLContext,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until cancelled; each runs ``handler`` in a task of its own.

    Starts with the port that is listened on (useful when ``port`` is 0). The connection is closed
    when the handler returns.

    Raises:
        OperatorError: the address cannot be listened on.
    """
    wires: set[Wire] = set()

    def accept(wire: Wire) -> None:
        wires.add(wire)
        _start(group, handler, wire, wires)

    # Bound before the task group exists, so that its error is not wrapped in a group.
    server = await _bind(lambda: Wire(accept), host, port, context)
    async with anyio.create_task_group() as group:
        try:
            await server.start_serving()
            task_status.started(server.sockets[0].getsockname()[1])
            await anyio.sleep_forever()
        finally:
            server.close()
            for wire in list(wires):
                wire.abort()


async def _bind(
    factory: Callable[[], Wire], host: str, port: int, context: ssl.SSLContext
) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(
            factory,
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_S,
            backlog=1024,
            start_serving=False,
        )
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)})",
            "stop what uses the port or choose another",
        ) from error


def _start(
    group: TaskGroup,
    handler: Callable[[Wire], Awaitable[None]],
    wire: Wire,
    wires: set[Wire],
) -> None:
    async def run() -> None:
        try:
            await handler(wire)
        finally:
            await wire.aclose()
            wires.discard(wire)

    group.start_soon(run)

"""One leg of a captured connection, the sandbox's or the host's: bytes, TLS, deadlines, the end.

Every request passes four reads, four writes and two records of TLS here, so this is an asyncio
protocol of its own: a read that finds bytes and a write that has room wait for nobody, and TLS is
done in the same call that needs it. As an anyio stream it can be used wherever one is.
"""

import asyncio
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Self, cast

import anyio
from anyio.abc import ByteStream, SocketAttribute

CHUNK_BYTES: Final = 64 * 1024
GONE: Final = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    OSError,
)
"""How a peer's going away shows; a timeout and broken TLS are an OSError too."""
# Unread bytes at which the other end is held back, and unsent bytes at which we wait for it.
_UNREAD_HIGH: Final = 2 * CHUNK_BYTES
_UNSENT_HIGH: Final = 2 * CHUNK_BYTES
# How long a peer may take to notice that an answer was the last.
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 1024 * 1024
_RESET: Final = struct.pack("ii", 1, 0)


class Leg(ByteStream, asyncio.Protocol):
    """A connection in the clear or, after :meth:`secure`, inside its TLS.

    Bytes that were read ahead stand in ``held``; they come first.
    """

    def __init__(self) -> None:
        self.held = b""
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._paused = False
        self._full = False
        self._ended = False  # nothing more will come in the clear
        self._eof = False  # nor below TLS
        self._lost = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._incoming = self._outgoing = _NO_BIO
        self._tls: ssl.SSLObject | None = None
        self._inner: Leg | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Return the leg of a connected socket, which is its own from now on."""
        loop = asyncio.get_running_loop()
        _, leg = await loop.create_connection(cls, sock=sock)
        return leg

    @classmethod
    async def dial(cls, address: str, port: int) -> Self:
        """Connect to an address.

        Raises:
            OSError: nobody answers.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return await cls.over(sock)
        except BaseException:
            sock.close()
            raise

    # TLS

    async def secure(
        self, context: ssl.SSLContext, *, name: str | None = None, session: object = None
    ) -> None:
        """Agree on TLS; what was read ahead is its beginning.

        Args:
            name: whom the other end must prove to be; None to be the server of this connection.
            session: what :attr:`session` was on an earlier connection to the same server.

        Raises:
            ssl.SSLError: there is no agreement, or a certificate is not to be trusted.
            EndOfStream: the other end went away.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=name is None,
            server_hostname=name,
            session=cast("ssl.SSLSession | None", session),
        )
        self._incoming.write(self.held + b"".join(self._chunks))
        self.held = b""
        self._chunks.clear()
        self._tls = tls
        if self._eof:
            self._incoming.write_eof()
        while True:
            try:
                tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                if self._eof:
                    raise anyio.EndOfStream from None
                await self._wait(None)
            except ssl.SSLError:
                self._flush()  # the alert that says why
                raise

    @property
    def alpn(self) -> str | None:
        """The protocol that TLS agreed on."""
        return None if self._tls is None else self._tls.selected_alpn_protocol()

    @property
    def session(self) -> object:
        """What a later connection to the same server may resume; None when there is nothing."""
        if self._tls is None or self._tls.session is None:
            return None
        return self._tls.session if self._tls.session.has_ticket else None

    # As the carrier of another leg (``nested.py``)

    def carry(self, inner: "Leg") -> None:
        """Hand on all that comes to another leg from now on."""
        self._inner = inner
        if self._paused:
            self._paused = False
            self.hold(held=False)
        if self.held:
            inner.data_received(self.held)
            self.held = b""
        self._hand_on()

    def put(self, data: bytes) -> None:
        """Send bytes inside this leg's TLS, without waiting."""
        if self._tls is not None:
            with suppress(ssl.SSLError):
                self._tls.write(data)
                self._flush()

    def hold(self, *, held: bool) -> None:
        """Hold the other end back, or let it go on."""
        if self._transport is not None and self.alive:
            (self._transport.pause_reading if held else self._transport.resume_reading)()

    def about(self, name: str, default: object = None) -> object:
        """Return what asyncio knows of the socket."""
        return None if self._transport is None else self._transport.get_extra_info(name, default)

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def shut(self) -> None:
        """Close once everything was sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost. Idempotent."""
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def _hand_on(self) -> None:
        if self._inner is None:
            return
        try:
            while data := self._take(CHUNK_BYTES):
                self._inner.data_received(data)
        except anyio.BrokenResourceError as error:
            self._error = error
            self.abort()
            return
        if self._ended:
            self._inner.eof_received()

    # Reading

    async def receive(self, max_bytes: int = CHUNK_BYTES, within_s: float | None = None) -> bytes:
        """Return the bytes read ahead, then what comes.

        Raises:
            EndOfStream: the other end has said everything.
            BrokenResourceError: it broke off.
            TimeoutError: nothing came in time.
        """
        if self.held:
            data, self.held = self.held[:max_bytes], self.held[max_bytes:]
            return data
        while not (data := self._take(max_bytes)):
            if self._lost and self._error is not None:
                raise anyio.BrokenResourceError from self._error
            if self._ended:
                raise anyio.EndOfStream
            await self._wait(within_s)
        return data

    async def peek(self, within_s: float | None = None) -> bytes:
        """Return all that was read ahead, after reading once more; it will be received again."""
        before, self.held = self.held, b""
        try:
            more = await self.receive(CHUNK_BYTES, within_s)
        finally:
            self.held = before
        self.held += more
        return self.held

    def stale(self) -> bool:
        """Tell whether a connection that nobody reads has something to read: its end, mostly."""
        if self._transport is None or self._lost or self._ended:
            return True
        try:
            self.held += self._take(CHUNK_BYTES)
        except GONE:
            return True
        if self.held or self._ended:
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _take(self, max_bytes: int) -> bytes:
        """Return what has come already, decrypted; nothing when more must come first."""
        if self._tls is None:
            if not self._chunks:
                return b""
            data = self._chunks.popleft()
            if len(data) > max_bytes:
                self._chunks.appendleft(data[max_bytes:])
                data = data[:max_bytes]
            self._unread -= len(data)
        else:
            try:
                data = self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                data = b""
            except ssl.SSLEOFError:
                # Hung up without a farewell, as many do; lengths say whether that was all.
                data, self._ended = b"", True
            except ssl.SSLError as error:
                self._flush()
                raise anyio.BrokenResourceError from error
            else:
                self._ended = self._ended or not data
            self._unread = self._incoming.pending
            if self._outgoing.pending:
                self._flush()
        if self._paused and self._unread < _UNREAD_HIGH // 2:
            self._paused = False
            self.hold(held=False)
        return data

    async def _wait(self, within_s: float | None) -> None:
        """Wait until something comes, or the end."""
        waiter = self._waiter = self._loop.create_future()
        timer = None
        if within_s is not None:
            timer = self._loop.call_later(within_s, _too_late, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    # Writing

    async def send(self, item: bytes, within_s: float | None = None) -> None:
        """Send bytes; wait while too many are on their way.

        Raises:
            BrokenResourceError: the connection is gone.
            TimeoutError: the other end does not take them.
        """
        if not self.alive:
            raise anyio.BrokenResourceError from self._error
        if self._tls is None:
            self._transport.write(item)  # type: ignore[union-attr]  # alive
        else:
            try:
                self._tls.write(item)
            except ssl.SSLError as error:
                raise anyio.BrokenResourceError from error
            self._flush()
        if self._full:
            await self._drained(within_s)

    def _flush(self) -> None:
        if self._outgoing.pending:
            data = self._outgoing.read()
            if self.alive:
                self._transport.write(data)  # type: ignore[union-attr]  # alive

    async def _drained(self, within_s: float | None) -> None:
        room = self._room = self._loop.create_future()
        timer = None
        if within_s is not None:
            timer = self._loop.call_later(within_s, _too_late, room)
        try:
            await room
        finally:
            self._room = None
            if timer is not None:
                timer.cancel()
        if self._lost:
            raise anyio.BrokenResourceError from self._error

    # The end

    async def send_eof(self) -> None:
        """Say that nothing more will be sent.

        Raises:
            NotImplementedError: inside TLS, which ends both ways at once.
        """
        if self._tls is not None:
            raise NotImplementedError("TLS ends both ways at once")
        self._end()

    def _end(self) -> None:
        if self._transport is not None and self.alive:
            with suppress(OSError):
                self._transport.write_eof()

    async def aclose(self) -> None:
        """Close at once; what was not sent yet is lost. Idempotent."""
        self.abort()

    async def close(self) -> None:
        """Close after what was sent has arrived, for a little while at most; never raises.

        Reads on meanwhile, so that closing does not reset what is on its way.
        """
        with suppress(*GONE), anyio.move_on_after(_LINGER_S, shield=True):
            if self._tls is not None:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
                self._tls = None  # what still comes is thrown away, not read
            self._end()
            self._ended = self._eof
            left = _LINGER_BYTES
            while left > 0 and not self._ended:
                left -= len(await self.receive())
            if self._transport is not None:
                self._transport.close()
                while self._transport.get_write_buffer_size() and not self._lost:
                    await self._wait(None)
        await self.aclose()

    def reset(self) -> None:
        """Break off, so that what was sent does not look like all of it; never raises."""
        if self._transport is not None and not self._lost:
            with suppress(OSError):
                sock = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Return what is known of the socket beneath."""
        transport = self._transport
        if transport is None:
            return {}
        return {SocketAttribute.raw_socket: lambda: transport.get_extra_info("socket")}

    @property
    def alive(self) -> bool:
        """Whether bytes can be sent."""
        return self._transport is not None and not self._lost and not self._transport.is_closing()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_UNSENT_HIGH)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._tls is None:
            self._chunks.append(bytes(data))
            self._unread += len(data)
        else:
            self._incoming.write(data)
            self._unread = self._incoming.pending
        # A carrier hands on what comes at once; whom it carries says when that is too much.
        if self._unread >= _UNREAD_HIGH and not self._paused and self._inner is None:
            self._paused = True
            self.hold(held=True)
        _wake(self._waiter)
        self._hand_on()

    def eof_received(self) -> bool:
        """Learn that nothing more will come; our own direction stays open."""
        self._eof = True
        if self._tls is None:
            self._ended = True
        else:
            self._incoming.write_eof()
        _wake(self._waiter)
        self._hand_on()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the connection is gone."""
        self._lost = self._ended = self._eof = True
        self._error = self._error or exc
        _wake(self._waiter)
        _wake(self._room)
        if self._inner is not None:
            self._hand_on()
            self._inner.connection_lost(self._error)

    def pause_writing(self) -> None:
        """Learn that too much is unsent."""
        self._full = True
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Learn that enough was sent."""
        self._full = False
        _wake(self._room)
        if self._inner is not None:
            self._inner.resume_writing()


_NO_BIO: Final = ssl.MemoryBIO()


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _too_late(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())

"""An httpx2 transport whose connections go through a tunnel.

One :class:`TunnelTransport` belongs to one session: its pooled connections were opened with that
session's tickets, and the gateway's record names the session for everything on them.
"""

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Final
from weakref import WeakSet

import anyio
import httpcore2
import httpx2
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from intramuros.control.mcp.dial import TunnelDialer, issued_by
from intramuros.kernel.errors import DomainError
from intramuros.kernel.wire import Wire
from intramuros.protocol.tickets import CALL_HEADER, CALL_TTL_S

# A session talks to a handful of private servers, a few calls at a time.
MAX_CONNECTIONS: Final = 100
KEEPALIVE_S: Final = 120.0
# A request's head is held until its body or the first read; a larger one is sent at once.
MAX_HELD_BYTES: Final = 16 * 1024
# How long a kept connection outlives the CA that vouched for its gateway.
RECHECK_S: Final = 4.0
MAX_TRIES: Final = 4

_CORE_ERRORS: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


class TunnelTransport(httpx2.AsyncBaseTransport):
    """An httpx2 transport whose ``https`` connections go through the tunnel, kept alive in a pool.

    Network failures are httpx2's; their cause is the :class:`DomainError` that says more.
    """

    def __init__(self, dialer: TunnelDialer) -> None:
        self._dialer = dialer
        self._vouchers: dict[str, tuple[str, float, object]] = {}
        self._rechecked: dict[str, float] = {}
        self._backend = TunnelNetworkBackend(dialer)
        self._pool = httpcore2.AsyncConnectionPool(
            network_backend=self._backend,
            # Unused: the backend makes its own context for each connection.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_S,
            retries=0,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return once the response's head is there."""
        if request.url.scheme != "https":
            raise httpx2.UnsupportedProtocol("tunnel hosts are reached over https only")
        content = request.stream
        assert isinstance(content, httpx2.AsyncByteStream)
        # The edge chooses who is connected to the gateway; this tells it who asks.
        voucher = (CALL_HEADER.encode(), (await self._voucher(request)).encode())
        await self._recheck(request)
        below = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=[*request.headers.raw, voucher],
            content=content,
            extensions=request.extensions,
        )
        # What was made of bytes can be sent again; where several edges stop at once, so do several
        # connections.
        tries = MAX_TRIES if isinstance(content, httpx2.ByteStream) else 1
        try:
            response = await self._send(below, tries)
        except _CORE_ERRORS as error:
            raise _renamed(error, request) from _reason(error)
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_ResponseStream(response, request),
            extensions=response.extensions,
        )

    async def _send(self, request: httpcore2.Request, tries: int) -> httpcore2.Response:
        while True:
            tries -= 1
            try:
                return await self._pool.handle_async_request(request)
            except NotTaken:
                if tries <= 0:
                    raise

    async def _voucher(self, request: httpx2.Request) -> str:
        host, now_s = request.url.host.lower(), anyio.current_time()
        answering = self._dialer.answering
        # Looked up before the ticket is made, so that a change in between makes another one.
        by = None if answering is None else await answering()
        text, fresh_until_s, then = self._vouchers.get(host, ("", 0.0, None))
        if now_s >= fresh_until_s or by != then:
            try:
                text = await self._dialer.vouch(host)
            except DomainError as error:
                raise httpx2.ConnectError(error.message, request=request) from error
            self._vouchers[host] = text, now_s + CALL_TTL_S / 4, by
        return text

    async def _recheck(self, request: httpx2.Request) -> None:
        """Let no request out on a connection whose CA is registered no more."""
        host, now_s = request.url.host.lower(), anyio.current_time()
        if now_s < self._rechecked.get(host, 0.0):
            return
        try:
            self._backend.keep_only(host, await self._dialer.cas(host))
        except DomainError as error:
            raise httpx2.ConnectError(error.message, request=request) from error
        self._rechecked[host] = now_s + RECHECK_S

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await self._pool.aclose()


class TunnelNetworkBackend(httpcore2.AsyncNetworkBackend):
    """Dials through the tunnel instead of the network."""

    def __init__(self, dialer: TunnelDialer) -> None:
        self._dialer = dialer
        self._opened: WeakSet[TunnelNetworkStream] = WeakSet()

    def keep_only(self, host: str, pems: Sequence[str]) -> None:
        """Revoke the host's connections whose certificate none of these CAs signed."""
        for stream in self._opened:
            if stream.host == host and not stream.vouched_for(pems):
                stream.revoked = True

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the host's gateway; port, address and options have no meaning here."""
        try:
            with anyio.fail_after(timeout):
                wire, tls = await self._dialer.open(host)
        except DomainError as error:
            raise _TunnelRefused(error) from error
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("the tunnel did not answer in time") from error
        stream = TunnelNetworkStream(host, wire, tls)
        self._opened.add(stream)
        return stream

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class TunnelNetworkStream(httpcore2.AsyncNetworkStream):
    """A connection through the tunnel to a host, its inner TLS done."""

    def __init__(self, host: str, wire: Wire, stream: ByteStream) -> None:
        self.host = host
        self.revoked = False
        """Whether it may serve no further request."""
        self._wire = wire
        self._stream = stream
        self._head = b""
        self._certificate: bytes | None = None
        if isinstance(stream, TLSStream):
            # Asked for now: of a connection that broke OpenSSL tells nothing.
            self._certificate = stream.extra(TLSAttribute.peer_certificate_binary, None)  # noqa: S610  anyio's
        self._answered = True

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> bytes:
        """Return some bytes, or none at the end."""
        if self._head:
            await self._send(b"", timeout)
        try:
            with anyio.fail_after(timeout):
                data = await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            if not self._answered:
                raise NotTaken("the gateway closed the connection before it read this") from None
            return b""
        except TimeoutError as error:
            raise httpcore2.ReadTimeout("the private server sent nothing") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpcore2.ReadError("the tunnel connection broke") from error
        self._answered = True
        return data

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> None:
        """Send bytes; a request's head waits for its body, so that they travel as one."""
        if not self._head and len(buffer) < MAX_HELD_BYTES and buffer.endswith(b"\r\n\r\n"):
            self._head = buffer
        elif buffer:
            await self._send(buffer, timeout)

    async def _send(self, buffer: bytes, timeout: float | None) -> None:  # noqa: ASYNC109  httpcore2 names it
        data, self._head = self._head + buffer, b""
        self._answered = False
        try:
            with anyio.fail_after(timeout):
                await self._stream.send(data)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout("the tunnel takes no more") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpcore2.WriteError("the tunnel connection broke") from error

    def vouched_for(self, pems: Sequence[str]) -> bool:
        """Tell whether one of these CAs signed the gateway's certificate."""
        return self._certificate is not None and issued_by(self._certificate, pems)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._wire.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> httpcore2.AsyncNetworkStream:
        """Return this stream: the handshake with the tunnel's CAs belonged to connecting."""
        if (server_hostname or "").lower() != self.host:
            raise httpcore2.ConnectError("the certificate was checked for another host")
        return self

    def get_extra_info(self, info: str) -> object:
        """Answer what the pool asks: whether an idle connection was closed by the other end."""
        if info == "is_readable":
            return self.revoked or self._wire.readable
        if info == "ssl_object" and isinstance(self._stream, TLSStream):
            return self._stream.extra(TLSAttribute.ssl_object)  # noqa: S610  anyio's, not Django's
        return None


class NotTaken(httpcore2.ReadError):
    """The gateway announced its end before it read the request, which may be sent again.

    The announcement is TLS's own (close_notify), so nobody between can make one; a gateway that
    fails in the middle of something does not make it.
    """


class _TunnelRefused(httpcore2.ConnectError):
    """Carries our own error through httpcore's pool, which drops the cause of what it raises."""

    def __init__(self, reason: DomainError) -> None:
        super().__init__(reason.message)
        self.reason = reason


class _ResponseStream(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._response.aiter_stream()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except _CORE_ERRORS as error:
            raise _renamed(error, self._request) from _reason(error)

    async def aclose(self) -> None:
        await self._response.aclose()


def _reason(error: Exception) -> Exception:
    return error.reason if isinstance(error, _TunnelRefused) else error


def _renamed(error: Exception, request: httpx2.Request) -> Exception:
    """Return httpx2's exception of the same name as httpcore2's; others stay as they are."""
    for cls in type(error).__mro__:
        found = getattr(httpx2, cls.__name__, None)
        if cls.__module__.startswith("httpcore2") and isinstance(found, type):
            renamed: Exception = found(str(error), request=request)
            return renamed
    return error

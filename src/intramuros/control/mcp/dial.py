"""Reach a private MCP server: ticket, edge, inner TLS, as a transport for httpx2.

One :class:`TunnelTransport` belongs to one session: its pooled connections were opened with that
session's tickets, and the gateway's record names the session for everything on them.

The edge is not trusted. The inner TLS 1.3 is checked against the CAs registered on the tunnel and
nothing else, the host name included, and the certificate must be signed directly by one of them.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import anyio
import httpcore2
import httpx2
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from intramuros.kernel.errors import DomainError, Overloaded, PermissionDenied, Unavailable
from intramuros.kernel.telemetry import logger
from intramuros.kernel.wire import ConnectFailed, LineTooLong, Wire, connect_tls
from intramuros.protocol.dial import (
    DIAL_ALPN,
    MAX_LINE_BYTES,
    BadLine,
    Dial,
    FenceCall,
    Refusal,
    encode_call,
    parse_reply,
)
from intramuros.protocol.hostname import BadHost, check_host
from intramuros.protocol.tickets import CALL_HEADER, CALL_TTL_S

log = logger("dial")

CONNECT_S: Final = 5.0
REPLY_S: Final = 10.0
# How long to wait for an edge or a gateway that was there before, and between two tries.
PATIENCE_S: Final = 8.0
RETRY_S: Final = 0.25
HANDSHAKE_S: Final = 10.0
# A session talks to a handful of private servers, a few calls at a time.
MAX_CONNECTIONS: Final = 100
KEEPALIVE_S: Final = 120.0
# A request's head is held until its body or the first read; a larger one is sent at once.
MAX_HELD_BYTES: Final = 16 * 1024

Mint = Callable[[str], Awaitable[str]]
"""Host → a fresh ticket; raises DomainError when the host is no tunnel host of the caller."""
RegisteredCas = Callable[[str], Awaitable[Sequence[str]]]
"""Host → the PEMs of the active CAs of its tunnel."""

# Refusals that another edge may not give.
_TRY_NEXT: Final = frozenset({"no_link", "too_many_streams", "audit_unavailable"})
_CORE_ERRORS: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)
_BUSY: Final = frozenset({"too_many_streams", "too_many_links"})


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge as the control plane reaches it."""

    host: str
    port: int
    server_name: str
    """The name in the edge's certificate."""


class NoTrustedCa(PermissionDenied):
    """The tunnel has no active certificate, so it refuses traffic: register a CA (R302)."""


def outer_context(ca_pem: str | None = None) -> ssl.SSLContext:
    """Return the TLS settings for edges: TLS 1.3, a given CA or the system's."""
    context = ssl.create_default_context(cadata=ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([DIAL_ALPN])
    return context


class TunnelDialer:
    """Opens connections to private servers through any of several edges.

    Args:
        edges: tried in order; the next one when an edge is away or has no gateway.
        context: from :func:`outer_context`.
        mint: makes the dial ticket for a host.
        vouch: makes the call ticket for a host, which the gateway asks for.
        cas: names the CAs to trust for a host.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        context: ssl.SSLContext,
        mint: Mint,
        vouch: Mint,
        cas: RegisteredCas,
    ) -> None:
        self._edges = tuple(edges)
        self._context = context
        self._mint = mint
        self.vouch = vouch
        self._cas = cas
        self._reached: set[str] = set()

    async def connect(self, host: str) -> Wire:
        """Return a connection that ends at the host's gateway, before the inner TLS.

        Raises:
            NoTrustedCa: the tunnel has no active certificate.
            PermissionDenied: the ticket was refused, or the host is none.
            Unavailable: no edge answers, or no gateway is connected (``tunnel_disconnected``).
            Overloaded: the tunnel is at a limit.
        """
        try:
            check_host(host)
        except BadHost as error:
            raise PermissionDenied(str(error), code="bad_host") from error
        if not await self._cas(host):
            raise NoTrustedCa(
                "the tunnel has no active certificate; register a CA", code="no_certificate"
            )
        # Nothing was sent yet, so waiting is safe. Only where somebody was before: an edge or a
        # gateway that starts again is soon back, one that never was would cost every turn the wait.
        patience_s = PATIENCE_S if host in self._reached else 0.0
        began_s = anyio.current_time()
        while True:
            try:
                wire = await self._connect_once(host)
            except Unavailable:
                if anyio.current_time() - began_s >= patience_s:
                    self._reached.discard(host)
                    raise
                await anyio.sleep(RETRY_S)
            else:
                self._reached.add(host)
                return wire

    async def _connect_once(self, host: str) -> Wire:
        failure: DomainError = Unavailable("no edge is configured", code="edge_unreachable")
        for edge in self._edges:
            ticket = await self._mint(host)
            try:
                return await _call(edge, self._context, Dial(ticket))
            except _TryNext as tried:
                failure = tried.error
                log.info("edge_skipped", edge=f"{edge.host}:{edge.port}", reason=str(failure))
        raise failure

    async def start_inner_tls(self, stream: ByteStream, host: str) -> TLSStream:
        """Do the client's half of the inner handshake and check the gateway's certificate.

        Raises:
            PermissionDenied: the certificate is not one that the tunnel's CAs vouch for.
            Unavailable: the gateway hung up or took too long.
        """
        pems = await self._cas(host)
        context = _inner_context(pems)
        try:
            with anyio.fail_after(HANDSHAKE_S):
                tls = await TLSStream.wrap(
                    stream, hostname=host, ssl_context=context, standard_compatible=False
                )
        except ssl.SSLCertVerificationError as error:
            raise PermissionDenied(
                f"the gateway's certificate was refused: {error.verify_message}",
                code="gateway_certificate",
            ) from error
        except ssl.SSLError as error:
            raise Unavailable(
                f"the inner TLS failed: {error.reason or error}", code="inner_tls_failed"
            ) from error
        except (anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError) as error:
            raise Unavailable(
                "the gateway did not complete the inner TLS handshake", code="inner_tls_failed"
            ) from error
        der = tls.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610  anyio's, not Django's
        if der is None or not _issued_by(der, pems):
            raise PermissionDenied(
                "the gateway's certificate is not signed directly by a registered CA",
                code="gateway_certificate",
            )
        return tls

    async def fence(self, statement: str) -> list[str]:
        """Send a signed statement on token versions to every edge.

        Returns:
            The edges that did not take it, as ``host:port``; send it there again.
        """
        missed = []
        for edge in self._edges:
            try:
                wire = await _call(edge, self._context, FenceCall(statement))
                await wire.aclose()
            except (_TryNext, DomainError) as error:
                log.warning("fence_missed", edge=f"{edge.host}:{edge.port}", reason=str(error))
                missed.append(f"{edge.host}:{edge.port}")
        return missed


class TunnelTransport(httpx2.AsyncBaseTransport):
    """An httpx2 transport whose ``https`` connections go through the tunnel, kept alive in a pool.

    Network failures are httpx2's; their cause is the :class:`DomainError` that says more.
    """

    def __init__(self, dialer: TunnelDialer) -> None:
        self._dialer = dialer
        self._vouchers: dict[str, tuple[str, float]] = {}
        self._pool = httpcore2.AsyncConnectionPool(
            network_backend=TunnelNetworkBackend(dialer),
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
        try:
            response = await self._pool.handle_async_request(
                httpcore2.Request(
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
            )
        except _CORE_ERRORS as error:
            raise _renamed(error, request) from _reason(error)
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_ResponseStream(response, request),
            extensions=response.extensions,
        )

    async def _voucher(self, request: httpx2.Request) -> str:
        host, now_s = request.url.host.lower(), anyio.current_time()
        text, fresh_until_s = self._vouchers.get(host, ("", 0.0))
        if now_s >= fresh_until_s:
            try:
                text = await self._dialer.vouch(host)
            except DomainError as error:
                raise httpx2.ConnectError(error.message, request=request) from error
            self._vouchers[host] = text, now_s + CALL_TTL_S / 4
        return text

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await self._pool.aclose()


class TunnelNetworkBackend(httpcore2.AsyncNetworkBackend):
    """Dials through the tunnel instead of the network."""

    def __init__(self, dialer: TunnelDialer) -> None:
        self._dialer = dialer

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
                wire = await self._dialer.connect(host)
        except DomainError as error:
            raise _TunnelRefused(error) from error
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("the tunnel did not answer in time") from error
        return TunnelNetworkStream(self._dialer, wire, wire)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class TunnelNetworkStream(httpcore2.AsyncNetworkStream):
    """A connection through the tunnel, before or after its inner TLS handshake."""

    def __init__(self, dialer: TunnelDialer, wire: Wire, stream: ByteStream) -> None:
        self._dialer = dialer
        self._wire = wire
        self._stream = stream
        self._head = b""

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
                return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except TimeoutError as error:
            raise httpcore2.ReadTimeout("the private server sent nothing") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpcore2.ReadError("the tunnel connection broke") from error

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
        try:
            with anyio.fail_after(timeout):
                await self._stream.send(data)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout("the tunnel takes no more") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpcore2.WriteError("the tunnel connection broke") from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._wire.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> httpcore2.AsyncNetworkStream:
        """Do the inner handshake with the tunnel's CAs; the given context is not used."""
        try:
            with anyio.fail_after(timeout):
                tls = await self._dialer.start_inner_tls(self._stream, server_hostname or "")
        except DomainError as error:
            await self.aclose()
            raise _TunnelRefused(error) from error
        except TimeoutError as error:
            await self.aclose()
            raise httpcore2.ConnectTimeout("the gateway did not answer in time") from error
        except BaseException:
            self._wire.abort()
            raise
        return TunnelNetworkStream(self._dialer, self._wire, tls)

    def get_extra_info(self, info: str) -> object:
        """Answer what the pool asks: whether an idle connection was closed by the other end."""
        if info == "is_readable":
            return self._wire.readable
        if info == "ssl_object" and isinstance(self._stream, TLSStream):
            return self._stream.extra(TLSAttribute.ssl_object)  # noqa: S610  anyio's, not Django's
        return None


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


class _TryNext(Exception):
    """This edge cannot help; ``error`` is what to raise if no other can either."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(error.message)
        self.error = error


async def _call(edge: Edge, context: ssl.SSLContext, call: Dial | FenceCall) -> Wire:
    """Connect to an edge, say the first line and read the answer."""
    try:
        wire = await connect_tls(
            edge.host, edge.port, context, server_name=edge.server_name, timeout_s=CONNECT_S
        )
    except ConnectFailed as error:
        raise _TryNext(
            Unavailable(f"the tunnel edge is unreachable: {error}", code="edge_unreachable")
        ) from error
    try:
        with anyio.fail_after(REPLY_S):
            await wire.send(encode_call(call))
            refusal = parse_reply(await wire.read_line(MAX_LINE_BYTES))
    except (
        TimeoutError,
        BadLine,
        LineTooLong,
        anyio.EndOfStream,
        anyio.BrokenResourceError,
    ) as error:
        wire.abort()
        raise _TryNext(
            Unavailable("the tunnel edge gave no answer", code="edge_unreachable")
        ) from error
    except BaseException:
        wire.abort()
        raise
    if refusal is None:
        return wire
    wire.abort()
    failure = _refused(refusal)
    if refusal.code in _TRY_NEXT:
        raise _TryNext(failure)
    raise failure


def _refused(refusal: Refusal) -> DomainError:
    if refusal.code == "no_link":
        return Unavailable("the tunnel is not connected", code="tunnel_disconnected")
    if refusal.code in _BUSY:
        return Overloaded(refusal.text, code=refusal.code)
    if refusal.code == "audit_unavailable":
        return Unavailable("the edge cannot write its audit record", code=refusal.code)
    return PermissionDenied(f"the edge refused: {refusal.text}", code=refusal.code)


def _inner_context(pems: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    for pem in pems:
        context.load_verify_locations(cadata=pem)
    return context


def _issued_by(der: bytes, pems: Sequence[str]) -> bool:
    """Whether one of the CAs signed the certificate itself, key identifiers matching (R313)."""
    certificate = x509.load_der_x509_certificate(der)
    for pem in pems:
        ca = x509.load_pem_x509_certificate(pem.encode())
        try:
            aki = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
            ski = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
            certificate.verify_directly_issued_by(ca)
        except (x509.ExtensionNotFound, ValueError, TypeError, InvalidSignature):
            continue
        if aki.value.key_identifier == ski.value.digest:
            return True
    return False


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

"""Reach a private MCP server: ticket, edge, inner TLS.

The edge is not trusted. The inner TLS 1.3 is checked against the CAs registered on the tunnel and
nothing else, the host name included, and the certificate must be signed directly by one of them.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa

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
    connection_name,
    encode_call,
    parse_reply,
)
from intramuros.protocol.hostname import BadHost, check_host

log = logger("dial")

T = TypeVar("T")

CONNECT_S: Final = 5.0
REPLY_S: Final = 10.0
# How long to wait for an edge or a gateway that was there before, and between two tries.
PATIENCE_S: Final = 8.0
RETRY_S: Final = 0.25
HANDSHAKE_S: Final = 10.0
# Hosts remembered as reached; forgetting them all only costs some their wait.
MAX_REACHED: Final = 10_000
MIN_DIGEST_BYTES: Final = 32

Mint = Callable[[str, str], Awaitable[str]]
"""Host and name of the connection to the edge → a dial ticket for both; raises DomainError when the
host is no tunnel host of the caller."""
Vouch = Callable[[str], Awaitable[str]]
"""Host → a fresh call ticket; raises as :data:`Mint`."""
Answering = Callable[[], Awaitable[object]]
RegisteredCas = Callable[[str], Awaitable[Sequence[str]]]
"""Host → the PEMs of the active CAs of its tunnel."""

# Refusals that another edge may not give.
_TRY_NEXT: Final = frozenset(
    {"no_link", "too_many_streams", "too_many_connections", "draining", "audit_unavailable"}
)
_BUSY: Final = frozenset({"too_many_streams", "too_many_links", "too_many_connections"})
# OpenSSL's verdicts (x509_vfy.h) by the rule that they are about; names as the gateway's own check.
_CHECKS: Final = {
    9: "not_yet_valid",
    10: "expired",
    26: "eku",
    62: "san",
    66: "key",
    67: "key",
    68: "signature",
    85: "aki",
}


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge as the control plane reaches it."""

    host: str
    port: int
    server_name: str
    """The name in the edge's certificate."""


class NoTrustedCa(PermissionDenied):
    """The tunnel has no active certificate, so it refuses traffic: register a CA (R302)."""


class GatewayCertificateRefused(PermissionDenied):
    """The gateway's certificate breaks a rule; ``check`` names it, as the gateway's log would."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(
            f"the gateway's certificate was refused ({check}): {reason}",
            code="gateway_certificate",
        )
        self.check = check


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
        reached: hosts that answered lately; dialers of one process share it.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        context: ssl.SSLContext,
        mint: Mint,
        vouch: Vouch,
        cas: RegisteredCas,
        reached: set[str] | None = None,
    ) -> None:
        self._edges = tuple(edges)
        self._context = context
        self._mint = mint
        self.vouch = vouch
        self._cas = cas
        self._reached = set() if reached is None else reached
        self.answering: Answering | None = None
        """Who answers for calls now; a call ticket holds no longer than this stays the same."""

    async def connect(self, host: str) -> Wire:
        """Return a connection that ends at the host's gateway, before the inner TLS.

        Raises:
            NoTrustedCa: the tunnel has no active certificate.
            PermissionDenied: the ticket was refused, or the host is none.
            Unavailable: no edge answers, or no gateway is connected (``tunnel_disconnected``).
            Overloaded: the tunnel is at a limit.
        """
        return await self._patiently(host, _as_it_is)

    async def open(self, host: str) -> tuple[Wire, TLSStream]:
        """Return a connection to the host's gateway and its inner TLS stream, ready for requests.

        Raises:
            DomainError: as :meth:`connect` and :meth:`start_inner_tls`.
        """

        async def secured(wire: Wire) -> tuple[Wire, TLSStream]:
            return wire, await self.start_inner_tls(wire, host)

        return await self._patiently(host, secured)

    async def _patiently(self, host: str, then: Callable[[Wire], Awaitable[T]]) -> T:
        try:
            check_host(host)
        except BadHost as error:
            raise PermissionDenied(str(error), code="bad_host") from error
        if not await self._cas(host):
            raise NoTrustedCa(
                "the tunnel has no active certificate; register a CA", code="no_certificate"
            )
        # No request was sent yet, so waiting is safe. Only where somebody was before: an edge or a
        # gateway that starts again is soon back, one that never was would cost every turn the wait.
        patience_s = PATIENCE_S if host in self._reached else 0.0
        # A gateway that cannot record anything turns one away, and the next finds another.
        began_s, turned_away = anyio.current_time(), False
        while True:
            try:
                opened = await self._by_an_edge(host, then)
            except Unavailable as error:
                again = error.hints.code == "inner_tls_failed" and not turned_away
                turned_away = turned_away or again
                if anyio.current_time() - began_s >= patience_s and not again:
                    self._reached.discard(host)
                    raise
                await anyio.sleep(RETRY_S)
            else:
                if len(self._reached) >= MAX_REACHED:
                    self._reached.clear()
                self._reached.add(host)
                return opened

    async def _by_an_edge(self, host: str, then: Callable[[Wire], Awaitable[T]]) -> T:
        """Dial by the first edge on whose connection ``then`` works.

        An edge that has not yet noticed the end of its gateway still takes the dial, and so does
        one whose disk is full: only what comes next tells whether another must be tried.
        """
        failure: DomainError = Unavailable("no edge is configured", code="edge_unreachable")
        for edge in self._edges:

            async def dial(wire: Wire) -> Dial:
                return Dial(await self._mint(host, connection_name(wire.finished)))

            try:
                wire = await _call(edge, self._context, dial)
                try:
                    return await then(wire)
                except BaseException:
                    wire.abort()
                    raise
            except (_TryNext, Unavailable) as tried:
                failure = tried.error if isinstance(tried, _TryNext) else tried
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
                # An end that the gateway did not announce is a break: an edge can make one.
                tls = await TLSStream.wrap(
                    stream, hostname=host, ssl_context=context, standard_compatible=True
                )
        except ssl.SSLCertVerificationError as error:
            check = _CHECKS.get(error.verify_code, "issuer")
            raise GatewayCertificateRefused(check, error.verify_message) from error
        except ssl.SSLError as error:
            raise Unavailable(
                f"the inner TLS failed: {error.reason or error}", code="inner_tls_failed"
            ) from error
        except (anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError) as error:
            raise Unavailable(
                "the gateway did not complete the inner TLS handshake", code="inner_tls_failed"
            ) from error
        der = tls.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610  anyio's, not Django's
        if der is None or not issued_by(der, pems):
            reason = "it is not signed directly by a registered CA"
            raise GatewayCertificateRefused("issuer", reason)
        _check_strength(der)
        return tls

    async def cas(self, host: str) -> Sequence[str]:
        """Return the PEMs of the CAs that are registered for a host now.

        Raises:
            DomainError: the host is no tunnel host of the caller any more.
        """
        return await self._cas(host)

    async def fence(self, statement: str) -> list[str]:
        """Send a signed statement on token versions to every edge.

        Returns:
            The edges that did not take it, as ``host:port``; send it there again.
        """

        async def fence(_: Wire) -> FenceCall:
            return FenceCall(statement)

        missed = []
        for edge in self._edges:
            try:
                wire = await _call(edge, self._context, fence)
                await wire.aclose()
            except (_TryNext, DomainError) as error:
                log.warning("fence_missed", edge=f"{edge.host}:{edge.port}", reason=str(error))
                missed.append(f"{edge.host}:{edge.port}")
        return missed


async def _as_it_is(wire: Wire) -> Wire:
    return wire


class _TryNext(Exception):
    """This edge cannot help; ``error`` is what to raise if no other can either."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(error.message)
        self.error = error


async def _call(
    edge: Edge, context: ssl.SSLContext, call: Callable[[Wire], Awaitable[Dial | FenceCall]]
) -> Wire:
    """Connect to an edge, say the first line for that connection and read the answer."""
    try:
        wire = await connect_tls(
            edge.host, edge.port, context, server_name=edge.server_name, timeout_s=CONNECT_S
        )
    except ConnectFailed as error:
        raise _TryNext(
            Unavailable(f"the tunnel edge is unreachable: {error}", code="edge_unreachable")
        ) from error
    try:
        said = encode_call(await call(wire))
        with anyio.fail_after(REPLY_S):
            await wire.send(said)
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
    if refusal.code == "draining":
        return Unavailable("the tunnel edge is stopping", code="edge_unreachable")
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


def issued_by(der: bytes, pems: Sequence[str]) -> bool:
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


def _check_strength(der: bytes) -> None:
    """Hold the certificate to the tunnel's own rules, which are stricter than OpenSSL's (R313)."""
    certificate = x509.load_der_x509_certificate(der)
    digest, key = certificate.signature_hash_algorithm, certificate.public_key()
    if digest is None or digest.digest_size < MIN_DIGEST_BYTES:
        raise GatewayCertificateRefused("signature", "it is signed with less than SHA-256")
    least = 2048 if isinstance(key, rsa.RSAPublicKey) else 256
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or key.key_size < least:
        raise GatewayCertificateRefused("key", "its key is weaker than RSA 2048 or ECDSA P-256")

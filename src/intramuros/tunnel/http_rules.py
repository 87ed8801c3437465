"""What an HTTP/1.1 request through the tunnel may look like, and which headers travel on.

Stricter than RFC 9112: anything that two servers might read differently is refused, so that no
request can be smuggled past the audit. Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from intramuros.protocol.tickets import CALL_HEADER

Headers = Sequence[tuple[bytes, bytes]]

# 32 KiB of head and 100 headers: twice what browsers and SDKs send with large cookies.
MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
_REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})
# RFC 9110 7.6.1, and what only the next hop may say.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_REWRITTEN: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"forwarded",
        CALL_HEADER.encode(),
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-real-ip",
    }
)


class BadRequest(Exception):
    """The request is refused before anything is dialled. ``status`` and ``code`` go back."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def check_head(raw: bytes) -> None:
    """Check the raw head, up to and with its empty line, before a lenient parser sees it.

    Raises:
        BadRequest: bare CR or LF, a folded header (RFC 9112 5.2), NUL, or too many headers.
    """
    lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) - 1 > MAX_HEADERS:
        raise BadRequest("too_many_headers", f"at most {MAX_HEADERS} headers", 431)
    for line in lines:
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise BadRequest("malformed_request", "a line ends in a bare CR or LF, or holds NUL")
        if line[:1] in (b" ", b"\t", b""):
            raise BadRequest("malformed_request", "folded headers are not accepted")


def check_request(method: bytes, target: bytes, headers: Headers, host: str) -> None:
    """Check a parsed request that came for a host.

    Args:
        method: such as ``POST``.
        target: the request target as sent.
        headers: names in lower case.
        host: the name that the inner TLS was opened for.

    Raises:
        BadRequest: says which rule.
    """
    if method in _REFUSED_METHODS:
        raise BadRequest("method_refused", "CONNECT and TRACE are not relayed", 405)
    if not target.startswith(b"/") or b"#" in target:
        raise BadRequest("malformed_request", "the request target must be a path")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise BadRequest("malformed_request", "exactly one Host header is needed")
    if hosts[0] != host.encode("ascii"):
        raise BadRequest("misdirected_request", "Host differs from the TLS server name", 421)
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or (lengths and codings) or codings not in ([], [b"chunked"]):
        raise BadRequest("malformed_request", "the body's length is ambiguous")
    if sum(name == b"content-type" for name, _ in headers) > 1:
        raise BadRequest("malformed_request", "the body's type is ambiguous")
    if any(name == b"content-encoding" and value != b"identity" for name, value in headers):
        # The record says what the body asks for, so it must be readable without unpacking a bomb.
        raise BadRequest("encoding_refused", "request bodies come unpacked", 415)
    if any(name == b"upgrade" for name, _ in headers):
        raise BadRequest("upgrade_refused", "protocol upgrades are not relayed")


def upstream_headers(
    headers: Headers, *, authority: str, host: str, body_size: int | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers to send on: Host is the upstream's, the public one is forwarded.

    Args:
        headers: as received, names in lower case.
        authority: the upstream's own ``host:port``.
        host: the public host name.
        body_size: in bytes, or None when the request has no body.
    """
    kept = [(b"host", authority.encode("ascii"))]
    kept += _end_to_end(headers, _REWRITTEN)
    kept += [(b"x-forwarded-host", host.encode("ascii")), (b"x-forwarded-proto", b"https")]
    if body_size is not None:
        kept.append((b"content-length", str(body_size).encode("ascii")))
    return kept


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the upstream's headers that travel back."""
    return _end_to_end([(name.lower(), value) for name, value in headers], frozenset())


def _end_to_end(headers: Headers, dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    # A Connection header may not name away what the peer needs to frame the message.
    named -= {b"content-length", b"content-type", b"host"}
    gone = _HOP_BY_HOP | dropped | named
    return [(name, value) for name, value in headers if name not in gone]

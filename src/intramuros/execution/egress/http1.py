"""What an HTTP/1.1 request out of a sandbox may look like, and which headers travel. Pure.

Anything that two programs might read differently is refused, so that no request can be smuggled
past the rules or the record. HTTP/2 is not offered: with it every request of a connection would
name its authority anew, and every client that speaks it falls back to HTTP/1.1 when the TLS
handshake offers no other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import h11

Headers = Sequence[tuple[bytes, bytes]]

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# RFC 9110 7.6.1, and what only the next hop may say.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
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
# A Connection header may not name away what the peer needs to read the message.
_KEPT: Final = frozenset({b"authorization", b"content-length", b"content-type", b"cookie", b"host"})


class Refused(Exception):
    """The request is refused before anything is dialled; ``rule`` goes into the record."""

    def __init__(self, rule: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.rule = rule
        self.status = status


@dataclass(frozen=True, slots=True)
class Place:
    """Where a connection goes: whom the sandbox looked up, and how it speaks."""

    name: str
    port: int
    scheme: str
    """``http`` or ``https``."""

    @property
    def authority(self) -> str:
        """Return the name, with the port unless it is the scheme's own."""
        usual = self.port == _DEFAULT_PORTS.get(self.scheme)
        return self.name if usual else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head that was found good; names of headers in lower case."""

    method: bytes
    target: bytes
    """In origin form, or ``*``."""
    headers: tuple[tuple[bytes, bytes], ...]
    version: bytes
    length: int | None
    """Of the body in bytes; None when it is chunked."""
    websocket: bool = False

    @property
    def path(self) -> str:
        """Return the path without the query, as records show it."""
        return self.target.partition(b"?")[0].decode("ascii", "replace")

    def header(self, name: bytes) -> bytes:
        """Return the first header of a name, or nothing."""
        return next((value for known, value in self.headers if known == name), b"")


def check_raw(raw: bytes) -> None:
    """Check the raw head, up to and with its empty line, before a lenient parser sees it.

    Raises:
        Refused: bare CR or LF, NUL, a folded header (RFC 9112 5.2), too many headers, or more than
            one length.
    """
    lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) - 1 > MAX_HEADERS:
        raise Refused("too_many_headers", f"at most {MAX_HEADERS} headers", 431)
    for line in lines:
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise Refused("malformed", "a line ends in a bare CR or LF, or holds NUL")
        if line[:1] in (b" ", b"\t", b""):
            raise Refused("folded_header", "folded headers are not accepted")
    # The parser makes one of several that agree; others might not.
    lengths = [line[15:] for line in lines if line[:15].lower() == b"content-length:"]
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise Refused("ambiguous_length", "the body's length is given more than once")


def read_head(request: h11.Request, place: Place) -> Head:
    """Return what a parsed request asks for, if it is good.

    Raises:
        Refused: says which rule.
    """
    headers = tuple((bytes(name).lower(), bytes(value)) for name, value in request.headers)
    method, target = bytes(request.method), bytes(request.target)
    if method == b"CONNECT":
        raise Refused("connect", "CONNECT is not served; connect to the host itself")
    if method == b"TRACE":
        raise Refused("trace", "TRACE is not relayed", 405)
    _check_host(headers, place)
    target = _origin_form(target, method, place)
    websocket = _check_upgrade(method, headers)
    length = _body_length(headers, bytes(request.http_version))
    if websocket and length != 0:
        raise Refused("malformed", "an upgrade has no body")
    return Head(method, target, headers, bytes(request.http_version), length, websocket)


def request_headers(head: Head, place: Place) -> list[tuple[bytes, bytes]]:
    """Return the headers that travel on, without those that frame the body."""
    # The name was found equal; this is its one spelling.
    kept = [(b"host", place.authority.encode("ascii"))]
    dropped = frozenset({b"host", b"content-length", b"expect"})
    kept += end_to_end(head.headers, dropped)
    if head.websocket:
        kept += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    return kept


def end_to_end(
    headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not for the next hop alone; names come in lower case."""
    lower = [(bytes(name).lower(), bytes(value)) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in lower
        if name == b"connection"
        for token in value.split(b",")
    }
    gone = _HOP_BY_HOP | dropped | (named - _KEPT)
    return [(name, value) for name, value in lower if name not in gone]


def plain_answer(status: int, rule: str, message: str) -> bytes:
    """Return a whole answer of our own; after it the connection is closed."""
    body = f"intramuros egress: {message} ({rule})\n".encode()
    head = (
        f"HTTP/1.1 {status} Refused\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"x-intramuros-egress: {rule}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def _check_host(headers: Headers, place: Place) -> None:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise Refused("malformed", "exactly one Host header is needed")
    if not _same_authority(hosts[0], place):
        raise Refused("host_mismatch", "Host is not the name that was looked up", 421)


def _same_authority(authority: bytes, place: Place) -> bool:
    text = authority.lower()
    name = place.name.encode("ascii")
    port = b":%d" % place.port
    return text in (name, name + b".", name + port, name + b"." + port)


def _origin_form(target: bytes, method: bytes, place: Place) -> bytes:
    if b"#" in target:
        raise Refused("malformed", "a request target has no fragment")
    if target.startswith(b"/"):
        return target
    if target == b"*" and method == b"OPTIONS":
        return target
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() != place.scheme.encode():
        raise Refused("absolute_form", "the request target must be a path")
    at = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
    if not _same_authority(rest[:at], place):
        raise Refused("absolute_form", "the request target is for another host")
    path = rest[at:]
    return path if path.startswith(b"/") else b"/" + path


def _check_upgrade(method: bytes, headers: Headers) -> bool:
    wanted = [value.strip().lower() for name, value in headers if name == b"upgrade"]
    settings = any(name == b"http2-settings" for name, _ in headers)
    if not wanted and not settings:
        return False
    if wanted != [b"websocket"] or settings or method != b"GET":
        raise Refused("upgrade", "no upgrade but to websocket is relayed")
    return True


def _body_length(headers: Headers, version: bytes) -> int | None:
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or (lengths and codings) or codings not in ([], [b"chunked"]):
        raise Refused("ambiguous_length", "the body's length is ambiguous")
    if codings:
        if version != b"1.1":
            raise Refused("ambiguous_length", "chunks need HTTP/1.1")
        return None
    if not lengths:
        return 0
    if not lengths[0].isdigit() or len(lengths[0]) > 19:
        raise Refused("ambiguous_length", "the body's length is no number")
    return int(lengths[0])

"""Addresses that servers of the transport before streamable HTTP have their clients post to.

The first event of such a server's stream, ``endpoint``, names an address with the session's id
somewhere in it: in the query under any name, or in the path. Its caller gets another address in its
place, in which the server's is sealed for that caller alone (AES-SIV): whoever else shows it, and
whatever was made up, opens to nothing. Nobody hears the server's own address, so an id in it cannot
be passed on, and nothing needs to be remembered here.

An address on another host is not passed on: the caller would send its messages, and its proof of
who it is, there. Source: MCP 2024-11-05, transports; WHATWG HTML 9.2, server-sent events.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpcore2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

PREFIX: Final = b"/.intramuros-endpoint/"
# A longer event is passed on piece by piece; one that names an address is short.
MAX_EVENT_BYTES: Final = 16 * 1024
MAX_ADDRESS_CHARS: Final = 4096
_SEAL: Final = b"intramuros mcp endpoints v1"
_VISIBLE: Final = re.compile(r"[\x21-\x5b\x5d-\x7e]+\Z")
_LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\n|\r(?=.))", re.DOTALL)
_END: Final = re.compile(rb"[\r\n]")
_BOM: Final = b"\xef\xbb\xbf"
_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class EndpointRefused(httpcore2.RemoteProtocolError):
    """A server names an address that its caller must not post to."""


class Sealer:
    """Seals addresses for one caller at one route.

    Args:
        owner: who and where, as bytes that no other caller has.
        keys: the newest first, which seals; the others only open.
    """

    def __init__(self, owner: bytes, keys: Sequence[bytes]) -> None:
        self._owner = owner
        self._keys = keys

    def seal(self, target: bytes) -> bytes:
        """Return the path that stands for a request target of the server's."""
        sealed = _cipher(self._keys[0]).encrypt(target, [self._owner])
        return PREFIX + urlsafe_b64encode(sealed).rstrip(b"=")

    def open(self, shown: bytes) -> bytes | None:
        """Return the server's target, or None if the caller was never given this path."""
        text = shown.removeprefix(PREFIX)
        try:
            sealed = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        except (NotBase64, ValueError):
            return None
        # One spelling for each address: what a lenient decoder skips was not given.
        if urlsafe_b64encode(sealed).rstrip(b"=") != text:
            return None
        for key in self._keys:
            try:
                return _cipher(key).decrypt(sealed, [self._owner])
            except (InvalidTag, ValueError):
                continue
        return None


def _cipher(key: bytes) -> AESSIV:
    return AESSIV(hmac.digest(key, _SEAL, "sha512"))


def origin_of(scheme: str, authority: str) -> Origin:
    """Return scheme, host and port of ``host`` or ``host:port``."""
    parts = urlsplit(f"{scheme}://{authority}")
    return scheme, parts.hostname or "", parts.port or _PORTS[scheme]


def target_of(said: bytes, base: bytes, origins: Sequence[Origin]) -> bytes:
    """Return the request target that an ``endpoint`` event means.

    Args:
        said: the event's data.
        base: the target of the request for the stream.
        origins: what an address that names a host may name; the first is the stream's own.

    Raises:
        EndpointRefused: it leads elsewhere, or could be read in two ways.
    """
    text = said.decode("latin-1").strip(" ")
    if len(text) > MAX_ADDRESS_CHARS or _VISIBLE.match(text) is None:
        raise EndpointRefused("the address to post to is no plain URL")
    scheme, host, port = origins[0]
    stream = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{base.decode('latin-1')}"
    try:
        parts = urlsplit(urljoin(stream, text))
        named = parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise EndpointRefused("the address to post to is no URL") from error
    if named not in origins or "@" in parts.netloc:
        raise EndpointRefused(f"the address to post to is at another host: {named[1][:256]!r}")
    path = parts.path or "/"
    if not path.startswith("/"):
        raise EndpointRefused("the address to post to has no path")
    return (f"{path}?{parts.query}" if parts.query else path).encode("latin-1")


class EndpointStream:
    """Passes an event stream on, with the addresses in it exchanged.

    Args:
        sealed: address of the server's, as it stands in an event → what the caller gets for it.
    """

    def __init__(self, sealed: Callable[[bytes], bytes]) -> None:
        self._sealed = sealed
        self._rest = b""
        self._event: list[bytes] = []
        self._size = 0
        self._long = False
        """Whether a part of the current event is passed on already."""
        self._in_line = False
        """Whether a part of the current line is."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes; return those that may go on.

        Raises:
            EndpointRefused: an event names an address that must not be posted to.
        """
        data, passed, at = self._rest + chunk, [], 0
        if self._in_line:
            found = _END.search(data)
            line = None if found is None else _LINE.match(data, found.start())
            if found is None or line is None:
                # A CR may be half of the line's end.
                end = len(data) if found is None else found.start()
                self._rest = data[end:]
                return data[:end]
            passed, at, self._in_line = [data[: line.end()]], line.end(), False
        while (line := _LINE.match(data, at)) is not None:
            passed.append(self._take(line[1], line[0]))
            at = line.end()
        self._rest = data[at:]
        return b"".join(passed) + self._overflow()

    def close(self) -> bytes:
        """Return what was held when the stream ends; an event that is not whole counts as none."""
        rest = b"".join(self._event) + self._rest
        self._event, self._rest = [], b""
        return b"" if any(map(_names_address, rest.splitlines())) else rest

    def _take(self, text: bytes, line: bytes) -> bytes:
        if not text:
            return self._finish(line)
        if self._long:
            _check_long(text)
            return line
        self._event.append(line)
        self._size += len(line)
        return self._let_go() if self._size > MAX_EVENT_BYTES else b""

    def _overflow(self) -> bytes:
        """Begin to pass an event on that is too long to name an address."""
        if self._size + len(self._rest) <= MAX_EVENT_BYTES:
            return b""
        passed = self._let_go()
        if len(self._rest) > MAX_EVENT_BYTES:
            if _name(self._rest) == b"event":
                raise EndpointRefused("the kind of an event is too long")
            end = len(self._rest.removesuffix(b"\r"))
            passed, self._rest = passed + self._rest[:end], self._rest[end:]
            self._in_line = True
        return passed

    def _let_go(self) -> bytes:
        """Return what is held of an event that is too long; the rest of it is only looked at."""
        for line in self._event:
            _check_long(line.rstrip(b"\r\n"))
        passed = b"".join(self._event)
        self._event, self._size, self._long = [], 0, True
        return passed

    def _finish(self, line: bytes) -> bytes:
        event, self._event, self._size, self._long = self._event, [], 0, False
        texts = [each.rstrip(b"\r\n") for each in event]
        if not any(map(_names_address, texts)):
            return b"".join(event) + line
        data = [_value(text) for text in texts if _name(text) == b"data"]
        kinds = [text for text in texts if _name(text) == b"event"]
        if len(data) != 1 or len(kinds) != 1:
            raise EndpointRefused("an event names no address, or several")
        others = [
            each
            for each, text in zip(event, texts, strict=True)
            if _name(text) not in (b"event", b"data")
        ]
        return b"".join(
            [*others, b"event: endpoint" + line, b"data: " + self._sealed(data[0]) + line, line]
        )


async def exchanged(
    response: httpcore2.Response, sealed: Callable[[bytes], bytes]
) -> AsyncIterator[bytes]:
    """Give a response's events with the addresses in them exchanged."""
    stream = EndpointStream(sealed)
    async with aclosing(response.aiter_stream()) as chunks:
        async for chunk in chunks:
            if passed := stream.feed(chunk):
                yield passed
    if rest := stream.close():
        yield rest


def _check_long(text: bytes) -> None:
    if _names_address(text):
        raise EndpointRefused("an event that names an address is too long")


def _names_address(text: bytes) -> bool:
    """Whether a line makes its event one that names an address, read as generously as anybody."""
    return _name(text) == b"event" and _value(text).strip().lower() == b"endpoint"


def _name(text: bytes) -> bytes:
    # A stream may begin with a byte order mark.
    return text.partition(b":")[0].removeprefix(_BOM).strip().lower()


def _value(text: bytes) -> bytes:
    return text.partition(b":")[2].removeprefix(b" ")

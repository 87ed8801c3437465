"""Read the server name of a TLS ClientHello without ending TLS (RFC 8446 4.1.2, RFC 6066 3).

The edge peeks, so that a caller with a ticket for one host cannot ask the gateway for another;
egress peeks, so that a sandbox says the same name to the name service and to TLS.

Pure. Bounded: the input is foreign.
"""

from typing import Final

# A ClientHello with post-quantum key shares takes about 2 KiB; four times that is generous.
MAX_HELLO_BYTES: Final = 16 * 1024
_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0


class BadClientHello(ValueError):
    """The bytes do not begin with a ClientHello that names a server."""


def read_server_name(data: bytes) -> str | None:
    """Return the server name, or None when more bytes are needed.

    Args:
        data: everything the client sent so far.

    Raises:
        BadClientHello: this will never be a ClientHello with one host name.
    """
    hello = _client_hello(data)
    if hello is None:
        return None
    reader = _Reader(hello)
    reader.skip(2 + 32)
    reader.skip(reader.number(1))
    reader.skip(reader.number(2))
    reader.skip(reader.number(1))
    extensions = _Reader(reader.take(reader.number(2)))
    while extensions.left:
        kind = extensions.number(2)
        body = extensions.take(extensions.number(2))
        if kind == _SERVER_NAME:
            return _host_name(body)
    raise BadClientHello("the client names no server")


def _client_hello(data: bytes) -> bytes | None:
    """Join the handshake message from its records, or return None when it is incomplete."""
    message = b""
    at = 0
    while True:
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or size > MAX_HELLO_BYTES:
                raise BadClientHello("the first message is no ClientHello")
            if len(message) >= 4 + size:
                return message[4 : 4 + size]
        record = data[at : at + 5]
        if record and record[0] != _HANDSHAKE_RECORD:
            raise BadClientHello("the client does not speak TLS")
        if len(record) < 5:
            return None
        size = int.from_bytes(record[3:5], "big")
        if not 0 < size <= MAX_HELLO_BYTES or len(message) + size > MAX_HELLO_BYTES + 4:
            raise BadClientHello("the ClientHello is too long")
        if len(data) < at + 5 + size:
            return None
        message += data[at + 5 : at + 5 + size]
        at += 5 + size


def _host_name(body: bytes) -> str:
    names = _Reader(body)
    entries = _Reader(names.take(names.number(2)))
    kind = entries.number(1)
    name = entries.take(entries.number(2))
    if kind != 0 or entries.left or names.left:
        raise BadClientHello("the client names no single host")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError as error:
        raise BadClientHello("the server name is no ASCII") from error


class _Reader:
    """Big-endian numbers and slices of a bounded buffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise BadClientHello("the ClientHello is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def skip(self, size: int) -> None:
        self.take(size)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

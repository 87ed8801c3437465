"""A link's bytes in binary messages of a WebSocket (RFC 6455), where nothing but HTTP may pass.

A middlebox that ends the outer TLS itself looks for HTTP in it and drops what it does not know. The
messages' boundaries mean nothing: they carry the same preamble and frames as a plain connection.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import anyio
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from intramuros.kernel.wire import Wire

PATH: Final = "/link"
SUBPROTOCOL: Final = Subprotocol("intramuros-link.1")
# What we put into one message, and what we take: pings and other streams wait behind a message.
SENT_BYTES: Final = 128 * 1024
TAKEN_BYTES: Final = 1024 * 1024
_NORMAL: Final = 1000
_WRONG_KIND: Final = 1003


class UpgradeFailed(Exception):
    """The other end does not speak WebSocket, or not with us."""


class WebSocketTransport(asyncio.Transport):
    """Carries what is written to it in messages over another connection.

    Args:
        outer: the connection, upgraded.
        protocol: the WebSocket's state after its handshake.
        inner: who reads and writes here.
    """

    def __init__(self, outer: Wire, protocol: ClientProtocol | ServerProtocol, inner: Wire) -> None:
        super().__init__()
        self._outer = outer
        self._protocol = protocol
        self._inner = inner
        self._full = False

    def start(self, early: Iterable[Event]) -> None:
        """Begin to carry; ``early`` came together with the handshake."""
        self._inner.connection_made(self)
        self._deliver(early)
        self._outer.subscribe(self._on_data, self._inner.connection_lost, self._on_writable)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if self._protocol.state is not State.OPEN:
            return
        view = memoryview(data)
        for start in range(0, len(view), SENT_BYTES):
            self._protocol.send_binary(bytes(view[start : start + SENT_BYTES]))
        self._flush()
        if not self._outer.writable and not self._full:
            self._full = True
            self._inner.pause_writing()

    def close(self) -> None:
        """Say goodbye and close."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(_NORMAL)
            self._flush()
        self._outer.hang_up()

    def abort(self) -> None:
        """Cut the connection at once."""
        self._outer.abort()

    def is_closing(self) -> bool:
        """Tell whether nothing more can be sent."""
        return self._protocol.state is not State.OPEN or self._outer.lost

    def pause_reading(self) -> None:
        """Take no more from the socket."""
        self._outer.pause_reading()

    def resume_reading(self) -> None:
        """Take from the socket again."""
        self._outer.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Leave the limits to the connection below."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  asyncio's own
        """Return what is known of the connection below."""
        try:
            return self._outer.transport().get_extra_info(name, default)
        except ConnectionResetError:
            return default

    def _on_data(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._deliver(self._protocol.events_received())
        self._flush()

    def _deliver(self, events: Iterable[Event]) -> None:
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode in (Opcode.BINARY, Opcode.CONT):
                if event.data:
                    self._inner.data_received(bytes(event.data))
            elif event.opcode is Opcode.TEXT:
                self._protocol.fail(_WRONG_KIND, "text says nothing here")

    def _flush(self) -> None:
        # An empty chunk stands for the end: the WebSocket is over, well or badly.
        chunks = self._protocol.data_to_send()
        self._outer.write_now([chunk for chunk in chunks if chunk])
        if b"" in chunks or self._protocol.state is State.CLOSED:
            self._outer.hang_up()

    def _on_writable(self) -> None:
        if self._full:
            self._full = False
            self._inner.resume_writing()


async def ask(outer: Wire, host: str, port: int) -> Wire:
    """Turn a connection to an edge into a WebSocket, as its client.

    Raises:
        UpgradeFailed: the other end does not agree.
        EndOfStream: it hung up.
        BrokenResourceError: the connection failed.
    """
    place = f"[{host}]" if ":" in host else host
    protocol = ClientProtocol(
        parse_uri(f"wss://{place}:{port}{PATH}"), subprotocols=[SUBPROTOCOL], max_size=TAKEN_BYTES
    )
    protocol.send_request(protocol.connect())
    await outer.send(b"".join(protocol.data_to_send()))
    answer, early = await _first(outer, protocol)
    if protocol.handshake_exc is not None or protocol.subprotocol != SUBPROTOCOL:
        status = answer.status_code if isinstance(answer, Response) else "no answer of HTTP"
        raise UpgradeFailed(f"the other end does not open a WebSocket ({status})")
    return _carried(outer, protocol, early)


async def accept(outer: Wire) -> Wire:
    """Turn a connection from a gateway into a WebSocket, as its server; answer who asks otherwise.

    Raises:
        UpgradeFailed: what was asked for is nothing that is served here.
        EndOfStream: it hung up.
        BrokenResourceError: the connection failed.
    """
    protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=TAKEN_BYTES)
    request, early = await _first(outer, protocol)
    if not isinstance(request, Request):
        await outer.send(b"".join(protocol.data_to_send()))
        raise UpgradeFailed("no request of HTTP")
    if request.path == PATH:
        answer = protocol.accept(request)
    else:
        answer = protocol.reject(404, "there is nothing here but links of gateways\n")
    protocol.send_response(answer)
    await outer.send(b"".join(protocol.data_to_send()))
    if protocol.handshake_exc is not None or answer.status_code != 101:
        raise UpgradeFailed(f"answered {answer.status_code}")
    return _carried(outer, protocol, early)


async def _first(
    outer: Wire, protocol: ClientProtocol | ServerProtocol
) -> tuple[Event | None, list[Event]]:
    """Return the first event of the other end, None if it makes no sense, and those behind it."""
    while True:
        try:
            protocol.receive_data(await outer.receive())
        except WebSocketException:
            return None, []
        events = protocol.events_received()
        if events:
            return events[0], events[1:]
        if protocol.parser_exc is not None or protocol.handshake_exc is not None:
            return None, []


def _carried(
    outer: Wire, protocol: ClientProtocol | ServerProtocol, early: Iterable[Event]
) -> Wire:
    inner = Wire()
    WebSocketTransport(outer, protocol, inner).start(early)
    return inner


# What a wire raises when the other end is gone.
GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError)

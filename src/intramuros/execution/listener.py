"""A little HTTP server at an address of this machine: one request for each connection.

Everything that arrives is foreign: heads, bodies, time and the number of connections are bounded,
and whoever comes when all are taken is sent away at once.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream

from intramuros.kernel.errors import OperatorError

MAX_VISITS: Final = 64
"""Connections at once."""
_MAX_HEAD: Final = 16 * 1024
_CHUNK: Final = 16 * 1024
_ANSWER_S: Final = 5.0
_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Told:
    """The answer."""

    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"


Answer = Callable[[Asked], Told]


@asynccontextmanager
async def listening(
    at: tuple[str, int], setting: str, answer: Answer, max_body: int = 0
) -> AsyncIterator[tuple[str, int]]:
    """Answer until the block ends; gives where.

    Args:
        setting: the flag that named the address.
        max_body: bytes that a request may bring.

    Raises:
        OperatorError: it cannot listen there.
    """
    host, port = at
    try:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    except OSError as error:
        raise OperatorError(
            f"cannot listen at {host}:{port} ({error.strerror or error})",
            f"choose another {setting}",
        ) from error
    visits = 0

    async def visit(stream: SocketStream) -> None:
        nonlocal visits
        async with stream:
            if visits >= MAX_VISITS:
                return
            visits += 1
            try:
                with suppress(OSError, *_GONE), anyio.move_on_after(_ANSWER_S):
                    await _visit(stream, answer, max_body)
            finally:
                visits -= 1

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, visit)
        attributes: Mapping[Any, Any] = listener.listeners[0].extra_attributes
        bound = attributes[SocketAttribute.local_address]()
        try:
            yield str(bound[0]), int(bound[1])
        finally:
            group.cancel_scope.cancel()


async def _visit(stream: SocketStream, answer: Answer, max_body: int) -> None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    method = ""
    try:
        asked = await _read(http, stream, max_body)
        if asked is None:
            told = Told(413)
        else:
            method, told = asked.method, answer(asked)
    except h11.RemoteProtocolError:
        told = Told(400)
    if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [
        ("content-type", told.kind),
        ("content-length", str(len(told.body))),
        ("connection", "close"),
    ]
    head = http.send(h11.Response(status_code=told.status, headers=headers)) or b""
    await stream.send(head if method == "HEAD" else head + told.body)


async def _read(http: h11.Connection, stream: SocketStream, max_body: int) -> Asked | None:
    """Return the request; None when it brings more than it may.

    Raises:
        h11.RemoteProtocolError: it is none.
    """
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_body:
                return None
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {
                name.decode("ascii"): value.decode("latin-1") for name, value in head.headers
            }
            return Asked(
                head.method.decode("ascii"), head.target.decode("ascii"), headers, bytes(body)
            )
        else:
            raise h11.RemoteProtocolError("no request")

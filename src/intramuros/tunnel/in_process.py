"""Requests that an ASGI application in this process answers, in place of a server elsewhere.

Answers are passed on as they are made: a part is taken only when the one before it is gone, so that
a slow reader slows the application down and fills no memory.
"""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
)
from contextlib import suppress
from typing import Any, Final

import anyio
import httpcore2
from anyio.abc import TaskGroup

from intramuros.kernel.telemetry import logger

log = logger("in_process")

_PIECE_BYTES: Final = 64 * 1024

# ASGI 3.0, as its specification names them.
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class InProcess:
    """Answers requests by an application.

    Args:
        app: speaks ASGI; finds ``about`` in its scope's ``state``.
        group: runs one task for each request.
    """

    def __init__(self, app: ASGIApp, group: TaskGroup) -> None:
        self._app = app
        self._group = group

    async def answer(
        self, request: httpcore2.Request, about: Mapping[str, object]
    ) -> httpcore2.Response:
        """Return an answer once its head is there; closing it ends the application's work.

        Raises:
            httpcore2.RemoteProtocolError: the application failed before it answered.
        """
        exchange = _Exchange(_scope(request, about), await _body(request))
        self._group.start_soon(exchange.run, self._app)
        try:
            await exchange.begun.wait()
        except BaseException:
            exchange.cancel()
            raise
        if exchange.status is None:
            exchange.cancel()
            raise httpcore2.RemoteProtocolError("the route failed before it answered")
        return httpcore2.Response(exchange.status, headers=exchange.headers, content=exchange)


class _Exchange:
    """One request, and its answer as a stream of bytes."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        self._scope = scope
        self._body: bytes | None = body
        self._work = anyio.CancelScope()
        self._outward, self._coming = anyio.create_memory_object_stream[bytes](0)
        self.begun = anyio.Event()
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self._whole = False

    async def run(self, app: ASGIApp) -> None:
        try:
            with self._work:
                await app(self._scope, self._receive, self._send)
        except Exception:
            # The caller learns that it failed; nobody else's request may suffer from it.
            log.exception("route_failed")
        finally:
            self._outward.close()
            self.begun.set()

    def cancel(self) -> None:
        self._work.cancel()
        self._coming.close()

    async def aclose(self) -> None:
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._coming:
            async for part in self._coming:
                yield part
        if not self._whole:
            raise httpcore2.RemoteProtocolError("the route failed in the middle of its answer")

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        # Whoever asked is gone only when this exchange is cancelled, and that ends this wait too.
        await anyio.sleep_forever()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            self.headers = [(bytes(name), bytes(value)) for name, value in message["headers"]]
            self.begun.set()
            return
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            part = message.get("body", b"")
            # In pieces: whoever passes them on holds each several times over.
            for start in range(0, len(part), _PIECE_BYTES):
                await self._outward.send(part[start : start + _PIECE_BYTES])
        if not message.get("more_body", False):
            self._whole = True
            self._outward.close()


async def _body(request: httpcore2.Request) -> bytes:
    assert isinstance(request.stream, AsyncIterable)
    return b"".join([part async for part in request.stream])


def _scope(request: httpcore2.Request, about: Mapping[str, object]) -> Scope:
    path, _, query = request.url.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "root_path": "",
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": None,
        "server": None,
        "state": dict(about),
    }

"""The HTTP server: uvicorn on a socket of ours, stopped with the other tasks."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import uvicorn
from fastapi import FastAPI

from intramuros.control.api.connection import BoundedHttp
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop, Task
from intramuros.kernel.telemetry import logger

log = logger("server")

_HTTP_DRAIN_S: Final = 5
_KEEP_ALIVE_S: Final = 75
_LAST: Final = (b"connection", b"close")


class HttpServer(uvicorn.Server):
    """Uvicorn without its own signal handling, stopped by our :class:`Stop`."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(_config(app))
        self._app = app
        self._serving = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell who waits to announce it."""
        await super().startup(sockets)
        self._serving.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``kernel.service``."""
        yield

    def task(self, listener: socket.socket) -> Task:
        """Return the task that serves on a bound socket."""

        async def run(stop: Stop) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(self._announce, listener)
                group.start_soon(self._stop_when, stop)
                await self.serve(sockets=[listener])
                group.cancel_scope.cancel()
            if not stop.requested:
                raise RuntimeError("the HTTP server ended by itself")

        return run

    def leave(self) -> None:
        """Say at ``/readyz`` that others are to be asked; end each connection with its next answer.

        Whoever keeps connections then closes them himself, and loses no request with one.
        """
        self._app.state.leaving = True
        self.config.encoded_headers = [*self.config.encoded_headers, _LAST]
        self.server_state.default_headers = [*self.server_state.default_headers, _LAST]

    async def _announce(self, listener: socket.socket) -> None:
        await self._serving.wait()
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"ready http://{shown}:{port}\n")
        sys.stdout.flush()
        log.info("serving", host=host, port=port)

    async def _stop_when(self, stop: Stop) -> None:
        await stop.wait()
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 takes a free one.

    Raises:
        OperatorError: the address does not resolve, is not this machine's or is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {host!r} ({error.strerror})", "check --host"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise OperatorError(
            f"cannot listen on {host}:{port} ({error.strerror})",
            "stop what uses it or choose another --port" if taken else "check --host and --port",
        ) from error
    return listener


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        http=BoundedHttp,
        # Longer than clients keep idle connections, so that it is they who close them: a request
        # sent into a connection that the server is just closing would be lost.
        timeout_keep_alive=_KEEP_ALIVE_S,
        # Peers' addresses are taken from the connection: a forwarded header could be anybody's.
        proxy_headers=False,
        timeout_graceful_shutdown=_HTTP_DRAIN_S,
    )

"""Connections to private servers: resolve, check every address, dial exactly what was checked."""

import ipaddress
import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.lowlevel
import httpcore2

from intramuros.kernel.wire import Wire, connect_tcp, start_tls
from intramuros.tunnel.routes import AddressRule

CONNECT_S: Final = 10.0
MAX_CONNECTIONS: Final = 1000
KEEPALIVE_S: Final = 60.0


class UpstreamRefused(Exception):
    """The upstream's address is not one that may be dialled: list it in upstream.allowed_ips."""


class UpstreamStream(httpcore2.AsyncNetworkStream):
    """A connection to a private server that reads no more ahead than a :class:`Wire` does.

    httpcore's own stops reading once its task runs, and until then libuv hands on all that the
    kernel holds: some megabytes for each caller that reads slowly.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> bytes:
        """Return some bytes, or none at the end."""
        with _named(httpcore2.ReadTimeout, httpcore2.ReadError), anyio.fail_after(timeout):
            try:
                return await self._wire.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> None:
        """Send bytes."""
        with _named(httpcore2.WriteTimeout, httpcore2.WriteError), anyio.fail_after(timeout):
            await self._wire.send(buffer)

    async def aclose(self) -> None:
        """Close the connection at once: whoever hung up must not wait for a server's goodbye."""
        self._wire.abort()
        await anyio.lowlevel.checkpoint()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
    ) -> httpcore2.AsyncNetworkStream:
        """Return this connection with TLS in it.

        Raises:
            ConnectError: the server is not believed, or speaks no TLS.
        """
        try:
            with (
                _named(httpcore2.ConnectTimeout, httpcore2.ConnectError),
                anyio.fail_after(timeout),
            ):
                wire = await start_tls(self._wire, ssl_context, server_hostname or "")
        except BaseException:
            self._wire.abort()
            raise
        return UpstreamStream(wire)

    def get_extra_info(self, info: str) -> object:
        """Answer what the pool asks: whether the server closed a connection that waits."""
        if info == "is_readable":
            return self._wire.readable or self._has_more()
        if info == "ssl_object":
            return None if self._wire.lost else self._wire.transport().get_extra_info("ssl_object")
        return None

    def _has_more(self) -> bool:
        """Whether the kernel knows of bytes, or of an end, that the event loop has not seen."""
        found = self._wire.transport().get_extra_info("socket")
        asked = select.poll()
        asked.register(found.fileno(), select.POLLIN)
        return bool(asked.poll(0))


@contextmanager
def _named(late: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """Give errors the names that httpcore knows."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error) or "no answer in time") from error
    except (OSError, anyio.BrokenResourceError) as error:
        raise failed(str(error) or "the connection broke") from error


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Dials a checked address, never the name again, so that DNS cannot change its mind between."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to one of the host's allowed addresses; a local one and options are not taken.

        Raises:
            UpstreamRefused: an address of the host is not allowed. One is enough: a name that
                mixes allowed and other addresses is how rebinding looks.
            ConnectError: nothing answered.
        """
        addresses = await self._resolve(host, port)
        refused = [a for a in addresses if not self._rule.allows(ipaddress.ip_address(a))]
        if refused:
            raise UpstreamRefused(f"{host} has the address {refused[0]}, which is not allowed")
        error: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                with (
                    _named(httpcore2.ConnectTimeout, httpcore2.ConnectError),
                    anyio.fail_after(timeout),
                ):
                    return UpstreamStream(await connect_tcp(address, port))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error

    async def sleep(self, seconds: float) -> None:
        """Wait; httpcore asks for it between its own retries, of which we allow none."""
        await anyio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        try:
            with anyio.fail_after(CONNECT_S):
                found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            raise httpcore2.ConnectError(f"cannot resolve {host}") from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def upstream_pool(rule: AddressRule, context: ssl.SSLContext) -> httpcore2.AsyncConnectionPool:
    """Return the pool that all routes of a gateway share: no proxy, no redirect, no retry."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=context,
        network_backend=PinnedBackend(rule),
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=100,
        keepalive_expiry=KEEPALIVE_S,
        retries=0,
    )

"""Direct connections to servers that others name: resolve, check, connect to what was checked.

The control plane must not be talked into reaching its own network (server-side request forgery):
a name is resolved once, every address is checked, and the connection goes to a checked address, so
that a second answer from the name server changes nothing. Operators list exceptions.
"""

import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, Protocol

import anyio
import anyio.to_thread
import httpcore2
import httpx2

from intramuros.kernel.addresses import Network, is_allowed

SocketOption = httpcore2.SOCKET_OPTION


# Look-ups at once. One that the system does not finish in time keeps its thread until it does, so
# names that never answer must not take all that there are.
MAX_LOOKUPS: Final = 128
# Closing waits for nobody; this is for the case that it does.
_CLOSE_S: Final = 2.0


class AddressRefused(httpcore2.ConnectError):
    """A name resolves, and not only to addresses that may be reached."""


class Resolver(Protocol):
    """Turns a host name into addresses."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host.

        Raises:
            OSError: the name has none.
        """
        ...


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Resolve through the operating system."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Threads:
    """Resolves names on threads of its own, which slow names cannot take from others."""

    def __init__(self, limit: int = MAX_LOOKUPS) -> None:
        self._limiter = anyio.CapacityLimiter(limit)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host.

        Raises:
            OSError: the name has none.
        """
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        return [str(entry[4][0]) for entry in found]


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Opens TCP connections to checked addresses only."""

    def __init__(
        self, exceptions: Sequence[Network] = (), resolver: Resolver = system_resolver
    ) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self._exceptions = exceptions
        self._resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the library's signature
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of ``host`` if all of them are allowed.

        Raises:
            AddressRefused: one of its addresses is not allowed.
            httpcore2.ConnectError: that, or unresolvable, or unreachable.
        """
        try:
            addresses = await self._resolver(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved") from error
        checked = [ipaddress.ip_address(text) for text in addresses]
        if not checked:
            raise httpcore2.ConnectError(f"{host} cannot be resolved")
        if not all(is_allowed(a, self._exceptions) for a in checked):
            raise AddressRefused(f"{host} does not resolve to public addresses only")
        return _Owned(
            await self._inner.connect_tcp(
                str(checked[0]), port, timeout, local_address, socket_options
            )
        )

    async def sleep(self, seconds: float) -> None:
        """Wait between retries."""
        await anyio.sleep(seconds)


class _Owned(httpcore2.AsyncNetworkStream):
    """A connection that is closed when its TLS handshake is cancelled.

    The library closes it when the handshake fails and not when it is cancelled; the event loop
    would then hold it for as long as the other side likes.
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the library's signature
    ) -> httpcore2.AsyncNetworkStream:
        """Return the connection with TLS over it.

        Raises:
            httpcore2.ConnectError: the handshake failed.
        """
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._inner.aclose()
            raise

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109  the library's signature
    ) -> bytes:
        """Read some bytes; none at the end."""
        return await self._inner.read(max_bytes, timeout)

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109  the library's signature
    ) -> None:
        """Write all of these bytes."""
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close it."""
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> object:
        """Return what the library knows of the connection."""
        return self._inner.get_extra_info(info)


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """An HTTP transport whose connections are guarded; one per (session, server)."""

    def __init__(
        self,
        exceptions: Sequence[Network] = (),
        resolver: Resolver = system_resolver,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        # The parent offers no argument for the network backend, so its pool is built here.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or httpx2.create_ssl_context(),
            max_connections=8,
            keepalive_expiry=30.0,
            network_backend=GuardedBackend(exceptions, resolver),
        )

"""Connections to private servers: resolve, check every address, dial exactly what was checked."""

import ipaddress
import socket
import ssl
from collections.abc import Iterable
from typing import Final

import anyio
import httpcore2

from intramuros.tunnel.routes import AddressRule

CONNECT_S: Final = 10.0
MAX_CONNECTIONS: Final = 1000
KEEPALIVE_S: Final = 60.0


class UpstreamRefused(Exception):
    """The upstream's address is not one that may be dialled: list it in upstream.allowed_ips."""


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Dials a checked address, never the name again, so that DNS cannot change its mind between."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to one of the host's allowed addresses.

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
                return await self._plain.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
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

"""Connections to the real hosts: resolve outside, judge each address, dial what was judged."""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import anyio

from intramuros.execution.egress.company import CompanyProxy, tunnel
from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.leg import Leg
from intramuros.kernel.addresses import Address, is_private, is_public
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import ForwardProxy
from intramuros.kernel.wire import ConnectFailed

# Of a host's many addresses, this many are tried.
MAX_TRIED: Final = 4


class UpstreamFailed(Exception):
    """The host cannot be had; ``rule`` says at which step, and nothing was sent."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Resolver(Protocol):
    """Turns a host name into addresses, on this side of the wall."""

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        """Return the addresses of a host.

        Raises:
            OSError: the name has none.
        """
        ...


async def system_resolver(name: str, port: int) -> Sequence[str]:
    """Resolve through the operating system."""
    found = await anyio.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def client_context(extra: Path | None = None) -> ssl.SSLContext:
    """Return what real hosts are verified with: the system's authorities, and the operator's.

    Args:
        extra: certificates of authorities of his own, PEM.

    Raises:
        OperatorError: that file cannot be used.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if extra is not None:
        try:
            context.load_verify_locations(extra)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(
                f"cannot read certificates from {extra}", "name a file of PEM certificates"
            ) from error
    return context


class Dialler:
    """Opens connections to checked addresses only."""

    def __init__(
        self,
        context: ssl.SSLContext,
        resolver: Resolver = system_resolver,
        connect_s: float = 10.0,
        proxy: CompanyProxy | None = None,
    ) -> None:
        """Take what hosts are verified with.

        Args:
            connect_s: for resolving, TCP and TLS each.
            proxy: through which hosts are reached that are not internal.
        """
        self._proxy = proxy
        self._context = context
        self._resolver = resolver
        self._connect_s = connect_s

    async def open(self, place: Place, *, internal: bool, tls: bool, session: object = None) -> Leg:
        """Connect to a host.

        Args:
            internal: whether the operator lists it as one with private addresses.
            tls: whether to speak TLS, verified against the name.
            session: of an earlier connection to the same place, which was verified, to resume.

        Raises:
            UpstreamFailed: unresolvable, an address that may not be dialled, unreachable, or a
                certificate that is not the host's.
        """
        fits: Callable[[Address], bool] = _any_server if internal else is_public
        proxy = None if internal else self._proxy
        try:
            addresses = await self._resolve(place)
        except UpstreamFailed:
            if proxy is None or not proxy.resolves:
                raise
            addresses = []
        refused = [address for address in addresses if not fits(address)]
        if refused:
            # One is enough: a name that mixes public and other addresses is how rebinding looks.
            raise UpstreamFailed(
                "address_refused", f"{place.name} has an address that may not be reached"
            )
        if proxy is None:
            stream = await self._connect(place, addresses)
        else:
            stream = await self._through(proxy.proxy, place)
        return await self._secure(stream, place.name, session) if tls else stream

    async def _resolve(self, place: Place) -> list[Address]:
        try:
            with anyio.fail_after(self._connect_s):
                found = await self._resolver(place.name, place.port)
        except (OSError, UnicodeError) as error:  # a timeout is an OSError too
            raise UpstreamFailed("unresolvable", f"{place.name} cannot be resolved") from error
        # A zone such as %eth0 marks a link-local address.
        if not found or any("%" in text for text in found):
            raise UpstreamFailed("unresolvable", f"{place.name} cannot be resolved")
        return [ipaddress.ip_address(text) for text in found]

    async def _connect(self, place: Place, addresses: Sequence[Address]) -> Leg:
        failure: Exception = OSError("no address")
        for address in addresses[:MAX_TRIED]:
            try:
                with anyio.fail_after(self._connect_s):
                    # An address, not the name: DNS cannot change its mind in between.
                    return await Leg.dial(str(address), place.port)
            except OSError as error:
                failure = error
        raise UpstreamFailed("unreachable", f"{place.name} does not answer") from failure

    async def _through(self, proxy: ForwardProxy, place: Place) -> Leg:
        """Reach a host by a tunnel of the company's proxy, which is trusted to be anywhere."""
        there = Place(proxy.host, proxy.port, "https" if proxy.tls else "http")
        try:
            stream = await self._connect(there, await self._resolve(there))
        except UpstreamFailed as error:
            raise UpstreamFailed("proxy_failed", "the company's proxy is not there") from error
        try:
            with anyio.fail_after(self._connect_s):
                return await tunnel(proxy, stream, place, self._context)
        except BaseException as error:
            stream.abort()
            if isinstance(error, ConnectFailed):
                raise UpstreamFailed(error.reason, str(error)) from error
            if isinstance(error, OSError | anyio.EndOfStream | anyio.BrokenResourceError):
                raise UpstreamFailed("proxy_failed", "no TLS with the company's proxy") from error
            raise

    async def _secure(self, leg: Leg, name: str, session: object) -> Leg:
        try:
            with anyio.fail_after(self._connect_s):
                await leg.secure(self._context, name=name, session=session)
        except BaseException as error:
            await leg.aclose()
            if isinstance(error, ssl.SSLCertVerificationError):
                why = error.verify_message or "not verified"
                raise UpstreamFailed("bad_certificate", f"{name}: {why}") from error
            if isinstance(error, OSError | anyio.EndOfStream | anyio.BrokenResourceError):
                raise UpstreamFailed("tls_failed", f"no TLS with {name}") from error
            raise
        return leg


def _any_server(address: Address) -> bool:
    return is_public(address) or is_private(address)

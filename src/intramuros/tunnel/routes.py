"""Which private server a host name means, and which addresses may be dialled for it.

Pure: no resolver, no socket. Sources: contract 17, R316 to R324.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from intramuros.tunnel.limits import NO_LIMITS, RouteLimits
from intramuros.tunnel.programs import Program

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 1918, the default of the product's gateway.
PRIVATE_NETWORKS: Final[tuple[IPNetwork, ...]] = (
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("172.16.0.0/12"),
    ipaddress.ip_network("192.168.0.0/16"),
)
_UPSTREAM: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}"
    r"[a-z0-9])?)):(?P<port>[0-9]{1,5})\Z",
    re.IGNORECASE,
)


class BadUpstream(ValueError):
    """The text is no upstream: write ``http://host:port`` and nothing more."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A private server."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What its ``Host`` header must say."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the routes file: the key as written, and where it leads."""

    key: str
    upstream: Upstream | Program
    limits: RouteLimits = NO_LIMITS


def parse_upstream(text: str) -> Upstream:
    """Read ``scheme://host:port`` (R319).

    Raises:
        BadUpstream: another scheme, no port, a path, a query, credentials, or an odd host.
    """
    match = _UPSTREAM.match(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise BadUpstream(f"{text!r} is not scheme://host:port")
    return Upstream(
        match["scheme"].lower(), (match["v6"] or match["host"]).lower(), int(match["port"])
    )


@dataclass(frozen=True)
class RouteTable:
    """The routes of one gateway."""

    routes: Mapping[str, Upstream | Program]
    tunnel_domain: str
    limits: Mapping[str, RouteLimits] = field(default_factory=dict)
    """Of the routes that have any."""

    def match(self, host: str) -> Route | None:
        """Return the route of a full host name: the exact key first, then the bare label."""
        keys = [host]
        suffix = f".{self.tunnel_domain}"
        if self.tunnel_domain and host.endswith(suffix):
            keys.append(host.removesuffix(suffix))
        for key in keys:
            upstream = self.routes.get(key)
            if upstream is not None:
                return Route(key, upstream, self.limits.get(key, NO_LIMITS))
        return None

    def serves(self, host: str) -> bool:
        """Whether a host is ours at all: below the tunnel's domain, or a key of its own."""
        return host in self.routes or (
            bool(self.tunnel_domain) and host.endswith(f".{self.tunnel_domain}")
        )


@dataclass(frozen=True)
class AddressRule:
    """Which addresses an upstream may have. ``anything`` switches the check off (R323)."""

    networks: tuple[IPNetwork, ...] = field(default=PRIVATE_NETWORKS)
    anything: bool = False

    def allows(self, address: IPAddress) -> bool:
        """Whether the address may be dialled."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            # ::ffff:127.0.0.1 reaches 127.0.0.1, so it is judged as that.
            address = address.ipv4_mapped
        if address.is_unspecified or address.is_multicast:
            return False
        if self.anything:
            return True
        return any(
            address.version == network.version and address in network for network in self.networks
        )

    def covers(self, other: "AddressRule") -> bool:
        """Whether every address that another rule allows is allowed by this one."""
        if self.anything or other.anything:
            return self.anything
        return all(any(_within(part, whole) for whole in self.networks) for part in other.networks)


def _within(part: IPNetwork, whole: IPNetwork) -> bool:
    if isinstance(part, ipaddress.IPv4Network):
        return isinstance(whole, ipaddress.IPv4Network) and part.subnet_of(whole)
    return isinstance(whole, ipaddress.IPv6Network) and part.subnet_of(whole)

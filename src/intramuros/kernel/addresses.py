"""Which addresses a connection that others asked for may go to. Pure.

A program that connects where strangers tell it to must not be talked into reaching its own network
(server-side request forgery). So a name is resolved once, every address is judged here, and the
connection goes to a judged address.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 6052 2.1: a translator on the way turns these into IPv4, whatever they hold.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# All that is handed out to hosts; Python counts reserved space beyond it as global.
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# A cloud's host agent that answers every machine in it, at an address that looks public.
_AGENTS: Final = frozenset({ipaddress.IPv4Address("168.63.129.16")})


def is_public(address: Address) -> bool:
    """Tell whether an address is a globally reachable unicast one.

    IPv4 inside IPv6 is judged as IPv4.
    """
    address = unwrapped(address)
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast and address not in _AGENTS


def is_private(address: Address) -> bool:
    """Tell whether an address is one of somebody's own network or machine, and fit for a server.

    Link-local addresses are not, where clouds keep their metadata; nor are multicast, broadcast,
    reserved and unspecified ones.
    """
    address = unwrapped(address)
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _PRIVATE_V4)
    return any(address in network for network in _PRIVATE_V6)


def is_allowed(address: Address, exceptions: Iterable[Network]) -> bool:
    """Tell whether a connection may go to an address: a public one, or in a listed network."""
    address = unwrapped(address)
    if any(address in network for network in exceptions if network.version == address.version):
        return True
    return is_public(address)


def unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for (mapped, 6to4, NAT64), or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


_PRIVATE_V4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_PRIVATE_V6: Final = (ipaddress.IPv6Network("::1/128"), ipaddress.IPv6Network("fc00::/7"))

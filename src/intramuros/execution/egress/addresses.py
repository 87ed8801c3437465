"""Addresses that stand for names inside one sandbox, and exist nowhere else. Pure.

They come from 198.18.0.0/15, which is set aside for tests of networks and routed by nobody
(RFC 2544), so what might leak leads nowhere and no host of anybody's is hidden.
"""

import ipaddress
from collections import OrderedDict
from typing import Final

NETWORK: Final = ipaddress.IPv4Network("198.18.0.0/15")
MAX_NAMES: Final = 4096
"""Names with an address at a time, in one sandbox."""
_SPARE: Final = 256
"""Addresses at the beginning that stand for no name; the name server's is one of them."""


class Addresses:
    """Which address stands for which name, both ways.

    Past the limit, the name that was looked up longest ago loses its address. That is given to
    another only after all others were: a program that kept it meets a reset until then.

    Args:
        max_names: how many names may have an address at a time.
        network: whose addresses they get.
    """

    def __init__(
        self, max_names: int = MAX_NAMES, network: ipaddress.IPv4Network = NETWORK
    ) -> None:
        self._first = int(network.network_address) + _SPARE
        self._last = int(network.broadcast_address) - 1
        if not 0 < max_names <= self._last - self._first:
            raise ValueError(f"{max_names} names do not fit into {network}")
        self._max = max_names
        self._next = self._first
        self._by_name: OrderedDict[str, str] = OrderedDict()
        self._by_address: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def of(self, name: str) -> str:
        """Return the address of a name, the same as last time while it is kept.

        Args:
            name: in its canonical form.
        """
        known = self._by_name.get(name)
        if known is not None:
            self._by_name.move_to_end(name)
            return known
        if len(self._by_name) >= self._max:
            _, freed = self._by_name.popitem(last=False)
            del self._by_address[freed]
        address = self._fresh()
        self._by_name[name] = address
        self._by_address[address] = name
        return address

    def name(self, address: str) -> str | None:
        """Return whose address this is; None when it is nobody's."""
        return self._by_address.get(address)

    def _fresh(self) -> str:
        """Return the next address in turn that is free; there are more than names."""
        while True:
            address = str(ipaddress.IPv4Address(self._next))
            self._next = self._next + 1 if self._next < self._last else self._first
            if address not in self._by_address:
                return address

"""How much one tunnel may move through an edge: dials at once, and bytes a second.

Every tunnel has an account while it has dials. Who is over its rate waits, and with it the sender
at the other end, because nothing is read meanwhile; other tunnels do not notice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from intramuros.kernel.timing import Clock
from intramuros.tunnel.linktable import Refused

# A tunnel that was quiet may move this much of a second's bytes at once.
BURST_S: Final = 0.25


@dataclass
class Account:
    """What one tunnel has under way."""

    dials: int = 0
    free_at_s: float = 0.0
    """When all that was moved so far has been paid for, on the monotonic clock."""


@dataclass
class Pace:
    """The accounts of all tunnels of an edge.

    Args:
        clock: for the rate.
        max_dials: of one tunnel at once, those included that have not said their ClientHello.
        bytes_per_s: of one tunnel, both directions together; 0 for no limit.
    """

    clock: Clock
    max_dials: int
    bytes_per_s: int = 0
    _accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def dials(self) -> int:
        """How many dials are under way."""
        return sum(account.dials for account in self._accounts.values())

    @contextmanager
    def dial(self, tunnel: str) -> Iterator[Account]:
        """Count a dial while it is under way.

        Raises:
            Refused: the tunnel has as many as it may.
        """
        account = self._accounts.setdefault(tunnel, Account())
        if account.dials >= self.max_dials:
            raise Refused("too_many_streams", f"the tunnel has {self.max_dials} streams")
        account.dials += 1
        try:
            yield account
        finally:
            account.dials -= 1
            if not account.dials and account.free_at_s <= self.clock.monotonic():
                self._accounts.pop(tunnel, None)

    async def passed(self, account: Account, size: int) -> None:
        """Account for bytes, and wait while the tunnel is over its rate."""
        if not self.bytes_per_s:
            return
        wait_s = self.owe(account, size)
        if wait_s > 0:
            await anyio.sleep(wait_s)

    def owe(self, account: Account, size: int) -> float:
        """Account for bytes and return how long to wait, in seconds."""
        now_s = self.clock.monotonic()
        account.free_at_s = max(account.free_at_s, now_s) + size / self.bytes_per_s
        return max(0.0, account.free_at_s - now_s - BURST_S)

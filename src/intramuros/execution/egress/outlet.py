"""The one way out of one sandbox: its rules, its secrets, what it has used, what is lent to it."""

import secrets as dice
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from intramuros.execution.egress.ledger import Ledger
from intramuros.execution.egress.limits import Meter
from intramuros.execution.egress.policy import Policy, Verdict
from intramuros.execution.egress.pool import Pool
from intramuros.execution.egress.secrets import LEASE_HEADER, HeaderRule, Lease, Secrets
from intramuros.execution.egress.tickets import Tickets
from intramuros.execution.egress.upstream import Dialler
from intramuros.kernel.timing import Clock


@dataclass
class Outlet:
    """What every connection of one sandbox is judged by; ``policy`` and ``secrets`` may change."""

    policy: Policy
    secrets: Secrets
    meter: Meter
    ledger: Ledger
    dialler: Dialler
    clock: Clock
    leases: dict[bytes, HeaderRule] = field(default_factory=dict, repr=False)
    opened: list[str] = field(default_factory=list)
    """Hosts that are open for as long as a lease says."""
    standing: tuple[HeaderRule, ...] = field(default=(), repr=False)
    """Headers that every request to their hosts and below their paths gets."""
    tickets: Tickets = field(init=False, repr=False)
    pool: Pool = field(init=False, repr=False)
    installing: bool = False
    """While an environment's packages are installed, the registries alone are reachable."""

    def __post_init__(self) -> None:
        """Begin without anything to resume or to take over."""
        self.tickets = Tickets(self.clock)
        self.pool = Pool(self.clock)

    @property
    def rules(self) -> Policy:
        """Return the rules that hold now."""
        if self.installing:
            return self.policy.installing()
        policy = self.policy
        for name in self.opened:
            policy = policy.also(name)
        return policy

    def admits(self, name: str) -> bool:
        """Tell whether a name may be looked up (``Names``)."""
        return self.rules.admits(name)

    def ports(self) -> frozenset[int]:
        """Return the ports that can be connected to (``Names``)."""
        return self.policy.ports()

    def judge(self, name: str, port: int) -> Verdict:
        """Tell whether a connection may be made now."""
        return self.rules.judge(name, port)

    @contextmanager
    def lend(self, rule: HeaderRule, *, admit: bool = False) -> Iterator[Lease]:
        """Let whoever is told the lease send a header, until the end of the block.

        Args:
            admit: open the rule's host for as long, whatever the environment says; the worker's
                own rules still count.
        """
        word = dice.token_urlsafe(32).encode("ascii")
        self.leases[word] = rule
        if admit:
            self.opened.append(rule.host)
        try:
            yield Lease(f"{LEASE_HEADER.decode()}: {word.decode()}")
        finally:
            del self.leases[word]
            if admit:
                self.opened.remove(rule.host)

    @contextmanager
    def admitting(self, host: str) -> Iterator[None]:
        """Open a host until the end of the block, if the worker's own rules allow it."""
        self.opened.append(host)
        try:
            yield
        finally:
            self.opened.remove(host)

    @contextmanager
    def registries_only(self) -> Iterator[None]:
        """Let nothing but the package registries through, until the end of the block."""
        self.installing = True
        try:
            yield
        finally:
            self.installing = False

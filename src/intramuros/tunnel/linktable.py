"""Which links an edge has, and which of them may serve a dial. Nothing here waits."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from intramuros.protocol.tickets import DialTicket, Fence, TunnelToken

# Gateway replicas times reconnects in flight; more is a gateway that loops.
MAX_LINKS_PER_TUNNEL: Final = 32
MAX_STREAMS_PER_TUNNEL: Final = 10_000


class Refused(Exception):
    """The edge says no; ``code`` goes on the wire and into the log."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Carrier(Protocol):
    """What the table needs to know of a link."""

    @property
    def load(self) -> int:
        """Open streams."""
        ...

    @property
    def accepts_streams(self) -> bool:
        """Whether one more can be opened."""
        ...

    def abort(self, reason: str) -> None:
        """End the link now."""
        ...


@dataclass(eq=False)
class Entry:
    """One registered link."""

    token: TunnelToken
    gateway: str
    link: Carrier
    key: str = ""
    """Fingerprint of the control plane's key that signed the token."""
    spared_until_s: float = 0.0
    """Until then others are taken where there are any: it could not record what it was asked."""


@dataclass
class LinkTable:
    """Links by tunnel, and the lowest token version that may open a new one.

    The versions are learned from fences and from dial tickets, both signed by control; an edge
    that restarts knows none and learns them again with the first dial.
    """

    max_links: int = MAX_LINKS_PER_TUNNEL
    max_streams: int = MAX_STREAMS_PER_TUNNEL
    _entries: dict[str, list[Entry]] = field(default_factory=dict)
    _versions: dict[str, int] = field(default_factory=dict)

    @property
    def link_count(self) -> int:
        """How many links there are."""
        return sum(len(entries) for entries in self._entries.values())

    def admit(self, token: TunnelToken) -> None:
        """Check that a gateway with this token may have a link.

        Raises:
            Refused: the token was rotated or the tunnel archived, or there are too many links.
        """
        needed = self._versions.get(token.tunnel, 0)
        if token.version < needed:
            raise Refused("stale_token", f"token version {token.version} is below {needed}")
        if len(self._entries.get(token.tunnel, ())) >= self.max_links:
            raise Refused("too_many_links", f"the tunnel has {self.max_links} links already")

    def add(self, entry: Entry) -> None:
        """Register a link that is ready for streams."""
        self._entries.setdefault(entry.token.tunnel, []).append(entry)

    def remove(self, entry: Entry) -> None:
        """Forget a link; nothing happens if it is unknown."""
        entries = self._entries.get(entry.token.tunnel, [])
        if entry in entries:
            entries.remove(entry)
        if not entries:
            self._entries.pop(entry.token.tunnel, None)

    def pick(self, ticket: DialTicket, now_s: float = 0.0) -> Entry:
        """Return a link that may serve the dial: of the same gateway for each dial of a session.

        Servers keep state between the calls of a session, and programs behind routes live in one
        gateway. Which gateway follows from the names of those that are there, so that every edge
        finds the same and none remembers (rendezvous hashing, Thaler and Ravishankar 1998); of
        its links the least loaded is taken. When gateways come or go, few sessions move.

        Args:
            ticket: what control shows.
            now_s: the time that ``spared_until_s`` is about.

        Raises:
            Refused: there is none now, or the tunnel has too many streams.
        """
        self._learn(ticket.tunnel, ticket.version)
        entries = [
            entry
            for entry in self._entries.get(ticket.tunnel, ())
            if entry.token.domain == ticket.domain and entry.token.version >= ticket.serves_from
        ]
        usable = [entry for entry in entries if entry.link.accepts_streams]
        if not usable:
            raise Refused("no_link", "no gateway of this tunnel is connected here")
        if sum(entry.link.load for entry in entries) >= self.max_streams:
            raise Refused("too_many_streams", f"the tunnel has {self.max_streams} streams")
        usable = [entry for entry in usable if entry.spared_until_s <= now_s] or usable
        chosen = max({entry.gateway for entry in usable}, key=lambda name: _affinity(ticket, name))
        own = [entry for entry in usable if entry.gateway == chosen]
        return min(own, key=lambda entry: entry.link.load)

    def apply(self, fence: Fence) -> int:
        """Apply control's word on token versions and return how many links were cut.

        New links below the version are refused from now on; open ones stay, unless the fence
        severs (contract 16, R304 and R306).
        """
        self._learn(fence.tunnel, fence.version)
        if not fence.sever:
            return 0
        stale = [
            entry
            for entry in self._entries.get(fence.tunnel, ())
            if entry.token.version < fence.version
        ]
        for entry in stale:
            self.remove(entry)
            entry.link.abort("fenced by the control plane")
        return len(stale)

    def keep_to(self, keys: frozenset[str]) -> int:
        """Cut the links whose tokens were signed by keys that count no more; return how many."""
        stale = [
            entry
            for entries in self._entries.values()
            for entry in entries
            if entry.key not in keys
        ]
        for entry in stale:
            self.remove(entry)
            entry.link.abort("the control plane's key was changed")
        return len(stale)

    def _learn(self, tunnel: str, version: int) -> None:
        if version > self._versions.get(tunnel, 0):
            self._versions[tunnel] = version


def _affinity(ticket: DialTicket, gateway: str) -> bytes:
    # The host too, so that one busy session does not bring all its servers to one gateway.
    return sha256("\0".join((ticket.host, ticket.session, gateway)).encode()).digest()

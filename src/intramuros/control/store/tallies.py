"""What processes took of limits that they share: each counts by itself and tells the others.

A process says, for each limit that it took of, how much it has taken since it began to count, and
how much of that has not flowed back yet. Others take the difference to what they heard before off
their own account, or what is still owed when they hear of it for the first time; a message that is
lost is made up for by the next. Nothing waits for anybody, so that limits hold but for what is
taken within the time that telling takes; that is owed, and paid by those who come next. No I/O;
store/replicas.py carries it.
"""

import json
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from intramuros.kernel.timing import Clock

# What is taken is gathered for so long before it is told, in seconds.
GATHER_S: Final = 0.1
# What was taken within this time is told again with every renewal: the message may be lost.
AGAIN_S: Final = 35.0
# A process that was not heard for so long is forgotten.
SILENT_S: Final = 120.0
# Limits that are known of one process; the longest untouched is forgotten first.
ACCOUNTS_LIMIT: Final = 20_000
PEERS_LIMIT: Final = 100
BODY_BYTES: Final = 5_000

Key = tuple[str, ...]


class Book(Protocol):
    """Limits of one kind, as one process counts them."""

    def share(self, note: Callable[[Key, float, float], None]) -> None:
        """Call ``note`` with whatever is taken here: of which, how much, what flows in a second."""
        ...

    def charge(self, key: Key, amount: float) -> bool:
        """Take what was taken elsewhere; tell whether there is such a limit."""
        ...


@dataclass
class _Own:
    born: int
    total: float
    owed: float
    per_s: float
    at_s: float
    touched_s: float

    def look(self, now_s: float) -> float:
        self.owed = max(0.0, self.owed - (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        return self.owed


@dataclass
class _Peer:
    heard_s: float
    # What was heard last: which account, and its sum.
    sums: OrderedDict[tuple[str, Key], tuple[int, float]]


class Tally:
    """Keeps the books of several processes together.

    Args:
        books: by a name that all processes know.
    """

    kind: Final = "tally"

    def __init__(self, clock: Clock, books: Mapping[str, Book]) -> None:
        self._clock = clock
        self._me = secrets.token_hex(8)
        self._books = books
        self._soon: Callable[[float], None] = lambda _after_s: None
        self._own: OrderedDict[tuple[str, Key], _Own] = OrderedDict()
        self._changed: dict[tuple[str, Key], None] = {}
        self._due_s = math.inf
        self._born = 0
        self._peers: dict[str, _Peer] = {}
        for name, book in books.items():
            book.share(self._noting(name))

    def attach(self, soon: Callable[[float], None]) -> None:
        """Have ``soon`` called with the seconds after which :meth:`say` should be."""
        self._soon = soon

    def _noting(self, name: str) -> Callable[[Key, float, float], None]:
        def note(key: Key, amount: float, per_s: float) -> None:
            self._note((name, key), amount, per_s)

        return note

    def _note(self, account: tuple[str, Key], amount: float, per_s: float) -> None:
        now_s = self._clock.monotonic()
        own = self._own.pop(account, None)
        if own is None:
            self._born += 1
            own = _Own(self._born, 0.0, 0.0, per_s, now_s, now_s)
        self._own[account] = own
        own.owed = max(0.0, own.look(now_s) + amount)
        own.total += amount
        own.touched_s = now_s
        own.per_s = per_s
        if len(self._own) > ACCOUNTS_LIMIT:
            gone, _ = self._own.popitem(last=False)
            self._changed.pop(gone, None)
        if not self._changed:
            self._due_s = now_s + GATHER_S
            self._soon(GATHER_S)
        self._changed[account] = None

    def renew(self, *, anew: bool) -> None:
        """Tell again what was taken lately; to somebody new, whatever is still owed."""
        now_s = self._clock.monotonic()
        for account, own in self._own.items():
            if now_s - own.touched_s <= AGAIN_S or (anew and own.look(now_s) > 0):
                self._changed[account] = None
        self._due_s = now_s
        for peer in [name for name, one in self._peers.items() if one.heard_s + SILENT_S < now_s]:
            del self._peers[peer]

    def lost(self) -> None:
        """Lose nothing: sums are told again."""

    def say(self) -> Iterator[Sequence[object]]:
        """Return and forget what is to be told now, each short enough for one notification."""
        now_s = self._clock.monotonic()
        if not self._changed:
            return
        if now_s < self._due_s:
            self._soon(self._due_s - now_s)
            return
        changed, self._changed = self._changed, {}
        batch: list[object] = []
        size = 0
        for name, key in changed:
            own = self._own[name, key]
            entry = [name, key, own.born, own.total, own.look(now_s)]
            length = len(json.dumps(entry)) + 1
            if batch and size + length > BODY_BYTES:
                yield [self._me, *batch]
                batch, size = [], 0
            batch.append(entry)
            size += length
        yield [self._me, *batch]

    def hear(self, body: Sequence[Any]) -> None:
        """Take in what another process took.

        Raises:
            ValueError, TypeError, LookupError: it is nothing that one of us says.
        """
        name, *entries = body
        now_s = self._clock.monotonic()
        peer = self._peers.get(str(name))
        if peer is None:
            if len(self._peers) >= PEERS_LIMIT:
                raise ValueError("more processes than there are")
            peer = self._peers[str(name)] = _Peer(now_s, OrderedDict())
        peer.heard_s = now_s
        for book, key, born, total, owed in entries:
            account = str(book), tuple(str(part) for part in key)
            if not (math.isfinite(total) and math.isfinite(owed)):
                raise ValueError("no sum")
            self._settle(peer, account, (int(born), float(total)), float(owed))

    def _settle(
        self, peer: _Peer, account: tuple[str, Key], told: tuple[int, float], owed: float
    ) -> None:
        name, key = account
        before = peer.sums.pop(account, None)
        known = before is not None and before[0] == told[0]
        amount = told[1] - before[1] if before is not None and known else owed
        if self._books[name].charge(key, amount):
            peer.sums[account] = told
            if len(peer.sums) > ACCOUNTS_LIMIT:
                peer.sums.popitem(last=False)

"""Rate limits at work: one set of buckets for the organization and one for each limited workspace.

Buckets live in this process's memory: they are exact for it, cost a microsecond, and start full
with it. What other processes of the same database let in is taken here too, a moment later
(store/tallies.py). Everything here is synchronous, so that no two requests can take the same room.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from intramuros.control.metering.buckets import MAX_WAIT_S, Bucket
from intramuros.control.metering.groups import Group, Groups
from intramuros.control.model.cost import Tokens
from intramuros.kernel.errors import RateLimited
from intramuros.kernel.timing import Clock, from_micros

ORGANIZATION: Final = "organization"
_DAY_S: Final = 86_400.0
# Who was told to come back has so long to do so before the room it was promised is let go.
PROMISE_S: Final = 120.0
# Nobody is promised room that is further away than this.
MAX_PROMISE_S: Final = 600.0
# So many promises are looked through for those that nobody came for.
MANY_PROMISES: Final = 1_000

_SHOWN: Final[Mapping[str, str]] = {
    "requests_per_minute": "requests per minute",
    "input_tokens_per_minute": "input tokens per minute",
    "input_tokens_per_minute_cache_aware": "input tokens per minute",
    "output_tokens_per_minute": "output tokens per minute",
    "tokens_per_minute": "tokens per minute",
    "tokens_per_day": "tokens per day",
    "fast_itpmca": "input tokens per minute at speed fast",
    "fast_otpm": "output tokens per minute at speed fast",
}
# The headers that tell of a limiter (the documentation's table).
_HEADERS: Final[Mapping[str, str]] = {
    "requests_per_minute": "requests",
    "input_tokens_per_minute": "input-tokens",
    "input_tokens_per_minute_cache_aware": "input-tokens",
    "output_tokens_per_minute": "output-tokens",
    "tokens_per_minute": "tokens",
}
_INPUTS: Final = frozenset(
    {
        "input_tokens_per_minute",
        "input_tokens_per_minute_cache_aware",
        "tokens_per_minute",
        "tokens_per_day",
        "fast_itpmca",
    }
)


class Key(NamedTuple):
    """Which bucket; the scope is a workspace, or :data:`ORGANIZATION`."""

    scope: str
    group_id: str
    limiter: str


@dataclass
class Ticket:
    """A request that was let in: what it took of which bucket, until it is settled."""

    taken: list[tuple[Key, float]] = field(default_factory=list)
    fast: bool = False


@dataclass
class _Promise:
    due_s: float
    ticket: Ticket


class Rates:
    """Lets requests in, or says how long to wait.

    Args:
        groups: with the organization's limits.
    """

    def __init__(self, clock: Clock, groups: Groups) -> None:
        self._clock = clock
        self.groups = groups
        self._buckets: dict[Key, Bucket] = {}
        self._applied: dict[tuple[str, str], tuple[Key, ...]] = {}
        self._promises: dict[str, _Promise] = {}
        self._note: Callable[[tuple[str, ...], float, float], None] | None = None
        self.generation = 0
        """Grows whenever the workspaces' limits are set."""
        for group in groups.all:
            for limiter, value in group.limits.items():
                key = Key(ORGANIZATION, group.id, limiter)
                self._buckets[key] = self._bucket(limiter, value)

    def override(self, values: Mapping[Key, int]) -> None:
        """Set the workspaces' own limits, all of them; what was used counts on."""
        now_s = self._clock.monotonic()
        for key in [key for key in self._buckets if key.scope != ORGANIZATION]:
            if key not in values:
                del self._buckets[key]
        for key, value in values.items():
            bucket = self._buckets.get(key)
            if bucket is None:
                self._buckets[key] = self._bucket(key.limiter, value)
            elif bucket.limit != value:
                bucket.resize(value, now_s)
        self.generation += 1
        self._applied.clear()

    def limited(self, workspace_id: str, group: Group) -> bool:
        """Tell whether anything limits a workspace in a group."""
        return bool(self._keys(workspace_id, group))

    def admit(
        self,
        workspace_id: str,
        group: Group,
        tokens: int = 0,
        *,
        fast: bool = False,
        promise_to: str | None = None,
    ) -> Ticket:
        """Let a request in, which takes its room now.

        Args:
            tokens: how many its prompt is thought to have.
            promise_to: who will come back when told to: its room is kept then, in the order of
                arrival, so that a crowd of waiting sessions never starves one of them.

        Raises:
            RateLimited: naming the limit, with the time to wait.
        """
        now_s = self._clock.monotonic()
        kept = self._redeem(promise_to, now_s)
        if kept is not None:
            return kept
        wanted = self._wanted(workspace_id, group, tokens, fast=fast)
        worst: tuple[float, Key] | None = None
        for key, least, _ in wanted:
            wait_s = self._buckets[key].wait_s(least, now_s)
            if wait_s > 0 and (worst is None or wait_s > worst[0]):
                worst = (wait_s, key)
        ticket = Ticket([(key, amount) for key, _, amount in wanted], fast)
        if worst is None:
            self._take(ticket, now_s)
            return ticket
        if promise_to is not None and worst[0] <= MAX_PROMISE_S:
            self._take(ticket, now_s)
            if len(self._promises) >= MANY_PROMISES:
                self._forget(now_s)
            self._promises[promise_to] = _Promise(now_s + worst[0], ticket)
        raise self._refusal(group, worst[1], worst[0])

    def settle(self, ticket: Ticket, used: Tokens | None) -> None:
        """Set right what a request took, once it is known what it used; None: nothing."""
        now_s = self._clock.monotonic()
        for key, taken in ticket.taken:
            bucket = self._buckets.get(key)
            if bucket is not None and key.limiter != "requests_per_minute":
                more = (_used(key.limiter, used) if used else 0.0) - taken
                self._draw(key, bucket, more, now_s)
        ticket.taken = []

    def share(self, note: Callable[[tuple[str, ...], float, float], None]) -> None:
        """Call ``note`` with what is taken here: of which bucket, how much, its flow a second."""
        self._note = note

    def charge(self, key: tuple[str, ...], amount: float) -> bool:
        """Take what another process has let in; tell whether there is such a bucket."""
        bucket = self._buckets.get(Key(*key)) if len(key) == len(Key._fields) else None
        if bucket is not None:
            bucket.take(amount, self._clock.monotonic())
        return bucket is not None

    def headers(self, workspace_id: str, group: Group) -> dict[str, str]:
        """Return the headers that tell where a workspace stands in a group."""
        now_s, now_unix_s = self._clock.monotonic(), self._clock.now().timestamp()
        tightest: dict[str, Bucket] = {}
        for key in self._keys(workspace_id, group):
            name, bucket = _HEADERS.get(key.limiter), self._buckets[key]
            if name is None:
                continue
            known = tightest.get(name)
            if known is None or bucket.remaining(now_s) < known.remaining(now_s):
                tightest[name] = bucket
        headers = {}
        for name, bucket in tightest.items():
            left = bucket.remaining(now_s)
            if name != "requests":
                left = min(bucket.limit, round(left, -3))
            full_at = stamp(math.ceil(now_unix_s + min(bucket.full_in_s(now_s), _DAY_S)))
            headers[f"anthropic-ratelimit-{name}-limit"] = str(bucket.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(left)
            headers[f"anthropic-ratelimit-{name}-reset"] = full_at
        return headers

    def _bucket(self, limiter: str, value: int) -> Bucket:
        period_s = _DAY_S if limiter == "tokens_per_day" else 60.0
        return Bucket.full(value, self._clock.monotonic(), period_s)

    def _keys(self, workspace_id: str, group: Group) -> Sequence[Key]:
        """Return the buckets that count for a workspace: the organization's and its own."""
        known = self._applied.get((workspace_id, group.id))
        if known is None:
            scopes = (ORGANIZATION, workspace_id)
            known = tuple(k for k in self._buckets if k.group_id == group.id and k.scope in scopes)
            self._applied[workspace_id, group.id] = known
        return known

    def _wanted(
        self, workspace_id: str, group: Group, tokens: int, *, fast: bool
    ) -> list[tuple[Key, float, float]]:
        """Return (bucket, what must be in it, what is taken of it)."""
        wanted = []
        for key in self._keys(workspace_id, group):
            limiter = key.limiter
            if limiter == "requests_per_minute":
                wanted.append((key, 1.0, 1.0))
            elif not _counts(limiter, fast=fast):
                continue
            elif limiter in _INPUTS:
                wanted.append((key, float(max(1, tokens)), float(tokens)))
            else:
                wanted.append((key, 1.0, 0.0))  # output counts as it is produced
        return wanted

    def _take(self, ticket: Ticket, now_s: float) -> None:
        for key, amount in ticket.taken:
            self._draw(key, self._buckets[key], amount, now_s)

    def _draw(self, key: Key, bucket: Bucket, amount: float, now_s: float) -> None:
        bucket.take(amount, now_s)
        if self._note is not None and amount:
            self._note(key, amount, bucket.limit / bucket.period_s)

    def _redeem(self, who: str | None, now_s: float) -> Ticket | None:
        if who is None or who not in self._promises:
            return None
        promise = self._promises[who]
        wait_s = promise.due_s - now_s
        if wait_s > 0.05:  # clocks of two kinds drift apart a little
            raise RateLimited("the rate limit is used up", retry_after_s=math.ceil(wait_s))
        del self._promises[who]
        self._forget(now_s)
        return promise.ticket if wait_s > -PROMISE_S else None

    def _forget(self, now_s: float) -> None:
        """Let go of room that nobody came for."""
        stale = [who for who, one in self._promises.items() if one.due_s + PROMISE_S < now_s]
        for who in stale:
            del self._promises[who]

    def _refusal(self, group: Group, key: Key, wait_s: float) -> RateLimited:
        whose = "the organization's" if key.scope == ORGANIZATION else "this workspace's"
        limit, what = self._buckets[key].limit, _SHOWN.get(key.limiter, key.limiter)
        return RateLimited(
            f"This request would exceed {whose} rate limit of {limit:,} {what} "
            f"for {group.display_name}",
            retry_after_s=min(MAX_WAIT_S, math.ceil(wait_s)),
        )


@lru_cache(maxsize=256)
def stamp(unix_s: int) -> str:
    """Return a second as headers write it; many answers name the same one."""
    return from_micros(unix_s * 1_000_000).strftime("%Y-%m-%dT%H:%M:%SZ")


def _counts(limiter: str, *, fast: bool) -> bool:
    """Tell whether a limiter counts requests of a speed; fast ones have limits of their own."""
    if limiter in ("fast_itpmca", "fast_otpm"):
        return fast
    if fast:
        return limiter not in (
            "input_tokens_per_minute_cache_aware",
            "input_tokens_per_minute",
            "output_tokens_per_minute",
        )
    return True


def _used(limiter: str, used: Tokens) -> float:
    fresh = used.input + used.cache_write_5m + used.cache_write_1h
    if limiter in ("input_tokens_per_minute_cache_aware", "fast_itpmca"):
        return fresh
    if limiter == "input_tokens_per_minute":
        return fresh + used.cache_read
    if limiter in ("output_tokens_per_minute", "fast_otpm"):
        return used.output
    return fresh + used.cache_read + used.output

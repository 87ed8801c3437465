"""Limits on API calls as such: creations and reads of managed agents, files and skills (c1_27)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from intramuros.control.metering.buckets import Bucket
from intramuros.control.metering.rates import Rates, stamp
from intramuros.kernel.errors import RateLimited
from intramuros.kernel.timing import Clock

# What one creates. A route that ends in one of these nouns and is posted to makes one.
NOUNS: Final = frozenset(
    {
        "agents",
        "credentials",
        "deployments",
        "dreams",
        "environments",
        "memories",
        "memory_stores",
        "resources",
        "sessions",
        "vaults",
    }
)


@dataclass(frozen=True)
class Call:
    """One call: of which sort, and whose.

    Args:
        sort: ``create``, ``read``, or the type of a rate-limit group (``files``, ``skills``).
    """

    sort: str
    workspace_id: str


class Calls:
    """Lets calls in; the same buckets serve all workspaces, as the contract says.

    Args:
        creates_per_minute: 0 for no limit; the official service has 300.
        reads_per_minute: 0 for no limit; the official service has 1,200.
    """

    def __init__(
        self, clock: Clock, rates: Rates, creates_per_minute: int, reads_per_minute: int
    ) -> None:
        self._clock = clock
        self._rates = rates
        sorts = {"create": creates_per_minute, "read": reads_per_minute}
        now_s = clock.monotonic()
        self._note: Callable[[tuple[str, ...], float, float], None] | None = None
        self._buckets = {sort: Bucket.full(n, now_s) for sort, n in sorts.items() if n > 0}

    def admit(self, call: Call) -> dict[str, str]:
        """Let a call in and return the headers that tell how many more there may be.

        Raises:
            RateLimited: too many; with the time to wait.
        """
        if call.sort not in ("create", "read"):
            return self._grouped(call)
        bucket = self._buckets.get(call.sort)
        if bucket is None:
            return {}
        now_s = self._clock.monotonic()
        wait_s = bucket.wait_s(1, now_s)
        if wait_s > 0:
            raise RateLimited(
                f"This organization's limit of {bucket.limit:,} {call.sort} calls per minute is "
                "used up",
                retry_after_s=math.ceil(wait_s),
            )
        bucket.take(1, now_s)
        if self._note is not None:
            self._note((call.sort,), 1, bucket.limit / bucket.period_s)
        reset_unix_s = self._clock.now().timestamp() + bucket.full_in_s(now_s)
        return {
            "anthropic-ratelimit-requests-limit": str(bucket.limit),
            "anthropic-ratelimit-requests-remaining": str(bucket.remaining(now_s)),
            "anthropic-ratelimit-requests-reset": stamp(math.ceil(reset_unix_s)),
        }

    def share(self, note: Callable[[tuple[str, ...], float, float], None]) -> None:
        """Call ``note`` with what is let in here: of which sort, how much, its flow a second."""
        self._note = note

    def charge(self, key: tuple[str, ...], amount: float) -> bool:
        """Take what another process has let in; tell whether anything limits it here."""
        bucket = self._buckets.get(key[0]) if len(key) == 1 else None
        if bucket is not None:
            bucket.take(amount, self._clock.monotonic())
        return bucket is not None

    def _grouped(self, call: Call) -> dict[str, str]:
        group = self._rates.groups.of_type(call.sort)
        if not self._rates.limited(call.workspace_id, group):
            return {}
        self._rates.admit(call.workspace_id, group)
        return self._rates.headers(call.workspace_id, group)


def sort_of(method: str, route: str, *, managed: bool) -> str | None:
    """Return what a request counts as, or None for what no limit is about.

    Args:
        route: the path with its placeholders, such as ``/v1/agents/{agent_id}``.
        managed: whether the endpoint belongs to managed agents.
    """
    for group in ("files", "skills"):
        if route == f"/v1/{group}" or route.startswith(f"/v1/{group}/"):
            return group
    if not managed:
        return None
    if method == "GET":
        return "read"
    made = method == "POST" and route.rpartition("/")[2] in NOUNS
    return "create" if made else None

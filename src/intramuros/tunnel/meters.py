"""Count what each route is asked, and say what is too much."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from intramuros.kernel.timing import Clock
from intramuros.tunnel.limits import OverLimit, RouteLimits

MINUTE_S: Final = 60.0
# A place may be free at any moment.
BUSY_RETRY_S: Final = 1


@dataclass
class _Meter:
    under_way: int = 0
    recent: deque[float] = field(default_factory=deque)
    """When the requests of the last minute came, on the monotonic clock."""


class Meters:
    """Counts the requests of each route. What was counted outlives changes of its limits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._meters: dict[str, _Meter] = {}

    def enter(
        self, route: str, limits: RouteLimits, body_bytes: int
    ) -> OverLimit | Callable[[], None]:
        """Count a request; return why it is refused, or what to call at its end, once.

        Args:
            route: its key.
            limits: of the route, as they are now.
            body_bytes: of the request.
        """
        if limits.body_bytes is not None and body_bytes > limits.body_bytes:
            return OverLimit("max_body_bytes", limits.body_bytes, 413)
        meter = self._meters.setdefault(route, _Meter())
        if limits.concurrent is not None and meter.under_way >= limits.concurrent:
            return OverLimit("max_concurrent", limits.concurrent, retry_after_s=BUSY_RETRY_S)
        if limits.per_minute is not None:
            wait_s = self._wait_s(meter, limits.per_minute)
            if wait_s > 0:
                after_s = max(1, math.ceil(wait_s))
                return OverLimit("calls_per_minute", limits.per_minute, retry_after_s=after_s)
            meter.recent.append(self._clock.monotonic())
        meter.under_way += 1

        def leave() -> None:
            meter.under_way -= 1
            if not meter.under_way and not meter.recent and self._meters.get(route) is meter:
                del self._meters[route]

        return leave

    def _wait_s(self, meter: _Meter, most: int) -> float:
        """Return how long until one more request is within a minute's limit."""
        now_s = self._clock.monotonic()
        while meter.recent and meter.recent[0] <= now_s - MINUTE_S:
            meter.recent.popleft()
        if len(meter.recent) < most:
            return 0.0
        # The limit may have been lowered: so many must grow old first.
        return meter.recent[-most] + MINUTE_S - now_s

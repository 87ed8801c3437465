"""A wall clock that does not jump with the machine's until the jump has lasted.

Leases, retries and what waits for its time are kept as points of wall-clock time, because several
processes read them. A machine whose clock is wrong for a second, by an hour, would give leases that
outlive their holders by that hour, and end everybody else's; a step back would hold up all that is
due. So small differences are followed at once, as they come from the machine's own corrections; a
large one is believed when it was there for a minute, as it is after a suspended machine wakes, or
for as long as the time before it, if that is shorter: a process may have begun while its clock was
wrong.
"""

from datetime import datetime, timedelta
from typing import Final

from intramuros.kernel.timing import Clock

# What clocks are corrected by in passing, and what is nothing to leases of ten seconds.
SMALL_S: Final = 0.5
# Longer than a mistake lasts that is noticed and undone, short beside what an operator waits.
BELIEVED_AFTER_S: Final = 60.0


class SteadyClock:
    """A clock over another one; any thread may ask it.

    Args:
        source: its monotonic time carries the clock on while its wall time is not believed.
    """

    def __init__(self, source: Clock) -> None:
        self._source = source
        self._anchor = source.now(), source.monotonic()
        self._agreed_since = self._anchor[1]
        self._doubted_since: float | None = None

    def now(self) -> datetime:
        """Return the wall clock as an aware UTC datetime, without jumps that do not last."""
        told, monotonic = self._source.now(), self._source.monotonic()
        at, since = self._anchor
        expected = at + timedelta(seconds=monotonic - since)
        # Read once: another thread may change it meanwhile.
        doubted_since = self._doubted_since
        if abs((told - expected).total_seconds()) > SMALL_S:
            if doubted_since is None:
                self._doubted_since = monotonic
                return expected
            patience_s = min(BELIEVED_AFTER_S, doubted_since - self._agreed_since)
            if monotonic - doubted_since < patience_s:
                return expected
            self._agreed_since = monotonic
        # Threads that come here together write the same, but for a moment.
        self._anchor = told, monotonic
        self._doubted_since = None
        return told

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._source.monotonic()

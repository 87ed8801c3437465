"""How fast one sandbox may ask for something: a bucket of permits that fills steadily. Pure."""


class Pace:
    """Hands out permits; a burst at once, then so many per second.

    Args:
        per_s: permits that come back each second.
        burst: how many there can be at a time.
        at: seconds now, on the caller's clock.
    """

    def __init__(self, per_s: float, burst: int, at: float) -> None:
        if per_s <= 0 or burst < 1:
            raise ValueError("a pace is positive")
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._at = at

    def take(self, at: float, permits: int = 1) -> float:
        """Take permits and return how many seconds to wait before using them."""
        gained = max(at - self._at, 0.0) * self._per_s
        self._left = min(self._left + gained, self._burst) - permits
        self._at = at
        return max(-self._left / self._per_s, 0.0)

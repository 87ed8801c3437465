"""Says again only now and then what would otherwise be said all the time. Pure."""

from typing import Final

# Things that are remembered; beyond that all are said anew.
_KEYS_LIMIT: Final = 256


class Remarks:
    """Bounds how often each of several things is said.

    Args:
        period_s: seconds between two times of the same.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._said: dict[str, tuple[float, int]] = {}

    def due(self, what: str, now_s: float) -> int | None:
        """Return how often it was not said since the last time; None to keep silent now.

        Args:
            what: the same for what is said alike.
            now_s: a clock that never goes back.
        """
        last_s, silent = self._said.get(what, (float("-inf"), 0))
        if now_s - last_s < self._period_s:
            self._said[what] = last_s, silent + 1
            return None
        if len(self._said) >= _KEYS_LIMIT:
            self._said.clear()
        self._said[what] = now_s, 0
        return silent

"""When to leave alone what fails: at once, longer each time, and not for ever. Pure."""

from dataclasses import dataclass
from typing import Final

# The first pause after a failure and the longest, in seconds.
FIRST_S: Final = 0.5
LONGEST_S: Final = 30.0


@dataclass
class Breaker:
    """Whether something may be used; closed means that it may.

    It begins open: what was never tried is tried first.
    """

    closed: bool = False
    trying: bool = False
    due_s: float = 0.0
    failures: int = 0

    def due(self, now_s: float) -> bool:
        """Tell whether somebody is to try, and take it that the caller does."""
        if self.closed or self.trying or now_s < self.due_s:
            return False
        self.trying = True
        return True

    def works(self) -> bool:
        """Know that it works; tell whether that is news."""
        news = not self.closed
        self.closed, self.trying, self.failures = True, False, 0
        return news

    def fails(self, now_s: float, *, long: bool = False) -> bool:
        """Know that it does not work; tell whether that is news.

        Args:
            now_s: a clock that never goes back.
            long: a moment will not mend it.
        """
        news = self.closed or self.failures == 0
        # Of failures that were under way when it opened, only the first counts.
        if self.closed or self.trying:
            pause_s = LONGEST_S if long else min(LONGEST_S, FIRST_S * 2.0 ** min(self.failures, 16))
            self.due_s = now_s + pause_s
            self.failures += 1
        self.closed = self.trying = False
        return news

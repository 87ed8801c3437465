"""Prefixed identifiers that sort by creation time.

An id is ``<prefix>_`` and 26 characters of Crockford base 32: 48 bits of milliseconds since the
epoch and 80 random bits (the ULID layout), so that ids made later compare greater and none can be
guessed. Prefixes are the contract's (contract 4.1).
"""

from collections.abc import Callable
from typing import Final

from intramuros.kernel.timing import Clock, to_micros

ENTROPY_BYTES: Final = 10
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# By ten bits: half as many steps.
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS: Final = range(120, -1, -10)


def make_id(prefix: str, at_ms: int, entropy: bytes) -> str:
    """Return ``prefix_`` and the 26 characters of the time and the entropy.

    Args:
        prefix: the kind, without underscore.
        at_ms: milliseconds since the epoch, below 2**48.
        entropy: exactly ten random bytes.

    Raises:
        ValueError: a wrong number of bytes or a time out of range.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"entropy must be {ENTROPY_BYTES} bytes")
    if not 0 <= at_ms < 1 << 48:
        raise ValueError("time out of range")
    number = (at_ms << 80) | int.from_bytes(entropy)
    return f"{prefix}_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])


class IdFactory:
    """Makes ids from a clock and a source of random bytes (``os.urandom`` outside tests)."""

    def __init__(self, clock: Clock, randbytes: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._randbytes = randbytes

    def new(self, prefix: str) -> str:
        """Return a fresh id of that kind."""
        at_ms = to_micros(self._clock.now()) // 1000
        return make_id(prefix, at_ms, self._randbytes(ENTROPY_BYTES))

    def random(self, count: int) -> bytes:
        """Return ``count`` random bytes from the same source, for secrets and nonces."""
        return self._randbytes(count)

"""How much one sandbox may send and fetch, how fast, and how long each thing may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from intramuros.execution.egress.pace import Pace
from intramuros.kernel.timing import Clock

GIB = 1024**3
MIB = 1024**2
# Connections beyond a limit are recorded this often, in seconds: they cost their sender nothing.
_TELL_EVERY_S = 1.0


class LimitReached(Exception):
    """A sandbox has used up what it may use; ``rule`` says which limit."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Bounds of one sandbox; times in seconds."""

    connections: int = 128
    """Open at once."""
    rate: float = 100.0
    """Connections and requests a second, each counted, in the long run."""
    burst: int = 500
    """How many of them may come at once."""
    patience_s: float = 5.0
    """How long one is held back until its turn comes; beyond that it is refused."""
    bytes_per_s: float = 256.0 * MIB
    """Both ways together, in the long run; what is faster is held back."""
    bytes_burst: int = 64 * MIB
    """How many may pass at once."""
    sent_bytes: int = 10 * GIB
    """In all requests of a session's sandbox."""
    received_bytes: int = 100 * GIB
    """In all answers."""
    filled_bytes: int = 1 * MIB
    """A body in which a secret may stand keeps its length up to this size; a larger one goes in
    chunks."""
    head_s: float = 30.0
    """From the first byte of a request's head to its end, and for a TLS handshake."""
    idle_s: float = 75.0
    """Between two requests of a connection."""
    connect_s: float = 10.0
    """To resolve, connect and agree on TLS."""
    silence_s: float = 900.0
    """How long an upstream may say nothing, and either side take nothing."""
    request_s: float = 6 * 3600.0
    """One request with its answer, a WebSocket or a passed-through connection."""


class Meter:
    """What one sandbox has used."""

    def __init__(self, limits: EgressLimits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._open = 0
        self._tokens = float(limits.burst)
        self._at_s = clock.monotonic()
        self._told_s = -_TELL_EVERY_S
        self._bytes = Pace(limits.bytes_per_s, limits.bytes_burst, self._at_s)
        self.sent = 0
        """Bytes of requests so far."""
        self.received = 0
        """Bytes of answers so far."""

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Hold one of the connections.

        Raises:
            LimitReached: all are in use.
        """
        if self._open >= self.limits.connections:
            raise LimitReached("connections", f"at most {self.limits.connections} connections")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def turn(self) -> None:
        """Wait for the right to one more connection or request.

        Raises:
            LimitReached: it would take too long.
        """
        now_s = self._clock.monotonic()
        gained = (now_s - self._at_s) * self.limits.rate
        self._tokens = min(self._tokens + gained, float(self.limits.burst))
        self._at_s = now_s
        wait_s = max(0.0, (1 - self._tokens) / self.limits.rate)
        if wait_s > self.limits.patience_s:
            raise LimitReached("rate", f"more than {self.limits.rate:g} requests a second")
        # Taken before the wait, so that those who wait are served in the order they came.
        self._tokens -= 1
        if wait_s:
            await anyio.sleep(wait_s)

    async def hold(self, size: int) -> None:
        """Wait until these bytes are within the pace; they were counted before."""
        wait_s = self._bytes.take(self._clock.monotonic(), size) if size else 0.0
        if wait_s:
            await anyio.sleep(wait_s)

    def tells(self) -> bool:
        """Tell whether a connection too many is worth a record: once in a while is enough."""
        now_s = self._clock.monotonic()
        if now_s - self._told_s < _TELL_EVERY_S:
            return False
        self._told_s = now_s
        return True

    def send(self, size: int) -> None:
        """Count bytes before they leave.

        Raises:
            LimitReached: they would be too many.
        """
        if self.sent + size > self.limits.sent_bytes:
            raise LimitReached("sent_bytes", f"at most {self.limits.sent_bytes} bytes may leave")
        self.sent += size

    def receive(self, size: int) -> None:
        """Count bytes of answers.

        Raises:
            LimitReached: they are too many.
        """
        if self.received + size > self.limits.received_bytes:
            most = self.limits.received_bytes
            raise LimitReached("received_bytes", f"at most {most} bytes may be fetched")
        self.received += size

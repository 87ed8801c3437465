"""Keep one work item's lease alive, apart from the work itself.

The lease ends for one of these reasons; the first one stands::

    done        the work ended first
    stopping    the control plane asks us to come to an end (contract 9.30)
    stopped     the item is over
    lost        412, or no beat succeeded for a whole TTL: it belongs to someone else
    rejected    another 4xx: our credential no longer serves
"""

from enum import StrEnum
from typing import Final, Protocol

import anyio

from intramuros.execution.client import NO_HEARTBEAT, Away, Beat, LeaseLost, Refused
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("heartbeat")

# Contract 9.28, 9.29.
MIN_INTERVAL_S: Final = 1.0
MAX_INTERVAL_S: Final = 30.0
ASSUMED_TTL_S: Final = 90.0


class End(StrEnum):
    """Why a lease ended."""

    DONE = "done"
    STOPPING = "stopping"
    STOPPED = "stopped"
    LOST = "lost"
    REJECTED = "rejected"


class Heart(Protocol):
    """Who can send a heartbeat."""

    async def heartbeat(self, expected: str, *, ttl_s: int | None = None) -> Beat:
        """Extend the lease."""
        ...


class Lease:
    """This worker's view of one lease."""

    def __init__(self) -> None:
        self.end: End | None = None
        self.ttl_s = ASSUMED_TTL_S
        self.last = NO_HEARTBEAT
        self._ended = anyio.Event()

    def finish(self, end: End) -> None:
        """Note why it ended, unless that is known."""
        self.end = self.end or end
        self._ended.set()

    async def wait(self) -> End:
        """Return why, once it ended."""
        await self._ended.wait()
        assert self.end is not None
        return self.end

    @property
    def ours(self) -> bool:
        """False once the item belongs to someone else."""
        return self.end is not End.LOST


async def heartbeat_loop(
    heart: Heart, lease: Lease, clock: Clock, ttl_s: int | None = None
) -> None:
    """Beat every half TTL until the lease ends.

    Args:
        ttl_s: the lifetime to ask for, in seconds; None leaves it to the server.
    """
    beaten_at = clock.monotonic()
    interval_s = MAX_INTERVAL_S
    while lease.end is None:
        try:
            # A network that swallows packets must not outlast the lease.
            with anyio.fail_after(interval_s):
                beat = await heart.heartbeat(lease.last, ttl_s=ttl_s)
        except LeaseLost:
            log.warning("lease_lost")
            lease.finish(End.LOST)
        except Refused as error:
            log.error("heartbeat_refused", status=error.status)
            lease.finish(End.REJECTED)
        except (Away, TimeoutError) as error:
            silent_s = clock.monotonic() - beaten_at
            log.warning("heartbeat_failed", error=str(error), silent_s=round(silent_s, 1))
            if silent_s > lease.ttl_s:
                lease.finish(End.LOST)
            # Sooner than half a TTL: one lost packet must not cost half of what is left.
            interval_s = min(interval_s, max(MIN_INTERVAL_S, lease.ttl_s / 6))
        else:
            beaten_at = clock.monotonic()
            _took(lease, beat)
            interval_s = interval_of(lease.ttl_s)
        with anyio.move_on_after(interval_s):
            await lease.wait()


def interval_of(ttl_s: float) -> float:
    """Return the seconds between two beats."""
    return max(MIN_INTERVAL_S, min(ttl_s / 2, MAX_INTERVAL_S))


def _took(lease: Lease, beat: Beat) -> None:
    lease.last = beat.last
    if beat.ttl_s > 0:
        lease.ttl_s = beat.ttl_s
    if beat.state == "stopping":
        lease.finish(End.STOPPING)
    elif beat.state == "stopped" or not beat.extended:
        lease.finish(End.STOPPED)

"""Claim work by outbound long polls, as many items at once as there are slots.

An empty poll that the server held is followed by the next one at once; only a server that answers
immediately makes us pause. A stop ends polling; claimed items are the supervisor's to finish.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio

from intramuros.execution.client import POLL_BLOCK_MS, Away, Refused, Work
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s

log = logger("poll")

# Contract 9.16.
BACKOFF_BASE_S: Final = 1.0
BACKOFF_CAP_S: Final = 60.0
# A poll that came back sooner than this was not held by the server.
HELD_S: Final = POLL_BLOCK_MS / 1000 / 2
PAUSE_S: Final = 0.5
CROWDED_S: Final = 1.0


class Queue(Protocol):
    """Where work comes from."""

    environment_id: str | None

    async def poll(self, reclaim_older_than_ms: int | None) -> Work | None:
        """Claim the next item, or return None after a while."""
        ...


class Poller:
    """The poll loop of one worker."""

    def __init__(
        self,
        queue: Queue,
        serve: Callable[[Work], Awaitable[object]],
        slots: int,
        clock: Clock,
        rand: Callable[[], float],
    ) -> None:
        """Serve at most ``slots`` items at once with ``serve``, which must not raise."""
        self._queue = queue
        self._serve = serve
        self._slots = anyio.Semaphore(slots)
        self._clock = clock
        self._rand = rand
        self._failures = 0
        self._waits_for_room = False
        self.crowded: Callable[[], str | None] = _never
        """Says why this host can hold no other sandbox now; nothing is claimed meanwhile."""
        self.asleep: Callable[[Stop], Awaitable[None]] | None = None
        """Awaited while there is no work; None asks again at once."""
        self.doing = "starting"
        """What this loop does now, for the status."""

    async def loop(
        self,
        stop: Stop,
        *,
        once: bool,
        reclaim_older_than_ms: int | None,
        ready: Callable[[], None],
    ) -> None:
        """Poll until the stop and return when every claimed item is done.

        Args:
            once: return at the first empty poll instead of waiting for more.
            reclaim_older_than_ms: passed on with each poll (contract 9.14).
            ready: called after the first poll that the control plane answered.

        Raises:
            OperatorError: the control plane refused the poll for good.
        """
        told = False
        refused: Refused | None = None
        async with anyio.create_task_group() as items:
            while not stop.requested:
                self.doing = "waiting for a free slot"
                async with self._slots:
                    pass
                if self._is_crowded():
                    # Other workers may have room; ours asks again soon.
                    await _pause(CROWDED_S, stop)
                    continue
                try:
                    work, answered = await self._once(stop, reclaim_older_than_ms)
                except Refused as error:
                    # Raised only after the claimed items, which may have credentials of their own,
                    # came to an end.
                    refused = error
                    stop.request()
                    break
                if answered and not told:
                    told = True
                    ready()
                if work is not None and not stop.requested:
                    await self._slots.acquire()
                    items.start_soon(self._run, work)
                elif once and answered and work is None:
                    break
                elif answered and self.asleep is not None:
                    self.doing = "waiting to be woken"
                    await self.asleep(stop)
            self.doing = "finishing"
        self.doing = "stopped"
        if refused is not None:
            raise _fatal(refused, self._queue.environment_id) from refused

    def _is_crowded(self) -> bool:
        """Tell whether there is no room; when it runs out, people can read why."""
        lack, had_room = self.crowded(), not self._waits_for_room
        self._waits_for_room = lack is not None
        if lack is None:
            return False
        self.doing = f"waiting for room: {lack}"
        if had_room:
            log.warning("nothing_claimed", lack=lack)
        return True

    async def _run(self, work: Work) -> None:
        try:
            await self._serve(work)
        finally:
            self._slots.release()

    async def _once(
        self, stop: Stop, reclaim_older_than_ms: int | None
    ) -> tuple[Work | None, bool]:
        """Poll once; the second value tells whether the control plane answered.

        Raises:
            Refused: it will never hand out work to us.
        """
        self.doing = "polling"
        began = self._clock.monotonic()
        try:
            work = await self._queue.poll(reclaim_older_than_ms)
        except Away as error:
            wait_s = backoff_s(self._failures, BACKOFF_BASE_S, BACKOFF_CAP_S, self._rand())
            self._failures += 1
            wait_s = max(wait_s, error.retry_after_s or 0.0)
            log.warning("poll_failed", error=str(error), again_in_s=round(wait_s, 1))
            self.doing = f"waiting after a failed poll: {error}"
            await _pause(wait_s, stop)
            return None, False
        self._failures = 0
        if work is None and self._clock.monotonic() - began < HELD_S:
            self.doing = "pausing"
            await _pause(PAUSE_S * (0.5 + self._rand()), stop)
        return work, True


def _never() -> str | None:
    return None


async def _pause(seconds: float, stop: Stop) -> None:
    with anyio.move_on_after(seconds):
        await stop.wait()


def _fatal(error: Refused, environment_id: str | None) -> OperatorError:
    if environment_id is None and error.status in (401, 403):
        return OperatorError(
            f"the control plane does not take this key for a pool key ({error.status})",
            "make one with `intramuros pool-key create` and put it into the key file",
        )
    if environment_id is None:
        return OperatorError(
            f"the control plane refused to hand out work (HTTP {error.status})",
            "only an Intramuros server has a pool: check the base URL and its version",
        )
    if error.status == 401:
        return OperatorError(
            "the control plane does not know the environment key (401)",
            f"make a new one with `intramuros environment-key create {environment_id}`"
            " and put it into the key file",
        )
    if error.status == 403:
        return OperatorError(
            f"the environment key is not for {environment_id} (403)",
            "use the key of this environment, or the environment of this key",
        )
    if error.status == 404:
        return OperatorError(
            f"the control plane has no environment {environment_id} (404)",
            "check the environment id and the base URL",
        )
    return OperatorError(
        f"the control plane refused to hand out work (HTTP {error.status})",
        "check the base URL and that both sides have compatible versions",
    )

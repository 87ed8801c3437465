"""Sandboxes that wait for sessions: as many as were lately needed at once, within bounds.

A session's sandbox is still made on its first tool call, never before; that call then takes one
that waits. What waits belongs to nobody, serves one session, and is never given back.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from intramuros.execution.sandbox.base import (
    Provider,
    Sandbox,
    SandboxBusy,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.spares import Spare, Sparing
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s

log = logger("pool")

# Making one takes some 30 ms: what is asked for within this time finds no new one yet.
BURST_S: Final = 2.0
# How long a burst is remembered.
MEMORY_S: Final = 300.0
_LOOK_S: Final = 2.0
_BACKOFF_CAP_S: Final = 60.0
_MAX_TAKES: Final = 4096


@dataclass(frozen=True)
class Size:
    """How many sandboxes may wait: ``floor`` always, up to ``ceiling`` under load."""

    floor: int
    ceiling: int


@dataclass
class Counts:
    """What came of asking, since the start."""

    hits: int = 0
    """Sandboxes taken from those that waited."""
    misses: int = 0
    """Sandboxes that had to be made."""


def wanted(takes: Sequence[float], now: float, size: Size) -> int:
    """Return how many sandboxes should wait.

    Args:
        takes: when sandboxes were asked for, in seconds, in order.
    """
    recent = [at for at in takes if now - at <= MEMORY_S]
    peak = start = 0
    for end, at in enumerate(recent):
        while at - recent[start] > BURST_S:
            start += 1
        peak = max(peak, end - start + 1)
    return min(max(peak, size.floor), size.ceiling)


class WarmPool:
    """The waiting sandboxes of one worker.

    Args:
        provider: started; where it cannot start sandboxes ahead, each is made when needed.
        spec: what most sessions want; :meth:`create` makes the others theirs at once.
        room: whether this host can hold another sandbox.
    """

    def __init__(
        self,
        provider: Provider,
        spec: SandboxSpec,
        size: Size,
        clock: Clock,
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._provider = provider
        self._sparing = provider if isinstance(provider, Sparing) else None
        self._spec = spec
        self._size = size
        self._clock = clock
        self._room = room
        self._waiting: deque[Spare] = deque()
        self._takes: deque[float] = deque(maxlen=_MAX_TAKES)
        self._woken = anyio.Event()
        self.counts = Counts()

    @property
    def waiting(self) -> int:
        """How many sandboxes wait."""
        return len(self._waiting)

    @property
    def wanted(self) -> int:
        """How many sandboxes should wait now."""
        return self._target() if self._sparing is not None else 0

    async def create(self, spec: SandboxSpec, session_id: str) -> Sandbox:
        """Return a session's new sandbox, one that waited if it fits.

        Raises:
            SandboxError, SandboxUnavailable: as the provider does.
        """
        self._takes.append(self._clock.monotonic())
        try:
            sandbox = await self._adopted(spec, session_id)
            if sandbox is not None:
                self.counts.hits += 1
                return sandbox
            self.counts.misses += 1
            return await self._provider.create(spec, session_id)
        finally:
            self._woken.set()

    async def _adopted(self, spec: SandboxSpec, session_id: str) -> Sandbox | None:
        while self._waiting and self._sparing is not None:
            spare = self._waiting.popleft()
            if not spare.shell.alive:
                await _discard(spare)
                continue
            try:
                sandbox = await self._sparing.adopt(spare, spec, session_id)
            except SandboxBusy:
                self._waiting.appendleft(spare)
                raise
            except SandboxError as error:
                log.warning("spare_not_adopted", spare=spare.name, error=str(error))
                return None
            if sandbox is None:
                self._waiting.appendleft(spare)
            return sandbox
        return None

    async def run(self, stop: Stop) -> None:
        """Keep as many waiting as should be until a stop is asked for, and then none."""
        if self._sparing is None or self._size.ceiling == 0:
            return
        async with anyio.create_task_group() as group:

            async def fill() -> None:
                await self._fill(stop)

            group.start_soon(fill)
            await stop.wait()
            group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            while self._waiting:
                await _discard(self._waiting.popleft())

    async def _fill(self, stop: Stop) -> None:
        failures = 0
        while not stop.requested:
            self._woken = anyio.Event()
            pause_s = _LOOK_S
            try:
                await self._step()
                failures = 0
            except (SandboxError, SandboxUnavailable) as error:
                pause_s = backoff_s(failures, _LOOK_S, _BACKOFF_CAP_S, 0.5)
                failures += 1
                log.warning("spare_not_made", error=str(error), again_in_s=round(pause_s, 1))
                await anyio.sleep(pause_s)
                continue
            with anyio.move_on_after(pause_s):
                await self._woken.wait()

    async def _step(self) -> None:
        """Replace the dead, make what lacks, let go of what is too much."""
        for spare in [one for one in self._waiting if not one.shell.alive]:
            self._waiting.remove(spare)
            log.warning("spare_died", spare=spare.name)
            await _discard(spare)
        while self._waiting and len(self._waiting) > self._target():
            await _discard(self._waiting.popleft())
        while self._sparing and len(self._waiting) < self._target() and self._room():
            self._waiting.append(await self._sparing.prepare(self._spec))

    def _target(self) -> int:
        return wanted(list(self._takes), self._clock.monotonic(), self._size)


async def _discard(spare: Spare) -> None:
    try:
        await spare.shell.destroy(keep_workspace=False)
    except SandboxError as error:
        # What is left of it is swept at the next start.
        log.warning("spare_not_discarded", spare=spare.name, error=str(error))

"""Sandboxes whose session is idle: frozen in memory for a while, put away as files after that.

With a place for snapshots that other workers share, a session is stored before its item is given
back, and what stays frozen here is only the faster of two ways back. With a place of this worker's
own, a frozen sandbox is stored when it has rested for long enough, or when there are too many.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from intramuros.execution.sandbox.base import Provider, Sandbox, SandboxError
from intramuros.execution.snapshots.catalogue import Head, Manifest
from intramuros.execution.snapshots.sleeper import Sleeper
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("hands")

# What cannot be put away stays frozen, but not without bound: it holds memory.
MAX_STUCK: Final = 64
RETRY_S: Final = 60.0
LONGEST_SAVE_S: Final = 300.0
_LOOK_S: Final = 2.0
EXPIRE_EVERY_S: Final = 3600.0

Destroy = Callable[[Sandbox], Awaitable[None]]
Gate = Callable[[str], AbstractAsyncContextManager[object]]


@dataclass(frozen=True)
class Resort:
    """Where sandboxes go to sleep, and when.

    Args:
        shared: whether other workers wake from the same place.
        after_s: how long one rests frozen before it is put away.
    """

    sleeper: Sleeper
    clock: Clock
    shared: bool = False
    after_s: float = 600.0


@dataclass
class _Rested:
    sandbox: Sandbox
    due_at: float
    head: Head | None = None
    """Where it is stored already."""


class Resting:
    """The frozen sandboxes of one worker. Whoever calls holds the session's gate.

    Args:
        keep: how many may stay frozen.
        destroy: ends a sandbox; its workspace stays.
    """

    def __init__(
        self, provider: Provider, keep: int, resort: Resort | None, destroy: Destroy
    ) -> None:
        self._provider = provider
        can_pause = provider.capabilities.pause != "none"
        self._keep = keep if can_pause else 0
        self._stuck = MAX_STUCK if can_pause else 0
        self._resort = resort
        self._destroy = destroy
        self._frozen: OrderedDict[str, _Rested] = OrderedDict()

    def __contains__(self, session_id: str) -> bool:
        """Tell whether a session's sandbox rests here, with all that it has mounted."""
        return session_id in self._frozen

    def sessions(self) -> list[str]:
        """Return whose sandboxes rest here."""
        return list(self._frozen)

    async def put(self, session_id: str, sandbox: Sandbox, *, stay: bool = True) -> None:
        """Take a live sandbox whose session is idle.

        Args:
            stay: whether it may stay frozen here, if there is room.
        """
        resort, head = self._resort, None
        keep = self._keep if stay else 0
        failed = False
        if not sandbox.alive:
            await self._destroy(sandbox)
            return
        if resort is not None and (resort.shared or not keep):
            try:
                head = await self._store(resort, session_id, sandbox)
            except SandboxError as error:
                failed = stay
                log.error("not_put_away", session_id=session_id, error=str(error))
        if head is not None and resort is not None and not keep:
            await self._leave(resort, session_id, sandbox, head)
            return
        if not keep and not (failed and len(self._frozen) < self._stuck):
            await self._destroy(sandbox)
            return
        if head is not None and resort is not None:
            await resort.sleeper.note(session_id, head)
        await self._freeze(session_id, sandbox, head, RETRY_S if failed else None)
        while len(self._frozen) > max(keep, self._keep) and not failed:
            oldest = next(iter(self._frozen))
            if not await self._away(oldest):
                break

    async def _freeze(
        self, session_id: str, sandbox: Sandbox, head: Head | None, retry_s: float | None
    ) -> None:
        try:
            await sandbox.pause()
        except SandboxError as error:
            log.warning("pause_failed", session_id=session_id, error=str(error))
            await self._destroy(sandbox)
            return
        due_at = float("inf")
        if self._resort is not None:
            after_s = self._resort.after_s if retry_s is None else retry_s
            due_at = self._resort.clock.monotonic() + after_s
        self._frozen[session_id] = _Rested(sandbox, due_at, head)

    async def take(self, session_id: str) -> Sandbox | None:
        """Return a session's sandbox, still frozen, unless it is stale or there is none.

        Raises:
            SandboxError: it is not known whether it is stale.
        """
        rested = self._frozen.get(session_id)
        if rested is None:
            return None
        resort = self._resort
        if resort is not None and resort.shared:
            if rested.head is not None:
                fresh = await resort.sleeper.current(session_id, rested.head)
            else:
                fresh = await resort.sleeper.due(session_id) is None
            if not fresh:
                log.info("frozen_but_stale", session_id=session_id)
                await self.drop(session_id)
                return None
        self._frozen.pop(session_id, None)
        return rested.sandbox

    async def drop(self, session_id: str) -> None:
        """Destroy a session's sandbox; its workspace stays."""
        rested = self._frozen.pop(session_id, None)
        if rested is not None:
            await self._destroy(rested.sandbox)

    async def put_away(self, session_id: str, sandbox: Sandbox) -> Manifest:
        """Store a sandbox that is live and not frozen, and destroy it.

        Raises:
            SandboxError: it could not be stored; it lives on.
        """
        resort = self._needed()
        manifest = await resort.sleeper.save(session_id, sandbox)
        head = await resort.sleeper.commit(manifest)
        await self._leave(resort, session_id, sandbox, head)
        return manifest

    async def snapshot(self, session_id: str, sandbox: Sandbox, name: str) -> Manifest:
        """Store a sandbox that is live and not frozen, under a name.

        Raises:
            SandboxError: it could not be stored.
        """
        return await self._needed().sleeper.save(session_id, sandbox, name)

    async def back(self, session_id: str, sandbox: Sandbox) -> None:
        """Let a live sandbox rest, which was borrowed or was woken before its time."""
        await self._freeze(session_id, sandbox, None, RETRY_S)

    def _needed(self) -> Resort:
        if self._resort is None:
            raise SandboxError("this worker keeps no snapshots, or its provider cannot make them")
        return self._resort

    async def _store(self, resort: Resort, session_id: str, sandbox: Sandbox) -> Head:
        with anyio.CancelScope(shield=True), anyio.move_on_after(LONGEST_SAVE_S):
            return await resort.sleeper.commit(await resort.sleeper.save(session_id, sandbox))
        raise SandboxError(f"it took longer than {LONGEST_SAVE_S:g} s")

    async def _leave(self, resort: Resort, session_id: str, sandbox: Sandbox, head: Head) -> None:
        with anyio.CancelScope(shield=True):
            await self._destroy(sandbox)
            clear = partial(self._provider.forget, session_id)
            try:
                await resort.sleeper.settle(session_id, head, clear)
            except (SandboxError, OSError) as error:
                # Its number is not the head's: it is cleared before it is used again.
                log.warning("workspace_not_cleared", session_id=session_id, error=str(error))

    async def _away(self, session_id: str) -> bool:
        """Put one of the frozen away, or without a place for it destroy it."""
        rested = self._frozen.pop(session_id)
        sandbox, resort = rested.sandbox, self._resort
        if resort is None or not sandbox.alive:
            await self._destroy(sandbox)
            return True
        try:
            if rested.head is not None:
                await self._leave(resort, session_id, sandbox, rested.head)
                return True
            await sandbox.resume()
            head = await self._store(resort, session_id, sandbox)
        except SandboxError as error:
            log.error("not_put_away", session_id=session_id, error=str(error))
            if len(self._frozen) < self._stuck and sandbox.alive:
                await self._freeze(session_id, sandbox, None, RETRY_S)
            else:
                await self._destroy(sandbox)
            return False
        await self._leave(resort, session_id, sandbox, head)
        return True

    async def drowse(self, gate: Gate) -> None:
        """Put away what has rested for long enough, until cancelled."""
        if self._resort is None:
            return
        clock = self._resort.clock
        expired_at = clock.monotonic()
        while True:
            await anyio.sleep(_LOOK_S)
            now = clock.monotonic()
            for session_id in [key for key, rested in self._frozen.items() if rested.due_at <= now]:
                async with gate(session_id):
                    await self._away_if_due(session_id, now)
            if now - expired_at >= EXPIRE_EVERY_S:
                expired_at = now
                await self._resort.sleeper.tidy()

    async def _away_if_due(self, session_id: str, now: float) -> None:
        rested = self._frozen.get(session_id)
        if rested is None or rested.due_at > now:
            return
        try:
            # Whoever stops the worker waits for it: half put away it would be on nobody's list.
            with anyio.CancelScope(shield=True):
                await self._away(session_id)
        except Exception:
            # One session's trouble is no other's; what is left of its sandbox ends with the worker.
            log.exception("not_put_away", session_id=session_id)

    async def aclose(self) -> None:
        """Put everything away, or where that fails destroy it."""
        self._stuck = 0
        for session_id in list(self._frozen):
            await self._away(session_id)

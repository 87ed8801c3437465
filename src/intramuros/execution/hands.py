"""One sandbox per session: created on the first call, kept or destroyed when its item ends."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import anyio

from intramuros.execution.egress.attach import Captures
from intramuros.execution.egress.base import Passage
from intramuros.execution.pool import Size, WarmPool
from intramuros.execution.sandbox.base import (
    Mount,
    Provider,
    Sandbox,
    SandboxBusy,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import SystemClock, backoff_s

log = logger("hands")

# A dead worker's sandbox, or our own of a moment ago, may still be going away.
_BUSY_ATTEMPTS: Final = 6


class Hands:
    """The sandboxes of one worker."""

    def __init__(
        self,
        provider: Provider,
        spec: SandboxSpec,
        rand: Callable[[], float],
        *,
        keep: int = 0,
        captures: Captures | None = None,
        pool: WarmPool | None = None,
    ) -> None:
        """Take a started provider.

        Args:
            keep: how many sandboxes may wait paused for their session's next item.
            captures: catch the connections of sandboxes that get a passage; None gives them none.
            pool: where sandboxes wait to be taken; None makes each when it is needed.
        """
        self._pool = WarmPool(provider, spec, Size(0, 0), SystemClock()) if pool is None else pool
        self._provider = provider
        self._spec = spec
        self._rand = rand
        self._keep = keep if provider.capabilities.pause != "none" else 0
        self._captures = captures
        self._mounts: dict[str, tuple[Mount, ...]] = {}
        self._passages: dict[str, Passage] = {}
        self._live: dict[str, Sandbox] = {}
        self._paused: OrderedDict[str, Sandbox] = OrderedDict()
        self._turns: dict[str, anyio.Lock] = {}

    @asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[None]:
        """Hold a session for one item; a second item of the same session waits.

        That happens when a lease was lost while we were still cleaning up after it.
        """
        lock = self._turns.setdefault(session_id, anyio.Lock())
        async with lock:
            try:
                yield
            finally:
                if lock.statistics().tasks_waiting == 0:
                    self._turns.pop(session_id, None)

    def equip(
        self, session_id: str, mounts: tuple[Mount, ...], passage: Passage | None = None
    ) -> None:
        """Show these in the sandboxes made for a session from now on; none takes them back.

        Args:
            passage: what those sandboxes may reach; None is nothing.
        """
        if mounts:
            self._mounts[session_id] = mounts
        else:
            self._mounts.pop(session_id, None)
        if passage is not None:
            self._passages[session_id] = passage
        else:
            self._passages.pop(session_id, None)

    def rests(self, session_id: str) -> bool:
        """Tell whether the session's sandbox is kept paused, with all that it has mounted."""
        return session_id in self._paused

    async def take(self, session_id: str) -> Sandbox:
        """Return the session's live sandbox, created or resumed if need be.

        Raises:
            SandboxError, SandboxUnavailable: it did not come up.
        """
        sandbox = self._live.get(session_id)
        if sandbox is None or not sandbox.alive:
            await self.drop(session_id, paused=False)
            sandbox = await self._resume(session_id) or await self._create(session_id)
            self._live[session_id] = sandbox
        await self._connect(session_id, sandbox)
        return sandbox

    async def drop(self, session_id: str, *, paused: bool = True) -> None:
        """Destroy the session's sandbox; its workspace stays."""
        sandbox = self._live.pop(session_id, None)
        if sandbox is None and paused:
            sandbox = self._paused.pop(session_id, None)
        if sandbox is not None:
            await self._destroy(sandbox)

    async def rest(self, session_id: str) -> None:
        """The session's item is over: keep its sandbox paused if we may, else destroy it."""
        sandbox = self._live.pop(session_id, None)
        if sandbox is None:
            return
        if not self._keep or not sandbox.alive:
            await self._destroy(sandbox)
            return
        try:
            await sandbox.pause()
        except SandboxError as error:
            log.warning("pause_failed", session_id=session_id, error=str(error))
            await self._destroy(sandbox)
            return
        self._paused[session_id] = sandbox
        while len(self._paused) > self._keep:
            _, oldest = self._paused.popitem(last=False)
            await self._destroy(oldest)

    async def forget(self, session_id: str) -> None:
        """The session was deleted: destroy its sandbox and its workspace."""
        await self.drop(session_id)
        await self._provider.forget(session_id)

    async def watch(self, stop: Stop) -> None:
        """Hold sandboxes to their limits and keep some waiting, until a stop is asked for."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._provider.watch)
            await self._pool.run(stop)
            await stop.wait()
            group.cancel_scope.cancel()

    async def aclose(self) -> None:
        """Destroy every sandbox; workspaces stay."""
        for sandbox in [*self._live.values(), *self._paused.values()]:
            await self._destroy(sandbox)
        self._live.clear()
        self._paused.clear()

    async def _resume(self, session_id: str) -> Sandbox | None:
        sandbox = self._paused.pop(session_id, None)
        if sandbox is None:
            return None
        try:
            # Before anything of it runs again: it may reach less than it could.
            await self._connect(session_id, sandbox)
            await sandbox.resume()
        except SandboxError as error:
            log.warning("resume_failed", session_id=session_id, error=str(error))
        else:
            if sandbox.alive:
                return sandbox
        await self._destroy(sandbox)
        return None

    async def _create(self, session_id: str) -> Sandbox:
        spec = self._spec_of(session_id)
        for attempt in range(_BUSY_ATTEMPTS):
            try:
                return await self._pool.create(spec, session_id)
            except SandboxBusy:
                if attempt + 1 == _BUSY_ATTEMPTS:
                    raise
                await anyio.sleep(backoff_s(attempt, 0.25, 5.0, self._rand()))
        raise AssertionError("unreachable")

    def _spec_of(self, session_id: str) -> SandboxSpec:
        mounts = (*self._spec.mounts, *self._mounts.get(session_id, ()))
        spec = replace(self._spec, mounts=mounts)
        passage = self._passages.get(session_id)
        if passage is None:
            return spec
        if self._captures is None or not self._provider.capabilities.egress:
            raise SandboxUnavailable(
                f"sandboxes of {self._provider.name!r} cannot be held to names of hosts",
                "use a provider that can (bubblewrap), or give the environment no network",
            )
        variables = {**spec.environment, **passage.environment}
        return replace(
            spec,
            egress="names",
            trust=passage.trust,
            environment=variables,
            path=(*passage.path, *spec.path),
        )

    async def _connect(self, session_id: str, sandbox: Sandbox) -> None:
        """See that a sandbox reaches what it may now; without a passage, nothing."""
        if self._captures is None:
            return
        passage = self._passages.get(session_id)
        if passage is None:
            await self._captures.detach(session_id)
            return
        await self._captures.attach(sandbox, passage)

    async def _destroy(self, sandbox: Sandbox) -> None:
        if self._captures is not None:
            await self._captures.detach(sandbox.sandbox_id)
        try:
            await sandbox.destroy()
        except SandboxError as error:
            # What is left of it is swept at the next start.
            log.warning("destroy_failed", sandbox_id=sandbox.sandbox_id, error=str(error))

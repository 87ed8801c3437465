"""One sandbox per session: created on the first call, kept or destroyed when its item ends."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import anyio

from intramuros.execution.egress.attach import Captures
from intramuros.execution.egress.base import Passage
from intramuros.execution.guests import Guests
from intramuros.execution.pool import Size, WarmPool
from intramuros.execution.resting import Resort, Resting
from intramuros.execution.sandbox.base import (
    Mount,
    Provider,
    Sandbox,
    SandboxBusy,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.keeping import Keepable
from intramuros.execution.snapshots.catalogue import Manifest
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import SystemClock, backoff_s

log = logger("hands")

# A dead worker's sandbox, or our own of a moment ago, may still be going away.
_BUSY_ATTEMPTS: Final = 6


class Hands:
    """The sandboxes of one worker."""

    def __init__(  # noqa: PLR0913  what a worker has of each; the last four may be left out
        self,
        provider: Provider,
        spec: SandboxSpec,
        rand: Callable[[], float],
        *,
        keep: int = 0,
        captures: Captures | None = None,
        pool: WarmPool | None = None,
        resort: Resort | None = None,
    ) -> None:
        """Take a started provider.

        Args:
            keep: how many sandboxes may wait paused for their session's next item.
            captures: catch the connections of sandboxes that get a passage; None gives them none.
            pool: where sandboxes wait to be taken; None makes each when it is needed.
            resort: where sandboxes are put away; None destroys them.
        """
        self._pool = WarmPool(provider, spec, Size(0, 0), SystemClock()) if pool is None else pool
        self._provider = provider
        self._spec = spec
        self._rand = rand
        self._resort = resort if provider.capabilities.snapshots else None
        self._resting = Resting(provider, keep, self._resort, self._destroy)
        self._gates: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._frozen: set[str] = set()
        self._unread: set[str] = set()
        """Sessions that may have something to be told: looking costs a call some time."""
        self._captures = captures
        self._mounts: dict[str, tuple[Mount, ...]] = {}
        self._passages: dict[str, Passage] = {}
        self._live: dict[str, Sandbox] = {}
        self._turns: dict[str, anyio.Lock] = {}
        self.guests = Guests()
        """People who are in sandboxes; they leave before a sandbox rests or goes."""

    @property
    def isolation(self) -> str:
        """What keeps sandboxes from the host; ``none`` belongs into the record of each call."""
        return self._provider.capabilities.isolation

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
        return session_id in self._resting

    def gate(self, session_id: str) -> anyio.Lock:
        """Return what is held while a session's sandbox comes, goes or changes its state."""
        return self._gates.setdefault(session_id, anyio.Lock(fast_acquire=True))

    async def visit(self, session_id: str) -> Sandbox | None:
        """Return the session's live sandbox for a guest, thawed; never makes or wakes one.

        Raises:
            SandboxError: it does not thaw.
        """
        async with self.gate(session_id):
            sandbox = self._live.get(session_id)
            if sandbox is None or not sandbox.alive:
                return None
            if session_id in self._frozen:
                await sandbox.resume()
                self._frozen.discard(session_id)
            return sandbox

    async def take(self, session_id: str) -> Sandbox:
        """Return the session's live sandbox: created, thawed or woken if need be.

        Raises:
            SandboxError, SandboxUnavailable: it did not come up.
        """
        async with self.gate(session_id):
            sandbox = self._live.get(session_id)
            if sandbox is None or not sandbox.alive:
                await self._drop(session_id)
                sandbox = await self._resume(session_id) or await self._create(session_id)
                self._live[session_id] = sandbox
            await self._connect(session_id, sandbox)
            if session_id in self._frozen:
                await sandbox.resume()
                self._frozen.discard(session_id)
        return sandbox

    async def freeze(self, session_id: str) -> bool:
        """Let the session's live sandbox stand still until it is taken next; False if it cannot.

        Not while guests are in it: it waits for them to leave.
        """
        await self.guests.empty(session_id)
        async with self.gate(session_id):
            sandbox = self._live.get(session_id)
            if sandbox is None or session_id in self._frozen or not sandbox.alive:
                return False
            if self.guests.of(session_id):
                return False
            if self._provider.capabilities.pause == "none":
                return False
            try:
                await sandbox.pause()
            except SandboxError as error:
                log.warning("pause_failed", session_id=session_id, error=str(error))
                with suppress(SandboxError):
                    await sandbox.resume()
                return False
            self._frozen.add(session_id)
            return True

    async def put_away(self, session_id: str) -> Manifest:
        """Store the session's sandbox and destroy it, whether it rests or is live.

        Raises:
            SandboxError: there is none here, a call runs in it, or it cannot be stored.
        """
        async with self._borrowed(session_id) as sandbox:
            await self.guests.evict(session_id, "the sandbox is put away")
            manifest = await self._resting.put_away(session_id, sandbox)
            self._live.pop(session_id, None)
            return manifest

    async def snapshot(self, session_id: str, name: str) -> Manifest:
        """Store the session's sandbox under a name; it goes on as it was.

        Raises:
            SandboxError: there is none here, a call runs in it, or it cannot be stored.
        """
        async with self._borrowed(session_id) as sandbox:
            return await self._resting.snapshot(session_id, sandbox, name)

    @asynccontextmanager
    async def _borrowed(self, session_id: str) -> AsyncIterator[Sandbox]:
        """Hold the session's sandbox, running; one that rested rests again, if it still lives."""
        async with self.gate(session_id):
            sandbox = self._live.get(session_id)
            if sandbox is not None and sandbox.alive:
                if session_id in self._frozen:
                    await sandbox.resume()
                    self._frozen.discard(session_id)
                yield sandbox
                return
            sandbox = await self._resume(session_id)
            if sandbox is None:
                raise SandboxError(
                    "the session has no live or frozen sandbox here: it has none yet,"
                    " is put away already, or is another worker's"
                )
            try:
                yield sandbox
            finally:
                if sandbox.alive:
                    with anyio.CancelScope(shield=True):
                        await self._resting.back(session_id, sandbox)

    async def wake(self, session_id: str) -> None:
        """Bring the session's sandbox up now; until its next call it stands still.

        Raises:
            SandboxError: it did not come up.
        """
        async with self.gate(session_id):
            if session_id in self._live or session_id in self._resting:
                return
            await self._resting.back(session_id, await self._create(session_id))

    async def give_up(self, session_id: str) -> None:
        """Destroy the session's sandbox without putting it away; the caller holds the gate.

        Raises:
            SandboxError: a call runs in it.
        """
        sandbox = self._live.get(session_id)
        if isinstance(sandbox, Keepable) and sandbox.keeper.channel.busy:
            raise SandboxError("a call is running in the sandbox; try again when it has ended")
        await self._drop(session_id)
        await self._resting.drop(session_id)

    def counts(self) -> dict[str, int]:
        """Return how many sandboxes are in each state; those that wait for sessions included."""
        found = dict.fromkeys(("running", "frozen", "resting"), 0)
        for state in self.states().values():
            found[state] += 1
        return {**found, "waiting": self._pool.waiting}

    def firsts(self) -> tuple[int, int]:
        """Return how many new sandboxes had waited, and how many had to be made."""
        return self._pool.counts.hits, self._pool.counts.misses

    def spares(self) -> tuple[int, int]:
        """Return how many sandboxes wait for sessions, and how many should."""
        return self._pool.waiting, self._pool.wanted

    def states(self) -> dict[str, str]:
        """Return each session that has a sandbox here: running, frozen (held) or resting."""
        held = {key: "frozen" if key in self._frozen else "running" for key in self._live}
        return held | dict.fromkeys(self._resting.sessions(), "resting")

    async def notice(self, session_id: str) -> str:
        """Return what a session whose sandbox was woken is still to be told."""
        if self._resort is None or session_id not in self._unread:
            return ""
        notice = await self._resort.sleeper.notice(session_id)
        if not notice:
            self._unread.discard(session_id)
        return notice

    async def told(self, session_id: str) -> None:
        """The notice is on its way."""
        if self._resort is not None:
            await self._resort.sleeper.told(session_id)

    async def drop(self, session_id: str, *, paused: bool = True) -> None:
        """Destroy the session's sandbox; its workspace stays."""
        async with self.gate(session_id):
            if session_id in self._live:
                await self._drop(session_id)
            elif paused:
                await self._resting.drop(session_id)

    async def _drop(self, session_id: str) -> None:
        await self.guests.evict(session_id, "the sandbox ends")
        self._frozen.discard(session_id)
        sandbox = self._live.pop(session_id, None)
        if sandbox is not None:
            await self._destroy(sandbox)

    async def rest(self, session_id: str, *, stay: bool = True) -> None:
        """The session's item is over: keep its sandbox frozen if we may, or put it away.

        Args:
            stay: False when this worker goes.
        """
        # Not cut off half way: it would be neither live, nor frozen, nor gone.
        with anyio.CancelScope(shield=True):
            async with self.gate(session_id):
                await self.guests.evict(session_id, "the session rests")
                sandbox = self._live.get(session_id)
                if sandbox is None:
                    return
                if session_id in self._frozen and sandbox.alive:
                    await sandbox.resume()
                self._frozen.discard(session_id)
                del self._live[session_id]
                await self._resting.put(session_id, sandbox, stay=stay)

    async def forget(self, session_id: str) -> None:
        """The session was deleted: destroy its sandbox and its workspace."""
        self._unread.discard(session_id)
        await self.drop(session_id)
        await self._provider.forget(session_id)
        if self._resort is not None:
            await self._resort.sleeper.forget(session_id)

    async def watch(self, stop: Stop) -> None:
        """Hold sandboxes to their limits and keep some waiting, until a stop is asked for."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._provider.watch)
            group.start_soon(self._resting.drowse, self.gate)
            await self._pool.run(stop)
            await stop.wait()
            group.cancel_scope.cancel()

    async def aclose(self) -> None:
        """Put away what rests and destroy the others; their workspaces stay."""
        for sandbox in self._live.values():
            await self._destroy(sandbox)
        self._live.clear()
        await self._resting.aclose()

    async def _resume(self, session_id: str) -> Sandbox | None:
        sandbox = await self._resting.take(session_id)
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
        """Return a new sandbox: as it was put away, or over the workspace there is."""
        make = partial(self._make, session_id)
        self._unread.add(session_id)
        wake = await self._resort.sleeper.due(session_id) if self._resort else None
        if self._resort is None:
            return await make()
        if wake is None:
            sandbox = await make()
            await self._resort.sleeper.begin(session_id)
            return sandbox
        forget = partial(self._provider.forget, session_id)
        return await self._resort.sleeper.wake(wake, make, forget)

    async def _make(self, session_id: str) -> Sandbox:
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

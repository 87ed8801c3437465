"""Serve one work item: acknowledge, then heartbeat ∥ event tail ∥ calls, then give it back."""

from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.calls import Bench, Calls
from intramuros.execution.client import (
    Away,
    ControlPlane,
    ControlPlaneError,
    ItemClient,
    LeaseLost,
    Raced,
    Refused,
    Session,
    Work,
)
from intramuros.execution.dispatch import Dispatch
from intramuros.execution.files import Files, Means
from intramuros.execution.heartbeat import End, Lease, heartbeat_loop
from intramuros.execution.holding import Holding
from intramuros.execution.hosted_client import HostedClient
from intramuros.execution.memory import Memories
from intramuros.execution.memory_client import MemoryClient
from intramuros.execution.memory_store import Line
from intramuros.execution.passages import SessionPassage
from intramuros.execution.record import INWARD, RecordFailed, weigh
from intramuros.execution.releases import ReleaseClient, Releases, WayOut
from intramuros.execution.repositories import Ground, Repositories
from intramuros.execution.roads import GateRoad
from intramuros.execution.sandbox.base import Mount, SandboxError
from intramuros.execution.spills import SpillClient, Spills
from intramuros.execution.tail import Tail
from intramuros.execution.terms import Outcome, Terms
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s
from intramuros.protocol.events import SANDBOX_TOOLS

log = logger("session")

_ATTEMPTS: Final = 4
_CLEANUP_S: Final = 15.0
# A shortened lease lapses this soon, in seconds, and another worker goes on (AMB 7: at least 10).
HANDOVER_TTL_S: Final = 10


class Item:
    """One claimed item, from acknowledgement to the end."""

    def __init__(
        self, control: ControlPlane, work: Work, bench: Bench, terms: Terms, stop: Stop
    ) -> None:
        self._control = control
        self._work = work
        self._bench = bench
        self._terms = terms
        self._stop = stop
        self._client: ItemClient = control.item(work)
        self._lease = Lease()
        tools = frozenset(SANDBOX_TOOLS) | frozenset(bench.custom)
        self._dispatch = Dispatch(tools, work.hosted)
        self._outcome = Outcome.FAILED
        self._moved = anyio.Event()
        learn = partial(bench.gate.learn, self)
        learn([work.token] if work.token else [])
        self._calls = Calls(bench, self._client, self._dispatch, self._lease)
        self._releases = self._asking()
        self._calls.holding = self._holding()
        out = WayOut(bench.gate, self._releases)
        self._memories: Memories | None = None
        if terms.memory is not None:
            line = Line(MemoryClient(self._client), bench.record, out, bench.clock)
            self._memories = Memories(terms.memory, line, bench.rand)

        self._files: Files | None = None
        hosted: HostedClient | None = None
        self._repositories: Repositories | None = None
        if work.hosted:
            means = Means(terms.files, bench.record, bench.clock, bench.rand, out)
            hosted = HostedClient(terms.server, work)
            self._files = Files(means, hosted)
            session_id = work.session_id
            ground = Ground(
                terms.files / session_id,
                bench.record,
                bench.rand,
                partial(bench.hands.take, session_id),
                None if (way := terms.station) is None else GateRoad(partial(way.gate, session_id)),
                bench.gate,
                learn,
            )
            self._repositories = Repositories(ground, hosted)
        self._spills: Spills | None = None
        if self._ours:
            spills = SpillClient(terms.server, work)
            self._spills = Spills(spills, bench.hands, bench.record)
        self._connected = False
        self._calls.before_call = self._prepare
        self._calls.after_call = self._sync
        self._passage = SessionPassage(terms.station, work.session_id, hosted, bench.rand, learn)
        self._installer = self._passage.installer(bench.record)

    @property
    def _ours(self) -> bool:
        """Whether the server may know our extensions."""
        return self._work.token is not None and bool(self._terms.server.base_url)

    def _asking(self) -> Releases:
        client = ReleaseClient(self._terms.server, self._work) if self._ours else None
        session_id, wait_s = self._work.session_id, self._bench.gate.policy.ask_timeout_s
        return Releases(client, session_id, self._bench.record, self._bench.clock, wait_s)

    def _holding(self) -> Holding:
        return Holding(
            self._work.session_id,
            self._bench.journal,
            self._bench.gate,
            self._releases,
            lambda: self._calls.draining,
            self._calls.pause,
        )

    @property
    def doing(self) -> str:
        """What is being done now, for the status."""
        return self._calls.doing

    async def serve(self) -> Outcome:
        """Serve the item to its end; never raises but for cancellation.

        A failure of one session is logged and its item stopped; it touches no other.
        """
        try:
            return await self._serve()
        finally:
            self._bench.gate.forget(self)

    async def _serve(self) -> Outcome:
        try:
            if not await self._begin():
                return Outcome.RACED
        except ControlPlaneError as error:
            log.warning("ack_failed", work_id=self._work.work_id, error=str(error))
            if isinstance(error, Refused):
                await self._give_back()
            return Outcome.RACED
        try:
            if self._work.kind == "session" and self._work.session_id:
                await self._serve_leased()
            else:
                self._outcome = Outcome.SKIPPED
        except Exception:
            log.exception("item_failed", work_id=self._work.work_id)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CLEANUP_S):
                await self._give_back()
        return self._outcome

    async def _begin(self) -> bool:
        """Record and acknowledge the item; False when it is not ours to serve."""
        work = self._work
        polled_s = self._bench.clock.monotonic()
        weight = weigh({"id": work.work_id, "type": work.kind, "session": work.session_id})
        try:
            await self._bench.record.write(
                "work.claim",
                direction=INWARD,
                work_id=work.work_id,
                session_id=work.session_id,
                bytes=weight.size,
                sha256=weight.sha256,
            )
        except RecordFailed as error:
            # Unacknowledged, it goes back to the queue by itself (contract 9.14).
            log.error("claim_not_recorded", work_id=work.work_id, error=str(error))
            return False
        for attempt in range(_ATTEMPTS):
            try:
                await self._control.ack(work)
                self._terms.figures.claimed(self._bench.clock.monotonic() - polled_s)
            except Raced:
                log.info("claim_raced", work_id=work.work_id)
                return False
            except Away:
                if attempt + 1 == _ATTEMPTS:
                    raise
                await anyio.sleep(backoff_s(attempt, 0.25, 1.0, self._bench.rand()))
            else:
                return True
        return False

    async def _serve_leased(self) -> None:
        """Beat from the first moment to the end of the clean-up (contract 21.3)."""
        async with anyio.create_task_group() as group:
            heart = self._terms.figures.heart(self._client)
            beat = (heart, self._lease, self._bench.clock, self._terms.lease_ttl_s)
            group.start_soon(heartbeat_loop, *beat)
            try:
                async with self._bench.hands.turn(self._work.session_id):
                    try:
                        await self._serve_session()
                    finally:
                        with anyio.CancelScope(shield=True):
                            await self._rest()
                            with anyio.move_on_after(_CLEANUP_S):
                                await self._clean_up()
                            await self._put_memory_away()
                            await self._put_files_away()
            finally:
                self._lease.finish(End.DONE)

    async def _serve_session(self) -> None:
        async with anyio.create_task_group() as group:
            scope = group.cancel_scope
            group.start_soon(self._watch_lease, scope)
            session = await self._look()
            if session is None:
                self._outcome = Outcome.ENDED
                scope.cancel()
                return
            self._connected = session.connected
            mounts = await self._bench.skills.lay_out(self._client, session.skills)
            mounts += await self._remember(session)
            if self._files is not None:
                if await self._files.outlived():
                    await self._bench.hands.forget(self._work.session_id)
                mounts += await self._files.open(session.uploads)
            passage = await self._passage.open()
            self._bench.hands.equip(self._work.session_id, mounts, passage)
            self._installer = self._passage.installer(self._bench.record)
            group.start_soon(self._watch_stop)
            group.start_soon(self._follow, scope)
            await self._check_out(session)
            group.start_soon(self._watch_idle, scope)
            group.start_soon(self._watch_quiet)
            await self._calls.loop()
            if self._outcome is Outcome.FAILED:
                self._outcome = Outcome.DRAINED
            scope.cancel()

    async def _look(self) -> Session | None:
        """Return the session, or None when it takes no more input (contract 9.44)."""
        attempt = 0
        while True:
            try:
                session = await self._client.session()
            except Refused as error:
                log.error("session_refused", status=error.status)
                return None
            except Away as error:
                log.info("session_away", error=str(error))
                await anyio.sleep(backoff_s(attempt, 0.5, 10.0, self._bench.rand()))
                attempt += 1
            else:
                return None if session.status == "terminated" else session

    async def _remember(self, session: Session) -> tuple[Mount, ...]:
        """Fetch the session's memory before the first call.

        Raises:
            MemoryFailed: it cannot be had; the item must not be served without it.
        """
        if self._memories is not None:
            return await self._memories.open(session.stores)
        if session.stores:
            log.warning("memory_left_out", session_id=self._work.session_id)
        return ()

    async def _check_out(self, session: Session) -> None:
        """Clone the session's repositories before the first call; a stop breaks that off."""
        if self._repositories is None or not session.repositories:
            return
        self._calls.doing = "cloning repositories"
        async with anyio.create_task_group() as group:

            async def cut() -> None:
                await self._stop.wait()
                group.cancel_scope.cancel()

            group.start_soon(cut)
            await self._repositories.sync(session.repositories)
            group.cancel_scope.cancel()

    async def _put_memory_away(self) -> None:
        if self._memories is None:
            return
        if self._dispatch.ended is not None and self._dispatch.ended.deleted:
            await self._memories.forget()
            return
        clean = self._outcome in (Outcome.IDLE, Outcome.ENDED, Outcome.DRAINED)
        keep = self._bench.hands.rests(self._work.session_id)
        await self._memories.close(clean=clean, keep=keep)

    async def _put_files_away(self) -> None:
        await self._releases.aclose()
        if self._spills is not None:
            await self._spills.aclose()
        if self._repositories is not None:
            self._repositories.close()
        if self._files is not None:
            ended = self._dispatch.ended
            await self._files.close(deleted=ended is not None and ended.deleted)

    async def _prepare(self) -> None:
        await self._refresh()
        installer, self._installer = self._installer, None
        if installer is None:
            return
        try:
            sandbox = await self._bench.hands.take(self._work.session_id)
            self._calls.notice = await installer.install(sandbox)
        except (SandboxError, OperatorError) as error:
            log.warning("packages_not_installed", error=str(error))
            self._calls.notice = f"Packages of this environment could not be installed: {error}"

    async def _refresh(self) -> None:
        """Show the sandbox what came since the last call."""
        if self._connected and self._spills is not None:
            await self._spills.lay_out()
        if self._files is None or not self._files.stale(self._dispatch.turns):
            return
        try:
            session = await self._client.session()
        except ControlPlaneError as error:
            log.info("session_not_looked_at", error=str(error))
            return
        await self._files.refresh(session.uploads)
        await self._passage.refresh()
        if self._repositories is not None and session.repositories:
            await self._repositories.sync(session.repositories)

    async def _sync(self) -> None:
        if self._files is not None:
            await self._files.bring()
            self._calls.tell(self._files.notices())
        if self._memories is not None:
            await self._memories.sync_if_due()

    async def _follow(self, scope: anyio.CancelScope) -> None:
        clock, rand = self._bench.clock, self._bench.rand
        await Tail(self._client, self._dispatch, self._on_change, clock, rand).loop()
        ended = self._dispatch.ended is not None
        self._end(Outcome.ENDED if ended else Outcome.REFUSED, scope)

    def _on_change(self) -> None:
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        if self._dispatch.took_interrupt():
            self._bench.hands.guests.dismiss(self._work.session_id, "the session was interrupted")
        self._calls.poke()

    async def _watch_lease(self, scope: anyio.CancelScope) -> None:
        end = await self._lease.wait()
        if end is End.DONE:
            return
        log.info("lease_ended", work_id=self._work.work_id, end=end)
        if end is End.STOPPING:
            # We are asked to come to an end, not to drop what we hold.
            self._outcome = Outcome.LEASE
            self._calls.drain()
        else:
            self._end(Outcome.LEASE, scope)

    async def _watch_stop(self) -> None:
        await self._stop.wait()
        self._calls.drain()

    async def _watch_idle(self, scope: anyio.CancelScope) -> None:
        """End the item once the session was idle for long enough (contract 22.15)."""
        while True:
            deadline = self._dispatch.idle_deadline(self._terms.max_idle_s)
            if deadline is None:
                await self._moved.wait()
                continue
            remaining_s = deadline - self._bench.clock.monotonic()
            if remaining_s <= 0:
                if await self._bench.hands.guests.emptied(self._work.session_id):
                    continue
                self._end(Outcome.IDLE, scope)
                return
            with anyio.move_on_after(remaining_s):
                await self._moved.wait()

    async def _watch_quiet(self) -> None:
        """Freeze the sandbox whenever the session was idle for long enough; a call thaws it."""
        freeze_s = self._terms.freeze_after_s
        while freeze_s < self._terms.max_idle_s:
            moved = self._moved
            deadline = self._dispatch.idle_deadline(freeze_s)
            if deadline is not None:
                remaining_s = deadline - self._bench.clock.monotonic()
                with anyio.move_on_after(max(remaining_s, 0.0)):
                    await moved.wait()
                    continue
                await self._bench.hands.freeze(self._work.session_id)
            await moved.wait()

    def _end(self, outcome: Outcome, scope: anyio.CancelScope) -> None:
        if self._outcome is Outcome.FAILED:
            self._outcome = outcome
        scope.cancel()

    async def _rest(self) -> None:
        """Put the sandbox to sleep, where the session goes on; takes as long as its files do."""
        ended = self._dispatch.ended is not None and self._dispatch.ended.deleted
        quiet = self._outcome in (Outcome.IDLE, Outcome.DRAINED)
        if quiet and not ended and self._lease.ours:
            stay = self._outcome is Outcome.IDLE
            await self._bench.hands.rest(self._work.session_id, stay=stay)

    async def _clean_up(self) -> None:
        session_id, hands = self._work.session_id, self._bench.hands
        if self._dispatch.ended is not None and self._dispatch.ended.deleted:
            await hands.forget(session_id)
            await to_thread.run_sync(self._bench.journal.forget, session_id)
        elif not hands.rests(session_id):
            await hands.drop(session_id)
        hands.equip(session_id, ())
        self._passage.close()
        await self._bench.skills.tidy(session_id, hands.rests)
        await to_thread.run_sync(self._bench.journal.tidy, session_id)

    async def _give_back(self) -> None:
        """Stop the item, hand it over, or leave it alone (contract 9.31, 9.32, 9.36)."""
        way = self._way()
        try:
            if way == "stopped":
                await self._retry_stop()
            elif way == "handed_over":
                await self._client.heartbeat(self._lease.last, ttl_s=HANDOVER_TTL_S)
        except (Away, LeaseLost, Refused) as error:
            # The lease lapses by itself.
            log.warning("give_back_failed", work_id=self._work.work_id, error=str(error))
        try:
            await self._bench.record.write(
                "work.end",
                work_id=self._work.work_id,
                session_id=self._work.session_id,
                outcome=self._outcome,
                way=way,
            )
        except RecordFailed as error:
            log.error("not_recorded", kind="work.end", error=str(error))

    def _way(self) -> str:
        if not self._lease.ours:
            return "left"
        # A forced stop would leave open calls to nobody (AMB 15); a lapsed lease requeues them.
        cut_short = self._stop.requested and self._outcome in (Outcome.DRAINED, Outcome.FAILED)
        if cut_short and not self._dispatch.resting():
            return "handed_over"
        return "stopped"

    async def _retry_stop(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await self._client.stop()
            except Away:
                if attempt + 1 == _ATTEMPTS:
                    raise
                await anyio.sleep(backoff_s(attempt, 0.5, 4.0, self._bench.rand()))
            else:
                return

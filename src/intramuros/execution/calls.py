"""Run one session's calls, one at a time, and post each result exactly once.

A call goes through these steps; each is durable before the next, so that a kill at any point
leaves the journal able to tell what to do (see the decision on interrupted calls)::

    audit tool.call ∥ journal started → run → filter → audit tool.result ∥ journal done
                                                       → post → journal forgotten
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from intramuros.execution.client import Away, ItemClient, Refused
from intramuros.execution.dispatch import Dispatch, ToolUse
from intramuros.execution.hands import Hands
from intramuros.execution.heartbeat import Lease
from intramuros.execution.journal import Journal, Progress, Result
from intramuros.execution.outflow.gate import NOBODY, Gate
from intramuros.execution.outflow.results import NOTHING, Filtered, Found, withheld, without_spill
from intramuros.execution.record import INWARD, OUTWARD, Record, RecordFailed, weigh
from intramuros.execution.sandbox.base import SandboxError, SandboxGone, ToolOutcome
from intramuros.execution.skills import Skills
from intramuros.execution.wrapped.tools import InSandbox
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s

if TYPE_CHECKING:
    from intramuros.execution.holding import Holding

log = logger("calls")

CustomTool = Callable[[Mapping[str, Any]], Awaitable[ToolOutcome]]

# Running these twice is the same as running them once.
REPEATABLE: Final = frozenset({"read", "glob", "grep", "write"})

# Contract 22.12.
POST_BACKOFF_BASE_S: Final = 2.0
POST_BACKOFF_CAP_S: Final = 30.0
_SPILL_TIMEOUT_S: Final = 30.0

INTERRUPTED: Final = (
    "The worker was restarted while this call ran, so it is not known how far it got. "
    "It was not run again. Look at the state of the workspace before you repeat it."
)
NOT_RECORDED: Final = (
    "The call was not run: the worker could not write its audit record. "
    "Tell the operator to check the disk of the worker."
)
WITHHELD: Final = (
    "The call ran, but its result was withheld: the worker could not write its audit record. "
    "Tell the operator to check the disk of the worker."
)


@dataclass(frozen=True)
class Bench:
    """What every session of one worker shares."""

    hands: Hands
    journal: Journal
    record: Record
    custom: Mapping[str, CustomTool | InSandbox]
    call_timeout_s: float
    clock: Clock
    rand: Callable[[], float]
    skills: Skills
    gate: Gate


class Calls:
    """The calls of one item's session."""

    def __init__(self, bench: Bench, client: ItemClient, dispatch: Dispatch, lease: Lease) -> None:
        self._bench = bench
        self._client = client
        self._session_id = client.work.session_id
        self._dispatch = dispatch
        self._lease = lease
        self._changed = anyio.Event()
        self._draining = False
        self._running: tuple[str, anyio.CancelScope] | None = None
        self.doing = "waiting"
        """What this loop does now, for the status."""
        self.before_call: Callable[[], Awaitable[None]] | None = None
        """Awaited before a call begins."""
        self.after_call: Callable[[], Awaitable[None]] | None = None
        """Awaited between two calls, when nothing runs in the sandbox that we know of."""
        self.holding: Holding | None = None
        """Holds results back until a person allows them; None withholds them."""
        self.notice: str | None = None
        """What the model is to read before the next result."""

    def poke(self) -> None:
        """The dispatch changed: look again, and stop a call that nobody waits for any more."""
        self._changed.set()
        if self._running is not None and not self._dispatch.wanted(self._running[0]):
            self._running[1].cancel()

    @property
    def draining(self) -> bool:
        """Whether no more calls are taken."""
        return self._draining

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until something changes."""
        self._changed = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._changed.wait()

    def drain(self) -> None:
        """Take no more calls; the loop returns after the running one."""
        self._draining = True
        self._changed.set()

    def tell(self, notices: Sequence[str]) -> None:
        """Have the model read these before the next result."""
        if notices:
            self.notice = "\n".join([*([self.notice] if self.notice else []), *notices])

    async def loop(self) -> None:
        """Serve calls as they become permitted, until drained."""
        while not self._draining:
            call = self._dispatch.next_call()
            if call is None:
                self._changed = anyio.Event()
                self.doing = "waiting"
                await self._changed.wait()
            else:
                self.doing = call.name
                if self.before_call is not None:
                    await self.before_call()
                await self._once(call)
                if self.after_call is not None:
                    await self.after_call()

    async def _once(self, call: ToolUse) -> None:
        result = await self._result(call)
        if result is not None:
            await self._post(call, result)
        if not self._dispatch.wanted(call.event_id):
            await self._settle(call)

    async def _result(self, call: ToolUse) -> Result | None:
        """Return what to post for a call: known from before, or run now; None to post nothing."""
        if not self._bench.journal.noted(self._session_id, call.event_id):
            return await self._run(call)
        try:
            progress, known = await to_thread.run_sync(
                self._bench.journal.progress, self._session_id, call.event_id
            )
        except OSError as error:
            log.error("journal_unreadable", error=str(error))
            return _fault(NOT_RECORDED)
        if known is not None:
            log.info("result_from_journal", call_id=call.event_id, tool=call.name)
            return await self._release(call, known, ms=0, rule="journal")
        if progress is Progress.HELD and self.holding is not None:
            return await self._hold(call, partial(self.holding.resume, call.event_id))
        if progress is not Progress.UNKNOWN and call.name not in REPEATABLE:
            log.warning("call_interrupted", call_id=call.event_id, tool=call.name)
            return await self._release(call, _fault(INTERRUPTED), ms=0, rule="interrupted")
        return await self._run(call)

    async def _run(self, call: ToolUse) -> Result | None:
        weight = weigh(dict(call.arguments))
        record = partial(
            self._bench.record.write,
            "tool.call",
            direction=INWARD,
            session_id=self._session_id,
            call_id=call.event_id,
            tool=call.name,
            rule=call.permission or "ungated",
            bytes=weight.size,
            sha256=weight.sha256,
            **({"isolation": "none"} if self._bench.hands.isolation == "none" else {}),
        )
        start = partial(self._bench.journal.start, self._session_id, call.event_id)
        try:
            # What may run twice needs no note that it began.
            await (record() if call.name in REPEATABLE else _both(record, start))
        except RecordFailed as error:
            log.error("call_not_recorded", call_id=call.event_id, error=str(error))
            return _fault(NOT_RECORDED)
        started = self._bench.clock.monotonic()
        outcome = await self._act(call)
        if outcome is None:
            await self._note("tool.abandoned", call)
            return None
        woken = await self._bench.hands.notice(self._session_id)
        for notice in filter(None, (self.notice, woken)):
            told = {"type": "text", "text": notice}
            outcome = replace(outcome, content=[told, *outcome.content])
        self.notice = None
        filtered = await self._filter(call, outcome)
        ms = round((self._bench.clock.monotonic() - started) * 1000)
        if filtered.allowed is not None:
            return await self._ask(call, filtered, is_error=outcome.is_error, ms=ms)
        result = Result(filtered.content, outcome.is_error or filtered.withheld)
        released = await self._release(call, result, ms=ms, rule="run", found=filtered.found)
        if woken and released is result:
            await self._bench.hands.told(self._session_id)
        return released

    async def _ask(
        self, call: ToolUse, filtered: Filtered, *, is_error: bool, ms: int
    ) -> Result | None:
        """Return what leaves of a result that a person is asked about; None to post nothing."""
        if self.holding is None:
            result = Result(withheld(filtered.found, NOBODY), is_error=True)
            return await self._release(call, result, ms=ms, rule="asked", found=filtered.found)
        wait = partial(self.holding.hold, call.event_id, filtered, is_error=is_error)
        return await self._hold(call, wait, ms=ms, found=filtered.found)

    async def _hold(
        self,
        call: ToolUse,
        wait: Callable[[], Awaitable[Result | None]],
        *,
        ms: int = 0,
        found: Found = NOTHING,
    ) -> Result | None:
        """Wait until it is known what leaves; a call that nobody waits for any more is dropped."""
        self.doing = f"{call.name}: waiting for a person's word"
        result: Result | None = None
        with anyio.CancelScope() as abandon:
            self._running = (call.event_id, abandon)
            try:
                result = await wait()
            except RecordFailed as error:
                log.error("result_not_held", call_id=call.event_id, error=str(error))
                result = _fault(WITHHELD)
        self._running = None
        if abandon.cancelled_caught:
            await self._note("tool.abandoned", call)
        if result is None:
            return None
        return await self._release(call, result, ms=ms, rule="asked", found=found)

    async def _act(self, call: ToolUse) -> ToolOutcome | None:
        """Run a call under its deadline; None when it was stopped because nobody waits for it."""
        bench = self._bench
        outcome: ToolOutcome | None = None
        with anyio.CancelScope() as abandon:
            self._running = (call.event_id, abandon)
            with anyio.move_on_after(bench.call_timeout_s) as deadline:
                outcome = await self._perform(call)
            if deadline.cancelled_caught:
                outcome = ToolOutcome.text(
                    f"tool {call.name!r} timed out after {bench.call_timeout_s:g} s", is_error=True
                )
        self._running = None
        return outcome

    async def _perform(self, call: ToolUse) -> ToolOutcome:
        try:
            custom = self._bench.custom.get(call.name)
            if custom is not None and not isinstance(custom, InSandbox):
                return await custom(call.arguments)
            sandbox = await self._bench.hands.take(self._session_id)
            if custom is not None:
                return await custom.call(sandbox, call.arguments)
            return await sandbox.call(call.name, call.arguments)
        except SandboxGone as error:
            log.warning("sandbox_gone", session_id=self._session_id, error=str(error))
            return ToolOutcome.text(
                "The sandbox stopped while the call ran; its processes are gone, its files are "
                "kept, and the next call starts a new one.",
                is_error=True,
            )
        except (SandboxError, OperatorError) as error:
            log.error("sandbox_failed", session_id=self._session_id, error=str(error))
            return ToolOutcome.text(f"The sandbox could not run the call: {error}", is_error=True)
        except Exception as error:
            log.exception("tool_raised", tool=call.name)
            return ToolOutcome.text(
                f"The tool failed inside the worker ({type(error).__name__}).", is_error=True
            )

    async def _filter(self, call: ToolUse, outcome: ToolOutcome) -> Filtered:
        filtered = await self._bench.gate.result(outcome, call.event_id, holds=True)
        if filtered.spill is None:
            return filtered
        why = "it took too long"
        try:
            with anyio.move_on_after(_SPILL_TIMEOUT_S):
                sandbox = await self._bench.hands.take(self._session_id)
                spill = filtered.spill
                arguments = {"file_path": spill.path, "content": spill.text}
                written = await sandbox.call("write", arguments)
                if not written.is_error:
                    return filtered
                why = "the sandbox refused it"
        except (SandboxError, OperatorError) as error:
            why = str(error)
        return without_spill(filtered, why)

    async def _release(
        self, call: ToolUse, result: Result, *, ms: int, rule: str, found: Found = NOTHING
    ) -> Result:
        """Make a result durable and record that it leaves; otherwise return one that says so."""
        weight = weigh(result.content)
        record = partial(
            self._bench.record.write,
            "tool.result",
            direction=OUTWARD,
            session_id=self._session_id,
            call_id=call.event_id,
            tool=call.name,
            rule=rule,
            bytes=weight.size,
            sha256=weight.sha256,
            is_error=result.is_error,
            ms=ms,
            **found.fields(),
        )
        finish = partial(self._bench.journal.finish, self._session_id, call.event_id, result)
        try:
            await _both(record, finish)
        except RecordFailed as error:
            log.error("result_not_recorded", call_id=call.event_id, error=str(error))
            return _fault(WITHHELD)
        return result

    async def _post(self, call: ToolUse, result: Result) -> None:
        """Send a result, for at most one lease TTL (contract 22.12)."""
        clock = self._bench.clock
        deadline = clock.monotonic() + self._lease.ttl_s
        attempt = 0
        while self._dispatch.wanted(call.event_id):
            try:
                await self._client.post(call, result)
            except Refused as error:
                log.error("result_refused", call_id=call.event_id, status=error.status)
                await self._note("tool.refused", call, status=error.status)
                self._dispatch.set_aside(call.event_id)
                return
            except Away as error:
                remaining_s = deadline - clock.monotonic()
                if remaining_s <= 0:
                    log.error("result_not_taken", call_id=call.event_id, error=str(error))
                    self._dispatch.set_aside(call.event_id)
                    return
                wait_s = backoff_s(
                    attempt, POST_BACKOFF_BASE_S, POST_BACKOFF_CAP_S, self._bench.rand()
                )
                attempt += 1
                await anyio.sleep(min(max(wait_s, error.retry_after_s or 0.0), remaining_s))
            else:
                self._dispatch.answered(call.event_id, clock.monotonic())

    async def _settle(self, call: ToolUse) -> None:
        try:
            await to_thread.run_sync(self._bench.journal.settle, self._session_id, call.event_id)
        except OSError as error:
            # It is answered, so what stays in the journal is never looked at again.
            log.warning("journal_not_settled", error=str(error))

    async def _note(self, kind: str, call: ToolUse, **fields: object) -> None:
        """Record something that happened anyway; the record follows it, so it may fail."""
        try:
            await self._bench.record.write(
                kind,
                session_id=self._session_id,
                call_id=call.event_id,
                tool=call.name,
                **fields,
            )
        except RecordFailed as error:
            log.error("not_recorded", kind=kind, error=str(error))


async def _both(record: Callable[[], Awaitable[None]], note: Callable[[], None]) -> None:
    """Write the audit record and the journal's note at once, and wait for both.

    Raises:
        RecordFailed: either could not be written.
    """
    failures: list[Exception] = []

    async def journal() -> None:
        try:
            await to_thread.run_sync(note)
        except OSError as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(journal)
        try:
            await record()
        except RecordFailed as error:
            failures.append(error)
    if failures:
        raise RecordFailed(str(failures[0])) from failures[0]


def _fault(text: str) -> Result:
    return Result([{"type": "text", "text": text}], is_error=True)

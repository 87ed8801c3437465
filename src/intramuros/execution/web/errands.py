"""Make the web calls that the server hands over, so many at once, and answer each once.

::

    claim → audit web.call → (audit egress.request → request) … → mask → audit web.result → answer

From the claim to the answer the server is told every second that the worker lives. A call is given
to one worker and never again, so nothing of it is kept: what a dead worker had begun, the server
answers within a few seconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from intramuros.execution.client import Away, ControlPlaneError, Raced, Refused
from intramuros.execution.outflow.gate import Gate
from intramuros.execution.outflow.results import without_spill
from intramuros.execution.record import INWARD, OUTWARD, Record, RecordFailed, weigh
from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.execution.web.client import WebCallClient
from intramuros.execution.web.ways import Outside, WorkerWays
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s
from intramuros.protocol.web_calls import BEAT_S, WebCall
from intramuros.web.base import FETCH, Answer, Code, Fetch, Search, refusal
from intramuros.web.domains import Rules
from intramuros.web.engines import Engine
from intramuros.web.fetch import Fetcher
from intramuros.web.reader import Reader
from intramuros.web.search import Searcher
from intramuros.web.terms import Terms
from intramuros.web.urls import Target

log = logger("web")

# Calls at once; more wait at the server. Each may hold as much of a page as one may have.
CALLS: Final = 8
_BACKOFF_BASE_S: Final = 0.5
_BACKOFF_CAP_S: Final = 30.0
# A way back that is broken for longer is of no use: the server has answered itself by then.
_ANSWER_S: Final = 8.0
_NOT_FOUND: Final = 404


@dataclass(eq=False)
class _Errand:
    """A call under way; ``making`` is cut short once nobody waits for the answer."""

    call: WebCall
    making: anyio.CancelScope = field(default_factory=anyio.CancelScope)


@dataclass(frozen=True)
class _Caller:
    """On whose behalf a call is made; workers know no workspaces."""

    session_id: str
    workspace_id: str = ""


class Errands:
    """The web calls of one worker.

    Args:
        terms: the operator's of this worker.
        engine: whom it asks; None for a worker that does not search.
        gate: what leaves the worker passes there.
    """

    def __init__(
        self,
        client: WebCallClient,
        outside: Outside,
        terms: Terms,
        engine: Engine | None,
        gate: Gate,
        rand: Callable[[], float],
    ) -> None:
        self._client = client
        self._outside = outside
        self._terms = terms
        self._engine = engine
        self._gate = gate
        self._rand = rand
        self._reader = Reader()
        self._room = anyio.Semaphore(CALLS)
        self.doing = "starting"
        """What this loop does now, for the status."""

    @property
    def _record(self) -> Record:
        return self._outside.record

    async def loop(self, stop: Stop) -> None:
        """Make calls until the stop, and those that are begun to their end."""
        failures = 0
        async with anyio.create_task_group() as calls:
            async with anyio.create_task_group() as polling:

                async def cut() -> None:
                    await stop.wait()
                    polling.cancel_scope.cancel()

                polling.start_soon(cut)
                while not stop.requested:
                    self.doing = "polling"
                    async with self._room:
                        pass
                    try:
                        call = await self._client.poll()
                    except Refused as error:
                        self._give_up(error)
                        await stop.wait()
                        break
                    except Away as error:
                        wait_s = backoff_s(failures, _BACKOFF_BASE_S, _BACKOFF_CAP_S, self._rand())
                        failures += 1
                        log.info("web_poll_failed", error=str(error), again_in_s=round(wait_s, 1))
                        self.doing = f"waiting after a failed poll: {error}"
                        await anyio.sleep(wait_s)
                        continue
                    failures = 0
                    if call is not None:
                        # Not between two awaits: a call that was claimed is begun.
                        self._room.acquire_nowait()
                        calls.start_soon(self._serve, call)
                polling.cancel_scope.cancel()
            self.doing = "finishing"
        self.doing = "stopped"

    def _give_up(self, error: Refused) -> None:
        self.doing = f"the server has no web calls for workers ({error})"
        if error.status == _NOT_FOUND:
            log.warning("web_calls_unknown_to_server")
        else:
            log.error("web_calls_refused", status=error.status)

    async def _serve(self, call: WebCall) -> None:
        errand = _Errand(call)
        try:
            with anyio.move_on_after(call.timeout_s + _ANSWER_S):
                async with anyio.create_task_group() as group:
                    group.start_soon(self._beat, errand)
                    await self._once(errand)
                    group.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001  one call is nobody else's business
            log.error("web_call_failed", call_id=call.id, error=type(error).__name__)
        finally:
            self._room.release()

    async def _beat(self, errand: _Errand) -> None:
        """Say again and again that the worker lives, as long as somebody waits."""
        while True:
            await anyio.sleep(BEAT_S)
            try:
                wanted = await self._client.beat(errand.call)
            except ControlPlaneError:
                continue  # the call has a deadline of its own
            if not wanted:
                errand.making.cancel()
                return

    async def _once(self, errand: _Errand) -> None:
        call = errand.call
        weight = weigh(call.dump())
        about = {"session_id": call.session_id, "call_id": call.id, "tool": call.name}
        try:
            await self._record.write(
                "web.call", direction=INWARD, bytes=weight.size, sha256=weight.sha256, **about
            )
        except RecordFailed as error:
            log.error("web_call_not_recorded", call_id=call.id, error=str(error))
            made: Answer | None = refusal(Code.UNAVAILABLE, "the worker cannot write its record")
        else:
            made = await self._make(errand)
        if made is None:
            self._record.note("web.abandoned", **about)
            return
        outcome = ToolOutcome([dict(block) for block in made.content], made.is_error)
        filtered = await self._gate.result(outcome, call.id)
        if filtered.spill is not None:
            filtered = without_spill(filtered, "no sandbox is near")
        weight = weigh(filtered.content)
        try:
            await self._record.write(
                "web.result",
                direction=OUTWARD,
                bytes=weight.size,
                sha256=weight.sha256,
                is_error=made.is_error,
                **filtered.found.fields(),
                **about,
            )
        except RecordFailed as error:
            # Nothing leaves unrecorded; the server answers when the time is over.
            log.error("web_result_not_recorded", call_id=call.id, error=str(error))
            return
        seen = {name: made.seen[name] for name in _SEEN if made.seen.get(name) is not None}
        is_error = made.is_error or filtered.withheld
        body = {"content": filtered.content, "is_error": is_error, "seen": seen}
        await self._answer(call, body)

    async def _make(self, errand: _Errand) -> Answer | None:
        """Make a call; None when nobody waits for it any more."""
        with errand.making:
            try:
                return await self._ask(errand.call)
            except Exception as error:  # noqa: BLE001  a call has an answer, whatever happened
                # Its text may hold what a page or an engine said.
                log.error("web_call_failed", call_id=errand.call.id, error=type(error).__name__)
                return refusal(Code.UNAVAILABLE, "the worker could not make the call")
        return None

    async def _ask(self, call: WebCall) -> Answer:
        rules = Rules(call.allowed, call.blocked)
        terms = replace(self._terms, timeout_s=min(self._terms.timeout_s, call.timeout_s))
        caller = _Caller(call.session_id)
        ways = WorkerWays(self._outside, call.session_id)
        if call.name == FETCH:
            fetcher = Fetcher(terms, self._reader, _noted, self._outside.clock, ways)
            return await fetcher.fetch(Fetch(caller, call.id, call.asked, rules, call.max_tokens))
        if self._engine is None:
            return refusal(Code.UNAVAILABLE, "this worker has no search engine")
        wanted = Search(caller, call.id, call.asked, rules, call.location)
        return await Searcher(terms, self._engine, ways).search(wanted)

    async def _answer(self, call: WebCall, body: dict[str, object]) -> None:
        attempt = 0
        while True:
            try:
                await self._client.answer(call, body)
            except Raced:
                log.info("web_answer_late", call_id=call.id)
                return
            except Refused as error:
                log.error("web_answer_refused", call_id=call.id, status=error.status)
                return
            except Away as error:
                log.info("web_answer_away", call_id=call.id, error=str(error))
                await anyio.sleep(math.ldexp(0.25, min(attempt, 4)))
                attempt += 1
            else:
                return


_SEEN: Final = ("hosts", "status", "received", "hits")


async def _noted(_wanted: Fetch, _target: Target) -> None:
    """Do nothing: each hop is recorded by its way, before it is dialled."""

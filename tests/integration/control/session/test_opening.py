"""Turns that begin in the transaction that takes the input."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from intramuros.control.model.base import ModelReply, ModelRequest
from intramuros.control.session import runner as runner_module
from intramuros.control.session.journal import NotBegun
from intramuros.control.session.opening import Opening, opened
from intramuros.control.session.repositories import KIND
from intramuros.control.session.state import initial
from intramuros.control.session.view import View
from intramuros.control.store import db as db_module
from intramuros.control.store import events, leases, tables
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import Lease
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.service import Stop
from intramuros.protocol.events import INBOUND
from tests.fakes.loop import ASK, CUSTOM, agent, mcp_toolset, text, use, uses
from tests.integration.control.session.rig import PRINCIPAL, Rig, types
from tests.integration.control.session.test_runner import QUICK

pytestmark = pytest.mark.anyio

INTERRUPT = {"type": "user.interrupt"}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "log.db", settings=QUICK)
    yield rig
    rig.db.close()


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[Lease]:
    """What was claimed from the queue."""
    found: list[Lease] = []
    claim = leases.claim

    def count(*given: Any) -> Lease | None:
        lease = claim(*given)
        if lease is not None:
            found.append(lease)
        return lease

    monkeypatch.setattr(runner_module.leases, "claim", count)
    return found


async def asked(rig: Rig, *tools: dict[str, Any]) -> tuple[str, str]:
    """Have a call asked for; return the session and the call, once the turn is over."""
    session = await rig.create(agent(*(tools or (CUSTOM,))))
    rig.model.answers.append(uses(use("mcp__db__query" if tools else "weather")))
    await rig.say(session)
    state = await rig.idle(session, "requires_action")
    (call,) = state.announced
    await until(lambda: rig.runner._memory.look(session) is not None)
    return session, call


async def until(wanted: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if wanted():
            return
        await anyio.sleep(0.005)
    raise AssertionError("it never happens")


def result(call: str) -> dict[str, object]:
    return {"type": "user.custom_tool_result", "custom_tool_use_id": call}


@contextmanager
def committed(rig: Rig) -> Iterator[list[list[str]]]:
    """Tell which rows each transaction wrote that took an input."""
    seen: list[list[str]] = []
    accept = rig.journal.accept

    def look(tx: Tx, principal: Any, session: str, *given: Any) -> list[Record]:
        before = events.last_seq(tx, session)
        stored = accept(tx, principal, session, *given)
        seen.append([row.type for row in events.read(tx, session, after_seq=before)])
        return stored

    rig.journal.accept = look  # type: ignore[method-assign]
    yield seen
    rig.journal.accept = accept  # type: ignore[method-assign]


async def test_a_result_and_the_next_request_are_durable_together(
    rig: Rig, claims: list[Lease]
) -> None:
    async with rig.running():
        session, call = await asked(rig)
        rig.model.answers.append(text("sunny"))
        with committed(rig) as seen:
            await rig.send(session, result(call))
        await rig.idle(session)
    (rows,) = seen
    assert rows[0] == "user.custom_tool_result"
    assert rows[-1] == "span.model_request_start"
    assert len(claims) == 1, "the second turn came by no queue"
    start = [r for r in await rig.log(session) if r.type == "span.model_request_start"][1]
    assert start.private["epoch"] == (await rig.lease(session)).epoch == 2
    assert rig.model.requests[1].messages[-1]["content"][0]["tool_use_id"] == "toolu_1"


async def test_a_turn_without_an_effect_is_over_with_the_input(
    rig: Rig, claims: list[Lease]
) -> None:
    async with rig.running():
        session, _ = await asked(rig)
        with committed(rig) as seen:
            await rig.send(session, INTERRUPT)
        lease = await rig.lease(session)
        assert (lease.state, lease.holder, lease.epoch) == ("idle", None, 2)
        assert seen[0][-1] == "session.status_idle"
        # And it is remembered: the next input begins at once as well.
        rig.model.answers.append(text("hi"))
        await rig.say(session)
        await rig.idle(session)
    assert len(claims) == 1
    assert len(rig.model.requests) == 2


async def test_calls_that_are_allowed_are_made_at_once(rig: Rig, claims: list[Lease]) -> None:
    async with rig.running():
        session, call = await asked(rig, mcp_toolset(ASK))
        rig.model.answers.append(text("done"))
        allow = {"type": "user.tool_confirmation", "tool_use_id": call, "result": "allow"}
        with committed(rig) as seen:
            await rig.send(session, allow)
        await rig.idle(session)
    assert seen[0][-1] == "internal.mcp_call_started"
    assert len(rig.connector.calls) == 1
    assert len(claims) == 1
    in_order = select(tables.audit.c.kind).order_by(tables.audit.c.seq)
    kinds = await rig.db.read(lambda tx: list(tx.execute(in_order).scalars()))
    assert kinds[-3:] == ["session.input", "mcp.call", "mcp.result"]


async def test_what_cannot_be_begun_is_taken_all_the_same(
    rig: Rig, claims: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig.running():
        session, call = await asked(rig)

        def fail(*_: object) -> Opening:
            raise RuntimeError("never comes to an effect")

        monkeypatch.setattr(runner_module, "opened", fail)
        rig.model.answers.append(text("sunny"))
        await rig.send(session, result(call))
        await rig.idle(session)
    assert len(claims) == 2
    assert types(await rig.log(session)).count("user.custom_tool_result") == 1


async def test_a_first_row_that_cannot_be_written_undoes_the_claim(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def illegal(*given: Any) -> Opening:
        return replace(opened(*given), drafts=[Draft("agent.message", {"content": []})])

    async with rig.running():
        session, call = await asked(rig)
        before = await rig.log(session)
        monkeypatch.setattr(runner_module, "opened", illegal)
        await refused(rig, session, call)
        assert await rig.log(session) == before
        assert (await rig.lease(session)).state == "idle"


async def test_what_fails_behind_the_first_rows_undoes_them(rig: Rig) -> None:
    async with rig.running():
        session, call = await asked(rig)
        before = await rig.log(session)
        broken: list[Any] = [lambda *_: 1 / 0]
        rig.runner._desk = replace(rig.desk, watches=broken)
        await refused(rig, session, call)
        rig.runner._desk = rig.desk
        assert await rig.log(session) == before
        assert (await rig.lease(session)).state == "idle"


async def refused(rig: Rig, session: str, call: str) -> None:
    inbound = [INBOUND.validate_python(result(call))]
    with pytest.raises(NotBegun):
        await rig.db.write(
            lambda tx: rig.journal.accept(tx, PRINCIPAL, session, inbound, rig.runner)
        )


async def test_a_refused_commit_begins_nothing(rig: Rig) -> None:
    async with rig.running():
        session, call = await asked(rig)
        before = await rig.log(session)
        inbound = [INBOUND.validate_python(result(call))]

        def work(tx: Tx) -> None:
            rig.journal.accept(tx, PRINCIPAL, session, inbound, rig.runner)
            assert leases.take(tx, leases.TURNS, session, "you", 1, 1) is None
            raise Unavailable("the disk is full")

        with pytest.raises(Unavailable):
            await rig.db.write(work)
        assert await rig.log(session) == before
        assert (await rig.lease(session)).state == "idle"
        assert rig.runner._memory.look(session) is not None
        # The same input may come again.
        rig.model.answers.append(text("sunny"))
        await rig.send(session, result(call))
        await rig.idle(session)
    assert len(rig.model.requests) == 2


async def test_a_session_that_somebody_holds_is_offered(rig: Rig) -> None:
    async with rig.running():
        session, call = await asked(rig)
        await rig.usurp(session, state="held", expires_us=2**53)
        await rig.send(session, result(call))
        assert (await rig.lease(session)).state == "again"
        assert len(rig.model.requests) == 1


async def test_a_session_that_another_process_drove_meanwhile_is_read_anew(
    rig: Rig, claims: list[Lease]
) -> None:
    async with rig.running():
        session, call = await asked(rig)
        known = rig.runner._memory.look(session)
        assert known is not None
        rig.runner._memory.keep(_older(known))
        rig.model.answers.append(text("sunny"))
        with capture_logs() as logs:
            await rig.send(session, result(call))
        assert logs == [], "that is nothing to tell of"
        await rig.idle(session)
    assert len(claims) == 2
    assert rig.model.requests[1].messages[-1]["content"][0]["tool_use_id"] == "toolu_1"


async def test_a_turn_that_must_wait_for_a_checkout_is_not_begun(rig: Rig) -> None:
    until_us = rig.desk.now_us() + 3600 * 1_000_000
    checkout = {"type": KIND, "_state": "cloning", "_until_us": until_us}
    async with rig.running():
        session, call = await asked(rig)
        mounted = update(tables.sessions).values(resources=[checkout])
        await rig.db.write(lambda tx: tx.execute(mounted))
        await rig.send(session, result(call))
        lease = await rig.lease(session)
        assert (lease.state, lease.available_us) == ("ready", until_us)
    assert len(rig.model.requests) == 1


def _older(view: View) -> View:
    """The view before the last row, as far as the state says."""
    earlier = View.empty(view.subject, initial(view.state.thread_id, self_hosted=True))
    return earlier.extend(view.records[:-1])


async def test_without_a_free_slot_a_turn_waits_in_the_queue(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "log.db", settings=replace(QUICK, concurrency=2))
    gate = anyio.Event()

    async def slowly(_: ModelRequest) -> ModelReply:
        await gate.wait()
        return text("at last")

    async with rig.running():
        session, call = await asked(rig)
        for number in (2, 3):
            rig.model.answers.append(slowly)
            await rig.say(await rig.create(agent(), session_id=f"sesn_{number}"))
        await until(lambda: len(rig.model.requests) == 3)
        await rig.send(session, result(call))
        assert (await rig.lease(session)).state == "ready"
        rig.model.answers.append(text("sunny"))
        gate.set()
        await rig.idle(session)
        assert rig.runner._slots.value <= 2
    rig.db.close()


async def test_a_turn_is_no_part_of_the_request_that_brought_its_input(rig: Rig) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    found: list[str] = []

    async def look(_: ModelRequest) -> ModelReply:
        found.append(request.get())
        return text("sunny")

    async with rig.running():
        session, call = await asked(rig)
        rig.model.answers.append(look)
        request.set("req_1")
        await rig.send(session, result(call))
        await rig.idle(session)
    assert found == ["none"]


async def test_a_runner_that_stops_begins_nothing_more(rig: Rig) -> None:
    async with rig.running() as stop:
        session, call = await asked(rig)
        stop.request()
        await rig.send(session, result(call))
        assert (await rig.lease(session)).state == "ready"
    assert len(rig.model.requests) == 1


async def test_slots_come_back(rig: Rig) -> None:
    async with rig.running():
        session, call = await asked(rig)
        free = rig.runner._slots.value
        for _ in range(5):
            rig.model.answers.append(uses(use("weather")))
            await rig.send(session, result(call))
            state = await rig.until(session, lambda s, old=call: s.announced not in ((), (old,)))
            (call,) = state.announced
            await until(lambda: rig.runner._slots.value == free)


LATE: ContextVar[bool] = ContextVar("LATE", default=False)


async def test_a_turn_that_is_durable_before_the_runner_ends_and_told_behind_it_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable, heard, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def answer(job: Any) -> Any:
        """What the store does, but that some are slow to hear what they wrote."""
        result, hooks = await db_module._wait(job.done)
        if LATE.get() and hooks:
            durable.set()
            await heard.wait()
        for hook in hooks:
            hook()
        return result

    monkeypatch.setattr(db_module, "_answer", answer)
    # Its lease must not lapse while anybody looks.
    settings = replace(QUICK, drive=replace(QUICK.drive, lease_s=3_600.0))
    rig, other = (
        Rig(tmp_path / "log.db", settings=settings, fresh=fresh) for fresh in (True, False)
    )
    stop = Stop()

    async def run() -> None:
        await rig.runner.run(stop)
        ended.set()

    async def send_late() -> None:
        LATE.set(True)
        await rig.send(session, result(call))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        session, call = await asked(rig)
        group.start_soon(send_late)
        with anyio.fail_after(60):
            await durable.wait()
            assert (await rig.lease(session)).state == "held"
            stop.request()
            await ended.wait()
        lease = await rig.lease(session)
        assert (lease.state, lease.holder, lease.epoch) == ("ready", None, 2)
        assert lease.available_us <= rig.desk.now_us()
        heard.set()
    assert len(rig.model.requests) == 1, "it begins nothing any more"
    other.model.answers.append(text("sunny"))
    async with other.running():
        await other.idle(session)
    assert (await other.lease(session)).epoch == 3
    for each in (rig, other):
        each.db.close()


async def test_a_runner_that_ends_leaves_others_turns_alone(tmp_path: Path) -> None:
    rig, other = (
        Rig(tmp_path / "log.db", settings=QUICK, fresh=fresh) for fresh in (True, False)
    )  # of one name
    session = await rig.create(agent())
    asks, ends = anyio.Event(), anyio.Event()

    async def think(_: ModelRequest) -> ModelReply:
        asks.set()
        await ends.wait()
        return text("hi")

    rig.model.answers.append(think)
    async with rig.running():
        await rig.say(session)
        with anyio.fail_after(60):
            await asks.wait()
        held = await rig.lease(session)
        stop = Stop()
        stop.request()
        await other.runner.run(stop)
        kept = await rig.lease(session)
        assert (kept.state, kept.epoch, kept.holder) == ("held", held.epoch, held.holder)
        ends.set()
        await rig.idle(session)
    assert len(rig.model.requests) == 1
    for each in (rig, other):
        each.db.close()

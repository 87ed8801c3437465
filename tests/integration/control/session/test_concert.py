"""Several threads at once over the real store; only the model is a double."""

import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import select

from intramuros.control.mcp.base import Caller
from intramuros.control.model.base import Delta, ModelReply, ModelRequest, TextDelta
from intramuros.control.session.drive import DriveSettings
from intramuros.control.session.fold import fold
from intramuros.control.session.phase import Status
from intramuros.control.session.runner import RunnerSettings
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import Limits
from intramuros.control.store import events
from intramuros.control.store.session_tables import threads
from intramuros.kernel.service import Stop
from tests.fakes.band import WISE, definition, delegate, lead
from tests.fakes.loop import ALLOW, ROWS, mcp_toolset, text, toolset, use, uses
from tests.integration.control.session.rig import WORKSPACE, Rig

pytestmark = pytest.mark.anyio

QUICK = RunnerSettings(
    poll_s=0.1,
    drive=DriveSettings(
        lease_s=10.0,
        beat_s=0.2,
        watch_s=0.1,
        limits=Limits(backoff_base_s=0.01, backoff_cap_s=0.02, failures=2),
    ),
)
SCOUT = definition("scout", toolset(ALLOW), model={"id": "scout"})
ASKER = definition("asker", mcp_toolset(ALLOW), model={"id": "asker"})


def leading(*roster: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**lead(*roster, **more), "model": {"id": "lead"}}


class Parts:
    """A model that answers each agent from a list of its own."""

    def __init__(self, **parts: list[Any]) -> None:
        self.parts = defaultdict(deque, {name: deque(part) for name, part in parts.items()})
        self.requests: list[ModelRequest] = []

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        self.requests.append(request)
        answer = self.parts[request.model].popleft()
        if isinstance(answer, ModelReply):
            on_delta(TextDelta(0, "…"))
            return answer
        waiting: Awaitable[ModelReply] = answer(request)
        return await waiting


class Meeting:
    """Answers that come only once so many requests wait at the same time; or never at all."""

    def __init__(self, size: int, reply: ModelReply | None) -> None:
        self.reply = reply
        self.missing = size
        self.full = anyio.Event()
        self.cancelled = 0

    async def __call__(self, request: ModelRequest) -> ModelReply:
        self.missing -= 1
        if self.missing == 0:
            self.full.set()
        try:
            await self.full.wait()
            if self.reply is None:
                await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        assert self.reply is not None
        return self.reply


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "log.db", settings=QUICK)
    yield made
    made.db.close()


def cast(rig: Rig, **parts: list[Any]) -> Parts:
    model = Parts(**parts)
    object.__setattr__(rig.runner._performer, "model", model)
    return model


async def rows(rig: Rig) -> list[Any]:
    query = select(threads).order_by(threads.c.created_us)
    return list(await rig.db.read(lambda tx: tx.execute(query).all()))


@pytest.mark.rule("c10_25")
async def test_requests_of_several_threads_are_under_way_at_once(rig: Rig) -> None:
    together = Meeting(3, text("found"))
    model = cast(
        rig,
        lead=[delegate("scout", "scout", "scout"), text("wait"), *[text("ok")] * 3],
        scout=[together] * 3,
    )
    session = await rig.create(leading(SCOUT))
    async with rig.running():
        await rig.say(session)
        state = await rig.idle(session)
    assert together.full.is_set(), "each of the three waited for the other two"
    assert state.status is Status.IDLE
    heard = str(model.requests[-1].messages)
    assert heard.count("found") == 3
    children = await rows(rig)
    assert [child.status for child in children] == ["idle"] * 3
    assert all(child.agent["name"] == "scout" for child in children)
    lease = await rig.lease(session)
    assert lease.holder is None


@pytest.mark.rule("c19_6")
async def test_twenty_five_threads_are_under_way_at_once(rig: Rig) -> None:
    together = Meeting(25, text("found"))
    model = cast(
        rig,
        lead=[delegate(*["scout"] * 25), *[text("ok")] * 26],
        scout=[together] * 25,
    )
    session = await rig.create(leading(SCOUT))
    async with rig.running():
        await rig.say(session)
        state = await rig.idle(session)
    assert together.full.is_set(), "each of them waited for all others"
    assert state.status is Status.IDLE
    assert str(model.requests[-1].messages).count("found") == 25
    assert [child.status for child in await rows(rig)] == ["idle"] * 25


async def test_an_interrupt_cuts_every_request_short(rig: Rig) -> None:
    never = Meeting(3, None)
    cast(rig, lead=[delegate("scout", "scout"), never], scout=[never] * 2)
    session = await rig.create(leading(SCOUT))
    async with rig.running():
        await rig.say(session)
        with anyio.fail_after(60):
            await never.full.wait()
        await rig.send(session, {"type": "user.interrupt"})
        state = await rig.idle(session)
    assert never.cancelled == 3
    assert state.status is Status.IDLE
    assert [thread.stop for thread in state.threads] == ["end_turn"] * 3


async def test_one_child_is_interrupted_while_the_other_goes_on(rig: Rig) -> None:
    never, gate = Meeting(1, None), Meeting(2, text("found"))
    cast(
        rig, lead=[delegate("scout", "asker"), text("wait"), text("ok")],
        scout=[never], asker=[gate],
    )  # fmt: skip
    asker = definition("asker", model={"id": "asker"})
    session = await rig.create(leading(SCOUT, asker))
    async with rig.running():
        await rig.say(session)
        state = await rig.until(
            session, lambda s: len(s.threads) == 3 and never.missing == 0 and gate.missing == 1
        )
        assert state.crew is not None
        stopped = next(m.state.thread_id for m in state.crew.members if m.name == "scout")
        await rig.send(session, {"type": "user.interrupt", "session_thread_id": stopped})
        await rig.until(
            session, lambda s: s.crew is not None and s.crew.members[0].state.stop == "end_turn"
        )
        assert never.cancelled == 1
        gate.full.set()
        await rig.idle(session)
    log = await rig.log(session)
    reports = [r for r in log if r.type == "agent.thread_message_received" and r.thread_id is None]
    assert {r.body["from_agent_name"] for r in reports} == {"asker"}


@pytest.mark.rule("R080")
async def test_mcp_calls_of_two_children_run_beside_each_other(rig: Rig) -> None:
    both = anyio.Event()
    waiting = 0

    async def call(tool: str) -> Any:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            both.set()
        await both.wait()
        return ROWS

    rig.connector.handler = call
    cast(
        rig,
        lead=[delegate("asker", "asker"), text("wait"), text("ok"), text("ok")],
        asker=[uses(use("mcp__db__query"))] * 2 + [text("3 rows")] * 2,
    )
    session = await rig.create(leading(ASKER))
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    assert both.is_set()
    log = await rig.log(session)
    results = [r for r in log if r.type == "agent.mcp_tool_result"]
    assert len({r.thread_id for r in results}) == 2
    # Credentials are looked up by the session, whichever thread calls.
    assert set(rig.connector.callers) == {Caller(WORKSPACE, session)}
    assert not any(r.type == "internal.mcp_listed" for r in log if r.thread_id is None)


async def test_the_advisor_is_asked_and_ends(rig: Rig) -> None:
    model = cast(
        rig,
        lead=[uses(use("consult_advisor", "toolu_c")), text("as advised")],
        **{WISE: [text("Test first.")]},
    )
    session = await rig.create(leading(advisor=True))
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    assert [request.model for request in model.requests] == ["lead", WISE, "lead"]
    (child,) = await rows(rig)
    assert (child.status, child.agent) == ("terminated", {"type": "advisor", "model": WISE})


async def test_another_process_goes_on_where_one_died(rig: Rig, tmp_path: Path) -> None:
    never = Meeting(3, None)
    cast(rig, lead=[delegate("scout", "scout"), never], scout=[never] * 2)
    session = await rig.create(leading(SCOUT))
    with anyio.CancelScope() as death:
        async with anyio.create_task_group() as group:
            group.start_soon(rig.runner.run, Stop())
            await rig.say(session)
            with anyio.fail_after(60):
                await never.full.wait()
            # Nobody gives the lease back, as after kill -9: it is taken over.
            await rig.usurp(session, state="ready")
            death.cancel()
    other = Rig(tmp_path / "log.db", settings=QUICK, fresh=False)
    cast(other, lead=[text("a"), text("b"), text("c")], scout=[text("north"), text("south")])
    async with other.running():
        await other.idle(session)
    log = await other.log(session)
    ends = [r for r in log if r.type == "span.model_request_end"]
    starts = [r for r in log if r.type == "span.model_request_start"]
    assert len(ends) == len(starts)
    assert sum(bool(r.body["is_error"]) for r in ends) == 3
    other.db.close()


async def test_what_each_view_lists(rig: Rig) -> None:
    cast(rig, lead=[delegate("scout"), text("wait"), text("ok")], scout=[text("north")])
    session = await rig.create(leading(SCOUT))
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    (child,) = await rows(rig)
    own, _ = await rig.db.read(
        lambda tx: events.page(tx, session, events.Query(thread_id=child.id))
    )
    main, _ = await rig.db.read(lambda tx: events.page(tx, session, events.Query()))
    assert {r.thread_id for r in own} == {child.id}
    assert "agent.message" in [r.type for r in own]
    assert {r.type for r in main if r.thread_id} == {
        "session.thread_status_running",
        "session.thread_status_idle",
    }
    assert not any(r.internal or r.queued for r in (*own, *main))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_comes_between_every_thread_comes_to_rest(rig: Rig, seed: int) -> None:
    """Answers at random times, clients that interrupt, archive and go on: the real store agrees."""
    chance = random.Random(seed)

    async def at_last(request: ModelRequest) -> ModelReply:
        await anyio.sleep(chance.random() / 20)
        if request.model == "lead" and chance.random() < 0.4:
            return delegate(*["scout"] * chance.randint(1, 4))
        if request.model == "scout" and chance.random() < 0.3:
            return uses(use("mcp__db__query"))
        return text("found")

    scout = definition("scout", mcp_toolset(ALLOW), model={"id": "scout"})
    cast(rig, lead=[at_last] * 500, scout=[at_last] * 500)
    session = await rig.create(leading(scout))
    async with rig.running():
        await rig.say(session)
        for _ in range(25):
            await anyio.sleep(chance.random() / 10)
            state = await rig.state(session)
            children = [thread.thread_id for thread in state.threads[1:]]
            if chance.random() < 0.3 or not children:
                await rig.say(session, "more")
            elif chance.random() < 0.5:
                named = {"session_thread_id": chance.choice(children)}
                await rig.send(session, {"type": "user.interrupt", **named})
            else:
                await rig.send(session, {"type": "user.interrupt"})
        await rig.send(session, {"type": "user.interrupt"})
        final = await rig.until(session, lambda s: s.status is Status.IDLE and not s.due)
    log = await rig.log(session)
    state = initial(final.thread_id, self_hosted=True, crewed=True)
    for record in log:
        state = fold(state, record)
    assert load(state.dump()) == final
    assert [r.seq for r in log] == list(range(1, len(log) + 1))
    stored = {row.id: row for row in await rows(rig)}
    for thread in final.threads[1:]:
        assert load(stored[thread.thread_id].state) == thread
    for thread_id in (None, *stored):
        own = [r for r in log if r.thread_id == thread_id]
        starts = [r.id for r in own if r.type == "span.model_request_start"]
        ends = [r.body["model_request_start_id"] for r in own if r.type.endswith("request_end")]
        assert starts == ends

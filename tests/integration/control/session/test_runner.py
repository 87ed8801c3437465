"""The loop over the real store."""

import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from sqlalchemy import select

from intramuros.control.identity import audit as audit_log
from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import ModelReply, ModelRequest
from intramuros.control.session.drive import DriveSettings
from intramuros.control.session.phase import Phase
from intramuros.control.session.runner import RunnerSettings
from intramuros.control.session.turn import Limits
from intramuros.control.store import tables
from intramuros.control.store.notify import Subscription, session_topic
from intramuros.protocol.audit import verify
from tests.fakes.loop import ASK, CUSTOM, agent, away, mcp_toolset, text, toolset, use, uses
from tests.integration.control.session.rig import Rig, types

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
# For tests that wait until a lease has run out.
BRIEF = replace(QUICK, drive=replace(QUICK.drive, lease_s=2.0))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "log.db", settings=QUICK)
    yield rig
    rig.db.close()


@contextmanager
def whispers(rig: Rig, session: str) -> Iterator[Subscription]:
    with rig.hub.subscribe(session_topic(session)) as subscription:
        yield subscription


class Gate:
    """A model's answer that comes when it is told to."""

    def __init__(self, reply: ModelReply) -> None:
        self.reached = anyio.Event()
        self.open = anyio.Event()
        self.cancelled = anyio.Event()
        self._reply = reply

    async def __call__(self, request: ModelRequest) -> ModelReply:
        self.reached.set()
        try:
            await self.open.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return self._reply


async def test_a_message_is_answered_and_the_lease_given_back(rig: Rig) -> None:
    session = await rig.create(agent())
    rig.model.answers.append(text("hi"))
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    log = await rig.log(session)
    assert [record.seq for record in log] == list(range(1, len(log) + 1))
    assert types(log)[:3] == [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
    ]
    lease = await rig.lease(session)
    assert (lease.state, lease.holder) == ("idle", None)


async def test_a_turn_costs_two_commits_of_the_loop(rig: Rig) -> None:
    session = await rig.create(agent())
    rig.model.answers.append(text("hi"))
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    times = [record.at_us for record in await rig.log(session) if not record.queued]
    # Rows of one commit are stamped one microsecond apart.
    commits = 1 + sum(later - earlier > 1 for earlier, later in itertools.pairwise(times))
    assert commits == 2


async def test_a_custom_tool_goes_out_and_comes_back(rig: Rig) -> None:
    session = await rig.create(agent(CUSTOM))
    rig.model.answers += [uses(use("weather")), text("sunny")]
    async with rig.running():
        await rig.say(session)
        state = await rig.idle(session, "requires_action")
        (call,) = state.announced
        await rig.send(session, {"type": "user.custom_tool_result", "custom_tool_use_id": call})
        await rig.idle(session)
    assert rig.model.requests[1].messages[-1]["content"][0]["tool_use_id"] == "toolu_1"


async def test_previews_carry_the_id_of_the_event_that_concludes_them(rig: Rig) -> None:
    session = await rig.create(agent())
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = [{"type": "text", "text": "a"}, {"type": "text", "text": "bc"}]
    rig.model.answers.append(ModelReply([thinking, *said], "end_turn"))
    with whispers(rig, session) as heard:
        async with rig.running():
            await rig.say(session)
            await rig.idle(session)
        got = [whisper.event for whisper in heard.take_whispers()]
    log = await rig.log(session)
    by_type = {record.type: record for record in log}
    thought, message = by_type["agent.thinking"].id, by_type["agent.message"].id
    assert got[0] == {"type": "event_start", "event": {"type": "agent.thinking", "id": thought}}
    assert got[1] == {"type": "event_start", "event": {"type": "agent.message", "id": message}}
    parts: dict[int, str] = {}
    for event in got[2:]:
        assert event["event_id"] == message
        delta = event["delta"]
        parts[delta["index"]] = parts.get(delta["index"], "") + delta["content"]["text"]
    assert parts == {0: "a", 1: "bc"}


async def test_an_interrupt_cancels_the_request_at_once(rig: Rig) -> None:
    session = await rig.create(agent())
    gate = Gate(text("never"))
    rig.model.answers.append(gate)
    async with rig.running():
        await rig.say(session)
        await gate.reached.wait()
        await rig.send(session, {"type": "user.interrupt"})
        await rig.idle(session)
    assert gate.cancelled.is_set()
    assert "agent.message" not in types(await rig.log(session))


async def test_an_interrupt_stops_a_streaming_request_within_100_ms(rig: Rig) -> None:
    """From the moment that it is sent, commit and all; the best of some, for busy machines."""
    took_s = []
    session = await rig.create(agent())
    async with rig.running():
        for _ in range(5):
            gate = Gate(text("never"))
            rig.model.answers.append(gate)
            await rig.say(session)
            await gate.reached.wait()
            began_s = time.monotonic()
            await rig.send(session, {"type": "user.interrupt"})
            with anyio.fail_after(60):
                await gate.cancelled.wait()
            took_s.append(time.monotonic() - began_s)
            await rig.idle(session)
    assert min(took_s) < 0.1


async def test_a_message_during_a_request_neither_disturbs_it_nor_is_lost(rig: Rig) -> None:
    session = await rig.create(agent())
    gate = Gate(text("one"))
    rig.model.answers += [gate, text("two")]
    async with rig.running():
        await rig.say(session)
        await gate.reached.wait()
        await rig.say(session, "more")
        gate.open.set()
        await rig.until(session, lambda state: state.turn == 2 and state.phase is Phase.IDLE)
    assert types(await rig.log(session)).count("agent.message") == 2


async def test_mcp_calls_are_audited_before_and_after(rig: Rig) -> None:
    session = await rig.create(agent(mcp_toolset()))
    rig.model.answers += [uses(use("mcp__db__insert", row=1)), text("done")]
    seen: list[str] = []

    async def handler(tool: str) -> McpResult:
        rows = await rig.db.read(lambda tx: list(tx.execute(select(tables.audit.c.kind)).scalars()))
        seen.extend(rows)
        return McpResult([{"type": "text", "text": "ok"}])

    rig.connector.handler = handler
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    assert "mcp.call" in seen
    assert "mcp.result" not in seen
    lines = await rig.db.read(lambda tx: list(audit_log.read_lines(tx)))
    verify(lines)
    assert any('"mcp.result"' in line for line in lines)
    assert not any('"row"' in line for line in lines)  # digests, never content


async def test_parallel_mcp_calls_run_at_once_and_answer_in_order(rig: Rig) -> None:
    session = await rig.create(agent(mcp_toolset()))
    reply = uses(use("mcp__db__insert", "toolu_1"), use("mcp__db__query", "toolu_2"))
    rig.model.answers += [reply, text("done")]
    both = anyio.Event()

    async def handler(tool: str) -> McpResult:
        if len(rig.connector.calls) == 2:
            both.set()
        await both.wait()
        return McpResult([{"type": "text", "text": tool}])

    rig.connector.handler = handler
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    blocks = rig.model.requests[1].messages[-1]["content"]
    answers = [(b["tool_use_id"], b["content"][0]["text"]) for b in blocks]
    assert answers == [("toolu_1", "insert"), ("toolu_2", "query")]


async def test_an_interrupt_closes_a_running_mcp_call(rig: Rig) -> None:
    session = await rig.create(agent(mcp_toolset()))
    rig.model.answers.append(uses(use("mcp__db__insert")))
    reached = anyio.Event()

    async def handler(tool: str) -> McpResult:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError

    rig.connector.handler = handler
    async with rig.running():
        await rig.say(session)
        await reached.wait()
        await rig.send(session, {"type": "user.interrupt"})
        await rig.idle(session)
    answers = [r for r in await rig.log(session) if r.type == "agent.mcp_tool_result"]
    assert [answer.body["is_error"] for answer in answers] == [True]


async def test_a_passing_failure_is_tried_again_by_itself(rig: Rig) -> None:
    session = await rig.create(agent())
    rig.model.answers += [away(), text("hi")]
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    assert "session.status_rescheduled" in types(await rig.log(session))


async def test_a_lost_lease_stops_the_work_and_writes_nothing(rig: Rig) -> None:
    session = await rig.create(agent())
    gate = Gate(text("from the old holder"))
    rig.model.answers.append(gate)
    async with rig.running():
        await rig.say(session)
        await gate.reached.wait()
        before = await rig.log(session)
        await rig.usurp(session, holder="other")
        with anyio.fail_after(60):
            await gate.cancelled.wait()
        assert await rig.log(session) == before


async def test_a_reply_under_a_lost_lease_is_dropped(rig: Rig) -> None:
    session = await rig.create(agent())
    gate = Gate(text("from the old holder"))
    rig.model.answers += [gate, text("from the new")]
    async with rig.running():
        await rig.say(session)
        await gate.reached.wait()
        await rig.usurp(session, state="ready", holder=None)
        gate.open.set()
        await rig.idle(session)
    said = [r.body["content"] for r in await rig.log(session) if r.type == "agent.message"]
    assert said == [[{"type": "text", "text": "from the new"}]]


async def test_a_held_session_keeps_its_lease_for_longer_than_its_term(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "held.db", settings=BRIEF)
    session = await rig.create(agent())
    gate = Gate(text("late"))
    rig.model.answers.append(gate)
    async with rig.running():
        await rig.say(session)
        await gate.reached.wait()
        await anyio.sleep(3.0)  # past lease_s, which is what is being tested
        gate.open.set()
        await rig.idle(session)
    assert len(rig.model.requests) == 1
    rig.db.close()


async def test_a_stop_gives_the_session_to_the_next_process(rig: Rig) -> None:
    session = await rig.create(agent())
    gate = Gate(text("late"))
    rig.model.answers += [gate, text("again")]
    async with rig.running():
        await rig.say(session)
        await gate.reached.wait()
    lease = await rig.lease(session)
    assert lease.state == "ready"
    async with rig.running():
        await rig.idle(session)
    assert types(await rig.log(session)).count("span.model_request_end") == 2


async def test_many_sessions_run_at_once_and_none_waits_for_another(rig: Rig) -> None:
    sessions = [await rig.create(agent(), session_id=f"sesn_{n}") for n in range(20)]
    started = 0
    everyone = anyio.Event()

    async def together(request: ModelRequest) -> ModelReply:
        nonlocal started
        started += 1
        if started == len(sessions):
            everyone.set()
        await everyone.wait()
        return text("hi")

    rig.model.answers += [together] * len(sessions)
    async with rig.running():
        for session in sessions:
            await rig.say(session)
        for session in sessions:
            await rig.idle(session)


async def test_an_ask_is_confirmed_through_the_store(rig: Rig) -> None:
    session = await rig.create(agent(toolset(ASK)))
    rig.model.answers += [uses(use("bash", command="rm")), text("fine")]
    async with rig.running():
        await rig.say(session)
        state = await rig.idle(session, "requires_action")
        denial = {
            "type": "user.tool_confirmation",
            "tool_use_id": state.announced[0],
            "result": "deny",
        }
        await rig.send(session, denial)
        await rig.idle(session)
    assert len(rig.model.requests) == 2


async def test_a_mistake_of_ours_stops_one_turn_and_no_other(rig: Rig) -> None:
    async def broken(request: ModelRequest) -> ModelReply:
        raise RuntimeError("a bug")

    bad = await rig.create(agent(), session_id="sesn_bad")
    good = await rig.create(agent(), session_id="sesn_good")
    rig.model.answers += [broken, text("hi")]
    async with rig.running():
        await rig.say(bad)
        await rig.until(bad, lambda state: state.phase is Phase.SAMPLING)
        await rig.say(good)
        await rig.idle(good)
        lease = await rig.lease(bad)
    assert lease.state == "ready"

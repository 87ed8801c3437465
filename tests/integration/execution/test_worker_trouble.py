"""The worker when leases, calls, posts or records fail, and when it is told to stop."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio
import pytest

from intramuros.execution.sandbox.base import SandboxGone, ToolOutcome
from intramuros.execution.worker import serve_worker
from intramuros.kernel.errors import OperatorError
from tests.fakes.control_plane import KEY
from tests.fakes.sandbox import FakeProvider
from tests.fakes.worker import Rig, stopped
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.rule("c9_31")
async def test_a_lost_lease_stops_the_work_and_leaves_the_item_alone(rig: Rig) -> None:
    begun, ended = anyio.Event(), []

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(tool)

    rig.provider.handler = handler
    item, session = rig.plane.offer(ttl_s=2), rig.plane.session()
    session.tool_use("bash", {})
    async with rig.worker():
        with anyio.fail_after(60):
            await begun.wait()
        item.last = "someone else's"
        await until(lambda: ended)
        await until(lambda: rig.provider.destroyed == ["sesn_1"])
        await until(lambda: "work.end" in rig.kinds())
    assert rig.plane.count("stop") == 0
    assert session.results == []
    assert rig.audit()[-1]["fields"]["way"] == "left"


@pytest.mark.parametrize("state", ["stopping", "stopped"])
@pytest.mark.rule("c9_30")
async def test_a_stop_of_the_control_plane_is_confirmed(rig: Rig, state: str) -> None:
    item, session = rig.plane.offer(ttl_s=2), rig.plane.session()
    async with rig.worker():
        await until(lambda: session.tails)
        item.state = state
        await until(lambda: rig.plane.count("stop") == 1)


async def test_a_stopping_item_finishes_its_running_call(rig: Rig) -> None:
    begun, go = anyio.Event(), anyio.Event()

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        begun.set()
        await go.wait()
        return ToolOutcome.text("finished")

    rig.provider.handler = handler
    item, session = rig.plane.offer(ttl_s=2), rig.plane.session()
    first = session.tool_use("bash", {})
    session.tool_use("bash", {})
    async with rig.worker():
        with anyio.fail_after(60):
            await begun.wait()
        item.state = "stopping"
        beats = rig.plane.count("heartbeat")
        await until(lambda: rig.plane.count("heartbeat") > beats)
        go.set()
        await stopped(item)
    assert [result["tool_use_id"] for result in session.results] == [first]


@pytest.mark.rule("c9_32")
async def test_a_rejected_heartbeat_stops_the_item(rig: Rig) -> None:
    item = rig.plane.offer()
    rig.plane.fail("heartbeat", 401)
    async with rig.worker():
        await stopped(item)


async def test_heartbeats_go_on_during_a_long_call(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        await anyio.sleep(2.3)
        return ToolOutcome.text("late")

    rig.provider.handler = handler
    item, session = rig.plane.offer(ttl_s=2), rig.plane.session()
    session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    assert item.beats >= 3


@pytest.mark.rule("c9_18")
async def test_a_raced_claim_is_left_to_the_winner(rig: Rig) -> None:
    rig.plane.fail("ack", 409)
    item = rig.plane.offer()
    async with rig.worker():
        await until(lambda: rig.plane.count("ack") == 1)
        polls = rig.plane.count("poll")
        await until(lambda: rig.plane.count("poll") > polls)
    assert item.state == "queued"
    assert rig.plane.count("stop") == 0


async def test_a_refused_claim_is_stopped(rig: Rig) -> None:
    rig.plane.fail("ack", 404)
    item = rig.plane.offer()
    async with rig.worker():
        await stopped(item)


@pytest.mark.parametrize(("status", "says"), [(401, "environment key"), (403, "not for env_test")])
@pytest.mark.rule("c9_16")
async def test_a_wrong_key_ends_the_worker_with_one_line(rig: Rig, status: int, says: str) -> None:
    rig.plane.fail("poll", status)
    with pytest.raises(OperatorError, match=says):
        await serve_worker(rig.settings, provider=rig.provider, ready=rig.ready.append)
    assert rig.ready == []
    assert rig.provider.log[-1] == "close"


@pytest.mark.parametrize("status", [500, 503, 408, 409, 429, 529])
@pytest.mark.rule("c9_16")
async def test_a_failing_poll_is_repeated(rig: Rig, status: int) -> None:
    rig.plane.fail("poll", status)
    item, session = rig.plane.offer(), rig.plane.session()
    session.idle()
    async with rig.worker():
        await stopped(item)


async def test_a_result_is_posted_again_after_transient_failures(rig: Rig) -> None:
    rig.plane.fail("post", 500)
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    assert session.result_of(call)
    assert len(rig.provider.calls) == 1


async def test_a_refused_result_is_not_run_again(rig: Rig) -> None:
    rig.plane.fail("post", 400)
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await until(lambda: "tool.refused" in rig.kinds())
        rig.plane.cut_streams()
        await stopped(item)
    assert session.result_of(call)["is_error"] is False
    assert len(rig.provider.calls) == 1


@pytest.mark.rule("c22_11")
async def test_a_timed_out_call_is_answered(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        if tool == "bash":
            await anyio.sleep_forever()
        return ToolOutcome.text("fine")

    rig.provider.handler = handler
    item, session = rig.plane.offer(), rig.plane.session()
    slow, next_one = session.tool_use("bash", {}), session.tool_use("read", {})
    session.on_result = lambda _: session.idle() if len(session.results) == 2 else None
    async with rig.worker(call_timeout_s=0.1):
        await stopped(item)
    assert session.result_of(slow)["is_error"] is True
    assert "'bash' timed out" in session.result_of(slow)["content"][0]["text"]
    assert session.result_of(next_one)["is_error"] is False


async def test_a_call_that_was_interrupted_is_stopped(rig: Rig) -> None:
    begun, ended = anyio.Event(), []

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(tool)

    rig.provider.handler = handler
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    async with rig.worker():
        with anyio.fail_after(60):
            await begun.wait()
        session.emit("user.tool_result", tool_use_id=call, is_error=True, content=[])
        await until(lambda: ended)
        session.idle()
        await stopped(item)
    assert session.results == []
    assert "tool.abandoned" in rig.kinds()


async def test_a_dead_sandbox_is_answered_and_replaced(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        if tool == "bash":
            rig.provider.live["sesn_1"].alive = False
            raise SandboxGone("killed")
        return ToolOutcome.text("fine")

    rig.provider.handler = handler
    item, session = rig.plane.offer(), rig.plane.session()
    gone, next_one = session.tool_use("bash", {}), session.tool_use("read", {})
    session.on_result = lambda _: session.idle() if len(session.results) == 2 else None
    async with rig.worker():
        await stopped(item)
    assert session.result_of(gone)["is_error"] is True
    assert session.result_of(next_one)["is_error"] is False


async def test_one_failing_session_does_not_touch_another(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        if arguments.get("command") == "boom":
            raise RuntimeError("a bug in a tool")
        return ToolOutcome.text("fine")

    rig.provider.handler = handler
    bad, good = rig.plane.offer("sesn_bad"), rig.plane.offer("sesn_good")
    for name, command in (("sesn_bad", "boom"), ("sesn_good", "ls")):
        session = rig.plane.session(name)
        session.tool_use("bash", {"command": command})
        session.on_result = lambda _, session=session: session.idle()
    async with rig.worker():
        await stopped(bad)
        await stopped(good)
    assert rig.plane.session("sesn_bad").results[0]["is_error"] is True
    assert rig.plane.session("sesn_good").results[0]["is_error"] is False


async def test_sessions_are_served_at_once_up_to_the_limit(rig: Rig) -> None:
    inside, most, go = 0, 0, anyio.Event()

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 2:
            go.set()
        await go.wait()
        await anyio.sleep(0.05)
        inside -= 1
        return ToolOutcome.text("ok")

    rig.provider.handler = handler
    items = []
    for number in range(4):
        items.append(rig.plane.offer(f"sesn_{number}"))
        session = rig.plane.session(f"sesn_{number}")
        session.tool_use("bash", {})
        session.on_result = lambda _, session=session: session.idle()
    async with rig.worker(concurrency=2):
        for item in items:
            await stopped(item)
    assert most == 2


async def test_a_drain_finishes_the_call_and_hands_the_rest_over(rig: Rig) -> None:
    begun, go = anyio.Event(), anyio.Event()

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        begun.set()
        await go.wait()
        return ToolOutcome.text("finished")

    rig.provider.handler = handler
    item, session = rig.plane.offer(), rig.plane.session()
    first, second = session.tool_use("bash", {}), session.tool_use("bash", {})
    async with rig.worker() as stop:
        with anyio.fail_after(60):
            await begun.wait()
        stop.request()
        go.set()
    assert [result["tool_use_id"] for result in session.results] == [first]
    assert second
    assert rig.plane.count("stop") == 0
    assert item.ttl_s == 10


async def test_a_drain_stops_an_item_with_nothing_under_way(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.idle()
    async with rig.worker(max_idle_s=60) as stop:
        await until(lambda: rig.plane.count("list") == 1)
        stop.request()
    assert item.state == "stopped"


async def test_once_returns_when_the_queue_is_empty(rig: Rig) -> None:
    items = [rig.plane.offer(f"sesn_{number}") for number in range(3)]
    for item in items:
        rig.plane.session(item.session_id).idle()
    settings = replace(rig.settings, once=True)
    with anyio.fail_after(60):
        await serve_worker(settings, provider=rig.provider, ready=rig.ready.append)
    assert {item.state for item in items} == {"stopped"}


async def test_secrets_are_masked_before_they_leave(rig: Rig) -> None:
    leak = f"key={KEY} token=token-of-this-item aws=AKIAABCDEFGHIJKLMNOP"

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        return ToolOutcome.text(leak)

    rig.provider.handler = handler
    item, session = rig.plane.offer(token="token-of-this-item"), rig.plane.session()
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    text = session.result_of(call)["content"][0]["text"]
    assert text == "key=[masked credential] token=[masked credential] aws=[masked aws key]"
    (record,) = [r for r in rig.audit() if r["kind"] == "tool.result"]
    assert record["fields"]["masked"] == 3
    assert record["fields"]["direction"] == "out"


async def test_long_output_is_spilled_into_the_workspace(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        return ToolOutcome.text("written" if tool == "write" else "x" * 100_001)

    rig.provider.handler = handler
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    text = session.result_of(call)["content"][0]["text"]
    path = f"/workspace/.intramuros/outputs/{call}.txt"
    assert path in text
    assert len(text) < 11_000
    written = [arguments for _, tool, arguments in rig.provider.calls if tool == "write"]
    assert written == [{"file_path": path, "content": "x" * 100_001}]


async def test_nothing_runs_that_cannot_be_recorded(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intramuros.kernel.appendlog import AppendLog

    append = AppendLog.append_all

    def full(self: AppendLog, lines: list[str]) -> None:
        if any('"tool.call"' in line for line in lines):
            raise OSError(28, "No space left on device")
        append(self, lines)

    monkeypatch.setattr(AppendLog, "append_all", full)
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    assert rig.provider.calls == []
    assert session.result_of(call)["is_error"] is True
    assert "audit record" in session.result_of(call)["content"][0]["text"]


async def test_a_result_that_cannot_be_recorded_stays_inside(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intramuros.kernel.appendlog import AppendLog

    append = AppendLog.append_all

    def full(self: AppendLog, lines: list[str]) -> None:
        if any('"tool.result"' in line for line in lines):
            raise OSError(28, "No space left on device")
        append(self, lines)

    monkeypatch.setattr(AppendLog, "append_all", full)
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {"command": "inside only"})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    assert "withheld" in session.result_of(call)["content"][0]["text"]
    assert "inside only" not in json.dumps(session.results)


async def test_a_paused_sandbox_waits_for_the_next_item(rig: Rig) -> None:
    rig.provider = FakeProvider(pause=True)
    item, session = rig.plane.offer(), rig.plane.session()
    session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker(keep_idle_sandboxes=1):
        await stopped(item)
        assert rig.provider.live["sesn_1"].paused
        again = rig.plane.offer()
        session.tool_use("bash", {})
        await stopped(again)
    assert len(rig.provider.created) == 1
    assert len(rig.provider.calls) == 2


async def test_garbage_from_the_control_plane_ends_nothing(rig: Rig) -> None:
    from starlette.responses import PlainTextResponse, Response

    for response in (
        PlainTextResponse("<html>"),
        Response(status_code=204),
        Response(b"{}", media_type="application/json"),
        Response(b"[1]", media_type="application/json"),
    ):
        rig.plane.answer("poll", response)
    item, session = rig.plane.offer(), rig.plane.session()
    rig.plane.answer("list", Response(b'{"data": 7}', media_type="application/json"))
    rig.plane.answer("list", Response(b'"x"', media_type="application/json"))
    rig.plane.answer("heartbeat", Response(b"null", media_type="application/json"))
    rig.plane.answer("session", Response(b"[]", media_type="application/json"))
    session.events.append({"type": "agent.tool_use", "id": "e1", "name": 7, "input": None})
    session.events.append({"type": "agent.future_thing", "id": "e2"})
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        with anyio.fail_after(60):
            await item.stopped.wait()
    assert session.result_of(call)

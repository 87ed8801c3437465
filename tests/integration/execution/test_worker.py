"""The real worker with the real SDK against a scripted control plane over HTTP."""

import socket
from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
import pytest

from intramuros.execution.sandbox.base import ToolOutcome
from tests.fakes.control_plane import ENVIRONMENT, KEY
from tests.fakes.worker import Rig, stopped
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_serves_a_session_from_claim_to_stop(rig: Rig) -> None:
    item, session = rig.plane.offer(token="token-of-this-item"), rig.plane.session()
    session.emit("session.status_running")
    call = session.tool_use("bash", {"command": "ls"})
    session.idle("requires_action")
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    assert session.result_of(call)["content"] == [
        {"type": "text", "text": "bash: [('command', 'ls')]"}
    ]
    assert session.result_of(call)["is_error"] is False
    assert rig.ready == [ENVIRONMENT]
    assert rig.provider.log == ["start", "sweep", "close"]
    assert [sid for _, sid in rig.provider.created] == ["sesn_1"] == rig.provider.destroyed
    assert rig.kinds() == ["worker.start", "work.claim", "tool.call", "tool.result", "work.end"]
    assert not [path for path in (rig.settings.state_dir / "journal").rglob("*") if path.is_file()]


@pytest.mark.rule("c2_7")
async def test_the_item_token_is_used_for_everything_but_the_queue(rig: Rig) -> None:
    item, session = rig.plane.offer(token="token-of-this-item"), rig.plane.session()
    session.tool_use("read", {})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    bearers = {(seen.route, seen.bearer) for seen in rig.plane.seen}
    assert {("poll", KEY), ("ack", KEY), ("heartbeat", "token-of-this-item")} <= bearers
    assert {b for r, b in bearers if r not in ("poll", "ack")} == {"token-of-this-item"}


@pytest.mark.parametrize("secret", [None, "no base64 !", "bm8ganNvbg", "e30", "W10"])
@pytest.mark.rule("c2_6")
async def test_without_a_usable_secret_the_key_serves(rig: Rig, secret: str | None) -> None:
    item, session = rig.plane.offer(secret=secret), rig.plane.session()
    session.idle()
    async with rig.worker():
        await stopped(item)
    assert {seen.bearer for seen in rig.plane.seen} == {KEY}


async def test_no_sandbox_before_the_first_call(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.idle()
    async with rig.worker():
        await stopped(item)
    assert rig.provider.created == []


@pytest.mark.rule("c9_5")
async def test_a_healthcheck_item_is_acknowledged_and_stopped(rig: Rig) -> None:
    item = rig.plane.offer(kind="healthcheck")
    async with rig.worker():
        await stopped(item)
    routes = [seen.route for seen in rig.plane.seen if seen.route != "poll"]
    assert routes == ["ack", "stop"]


@pytest.mark.rule("c9_44")
async def test_a_terminated_session_is_not_served(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.status = "terminated"
    session.tool_use("bash", {})
    async with rig.worker():
        await stopped(item)
    assert rig.provider.calls == []
    assert rig.plane.count("stream") == 0


@pytest.mark.rule("c22_10")
async def test_calls_run_one_at_a_time_in_order(rig: Rig) -> None:
    running_now, most = 0, 0

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await anyio.sleep(0.01)
        running_now -= 1
        return ToolOutcome.text("ok")

    rig.provider.handler = handler
    item, session = rig.plane.offer(), rig.plane.session()
    for number in range(4):
        session.tool_use("bash", {"command": str(number)})
    session.on_result = lambda _: session.idle() if len(session.results) == 4 else None
    async with rig.worker():
        await stopped(item)
    assert [call["command"] for _, _, call in rig.provider.calls] == ["0", "1", "2", "3"]
    assert most == 1


@pytest.mark.rule("c22_6", "c22_7")
async def test_unknown_names_are_left_to_their_owner(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    foreign = session.tool_use("web_search", {"query": "x"})
    ours = session.tool_use("bash", {})
    async with rig.worker():
        await until(lambda: session.results)
        session.emit("agent.tool_result", tool_use_id=foreign)
        session.idle()
        await stopped(item)
    assert [result["tool_use_id"] for result in session.results] == [ours]


@pytest.mark.rule("c22_8", "R130")
async def test_a_call_that_asks_waits_for_its_confirmation(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    asked = session.tool_use("bash", {"command": "ask"}, evaluated_permission="ask")
    denied = session.tool_use("bash", {"command": "deny"}, evaluated_permission="deny")
    refused = session.tool_use("bash", {"command": "refused"}, evaluated_permission="ask")
    free = session.tool_use("bash", {"command": "free"})
    session.idle("requires_action")
    async with rig.worker():
        await until(lambda: session.results)
        assert [r["tool_use_id"] for r in session.results] == [free]
        session.emit("user.tool_confirmation", tool_use_id=refused, result="deny")
        session.emit("user.tool_confirmation", tool_use_id=asked, result="allow")
        await until(lambda: len(session.results) == 2)
        session.idle()
        await stopped(item)
    assert [r["tool_use_id"] for r in session.results] == [free, asked]
    assert denied not in [r["tool_use_id"] for r in session.results]


async def test_a_late_confirmation_found_in_the_history_counts(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    asked = session.tool_use("bash", {}, evaluated_permission="ask")
    session.idle("requires_action")
    session.emit("user.tool_confirmation", tool_use_id=asked, result="allow")
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    assert session.result_of(asked)


@pytest.mark.rule("c22_4")
async def test_an_answered_call_is_not_run_again(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    session.emit("user.tool_result", tool_use_id=call, content=[])
    session.idle()
    async with rig.worker():
        await stopped(item)
    assert rig.provider.calls == []


@pytest.mark.rule("c22_20")
async def test_calls_of_an_ended_thread_are_dropped(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.tool_use("bash", {}, session_thread_id="sthr_2")
    session.emit("session.thread_status_terminated", session_thread_id="sthr_2")
    session.idle()
    async with rig.worker():
        await stopped(item)
    assert rig.provider.calls == []


async def test_a_custom_tool_is_answered_as_such(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(arguments: Mapping[str, Any]) -> ToolOutcome:
        return ToolOutcome.text(f"found {arguments['key']}")

    monkeypatch.setattr("intramuros.execution.worker.load_tools", lambda *_: {"lookup": lookup})
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.emit("agent.custom_tool_use", name="lookup", input={"key": "k"})["id"]
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        await stopped(item)
    result = session.result_of(call)
    assert result["type"] == "user.custom_tool_result"
    assert result["content"] == [{"type": "text", "text": "found k"}]
    assert rig.provider.created == []


@pytest.mark.rule("c22_2")
async def test_events_after_a_cut_stream_are_served(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    async with rig.worker():
        await until(lambda: session.tails and rig.plane.count("list") == 1)
        rig.plane.fail("stream", 503, times=2)
        rig.plane.cut_streams()
        call = session.tool_use("bash", {})
        session.on_result = lambda _: session.idle()
        await stopped(item)
    assert session.result_of(call)
    assert rig.plane.count("stream") >= 4


@pytest.mark.rule("c22_3")
async def test_a_failed_history_is_read_again(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {})
    session.on_result = lambda _: session.idle()
    rig.plane.fail("list", 404)
    async with rig.worker():
        await stopped(item)
    assert session.result_of(call)


@pytest.mark.rule("c22_3")
async def test_a_refused_stream_ends_the_item(rig: Rig) -> None:
    item = rig.plane.offer()
    rig.plane.fail("stream", 403)
    async with rig.worker():
        await stopped(item)
    assert rig.plane.count("stream") == 1


@pytest.mark.rule("c22_19")
async def test_a_deleted_session_is_forgotten(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    async with rig.worker():
        await until(lambda: session.tails)
        session.emit("session.deleted")
        await stopped(item)
    assert rig.provider.forgotten == ["sesn_1"]


async def test_a_draining_worker_still_answers_questions(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.emit("session.status_running")
    gate = anyio.Event()

    async def slow(_tool: str, _arguments: Mapping[str, Any]) -> ToolOutcome:
        await gate.wait()
        return ToolOutcome.text("done")

    rig.provider.handler = slow
    session.tool_use("bash", {"command": "x"})
    session.on_result = lambda _: session.idle()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    async def ask(path: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://{address}{path}")

    async with rig.worker(metrics_listen=address) as stop:
        await until(lambda: "tool.call" in rig.kinds())
        assert (await ask("/readyz")).status_code == 200
        assert "intramuros_worker_items_served 1.0" in (await ask("/metrics")).text
        stop.request()
        assert (await ask("/readyz")).text == "draining\n"
        assert (await ask("/healthz")).status_code == 200
        gate.set()
    assert session.results
    assert item.claimed

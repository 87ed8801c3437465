from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpcore2
import pytest

from intramuros.tunnel.in_process import ASGIApp, InProcess, Receive, Scope, Send

pytestmark = pytest.mark.anyio

HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[InProcess]:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            yield InProcess(app, group)


def request(body: bytes = b"", method: str = "POST") -> httpcore2.Request:
    return httpcore2.Request(method, "http://localhost/mcp?x=1", headers={"K": "v"}, content=body)


async def whole(answer: httpcore2.Response) -> bytes:
    return b"".join([part async for part in answer.aiter_stream()])


async def test_a_request_arrives_whole_and_its_answer_goes_back() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        seen.extend([scope["method"], scope["path"], scope["query_string"], scope["state"]])
        seen.append((b"k", b"v") in scope["headers"])
        await send(HEAD)
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})

    async with serving(app) as served:
        answer = await served.answer(request(b"hello"), {"owner": "me"})
        assert (answer.status, answer.headers) == (200, [(b"a", b"b")])
        assert await whole(answer) == b"hello!"
    assert seen == ["POST", "/mcp", b"x=1", {"owner": "me"}, True]


async def test_a_slow_reader_slows_the_application_down() -> None:
    sent = 0

    async def app(_: Scope, __: Receive, send: Send) -> None:
        nonlocal sent
        await send(HEAD)
        for _number in range(100):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with serving(app) as served:
        answer = await served.answer(request(), {})
        await anyio.wait_all_tasks_blocked()
        assert sent <= 1
        assert await whole(answer) == b"x" * 100


async def test_who_hangs_up_ends_the_work() -> None:
    ended = anyio.Event()

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(HEAD)
        try:
            await receive()
        finally:
            ended.set()

    async with serving(app) as served:
        answer = await served.answer(request(), {})
        await answer.aclose()
        await ended.wait()


async def test_who_gives_up_waiting_for_the_head_ends_the_work() -> None:
    ended = anyio.Event()

    async def app(_: Scope, __: Receive, ___: Send) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with serving(app) as served:
        with anyio.move_on_after(0.05):
            await served.answer(request(), {})
        await ended.wait()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_failure_concerns_one_request_alone(begun: bool) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        if begun:
            await send(HEAD)
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("a mistake")

    async with serving(app) as served:
        with pytest.raises(httpcore2.RemoteProtocolError):
            await whole(await served.answer(request(), {}))


async def test_a_large_part_goes_on_in_pieces() -> None:
    large = bytes(range(256)) * 1000

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send(HEAD)
        await send({"type": "http.response.body", "body": large})

    async with serving(app) as served:
        answer = await served.answer(request(), {})
        parts = [part async for part in answer.aiter_stream()]
    assert max(map(len, parts)) <= 64 * 1024
    assert b"".join(parts) == large

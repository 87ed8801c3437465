import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from intramuros.control.api.connection import MAX_HEAD_BYTES, BoundedHttp

pytestmark = pytest.mark.anyio
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Hasty(BoundedHttp):
    head_s = 0.3


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            PlainTextResponse("ok"), http=Hasty, lifespan="off", log_config=None, ws="none"
        )
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await server.serve(sockets=[sock])

            group.start_soon(run)
            with anyio.fail_after(60):
                while not server.started:  # noqa: ASYNC110  uvicorn says so in a flag only
                    await anyio.sleep(0.01)
            yield sock.getsockname()[1]
            server.should_exit = True


async def rest(stream: anyio.abc.SocketStream) -> bytes:
    said = b""
    try:
        while True:
            said += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return said


async def test_a_request_that_does_not_come_is_not_waited_for() -> None:
    async with serving() as port:
        for said in (b"", HEAD, HEAD + b"\r\n" + HEAD):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(said) if said else None
                with anyio.fail_after(60):
                    back = await rest(stream)
                assert back.count(b"200 OK") == said.count(b"\r\n\r\n")


async def test_a_head_without_end_is_cut_off() -> None:
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        sent = len(HEAD)
        await stream.send(HEAD)
        with anyio.fail_after(60):
            try:
                while sent < 64 * MAX_HEAD_BYTES:
                    await stream.send(b"x-a: " + b"a" * 8000 + b"\r\n")
                    sent += 8000
            except anyio.BrokenResourceError:
                pass
        assert sent < 64 * MAX_HEAD_BYTES


async def test_whole_requests_are_served_one_after_the_other() -> None:
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(3):
            await anyio.sleep(0.2)
            await stream.send(HEAD + b"x-a: " + b"a" * 60_000 + b"\r\n\r\n")
            with anyio.fail_after(60):
                said = b""
                while not said.endswith(b"ok"):
                    said += await stream.receive()
            assert said.startswith(b"HTTP/1.1 200")

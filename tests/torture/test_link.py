"""The wires of the campaign do what they are told to what goes through them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
import pytest

from tests.torture import link as links
from tests.torture.link import Link

pytestmark = pytest.mark.anyio
BROKEN = (OSError, anyio.EndOfStream, anyio.BrokenResourceError)


@asynccontextmanager
async def echo() -> AsyncIterator[Link]:
    """A wire to a server that says everything again."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        with suppress(*BROKEN):
            async with stream:
                async for data in stream:
                    await stream.send(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        link = Link("wire", ("127.0.0.1", port))
        group.start_soon(listener.serve, serve)
        group.start_soon(link.run)
        yield link
        group.cancel_scope.cancel()


async def said(stream: anyio.abc.SocketStream, data: bytes = b"x") -> bytes:
    await stream.send(data)
    return await stream.receive()


async def test_it_carries_both_ways() -> None:
    async with echo() as link, await anyio.connect_tcp(link.host, link.port) as stream:
        assert await said(stream, b"hello") == b"hello"
        assert link.carried == 10


async def test_cut_ends_what_is_open_and_what_comes() -> None:
    async with echo() as link, await anyio.connect_tcp(link.host, link.port) as stream:
        assert await said(stream) == b"x"
        link.set(links.CUT)
        with pytest.raises(BROKEN):
            await said(stream)
        with pytest.raises(BROKEN):
            async with await anyio.connect_tcp(link.host, link.port) as late:
                await said(late)
        link.set(links.OPEN)
        async with await anyio.connect_tcp(link.host, link.port) as again:
            assert await said(again) == b"x"


async def test_a_black_hole_keeps_everything_and_gives_it_back() -> None:
    async with echo() as link, await anyio.connect_tcp(link.host, link.port) as stream:
        assert await said(stream) == b"x"
        link.set(links.BLACKHOLE)
        with anyio.move_on_after(0.1) as scope:
            await said(stream, b"y")
        assert scope.cancelled_caught
        link.set(links.OPEN)
        with anyio.fail_after(60):
            assert await stream.receive() == b"y"


async def test_slow_holds_each_piece_back() -> None:
    async with echo() as link, await anyio.connect_tcp(link.host, link.port) as stream:
        link.set(links.SLOW, 0.05)
        began = time.monotonic()
        await said(stream)
        assert time.monotonic() - began >= 0.1


async def test_flaky_ends_connections_in_the_end() -> None:
    async with echo() as link, await anyio.connect_tcp(link.host, link.port) as stream:
        link.set(links.FLAKY, 1.0)
        with pytest.raises(BROKEN):
            await said(stream)

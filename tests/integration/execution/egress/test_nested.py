"""TLS inside of TLS, as with a proxy that is spoken to in TLS."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from intramuros.execution.egress import leg
from intramuros.execution.egress.leg import CHUNK_BYTES, Leg
from intramuros.execution.egress.nested import within

pytestmark = pytest.mark.anyio
LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def twice() -> AsyncIterator[tuple[Leg, ByteStream, ByteStream]]:
    """Return our inner end, and theirs inside and outside."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("outer.test", "inner.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outer = await Leg.dial("127.0.0.1", listener.getsockname()[1])
        made, _ = listener.accept()
    raw = await anyio.abc.SocketStream.from_socket(made)
    found: list[ByteStream] = []

    async def agree() -> None:
        first = await TLSStream.wrap(
            raw, server_side=True, ssl_context=server, standard_compatible=False
        )
        found.append(first)
        found.append(
            await TLSStream.wrap(
                first, server_side=True, ssl_context=server, standard_compatible=False
            )
        )

    async with raw:
        async with anyio.create_task_group() as group:
            group.start_soon(agree)
            await outer.secure(client, name="outer.test")
            inner = within(outer)
            await inner.secure(client, name="inner.test")
        yield inner, found[1], found[0]
        await inner.aclose()
        await anyio.lowlevel.checkpoint()


async def test_much_passes_both_ways_whole() -> None:
    words = bytes(range(256)) * 8192
    async with twice() as (mine, theirs, _):

        async def echo() -> None:
            left = len(words)
            while left:
                data = await theirs.receive()
                await theirs.send(data)
                left -= len(data)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(echo)
                group.start_soon(mine.send, words)
                seen = bytearray()
                while len(seen) < len(words):
                    seen += await mine.receive()
        assert seen == words


async def test_who_does_not_read_holds_the_other_back() -> None:
    async with twice() as (mine, theirs, _), anyio.create_task_group() as group:
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                await theirs.send(b"x" * CHUNK_BYTES * 8)
                sent += CHUNK_BYTES * 8

        group.start_soon(pour)
        for _ in range(3):
            await anyio.sleep(0.2)
            assert mine._unread < 2 * 1024 * 1024
            assert sent < 32 * 1024 * 1024
            seen = 0
            while seen < 2 * 1024 * 1024:  # and it goes on
                seen += len(await mine.receive())
        group.cancel_scope.cancel()


async def test_who_does_not_take_holds_us_back() -> None:
    async with twice() as (mine, _, _):
        with pytest.raises(TimeoutError):
            while True:
                await mine.send(b"x" * CHUNK_BYTES, 0.1)


async def test_the_end_and_a_break_are_told_inside() -> None:
    async with twice() as (mine, _, outside):
        await outside.aclose()
        with pytest.raises(anyio.EndOfStream):
            await mine.receive()
        assert mine.stale()
    async with twice() as (mine, theirs, _):
        assert not mine.stale()
        mine.reset()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await theirs.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await mine.send(b"x")


async def test_closing_is_quick_once_the_other_end_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leg, "_LINGER_S", 3600.0)
    async with twice() as (mine, theirs, outside):
        await mine.send(b"last words")

        async def listen() -> None:
            assert await theirs.receive() == b"last words"
            with pytest.raises(anyio.EndOfStream):
                await theirs.receive()
            await outside.aclose()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await mine.close()

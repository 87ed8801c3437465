"""Two ends of a WebSocket over loopback, without TLS: what goes in comes out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from intramuros.kernel.wire import WRITE_HIGH, Wire, connect_tcp
from intramuros.tunnel import websocket
from intramuros.tunnel.websocket import GONE, TAKEN_BYTES, UpgradeFailed

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[Wire, Wire]]:
    """Give the two ends of a connection: who asked for it, and who took it."""
    taken: list[Wire] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Wire(taken.append), "127.0.0.1", 0
    )
    near = await connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1])
    while not taken:
        await anyio.lowlevel.checkpoint()
    try:
        yield near, taken[0]
    finally:
        for wire in (near, *taken):
            wire.abort()
        server.close()


@asynccontextmanager
async def upgraded() -> AsyncIterator[tuple[Wire, Wire]]:
    """Give the two ends of a WebSocket."""
    ends: dict[str, Wire] = {}
    async with connection() as (near, far):

        async def take() -> None:
            ends["far"] = await websocket.accept(far)

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            ends["near"] = await websocket.ask(near, "127.0.0.1", 443)
        yield ends["near"], ends["far"]


async def read(wire: Wire, size: int) -> bytes:
    held = b""
    with anyio.fail_after(30):
        while len(held) < size:
            held += await wire.receive()
    return held


async def test_bytes_pass_both_ways_whatever_their_size() -> None:
    async with upgraded() as (near, far):
        for source, target in ((near, far), (far, near)):
            for size in (1, 125, 126, 65_536, 3_000_000):
                data = bytes(range(256)) * (size // 256 + 1)
                async with anyio.create_task_group() as group:
                    group.start_soon(source.send, data)
                    assert await read(target, len(data)) == data


async def test_a_reader_that_stops_stops_the_writer() -> None:
    async with upgraded() as (near, far):
        far.pause_reading()
        sent = 0
        stopped = False
        while not stopped and sent < 200 * WRITE_HIGH:
            sent += 65_536
            with anyio.move_on_after(1) as waiting:
                await near.send(b"x" * 65_536)
            stopped = waiting.cancelled_caught
        assert sent < 200 * WRITE_HIGH
        assert not near.writable
        far.resume_reading()
        await read(far, sent)
        await near.drained()
        assert near.writable


async def test_the_end_arrives() -> None:
    async with upgraded() as (near, far):
        await near.send(b"last words")
        await near.aclose()
        assert await read(far, 10) == b"last words"
        with pytest.raises(GONE):
            await far.receive()
    async with upgraded() as (near, far):
        far.abort()
        with pytest.raises(GONE):
            await near.receive()


async def test_what_came_with_the_handshake_is_kept() -> None:
    async with connection() as (near, far):
        frame = Frame(Opcode.BINARY, b"early").serialize(mask=True)
        await near.send(
            b"GET /link HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: intramuros-link.1\r\n\r\n" + frame
        )
        assert await read(await websocket.accept(far), 5) == b"early"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"hello"), 1003),
        (Frame(Opcode.BINARY, b"x" * (TAKEN_BYTES + 1)), 1009),
        (Frame(Opcode.CONT, b"of nothing"), 1002),
    ],
)
async def test_what_makes_no_sense_ends_it_with_a_code(frame: Frame, code: int) -> None:
    async with connection() as (near, far):

        async def talk() -> bytes:
            await near.send(REQUEST)
            await read_until(near, b"\r\n\r\n")
            await near.send(frame.serialize(mask=True))
            return await read_until(near, code.to_bytes(2))

        async with anyio.create_task_group() as group:
            group.start_soon(talk)
            end = await websocket.accept(far)
            with pytest.raises(GONE), anyio.fail_after(30):
                while True:
                    await end.receive()


REQUEST = (
    b"GET /link HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: intramuros-link.1\r\n\r\n"
)


async def read_until(wire: Wire, end: bytes) -> bytes:
    held = b""
    with anyio.fail_after(30):
        while end not in held:
            held += await wire.receive()
    return held


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (REQUEST.replace(b"/link", b"/"), b" 404 "),
        (REQUEST.replace(b"Upgrade: websocket\r\n", b""), b" 426 "),
        (REQUEST.replace(b"Version: 13", b"Version: 7"), b" 4"),
        (b"\x00\x01\x02\r\n\r\n", b""),
        (b"GET /link HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", b""),
    ],
)
async def test_other_requests_are_answered_and_left(request_: bytes, answer: bytes) -> None:
    async with connection() as (near, far):
        await near.send(request_)
        with pytest.raises((UpgradeFailed, *GONE)), anyio.fail_after(30):
            await websocket.accept(far)
        if answer:
            assert answer in (await near.receive()).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: wrong\r\n\r\n",
        b"OK\n",
    ],
)
async def test_an_end_that_does_not_agree_is_left(answer: bytes) -> None:
    async with connection() as (near, far):
        await far.send(answer)
        await far.aclose() if answer == b"OK\n" else None
        with pytest.raises((UpgradeFailed, *GONE)), anyio.fail_after(30):
            await websocket.ask(near, "::1", 443)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400))
def test_whatever_comes_after_the_handshake_ends_well_or_passes(data: bytes) -> None:
    async def run() -> None:
        async with connection() as (near, far):
            await near.send(REQUEST + data)
            end = await websocket.accept(far)
            await near.aclose()
            try:
                with anyio.fail_after(30):
                    while True:
                        await end.receive()
            except GONE:
                return

    anyio.run(run)

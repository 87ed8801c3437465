import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from intramuros.execution.egress.streams import Held, close, drop

pytestmark = pytest.mark.anyio


async def pair() -> tuple[ByteStream, ByteStream]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    mine = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
    theirs = await listener.listeners[0].accept()
    await listener.aclose()
    return mine, theirs


async def test_what_was_read_ahead_comes_first_and_once() -> None:
    mine, theirs = await pair()
    held = Held(mine, b"abc")
    assert await held.receive(2) == b"ab"
    await theirs.send(b"def")
    assert await held.peek() == b"cdef"
    assert await held.receive() == b"cdef"
    await held.send(b"x")
    assert await theirs.receive() == b"x"
    assert held.extra(SocketAttribute.remote_port)
    await held.send_eof()
    with pytest.raises(anyio.EndOfStream):
        await theirs.receive()
    await held.aclose()
    await theirs.aclose()


async def test_the_last_words_arrive_before_the_end() -> None:
    mine, theirs = await pair()
    await theirs.send(b"something that nobody reads")
    words = b"x" * 200_000
    seen = b""

    async def listen() -> None:
        nonlocal seen
        try:
            while True:
                seen += await theirs.receive()
        except anyio.EndOfStream:
            await theirs.aclose()

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await mine.send(words)
        await close(Held(mine))
    assert seen == words


async def test_closing_what_is_broken_is_no_error() -> None:
    mine, theirs = await pair()
    await theirs.aclose()
    await close(mine)
    await drop(mine)

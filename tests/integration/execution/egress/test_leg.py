import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.abc import SocketAttribute

from intramuros.execution.egress import leg
from intramuros.execution.egress.leg import CHUNK_BYTES, Leg

pytestmark = pytest.mark.anyio

LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Leg, Leg]]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = await Leg.dial("127.0.0.1", listener.getsockname()[1])
        made, _ = listener.accept()
    theirs = await Leg.over(made)
    try:
        yield mine, theirs
    finally:
        await mine.aclose()
        await theirs.aclose()
        await anyio.lowlevel.checkpoint()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if true():
            return
        await anyio.sleep(0.001)
    pytest.fail("still not so after a minute")


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("host.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def agree(mine: Leg, theirs: Leg, contexts: Any, **how: Any) -> None:
    server, client = contexts
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(theirs.secure, server)
            await mine.secure(client, name="host.test", **how)


async def test_what_was_read_ahead_comes_first_and_once() -> None:
    async with pair() as (mine, theirs):
        mine.held = b"abc"
        assert await mine.receive(2) == b"ab"
        await theirs.send(b"def")
        assert await mine.peek() == b"cdef"
        assert await mine.receive(3) == b"cde"
        assert await mine.receive() == b"f"
        assert mine.extra(SocketAttribute.raw_socket).getpeername()[0] == "127.0.0.1"
        await mine.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await theirs.receive()
        await theirs.send(b"still")
        assert await mine.receive() == b"still"


async def test_a_long_chunk_is_given_out_in_pieces_in_order() -> None:
    async with pair() as (mine, theirs):
        await theirs.send(b"0123456789")
        assert [await mine.receive(4) for _ in range(3)] == [b"0123", b"4567", b"89"]


@pytest.mark.parametrize("tls", [False, True])
async def test_much_passes_both_ways_whole(contexts: Any, tls: bool) -> None:
    words = bytes(range(256)) * 8192  # 2 MiB: beyond every buffer
    async with pair() as (mine, theirs):
        if tls:
            await agree(mine, theirs, contexts)

        async def echo() -> None:
            left = len(words)
            while left:
                data = await theirs.receive()
                await theirs.send(data)
                left -= len(data)

        async with anyio.create_task_group() as group:
            group.start_soon(echo)
            group.start_soon(mine.send, words)
            seen = bytearray()
            while len(seen) < len(words):
                seen += await mine.receive()
        assert seen == words


@pytest.mark.parametrize("tls", [False, True])
async def test_who_does_not_read_holds_the_sender_back(contexts: Any, tls: bool) -> None:
    async with pair() as (mine, theirs):
        if tls:
            await agree(mine, theirs, contexts)
        sent = 0
        with anyio.move_on_after(0.3):
            while True:
                await mine.send(b"x" * CHUNK_BYTES)
                sent += 1
        assert sent * CHUNK_BYTES < 32 * 1024 * 1024
        with pytest.raises(TimeoutError):
            await mine.send(b"x" * CHUNK_BYTES * 4, 0.05)


async def test_waiting_has_an_end() -> None:
    async with pair() as (mine, _):
        with pytest.raises(TimeoutError):
            await mine.receive(within_s=0.02)
        with pytest.raises(TimeoutError):
            await mine.peek(0.02)


async def test_tls_is_for_the_name_and_nobody_else(contexts: Any) -> None:
    async with pair() as (mine, theirs):
        await agree(mine, theirs, contexts)
        await mine.send(b"hello")
        assert await theirs.receive() == b"hello"
        with pytest.raises(NotImplementedError):
            await mine.send_eof()
    server, client = contexts
    async with pair() as (mine, theirs), anyio.create_task_group() as group:

        async def refused() -> None:
            with pytest.raises(ssl.SSLError):
                await theirs.secure(server)

        group.start_soon(refused)
        with pytest.raises(ssl.SSLCertVerificationError):
            await mine.secure(client, name="other.test")


async def test_what_came_before_tls_was_asked_for_is_its_beginning(contexts: Any) -> None:
    async with pair() as (mine, theirs):
        server, client = contexts
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                await mine.secure(client, name="host.test")

            group.start_soon(ask)
            assert (await theirs.peek())[0] == 0x16
            await theirs.secure(server)
        await mine.send(b"after")
        assert await theirs.receive() == b"after"


async def test_a_session_is_resumed_and_only_what_was_verified(contexts: Any) -> None:
    async with pair() as (mine, theirs):
        assert mine.session is None
        await agree(mine, theirs, contexts)
        await theirs.send(b"x")
        await mine.receive()
        session = mine.session
        assert session is not None
        assert mine._tls is not None and not mine._tls.session_reused
    async with pair() as (mine, theirs):
        await agree(mine, theirs, contexts, session=session)
        assert mine._tls is not None and mine._tls.session_reused


async def test_noise_in_place_of_tls_is_an_error(contexts: Any) -> None:
    server, _ = contexts
    async with pair() as (mine, theirs):
        await theirs.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
        with pytest.raises((ssl.SSLError, anyio.EndOfStream)):
            await mine.secure(server)
    async with pair() as (mine, theirs):
        await theirs.aclose()
        with pytest.raises((OSError, anyio.EndOfStream)):
            await mine.secure(server)


async def test_damage_inside_tls_is_no_end(contexts: Any) -> None:
    async with pair() as (mine, theirs):
        await agree(mine, theirs, contexts)
        theirs._transport.write(b"\x17\x03\x03\x00\x20" + b"z" * 32)  # type: ignore[union-attr]
        with pytest.raises(anyio.BrokenResourceError):
            await mine.receive()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_that_rests_is_stale_once_its_host_says_anything(
    contexts: Any, tls: bool
) -> None:
    async with pair() as (mine, theirs):
        if tls:
            await agree(mine, theirs, contexts)
            await theirs.send(b"x")  # brings the tickets along
            await mine.receive()
        assert not mine.stale()
        await theirs.send(b"unasked")
        await until(mine.stale)
    async with pair() as (mine, theirs):
        await theirs.aclose()
        await until(mine.stale)


@pytest.mark.parametrize("tls", [False, True])
async def test_the_last_words_arrive_before_the_end(contexts: Any, tls: bool) -> None:
    words = b"x" * 1_000_000
    seen = b""
    async with pair() as (mine, theirs):
        if tls:
            await agree(mine, theirs, contexts)
        await theirs.send(b"something that nobody reads")

        async def listen() -> None:
            nonlocal seen
            try:
                while True:
                    seen += await theirs.receive()
            except anyio.EndOfStream:
                await theirs.aclose()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await mine.send(words)
                await mine.close()
        assert seen == words


@pytest.mark.parametrize("tls", [False, True])
async def test_closing_after_the_other_end_does_not_linger(
    contexts: Any, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leg, "_LINGER_S", 3600.0)
    async with pair() as (mine, theirs):
        if tls:
            await agree(mine, theirs, contexts)
        await theirs.aclose()
        with pytest.raises(anyio.EndOfStream):
            await mine.receive()
        with anyio.fail_after(60):
            await mine.close()


async def test_closing_what_is_broken_is_no_error() -> None:
    async with pair() as (mine, theirs):
        theirs.reset()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await mine.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await mine.send(b"x")
            await mine.send(b"x")
        await mine.close()
        await mine.aclose()
        mine.reset()


async def test_whoever_breaks_off_does_not_seem_to_end() -> None:
    async with pair() as (mine, theirs):
        await mine.send(b"half")
        assert await theirs.receive() == b"half"
        mine.reset()
        with pytest.raises(anyio.BrokenResourceError):
            await theirs.receive()


async def test_nobody_there_is_an_error_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            await Leg.dial("127.0.0.1", taken.getsockname()[1])


async def test_addresses_of_both_families_are_dialled() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    with listener:
        leg = await Leg.dial("::1", listener.getsockname()[1])
        made, _ = listener.accept()
        made.sendall(b"six")
        assert await leg.receive() == b"six"
        await leg.aclose()
        made.close()

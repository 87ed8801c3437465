from pathlib import Path

import anyio
import pytest

from tests.fakes.origin import Visit
from tests.integration.execution.egress.rig import MARK, VALUE, get, rig, secret

pytestmark = pytest.mark.anyio

ASK = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


async def back(visit: Visit) -> None:
    """Switch, and say back whatever is said."""
    await visit.send(SWITCH + b"hello ")
    while True:
        await visit.send(await visit.stream.receive())


async def read(stream: anyio.abc.ByteStream, until: bytes) -> bytes:
    seen = b""
    with anyio.fail_after(60):
        while until not in seen:
            seen += await stream.receive()
    return seen


@pytest.mark.parametrize("tls", [False, True])
async def test_a_websocket_passes_both_ways(tmp_path: Path, tls: bool) -> None:
    async with rig(tmp_path, tls=tls) as site:
        site.origin.answer = back
        opened = site.secure() if tls else site.connect()
        async with opened as stream:
            await stream.send(get("/chat", *ASK, "Authorization: Bearer x") + b"early ")
            seen = await read(stream, b"early ")
            assert seen.startswith(b"HTTP/1.1 101 ")
            assert b"upgrade: websocket" in seen.lower()
            assert b"hello " in seen
            for _ in range(3):
                await stream.send(b"\x81\x02hi")
                assert await read(stream, b"\x81\x02hi")
        ended = site.records("egress.end")[0]
        assert (ended["status"], ended["path"]) == (101, "/chat")
        assert ended["request_bytes"] == len(b"early ") + 3 * 4


async def test_secrets_go_in_with_the_handshake_alone_and_do_not_come_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = back
        async with site.connect() as stream:
            lines = (
                *ASK,
                "Sec-WebSocket-Extensions: permessage-deflate",
                f"X-Key: {MARK.decode()}",
            )
            await stream.send(get("/", *lines))
            await read(stream, b"hello ")
            visit = site.origin.visits[0]
            assert visit.header("x-key") == [VALUE]
            # Compressed messages could not be searched.
            assert visit.header("sec-websocket-extensions") == []
            await stream.send(MARK + b"!")
            assert await read(stream, b"!") == MARK + b"!"
            await stream.send(b"<" + VALUE.encode() + b">")
            assert await read(stream, b">") == b"<" + b"*" * len(VALUE) + b">"


async def test_a_message_that_ends_like_a_secret_is_not_kept_for_long(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = back
        async with site.connect() as stream:
            await stream.send(get("/", *ASK))
            await read(stream, b"hello ")
            await stream.send(b"this ends in " + VALUE[:3].encode())
            assert (await read(stream, VALUE[:3].encode())).endswith(VALUE[:3].encode())


async def test_a_websocket_that_is_refused_is_an_ordinary_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as site, site.connect() as stream:
        assert (await site.ask(stream, get("/", *ASK))).status == 200


async def test_a_websocket_counts_against_the_limits(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.limit(sent_bytes=1_000)
        site.origin.answer = back
        async with site.connect() as stream:
            await stream.send(get("/", *ASK))
            await read(stream, b"hello ")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.send(b"x" * 2_000)
                while True:
                    await stream.receive()
        assert site.records("egress.end")[0]["ended"] == "sent_bytes"

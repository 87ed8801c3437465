import gzip
from collections.abc import AsyncIterator

import anyio
import httpx2
import pytest

from intramuros.control.mcp import witness as module
from intramuros.control.mcp.witness import Witness

pytestmark = pytest.mark.anyio


def replying(status: int, body: bytes = b"") -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda request: httpx2.Response(status, content=body))


async def test_a_refused_post_is_remembered() -> None:
    witness = Witness(replying(403))
    async with httpx2.AsyncClient(transport=witness) as http:
        await http.post("https://h.test/mcp")
    assert (witness.failures, witness.status, witness.error) == (1, 403, "HTTP 403")


async def test_who_is_over_a_limit_and_told_so_keeps_the_session() -> None:
    def reply(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/told":
            return httpx2.Response(429, json={"jsonrpc": "2.0"}, headers={"retry-after": "7"})
        return httpx2.Response(429, text="slow down")

    witness = Witness(httpx2.MockTransport(reply))
    async with httpx2.AsyncClient(transport=witness) as http:
        await http.post("https://h.test/told")
        assert witness.failures == 0
        # Without an answer to the call, or where nobody would read it, it has failed.
        await http.post("https://h.test/mcp")
        assert (witness.failures, witness.error) == (1, "HTTP 429")
        with anyio.CancelScope() as waiting:
            witness.waiting.add(waiting)
            await http.post("https://h.test/told")
        assert (witness.failures, waiting.cancel_called) == (2, True)


async def test_a_refused_event_stream_is_no_failure() -> None:
    witness = Witness(replying(405))
    async with httpx2.AsyncClient(transport=witness) as http:
        await http.get("https://h.test/mcp")
    assert witness.failures == 0


async def test_a_broken_connection_is_remembered() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("away")

    witness = Witness(httpx2.MockTransport(fail))
    async with httpx2.AsyncClient(transport=witness) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.post("https://h.test/mcp")
    assert (witness.status, witness.error) == (None, "away")


async def test_a_reply_over_the_limit_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 10)

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 6
        yield b"x" * 6

    reply = httpx2.MockTransport(lambda request: httpx2.Response(200, content=body()))
    witness = Witness(reply)
    async with httpx2.AsyncClient(transport=witness) as http:
        with pytest.raises(httpx2.ReadError, match="larger than"):
            await http.post("https://h.test/mcp")
    assert witness.failures == 1


@pytest.mark.parametrize(
    ("status", "headers", "body", "counted"),
    [
        (404, {"mcp-session-id": "a"}, b'{"method": "tools/call", "id": 1}', 1),
        (404, {"mcp-session-id": "a"}, b'{"method": "tools/list", "id": 1}', 1),
        (404, {}, b'{"method": "tools/call", "id": 1}', 0),
        (400, {"mcp-session-id": "a"}, b'{"method": "tools/call", "id": 1}', 0),
        (404, {"mcp-session-id": "a"}, b'{"method": "notifications/cancelled"}', 0),
        (404, {"mcp-session-id": "a"}, b'{"result": {}, "id": 1}', 0),
        (404, {"mcp-session-id": "a"}, b"[1]", 0),
        (404, {"mcp-session-id": "a"}, b"no JSON", 0),
    ],
)
async def test_a_call_in_a_session_that_is_no_more_is_counted(
    status: int, headers: dict[str, str], body: bytes, counted: int
) -> None:
    witness = Witness(replying(status))
    async with httpx2.AsyncClient(transport=witness) as http:
        await http.post("https://h.test/mcp", content=body, headers=headers)
    assert witness.sessions_unknown == counted


async def test_a_packed_reply_is_not_unpacked() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept-encoding"] == "identity"
        bomb = gzip.compress(b"x" * 1_000_000)
        return httpx2.Response(200, content=bomb, headers={"content-encoding": "GZip"})

    witness = Witness(httpx2.MockTransport(answer))
    async with httpx2.AsyncClient(transport=witness) as http:
        with pytest.raises(httpx2.ReadError, match="packed"):
            await http.post("https://h.test/mcp")
    assert (witness.failures, witness.error) == (1, "the reply is packed")

"""Answers over several connections, from servers that say what a test lets them say."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.mcp import resuming
from intramuros.control.mcp.bearer import Bearer, BearerTransport
from intramuros.control.mcp.resuming import ResumingTransport
from intramuros.control.mcp.witness import Witness
from tests.unit.control.mcp.test_client import CALLER, SERVER, pool_over

pytestmark = pytest.mark.anyio

URL = "https://docs.example/mcp"
SESSION = {"mcp-session-id": "s", "mcp-protocol-version": "2025-11-25", "x-else": "1"}
NOTICE = b'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
ANSWER = b'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n'

Said = tuple[int, Sequence[bytes | Exception]]


class Server(httpx2.AsyncBaseTransport):
    """Answers with what is next; bytes are parts of a stream, an error breaks it."""

    def __init__(self, *answers: Said | Exception, **headers: str) -> None:
        self.answers = list(answers)
        self.headers = {"content-type": "text/event-stream", **headers}
        self.requests: list[httpx2.Request] = []
        self.open = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.open += 1
        return httpx2.Response(answer[0], headers=self.headers, stream=Parts(self, answer[1]))


class Parts(httpx2.AsyncByteStream):
    def __init__(self, server: Server, parts: Sequence[bytes | Exception]) -> None:
        self.server = server
        self.parts = parts
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self.server.open -= 1


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "WAIT_S", 0.001)
    monkeypatch.setattr(resuming, "MAX_WAIT_S", 0.002)


CUT = httpx2.ReadError("cut")


async def read(server: Server, method: str = "POST", **headers: str) -> bytes:
    """Return what a reader gets."""
    way = ResumingTransport(server, lambda: 0.0)
    async with (
        httpx2.AsyncClient(transport=way) as client,
        client.stream(method, URL, headers={**SESSION, **headers}) as answer,
    ):
        return b"".join([part async for part in answer.aiter_raw()])


async def test_what_follows_a_cut_is_asked_for_and_comes_once() -> None:
    server = Server(
        (200, [b"id: a-0\nretry: 1\ndata:\n\n", b"id: a-1\n" + NOTICE, b"id: a-2\nda", CUT]),
        httpx2.ConnectError("away"),
        (503, [b"later"]),
        (200, [b": ping\n\n", b"id: a-2\r\n" + NOTICE, CUT]),
        (200, [b"id: a-3\n" + ANSWER]),
    )
    assert await read(server) == NOTICE + b": ping\n\n" + NOTICE + ANSWER
    assert [each.method for each in server.requests] == ["POST", *["GET"] * 4]
    asked = [each.headers.get("last-event-id") for each in server.requests]
    assert asked == [None, "a-1", "a-1", "a-1", "a-2"]
    again = server.requests[1].headers
    assert (again["mcp-session-id"], again["mcp-protocol-version"]) == ("s", "2025-11-25")
    assert (again["accept"], "x-else" in again) == ("text/event-stream", False)
    assert server.open == 0


@pytest.mark.parametrize("end", [[], [CUT]])
async def test_after_the_answer_nothing_is_asked_for(end: list[Exception]) -> None:
    server = Server((200, [b"id: 1\n" + ANSWER, *end]))
    assert await read(server) == ANSWER
    assert len(server.requests) == 1


async def test_a_stream_that_its_server_ends_too_early_is_asked_for_after_its_own_time() -> None:
    server = Server(
        (200, [b"id: 1\ndata:\n\n", b"retry: 300\nid: 2\ndata:\n\n"]), (200, [b"id: 3\n" + ANSWER])
    )
    before = anyio.current_time()
    assert await read(server) == ANSWER
    assert anyio.current_time() >= before + 0.3
    assert server.requests[1].headers["last-event-id"] == "2"


@pytest.mark.parametrize(
    "first",
    [
        [NOTICE, CUT],
        [b"id: \xff\n" + NOTICE, CUT],
        [b"id:\n" + NOTICE, CUT],
        [b"id: 1\n" + NOTICE, b"id: " + b"x" * 1025 + b"\n" + NOTICE, CUT],
    ],
)
async def test_what_its_server_does_not_keep_stays_cut(first: list[bytes | Exception]) -> None:
    server = Server((200, first))
    with pytest.raises(httpx2.ReadError, match="cut"):
        await read(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 200])
async def test_who_is_refused_does_not_ask_again(status: int) -> None:
    server = Server((200, [b"id: 1\n" + NOTICE, CUT]), (status, [b"{}"]))
    if status == 200:
        server.answers[1] = httpx2.ReadError("no stream")
        server.answers.append((404, []))
    with pytest.raises(httpx2.ReadError, match=f"HTTP {404 if status == 200 else status}"):
        await read(server)
    assert server.open == 0


async def test_an_answer_that_is_packed_is_refused() -> None:
    server = Server((200, [b"id: 1\n" + NOTICE, CUT]), (503, []), (200, [b"x"]))
    server.headers["content-encoding"] = "identity"
    way = ResumingTransport(server, lambda: 0.0)
    async with httpx2.AsyncClient(transport=way) as client:
        with pytest.raises(httpx2.ReadError, match="packed"):
            async with client.stream("POST", URL, headers=SESSION) as answer:
                async for _ in answer.aiter_raw():
                    server.headers["content-encoding"] = "gzip"
    assert server.open == 0


async def test_somebody_who_is_away_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "PATIENCE_S", 0.05)
    away = [httpx2.ConnectError("away")] * 1000
    server = Server((200, [b"id: 1\n" + NOTICE, CUT]), *away)
    with pytest.raises(httpx2.ConnectError, match="away"):
        await read(server)
    busy: list[Said] = [(503, [])] * 1000
    server = Server((200, [b"id: 1\n" + NOTICE, CUT]), *busy)
    with pytest.raises(httpx2.ReadError, match="HTTP 503"):
        await read(server)
    assert server.open == 0


async def test_only_calls_of_sessions_are_taken_up() -> None:
    stream = [b"id: 1\n" + NOTICE, CUT]
    for method, session in (("GET", "s"), ("POST", "")):
        server = Server((200, stream))
        way = ResumingTransport(server, lambda: 0.0)
        headers = {"mcp-session-id": session} if session else {}
        async with httpx2.AsyncClient(transport=way) as client:
            with pytest.raises(httpx2.ReadError, match="cut"):
                async with client.stream(method, URL, headers=headers) as answer:
                    # What is not taken up passes as it is, ids and all.
                    async for part in answer.aiter_raw():
                        assert part == stream[0]
        assert len(server.requests) == 1
    server = Server((200, [b'{"id": 1}']), **{"content-type": "application/json"})
    assert await read(server) == b'{"id": 1}'


async def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "MAX_EVENT_BYTES", 100)
    server = Server((200, [b"id: 1\n" + NOTICE, b"data: " + b"x" * 101]))
    with pytest.raises(httpx2.ReadError, match=r"too (large|long)"):
        await read(server)
    assert len(server.requests) == 1


@settings(max_examples=100, deadline=None)
@given(data=st.data())
async def test_wherever_it_is_cut_the_answer_is_the_same(data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    count = data.draw(st.integers(1, 5))
    bodies = [json.dumps({"method": "n", "params": {"n": n}}).encode() for n in range(count)]
    bodies.append(b'{"id":1,"result":{"text":"x"}}')
    texts = [
        b"id: e-%d" % n + end + b"event: message" + end + b"data: " + body + end + end
        for n, body in enumerate(bodies, start=1)
    ]
    primed = b"id: e-0" + end + b"retry: 1" + end + b"data: " + end + end
    server = Whole([primed, *texts], data)
    heard = await read(server)  # type: ignore[arg-type]
    said = [line[6:] for line in heard.split(b"\n") if line.startswith(b"data: ")]
    assert [each for each in said if each] == bodies


class Whole(httpx2.AsyncBaseTransport):
    """Keeps all events of one answer, and breaks the connection wherever it is told to."""

    def __init__(self, events: list[bytes], data: st.DataObject) -> None:
        self.events = events
        self.data = data
        self.cuts = 6

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        after = int(request.headers.get("last-event-id", "e--1").removeprefix("e-"))
        text = b"".join(self.events[after + 1 :])
        parts: list[bytes | Exception] = [text]
        # The first event always arrives: before it nothing is known to be kept.
        least = len(self.events[0]) if after < 0 else 0
        self.cuts -= 1
        if self.cuts > 0 and self.data.draw(st.booleans()):
            at = self.data.draw(st.integers(least, len(text)))
            parts = [text[:at], *([CUT] if self.data.draw(st.booleans()) else [])]
        stream = Parts(Server(), parts)
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        return httpx2.Response(200, headers=headers, stream=stream)


async def test_an_error_that_a_server_answers_after_a_cut_is_its_answer() -> None:
    def said(request: dict[str, Any], **member: Any) -> bytes:
        return b"data: " + json.dumps({"jsonrpc": "2.0", "id": request["id"], **member}).encode()

    class Erring(httpx2.AsyncBaseTransport):
        calls = 0
        last: dict[str, Any]

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            headers = {"content-type": "text/event-stream", "mcp-session-id": "s"}
            error = {"code": -32602, "message": "no such tool"}
            if request.method != "POST":
                if "last-event-id" not in request.headers:
                    return httpx2.Response(405)
                parts: list[Any] = [b"id: 2\n" + said(self.last, error=error) + b"\n\n"]
            else:
                asked = json.loads(await request.aread())
                if asked["method"] == "initialize":
                    info = {
                        "protocolVersion": "2025-11-25",
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "n", "version": "1"},
                    }
                    parts = [said(asked, result=info) + b"\n\n"]
                elif asked["method"] != "tools/call":
                    return httpx2.Response(202 if "id" not in asked else 400)
                else:
                    self.calls, self.last = self.calls + 1, asked
                    parts = [b"id: 1\ndata:\n\n", CUT]
            return httpx2.Response(200, headers=headers, stream=Parts(Server(), parts))

    server = Erring()
    async with pool_over(server) as (pool, _):
        result = await pool.call(CALLER, SERVER, "nothing", {})
        assert (result.is_error, "no such tool" in str(result.content)) == (True, True)
        link = pool._links[CALLER, SERVER]
        assert not link.closing.is_set()
    assert server.calls == 1


async def test_credentials_are_sent_again_and_their_values_stay_known() -> None:
    server = Server((200, [b"id: 1\n" + NOTICE, CUT]), (200, [b"id: 2\n" + ANSWER]))

    async def lookup(_: int | None) -> Bearer | None:
        return Bearer("secret", 1)

    witness = Witness(ResumingTransport(BearerTransport(server, URL, lookup), lambda: 0.0))
    async with (
        httpx2.AsyncClient(transport=witness) as client,
        client.stream("POST", URL, headers=SESSION) as answer,
    ):
        assert b"result" in b"".join([part async for part in answer.aiter_raw()])
    assert [each.headers["authorization"] for each in server.requests] == ["Bearer secret"] * 2
    assert (set(witness.secrets), witness.failures) == ({"secret"}, 0)

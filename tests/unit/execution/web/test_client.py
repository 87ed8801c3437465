import json
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from intramuros.execution.client import Away, Raced, Refused
from intramuros.execution.server import Server
from intramuros.execution.web.client import WebCallClient
from tests.unit.protocol.test_web_calls import CALL

pytestmark = pytest.mark.anyio
Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
async def client() -> AsyncIterator[WebCallClient]:
    made = WebCallClient(Server("http://server.test/"), "the-key", "w1", frozenset({"web_fetch"}))
    yield made
    await made.aclose()


def serve(client: WebCallClient, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    monkeypatch.setattr(client._http, "_transport", httpx2.MockTransport(answer))
    monkeypatch.setattr(client._http, "_mounts", {})


async def test_what_is_asked_of_the_server(
    client: WebCallClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[httpx2.Request] = []

    def server(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if request.url.path.endswith("/poll"):
            return httpx2.Response(200, json=CALL.dump())
        return httpx2.Response(200, json={"wanted": True})

    serve(client, monkeypatch, server)
    assert await client.poll() == CALL
    assert await client.beat(CALL)
    await client.answer(CALL, {"content": [], "is_error": False})
    poll, beat, answered = asked
    assert poll.headers["authorization"] == "Bearer the-key"
    assert poll.headers["x-intramuros-web-tools"] == "web_fetch"
    assert beat.url.path.endswith(f"/{CALL.id}/heartbeat")
    assert json.loads(beat.content) == {"ticket": CALL.ticket, "epoch": 1}
    assert json.loads(answered.content) == {
        "ticket": CALL.ticket,
        "epoch": 1,
        "content": [],
        "is_error": False,
    }


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, "{}", Refused),
        (403, "{}", Refused),
        (429, "{}", Away),
        (500, "{}", Away),
        (200, "{", Away),
        (200, '{"type": "work"}', Away),
    ],
)
async def test_polls_that_bring_nothing(
    client: WebCallClient,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: str,
    error: type[Exception],
) -> None:
    serve(client, monkeypatch, lambda _: httpx2.Response(status, text=body))
    with pytest.raises(error):
        await client.poll()
    serve(client, monkeypatch, lambda _: httpx2.Response(200, text="null"))
    assert await client.poll() is None


async def test_too_late_is_not_an_invitation_to_try_again(
    client: WebCallClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(client, monkeypatch, lambda _: httpx2.Response(409))
    with pytest.raises(Raced):
        await client.answer(CALL, {})
    serve(client, monkeypatch, lambda _: httpx2.Response(200, json=[]))
    with pytest.raises(Away):
        await client.beat(CALL)

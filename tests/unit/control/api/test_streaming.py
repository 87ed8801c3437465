from collections.abc import MutableMapping
from typing import Any

import anyio
import pytest

from intramuros.control.api import live
from intramuros.control.api.streaming import EventStream, Serve
from intramuros.kernel.errors import NotFound
from intramuros.protocol.sse import OPENED

pytestmark = pytest.mark.anyio

Message = MutableMapping[str, Any]


class Script:
    """Stands for a follower: gives its batches, then waits for ever or is over."""

    def __init__(self, *batches: list[bytes], ends: bool = True) -> None:
        self._batches = list(batches)
        self._ends = ends

    @property
    def over(self) -> bool:
        return self._ends and not self._batches

    async def next(self) -> list[bytes]:
        if not self._batches:
            await anyio.sleep_forever()
        return self._batches.pop(0)


class Client:
    """The server's end of a connection; ``takes`` bodies are accepted, then it is stuck."""

    def __init__(self, takes: int = 100) -> None:
        self.sent: list[Message] = []
        self.left = anyio.Event()
        self._takes = takes

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.bodies) >= self._takes:
            await anyio.sleep_forever()
        self.sent.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [m["body"] for m in self.sent if m["type"] == "http.response.body"]


async def run(client: Client, follower: Any) -> None:
    async def attach(serve: Serve) -> None:
        await serve(follower)

    with anyio.fail_after(60):
        await EventStream(attach)({"type": "http"}, client.receive, client.send)


async def test_17_4_headers_and_first_bytes_go_out_before_any_event() -> None:
    client = Client()
    async with anyio.create_task_group() as group:
        group.start_soon(run, client, Script(ends=False))
        await anyio.wait_all_tasks_blocked()
        head, body = client.sent
        assert head["status"] == 200
        assert dict(head["headers"])[b"content-type"].startswith(b"text/event-stream")
        assert (body["body"], body["more_body"]) == (OPENED, True)
        client.left.set()


async def test_batches_are_sent_whole_and_the_end_is_said() -> None:
    client = Client()
    await run(client, Script([b"a", b"b"], [b"c"]))
    assert client.bodies == [OPENED, b"ab", b"c", b""]
    assert client.sent[-1]["more_body"] is False


async def test_a_client_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STALL_S", 0.02)
    client = Client(takes=1)
    await run(client, Script([b"a"], [b"b"], ends=False))
    assert client.bodies == [OPENED]


async def test_refusals_come_before_the_headers() -> None:
    client = Client()

    async def attach(_: Serve) -> None:
        raise NotFound("no session")

    with pytest.raises(NotFound):
        await EventStream(attach)({"type": "http"}, client.receive, client.send)
    assert client.sent == []

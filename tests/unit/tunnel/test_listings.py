import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpcore2
import pytest

from intramuros.tunnel import listings
from intramuros.tunnel.listings import ListFilter

pytestmark = pytest.mark.anyio

TOOLS = {"tools": [{"name": "read"}, {"name": "rm", "description": "secret"}], "nextCursor": "c"}


def only_read(member: str, names: Sequence[str]) -> list[bool]:
    return [name.endswith("read") for name in names]


def message(result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


async def passed(*chunks: bytes, kind: bytes = b"application/json", **more: bytes) -> bytes:
    async def content() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    headers = [(b"Content-Type", kind), (b"Content-Length", b"9")]
    headers += [(name.replace("_", "-").encode(), value) for name, value in more.items()]
    response = httpcore2.Response(200, headers=headers, content=content())
    wrapped = ListFilter(only_read).wrap(response)
    if wrapped is not response:
        assert b"content-length" not in dict(wrapped.headers)
    return b"".join([chunk async for chunk in wrapped.aiter_stream()])


@pytest.mark.parametrize(
    ("result", "left"),
    [
        (TOOLS, {"tools": [{"name": "read"}], "nextCursor": "c"}),
        ({"prompts": [{"name": "x"}]}, {"prompts": []}),
        (
            {"resources": [{"name": "read", "uri": "a:x"}, {"name": "x", "uri": "a:read"}]},
            {"resources": [{"name": "x", "uri": "a:read"}]},
        ),
        ({"resourceTemplates": [{"uriTemplate": "a:{x}"}]}, {"resourceTemplates": []}),
        ({"tools": ["read", {"title": "read"}, {"name": ["read"]}]}, {"tools": []}),
        ({"tools": [{"name": "rm"}], "prompts": [{"name": "rm"}]}, {"tools": [], "prompts": []}),
    ],
)
async def test_t33_hidden_items_are_gone_in_json_and_in_events(result: Any, left: Any) -> None:
    assert json.loads(await passed(message(result)))["result"] == left
    event = b"event: message\r\nid: 7\r\ndata: " + message(result) + b"\r\n\r\n"
    got = await passed(event, kind=b"text/event-stream; charset=utf-8")
    lines = got.decode().splitlines()
    assert lines[:2] == ["event: message", "id: 7"]
    assert json.loads(lines[2].removeprefix("data: "))["result"] == left


async def test_several_messages_and_several_lines_of_one_event() -> None:
    both = b"[" + message(TOOLS) + b"," + message({"ok": 1}) + b"]"
    assert b"rm" not in await passed(both)
    split = message(TOOLS).replace(b'"result":', b'"result":\ndata:')
    got = await passed(b"data:" + split + b"\n\n", kind=b"text/event-stream")
    assert b"rm" not in got
    assert json.loads(got.removeprefix(b"data: "))["result"]["tools"] == [{"name": "read"}]


async def test_what_holds_no_list_passes_byte_for_byte() -> None:
    for body in (message({"content": [], "x": 1.50}), b'{"jsonrpc": "2.0",  "id":1}', b"", b"7"):
        assert await passed(body) == body
    events = b": hi\n\nevent: endpoint\ndata: /m?x={1}\n\nid: 3\ndata: \n\n" + b"data: 5\n\n"
    assert await passed(events, kind=b"text/event-stream") == events
    assert await passed(message(TOOLS), kind=b"text/plain") == message(TOOLS)


async def test_long_lists_are_filtered_too() -> None:
    many = {"tools": [{"name": f"{n}-{kind}"} for n in range(1000) for kind in ("read", "rm")]}
    for kind in (b"application/json; charset=utf-8", b"application/json-rpc"):
        left = json.loads(await passed(message(many), kind=kind))["result"]["tools"]
        assert [item["name"] for item in left] == [f"{n}-read" for n in range(1000)]


async def test_what_cannot_be_read_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for body, kind in ((b"{no", b"application/json"), (b"data: {no\n\n", b"text/event-stream")):
        with pytest.raises(httpcore2.RemoteProtocolError):
            await passed(body, kind=kind)
    with pytest.raises(httpcore2.RemoteProtocolError, match="packed"):
        await passed(message(TOOLS), content_encoding=b"gzip")
    monkeypatch.setattr(listings, "MAX_ANSWER_BYTES", 100)
    large = message({"x": "a" * 200})
    for chunks, kind in (
        ((large,), b"application/json"),
        ((b"data: " + large,), b"text/event-stream"),
        ((b"data: x\n" * 30,), b"text/event-stream"),
        ((b"data: ", *[b"a"] * 200), b"text/event-stream"),
    ):
        with pytest.raises(httpcore2.RemoteProtocolError, match="too l"):
            await passed(*chunks, kind=kind)

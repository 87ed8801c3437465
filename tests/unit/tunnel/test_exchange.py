import json
from typing import TYPE_CHECKING, cast

import anyio
import h11
import pytest

from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.callers import Caller
from intramuros.tunnel.exchange import (
    DENIED,
    DENIED_CODE,
    Exchange,
    next_event,
    plain_error,
    send_denial,
)
from intramuros.tunnel.http_rules import BadRequest
from tests.unit.tunnel.streams import connection

if TYPE_CHECKING:
    from anyio.abc import ByteStream

pytestmark = pytest.mark.anyio


async def answered(method: bytes, accept: bytes, *, id: int | None, action: Action) -> bytes:
    """Return what a caller reads who is denied something."""
    client, server = connection()
    http = h11.Connection(h11.SERVER)
    http.receive_data(method + b" / HTTP/1.1\r\nHost: a\r\nAccept: " + accept + b"\r\n\r\n")
    request = next_event(http)
    assert isinstance(request, h11.Request)
    exchange = Exchange(cast("ByteStream", server), http, request, Caller("a", "s", "t"))
    act = Act(action, "docs") if action is Action.CONNECT else Act(action, "docs", "drop")
    with anyio.fail_after(30):
        await send_denial(exchange, act, id)
        await server.aclose()
        said = b""
        try:
            while True:
                said += await client.receive()
        except anyio.EndOfStream:
            return said


async def test_a_denied_call_is_answered_as_a_call_and_anything_else_as_http() -> None:
    call = await answered(b"POST", b"application/json", id=7, action=Action.CALL_TOOL)
    assert call.startswith(b"HTTP/1.1 200 ")
    error = json.loads(call.partition(b"\r\n\r\n")[2])
    assert error == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": DENIED_CODE, "message": DENIED},
    }
    for method, accept, id, action in (
        (b"POST", b"application/json", None, Action.CALL_TOOL),
        (b"POST", b"text/html", 7, Action.CALL_TOOL),
        (b"POST", b"application/json", 7, Action.CONNECT),
    ):
        said = await answered(method, accept, id=id, action=action)
        assert said.startswith(b"HTTP/1.1 403 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["type"] == "not_permitted"
    # Whoever asks for a head gets no body.
    assert (await answered(b"HEAD", b"*/*", id=None, action=Action.HTTP)).endswith(b"\r\n\r\n")


def test_a_bad_request_is_answered_without_a_parser() -> None:
    said = plain_error(BadRequest("head_too_large", "too large", 431))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["error"] == {"type": "head_too_large", "message": "too large"}


def test_what_cannot_be_read_is_a_bad_request() -> None:
    http = h11.Connection(h11.SERVER)
    http.receive_data(b"nonsense\r\n\r\n")
    with pytest.raises(BadRequest):
        next_event(http)

"""One request on a connection, and the answers that a gateway gives to it by itself."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import h11
from anyio.abc import ByteStream

from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.bound_sessions import Bound
from intramuros.tunnel.callers import Caller
from intramuros.tunnel.http_rules import BadRequest, Headers
from intramuros.tunnel.limits import OverLimit
from intramuros.tunnel.listings import ListFilter

# A JSON-RPC error of the range that servers may define.
DENIED_CODE: Final = -32003
INVALID_REQUEST: Final = -32600
LIMITED_CODE: Final = -32029
DENIED: Final = "the private network's policy does not permit this"


@dataclass
class Outcome:
    """What became of a forwarded request, for the second record."""

    status: int | None = None
    size: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    ended: str = "aborted"


@dataclass
class Exchange:
    """One request on one connection."""

    stream: ByteStream
    http: h11.Connection
    request: h11.Request
    caller: Caller
    body: bytes = b""
    held_bytes: int = 0
    """What was read of the body so far."""
    filter: ListFilter | None = None
    headers: Headers = ()
    """What a server gets of the request's own, once it is known whose sessions are named."""
    target: bytes = b""
    leave: Callable[[], None] | None = None
    """Called at the end of a request that is counted."""
    bound: Bound | None = None
    """What tags the server's session ids; None at a route whose sessions are the gateway's own."""


async def send_denial(exchange: Exchange, act: Act, id: str | int | None) -> None:
    """Say that a call is refused, and nothing of why: that is in the gateway's own record."""
    accepted = dict(exchange.request.headers).get(b"accept", b"")
    # On the transport before streamable HTTP nobody would read the answer to a POST.
    if id is None or act.action is Action.CONNECT or b"application/json" not in accepted:
        await send_error(exchange, 403, "not_permitted", DENIED)
        return
    error = {"code": DENIED_CODE, "message": DENIED}
    answer = json.dumps({"jsonrpc": "2.0", "id": id, "error": error})
    await send_json(exchange, 200, answer.encode())


async def send_limited(exchange: Exchange, over: OverLimit, id: str | int | None) -> None:
    """Say which limit of the route a request is over, and when to come again."""
    wait = "" if over.retry_after_s is None else f"; try again in {over.retry_after_s} s"
    message = f"the route's limit is reached ({over.key}: {over.limit}){wait}"
    error = {
        "code": LIMITED_CODE,
        "message": message,
        "data": {"limit": over.key, "retry_after_s": over.retry_after_s},
    }
    body = json.dumps({"jsonrpc": "2.0", "id": id, "error": error}).encode()
    if id is None:
        body = _error_body("over_limit", message)
    headers = []
    if over.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % over.retry_after_s))
    await send_json(exchange, over.status, body, headers=headers)


async def send_error(
    exchange: Exchange, status: int, code: str, message: str, *, last: bool = False
) -> None:
    """Answer with an error of the gateway's own; the ``last`` answer ends the connection."""
    await send_json(exchange, status, _error_body(code, message), last=last)


async def send_unknown_session(exchange: Exchange) -> None:
    """Say that there is no such session, as a server says it of one that never was."""
    error = {"code": INVALID_REQUEST, "message": "there is no such session"}
    answer = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    await send_json(exchange, 404, answer.encode())


async def send_json(
    exchange: Exchange, status: int, body: bytes, *, last: bool = False, headers: Headers = ()
) -> None:
    """Answer with a whole body."""
    named = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    named += headers
    if last:
        named.append((b"connection", b"close"))
    http = exchange.http
    data = http.send(h11.Response(status_code=status, headers=named)) or b""
    if exchange.request.method != b"HEAD":
        data += http.send(h11.Data(data=body)) or b""
    data += http.send(h11.EndOfMessage()) or b""
    await exchange.stream.send(data)


def plain_error(bad: BadRequest) -> bytes:
    """Return a whole response without h11, whose state is undefined after a bad request."""
    body = _error_body(bad.code, str(bad))
    head = (
        f"HTTP/1.1 {bad.status} Refused\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def _error_body(code: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": code, "message": message}}).encode()


def next_event(http: h11.Connection) -> object:
    """Return what h11 read next; raises BadRequest for what it cannot read."""
    try:
        return http.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest("malformed_request", str(error)) from error

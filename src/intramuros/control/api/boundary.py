"""The one boundary around the API: request ids, the body limit, and errors in the envelope.

Pure ASGI. Nothing inside builds an error body; it raises a :class:`DomainError` and this turns it
into one. What nobody foresaw becomes a 500 that tells the caller its request id and nothing else;
the cause goes to the log.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import structlog

from intramuros.control.identity import origin
from intramuros.control.store.arrival import arriving
from intramuros.control.store.codec import dump
from intramuros.kernel.errors import DomainError, TooLarge
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.remarks import Remarks
from intramuros.kernel.telemetry import logger
from intramuros.protocol.envelope import (
    MAX_BODY_BYTES,
    ORGANIZATION_HEADER,
    REQUEST_ID_HEADER,
    WORKSPACE_HEADER,
    error_body,
    error_headers,
    status_of,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CONTEXT_KEY: Final = "intramuros"

log = logger("api")

# What fails the same way all the time is logged so often, in seconds.
_REMARK_S: Final = 10.0
_CAUSE_CHARS: Final = 300


@dataclass
class Context:
    """What is known of one request; ``workspace_id`` is set once the caller is known.

    ``organization`` says that the request is about the organization, in no workspace; ``headers``
    go with the answer, whatever it is.
    """

    request_id: str
    workspace_id: str | None = None
    organization: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Boundary:
    """Wraps the application; the outermost layer of ours."""

    def __init__(
        self,
        app: App,
        *,
        ids: IdFactory,
        organization_id: str,
        max_body_bytes: int = MAX_BODY_BYTES,
        uploads: Sequence[tuple[re.Pattern[str], int]] = (),
    ) -> None:
        self._app = app
        self._ids = ids
        self._organization_id = organization_id
        self._max_body_bytes = max_body_bytes
        self._uploads = uploads
        self._remarks = Remarks(_REMARK_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = Context(self._ids.new("req"))
        scope[CONTEXT_KEY] = context
        reply = _Reply(send, context, self._organization_id)
        with (
            structlog.contextvars.bound_contextvars(request_id=context.request_id),
            origin.bound(*_peer(scope), context.request_id),
            arriving(),
        ):
            try:
                limited = _limit(scope, receive, self._limit_of(scope))
                await self._app(scope, limited, reply.send)
            except DomainError as error:
                await self._refuse(reply, error)
            except Exception as error:
                log.error("request_failed", path=scope["path"], exc_info=error)
                if reply.started:
                    raise  # the server drops the connection: half an answer must not look whole
                await reply.error(500, _internal(context.request_id), {})

    def _limit_of(self, scope: Scope) -> int:
        """Return the longest body in bytes; uploads, which are never held whole, have their own."""
        if scope["method"] == "POST":
            for path, max_bytes in self._uploads:
                if path.fullmatch(scope["path"]):
                    return max_bytes
        return self._max_body_bytes

    def _remark(self, status: int, error: DomainError) -> None:
        """Log what was foreseen, in a line, and not for every request while it lasts."""
        cause = _root(error)
        silent = self._remarks.due(f"{status} {type(cause).__name__}", anyio.current_time())
        if silent is not None:
            log.error(
                "request_failed",
                status=status,
                error=error.message,
                cause=f"{type(cause).__name__}: {cause}".split("\n")[0][:_CAUSE_CHARS],
                alike_before=silent,
            )

    async def _refuse(self, reply: "_Reply", error: DomainError) -> None:
        if reply.started:
            log.error("refused_too_late", error=repr(error))
            raise error
        status = status_of(error)
        if status >= 500:
            self._remark(status, error)
        await reply.error(status, error_body(error, reply.context.request_id), error_headers(error))


def refusal(status: int, message: str, request_id: str) -> dict[str, object]:
    """Return the envelope of a plain HTTP refusal (no such route, wrong method)."""
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }


def context_of(scope: Scope) -> Context:
    """Return what the boundary knows of this request."""
    context: Context = scope[CONTEXT_KEY]
    return context


def encode(value: object) -> bytes:
    """Return compact UTF-8 JSON; a number that JSON does not have becomes null."""
    return dump(value)


class _Reply:
    """The way out of one request: adds the headers that every response carries."""

    def __init__(self, send: Send, context: Context, organization_id: str) -> None:
        self._send = send
        self.context = context
        self._organization_id = organization_id
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), *self._own_headers()]}
        await self._send(message)

    async def error(self, status: int, body: dict[str, object], headers: dict[str, str]) -> None:
        content = encode(body)
        pairs = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": content})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        pairs = [(REQUEST_ID_HEADER.encode(), self.context.request_id.encode())]
        if self.context.workspace_id is not None:
            pairs.append((ORGANIZATION_HEADER.encode(), self._organization_id.encode()))
            if not self.context.organization:
                pairs.append((WORKSPACE_HEADER.encode(), self.context.workspace_id.encode()))
        pairs += ((name.encode(), value.encode()) for name, value in self.context.headers.items())
        return pairs


def _peer(scope: Scope) -> tuple[str, str]:
    """Return the peer's address and what it calls itself."""
    client = scope.get("client")
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return (client[0] if client else "", agent.decode("latin-1"))


def _limit(scope: Scope, receive: Receive, max_bytes: int) -> Receive:
    """Return a ``receive`` that refuses more than ``max_bytes`` of body (contract 1.26)."""
    too_large = TooLarge(f"request body is over the limit of {max_bytes} bytes")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > max_bytes:
            raise too_large
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                raise too_large
        return message

    return limited


def _root(error: BaseException) -> BaseException:
    """Return what an error came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _internal(request_id: str) -> dict[str, object]:
    message = f"internal error; the server's log has the cause under {request_id}"
    return {
        "type": "error",
        "error": {"type": "api_error", "message": message},
        "request_id": request_id,
    }

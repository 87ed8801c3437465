"""``/v1/messages``: to the configured provider as it came, or a message of our own making."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Final

import httpx2
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from starlette.types import Send

from intramuros.control.api.access import Gate, ServicesDep
from intramuros.control.api.bodies import read_body
from intramuros.control.api.boundary import context_of, encode
from intramuros.control.api.live import HEADERS as SSE_HEADERS
from intramuros.control.api.live import Live, begin, send_part
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import attached
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.inference.metered import Counted
from intramuros.control.inference.service import Ask, digest
from intramuros.kernel.errors import DomainError, InvalidRequest, Unavailable
from intramuros.kernel.telemetry import logger
from intramuros.protocol.envelope import (
    BETA_HEADER,
    PROFILE_HEADER,
    VERSION_HEADER,
    error_body,
    parse_betas,
)
from intramuros.protocol.sse import frame

log = logger("messages")

router = APIRouter(prefix="/v1/messages", tags=["messages"])

# The official SDK's plain messages carry no beta header.
Inference = Annotated[Principal, Depends(Gate(scope=Scope.INFERENCE, beta=None))]

# As an agent's.
MAX_MODEL_CHARS: Final = 256
_KEPT_HEADERS: Final = ("content-type", "content-length", "content-encoding")


async def _ask(request: Request, caller: Inference, svc: ServicesDep) -> Ask:
    """Read a request.

    Raises:
        InvalidRequest: no JSON object with a model, or not for the user profile of its workspace.
    """
    named = request.headers.get(PROFILE_HEADER)
    await svc.db.read(lambda tx: attached.check_named(tx, caller.workspace_id, named))
    data = await read_body(request)
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequest("request body: expected a JSON object") from None
    if not isinstance(body, dict):
        raise InvalidRequest("request body: expected a JSON object")
    model = body.get("model")
    # It is kept in the audit and in the usage, which is written when the money is spent.
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARS:
        raise InvalidRequest("model: expected the id of a model")
    if not model.isprintable():
        raise InvalidRequest("model: an id of a model has no control characters")
    context = context_of(request.scope)
    return Ask(
        caller.workspace_id,
        caller.credential_id,
        context.request_id,
        data,
        body,
        request.headers.get(VERSION_HEADER),
        parse_betas(",".join(request.headers.getlist(BETA_HEADER))),
        caller.service_account_id,
        context.headers,
    )


AskDep = Annotated[Ask, Depends(_ask)]


@router.post("")
async def create(svc: ServicesDep, ask: AskDep) -> Response:
    """Create a message, streamed if the request says so."""
    servers = svc.inference.servers(ask)
    hosts = [httpx2.URL(one.server.url).host for one in servers]
    await svc.inference.note(
        ask, "messages.create", model=ask.body["model"], tunnels=hosts, **digest(ask.data)
    )
    if not (servers or ask.scripted or svc.inference.hosted(ask)):
        return Live(lambda send: _create(send, svc, ask))

    async def serve(send: Send) -> None:
        stream = _Stream(send)
        emit = stream.emit if ask.body.get("stream") is True else _unheard
        try:
            prepared = await svc.inference.prepare(ask, servers)
            message = await svc.inference.message(ask, svc.upstream, prepared, emit)
        except DomainError as error:
            if not stream.begun:
                raise
            await stream.fail(error, ask.request_id)
            return
        if stream.begun:
            await send_part(send, b"", more=False)
        else:
            await begin(send, {"content-type": "application/json"})
            await send_part(send, encode(message), more=False)

    return Live(serve)


@router.post("/count_tokens")
async def count_tokens(svc: ServicesDep, ask: AskDep) -> Response:
    """Count the tokens of a message; a script has none."""
    servers = svc.inference.servers(ask)
    svc.inference.door.count_tokens(ask.asker)
    await svc.inference.note(
        ask, "messages.count_tokens", model=ask.body["model"], **digest(ask.data)
    )
    if ask.scripted:
        return reply({"input_tokens": 0})
    if svc.inference.hosted(ask):
        prepared, _ = await svc.inference.prepare(ask, servers)
        return reply({"input_tokens": await svc.inference.count(ask, prepared)})
    path = "/v1/messages/count_tokens"
    if not servers:
        return Live(lambda send: _relay(send, _open(svc, ask, path), ask))
    body, _ = await svc.inference.prepare(ask, servers)
    data, mcp = encode(body), "mcp_servers" in body
    return Live(lambda send: _relay(send, svc.upstream.send(path, data, ask.headers(mcp=mcp)), ask))


@asynccontextmanager
async def _open(svc: Services, ask: Ask, path: str) -> AsyncIterator[httpx2.Response]:
    async with svc.upstream.send(path, ask.data, ask.headers()) as response:
        yield response


async def _create(send: Send, svc: Services, ask: Ask) -> None:
    async with svc.inference.door.open(ask.asker) as counted:
        await _relay(send, _open(svc, ask, "/v1/messages"), ask, counted)


async def _relay(
    send: Send,
    opening: AbstractAsyncContextManager[httpx2.Response],
    ask: Ask,
    counted: Counted | None = None,
) -> None:
    """Pass an answer on as it arrives, byte by byte; it ends when its usage is written down."""
    async with opening as response:
        kept = {n: response.headers[n] for n in _KEPT_HEADERS if n in response.headers}
        streamed = kept.get("content-type", "").startswith("text/event-stream")
        await begin(send, {**kept, **SSE_HEADERS} if streamed else kept)
        if counted is not None:
            counted.tap.begin(streamed=streamed)
        try:
            async for chunk in response.aiter_raw():
                if counted is not None:
                    counted.tap.feed(chunk)
                if not await send_part(send, chunk):
                    log.info("client_stalled", request=ask.request_id)
                    return
        except httpx2.HTTPError as error:
            log.info("provider_broke_off", why=str(error)[:200])
            if not streamed:
                raise  # the connection is cut: half an answer must not look whole
            cut = Unavailable("the model provider's answer broke off")
            # Ends what the provider may have left half said, so that the error stands alone.
            await send_part(send, b"\n\n" + _error_frame(cut, ask.request_id), more=False)
            return
        if counted is not None:
            await counted.close()
        await send_part(send, b"", more=False)


class _Stream:
    """Events of a message as server-sent events; the headers go out with the first."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def emit(self, event: Mapping[str, Any]) -> None:
        if not self.begun:
            self.begun = True
            await begin(self._send, SSE_HEADERS)
        await send_part(self._send, frame(str(event["type"]), encode(event).decode()))

    async def fail(self, error: DomainError, request_id: str) -> None:
        await send_part(self._send, _error_frame(error, request_id), more=False)


def _error_frame(error: DomainError, request_id: str) -> bytes:
    return frame("error", encode(error_body(error, request_id)).decode())


async def _unheard(_event: Mapping[str, Any]) -> None:
    """Take an event that nobody waits for: the message is answered whole."""

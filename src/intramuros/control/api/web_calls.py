"""Our own ``/x/web_calls``: web calls that workers make, inside the perimeter.

For the keys that workers poll with: an environment key sees its environment's calls, a pool key
those of all cloud environments. See ``protocol/web_calls.py``.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.api.work import MAX_WORKER_CHARS
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session.web_queue import WebPoll
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.envelope import WORKER_HEADER
from intramuros.protocol.web_calls import MAX_WAIT_MS, PATH, TOOLS_HEADER, WebAnswer, WebClaim
from intramuros.web.base import FETCH, SEARCH

router = APIRouter(prefix=PATH, tags=["pool"])

Caller = Annotated[
    Principal,
    Depends(
        Gate(
            kinds=(CredentialKind.ENVIRONMENT_KEY, CredentialKind.POOL_KEY),
            beta=None,
            organization=True,
        )
    ),
]
ClaimBody = Annotated[WebClaim, Depends(Body(WebClaim))]
AnswerBody = Annotated[WebAnswer, Depends(Body(WebAnswer, nul=True))]


@router.get("/poll")
async def poll(
    caller: Caller,
    svc: ServicesDep,
    request: Request,
    wait_ms: Annotated[int | None, Query(ge=1, le=MAX_WAIT_MS)] = None,
    worker_id: Annotated[str | None, Header(alias=WORKER_HEADER)] = None,
    tools: Annotated[str | None, Header(alias=TOOLS_HEADER)] = None,
) -> Response:
    """Hand out the next call that a worker is to make, or the JSON literal null."""
    await request.body()  # else the end of the request hides the end of the connection
    named = frozenset(name.strip() for name in (tools or "").split(",") if name.strip())
    if not named or named - {FETCH, SEARCH}:
        raise InvalidRequest(f"{TOOLS_HEADER}: name {FETCH}, {SEARCH}, or both")
    holder = (worker_id or caller.credential_id)[:MAX_WORKER_CHARS]
    wanted = WebPoll(holder, named, (wait_ms or 0) / 1000, request.is_disconnected)
    found = await svc.web_queue.poll(caller, wanted)
    return reply(None if found is None else found.dump())


@router.post("/{call_id}/heartbeat")
async def beat(caller: Caller, svc: ServicesDep, call_id: str, body: ClaimBody) -> Response:
    """Take a worker's sign of life, and tell whether its answer would still be taken."""
    return reply({"wanted": await svc.web_queue.beat(caller, call_id, body)})


@router.post("/{call_id}")
async def answer(caller: Caller, svc: ServicesDep, call_id: str, body: AnswerBody) -> Response:
    """Take the answer to a call, once."""
    await svc.web_queue.answer(caller, call_id, body)
    return reply({"type": "web_call_answered", "id": call_id})

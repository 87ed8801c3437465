"""``/v1/sessions/{id}/events``: send, list and stream."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.bounds import BoundsDep
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.api.sessions import Reader
from intramuros.control.api.streaming import EventStream, Serve
from intramuros.control.identity.principal import Principal
from intramuros.control.session.stream import PREVIEWS, Follower, Mixer
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.events import PAGE_LIMIT, Position
from intramuros.control.store.notify import session_topic
from intramuros.control.store.records import Record
from intramuros.kernel.errors import InvalidRequest, PermissionDenied
from intramuros.protocol.events import RESULT_EVENTS, Inbound, SendEvents

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["events"])

MAX_PREVIEW_VALUES: Final = 100
MAX_TYPES: Final = 100
_POSITION: Final = re.compile(r"\d{1,18}\Z", re.ASCII)

SendBody = Annotated[SendEvents, Depends(Body(SendEvents, nul=True))]
PreviewQuery = Annotated[list[str] | None, Query(alias="event_deltas[]")]


async def _query(
    bounds: BoundsDep,
    order: Literal["asc", "desc"] = "asc",
    types: Annotated[list[str] | None, Query(alias="types[]", max_length=MAX_TYPES)] = None,
    limit: int | None = None,
) -> events.Query:
    return events.Query(
        order=order,
        types=frozenset(types or ()),
        from_us=bounds.from_us,
        until_us=bounds.until_us,
        limit=check_limit(limit, PAGE_LIMIT, PAGE_LIMIT),
    )


QueryDep = Annotated[events.Query, Depends(_query)]


async def _after(
    after_seq: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> int | None:
    """Return the position that a stream resumes behind.

    ``after_seq`` is our own addition: frames then carry their log position as the SSE id, and the
    stream starts behind that position, so that a client resumes where it broke. Browsers say where
    that was in ``Last-Event-ID``, which counts only beside it (contract 17.2).
    """
    if after_seq is None or last_event_id is None or not _POSITION.match(last_event_id):
        return after_seq
    return max(after_seq, int(last_event_id))


@dataclass(frozen=True)
class Line:
    """Whose events a stream shows: a child thread's, or the session's when None."""

    thread_id: str | None
    ended: bool = False


AfterDep = Annotated[int | None, Depends(_after)]


@router.post("/events")
async def send(caller: Reader, svc: ServicesDep, session_id: str, body: SendBody) -> Response:
    """Take events, all or none, and return them as stored (contract 13.1)."""
    _check_sender(caller, body.events)
    inbound = await svc.shelf.resolve(caller.workspace_id, body.events)
    stored = await svc.intake.accept(caller, session_id, inbound)
    return reply({"data": [record.public() for record in stored]})


@router.get("/events")
async def find(
    caller: Reader, svc: ServicesDep, session_id: str, query: QueryDep, page: str | None = None
) -> Response:
    """List what happened, then what waits (contract section 16)."""
    return await list_events(svc, caller, session_id, query, page)


@router.get("/events/stream")
async def stream(
    caller: Reader,
    svc: ServicesDep,
    session_id: str,
    event_deltas: PreviewQuery = None,
    after_seq: AfterDep = None,
) -> Response:
    """Stream what happens from now on (contract section 17)."""
    return await stream_events(svc, caller, session_id, event_deltas, after_seq)


async def list_events(
    svc: Services, caller: Principal, session_id: str, query: events.Query, cursor: str | None
) -> Response:
    """Answer with one page of a session's public events."""
    bound = {
        "list": "events",
        "session": session_id,
        **({"thread": query.thread_id} if query.thread_id else {}),
        "order": query.order,
        "types": sorted(query.types),
        "from": query.from_us,
        "until": query.until_us,
    }
    after = Position(*svc.cursors.open(bound, cursor)) if cursor else None
    placed = replace(query, after=after)

    def read(tx: Tx) -> tuple[list[Record], Position | None]:
        svc.sessions.look(tx, caller, session_id)
        return events.page(tx, session_id, placed)

    found, place = await svc.db.page(read, query.limit)
    next_page = svc.cursors.seal(bound, (place.waiting, place.seq)) if place else None
    return reply(page([record.public(query.thread_id) for record in found], next_page))


async def stream_events(
    svc: Services,
    caller: Principal,
    session_id: str,
    previews: Sequence[str] | None,
    after_seq: int | None = None,
    thread: Line | None = None,
) -> Response:
    """Answer with a stream of a session's events, or of a child thread's."""
    wanted = _check_previews(previews or ())
    await svc.db.read(lambda tx: svc.sessions.get(tx, caller, session_id))

    async def attach(serve: Serve) -> None:
        with svc.hub.subscribe(session_topic(session_id), whispers=bool(wanted)) as subscription:
            line = thread or Line(None)
            mixer = Mixer(wanted, numbered=after_seq is not None, thread_id=line.thread_id)
            follower = Follower(svc.db, svc.clock, svc.ids, subscription, mixer)
            await follower.open(session_id, after_seq, ended=line.ended)
            await serve(follower)

    return EventStream(attach)


def _check_sender(caller: Principal, inbound: Sequence[Inbound]) -> None:
    """Let workers post results only: a worker must not instruct or allow itself (contract 2.15)."""
    if caller.scoped:
        return
    for index, event in enumerate(inbound):
        if event.type not in RESULT_EVENTS:
            raise PermissionDenied(f"events[{index}]: {event.type} needs an API key")


def _check_previews(values: Sequence[str]) -> frozenset[str]:
    if len(values) > MAX_PREVIEW_VALUES:
        raise InvalidRequest(f"event_deltas[]: at most {MAX_PREVIEW_VALUES} values")
    unknown = sorted(set(values) - set(PREVIEWS))
    if unknown:
        raise InvalidRequest(
            f"event_deltas[]: {unknown[0][:80]!r} has no previews; use {' or '.join(PREVIEWS)}"
        )
    return frozenset(values)

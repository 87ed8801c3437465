"""``/v1/sessions``."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Developer, Gate, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.bounds import Bounds, BoundsDep
from intramuros.control.api.pages import check_limit
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.identity.principal import OF_WORKSPACES, Principal
from intramuros.control.session import listing, present
from intramuros.control.session.listing import DEFAULT_PAGE, MAX_PAGE
from intramuros.control.session.sessions import SessionRow
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.sessions import SessionCreate, SessionStatus, SessionUpdate

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

# Who may look at a session: its workspace, its environment's worker, its work item (contract 2.8).
Reader = Annotated[Principal, Depends(Gate(kinds=OF_WORKSPACES))]

CreateBody = Annotated[SessionCreate, Depends(Body(SessionCreate))]
UpdateBody = Annotated[SessionUpdate, Depends(Body(SessionUpdate))]


async def _origin(
    agent_id: str | None = None,
    agent_version: Annotated[int | None, Query(ge=1)] = None,
    deployment_id: str | None = None,
    memory_store_id: str | None = None,
) -> dict[str, Any]:
    """Return the filters by what a session was made of."""
    return {
        "agent_id": agent_id,
        "agent_version": agent_version,
        "deployment_id": deployment_id,
        "memory_store_id": memory_store_id,
    }


async def _filters(
    bounds: BoundsDep,
    origin: Annotated[dict[str, Any], Depends(_origin)],
    statuses: Annotated[list[SessionStatus] | None, Query(alias="statuses[]")] = None,
    *,
    include_archived: bool = False,
) -> dict[str, Any]:
    """Return the filters as fields of :class:`listing.Query`."""
    return {
        **origin,
        "statuses": tuple(statuses or ()),
        "include_archived": include_archived,
        "from_us": bounds.from_us,
        "until_us": bounds.until_us,
    }


FiltersDep = Annotated[dict[str, Any], Depends(_filters)]


@router.post("")
async def create(caller: Developer, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a session."""
    if body.initial_events:
        events = await svc.shelf.resolve(caller.workspace_id, body.initial_events)
        body = body.model_copy(update={"initial_events": events})
    # No key: nobody else knows the session yet.
    row = await svc.db.jot(lambda tx: svc.sessions.create(tx, caller, body), ())
    return _session(svc, row)


@router.get("")
async def find(
    caller: Developer,
    svc: ServicesDep,
    filters: FiltersDep,
    order: Literal["asc", "desc"] = "desc",
    limit: int | None = None,
    page: str | None = None,
) -> Response:
    """List sessions by time of creation (contract 4.11, 4.14, 4.15)."""
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    bound = {"list": "sessions", "workspace": caller.workspace_id, "order": order}
    backwards, after = False, None
    if page:
        backwards, at_us, last_id = svc.cursors.open(bound, page)
        after = (at_us, last_id)
        if not Bounds(filters["from_us"], filters["until_us"]).hold(at_us):
            raise InvalidRequest("page: created_at no longer includes where this cursor stands")
    query = listing.Query(order=order, limit=size, after=after, backwards=backwards, **filters)
    rows, beyond = await svc.db.page(
        lambda tx: svc.sessions.find(tx, caller.workspace_id, query), size
    )

    def seal(row: SessionRow, *, backwards: bool) -> str:
        return svc.cursors.seal(bound, (backwards, row.created_us, row.id))

    # Where we come from there is something; in the direction we read, only if the store said so.
    has_next = bool(rows) and (beyond or backwards)
    has_previous = bool(rows) and (beyond if backwards else after is not None)
    now_us = to_micros(svc.clock.now())
    return reply(
        {
            "data": [present.session(row, now_us) for row in rows],
            "next_page": seal(rows[-1], backwards=False) if has_next else None,
            "prev_page": seal(rows[0], backwards=True) if has_previous else None,
        }
    )


@router.get("/{session_id}")
async def retrieve(caller: Reader, svc: ServicesDep, session_id: str) -> Response:
    """Return a session."""
    row = await svc.db.glance(lambda tx: svc.sessions.look(tx, caller, session_id))
    return _session(svc, row)


@router.post("/{session_id}")
async def update(
    caller: Developer, svc: ServicesDep, session_id: str, body: UpdateBody
) -> Response:
    """Change a session's title, metadata, tools or MCP servers."""
    row = await svc.db.jot(lambda tx: svc.sessions.update(tx, caller, session_id, body))
    return _session(svc, row)


@router.post("/{session_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, session_id: str) -> Response:
    """End a session for good and keep its history."""
    row = await svc.db.write(lambda tx: svc.sessions.archive(tx, caller, session_id))
    return _session(svc, row)


@router.delete("/{session_id}")
async def delete(caller: Developer, svc: ServicesDep, session_id: str) -> Response:
    """Remove a session and its history."""
    await svc.db.write(lambda tx: svc.sessions.delete(tx, caller, session_id))
    return reply({"id": session_id, "type": "session_deleted"})


def _session(svc: Services, row: SessionRow) -> Response:
    return reply(present.session(row, to_micros(svc.clock.now())))

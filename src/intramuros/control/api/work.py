"""``/v1/environments/{id}/work``: the door of workers and of those who look after them."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import Developer, Gate, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.identity.principal import OF_WORKSPACES, CredentialKind, Principal
from intramuros.control.session import present
from intramuros.control.session.work import POLLING_US, Poll
from intramuros.control.store import work as rows
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import NotFound
from intramuros.kernel.timing import to_micros
from intramuros.protocol.envelope import WORKER_HEADER
from intramuros.protocol.resources.work import WorkStop, WorkUpdate
from intramuros.protocol.work import DEFAULT_RECLAIM_MS, MAX_BLOCK_MS, Item

router = APIRouter(prefix="/v1/environments/{environment_id}/work", tags=["work"])

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
# Our own workers may be held longer than the contract's block_ms; below common proxy timeouts.
MAX_WAIT_MS: Final = 25_000
# A day; nobody reclaims later than that.
MAX_RECLAIM_MS: Final = 24 * 3600 * 1000
MAX_WORKER_CHARS: Final = 256

_KEY, _TOKEN = CredentialKind.ENVIRONMENT_KEY, CredentialKind.SESSIONS_TOKEN
# Contract 2.4, 2.12-2.14, AMB 43.
Poller = Annotated[Principal, Depends(Gate(kinds=(_KEY,)))]
Holder = Annotated[Principal, Depends(Gate(kinds=(_KEY, _TOKEN)))]
Watcher = Annotated[Principal, Depends(Gate(kinds=(CredentialKind.API_KEY, _KEY)))]
Stopper = Annotated[Principal, Depends(Gate(kinds=OF_WORKSPACES))]

StopBody = Annotated[WorkStop, Depends(Body(WorkStop))]
UpdateBody = Annotated[WorkUpdate, Depends(Body(WorkUpdate))]


async def _poll(
    request: Request,
    block_ms: Annotated[int | None, Query(ge=1, le=MAX_BLOCK_MS)] = None,
    reclaim_older_than_ms: Annotated[int | None, Query(ge=0, le=MAX_RECLAIM_MS)] = None,
    wait_ms: Annotated[int | None, Query(ge=1, le=MAX_WAIT_MS)] = None,
    worker_id: Annotated[str | None, Header(alias=WORKER_HEADER)] = None,
) -> Poll:
    await request.body()  # else the end of the request hides the end of the connection
    reclaim_ms = DEFAULT_RECLAIM_MS if reclaim_older_than_ms is None else reclaim_older_than_ms
    return Poll(
        environment_id=request.path_params.get("environment_id"),
        worker_id=worker_id[:MAX_WORKER_CHARS] if worker_id else None,
        wait_s=(wait_ms or block_ms or 0) / 1000,
        reclaim_us=reclaim_ms * 1000,
        gone=request.is_disconnected,
    )


PollDep = Annotated[Poll, Depends(_poll)]


@router.get("/poll")
async def poll(caller: Poller, svc: ServicesDep, environment_id: str, wanted: PollDep) -> Response:
    """Hand out the next item, or the JSON literal null (contract 9.9-9.14).

    ``wait_ms`` is our own addition: it holds an empty poll open for longer than block_ms may.
    """
    caller.require_environment(environment_id)
    found = await svc.work.poll(caller, wanted)
    return reply(None if found is None else present.work(*found))


@router.get("/stats")
async def stats(caller: Watcher, svc: ServicesDep, environment_id: str) -> Response:
    """Return how many items wait and how many workers poll (contract 9.37, 9.38)."""

    def read(tx: Tx) -> dict[str, object]:
        _check_environment(tx, caller, environment_id)
        waiting, pending, oldest_us = rows.count_queued(tx, environment_id)
        since_us = to_micros(svc.clock.now()) - POLLING_US
        return {
            "type": "work_queue_stats",
            "depth": waiting,
            "pending": pending,
            "oldest_queued_at": present.time_text(oldest_us),
            "workers_polling": rows.count_pollers(tx, environment_id, since_us),
        }

    return reply(await svc.db.read(read))


@router.get("")
async def find(
    caller: Poller,
    svc: ServicesDep,
    environment_id: str,
    limit: int | None = None,
    page_cursor: Annotated[str | None, Query(alias="page")] = None,
) -> Response:
    """List an environment's items, newest first."""
    caller.require_environment(environment_id)
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    bound = {"list": "work", "environment": environment_id}
    after = None
    if page_cursor:
        at_us, last_id = svc.cursors.open(bound, page_cursor)
        after = (at_us, last_id)
    items, place = await svc.db.page(lambda tx: rows.page(tx, environment_id, size, after))
    next_page = None if place is None else svc.cursors.seal(bound, place)
    return reply(page([present.work(item) for item in items], next_page))


@router.get("/{work_id}")
async def retrieve(
    caller: Developer, svc: ServicesDep, environment_id: str, work_id: str
) -> Response:
    """Return an item."""

    def read(tx: Tx) -> Item:
        _check_environment(tx, caller, environment_id)
        return svc.work.get(tx, environment_id, work_id)

    return reply(present.work(await svc.db.read(read)))


@router.post("/{work_id}")
async def update(
    caller: Developer, svc: ServicesDep, environment_id: str, work_id: str, body: UpdateBody
) -> Response:
    """Change an item's metadata."""

    def write(tx: Tx) -> Item:
        _check_environment(tx, caller, environment_id)
        return svc.work.update(tx, environment_id, work_id, body.metadata)

    return reply(present.work(await svc.db.write(write)))


@router.post("/{work_id}/ack")
async def acknowledge(
    caller: Holder, svc: ServicesDep, environment_id: str, work_id: str
) -> Response:
    """Take an item off the queue."""

    def write(tx: Tx) -> Item:
        _check_item(tx, caller, environment_id, work_id)
        return svc.work.acknowledge(tx, caller, environment_id, work_id)

    return reply(present.work(await svc.db.write(write)))


@router.post("/{work_id}/heartbeat")
async def heartbeat(
    caller: Holder,
    svc: ServicesDep,
    environment_id: str,
    work_id: str,
    expected_last_heartbeat: str | None = None,
    desired_ttl_seconds: int | None = None,
) -> Response:
    """Extend the lease on an item (contract 9.20-9.26)."""

    def write(tx: Tx) -> tuple[Item, bool]:
        _check_item(tx, caller, environment_id, work_id)
        return svc.work.beat(
            tx,
            environment_id,
            work_id,
            expected=expected_last_heartbeat,
            desired_ttl_s=desired_ttl_seconds,
        )

    # No key: a beat changes its own row alone, and holds that.
    item, extended = await svc.db.write(write, ())
    return reply(present.heartbeat(item, extended=extended))


@router.post("/{work_id}/stop")
async def stop(
    caller: Stopper, svc: ServicesDep, environment_id: str, work_id: str, body: StopBody
) -> Response:
    """Ask for an item to be stopped, or stop it at once."""

    def write(tx: Tx) -> Item:
        _check_item(tx, caller, environment_id, work_id)
        return svc.sessions.stop_work(tx, caller, environment_id, work_id, force=bool(body.force))

    return reply(present.work(await svc.db.write(write)))


def _check_environment(tx: Tx, caller: Principal, environment_id: str) -> None:
    """Let in API keys of the environment's workspace, and its own keys and tokens."""
    caller.require_environment(environment_id)
    if caller.environment_id is None:
        service.get(tx, caller.workspace_id, ENVIRONMENT, environment_id)


def _check_item(tx: Tx, caller: Principal, environment_id: str, work_id: str) -> None:
    _check_environment(tx, caller, environment_id)
    if caller.work_id is not None and caller.work_id != work_id:
        raise NotFound(f"no work item {work_id!r} in environment {environment_id!r}")

"""Our own ``/x/sessions/{id}/…``: files between a cloud session's sandbox and its session.

For whoever runs the sandbox, with its work item's token and nobody else's.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep, actor_of
from intramuros.control.api.downloads import download
from intramuros.control.api.files import discard, refuse_when_full
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import files, outputs
from intramuros.control.catalog.outputs import Place
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store.blobs import Blob, new_key
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import DomainError, InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.mounts import check_relative

router = APIRouter(prefix="/x/sessions/{session_id}", tags=["sandbox files"])

Holder = Annotated[
    Principal, Depends(Gate(kinds=(CredentialKind.SESSIONS_TOKEN,), scope=None, beta=None))
]


async def _place(session_id: str, path: Annotated[str, Query(max_length=4096)]) -> Place:
    try:
        return Place(session_id, check_relative(path))
    except ValueError as error:
        raise InvalidRequest(f"path: {error}") from error


PlaceDep = Annotated[Place, Depends(_place)]


def _check(svc: Services, tx: Tx, caller: Principal, session_id: str) -> None:
    """Let the token of one cloud session reach that session.

    Raises:
        NotFound: another session.
        InvalidRequest: a self-hosted one, whose files stay where it runs.
    """
    if svc.sessions.get(tx, caller, session_id).environment_kind != "cloud":
        raise InvalidRequest("files: only sessions of cloud environments bring files")


@router.get("/files/{file_id}/content")
async def content(caller: Holder, svc: ServicesDep, session_id: str, file_id: str) -> Response:
    """Return the bytes of a file that the session has mounted."""
    now_us = to_micros(svc.clock.now())

    def read(tx: Tx) -> tuple[Resource, Blob]:
        _check(svc, tx, caller, session_id)
        return files.of_session(tx, caller.workspace_id, session_id, file_id, now_us)

    file, blob = await svc.db.read(read)
    return await download(svc.blobs, blob, file.body["filename"], file.body["mime_type"], None)


@router.get("/outputs")
async def find(caller: Holder, svc: ServicesDep, session_id: str) -> Response:
    """List the outputs that are there, each with its digest."""

    def read(tx: Tx) -> dict[str, Resource]:
        _check(svc, tx, caller, session_id)
        return outputs.find(tx, caller.workspace_id, session_id)

    return reply({"data": outputs.present(await svc.db.read(read))})


@router.put("/outputs")
async def put(caller: Holder, svc: ServicesDep, place: PlaceDep, request: Request) -> Response:
    """Store what the agent left at a path; the body is its bytes."""
    actor = actor_of(svc, caller)
    await svc.db.read(lambda tx: _check(svc, tx, caller, place.session_id))
    await refuse_when_full(svc, request)
    blob = await svc.blobs.put(new_key(), request.stream(), svc.storage.max_file_bytes)

    def write(tx: Tx) -> tuple[Resource, list[str]]:
        _check(svc, tx, caller, place.session_id)
        return outputs.put(tx, actor, place, blob, svc.storage.quota_bytes)

    try:
        made, dropped = await svc.db.write(write)
    except DomainError:
        await discard(svc, [blob.key])
        raise
    await discard(svc, dropped)
    return reply(files.present(made))


@router.delete("/outputs")
async def remove(caller: Holder, svc: ServicesDep, place: PlaceDep) -> Response:
    """Take away what the agent has removed."""
    actor = actor_of(svc, caller)

    def write(tx: Tx) -> list[str]:
        _check(svc, tx, caller, place.session_id)
        return outputs.remove(tx, actor, place)

    dropped = await svc.db.write(write)
    await discard(svc, dropped)
    return reply({"path": place.path, "type": "output_deleted"})

"""``/v1/files``."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import Operator, ServicesDep, actor_of
from intramuros.control.api.downloads import download
from intramuros.control.api.lists import Paging, PagingDep, list_resources
from intramuros.control.api.multipart import Multipart, Part
from intramuros.control.api.pages import page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import files, service
from intramuros.control.catalog.files import NewFile
from intramuros.control.catalog.kinds import FILE
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob, new_key
from intramuros.kernel.errors import DomainError, InvalidRequest, Unavailable
from intramuros.kernel.telemetry import logger
from intramuros.protocol.resources.files import MAX_EXPIRY_S, MAX_IDS, MIN_EXPIRY_S

router = APIRouter(prefix="/v1/files", tags=["files"])

log = logger("api")

# What a body holds besides the file.
ENVELOPE_BYTES: Final = 64 * 1024
RangeHeader = Annotated[str | None, Header(alias="range")]


@router.post("")
async def upload(caller: Operator, svc: ServicesDep, request: Request) -> Response:
    """Store a file; the body is multipart (contract-2 R175)."""
    body = Multipart(request)
    await refuse_when_full(svc, request)
    form = await _Form(svc, body).read()
    actor = actor_of(svc, caller)
    try:
        made = await svc.db.write(
            lambda tx: files.add(tx, actor, form.new(), form.stored(), svc.storage.quota_bytes)
        )
    except DomainError:
        await form.discard()
        raise
    return reply(files.present(made))


@router.get("")
async def find(
    caller: Operator,
    svc: ServicesDep,
    paging: PagingDep,
    scope_id: str | None = None,
    ids: Annotated[list[str] | None, Query(alias="ids[]")] = None,
) -> Response:
    """List files, newest first."""
    if ids:
        return await _find_by_ids(svc, caller.workspace_id, ids, paging)
    narrow: dict[str, Any] = {} if scope_id is None else {"parent_id": scope_id}
    return await list_resources(svc, caller, FILE, files.present, paging, narrow)


@router.get("/{file_id}")
async def retrieve(caller: Operator, svc: ServicesDep, file_id: str) -> Response:
    """Return a file's metadata."""
    found = await svc.db.glance(lambda tx: service.get(tx, caller.workspace_id, FILE, file_id))
    return reply(files.present(found))


@router.get("/{file_id}/content")
async def content(
    caller: Operator, svc: ServicesDep, file_id: str, wanted: RangeHeader = None
) -> Response:
    """Return a file's bytes, with an audit record."""
    caller.require_content()
    actor = actor_of(svc, caller)
    file, blob = await svc.db.write(lambda tx: files.read(tx, actor, file_id))
    body = file.body
    return await download(svc.blobs, blob, body["filename"], body["mime_type"], wanted)


@router.delete("/{file_id}")
async def delete(caller: Operator, svc: ServicesDep, file_id: str) -> Response:
    """Delete a file at once."""
    actor = actor_of(svc, caller)
    keys = await svc.db.write(lambda tx: files.remove(tx, actor, file_id))
    await discard(svc, keys)
    return reply({"id": file_id, "type": "file_deleted"})


async def refuse_when_full(svc: Services, request: Request) -> None:
    """Refuse an upload that cannot fit before reading it.

    Raises:
        InvalidRequest: with the code ``storage_quota_exceeded``.
    """
    length = request.headers.get("content-length", "0")
    more = int(length[:20]) - ENVELOPE_BYTES if length.isdigit() else 0
    quota = svc.storage.quota_bytes
    await svc.db.read(lambda tx: holdings.check_quota(tx, max(0, more), quota))


async def discard(svc: Services, keys: list[str]) -> None:
    """Remove blobs that nothing refers to; what stays is swept later."""
    try:
        await svc.blobs.remove(keys)
    except Unavailable as error:
        log.warning("blobs_left_to_the_sweep", count=len(keys), error=repr(error))


class _Form:
    """An upload's parts, in whatever order they come."""

    def __init__(self, svc: Services, body: Multipart) -> None:
        self._svc = svc
        self._body = body
        self._blob: Blob | None = None
        self._part: Part | None = None
        self._expires_in_s: int | None = None

    async def read(self) -> "_Form":
        """Read the whole body; the file goes to the store as it arrives."""
        try:
            while (part := await self._body.next_part()) is not None:
                await self._take(part)
            if self._blob is None:
                raise InvalidRequest("file: send the file as the part `file`")
        except DomainError:
            await self.discard()
            raise
        return self

    async def discard(self) -> None:
        """Remove what was stored."""
        if self._blob is not None:
            await discard(self._svc, [self._blob.key])

    def new(self) -> NewFile:
        """Return what the form describes."""
        assert self._part is not None
        return NewFile(
            self._part.filename or "",
            self._part.content_type,
            self._expires_in_s,
            downloadable=self._svc.storage.uploads_downloadable,
        )

    def stored(self) -> Blob:
        """Return the file's bytes."""
        assert self._blob is not None
        return self._blob

    async def _take(self, part: Part) -> None:
        if part.name == "file":
            if self._blob is not None:
                raise InvalidRequest("file: send one file at a time")
            # The name is judged before the bytes are taken.
            files.name_and_type(part.filename or "", part.content_type)
            self._part = part
            limit = self._svc.storage.max_file_bytes
            self._blob = await self._svc.blobs.put(new_key(), self._body.data(), limit)
        elif part.name == "expires_in_seconds":
            self._expires_in_s = _expiry(await self._body.text(part))
        elif not self._svc.lenient:
            raise InvalidRequest(f"{part.name[:80]}: unknown field")


def _expiry(text: str) -> int:
    digits = text.strip()
    seconds = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1
    if not MIN_EXPIRY_S <= seconds <= MAX_EXPIRY_S:
        raise InvalidRequest(f"expires_in_seconds: from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}")
    return seconds


async def _find_by_ids(
    svc: Services, workspace_id: str, ids: list[str], paging: Paging
) -> Response:
    wanted = set(ids)
    if paging.page is not None or paging.limit is not None:
        raise InvalidRequest("ids: cannot be combined with page or limit")
    if len(wanted) > MAX_IDS:
        raise InvalidRequest(f"ids: at most {MAX_IDS} distinct ids")
    found = await svc.db.read(lambda tx: files.by_ids(tx, workspace_id, wanted))
    return reply(page([files.present(file) for file in found], None))

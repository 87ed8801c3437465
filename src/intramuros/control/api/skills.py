"""``/v1/skills`` and the versions below it."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Annotated, Final, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from intramuros.control.api.access import Gate, Operator, ServicesDep, actor_of
from intramuros.control.api.downloads import download
from intramuros.control.api.files import discard, refuse_when_full
from intramuros.control.api.lists import Paging, PagingDep, list_resources
from intramuros.control.api.multipart import Multipart, Part
from intramuros.control.api.pages import page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import bundles, service, skills
from intramuros.control.catalog.bundles import Entry
from intramuros.control.catalog.kinds import SKILL, SKILL_VERSION
from intramuros.control.identity.principal import OF_WORKSPACES, Principal
from intramuros.control.store import session_skills
from intramuros.control.store.blobs import CHUNK_BYTES, Blob, new_key
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import DomainError, InvalidRequest, NotFound
from intramuros.protocol.resources.skills import MAX_FILES, MAX_SKILL_BYTES, Manifest, display_name

router = APIRouter(prefix="/v1/skills", tags=["skills"])

T = TypeVar("T")

# Heads of parts, and what a zip adds to what it holds.
ENVELOPE_BYTES: Final = 4 * 1024 * 1024
# Workers read the skills of their sessions (contract-1 2.7, 2.8).
Reader = Annotated[Principal, Depends(Gate(kinds=OF_WORKSPACES, beta=None))]
RangeHeader = Annotated[str | None, Header(alias="range")]


@router.post("")
async def create(caller: Operator, svc: ServicesDep, request: Request) -> Response:
    """Create a skill from its files or a zip of them (contract-2 R190)."""
    actor = actor_of(svc, caller)
    made = await _upload(
        svc,
        request,
        lambda tx, upload, form: skills.create(tx, actor, upload, form.display_name),
        named=True,
    )
    return reply(skills.present(made))


@router.get("")
async def find(
    caller: Operator, svc: ServicesDep, paging: PagingDep, source: str | None = None
) -> Response:
    """List skills, newest first."""
    if source not in {None, "", "custom", "anthropic"}:
        raise InvalidRequest("source: expected custom or anthropic")
    if source == "anthropic":
        return reply(page([], None))
    return await list_resources(svc, caller, SKILL, skills.present, paging)


@router.get("/{skill_id}")
async def retrieve(caller: Reader, svc: ServicesDep, skill_id: str) -> Response:
    """Return a skill."""

    def read(tx: Tx) -> service.Resource:
        _check_reader(tx, caller, skill_id)
        return service.get(tx, caller.workspace_id, SKILL, skill_id)

    return reply(skills.present(await svc.db.read(read)))


@router.delete("/{skill_id}")
async def delete(caller: Operator, svc: ServicesDep, skill_id: str) -> Response:
    """Delete a skill and its versions."""
    actor = actor_of(svc, caller)
    await discard(svc, await svc.db.write(lambda tx: skills.remove(tx, actor, skill_id)))
    return reply({"id": skill_id, "type": "skill_deleted"})


@router.post("/{skill_id}/versions")
async def create_version(
    caller: Operator, svc: ServicesDep, skill_id: str, request: Request
) -> Response:
    """Upload a complete next version."""
    await svc.db.read(lambda tx: service.get(tx, caller.workspace_id, SKILL, skill_id))
    actor = actor_of(svc, caller)
    made = await _upload(
        svc, request, lambda tx, upload, _: skills.add_version(tx, actor, skill_id, upload)
    )
    return reply(skills.present_version(made))


@router.get("/{skill_id}/versions")
async def find_versions(
    caller: Operator, svc: ServicesDep, skill_id: str, paging: PagingDep
) -> Response:
    """List a skill's versions, newest first."""
    await svc.db.read(lambda tx: service.get(tx, caller.workspace_id, SKILL, skill_id))
    narrow = {"parent_id": skill_id}
    paging = Paging(paging.limit, paging.page)
    return await list_resources(svc, caller, SKILL_VERSION, skills.present_version, paging, narrow)


@router.get("/{skill_id}/versions/{version}")
async def retrieve_version(
    caller: Reader, svc: ServicesDep, skill_id: str, version: str
) -> Response:
    """Return a version by its id, or the newest as ``latest``."""

    def read(tx: Tx) -> service.Resource:
        _check_reader(tx, caller, skill_id)
        return skills.version_of(tx, caller.workspace_id, skill_id, version, alias=True)

    return reply(skills.present_version(await svc.db.read(read)))


@router.get("/{skill_id}/versions/{version}/content")
async def content(
    caller: Reader, svc: ServicesDep, skill_id: str, version: str, wanted: RangeHeader = None
) -> Response:
    """Return a version's archive, a zip."""
    caller.require_content()

    def read(tx: Tx) -> tuple[str, Blob]:
        _check_reader(tx, caller, skill_id)
        found = skills.version_of(tx, caller.workspace_id, skill_id, version)
        return found.body["name"], skills.archive_of(tx, found)

    name, blob = await svc.db.read(read)
    return await download(svc.blobs, blob, f"{name}.zip", "application/zip", wanted)


@router.delete("/{skill_id}/versions/{version}")
async def delete_version(
    caller: Operator, svc: ServicesDep, skill_id: str, version: str
) -> Response:
    """Delete a version that is not the only one."""
    actor = actor_of(svc, caller)
    keys = await svc.db.write(lambda tx: skills.remove_version(tx, actor, skill_id, version))
    await discard(svc, keys)
    return reply({"id": version, "type": "skill_version_deleted"})


def _check_reader(tx: Tx, caller: Principal, skill_id: str) -> None:
    """Let workers read what their sessions use, and nothing else (contract-1 AMB 43).

    Raises:
        NotFound: as though the skill did not exist.
    """
    if caller.scoped:
        return
    allowed = (
        session_skills.in_session(tx, caller.session_id, skill_id)
        if caller.session_id is not None
        else session_skills.in_environment(tx, str(caller.environment_id), skill_id)
    )
    if not allowed:
        raise NotFound(f"no skill {skill_id[:80]!r}")


@dataclass
class _Form:
    """An upload's parts, spooled to one temporary file."""

    spool: IO[bytes]
    entries: list[Entry] = field(default_factory=list)
    zip_at: tuple[int, int] | None = None
    display_name: str | None = None
    size: int = 0

    async def read(self, body: Multipart, *, named: bool, lenient: bool) -> None:
        """Read the whole body."""
        while (part := await body.next_part()) is not None:
            if part.name in {"files", "files[]"}:
                await self._file(body, part)
            elif part.name == "display_name" and named:
                self.display_name = _display_name(await body.text(part))
            elif not lenient:
                raise InvalidRequest(f"{part.name[:80]}: unknown field")
        if self.zip_at is not None and len(self.entries) > 1:
            raise InvalidRequest("files: send one zip archive, or the files themselves")

    def pack(self, target: IO[bytes]) -> Manifest:
        """Write the archive; blocks."""
        if self.zip_at is None:
            return bundles.pack(self.entries, target)
        self.spool.seek(0)
        with bundles.unzipped(self.spool) as entries:
            return bundles.pack(entries, target)

    async def _file(self, body: Multipart, part: Part) -> None:
        if len(self.entries) >= MAX_FILES:
            raise InvalidRequest(f"files: at most {MAX_FILES} files")
        start = self.size
        async for chunk in body.data():
            self.size += len(chunk)
            if self.size >= MAX_SKILL_BYTES:
                raise bundles.too_large()
            self.spool.write(chunk)
        path = part.filename or ""
        if "/" not in path and path.lower().endswith((".zip", ".skill")):
            self.zip_at = (start, self.size)
        read = bundles.spooled(self.spool, start, self.size - start)
        self.entries.append(Entry(path, read))


def _display_name(text: str) -> str | None:
    try:
        return display_name(text) if text else None
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


async def _upload(
    svc: Services,
    request: Request,
    store: Callable[[Tx, skills.Upload, _Form], T],
    *,
    named: bool = False,
) -> T:
    body = Multipart(request)
    await refuse_when_full(svc, request)
    with ExitStack() as stack:
        # A temporary file's pages are as good as memory for writing, and the kernel may drop them.
        spool = stack.enter_context(tempfile.TemporaryFile())
        target = stack.enter_context(tempfile.TemporaryFile())
        form = _Form(spool)
        await form.read(body, named=named, lenient=svc.lenient)
        manifest = await to_thread.run_sync(form.pack, target)
        target.seek(0)
        limit = MAX_SKILL_BYTES + ENVELOPE_BYTES
        blob = await svc.blobs.put(new_key(), _chunks(target), limit)
    upload = skills.Upload(manifest, blob, svc.storage.quota_bytes)
    try:
        return await svc.db.write(lambda tx: store(tx, upload, form))
    except DomainError:
        await discard(svc, [blob.key])
        raise


async def _chunks(source: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await to_thread.run_sync(source.read, CHUNK_BYTES):
        yield chunk

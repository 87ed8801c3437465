"""Files: their metadata as resources, their bytes in the blob store."""

import mimetypes
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import FILE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.files import File, file_name

DEFAULT_TYPE: Final = "application/octet-stream"
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\Z")
# Without the host's own tables, so that every server answers alike.
_TYPES: Final = mimetypes.MimeTypes(filenames=())


@dataclass(frozen=True)
class NewFile:
    """What is to become a file.

    Args:
        filename: as it was sent, or empty.
        mime_type: as it was sent, or empty.
        expires_in_s: seconds until its bytes go; None keeps them.
        session_id: the session it belongs to (its scope).
        path: where it lies below a session's outputs.
        downloadable: whether its content may be read again.
    """

    filename: str
    mime_type: str
    expires_in_s: int | None = None
    session_id: str | None = None
    path: str | None = None
    downloadable: bool = False


def name_and_type(filename: str, mime_type: str) -> tuple[str, str]:
    """Return an uploaded file's name and type, made up where they were not sent.

    Raises:
        InvalidRequest: the name cannot be (contract-2 R177).
    """
    try:
        name = file_name(filename)
    except ValueError as error:
        raise InvalidRequest(f"file: {error}") from error
    kind = mime_type.partition(";")[0].strip().lower()
    if not _TYPE.match(kind):
        kind = _TYPES.guess_type(name)[0] or DEFAULT_TYPE
    return name or "unnamed" + (_TYPES.guess_extension(kind) or ""), kind


def add(tx: Tx, actor: Actor, new: NewFile, blob: Blob, quota_bytes: int) -> Resource:
    """Store a file whose bytes are durable already.

    Raises:
        InvalidRequest: it does not fit any more, or its name cannot be.
    """
    holdings.check_quota(tx, blob.size_bytes, quota_bytes)
    name, kind = name_and_type(new.filename, new.mime_type)
    expires_us = None
    if new.expires_in_s is not None:
        expires_us = to_micros(actor.clock.now()) + new.expires_in_s * 1_000_000
    body = {
        "filename": name,
        "mime_type": kind,
        "size_bytes": blob.size_bytes,
        "sha256": blob.sha256,
        "downloadable": new.downloadable,
        "expires_us": expires_us,
    }
    if new.path is not None:
        body["path"] = new.path
    made = service.create(tx, actor, FILE, body, parent_id=new.session_id)
    holdings.take(tx, actor.workspace_id, made.id, blob, expires_us=expires_us)
    return made


def copy(tx: Tx, actor: Actor, file_id: str, session_id: str) -> Resource:
    """Make a session's own copy of a file; its bytes are shared and never expire (R184).

    Raises:
        NotFound: no such file here, or it has expired.
    """
    now_us = to_micros(actor.clock.now())
    file, blob = of_workspace(tx, actor.workspace_id, file_id, now_us)
    body = {**file.body, "expires_us": None}
    made = service.create(tx, actor, FILE, body, parent_id=session_id)
    holdings.take(tx, actor.workspace_id, made.id, blob, counted=False)
    return made


def by_ids(tx: Tx, workspace_id: str, ids: Collection[str]) -> list[Resource]:
    """Return those of the files that exist here, newest first (contract-2 R172)."""
    return [
        service.get(tx, workspace_id, FILE, file_id)
        for file_id in tx.execute(
            select(resources.c.id)
            .where(
                resources.c.id.in_(list(ids)),
                resources.c.kind == FILE.name,
                resources.c.workspace_id == workspace_id,
            )
            .order_by(resources.c.created_us.desc(), resources.c.id.desc())
        ).scalars()
    ]


def content(tx: Tx, workspace_id: str, file_id: str, now_us: int) -> tuple[Resource, Blob]:
    """Return a file that may be downloaded, and where its bytes are.

    Raises:
        NotFound: no such file, or it has expired (``file_expired``).
        InvalidRequest: a client uploaded it (``file_not_downloadable``, contract-2 R178).
    """
    file, blob = of_workspace(tx, workspace_id, file_id, now_us)
    if not file.body["downloadable"]:
        raise InvalidRequest(
            f"file {file_id!r} was uploaded by a client and cannot be downloaded",
            code="file_not_downloadable",
        )
    return file, blob


def read(tx: Tx, actor: Actor, file_id: str) -> tuple[Resource, Blob]:
    """Return what :func:`content` does for somebody who is about to get it, with an audit record.

    Raises:
        NotFound: no such file, or it has expired (``file_expired``).
        InvalidRequest: a client uploaded it (``file_not_downloadable``, contract-2 R178).
    """
    file, blob = content(tx, actor.workspace_id, file_id, to_micros(actor.clock.now()))
    fields = {"id": file_id, "by": actor.by, "size": blob.size_bytes, "sha256": blob.sha256}
    audit.record(tx, actor.clock, "file.download", workspace_id=actor.workspace_id, fields=fields)
    return file, blob


def of_workspace(tx: Tx, workspace_id: str, file_id: str, now_us: int) -> tuple[Resource, Blob]:
    """Return a file and where its bytes are, for the server's own use: a model request, a copy.

    Raises:
        NotFound: no such file here, or it has expired (``file_expired``).
    """
    file = service.get(tx, workspace_id, FILE, file_id)
    expires_us = file.body["expires_us"]
    blob = holdings.of(tx, file.id)
    if blob is None or (expires_us is not None and expires_us <= now_us):
        raise NotFound(f"file {file_id!r} has expired", code="file_expired")
    return file, blob


def of_session(
    tx: Tx, workspace_id: str, session_id: str, file_id: str, now_us: int
) -> tuple[Resource, Blob]:
    """Return a session's own file and where its bytes are, for whoever runs its sandbox.

    Raises:
        NotFound: no such file of that session.
    """
    file, blob = of_workspace(tx, workspace_id, file_id, now_us)
    if file.parent_id != session_id:
        raise NotFound(f"no file {file_id!r}")
    return file, blob


def remove(tx: Tx, actor: Actor, file_id: str) -> list[str]:
    """Delete a file and return the keys of the blobs that may go.

    Raises:
        NotFound: no such file.
    """
    service.remove(tx, actor, service.get(tx, actor.workspace_id, FILE, file_id))
    return holdings.drop(tx, [file_id])


def remove_of_session(tx: Tx, actor: Actor, session_id: str) -> None:
    """Delete the files of a deleted session (contract-2 R185); their bytes go with the sweep."""
    ids = tx.execute(
        select(resources.c.id).where(
            resources.c.parent_id == session_id, resources.c.kind == FILE.name
        )
    ).scalars()
    for file_id in ids.all():
        remove(tx, actor, file_id)


def present(file: Resource) -> dict[str, Any]:
    """Return the file as answers show it (contract-2 R174)."""
    body, scope = file.body, file.parent_id
    expires_us = body["expires_us"]
    return File(
        id=file.id,
        filename=body["filename"],
        mime_type=body["mime_type"],
        size_bytes=body["size_bytes"],
        downloadable=body["downloadable"],
        scope=None if scope is None else {"type": "session", "id": scope},
        created_at=rfc3339(from_micros(file.created_us)),
        expires_at=None if expires_us is None else rfc3339(from_micros(expires_us)),
    ).model_dump()

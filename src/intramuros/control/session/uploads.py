"""Files that sessions mount: chosen when a session is created, added and removed while it lives.

A mounted file is a copy of the session's own, so that the one it was made of may go.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, update

from intramuros.control.catalog import files
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import rfc3339, to_micros
from intramuros.protocol.resources.mounts import (
    MAX_FILES,
    UPLOADS,
    FileParam,
    FileResource,
)
from intramuros.protocol.resources.repositories import RepositoryParam

Shown = dict[str, Any]


def check(environment_id: str, kind: str, wanted: Sequence[FileParam | RepositoryParam]) -> None:
    """Make sure that an environment of this kind mounts files and repositories.

    Raises:
        InvalidRequest: it does not (contract 8.13).
    """
    if wanted and kind != "cloud":
        raise InvalidRequest(
            f"resources: environment {environment_id!r} is self-hosted and mounts memory stores "
            f"only, no {wanted[0].type}"
        )


def mount(
    tx: Tx, actor: Actor, session_id: str, wanted: Sequence[FileParam], there: Sequence[Shown] = ()
) -> list[Shown]:
    """Copy files for a session and return its new resources as answers show them.

    Args:
        there: what the session has mounted already.

    Raises:
        NotFound: no such file here, or it has expired.
        InvalidRequest: too many, or two at one place.
    """
    taken = [shown["mount_path"] for shown in there if shown["type"] == "file"]
    if len(taken) + len(wanted) > MAX_FILES:
        raise InvalidRequest(f"resources: at most {MAX_FILES} files mount into a session")
    mounted: list[Shown] = []
    for param in wanted:
        place = param.mount_path or f"{UPLOADS}/{param.file_id}"
        check_free(place, taken)
        taken.append(place)
        copy = files.copy(tx, actor, param.file_id, session_id)
        now = rfc3339(actor.clock.now())
        resource = FileResource(
            id=actor.ids.new("sesrsc"),
            file_id=copy.id,
            mount_path=place,
            created_at=now,
            updated_at=now,
        )
        # The model reads the name, clients look it up.
        mounted.append({**resource.model_dump(), "_filename": copy.body["filename"]})
    return mounted


def add(tx: Tx, actor: Actor, row: Row[Any], param: FileParam) -> Shown:
    """Mount one more file into a held session (contract 11.2).

    Raises:
        NotFound, InvalidRequest: as for :func:`mount`, or the session takes none.
    """
    check_open(row)
    check(row.environment_id, row.environment_kind, [param])
    (shown,) = mount(tx, actor, row.id, [param], row.resources)
    store(tx, actor, row.id, [*row.resources, shown])
    return public(shown)


def remove(tx: Tx, actor: Actor, row: Row[Any], resource_id: str) -> list[str]:
    """Take a file out of a held session; returns the keys of blobs that may go.

    Raises:
        NotFound: no such resource.
        InvalidRequest: archived, or a repository, which stays (contract 11.2).
    """
    check_open(row)
    gone = get(row.resources, resource_id)
    if gone["type"] != "file":
        raise InvalidRequest(f"{resource_id!r} is a {gone['type']}, which a session keeps")
    left = [shown for shown in row.resources if shown.get("id") != resource_id]
    store(tx, actor, row.id, left)
    return files.remove(tx, actor, gone["file_id"])


def get(resources: Sequence[Mapping[str, Any]], resource_id: str) -> Shown:
    """Return a session's resource by its id, which memory stores have not (contract 11.3).

    Raises:
        NotFound: no such resource.
    """
    for shown in resources:
        if shown.get("id") == resource_id:
            return public(shown)
    raise NotFound(f"no resource {resource_id[:80]!r} in this session")


def public(shown: Mapping[str, Any]) -> Shown:
    """Return a stored resource as answers show it."""
    return {name: value for name, value in shown.items() if not name.startswith("_")}


def check_open(row: Row[Any]) -> None:
    """Refuse to change what an ended session has mounted.

    Raises:
        InvalidRequest: it has ended.
    """
    if row.archived_us is not None or row.status == "terminated":
        raise InvalidRequest(f"session {row.id!r} has ended and its resources cannot change")


def check_free(place: str, taken: Sequence[str]) -> None:
    """Refuse a place that is another's, or below one, or above one.

    Raises:
        InvalidRequest: it is.
    """
    for other in taken:
        if f"{place}/".startswith(f"{other}/") or f"{other}/".startswith(f"{place}/"):
            raise InvalidRequest(f"mount_path: {place!r} and {other!r} are in each other's way")


def store(tx: Tx, actor: Actor, session_id: str, resources: Sequence[Shown]) -> None:
    """Store what a session has mounted now."""
    now_us = to_micros(actor.clock.now())
    tx.execute(
        update(sessions)
        .where(sessions.c.id == session_id)
        .values(resources=list(resources), updated_us=now_us)
    )

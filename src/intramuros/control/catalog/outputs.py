"""Files that agents leave in ``/mnt/session/outputs``: their session's, and for clients to fetch.

Each is known by its path below that directory; what is written there again replaces it.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from intramuros.control.catalog import files, service
from intramuros.control.catalog.files import NewFile
from intramuros.control.catalog.kinds import FILE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import InvalidRequest

# Of one session; more is rather a mistake of the agent's than a result.
MAX_OUTPUTS: Final = 1000


@dataclass(frozen=True)
class Place:
    """Which output of which session: ``path`` is below the outputs directory."""

    session_id: str
    path: str


def find(tx: Tx, workspace_id: str, session_id: str) -> dict[str, Resource]:
    """Return a session's outputs by their paths."""
    ids = tx.execute(
        select(resources.c.id).where(
            resources.c.parent_id == session_id,
            resources.c.kind == FILE.name,
            resources.c.workspace_id == workspace_id,
        )
    ).scalars()
    found = [service.get(tx, workspace_id, FILE, file_id) for file_id in ids.all()]
    return {file.body["path"]: file for file in found if "path" in file.body}


def put(
    tx: Tx, actor: Actor, place: Place, blob: Blob, quota_bytes: int
) -> tuple[Resource, list[str]]:
    """Store an output whose bytes are durable already, in place of what was at its path.

    Returns:
        the file, and the keys of blobs that may go.

    Raises:
        InvalidRequest: there are too many, or it does not fit any more.
    """
    known = find(tx, actor.workspace_id, place.session_id)
    dropped = _replace(tx, actor, known.pop(place.path, None))
    if len(known) >= MAX_OUTPUTS:
        raise InvalidRequest(f"outputs: at most {MAX_OUTPUTS} files of one session")
    name = _file_name(place.path)
    new = NewFile(name, "", session_id=place.session_id, path=place.path, downloadable=True)
    return files.add(tx, actor, new, blob, quota_bytes), dropped


def remove(tx: Tx, actor: Actor, place: Place) -> list[str]:
    """Delete the output at a path, if there is one; returns the keys of blobs that may go."""
    known = find(tx, actor.workspace_id, place.session_id)
    return _replace(tx, actor, known.get(place.path))


def present(found: dict[str, Resource]) -> list[dict[str, Any]]:
    """Return outputs as the worker that brings them compares them."""
    return [
        {"path": path, "file_id": file.id, "sha256": file.body["sha256"]}
        for path, file in sorted(found.items())
    ]


def _replace(tx: Tx, actor: Actor, old: Resource | None) -> list[str]:
    return [] if old is None else files.remove(tx, actor, old.id)


def _file_name(path: str) -> str:
    """Return a name that files may have, as close to the path's last part as can be."""
    name = path.rpartition("/")[2]
    return "".join("_" if char in '<>:"|?*\\' else char for char in name)[:255]

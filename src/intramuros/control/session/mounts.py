"""What a new session mounts, whatever its kind."""

from collections.abc import Sequence
from typing import Any

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import FILE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.session import attachments, repositories, uploads
from intramuros.control.store.db import Tx
from intramuros.protocol.resources.memory import MemoryStoreParam
from intramuros.protocol.resources.mounts import FileParam
from intramuros.protocol.resources.repositories import RepositoryParam
from intramuros.protocol.resources.sessions import ResourceParam


def verify(tx: Tx, workspace_id: str, wanted: Sequence[ResourceParam] | None) -> None:
    """Check what sessions of a cloud environment are to mount later.

    Raises:
        NotFound: no such memory store or file here.
        InvalidRequest: one of them cannot be mounted.
    """
    stores, others = _sorted(wanted)
    attachments.mount(tx, workspace_id, stores)
    files, wanted_repositories = _kinds(others)
    for file in files:
        service.get(tx, workspace_id, FILE, file.file_id)
    repositories.check_places(wanted_repositories)


def mount(
    tx: Tx,
    actor: Actor,
    environment: Resource,
    session_id: str,
    wanted: Sequence[ResourceParam] | None,
) -> list[dict[str, Any]]:
    """Return a new session's resources as answers show them.

    Raises:
        NotFound: no such memory store or file here.
        InvalidRequest: one of them cannot be mounted, or not in this environment.
    """
    stores, others = _sorted(wanted)
    uploads.check(environment.id, environment.body["config"]["type"], others)
    files, wanted_repositories = _kinds(others)
    return [
        *attachments.mount(tx, actor.workspace_id, stores),
        *uploads.mount(tx, actor, session_id, files),
        *repositories.mount(actor, wanted_repositories),
    ]


def _sorted(
    wanted: Sequence[ResourceParam] | None,
) -> tuple[list[MemoryStoreParam], list[FileParam | RepositoryParam]]:
    stores: list[MemoryStoreParam] = []
    others: list[FileParam | RepositoryParam] = []
    for param in wanted or ():
        if isinstance(param, MemoryStoreParam):
            stores.append(param)
        else:
            others.append(param)
    return stores, others


def _kinds(
    others: Sequence[FileParam | RepositoryParam],
) -> tuple[list[FileParam], list[RepositoryParam]]:
    return (
        [param for param in others if isinstance(param, FileParam)],
        [param for param in others if isinstance(param, RepositoryParam)],
    )

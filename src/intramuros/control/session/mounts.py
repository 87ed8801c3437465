"""What a new session mounts, whatever its kind."""

from collections.abc import Sequence
from typing import Any

from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.session import attachments, uploads
from intramuros.control.store.db import Tx
from intramuros.protocol.resources.memory import MemoryStoreParam
from intramuros.protocol.resources.sessions import ResourceParam


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
    stores, others = [], []
    for param in wanted or ():
        if isinstance(param, MemoryStoreParam):
            stores.append(param)
        else:
            others.append(param)
    found = uploads.check(environment.id, environment.body["config"]["type"], others)
    return [
        *attachments.mount(tx, actor.workspace_id, stores),
        *uploads.mount(tx, actor, session_id, found),
    ]

"""The first workspace and the first API key of an installation; safe to run at every start."""

import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, insert, select

from intramuros.control.identity import audit, credentials
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import ALL_SCOPES, CredentialKind
from intramuros.control.identity.standing import OLDEST_WORKSPACE
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials as credentials_table
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros

BOOTSTRAP: Final = "bootstrap"
MIN_KEY_CHARS: Final = 16


@dataclass(frozen=True)
class Names:
    """What an installation calls its organization and its first workspace.

    ``organization_id`` is a UUID derived from the first workspace, so that nothing more need be
    kept to say the same after a restore.
    """

    organization_id: str
    workspace_id: str


def ensure_workspace(tx: Tx, clock: Clock, ids: IdFactory) -> Names:
    """Return the first workspace, made now if there is none."""
    workspace_id = tx.scalar(OLDEST_WORKSPACE)
    if workspace_id is None:
        workspace_id = ids.new("wrkspc")
        audit.record(
            tx,
            clock,
            "workspace.create",
            workspace_id=workspace_id,
            fields={"id": workspace_id, "by": BOOTSTRAP},
        )
        tx.execute(
            insert(workspaces).values(
                id=workspace_id, name="Default", created_us=to_micros(clock.now())
            )
        )
    organization_id = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:intramuros:{workspace_id}")
    return Names(str(organization_id), workspace_id)


def default_workspace(tx: Tx) -> str:
    """Return the id of the workspace that the installation was made with: the oldest."""
    return str(tx.scalar(OLDEST_WORKSPACE))


def made_us(tx: Tx) -> int:
    """Return when the installation was made, in microseconds since the epoch."""
    return tx.scalar(select(func.min(workspaces.c.created_us))) or 0


def has_key(tx: Tx) -> bool:
    """Return whether the installation ever had an API key."""
    kind = credentials_table.c.kind == CredentialKind.API_KEY.value
    return tx.scalar(select(credentials_table.c.id).where(kind).limit(1)) is not None


def ensure_key(tx: Tx, actor: Actor, secret: str) -> None:
    """Make the operator's secret an API key with every scope, unless it is known already.

    A secret that was revoked stays revoked.

    Raises:
        OperatorError: too short or with blanks, so that it could be guessed or not be sent.
    """
    if (
        len(secret) < MIN_KEY_CHARS
        or not secret.isascii()
        or not secret.isprintable()
        or (" " in secret)
    ):
        raise OperatorError(
            "the bootstrap API key is unfit",
            f"use at least {MIN_KEY_CHARS} visible ASCII characters without blanks",
        )
    known = select(credentials_table.c.id).where(
        credentials_table.c.digest == credentials.digest(secret)
    )
    if tx.scalar(known) is not None:
        return
    key_id, _ = credentials.mint(
        tx,
        actor.ids,
        actor.clock,
        kind=CredentialKind.API_KEY,
        workspace_id=actor.workspace_id,
        name=BOOTSTRAP,
        scopes=ALL_SCOPES,
        secret=secret,
    )
    audit.record(
        tx,
        actor.clock,
        "api_key.create",
        workspace_id=actor.workspace_id,
        fields={"id": key_id, "by": actor.by, "scopes": sorted(ALL_SCOPES)},
    )

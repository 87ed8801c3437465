"""Pool keys: what the operator's own workers claim the work of cloud environments with.

A pool key reaches no workspace's data by itself; each item that it claims comes with the token of
one session.
"""

from typing import Any

from sqlalchemy import Row, select

from intramuros.control.identity import audit, credentials
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials as table
from intramuros.kernel.errors import NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros

_ALL = select(table).where(table.c.kind == CredentialKind.POOL_KEY.value)


def create(tx: Tx, actor: Actor, name: str) -> tuple[dict[str, Any], str]:
    """Make a pool key and return it as shown, and its secret, which is not kept."""
    key_id, secret = credentials.mint(
        tx,
        actor.ids,
        actor.clock,
        kind=CredentialKind.POOL_KEY,
        workspace_id=actor.workspace_id,
        name=name,
    )
    _audit(tx, actor, "pool_key.create", key_id)
    return get(tx, key_id), secret


def get(tx: Tx, key_id: str) -> dict[str, Any]:
    """Return a pool key as shown.

    Raises:
        NotFound: there is no such key.
    """
    row = tx.execute(_ALL.where(table.c.id == key_id)).first()
    if row is None:
        raise NotFound(f"no pool key {key_id[:80]!r}")
    return _shown(row)


def find(tx: Tx) -> list[dict[str, Any]]:
    """Return all pool keys, newest first, revoked ones included."""
    newest_first = (table.c.created_us.desc(), table.c.id.desc())
    return [_shown(row) for row in tx.execute(_ALL.order_by(*newest_first))]


def revoke(tx: Tx, actor: Actor, key_id: str) -> dict[str, Any]:
    """Revoke a pool key, at once, and return it; a second time changes nothing.

    Raises:
        NotFound: there is no such key.
    """
    if get(tx, key_id)["revoked_at"] is None:
        _audit(tx, actor, "pool_key.revoke", key_id)
        credentials.revoke(tx, key_id, to_micros(actor.clock.now()))
    return get(tx, key_id)


def _shown(row: Row[Any]) -> dict[str, Any]:
    revoked_us = row.revoked_us
    return {
        "id": row.id,
        "type": "pool_key",
        "name": row.name,
        "created_at": rfc3339(from_micros(row.created_us)),
        "revoked_at": None if revoked_us is None else rfc3339(from_micros(revoked_us)),
    }


def _audit(tx: Tx, actor: Actor, kind: str, key_id: str) -> None:
    audit.record(
        tx,
        actor.clock,
        kind,
        workspace_id=actor.workspace_id,
        fields={"id": key_id, "by": actor.by},
    )

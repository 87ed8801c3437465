"""API keys: making, listing and revoking them, each with its audit record."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, select

from intramuros.control.identity import audit, credentials, lockout, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials as table
from intramuros.kernel.errors import NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros


def create(
    tx: Tx,
    actor: Actor,
    name: str,
    scopes: Sequence[Scope],
    *,
    principal_id: str | None = None,
    lifetime_s: int | None = None,
) -> tuple[dict[str, Any], str]:
    """Make an API key and return it as shown, and its secret, which is not kept.

    Args:
        principal_id: the user or the service account that it acts as, who exists.
        lifetime_s: for how long it works; for ever when None.
    """
    now_us = to_micros(actor.clock.now())
    key_id, secret = credentials.mint(
        tx,
        actor.ids,
        actor.clock,
        kind=CredentialKind.API_KEY,
        workspace_id=actor.workspace_id,
        name=name,
        scopes=scopes,
        principal_id=principal_id,
        created_by=actor.principal_id,
        expires_us=None if lifetime_s is None else now_us + lifetime_s * 1_000_000,
    )
    more: dict[str, object] = {} if principal_id is None else {"principal": principal_id}
    if lifetime_s is not None:
        more["lifetime_s"] = lifetime_s
    _audit(tx, actor, "api_key.create", key_id, scopes=sorted(scopes), **more)
    return get(tx, actor.workspace_id, key_id), secret


def get(tx: Tx, workspace_id: str, key_id: str) -> dict[str, Any]:
    """Return an API key as shown.

    Raises:
        NotFound: no such key here.
    """
    row = tx.execute(_of(workspace_id).where(table.c.id == key_id)).first()
    if row is None:
        raise NotFound(f"no API key {key_id[:80]!r}")
    return _shown(row)


def find(tx: Tx, workspace_id: str) -> list[dict[str, Any]]:
    """Return the workspace's API keys, newest first, revoked ones included."""
    newest_first = (table.c.created_us.desc(), table.c.id.desc())
    return [_shown(row) for row in tx.execute(_of(workspace_id).order_by(*newest_first))]


def revoke(tx: Tx, actor: Actor, key_id: str) -> dict[str, Any]:
    """Revoke an API key, at once, and return it; a second time changes nothing.

    Raises:
        NotFound: no such key here.
        InvalidRequest: no other key could administer the organization then.
    """
    if get(tx, actor.workspace_id, key_id)["revoked_at"] is None:
        lockout.check_key(tx, key_id, to_micros(actor.clock.now()))
        ended = {"type": "status", "previous_value": "active", "current_value": "archived"}
        _audit(tx, actor, "api_key.revoke", key_id, changes=[ended])
        credentials.revoke(tx, key_id, to_micros(actor.clock.now()))
        ssh_certificates.reconsider(tx, actor.clock, ssh_certificates.of_credential(key_id))
    return get(tx, actor.workspace_id, key_id)


def _of(workspace_id: str) -> Select[Any]:
    return select(table).where(
        table.c.workspace_id == workspace_id, table.c.kind == CredentialKind.API_KEY.value
    )


def _shown(row: Row[Any]) -> dict[str, Any]:
    revoked_us = row.revoked_us
    return {
        "id": row.id,
        "type": "api_key",
        "name": row.name,
        "scopes": row.scopes,
        "created_at": rfc3339(from_micros(row.created_us)),
        "revoked_at": None if revoked_us is None else rfc3339(from_micros(revoked_us)),
    }


def _audit(tx: Tx, actor: Actor, kind: str, key_id: str, **more: object) -> None:
    audit.record(
        tx,
        actor.clock,
        kind,
        workspace_id=actor.workspace_id,
        fields={"id": key_id, "by": actor.by, **more},
    )

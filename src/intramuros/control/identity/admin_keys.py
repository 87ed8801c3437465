"""API keys of the whole organization, as an administrator sees and changes them.

Keys are made elsewhere (``keys.py``); here nobody ever sees a secret (contract-2 R368).
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, or_, select, update

from intramuros.control.identity import audit, credentials, lockout, ssh_certificates, standing
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span, fetch
from intramuros.control.store.tables import credentials as table
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.organization import KeyUpdate

Shown = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """Which keys to list; None is any."""

    status: str | None = None
    workspace_id: str | None = None
    created_by_user_id: str | None = None


def get(tx: Tx, key_id: str, now_us: int) -> Shown:
    """Return an API key as shown.

    Raises:
        NotFound: no such key.
    """
    return _shown(_row(tx, key_id), now_us)


def find(tx: Tx, wanted: Filter, span: Span, now_us: int) -> tuple[list[Shown], bool]:
    """Return a page of API keys, newest first, and whether there is more."""
    which: list[ColumnElement[bool]] = [table.c.kind == CredentialKind.API_KEY.value]
    if wanted.workspace_id is not None:
        which.append(table.c.workspace_id == wanted.workspace_id)
    if wanted.created_by_user_id is not None:
        which.append(table.c.created_by == wanted.created_by_user_id)
    if wanted.status is not None:
        which.append(_has_status(wanted.status, now_us))
    rows, more = fetch(tx, table, which, span)
    return [_shown(row, now_us) for row in rows], more


def change(tx: Tx, actor: Actor, key_id: str, request: KeyUpdate) -> Shown:
    """Rename a key, or switch it on, off or off for good; from the next request on.

    Raises:
        NotFound: no such key.
        InvalidRequest: it is archived or has expired, so that it cannot be switched any more; or
            no other key could administer the organization then.
    """
    now_us = to_micros(actor.clock.now())
    row = _row(tx, key_id)
    status = _status(row, now_us)
    wanted = request.status or status
    if wanted != status and status in ("archived", "expired"):
        raise InvalidRequest(f"status: the API key {key_id!r} is {status} for good")
    name = row.name if request.name is None else request.name
    if (name, wanted) == (row.name, status):
        return _shown(row, now_us)
    if status == "active" and wanted != "active":
        lockout.check_key(tx, key_id, now_us)
    pairs = (("name", row.name, name), ("status", status, wanted))
    fields = {
        "id": key_id,
        "by": actor.by,
        "changes": [
            {"type": field, "previous_value": before, "current_value": after}
            for field, before, after in pairs
            if before != after
        ],
    }
    audit.record(tx, actor.clock, "api_key.update", workspace_id=row.workspace_id, fields=fields)
    disabled_us = None if wanted == "active" else row.disabled_us
    if wanted == "inactive" and disabled_us is None:
        disabled_us = now_us
    changed = update(table).where(table.c.id == key_id)
    tx.execute(changed.values(name=name, disabled_us=disabled_us))
    if wanted == "archived":
        credentials.revoke(tx, key_id, now_us)
    ssh_certificates.reconsider(tx, actor.clock, ssh_certificates.of_credential(key_id))
    return get(tx, key_id, now_us)


def _row(tx: Tx, key_id: str) -> Row[Any]:
    wanted = (table.c.id == key_id, table.c.kind == CredentialKind.API_KEY.value)
    row = tx.execute(select(table).where(*wanted)).first()
    if row is None:
        raise NotFound(f"no API key {key_id[:80]!r}")
    return row


def _status(row: Row[Any], now_us: int) -> str:
    if row.revoked_us is not None and row.revoked_us <= now_us:
        return "archived"
    if row.expires_us is not None and row.expires_us <= now_us:
        return "expired"
    return "active" if row.disabled_us is None else "inactive"


def _has_status(status: str, now_us: int) -> ColumnElement[bool]:
    """Return what :func:`_status` decides, as a condition."""
    archived = and_(table.c.revoked_us.is_not(None), table.c.revoked_us <= now_us)
    kept = or_(table.c.revoked_us.is_(None), table.c.revoked_us > now_us)
    expired = and_(table.c.expires_us.is_not(None), table.c.expires_us <= now_us)
    fresh = or_(table.c.expires_us.is_(None), table.c.expires_us > now_us)
    return {
        "archived": archived,
        "expired": and_(kept, expired),
        "inactive": and_(kept, fresh, table.c.disabled_us.is_not(None)),
        "active": and_(kept, fresh, table.c.disabled_us.is_(None)),
    }[status]


def _shown(row: Row[Any], now_us: int) -> Shown:
    expires_us = row.expires_us
    return {
        "id": row.id,
        "type": "api_key",
        "name": row.name,
        "created_at": rfc3339(from_micros(row.created_us)),
        "created_by": _creator(row.created_by),
        "expires_at": None if expires_us is None else rfc3339(from_micros(expires_us)),
        "partial_key_hint": row.hint,
        "principal": _principal(row.principal_id),
        "scope": {"type": "workspace", "workspace_id": row.workspace_id},
        "status": _status(row, now_us),
    }


def _creator(principal_id: str | None) -> Shown | None:
    if principal_id is None:
        return None
    kind = "user" if standing.is_user(principal_id) else "service_account"
    return {"id": principal_id, "type": kind}


def _principal(principal_id: str | None) -> Shown | None:
    if principal_id is None:
        return None
    if standing.is_user(principal_id):
        return {"type": "user_actor", "user_id": principal_id}
    return {"type": "service_account_actor", "service_account_id": principal_id}

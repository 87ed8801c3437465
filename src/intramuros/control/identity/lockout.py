"""Keeps somebody who can administer the organization through the API.

Only at the machine could an installation be opened again that has switched its last administrator's
key off. To replace a key, make the new one first.
"""

from sqlalchemy import ColumnElement, or_, select

from intramuros.control.identity import standing
from intramuros.control.identity.principal import CredentialKind, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials
from intramuros.kernel.errors import InvalidRequest


def check_key(tx: Tx, key_id: str, now_us: int) -> None:
    """Refuse to end a key that is the last one which administers.

    Raises:
        InvalidRequest: it is.
    """
    _check(tx, credentials.c.id == key_id, now_us)


def check_workspace(tx: Tx, workspace_id: str, now_us: int) -> None:
    """Refuse to end the keys of a workspace when no other key administers.

    Raises:
        InvalidRequest: none does.
    """
    _check(tx, credentials.c.workspace_id == workspace_id, now_us)


def _check(tx: Tx, ending: ColumnElement[bool], now_us: int) -> None:
    if _administers(tx, ending, now_us) and not _administers(tx, ~ending, now_us):
        raise InvalidRequest(
            "no other API key could administer the organization: make one with org:admin first"
        )


def _administers(tx: Tx, which: ColumnElement[bool], now_us: int) -> bool:
    """Return whether a working key among these has ``org:admin``, whoever it acts as."""
    table = credentials.c
    query = select(table.scopes, table.principal_id, table.workspace_id).where(
        table.kind == CredentialKind.API_KEY.value,
        table.disabled_us.is_(None),
        or_(table.revoked_us.is_(None), table.revoked_us > now_us),
        or_(table.expires_us.is_(None), table.expires_us > now_us),
        which,
    )
    for row in tx.execute(query):
        scopes = frozenset(row.scopes)
        if standing.is_user(row.principal_id):
            narrowed = standing.narrow(tx, row.principal_id, row.workspace_id, scopes)
            scopes = narrowed[0] if narrowed else frozenset()
        if Scope.ORG_ADMIN in scopes:
            return True
    return False

"""Vaults and their credentials: what may be stored, how it changes, how it is shown.

What is kept in the catalogue holds no secret; secrets are in the strongbox and leave it only on
their way to a server (catalog/wallet.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.control.catalog import auths, service
from intramuros.control.catalog.auths import Auth
from intramuros.control.catalog.kinds import VAULT, VAULT_CREDENTIAL
from intramuros.control.catalog.service import Query, Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.store import strongbox
from intramuros.control.store.db import Tx
from intramuros.control.store.strongbox import Strongbox
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.base import MetadataPatch, merge_metadata
from intramuros.protocol.resources.vaults import (
    CredentialCreate,
    CredentialUpdate,
    VaultCreate,
    VaultUpdate,
)

Shown = dict[str, Any]

MAX_ACTIVE_CREDENTIALS: Final = 20
_BATCH: Final = 500


def create(tx: Tx, actor: Actor, request: VaultCreate) -> Resource:
    """Store a new vault."""
    body = {"display_name": request.display_name, "metadata": request.metadata or {}}
    return service.create(tx, actor, VAULT, body)


def update(tx: Tx, actor: Actor, vault_id: str, request: VaultUpdate) -> Resource:
    """Change a vault; what was not sent stays.

    Raises:
        NotFound: no such vault here.
        InvalidRequest: archived (Q07), or too much metadata.
    """
    current = _active(tx, actor, vault_id)
    body = {
        "display_name": request.display_name or current.body["display_name"],
        "metadata": _merged(current, request.metadata),
    }
    return service.change(tx, actor, VAULT, current, body)


def archive(tx: Tx, actor: Actor, vault_id: str) -> Resource:
    """Archive a vault and its credentials, and wipe their secrets (R038); repeats change nothing.

    Raises:
        NotFound: no such vault here.
    """
    vault = service.get(tx, actor.workspace_id, VAULT, vault_id)
    query = Query(limit=MAX_ACTIVE_CREDENTIALS, parent_id=vault.id)
    active, _ = service.find(tx, actor.workspace_id, VAULT_CREDENTIAL, query)
    for credential in active:
        service.archive(tx, actor, credential)
    strongbox.wipe(tx, [credential.id for credential in active])
    return service.archive(tx, actor, vault)


def delete(tx: Tx, actor: Actor, vault_id: str) -> None:
    """Delete a vault with all its credentials, for good (R039).

    Raises:
        NotFound: no such vault here.
    """
    vault = service.get(tx, actor.workspace_id, VAULT, vault_id)
    query = Query(limit=_BATCH, include_archived=True, parent_id=vault.id)
    more = True
    while more:
        held, more = service.find(tx, actor.workspace_id, VAULT_CREDENTIAL, query)
        strongbox.wipe(tx, [credential.id for credential in held])
        for credential in held:
            service.remove(tx, actor, credential)
    service.remove(tx, actor, vault)


def attach(tx: Tx, workspace_id: str, vault_ids: Sequence[str]) -> list[str]:
    """Return the vaults that a new session may use, each once, in the order given (R078).

    Raises:
        NotFound: no such vault here (R037).
        InvalidRequest: one is archived (R040).
    """
    distinct = list(dict.fromkeys(vault_ids))
    for vault_id in distinct:
        if service.get(tx, workspace_id, VAULT, vault_id).archived_us is not None:
            raise InvalidRequest(f"vault_ids: vault {vault_id!r} is archived")
    return distinct


def kept_out(
    tx: Tx, workspace_id: str, vault_ids: Sequence[str], environment: Mapping[str, Any]
) -> list[tuple[Resource, list[str]]]:
    """Return the environment-variable credentials that an environment keeps from hosts (R074).

    Args:
        environment: its configuration.

    Returns:
        each with those of its hosts that it cannot be used for; ``*`` stands for any.
    """
    found = []
    for vault_id in vault_ids:
        query = Query(limit=MAX_ACTIVE_CREDENTIALS, parent_id=vault_id)
        for credential in service.find(tx, workspace_id, VAULT_CREDENTIAL, query)[0]:
            if credential.body["auth"]["type"] == "environment_variable":
                hosts = auths.kept_out(credential.body["auth"], environment)
                found += [(credential, hosts)] if hosts else []
    return found


@dataclass(frozen=True)
class Credentials:
    """What callers may do with credentials."""

    box: Strongbox

    def create(self, tx: Tx, actor: Actor, vault_id: str, request: CredentialCreate) -> Resource:
        """Store a new credential; nothing remote is asked whether it works (R049).

        Raises:
            NotFound: no such vault here.
            InvalidRequest: the vault is archived or full, or the credential has expired.
            Conflict: an active one answers to the same server or variable (R046).
        """
        vault = _active(tx, actor, vault_id)
        auth = auths.configure(request.auth, rfc3339(actor.clock.now()))
        if strongbox.match(tx, vault.id, auth.key) is not None:
            raise Conflict(
                f"auth: vault {vault.id!r} has an active credential for {_what(auth)}; "
                "archive it first or update it"
            )
        if strongbox.count(tx, vault.id) >= MAX_ACTIVE_CREDENTIALS:
            raise InvalidRequest(
                f"a vault has at most {MAX_ACTIVE_CREDENTIALS} active credentials; archive one"
            )
        body = {
            "display_name": request.display_name,
            "metadata": request.metadata or {},
            "auth": auth.public,
            "generation": 1,
        }
        made = service.create(tx, actor, VAULT_CREDENTIAL, body, parent_id=vault.id)
        self.box.put(tx, made.id, vault.id, auth.key, auth.secret)
        return made

    def update(
        self, tx: Tx, actor: Actor, vault_id: str, credential_id: str, request: CredentialUpdate
    ) -> Resource:
        """Change a credential; what was not sent stays.

        Raises:
            NotFound: no such vault or credential here.
            InvalidRequest: archived (Q07), or not something that may change so.
        """
        current = get(tx, actor.workspace_id, vault_id, credential_id)
        service.check_active(VAULT_CREDENTIAL, current)
        body = {**current.body, "metadata": _merged(current, request.metadata)}
        if request.sent("display_name"):
            body["display_name"] = request.display_name
        if request.auth is not None:
            auth = auths.amend(self.open(tx, current), request.auth, rfc3339(actor.clock.now()))
            body |= {"auth": auth.public, "generation": body["generation"] + 1}
            self.box.replace(tx, current.id, auth.secret)
        return service.change(tx, actor, VAULT_CREDENTIAL, current, body)

    def renew(self, tx: Tx, actor: Actor, current: Resource, auth: Auth) -> Resource:
        """Store what a token endpoint gave instead of what was there."""
        body = {
            **current.body,
            "auth": auth.public,
            "generation": current.body["generation"] + 1,
        }
        self.box.replace(tx, current.id, auth.secret)
        return service.change(tx, actor, VAULT_CREDENTIAL, current, body, act="refresh")

    def open(self, tx: Tx, credential: Resource) -> Auth:
        """Return both halves of a credential.

        Raises:
            NotFound: its secret is wiped.
        """
        row = strongbox.find(tx, credential.id)
        if row is None:
            raise NotFound(f"credential {credential.id!r} holds no secret any more")
        return Auth(dict(credential.body["auth"]), self.box.open(row))


def get(tx: Tx, workspace_id: str, vault_id: str, credential_id: str) -> Resource:
    """Return a credential of this vault.

    Raises:
        NotFound: no such vault or credential here.
    """
    vault = service.get(tx, workspace_id, VAULT, vault_id)
    credential = service.get(tx, workspace_id, VAULT_CREDENTIAL, credential_id)
    if credential.parent_id != vault.id:
        raise NotFound(f"no credential {credential_id[:80]!r} in vault {vault.id!r}")
    return credential


def archive_credential(tx: Tx, actor: Actor, vault_id: str, credential_id: str) -> Resource:
    """Archive a credential: wipe its secret and free its key (R047); repeats change nothing.

    Raises:
        NotFound: no such vault or credential here.
    """
    credential = get(tx, actor.workspace_id, vault_id, credential_id)
    strongbox.wipe(tx, [credential.id])
    return service.archive(tx, actor, credential)


def delete_credential(tx: Tx, actor: Actor, vault_id: str, credential_id: str) -> None:
    """Delete a credential for good.

    Raises:
        NotFound: no such vault or credential here.
    """
    credential = get(tx, actor.workspace_id, vault_id, credential_id)
    strongbox.wipe(tx, [credential.id])
    service.remove(tx, actor, credential)


def present(vault: Resource) -> Shown:
    """Return the vault as answers show it."""
    return {
        "id": vault.id,
        "type": "vault",
        "display_name": vault.body["display_name"],
        "metadata": vault.body["metadata"],
        **_times(vault),
    }


def present_credential(credential: Resource) -> Shown:
    """Return the credential as answers show it, without anything of its secret (R048)."""
    return {
        "id": credential.id,
        "type": "vault_credential",
        "vault_id": credential.parent_id,
        "display_name": credential.body["display_name"],
        "metadata": credential.body["metadata"],
        "auth": credential.body["auth"],
        **_times(credential),
    }


def _active(tx: Tx, actor: Actor, vault_id: str) -> Resource:
    vault = service.get(tx, actor.workspace_id, VAULT, vault_id)
    service.check_active(VAULT, vault)
    return vault


def _merged(current: Resource, patch: MetadataPatch | None) -> dict[str, str]:
    try:
        return merge_metadata(current.body["metadata"], patch)
    except ValueError as error:
        raise InvalidRequest(f"metadata: {error}") from error


def _what(auth: Auth) -> str:
    name: str = auth.public.get("mcp_server_url") or auth.public["secret_name"]
    return repr(name[:120])


def _times(resource: Resource) -> Shown:
    archived_us = resource.archived_us
    return {
        "created_at": rfc3339(from_micros(resource.created_us)),
        "updated_at": rfc3339(from_micros(resource.updated_us)),
        "archived_at": None if archived_us is None else rfc3339(from_micros(archived_us)),
    }

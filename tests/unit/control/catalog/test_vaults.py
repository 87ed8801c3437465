import os
from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.catalog import service, vaults
from intramuros.control.catalog.kinds import VAULT_CREDENTIAL
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.strongbox import Strongbox
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.protocol.resources.vaults import (
    CredentialCreate,
    CredentialUpdate,
    VaultCreate,
    VaultUpdate,
)

URL = "https://m.example"


@pytest.fixture
def credentials() -> Credentials:
    return Credentials(Strongbox(Sealer(bytes(32), os.urandom), os.urandom))


@pytest.fixture
def vault_id(tx: Tx, actor: Actor) -> str:
    return vaults.create(tx, actor, VaultCreate(display_name="V")).id


def bearer(url: str = URL, token: str = "hush-hush") -> CredentialCreate:
    auth = {"type": "static_bearer", "token": token, "mcp_server_url": url}
    return CredentialCreate.model_validate({"auth": auth})


def test_no_record_of_the_audit_holds_a_secret(
    tx: Tx, actor: Actor, vault_id: str, credentials: Credentials
) -> None:
    made = credentials.create(tx, actor, vault_id, bearer())
    change: Any = {"auth": {"type": "static_bearer", "token": "hush-again"}}
    credentials.update(tx, actor, vault_id, made.id, CredentialUpdate.model_validate(change))
    vaults.archive_credential(tx, actor, vault_id, made.id)
    lines = "".join(audit.read_lines(tx))
    assert "hush" not in lines
    for act in ("create", "update", "archive"):
        assert f"vault_credential.{act}" in lines


def test_an_update_of_the_secret_alone_is_a_change(
    tx: Tx, actor: Actor, vault_id: str, credentials: Credentials
) -> None:
    made = credentials.create(tx, actor, vault_id, bearer())
    change: Any = {"auth": {"type": "static_bearer", "token": "new"}}
    after = credentials.update(
        tx, actor, vault_id, made.id, CredentialUpdate.model_validate(change)
    )
    assert after.version == made.version + 1
    assert credentials.open(tx, after).secret == {"token": "new"}


def test_R038_archiving_a_vault_wipes_its_secrets(
    tx: Tx, actor: Actor, vault_id: str, credentials: Credentials
) -> None:
    made = credentials.create(tx, actor, vault_id, bearer())
    vaults.archive(tx, actor, vault_id)
    kept = vaults.get(tx, actor.workspace_id, vault_id, made.id)
    assert kept.archived_us is not None
    with pytest.raises(NotFound, match="no secret"):
        credentials.open(tx, kept)
    with pytest.raises(InvalidRequest, match="archived"):
        vaults.update(tx, actor, vault_id, VaultUpdate(display_name="W"))
    with pytest.raises(InvalidRequest, match="archived"):
        vaults.attach(tx, actor.workspace_id, [vault_id])


def test_R039_deleting_a_vault_leaves_no_row(
    tx: Tx, actor: Actor, vault_id: str, credentials: Credentials
) -> None:
    for number in range(3):
        made = credentials.create(tx, actor, vault_id, bearer(f"{URL}/{number}"))
    vaults.archive_credential(tx, actor, vault_id, made.id)
    vaults.delete(tx, actor, vault_id)
    assert tx.scalar(select(resources.c.id)) is None


def test_R046_conflicts_come_before_the_cap(
    tx: Tx, actor: Actor, vault_id: str, credentials: Credentials
) -> None:
    for number in range(20):
        credentials.create(tx, actor, vault_id, bearer(f"{URL}/{number}"))
    with pytest.raises(Conflict):
        credentials.create(tx, actor, vault_id, bearer(f"{URL}/7"))
    with pytest.raises(InvalidRequest, match="at most 20"):
        credentials.create(tx, actor, vault_id, bearer(f"{URL}/new"))


def test_R037_credentials_of_other_vaults_are_not_found(
    tx: Tx, actor: Actor, vault_id: str, credentials: Credentials
) -> None:
    made = credentials.create(tx, actor, vault_id, bearer())
    other = vaults.create(tx, actor, VaultCreate(display_name="W")).id
    with pytest.raises(NotFound):
        vaults.get(tx, actor.workspace_id, other, made.id)
    with pytest.raises(NotFound):
        service.get(tx, "wrkspc_other", VAULT_CREDENTIAL, made.id)

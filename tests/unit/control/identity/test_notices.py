import os

import pytest

from intramuros.control.catalog import (
    agents,
    environments,
    memories,
    memory_stores,
    service,
    vaults,
)
from intramuros.control.catalog.kinds import AGENT, ENVIRONMENT
from intramuros.control.catalog.memory_versions import Author, Writer
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.identity import audit, notices
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.strongbox import Strongbox
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.agents import AgentCreate, AgentUpdate
from intramuros.protocol.resources.environments import EnvironmentCreate, EnvironmentUpdate
from intramuros.protocol.resources.memory import MemoryCreate, MemoryStoreCreate, MemoryStoreUpdate
from intramuros.protocol.resources.vaults import CredentialCreate, VaultCreate, VaultUpdate
from intramuros.protocol.webhooks import EMITTED, WORKSPACE_KINDS
from tests.fakes.outbox import listen, told, waiting


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_test")


@pytest.fixture(autouse=True)
def _somebody_listens(tx: Tx) -> None:
    listen(tx, *WORKSPACE_KINDS)


def credential(tx: Tx, actor: Actor, vault_id: str, number: int = 1) -> str:
    box = Credentials(Strongbox(Sealer(bytes(32), os.urandom), os.urandom))
    auth = {
        "type": "static_bearer",
        "token": "t",
        "mcp_server_url": f"https://m{number}.example",
    }
    return box.create(tx, actor, vault_id, CredentialCreate.model_validate({"auth": auth})).id


def test_only_kinds_that_webhooks_know_are_told() -> None:
    assert set(notices.TOLD.values()) <= EMITTED


@pytest.mark.parametrize("end", ["archived", "deleted"])
def test_R042_a_vaults_end_tells_of_each_credential_it_held(tx: Tx, actor: Actor, end: str) -> None:
    vault = vaults.create(tx, actor, VaultCreate(display_name="V"))
    held = [credential(tx, actor, vault.id, number) for number in range(2)]
    (vaults.archive if end == "archived" else vaults.delete)(tx, actor, vault.id)
    ended = [data for data in waiting(tx) if data["type"].endswith(end)]
    assert {data["id"] for data in ended} == {vault.id, *held}
    for data in ended:
        assert data.get("vault_id") == (vault.id if data["id"] in held else None)
        assert data["workspace_id"] == "wrkspc_test"


def test_a_vault_that_is_archived_again_tells_nothing_and_its_deletion_does(
    tx: Tx, actor: Actor
) -> None:
    vault = vaults.create(tx, actor, VaultCreate(display_name="V"))
    credential(tx, actor, vault.id)
    vaults.update(tx, actor, vault.id, VaultUpdate(display_name="W"))
    for _ in range(2):
        vaults.archive(tx, actor, vault.id)
    kinds = ["vault.archived", "vault.created"]
    of_credentials = ["vault_credential.archived", "vault_credential.created"]
    assert told(tx) == kinds + of_credentials
    vaults.delete(tx, actor, vault.id)
    assert set(told(tx)) - set(kinds + of_credentials) == {
        "vault.deleted",
        "vault_credential.deleted",
    }


def test_R264_an_agent_tells_of_new_versions_only(tx: Tx, actor: Actor) -> None:
    agent = agents.create(tx, actor, AgentCreate.model_validate({"name": "A", "model": "m"}))
    same = AgentUpdate.model_validate({"version": 1, "name": "A"})
    agents.update(tx, actor, agent.id, same)
    assert told(tx) == ["agent.created"]
    agents.update(tx, actor, agent.id, AgentUpdate.model_validate({"version": 1, "name": "B"}))
    assert told(tx) == ["agent.created", "agent.updated"]
    for _ in range(2):
        agent = service.archive(tx, actor, service.get(tx, "wrkspc_test", AGENT, agent.id))
    assert told(tx) == ["agent.archived", "agent.created", "agent.updated"]


def test_R264_an_environment_tells_of_real_changes_only(tx: Tx, actor: Actor) -> None:
    made = environments.create(tx, actor, EnvironmentCreate.model_validate({"name": "E"}))
    environments.update(tx, actor, made.id, EnvironmentUpdate.model_validate({"name": "E"}))
    assert told(tx) == ["environment.created"]
    environments.update(tx, actor, made.id, EnvironmentUpdate.model_validate({"name": "F"}))
    for _ in range(2):
        made = service.archive(tx, actor, service.get(tx, "wrkspc_test", ENVIRONMENT, made.id))
    environments.delete(tx, actor, made.id)
    kinds = ("archived", "created", "deleted", "updated")
    assert told(tx) == [f"environment.{kind}" for kind in kinds]


def test_R140_a_memory_store_tells_of_its_beginning_and_end_only(tx: Tx, actor: Actor) -> None:
    store = memory_stores.create(tx, actor, MemoryStoreCreate(name="M"))
    memory_stores.update(tx, actor, store.id, MemoryStoreUpdate(name="N"))
    writer = Writer(actor, Author("api_actor", "apikey_test"), store)
    memories.create(tx, writer, MemoryCreate(path="/a", content="x"))
    assert told(tx) == ["memory_store.created"]
    for _ in range(2):
        store = service.archive(tx, actor, store)
    memory_stores.delete(tx, actor, store.id)
    assert told(tx) == ["memory_store.archived", "memory_store.created", "memory_store.deleted"]


def test_the_same_act_twice_in_one_moment_is_two_events(tx: Tx, clock: ManualClock) -> None:
    for _ in range(2):
        audit.record(tx, clock, "vault.create", workspace_id="wrkspc_test", fields={"id": "v"})
    assert told(tx) == ["vault.created", "vault.created"]


def test_R083_a_failed_refresh_names_its_vault(tx: Tx, clock: ManualClock) -> None:
    audit.record(
        tx,
        clock,
        "vault_credential.refresh_failed",
        workspace_id="wrkspc_test",
        session_id="sesn_1",
        fields={"id": "vcrd_1", "vault_id": "vlt_1"},
    )
    assert waiting(tx) == [
        {
            "type": "vault_credential.refresh_failed",
            "id": "vcrd_1",
            "workspace_id": "wrkspc_test",
            "vault_id": "vlt_1",
        }
    ]


def test_other_acts_are_nobodys_business(tx: Tx, clock: ManualClock) -> None:
    for kind in ("session.create", "environment_key.create", "memory.create", "secret.use"):
        audit.record(tx, clock, kind, workspace_id="wrkspc_test", fields={"id": "x"})
    assert told(tx) == []

import json
import os
from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.catalog import environments, vaults
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.identity.actor import Actor
from intramuros.control.session.egress import Egress, mcp_servers
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.strongbox import Strongbox
from intramuros.control.store.tables import audit
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.resources.environments import EnvironmentUpdate
from intramuros.protocol.resources.vaults import CredentialCreate, CredentialUpdate, VaultCreate
from tests.fakes.world import World

VALUE = "sk-live-0123456789"


class Told:
    """A world with vaults, and what a worker is told of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.box = Credentials(Strongbox(Sealer(bytes(32), os.urandom), os.urandom))
        self.egress = Egress(world.clock, world.sessions, self.box)
        self.actor = Actor(world.clock, world.ids, world.workspace_id, "t")

    def vault(self, *names: str) -> str:
        tx = self.world.tx
        made = vaults.create(tx, self.actor, VaultCreate.model_validate({"display_name": "V"}))
        for name in names:
            self.box.create(tx, self.actor, made.id, CredentialCreate(auth=variable(name)))
        return made.id

    def configure(self, **config: Any) -> None:
        request = EnvironmentUpdate.model_validate({"config": {"type": "cloud", **config}})
        environment_id = self.world.environment_ids["cloud"]
        environments.update(self.world.tx, self.actor, environment_id, request)

    def session(self, **more: Any) -> str:
        return self.world.create(environment_id=self.world.environment_ids["cloud"], **more)

    def reveal(self, session_id: str) -> dict[str, Any]:
        return self.egress.reveal(self.world.tx, self.world.api, session_id)

    def uses(self) -> list[Any]:
        rows = self.world.tx.execute(select(audit)).all()
        return [row for row in rows if row.kind == "secret.use"]


def variable(name: str, **more: Any) -> Any:
    return {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": f"{VALUE}-{name}",
        "networking": {"type": "limited", "allowed_hosts": ["api.test"]},
        **more,
    }


@pytest.fixture
def told(world: World) -> Told:
    return Told(world)


def test_c8_4_networking_and_packages_are_told_as_they_are_configured(told: Told) -> None:
    session_id = told.session()
    found = told.reveal(session_id)
    assert found["type"] == "session_egress"
    assert found["networking"] == {"type": "unrestricted"}
    assert found["variables"] == []
    told.configure(
        networking={
            "type": "limited",
            "allowed_hosts": ["api.test"],
            "allow_package_managers": True,
        },
        packages={"pip": ["requests"]},
    )
    found = told.reveal(session_id)
    assert found["networking"]["allowed_hosts"] == ["api.test"]
    assert found["networking"]["allow_mcp_servers"] is False
    assert found["packages"]["pip"] == ["requests"]
    assert told.uses() == []


def test_variables_come_with_values_hosts_and_places_and_their_use_is_audited(
    told: Told,
) -> None:
    vault_id = told.vault("ALPHA", "BETA")
    session_id = told.session(vault_ids=[vault_id])
    found = told.reveal(session_id)["variables"]
    assert {one["name"]: one["value"] for one in found} == {
        "ALPHA": f"{VALUE}-ALPHA",
        "BETA": f"{VALUE}-BETA",
    }
    assert {tuple(one["allowed_hosts"]) for one in found} == {("api.test",)}
    assert {(one["header"], one["body"]) for one in found} == {(True, True)}
    (use,) = told.uses()
    assert use.session_id == session_id
    assert VALUE not in use.line
    fields = json.loads(use.line)["fields"]
    assert set(fields["credential_ids"]) == {one["credential_id"] for one in found}


def test_R078_of_one_name_the_first_vault_in_order_wins(told: Told) -> None:
    first, second = told.vault("TOKEN"), told.vault("TOKEN", "OTHER")
    found = told.reveal(told.session(vault_ids=[second, first]))["variables"]
    assert sorted(one["name"] for one in found) == ["OTHER", "TOKEN"]
    again = told.reveal(told.session(vault_ids=[first, second]))["variables"]
    ids = [
        next(one["credential_id"] for one in listed if one["name"] == "TOKEN")
        for listed in (found, again)
    ]
    assert ids[0] != ids[1]


def test_R081_rotation_and_archiving_take_effect_in_a_living_session(told: Told) -> None:
    vault_id = told.vault("TOKEN")
    session_id = told.session(vault_ids=[vault_id])
    (one,) = told.reveal(session_id)["variables"]
    change = {
        "auth": {
            "type": "environment_variable",
            "secret_value": "rotated",
            "injection_location": {"body": False},
        }
    }
    told.box.update(
        told.world.tx,
        told.actor,
        vault_id,
        one["credential_id"],
        CredentialUpdate.model_validate(change),
    )
    (now,) = told.reveal(session_id)["variables"]
    assert (now["value"], now["header"], now["body"]) == ("rotated", True, False)
    vaults.archive(told.world.tx, told.actor, vault_id)
    assert told.reveal(session_id)["variables"] == []


def test_an_unrestricted_credential_names_no_hosts(told: Told) -> None:
    vault_id = told.vault()
    auth = variable("TOKEN", networking={"type": "unrestricted"})
    told.box.create(told.world.tx, told.actor, vault_id, CredentialCreate(auth=auth))
    (one,) = told.reveal(told.session(vault_ids=[vault_id]))["variables"]
    assert one["allowed_hosts"] is None


def test_self_hosted_sessions_and_those_of_others_are_told_nothing(told: Told) -> None:
    with pytest.raises(InvalidRequest, match="cloud"):
        told.reveal(told.world.create())
    with pytest.raises(NotFound):
        told.reveal("sesn_nobodys")


def test_mcp_servers_of_all_agents_are_named_once() -> None:
    server = {"type": "url", "name": "a", "url": "https://a.test/mcp"}
    other = {"type": "url", "name": "b", "url": "https://b.test/mcp"}
    member = {
        "type": "agent",
        "id": "agent_2",
        "name": "B",
        "version": 1,
        "mcp_servers": [other, server],
    }
    crew = {"type": "coordinator", "agents": [member]}
    assert mcp_servers({"mcp_servers": [server]}) == ["https://a.test/mcp"]
    assert mcp_servers({"mcp_servers": [server], "multiagent": crew}) == [
        "https://a.test/mcp",
        "https://b.test/mcp",
    ]
    assert mcp_servers({}) == []

import json

import pytest
from sqlalchemy import insert

from intramuros.control.catalog import agents, environments, service
from intramuros.control.identity import audit, credentials
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.agents import AgentCreate
from intramuros.protocol.resources.environments import (
    Environment,
    EnvironmentCreate,
    EnvironmentKey,
    EnvironmentUpdate,
)

LIMITED = {
    "type": "limited",
    "allowed_hosts": ["a.example.com"],
    "allow_mcp_servers": False,
    "allow_package_managers": True,
}


def creating(**more: object) -> EnvironmentCreate:
    return EnvironmentCreate.model_validate({"name": "e", **more})


def updating(**fields: object) -> EnvironmentUpdate:
    return EnvironmentUpdate.model_validate(fields)


def cloud(**more: object) -> dict[str, object]:
    return {"type": "cloud", **more}


SELF_HOSTED = {"type": "self_hosted"}
STORED = environments.configure(
    creating(config=cloud(networking=LIMITED, packages={"pip": ["x"]}), metadata={"a": "1"})
)


@pytest.mark.rule("c8_2", "c8_3", "c8_4")
def test_new_environments_say_everything() -> None:
    config = environments.configure(creating())["config"]
    assert config["networking"] == {"type": "unrestricted"}
    assert set(config["packages"]) == {"type", "apt", "cargo", "gem", "go", "npm", "pip"}
    assert environments.configure(creating(config=SELF_HOSTED))["config"] == SELF_HOSTED
    limited = environments.configure(creating(config=cloud(networking={"type": "limited"})))
    assert limited["config"]["networking"] == {
        "type": "limited",
        "allowed_hosts": [],
        "allow_mcp_servers": False,
        "allow_package_managers": False,
    }


@pytest.mark.parametrize(
    ("config", "networking", "pip"),
    [
        (cloud(), LIMITED, ["x"]),
        (cloud(networking=None, packages=None), LIMITED, ["x"]),
        (
            cloud(networking={"type": "limited", "allow_mcp_servers": True}),
            {**LIMITED, "allow_mcp_servers": True},
            ["x"],
        ),
        (
            cloud(networking={"type": "limited", "allowed_hosts": []}),
            {**LIMITED, "allowed_hosts": []},
            ["x"],
        ),
        (cloud(networking={"type": "unrestricted"}), {"type": "unrestricted"}, ["x"]),
        (cloud(packages={"pip": []}), LIMITED, []),
        (cloud(packages={"npm": ["y"]}), LIMITED, ["x"]),
    ],
)
@pytest.mark.rule("c8_7")
def test_nested_fields_that_were_not_sent_stay(
    config: dict[str, object], networking: dict[str, object], pip: list[str]
) -> None:
    changed = environments.amend(STORED, updating(config=config))["config"]
    assert (changed["networking"], changed["packages"]["pip"]) == (networking, pip)


@pytest.mark.rule("c3_9", "c8_8")
def test_a_type_stays_for_good() -> None:
    with pytest.raises(InvalidRequest) as caught:
        environments.amend(STORED, updating(config=SELF_HOSTED))
    assert caught.value.hints.code == "invalid_config_type_change"


@pytest.mark.rule("c8_6", "R387")
def test_limited_networks_need_leave_for_packages() -> None:
    with pytest.raises(InvalidRequest, match="allow_package_managers"):
        environments.amend(
            STORED,
            updating(config=cloud(networking={"type": "limited", "allow_package_managers": False})),
        )


@pytest.mark.rule("c4_8", "c8_9", "c8_10")
def test_texts_and_metadata_clear_in_their_own_ways() -> None:
    assert environments.amend(STORED, updating(description=""))["description"] == ""
    assert environments.amend(STORED, updating(name=None))["name"] == "e"
    assert environments.amend(STORED, updating(metadata={"a": "", "b": "2"}))["metadata"] == {
        "b": "2"
    }
    with pytest.raises(InvalidRequest, match="scope"):
        environments.amend(STORED, updating(scope="account"))


@pytest.mark.rule("c3_8", "c8_11")
def test_archived_environments_do_not_change(tx: Tx, actor: Actor) -> None:
    made = environments.create(tx, actor, creating(config=SELF_HOSTED))
    Environment.model_validate(environments.present(service.archive(tx, actor, made)))
    with pytest.raises(InvalidRequest) as caught:
        environments.update(tx, actor, made.id, updating(name="f"))
    assert caught.value.hints.code == "environment_archived"
    with pytest.raises(InvalidRequest):
        environments.create_key(tx, actor, made.id, "late")


@pytest.mark.rule("c8_12")
def test_an_environment_with_sessions_stays(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = environments.create(tx, actor, creating(config=SELF_HOSTED))
    agent = agents.create(tx, actor, AgentCreate.model_validate({"name": "a", "model": "m"}))
    tx.execute(
        insert(sessions).values(
            id="sesn_1",
            workspace_id="wrkspc_test",
            environment_id=made.id,
            environment_kind="self_hosted",
            agent_id=agent.id,
            agent_version=1,
            agent={},
            metadata={},
            resources=[],
            vault_ids=[],
            status="idle",
            state={},
            last_seq=0,
            created_us=to_micros(clock.now()),
            updated_us=to_micros(clock.now()),
        )
    )
    with pytest.raises(Conflict, match="sessions"):
        environments.delete(tx, actor, made.id)


def test_keys_die_with_their_environment(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = environments.create(tx, actor, creating(config=SELF_HOSTED))
    _, secret = environments.create_key(tx, actor, made.id, "rack")
    who = credentials.authenticate(tx, secret, to_micros(clock.now()))
    assert who.environment_id == made.id
    environments.delete(tx, actor, made.id)
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, to_micros(clock.now()))
    with pytest.raises(NotFound):
        environments.list_keys(tx, "wrkspc_test", made.id)


def test_keys_are_listed_revoked_and_recorded_without_their_secret(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    made = environments.create(tx, actor, creating(config=SELF_HOSTED))
    first, secret = environments.create_key(tx, actor, made.id, "one")
    clock.advance(1)
    second, _ = environments.create_key(tx, actor, made.id, "two")
    EnvironmentKey.model_validate(first)
    assert [key["id"] for key in environments.list_keys(tx, "wrkspc_test", made.id)] == [
        second["id"],
        first["id"],
    ]
    revoked = environments.revoke_key(tx, actor, made.id, first["id"])
    clock.advance(1)
    assert environments.revoke_key(tx, actor, made.id, first["id"]) == revoked
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, to_micros(clock.now()))
    lines = list(audit.read_lines(tx))
    assert [json.loads(line)["kind"] for line in lines[1:]] == [
        "environment_key.create",
        "environment_key.create",
        "environment_key.revoke",
    ]
    assert secret not in "".join(lines)


def test_a_key_is_found_only_under_its_own_environment(tx: Tx, actor: Actor) -> None:
    mine = environments.create(tx, actor, creating(config=SELF_HOSTED))
    other = environments.create(tx, actor, creating(config=SELF_HOSTED))
    key, _ = environments.create_key(tx, actor, mine.id, "one")
    with pytest.raises(NotFound):
        environments.revoke_key(tx, actor, other.id, key["id"])
    plain = environments.create(tx, actor, creating())
    with pytest.raises(InvalidRequest, match="not self-hosted"):
        environments.create_key(tx, actor, plain.id, "no")

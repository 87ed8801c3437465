from dataclasses import replace

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from intramuros.control.catalog import agents, environments, memory_stores, service, vaults
from intramuros.control.catalog.kinds import FILE, MEMORY_STORE, VAULT
from intramuros.control.deployment import configure
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import InvalidRequest, NotFound, TooLarge
from intramuros.protocol.resources.agents import AgentCreate
from intramuros.protocol.resources.environments import EnvironmentCreate
from intramuros.protocol.resources.memory import MemoryStoreCreate
from intramuros.protocol.resources.vaults import VaultCreate
from tests.fakes.deployments import GO, HOURLY, Desk, schedule

SYSTEM = {"type": "system.message", "content": [{"type": "text", "text": "be brief"}]}


def store(desk: Desk) -> str:
    request = MemoryStoreCreate(name="Notes")
    return memory_stores.create(desk.world.tx, desk.actor, request).id


def vault(desk: Desk) -> str:
    return vaults.create(desk.world.tx, desk.actor, VaultCreate(display_name="V")).id


def test_R206_a_bare_id_is_pinned_to_the_newest_version(desk: Desk) -> None:
    first = desk.make()
    assert first.body["agent"] == {"id": desk.world.agent_id, "version": 1}
    assert desk.next_version(desk.world.agent_id) == 2
    assert desk.make().body["agent"]["version"] == 2
    pinned = {"type": "agent", "id": desk.world.agent_id, "version": 1}
    assert desk.make(agent=pinned).body["agent"]["version"] == 1
    # What was pinned stays until it is pinned again (R212).
    assert desk.get(first.resource.id).body["agent"]["version"] == 1
    changed = desk.change(first.resource.id, agent=desk.world.agent_id)
    assert changed.body["agent"]["version"] == 2


def test_R206_the_agent_must_exist_and_not_be_archived(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no agent"):
        desk.make(agent="agent_none")
    with pytest.raises(NotFound, match="no version 7"):
        desk.make(agent={"type": "agent", "id": desk.world.agent_id, "version": 7})
    desk.put_agent_away()
    with pytest.raises(InvalidRequest, match="archived"):
        desk.make()


def test_the_environment_must_exist_and_not_be_archived(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no environment"):
        desk.make(environment_id="env_none")
    made = desk.make()
    desk.put_environment_away()
    with pytest.raises(InvalidRequest, match="archived"):
        desk.make()
    # What is not sent is not looked at again: a broken deployment can still be named otherwise.
    assert desk.change(made.resource.id, name="Broken").body["name"] == "Broken"


def test_events_are_those_that_a_new_session_would_take(desk: Desk) -> None:
    made = desk.make(initial_events=[GO, GO, SYSTEM])
    assert [event["type"] for event in made.body["initial_events"]] == [
        "user.message",
        "user.message",
        "system.message",
    ]
    for wrong in ([SYSTEM, GO], [GO, SYSTEM, SYSTEM]):
        with pytest.raises(InvalidRequest, match=r"system\.message"):
            desk.make(initial_events=wrong)
    file = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    with pytest.raises(NotFound, match="file_1"):
        desk.make(initial_events=[{"type": "user.message", "content": [file]}])
    interrupt = {"type": "user.interrupt"}
    with pytest.raises(ValidationError):
        desk.make(initial_events=[interrupt])


def outcome(rubric: dict[str, str]) -> dict[str, object]:
    return {"type": "user.define_outcome", "description": "a report", "rubric": rubric}


TEXT = {"type": "text", "content": "it is brief"}


def test_R205_which_events_may_stand_where(desk: Desk) -> None:
    define = outcome(TEXT)
    made = desk.make(initial_events=[define])
    assert made.body["initial_events"] == [{**define, "max_iterations": None}]
    desk.make(initial_events=[define, GO, SYSTEM])
    desk.make(initial_events=[GO, define])
    for wrong in ([SYSTEM], [SYSTEM, GO], [GO, SYSTEM, SYSTEM], [GO, SYSTEM, define]):
        with pytest.raises(InvalidRequest, match=r"system\.message"):
            desk.make(initial_events=wrong)
    picture = {"type": "image", "source": {"type": "url", "url": "https://x.test"}}
    for bad in (
        [define, define],
        [GO, {**SYSTEM, "content": [picture]}],
        [{**define, "max_iterations": 21}],
    ):
        with pytest.raises(ValidationError):
            desk.make(initial_events=bad)


def test_a_rubrics_file_must_be_there(desk: Desk) -> None:
    with pytest.raises(NotFound, match="file_none"):
        desk.make(initial_events=[outcome({"type": "file", "file_id": "file_none"})])


@pytest.mark.rule("R204")
def test_R204_one_to_fifty_events(desk: Desk) -> None:
    assert len(desk.make(initial_events=[GO] * 50).body["initial_events"]) == 50
    for wrong in ([], [GO] * 51):
        with pytest.raises(ValidationError):
            desk.make(initial_events=wrong)


def test_events_have_room_within_bounds(desk: Desk) -> None:
    long = {"type": "user.message", "content": [{"type": "text", "text": "x" * 100_000}]}
    assert configure.MAX_EVENTS_BYTES > 40 * 100_000
    desk.make(initial_events=[long] * 40)
    with pytest.raises(TooLarge, match="initial_events"):
        desk.make(initial_events=[long] * 42)


def test_stores_and_vaults_are_looked_up(desk: Desk) -> None:
    store_id, vault_id = store(desk), vault(desk)
    resource = {"type": "memory_store", "memory_store_id": store_id, "access": "read_only"}
    made = desk.make(resources=[resource], vault_ids=[vault_id, vault_id])
    assert made.body["resources"] == [{**resource, "instructions": None}]
    assert made.body["vault_ids"] == [vault_id]
    with pytest.raises(NotFound):
        desk.make(resources=[{"type": "memory_store", "memory_store_id": "memstore_none"}])
    with pytest.raises(NotFound):
        desk.make(vault_ids=["vlt_none"])
    desk.put_away(MEMORY_STORE, store_id)
    desk.put_away(VAULT, vault_id)
    with pytest.raises(InvalidRequest, match="archived"):
        desk.make(resources=[resource])
    with pytest.raises(InvalidRequest, match="archived"):
        desk.make(vault_ids=[vault_id])


def test_R207_500_resources_and_50_vaults(desk: Desk) -> None:
    file_id = service.create(desk.world.tx, desk.actor, FILE, {}).id
    resources = [
        {"type": "memory_store", "memory_store_id": store(desk)},
        *({"type": "file", "file_id": file_id, "mount_path": f"/{n}"} for n in range(499)),
    ]
    made = desk.make(resources=resources)
    assert [resource["type"] for resource in made.body["resources"]].count("file") == 499
    with pytest.raises(ValidationError, match="500"):
        desk.make(resources=[*resources, resources[1]])
    vault_ids = [vault(desk) for _ in range(50)]
    assert desk.make(vault_ids=vault_ids).body["vault_ids"] == vault_ids
    with pytest.raises(ValidationError, match="50"):
        desk.make(vault_ids=[*vault_ids, vault_ids[0]])


def test_things_of_another_workspace_are_not_found(desk: Desk) -> None:
    other = "wrkspc_other"
    desk.world.tx.execute(insert(workspaces).values(id=other, name="Other", created_us=1))
    stranger = replace(desk.actor, workspace_id=other)
    agent = agents.create(
        desk.world.tx, stranger, AgentCreate.model_validate({"name": "A", "model": "m"})
    ).id
    environment = environments.create(
        desk.world.tx, stranger, EnvironmentCreate.model_validate({"name": "E"})
    ).id
    foreign_store = memory_stores.create(desk.world.tx, stranger, MemoryStoreCreate(name="N")).id
    foreign_vault = vaults.create(desk.world.tx, stranger, VaultCreate(display_name="V")).id
    foreign_file = service.create(desk.world.tx, stranger, FILE, {}).id
    made = desk.make()
    for body in (
        {"agent": agent},
        {"environment_id": environment},
        {"vault_ids": [foreign_vault]},
        {"resources": [{"type": "memory_store", "memory_store_id": foreign_store}]},
        {"resources": [{"type": "file", "file_id": foreign_file}]},
    ):
        with pytest.raises(NotFound):
            desk.make(**body)
        with pytest.raises(NotFound):
            desk.change(made.resource.id, **body)


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (schedule("0 0 30 2 *"), r"schedule\.expression: day-of-month"),
        (schedule("@daily"), r"schedule\.expression: shortcuts"),
        (schedule("0 0 * * *", "Mars/Olympus"), r"schedule\.timezone: 'Mars/Olympus'"),
    ],
)
@pytest.mark.rule("R214", "R215")
def test_R214_R215_a_schedule_is_checked(desk: Desk, sent: object, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        desk.make(schedule=sent)


@pytest.mark.parametrize("member", ["type", "expression", "timezone"])
def test_R214_all_of_a_schedule_is_required(desk: Desk, member: str) -> None:
    half = {name: value for name, value in HOURLY.items() if name != member}
    with pytest.raises(ValidationError):
        desk.make(schedule=half)


def test_a_budget_needs_list_prices(desk: Desk) -> None:
    cap = {"type": "limit", "max_list_cost": {"amount": "2000", "currency": "USD"}}
    with pytest.raises(InvalidRequest, match="model_not_budgetable"):
        desk.make(budget=cap)
    priced = desk.agent(model="claude-opus-4-6")
    made = desk.make(agent=priced, budget=cap)
    assert made.body["budget"] == cap
    with pytest.raises(InvalidRequest, match="model_not_budgetable"):
        desk.change(made.resource.id, agent=desk.world.agent_id)
    plain = desk.make()
    with pytest.raises(InvalidRequest, match="model_not_budgetable"):
        desk.change(plain.resource.id, budget=cap)
    assert desk.change(plain.resource.id, budget=None).body["budget"] is None
    # Cleared, and set again later, unlike a session's.
    assert desk.change(made.resource.id, budget=None).body["budget"] is None
    assert desk.change(made.resource.id, budget=cap).body["budget"] == cap
    for wrong in ("0", "01", "-1", "1.5", 5):
        bad = {"type": "limit", "max_list_cost": {"amount": wrong, "currency": "USD"}}
        with pytest.raises(ValidationError):
            desk.make(agent=priced, budget=bad)

"""The causes that can be brought about here, and the table of all of them."""

import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
from anthropic.types.beta import (
    BetaManagedAgentsDeploymentPausedReasonErrorObject,
    BetaManagedAgentsDeploymentRun,
)
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from intramuros.control.catalog import environments, memory_stores, service, skills, vaults
from intramuros.control.catalog.kinds import MEMORY_STORE, SKILL
from intramuros.control.deployment import causes
from intramuros.control.deployment.causes import PAUSES, CannotStart, RunError
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    RateLimited,
    TooLarge,
    Unavailable,
)
from intramuros.protocol.resources.memory import MemoryStoreCreate
from intramuros.protocol.resources.vaults import VaultCreate
from tests.fakes.deployments import Desk


def types_of(hint: Any) -> set[str]:
    """Return the discriminators of a union of the SDK's classes."""
    if hasattr(hint, "model_fields"):
        return set(get_args(hint.model_fields["type"].annotation))
    return {type for inner in get_args(hint) for type in types_of(inner)}


def test_R227_R228_the_table_is_the_sdks() -> None:
    run = BetaManagedAgentsDeploymentRun.model_fields["error"].annotation
    assert types_of(run) == set(PAUSES)
    paused = types_of(BetaManagedAgentsDeploymentPausedReasonErrorObject)
    assert paused == {name for name, pauses in PAUSES.items() if pauses}
    assert len(paused) == 14
    assert set(PAUSES) - paused == {
        "session_rate_limited_error",
        "session_creation_rejected_error",
    }


def cause(desk: Desk, body: dict[str, Any]) -> RunError | None:
    try:
        causes.check(desk.world.tx, desk.world.workspace_id, body)
    except CannotStart as refused:
        return refused.error
    return None


def body(desk: Desk, **changes: object) -> dict[str, Any]:
    return {**desk.make().body, **changes}


def environment_archived(desk: Desk) -> dict[str, Any]:
    made = body(desk)
    desk.put_environment_away()
    return made


def environment_gone(desk: Desk) -> dict[str, Any]:
    made = body(desk)
    environments.delete(desk.world.tx, desk.actor, desk.world.environment_id)
    return made


def agent_archived(desk: Desk) -> dict[str, Any]:
    made = body(desk)
    desk.put_agent_away()
    return made


def agent_gone(desk: Desk) -> dict[str, Any]:
    return body(desk, agent={"id": "agent_gone", "version": 1})


def subagent_archived(desk: Desk) -> dict[str, Any]:
    helper = desk.agent(name="Helper")
    boss = desk.agent(multiagent={"type": "coordinator", "agents": [helper]})
    made = desk.make(agent=boss)
    assert cause(desk, dict(made.body)) is None
    desk.put_away(causes.AGENT, helper)
    return dict(made.body)


def vault_of(desk: Desk) -> str:
    return vaults.create(desk.world.tx, desk.actor, VaultCreate(display_name="V")).id


def vault_archived(desk: Desk) -> dict[str, Any]:
    vault_id = vault_of(desk)
    vaults.archive(desk.world.tx, desk.actor, vault_id)
    return body(desk, vault_ids=[vault_of(desk), vault_id])


def vault_gone(desk: Desk) -> dict[str, Any]:
    vault_id = vault_of(desk)
    vaults.delete(desk.world.tx, desk.actor, vault_id)
    return body(desk, vault_ids=[vault_id])


def store_of(desk: Desk) -> str:
    request = MemoryStoreCreate(name="Notes")
    return memory_stores.create(desk.world.tx, desk.actor, request).id


def store_archived(desk: Desk) -> dict[str, Any]:
    store_id = store_of(desk)
    desk.put_away(MEMORY_STORE, store_id)
    return body(desk, resources=[{"type": "memory_store", "memory_store_id": store_id}])


def store_gone(desk: Desk) -> dict[str, Any]:
    store_id = store_of(desk)
    memory_stores.delete(desk.world.tx, desk.actor, store_id)
    return body(desk, resources=[{"type": "memory_store", "memory_store_id": store_id}])


def file_unmountable(desk: Desk) -> dict[str, Any]:
    return body(desk, resources=[{"type": "file", "file_id": "file_1"}])


def file_gone(desk: Desk) -> dict[str, Any]:
    return body(
        desk,
        resources=[{"type": "file", "file_id": "file_1"}],
        environment_id=desk.world.environment_ids["cloud"],
    )


def rubric_gone(desk: Desk) -> dict[str, Any]:
    rubric = {"type": "file", "file_id": "file_2"}
    event = {"type": "user.define_outcome", "description": "d", "rubric": rubric}
    return body(desk, initial_events=[event])


def picture_gone(desk: Desk) -> dict[str, Any]:
    block = {"type": "image", "source": {"type": "file", "file_id": "file_3"}}
    return body(desk, initial_events=[{"type": "user.message", "content": [block]}])


def workspace_archived(desk: Desk) -> dict[str, Any]:
    made = body(desk)
    desk.world.tx.execute(update(workspaces).values(archived_us=desk.world.now_us))
    return made


@pytest.mark.parametrize(
    ("bring_about", "type", "match"),
    [
        (environment_archived, "environment_archived_error", "environment `env_.*` is archived"),
        (environment_gone, "environment_not_found_error", "environment `env_.*` does not exist"),
        (agent_archived, "agent_archived_error", "agent `agent_.*` is archived"),
        (agent_gone, "session_resource_not_found_error", "agent `agent_gone` does not exist"),
        (vault_archived, "vault_archived_error", "vault `vlt_.*` is archived"),
        (vault_gone, "vault_not_found_error", "vault `vlt_.*` does not exist"),
        (store_archived, "memory_store_archived_error", "memory store `memstore_.*` is archived"),
        (store_gone, "session_resource_not_found_error", "memory store `memstore_.*` does not"),
        (file_unmountable, "self_hosted_resources_unsupported_error", "needs a cloud environment"),
        (file_gone, "file_not_found_error", "file `file_1` does not exist"),
        (rubric_gone, "file_not_found_error", "file `file_2` does not exist"),
        (picture_gone, "file_not_found_error", "file `file_3` does not exist"),
        (workspace_archived, "workspace_archived_error", "workspace `wrkspc_test` is archived"),
    ],
)
def test_R227_what_is_missing_is_found_and_named(
    desk: Desk, bring_about: Callable[[Desk], dict[str, Any]], type: str, match: str
) -> None:
    error = cause(desk, bring_about(desk))
    assert error is not None
    assert error.type == type
    assert PAUSES[type]
    assert re.match(match, error.message) or match in error.message


def test_an_archived_subagent_is_an_archived_agent(desk: Desk) -> None:
    error = cause(desk, subagent_archived(desk))
    assert error is not None
    assert error.type == "agent_archived_error"


def test_a_whole_deployment_has_no_cause(desk: Desk) -> None:
    assert cause(desk, body(desk)) is None


def test_things_of_another_workspace_are_not_there(desk: Desk) -> None:
    made = body(desk)
    with pytest.raises(CannotStart, match="session_resource_not_found"):
        causes.check(desk.world.tx, "wrkspc_other", made)


@pytest.mark.parametrize(
    ("error", "type"),
    [
        (InvalidRequest("no", code=skills.NOT_FOUND_CODE), "skill_not_found_error"),
        (NotFound("no", code="file_expired"), "file_not_found_error"),
        (InvalidRequest("no"), "session_creation_rejected_error"),
        (TooLarge("no"), "session_creation_rejected_error"),
        (Conflict("no"), "session_creation_rejected_error"),
        (RateLimited("no", retry_after_s=1), "session_rate_limited_error"),
        (NotFound("no"), "session_resource_not_found_error"),
        (CannotStart(RunError("vault_archived_error", "no")), "vault_archived_error"),
    ],
)
def test_R228_refusals_of_the_session_are_told_by_their_kind(error: Exception, type: str) -> None:
    assert causes.of(error) == RunError(type, "no")


def test_R227_a_failure_of_our_own_is_unknown_and_keeps_its_text_to_itself() -> None:
    found = causes.of(KeyError("/secret/path"))
    assert found.type == "unknown_error"
    assert "secret" not in found.message


@pytest.mark.parametrize(
    "error", [Unavailable("disk full"), OperationalError("x", None, Exception("disk I/O error"))]
)
def test_a_database_that_is_away_decides_nothing(error: Exception) -> None:
    with pytest.raises(Unavailable):
        causes.of(error)


def test_messages_are_bounded() -> None:
    assert len(causes.of(InvalidRequest("x" * 100_000)).message) == 1000


def test_a_deleted_skill_is_told_by_the_session(desk: Desk) -> None:
    """Skills are looked up where the session pins them; the refusal carries the name."""
    made = service.create(desk.world.tx, desk.actor, SKILL, {"latest_version_id": None})
    service.remove(desk.world.tx, desk.actor, made)
    reference = {"type": "custom", "skill_id": made.id, "version": "latest"}
    with pytest.raises(InvalidRequest) as refused:
        skills.pin(desk.world.tx, desk.world.workspace_id, [reference])
    assert causes.of(refused.value).type == "skill_not_found_error"

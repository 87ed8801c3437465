from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session.checkouts import Checkouts
from intramuros.control.session.repositories import CLONE_US, PATIENCE_US
from intramuros.control.store import events, leases
from intramuros.control.store import work as rows
from intramuros.control.store.tables import audit
from intramuros.control.store.tables import leases as lease_rows
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.resources.repositories import RepositoryReport
from tests.fakes.world import World

URL = "https://github.com/octo/repo"
TOKEN = "ghp_a-token-nobody-may-see"
SAY: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}


@pytest.fixture
def checkouts(world: World) -> Checkouts:
    return Checkouts(world.clock, world.journal, world.sessions)


def created(world: World, **more: Any) -> tuple[str, str]:
    resource = {"type": "github_repository", "url": URL, "authorization_token": TOKEN}
    session_id = world.create("cloud", resources=[resource], **more)
    row = world.sessions.get(world.tx, world.api, session_id)
    return session_id, row.resources[0]["id"]


def holder(world: World, session_id: str) -> Principal:
    row = world.sessions.get(world.tx, world.api, session_id)
    return Principal(
        kind=CredentialKind.SESSIONS_TOKEN,
        credential_id="token_1",
        workspace_id=world.workspace_id,
        environment_id=row.environment_id,
        session_id=session_id,
        work_id="work_1",
    )


def due_us(world: World, session_id: str) -> int | None:
    found: int | None = world.tx.scalar(
        select(lease_rows.c.available_us).where(
            lease_rows.c.queue == leases.TURNS, lease_rows.c.key == session_id
        )
    )
    return found


def kinds(world: World) -> list[str]:
    return list(world.tx.execute(select(audit.c.kind).order_by(audit.c.seq)).scalars())


def report(**more: Any) -> RepositoryReport:
    return RepositoryReport.model_validate({"attempt": "one", **more})


def test_a_session_with_repositories_asks_for_a_worker_at_once(world: World) -> None:
    session_id, _ = created(world)
    cloud = world.environment_ids["cloud"]
    assert len(rows.of_session(world.tx, cloud, session_id)) == 1
    assert rows.of_session(world.tx, cloud, world.create("cloud")) == []


def test_R392_its_worker_alone_is_told_the_token_and_that_is_audited(
    world: World, checkouts: Checkouts
) -> None:
    session_id, resource_id = created(world)
    (told,) = checkouts.reveal(world.tx, holder(world, session_id), session_id)
    assert told["authorization_token"] == TOKEN
    assert (told["id"], told["url"], told["mount_path"]) == (resource_id, URL, "/workspace/repo")
    assert kinds(world)[-1] == "secret.use"
    other, _ = created(world)
    with pytest.raises(NotFound):
        checkouts.reveal(world.tx, holder(world, other), session_id)
    with pytest.raises(NotFound):
        checkouts.report(
            world.tx, holder(world, other), session_id, resource_id, report(trouble="failed")
        )


def test_the_first_turn_waits_until_the_checkout_is_there(
    world: World, checkouts: Checkouts
) -> None:
    session_id, resource_id = created(world, initial_events=[SAY])
    now_us = world.now_us
    assert world.sessions.get(world.tx, world.api, session_id).status == "running"
    assert due_us(world, session_id) == now_us + PATIENCE_US
    by = holder(world, session_id)
    checkouts.reveal(world.tx, by, session_id)
    world.clock.advance(60)
    skill = {"path": ".claude/skills/a/SKILL.md", "name": "a", "description": "Does."}
    done = report(commit="a" * 40, skills=[skill])
    checkouts.report(world.tx, by, session_id, resource_id, done)
    assert due_us(world, session_id) == world.now_us
    row = world.sessions.get(world.tx, world.api, session_id)
    assert row.resources[0]["_skills"] == [skill]
    assert not [e for e in events.read(world.tx, session_id) if e.type == "session.error"]


def test_a_turn_in_a_hurry_does_not_wait(world: World) -> None:
    session_id, _ = created(world)
    world.say(session_id)
    assert due_us(world, session_id) == world.now_us + PATIENCE_US
    world.send(session_id, {"type": "user.interrupt"})
    assert due_us(world, session_id) == world.now_us


def test_a_message_while_it_is_cloned_waits_for_the_end(world: World, checkouts: Checkouts) -> None:
    session_id, _ = created(world)
    checkouts.reveal(world.tx, holder(world, session_id), session_id)
    world.clock.advance(10)
    world.say(session_id)
    assert due_us(world, session_id) == world.now_us - 10_000_000 + CLONE_US


def test_R396_trouble_is_an_event_and_the_session_goes_on(
    world: World, checkouts: Checkouts
) -> None:
    session_id, resource_id = created(world, initial_events=[SAY])
    by = holder(world, session_id)
    for _ in range(2):
        told = report(trouble="not_found")
        checkouts.report(world.tx, by, session_id, resource_id, told)
    (error,) = [e for e in events.read(world.tx, session_id) if e.type == "session.error"]
    assert error.body["error"] == {
        "type": "repository_not_found_error",
        "message": f"{URL} was not checked out: the host knows no such repository, or does not "
        "show it to this token. The session goes on without it.",
        "retry_status": {"type": "retrying"},
        "repository_url": URL,
    }
    assert due_us(world, session_id) == world.now_us
    with pytest.raises(NotFound):
        checkouts.report(world.tx, by, session_id, "sesrsc_none", told)


def test_c11_8_R395_a_rotated_token_is_the_next_to_be_told(
    world: World, checkouts: Checkouts
) -> None:
    session_id, resource_id = created(world)
    world.clock.advance(1)
    shown = world.sessions.rotate_token(world.tx, world.api, session_id, resource_id, "ghp_second")
    assert "ghp" not in str(shown)
    assert kinds(world)[-1] == "session.resource.update"
    (told,) = checkouts.reveal(world.tx, holder(world, session_id), session_id)
    assert (told["authorization_token"], told["updated_at"]) == ("ghp_second", shown["updated_at"])
    with pytest.raises(NotFound):
        world.sessions.rotate_token(world.tx, world.api, session_id, "sesrsc_none", "t")


def test_an_archived_session_forgets_its_tokens(world: World) -> None:
    session_id, resource_id = created(world)
    world.sessions.archive(world.tx, world.api, session_id)
    assert world.tokens.open(world.tx, resource_id) is None
    with pytest.raises(InvalidRequest, match="has ended"):
        world.sessions.rotate_token(world.tx, world.api, session_id, resource_id, "t")


def test_an_ended_session_hears_no_report(world: World, checkouts: Checkouts) -> None:
    session_id, resource_id = created(world)
    by = holder(world, session_id)
    world.sessions.archive(world.tx, world.api, session_id)
    count = len(events.read(world.tx, session_id))
    checkouts.report(world.tx, by, session_id, resource_id, report(trouble="failed"))
    assert len(events.read(world.tx, session_id)) == count


def test_a_repository_stays_for_the_sessions_life(world: World) -> None:
    session_id, resource_id = created(world)
    with pytest.raises(InvalidRequest, match="which a session keeps"):
        world.sessions.remove_file(world.tx, world.api, session_id, resource_id)


def test_a_self_hosted_session_has_none(world: World, checkouts: Checkouts) -> None:
    session_id = world.create()
    with pytest.raises(InvalidRequest, match="only sessions of cloud"):
        checkouts.reveal(world.tx, holder(world, session_id), session_id)

import json
from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session import releases as room
from intramuros.control.session.releases import Releases
from intramuros.control.store.tables import audit
from intramuros.kernel.errors import Conflict, NotFound
from intramuros.protocol.resources.releases import ReleaseRequest, ReleaseVerdict
from tests.fakes.world import World

ALLOW = ReleaseVerdict(result="allow")
DENY = ReleaseVerdict(result="deny", deny_message="not this")


@pytest.fixture
def releases(world: World) -> Releases:
    return Releases(world.clock, world.sessions)


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


def question(id: str = "sevt_1", **more: Any) -> ReleaseRequest:
    asked: dict[str, Any] = {
        "id": id,
        "subject": "tool_result",
        "rules": {"jwt": 2},
        "size_bytes": 10,
        "digest": "d" * 32,
        "excerpt": "a [masked jwt]",
        "wait_s": 600,
        **more,
    }
    return ReleaseRequest.model_validate(asked)


def acts(world: World) -> list[tuple[str, dict[str, Any]]]:
    rows = world.tx.execute(select(audit.c.kind, audit.c.line).order_by(audit.c.seq)).all()
    return [
        (row.kind, json.loads(row.line)["fields"]) for row in rows if row.kind.startswith("release")
    ]


def test_a_question_is_asked_once_and_answered_once(world: World, releases: Releases) -> None:
    session_id = world.create()
    worker = holder(world, session_id)
    shown = releases.ask(world.tx, worker, session_id, question())
    assert (shown["status"], shown["rules"], shown["decided_by"]) == ("open", {"jwt": 2}, None)
    assert releases.ask(world.tx, worker, session_id, question(wait_s=5)) == shown
    assert releases.find(world.tx, world.api, session_id) == [shown]
    allowed = releases.decide(world.tx, world.api, session_id, "sevt_1", ALLOW)
    assert allowed["status"] == "allowed"
    assert allowed["decided_by"] == world.api.credential_id
    assert releases.decide(world.tx, world.api, session_id, "sevt_1", ALLOW) == allowed
    assert releases.ask(world.tx, worker, session_id, question()) == allowed
    with pytest.raises(Conflict, match="has been answered"):
        releases.decide(world.tx, world.api, session_id, "sevt_1", DENY)
    (asked, answered) = acts(world)
    assert asked[0] == "release.ask"
    assert asked[1]["digest"] == answered[1]["digest"] == "d" * 32
    assert (answered[0], answered[1]["result"]) == ("release.decide", "allow")
    assert "masked" not in json.dumps([asked, answered])


def test_a_denial_says_why(world: World, releases: Releases) -> None:
    session_id = world.create()
    releases.ask(world.tx, holder(world, session_id), session_id, question())
    denied = releases.decide(world.tx, world.api, session_id, "sevt_1", DENY)
    assert (denied["status"], denied["deny_message"]) == ("denied", "not this")


def test_nobody_answers_what_nobody_waits_for(world: World, releases: Releases) -> None:
    session_id = world.create()
    releases.ask(world.tx, holder(world, session_id), session_id, question())
    world.clock.advance(600)
    with pytest.raises(Conflict, match="nobody waits"):
        releases.decide(world.tx, world.api, session_id, "sevt_1", ALLOW)
    assert releases.get(world.tx, world.api, session_id, "sevt_1")["status"] == "expired"


def test_a_question_is_not_replaced_by_another(world: World, releases: Releases) -> None:
    session_id = world.create()
    worker = holder(world, session_id)
    releases.ask(world.tx, worker, session_id, question())
    with pytest.raises(Conflict, match="something else"):
        releases.ask(world.tx, worker, session_id, question(digest="e" * 32))


def test_what_is_not_there_is_not_found(world: World, releases: Releases) -> None:
    session_id, other = world.create(), world.create()
    with pytest.raises(NotFound):
        releases.get(world.tx, world.api, session_id, "sevt_9")
    with pytest.raises(NotFound):
        releases.decide(world.tx, world.api, session_id, "sevt_9", ALLOW)
    with pytest.raises(NotFound):
        releases.ask(world.tx, holder(world, other), session_id, question())


def test_questions_are_bounded(
    world: World, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_KEPT", 2)
    session_id = world.create()
    worker = holder(world, session_id)
    for number in range(2):
        releases.ask(world.tx, worker, session_id, question(f"q{number}"))
    with pytest.raises(Conflict, match="at most 2"):
        releases.ask(world.tx, worker, session_id, question("q2"))

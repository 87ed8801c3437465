from sqlalchemy import delete, select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import AGENT, ENVIRONMENT
from intramuros.control.dreams import prompts
from intramuros.control.dreams.plan import Ask
from intramuros.control.session.phase import Phase
from intramuros.control.store import leases
from intramuros.control.store.records import Draft
from intramuros.control.store.tables import resources, sessions
from intramuros.protocol.resources.dreams import ENVIRONMENT_KIND
from tests.fakes.dreams import Night


def row_of(night: Night, session_id: str):  # type: ignore[no-untyped-def]  # a row of many columns
    return night.tx.execute(select(sessions).where(sessions.c.id == session_id)).one()


def test_its_session_is_of_the_workspace_and_has_no_sandbox(night: Night) -> None:
    dream = night.begin(night.store(a="x"), night.talk("hi"), instructions="Only code.")
    night.until(dream, Ask)
    row = row_of(night, dream.session_id)
    assert (row.environment_kind, row.resources, row.vault_ids) == (ENVIRONMENT_KIND, [], [])
    assert row.metadata == {"dream_id": dream.id}
    assert row.agent["model"]["id"] == "scripted/x"
    assert row.agent["system"] == prompts.system("Only code.")
    assert [tool["name"] for tool in row.agent["tools"]] == [t["name"] for t in prompts.TOOLS]
    assert (row.agent["mcp_servers"], row.agent["skills"]) == ([], [])
    agent = service.get(night.tx, "wrkspc_test", AGENT, row.agent_id)
    place = service.get(night.tx, "wrkspc_test", ENVIRONMENT, row.environment_id)
    assert agent.archived_us is not None
    assert place.archived_us is not None


def test_dreams_share_an_agent_and_an_environment(night: Night) -> None:
    store, talk = night.store(a="x"), night.talk("hi")
    rows = []
    for model in ("scripted/x", "scripted/y"):
        dream = night.begin(store, talk, model=model)
        night.until(dream, Ask)
        rows.append(row_of(night, dream.session_id))
    assert rows[0].agent_id == rows[1].agent_id
    assert rows[0].environment_id == rows[1].environment_id
    assert rows[0].agent_version == rows[1].agent_version
    assert rows[1].agent["model"]["id"] == "scripted/y"


def test_a_home_that_somebody_deleted_is_made_again(night: Night) -> None:
    store, talk = night.store(a="x"), night.talk("hi")
    first = night.begin(store, talk)
    night.until(first, Ask)
    old = row_of(night, first.session_id)
    night.tx.execute(delete(sessions).where(sessions.c.id == first.session_id))
    night.tx.execute(delete(resources).where(resources.c.id == old.environment_id))
    second = night.begin(store, talk)
    night.until(second, Ask)
    new = row_of(night, second.session_id)
    assert new.environment_id != old.environment_id
    assert new.agent_id == old.agent_id


def test_each_part_starts_afresh(night: Night) -> None:
    dream = night.begin(night.store(a="x"), night.talk("hi"))
    night.until(dream, Ask)
    night.say(dream)
    night.stage.tell(night.tx, dream, "and now", afresh=True)
    held = night.world.journal.hold(night.tx, dream.session_id)
    assert held.state.due
    assert night.heard(dream, "user.message")[-1] != ""
    assert leases.next_ready_us(night.tx, leases.TURNS) is not None


def test_halting_is_said_once_and_only_to_what_moves(night: Night) -> None:
    dream = night.begin(night.store(a="x"), night.talk("hi"))
    night.stage.halt(night.tx, dream)  # there is no session yet
    night.until(dream, Ask)
    for _ in range(2):
        night.stage.halt(night.tx, dream)
    held = night.world.journal.hold(night.tx, dream.session_id)
    assert [item.type for item in held.state.queued] == ["user.message", "user.interrupt"]


def test_R248_closing_archives_once(night: Night) -> None:
    dream = night.begin(night.store(a="x"), night.talk("hi"))
    night.stage.close(night.tx, dream)  # there is no session yet
    night.until(dream, Ask)
    night.say(dream)
    night.stage.close(night.tx, dream)
    row = row_of(night, dream.session_id)
    assert (row.status, row.archived_us is not None) == ("terminated", True)
    night.stage.close(night.tx, dream)
    assert row_of(night, dream.session_id) == row
    state = night.world.journal.hold(night.tx, dream.session_id).state
    assert state.phase is Phase.TERMINATED


def test_what_the_session_complained_of_last(night: Night) -> None:
    dream = night.begin(night.store(a="x"), night.talk("hi"))
    night.until(dream, Ask)
    assert night.stage.complaint(night.tx, dream) is None
    for message in ("first", "second"):
        error = {"type": "unknown_error", "message": message, "retry_status": {"type": "retrying"}}
        night.world.loop(dream.session_id, Draft("session.error", {"error": error}))
    assert night.stage.complaint(night.tx, dream) == "second"

import json
from dataclasses import replace

import pytest

from intramuros.control.catalog import memories
from intramuros.control.dreams import output, rows
from intramuros.control.dreams.hands import Hands
from intramuros.control.dreams.plan import Ask, Dream
from intramuros.protocol.resources.memory import MemoryUpdate
from tests.fakes.dreams import Night, statement


@pytest.fixture
def dream(night: Night) -> Dream:
    """A dream that was shown one memory and one message."""
    made = night.begin(night.store(notes="old", other="else"), night.talk("hello"))
    night.until(made, Ask)
    return night.now(made)


@pytest.fixture
def hands(night: Night, dream: Dream) -> Hands:
    return Hands(night.tx, dream, output.writer(night.tx, night.stage, dream))


def event_of(night: Night, dream: Dream) -> str:
    (text,) = night.heard(dream, "user.message")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return str(next(line["event"] for line in lines if "event" in line))


def test_a_new_memory_has_its_sources(night: Night, dream: Dream, hands: Hands) -> None:
    event = event_of(night, dream)
    given = {"path": "/new.md", "statements": [statement("New.", event, "/notes.md")]}
    text, failed = hands.perform("write_memory", given)
    assert (text.startswith("Created /new.md"), failed) == (True, False)
    written = night.held(dream.output_id)["/new.md"]
    assert f"session {dream.session_ids[0]}, event {event}" in written
    found = rows.known(night.tx, dream, "/notes.md")
    assert found is not None
    assert f"memory /notes.md of {dream.store_id}, version {found.found}" in written
    assert "/new.md" not in night.held(dream.store_id)


@pytest.mark.parametrize("source", ["sevt_none", "/none.md", "", "notes.md", "sesn_1", "\x00"])
def test_what_was_not_shown_is_no_source(night: Night, hands: Hands, source: str) -> None:
    given = {"path": "/new.md", "statements": [statement("New.", source)]}
    text, failed = hands.perform("write_memory", given)
    assert failed
    assert "no source" in text


def test_an_event_of_another_session_or_not_read_yet_is_no_source(
    night: Night, dream: Dream, hands: Hands
) -> None:
    strange = night.world.say(night.world.create(), "x")
    seen = event_of(night, dream)
    behind = replace(dream, progress=replace(dream.progress, session=0, seq=0))
    early = Hands(night.tx, behind, output.writer(night.tx, night.stage, dream))
    for who, source in ((hands, strange.id), (early, seen)):
        given = {"path": "/new.md", "statements": [statement("New.", source)]}
        assert who.perform("write_memory", given)[1]


def test_what_the_dream_wrote_itself_is_no_source(night: Night, dream: Dream, hands: Hands) -> None:
    own = {"path": "/own.md", "statements": [statement("A.", "/notes.md")]}
    assert not hands.perform("write_memory", own)[1]
    circular = {"path": "/own2.md", "statements": [statement("A.", "/own.md")]}
    text, failed = hands.perform("write_memory", circular)
    assert failed
    assert "input store had no memory there" in text


def test_only_what_was_seen_is_replaced_or_deleted(
    night: Night, dream: Dream, hands: Hands
) -> None:
    writer = output.writer(night.tx, night.stage, dream)
    found = memories.at(night.tx, writer.store.id, "/notes.md")
    assert found is not None
    memories.change(night.tx, writer, found.id, MemoryUpdate(content="somebody's"))
    change = {"path": "/notes.md", "statements": [statement("New.", "/notes.md")]}
    drop = {"path": "/notes.md", "reason": "stale"}
    for name, given in (("write_memory", change), ("delete_memory", drop)):
        text, failed = hands.perform(name, given)
        assert failed
        assert "read_memory first" in text
    assert night.held(dream.output_id)["/notes.md"] == "somebody's"
    read, failed = hands.perform("read_memory", {"path": "/notes.md"})
    assert (json.loads(read)["text"], failed) == ("somebody's", False)
    assert hands.perform("write_memory", change)[0].startswith("Replaced")
    # Its own writing counts as seen.
    assert hands.perform("write_memory", change)[0].startswith("Replaced")
    assert hands.perform("delete_memory", drop) == ("Deleted /notes.md.", False)
    known = rows.known(night.tx, dream, "/notes.md")
    assert known is not None
    assert known.reason == "stale"
    assert hands.perform("delete_memory", drop)[1]


def test_a_part_forgets_what_an_earlier_one_saw(night: Night, dream: Dream) -> None:
    later = replace(dream, progress=replace(dream.progress, part=2))
    hands = Hands(night.tx, later, output.writer(night.tx, night.stage, dream))
    drop = {"path": "/notes.md", "reason": "stale"}
    assert hands.perform("delete_memory", drop)[1]
    hands.perform("read_memory", {"path": "/notes.md"})
    assert not hands.perform("delete_memory", drop)[1]


def test_lists_have_pages_and_reading_has_an_end(night: Night, dream: Dream) -> None:
    poor = replace(dream, progress=replace(dream.progress, room=80))
    hands = Hands(night.tx, poor, output.writer(night.tx, night.stage, dream))
    listed, failed = hands.perform("list_memories", {})
    assert not failed
    found = [json.loads(line)["memory"] for line in listed.splitlines()]
    assert found == ["/notes.md", "/other.md"]
    assert hands.perform("list_memories", {"after": "/notes.md"})[0].count("\n") == 0
    text, failed = hands.perform("read_memory", {"path": "/notes.md"})
    assert failed
    assert "no room" in text
    assert hands.perform("list_memories", {"prefix": "/none/"})[1] is True
    # What could not be shown was not seen either.
    drop = {"path": "/notes.md", "reason": "stale"}
    moved = replace(hands.progress, part=2)
    blind = Hands(
        night.tx, replace(dream, progress=moved), output.writer(night.tx, night.stage, dream)
    )
    blind.perform("read_memory", {"path": "/notes.md"})
    assert blind.perform("delete_memory", drop)[1]


def test_a_memory_stays_within_its_bounds(hands: Hands) -> None:
    many = [statement("x" * 8000, "/notes.md") for _ in range(13)]
    text, failed = hands.perform("write_memory", {"path": "/big.md", "statements": many})
    assert failed
    assert "split it" in text


def test_an_archived_store_takes_nothing(night: Night, dream: Dream) -> None:
    writer = output.writer(night.tx, night.stage, dream)
    archived = replace(writer, store=replace(writer.store, archived_us=1))
    hands = Hands(night.tx, dream, archived)
    given = {"path": "/new.md", "statements": [statement("New.", "/notes.md")]}
    text, failed = hands.perform("write_memory", given)
    assert failed
    assert "archived" in text

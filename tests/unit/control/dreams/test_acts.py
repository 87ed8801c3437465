import json

import pytest

from intramuros.control.catalog import memory_stores
from intramuros.control.dreams import rows
from intramuros.control.dreams.plan import (
    Ask,
    Close,
    Dream,
    Fail,
    Halt,
    Limits,
    Serve,
    Start,
    Wait,
)
from intramuros.control.session.phase import Phase
from intramuros.control.store import events
from tests.fakes.dreams import Night, statement

DROP = ("delete_memory", {"path": "/stale.md", "reason": "stale"})


def write(path: str, *sources: str) -> tuple[str, dict[str, object]]:
    return "write_memory", {"path": path, "statements": [statement("So it is.", *sources)]}


def answers(night: Night, dream: Dream) -> list[str]:
    return night.heard(dream, "user.custom_tool_result")


def test_a_whole_dream(night: Night) -> None:
    dream = night.begin(night.store(notes="a", stale="b"), night.talk("hello"))
    night.until(dream, Ask)
    assert isinstance(night.step(dream), Wait)
    night.say(dream, write("/new.md", "/notes.md"), DROP)
    assert isinstance(night.step(dream), Serve)
    assert [text.split()[0] for text in answers(night, dream)] == ["Created", "Deleted"]
    assert isinstance(night.step(dream), Wait)
    night.say(dream)
    # There is nothing more to read, and one part needs no look at the whole.
    assert isinstance(night.step(dream), Close)
    assert sorted(night.held(dream_output(night, dream))) == ["/new.md", "/notes.md"]


def dream_output(night: Night, dream: Dream) -> str | None:
    return night.now(dream).output_id


def test_calls_are_answered_once(night: Night) -> None:
    dream = night.begin(night.store(notes="a"), night.talk("hello"))
    night.until(dream, Ask)
    night.say(dream, write("/new.md", "/notes.md"))
    assert isinstance(night.step(dream), Serve)
    for _ in range(3):
        assert isinstance(night.step(dream), Wait)
    assert len(answers(night, dream)) == 1


def test_many_parts_end_with_a_look_at_the_whole(night: Night) -> None:
    night.acts = type(night.acts)(night.stage, Limits(part_chars=600))
    texts = {f"m{n}": "x" * 100 for n in range(12)}
    dream = night.begin(night.store(**texts), night.talk(*(f"says {n}" for n in range(6))))
    told = 0
    while not isinstance(act := night.step(dream), Close):
        if isinstance(act, Ask):
            told += 1
            night.say(dream)
        assert told < 50
    messages = night.heard(dream, "user.message")
    assert len(messages) == told > 3
    assert [m.split(".")[0] for m in messages] == [f"Part {n + 1}" for n in range(told)]
    assert "Look through it once more" in messages[-1]
    assert "This is the last part." in messages[-2]
    assert all(len(message) < 1500 for message in messages)
    query = events.Query(types=("agent.thread_context_compacted",))
    compacted, _ = events.page(night.tx, dream.session_id, query)
    assert len(compacted) == told - 1


def test_nothing_to_read_asks_nobody(night: Night) -> None:
    dream = night.begin(night.store(), night.talk())
    texts = []
    while not isinstance(night.step(dream), Close):
        texts = night.heard(dream, "user.message")
        if texts:
            night.say(dream)
    # The session is named even though nobody spoke in it.
    assert len(texts) == 1
    assert json.loads(texts[0].splitlines()[-1])["session"] == dream.session_ids[0]


def test_R247_the_cap_on_stores_fails_the_start(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    dream = night.begin(night.store(), night.talk("x"))
    monkeypatch.setattr(memory_stores, "MAX_IN_ORGANIZATION", 1)
    assert isinstance(night.step(dream), Start)
    failed = night.now(dream)
    assert failed.error is not None
    assert (failed.status, failed.error["type"]) == ("failed", "memory_store_org_limit_exceeded")
    assert failed.ended_us is not None
    assert isinstance(night.step(dream), Close)


def test_R247_a_store_that_is_too_large_is_not_read(night: Night) -> None:
    night.acts = type(night.acts)(night.stage, Limits(store_bytes=10))
    dream = night.begin(night.store(a="x" * 11), night.talk("x"))
    assert isinstance(night.step(dream), Fail)
    failed = night.now(dream)
    assert failed.error is not None
    assert failed.error["type"] == "input_memory_store_too_large"
    assert failed.output_id is None
    assert isinstance(night.step(dream), Close)


def test_a_canceled_dream_answers_no_call(night: Night) -> None:
    dream = night.begin(night.store(notes="a"), night.talk("hello"))
    night.until(dream, Ask)
    night.say(dream, write("/new.md", "/notes.md"))
    night.dreams.cancel(night.tx, night.caller, dream.id)
    state = night.world.journal.hold(night.tx, dream.session_id).state
    assert state.phase is Phase.REQUIRES_ACTION
    assert [item.type for item in state.queued] == ["user.interrupt"]
    assert isinstance(night.step(dream), Wait)
    assert "/new.md" not in night.held(dream_output(night, dream))
    assert isinstance(night.step(dream), Wait)


def test_one_that_stopped_listening_is_interrupted_again(night: Night) -> None:
    dream = night.begin(night.store(notes="a"), night.talk("hello"))
    night.until(dream, Ask)
    night.say(dream, write("/new.md", "/notes.md"))
    rows.change(night.tx, dream, status="failed", ended_us=1)
    assert isinstance(night.step(dream), Halt)
    assert isinstance(night.step(dream), Wait)

import pytest

from intramuros.control.model.base import TextDelta, ThinkingStarted
from intramuros.control.session.preview import Preview


def preview() -> Preview:
    names = iter(["sevt_t1", "sevt_t2"])
    return Preview(7, "sevt_m", lambda: next(names))


@pytest.mark.rule("c18_5")
def test_a_message_starts_once_and_counts_its_own_entries() -> None:
    made = preview()
    whispers = [
        whisper
        for delta in (TextDelta(1, "a"), TextDelta(1, "b"), TextDelta(4, "c"))
        for whisper in made.feed(delta)
    ]
    assert [whisper.event["type"] for whisper in whispers] == [
        "event_start",
        "event_delta",
        "event_delta",
        "event_delta",
    ]
    places = [whisper.event["delta"]["index"] for whisper in whispers[1:]]
    assert places == [0, 0, 1]
    assert {whisper.request_seq for whisper in whispers} == {7}
    assert {whisper.kind for whisper in whispers} == {"agent.message"}


def test_whispers_tell_how_much_came_before_them() -> None:
    made = preview()
    deltas = (ThinkingStarted(0), TextDelta(1, "abc"), TextDelta(1, "de"), TextDelta(2, "f"))
    whispers = [whisper for delta in deltas for whisper in made.feed(delta)]
    assert [(w.at, w.size) for w in whispers] == [(0, 1), (1, 1), (2, 3), (5, 2), (7, 1)]


def test_an_empty_delta_starts_nothing() -> None:
    assert preview().feed(TextDelta(0, "")) == []


@pytest.mark.rule("c18_8")
def test_each_thought_is_announced_under_an_id_of_its_own() -> None:
    made = preview()
    for index in (0, 2):
        (whisper,) = made.feed(ThinkingStarted(index))
        assert whisper.event["event"] == {"type": "agent.thinking", "id": made.thinking_ids[-1]}
    assert made.thinking_ids == ["sevt_t1", "sevt_t2"]

"""Previews between processes: heard as they were said, in order, bounded, best effort."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.base import Delta, TextDelta, ThinkingStarted
from intramuros.control.session.preview import Preview
from intramuros.control.store import previews
from intramuros.control.store.notify import Hub, Subscription, Whisper, session_topic
from intramuros.control.store.previews import WAITING_LIMIT, WANTED_LIMIT, WANTED_S, Previews
from intramuros.kernel.timing import ManualClock

ID = "sesn_" + "a" * 30


class Pair:
    """Two processes; what the first says is carried to the second as JSON."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hubs = Hub(), Hub()
        self.here, self.there = (Previews(hub, self.clock) for hub in self.hubs)
        self.due: list[float] = []
        self.here.attach(self.due.append)

    def carry(self, source: Previews, target: Previews) -> list[str]:
        said = [json.dumps(body, separators=(",", ":")) for body in source.say()]
        for payload in said:
            target.hear(json.loads(payload))
        return said

    def ask(self) -> None:
        self.carry(self.there, self.here)


def tell(hub: Hub, deltas: list[Delta], request_seq: int = 7) -> None:
    names = iter(range(10_000))
    made = Preview(request_seq, "sevt_m", lambda: f"sevt_{next(names)}")
    for delta in deltas:
        for whisper in made.feed(delta):
            hub.whisper(ID, whisper)


def shown(whispers: list[Whisper]) -> list[tuple[Any, ...]]:
    """Whispers with neighbouring text joined, as a client reads them."""
    found: list[tuple[Any, ...]] = []
    for whisper in whispers:
        event: Any = whisper.event
        if event["type"] == "event_start":
            found.append((whisper.request_seq, whisper.kind, event["event"]["id"]))
            continue
        key = (whisper.request_seq, event["event_id"], event["delta"]["index"])
        text = event["delta"]["content"]["text"]
        if found and found[-1][:3] == key:
            text = found.pop()[3] + text
        found.append((*key, text))
    return [json.loads(json.dumps(one)) for one in found]


def taken(subscription: Subscription) -> list[tuple[Any, ...]]:
    return shown(subscription.take_whispers())


TEXTS = st.text(st.characters(), min_size=1, max_size=1_200)
DELTAS = st.lists(
    st.one_of(
        st.builds(TextDelta, st.integers(0, 2), TEXTS),
        st.builds(ThinkingStarted, st.integers(0, 2)),
    ),
    max_size=8,
)


@given(DELTAS)
def test_the_other_process_hears_what_was_whispered(deltas: list[Delta]) -> None:
    pair = Pair()
    with (
        pair.hubs[0].subscribe(session_topic(ID)) as own,
        pair.hubs[1].subscribe(session_topic(ID)) as other,
    ):
        pair.ask()
        tell(pair.hubs[0], deltas)
        for payload in pair.carry(pair.here, pair.there):
            assert len(payload) <= 7_500
        assert taken(other) == taken(own)
        assert pair.here.say() == [], "nothing is told twice"


def test_halves_of_a_character_arrive_as_the_whole() -> None:
    pair = Pair()
    with pair.hubs[1].subscribe(session_topic(ID)) as other:
        pair.ask()
        tell(pair.hubs[0], [TextDelta(0, "a\ud83d"), TextDelta(0, "\ude00b"), TextDelta(0, "c")])
        pair.carry(pair.here, pair.there)
        tell_more = Whisper(7, "agent.message", _delta("d"), 6, 1)
        pair.hubs[0].whisper(ID, tell_more)
        pair.carry(pair.here, pair.there)
        assert taken(other)[1][3] == "a\U0001f600bcd"


def _delta(text: str) -> dict[str, Any]:
    content = {"type": "text", "text": text}
    delta = {"type": "content_delta", "index": 0, "content": content}
    return {"type": "event_delta", "event_id": "sevt_m", "delta": delta}


def test_nothing_is_said_of_what_nobody_elsewhere_wants() -> None:
    pair = Pair()
    with pair.hubs[0].subscribe(session_topic(ID)):
        pair.here.say()
        pair.due.clear()
        tell(pair.hubs[0], [TextDelta(0, "a")])
    assert pair.here.say() == []
    assert pair.due == []


def test_what_is_wanted_lapses_unless_it_is_asked_for_again() -> None:
    pair = Pair()
    with pair.hubs[1].subscribe(session_topic(ID)):
        pair.ask()
        pair.clock.advance(WANTED_S - 1)
        pair.there.renew(anew=False)
        pair.ask()
        pair.clock.advance(WANTED_S - 1)
        pair.here.renew(anew=False)
        tell(pair.hubs[0], [TextDelta(0, "a")], 1)
        assert len(pair.here.say()) == 1
    pair.there.renew(anew=False)
    pair.ask()
    pair.clock.advance(2)
    tell(pair.hubs[0], [TextDelta(0, "a")], 2)
    assert pair.here.say() == []


def test_what_waits_is_bounded_and_the_rest_of_that_request_is_not_shown() -> None:
    pair = Pair()
    with pair.hubs[1].subscribe(session_topic(ID)) as other:
        pair.ask()
        half = TextDelta(0, "x" * (WAITING_LIMIT // 2))
        tell(pair.hubs[0], [half, half, half, TextDelta(0, "tail")], 1)
        pair.carry(pair.here, pair.there)
        (_, (*_, text)) = taken(other)
        assert text == "x" * (WAITING_LIMIT // 2)
        tell(pair.hubs[0], [TextDelta(0, "next")], 2)
        pair.carry(pair.here, pair.there)
        assert taken(other)[1][3] == "next"


def test_what_could_not_be_told_in_time_is_dropped() -> None:
    pair = Pair()
    with pair.hubs[1].subscribe(session_topic(ID)):
        pair.ask()
        tell(pair.hubs[0], [TextDelta(0, "a")])
        pair.here.lost()
        assert pair.here.say() == []


def test_no_process_remembers_more_wishes_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "WANTED_LIMIT", 3)
    assert WANTED_LIMIT > 3
    pair = Pair()
    pair.here.hear(["want", *"abcde"])
    assert set(pair.here._wanted) == set("abc")
    pair.clock.advance(WANTED_S + 1)
    pair.here.renew(anew=False)
    assert pair.here._wanted == {}


def test_many_wishes_go_in_several_bodies() -> None:
    pair = Pair()
    for number in range(250):
        pair.there.awaited(f"sesn_{number:030d}")
    said = list(pair.there.say())
    assert [len(body) for body in said] == [101, 101, 51]
    assert all(len(json.dumps(body)) < 7_000 for body in said)

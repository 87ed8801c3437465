"""Hints wake, whispers stay a prefix."""

import anyio
import pytest

from intramuros.control.store.notify import (
    NEWS_LIMIT,
    REQUESTS_LIMIT,
    WHISPER_LIMIT,
    Hub,
    News,
    Whisper,
    session_topic,
    work_topic,
)
from intramuros.control.store.records import Record

pytestmark = pytest.mark.anyio


def whisper(request_seq: int, text: str, at: int = 0) -> Whisper:
    return Whisper(request_seq, "agent.message", {"text": text}, at)


async def test_a_hint_before_the_wait_is_not_missed() -> None:
    hub = Hub()
    with hub.subscribe("turn") as subscription:
        hub.hint("turn")
        with anyio.fail_after(60):
            assert await subscription.wait(60)
        subscription.clear()
        assert not await subscription.wait(0.001)


async def test_a_hint_wakes_every_waiter_of_its_topic_only() -> None:
    hub = Hub()
    woken: list[str] = []

    async def wait(topic: str, name: str) -> None:
        with hub.subscribe(topic) as subscription:
            if await subscription.wait(60):
                woken.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, work_topic("env_1"), "one")
        group.start_soon(wait, work_topic("env_1"), "two")
        group.start_soon(wait, work_topic("env_2"), "three")
        await anyio.wait_all_tasks_blocked()
        hub.hint(work_topic("env_1"))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert sorted(woken) == ["one", "two"]


async def test_nothing_remains_of_a_topic_without_subscriptions() -> None:
    hub = Hub()
    with hub.subscribe("turn"), hub.subscribe("turn"):
        assert hub.listeners("turn") == 2
    assert hub.listeners("turn") == 0
    hub.hint("turn")


async def test_whispers_come_in_order_and_once() -> None:
    hub = Hub()
    with hub.subscribe(session_topic("sesn_1")) as subscription:
        for at, text in enumerate("abc"):
            hub.whisper("sesn_1", whisper(1, text, at))
        hub.whisper("sesn_2", whisper(1, "x"))
        assert [w.event["text"] for w in subscription.take_whispers()] == ["a", "b", "c"]
        assert subscription.take_whispers() == []


async def test_a_slow_reader_keeps_a_prefix_and_recovers_with_the_next_request() -> None:
    hub = Hub()
    with hub.subscribe(session_topic("s")) as subscription:
        for number in range(WHISPER_LIMIT + 10):
            hub.whisper("s", whisper(1, str(number), number))
        taken = subscription.take_whispers()
        assert [w.event["text"] for w in taken] == [str(n) for n in range(WHISPER_LIMIT)]
        hub.whisper("s", whisper(1, "after the gap", WHISPER_LIMIT + 10))
        assert subscription.take_whispers() == []
        hub.whisper("s", whisper(7, "next request"))
        assert len(subscription.take_whispers()) == 1


async def test_behind_a_gap_nothing_more_of_a_request_is_heard_and_nothing_twice() -> None:
    hub = Hub()
    with hub.subscribe(session_topic("s")) as subscription:
        for at in (4, 5, 5, 4, 6, 8, 7, 9):
            hub.whisper("s", whisper(1, str(at), at))
            hub.whisper("s", whisper(2, str(at), at))
        heard = [(w.request_seq, w.at) for w in subscription.take_whispers()]
        assert heard == [(1, 4), (2, 4), (1, 5), (2, 5), (1, 6), (2, 6)]
        hub.whisper("s", whisper(1, "what was lost", 7))
        assert subscription.take_whispers() == []


async def test_requests_that_are_long_past_are_not_remembered() -> None:
    hub = Hub()
    with hub.subscribe(session_topic("s")) as subscription:
        for request in range(1, REQUESTS_LIMIT + 2):
            hub.whisper("s", whisper(request, "a"))
        assert len(subscription.take_whispers()) == REQUESTS_LIMIT + 1
        hub.whisper("s", whisper(1, "b", 1))
        assert subscription.take_whispers() == []
        hub.whisper("s", whisper(2, "b", 1))
        assert len(subscription.take_whispers()) == 1


class _Whisperer:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def whisper(self, session_id: str, whisper: Whisper) -> None:
        self.heard.append((session_id, whisper.at))

    def awaited(self, session_id: str) -> None:
        self.heard.append(session_id)


async def test_whispers_and_who_awaits_them_are_passed_on_but_not_what_was_overheard() -> None:
    hub, other = Hub(), _Whisperer()
    hub.pass_whispers_on(other)
    with hub.subscribe(session_topic("s")) as subscription:
        with (
            hub.subscribe(session_topic("t"), whispers=False),
            hub.subscribe(work_topic("e")),
        ):
            assert hub.awaiting() == ["s"]
        hub.whisper("s", whisper(1, "a"))
        hub.overhear("s", whisper(1, "b", 1))
        assert len(subscription.take_whispers()) == 2
    assert other.heard == ["s", ("s", 0)]
    assert hub.awaiting() == []


async def test_a_closed_hub_wakes_everybody_once_and_says_so() -> None:
    hub = Hub()
    with hub.subscribe("turn") as early:
        assert not early.closed
        hub.close()
        with hub.subscribe("turn") as late:
            for subscription in (early, late):
                assert subscription.closed
                assert await subscription.wait(60)
                subscription.clear()
                assert not await subscription.wait(0.001), "who goes on working does not spin"


def news(after_seq: int, rows: int = 1) -> News:
    records = [
        Record("sesn_1", after_seq + 1 + n, f"sevt_{n}", "session.updated", 1, {})
        for n in range(rows)
    ]
    return News(after_seq, after_seq + rows, records)


async def test_news_come_in_order_and_once() -> None:
    hub = Hub()
    with hub.subscribe("a") as subscription:
        hub.tell("a", news(0))
        hub.tell("a", news(1))
        hub.tell("b", news(2))
        assert await subscription.wait(0)
        assert subscription.take_news() == [news(0), news(1)]
        assert subscription.take_news() == []


async def test_a_hint_among_news_asks_for_a_look() -> None:
    hub = Hub()
    with hub.subscribe("a") as subscription:
        hub.tell("a", news(0))
        hub.hint("a")
        hub.tell("a", news(1))
        assert subscription.take_news() is None
        hub.tell("a", news(2))
        assert subscription.take_news() == [news(2)]


async def test_a_reader_that_leaves_too_many_news_looks_instead() -> None:
    hub = Hub()
    with hub.subscribe("a") as subscription:
        hub.tell("a", news(0, NEWS_LIMIT))
        hub.tell("a", news(NEWS_LIMIT))
        assert subscription._news == [], "nothing is kept for it"
        assert subscription.take_news() is None


async def test_who_wants_hints_alone_keeps_no_news() -> None:
    hub = Hub()
    with hub.subscribe("a", news=False) as subscription:
        hub.tell("a", news(0))
        assert await subscription.wait(0)
        assert subscription._news == []

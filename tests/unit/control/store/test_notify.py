"""Hints wake, whispers stay a prefix."""

import anyio
import pytest

from intramuros.control.store.notify import (
    NEWS_LIMIT,
    WHISPER_LIMIT,
    Hub,
    News,
    Whisper,
    session_topic,
    work_topic,
)
from intramuros.control.store.records import Record

pytestmark = pytest.mark.anyio


def whisper(request_seq: int, text: str) -> Whisper:
    return Whisper(request_seq, "agent.message", {"text": text})


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
        for text in "abc":
            hub.whisper("sesn_1", whisper(1, text))
        hub.whisper("sesn_2", whisper(1, "x"))
        assert [w.event["text"] for w in subscription.take_whispers()] == ["a", "b", "c"]
        assert subscription.take_whispers() == []


async def test_a_slow_reader_keeps_a_prefix_and_recovers_with_the_next_request() -> None:
    hub = Hub()
    with hub.subscribe(session_topic("s")) as subscription:
        for number in range(WHISPER_LIMIT + 10):
            hub.whisper("s", whisper(1, str(number)))
        taken = subscription.take_whispers()
        assert [w.event["text"] for w in taken] == [str(n) for n in range(WHISPER_LIMIT)]
        hub.whisper("s", whisper(1, "after the gap"))
        assert subscription.take_whispers() == []
        hub.whisper("s", whisper(7, "next request"))
        assert len(subscription.take_whispers()) == 1


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

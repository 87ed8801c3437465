"""Hints wake, whispers stay a prefix."""

import anyio
import pytest

from intramuros.control.store.notify import WHISPER_LIMIT, Hub, Whisper, session_topic, work_topic

pytestmark = pytest.mark.anyio


def whisper(request_seq: int, text: str) -> Whisper:
    return Whisper(request_seq, "agent.message", {"text": text})


async def test_a_hint_before_the_wait_is_not_missed() -> None:
    hub = Hub()
    with hub.subscribe("turn") as subscription:
        hub.hint("turn")
        with anyio.fail_after(1):
            assert await subscription.wait(10)
        subscription.clear()
        assert not await subscription.wait(0.001)


async def test_a_hint_wakes_every_waiter_of_its_topic_only() -> None:
    hub = Hub()
    woken: list[str] = []

    async def wait(topic: str, name: str) -> None:
        with hub.subscribe(topic) as subscription:
            if await subscription.wait(0.2):
                woken.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, work_topic("env_1"), "one")
        group.start_soon(wait, work_topic("env_1"), "two")
        group.start_soon(wait, work_topic("env_2"), "three")
        await anyio.wait_all_tasks_blocked()
        hub.hint(work_topic("env_1"))
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
                assert await subscription.wait(10)
                subscription.clear()
                assert not await subscription.wait(0.001), "who goes on working does not spin"

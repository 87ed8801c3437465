from typing import Any

import anyio
import mcp_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.server.streamable_http import GET_STREAM_KEY, EventMessage

from intramuros.kernel.timing import ManualClock
from intramuros.tunnel.kept_events import KeptEvents, KeptLimits, Shelf

pytestmark = pytest.mark.anyio


def notice(text: str = "") -> mcp_types.JSONRPCMessage:
    params = {"data": text}
    return mcp_types.JSONRPCNotification(
        jsonrpc="2.0", method="notifications/message", params=params
    )


def answer(id: int, text: str = "") -> mcp_types.JSONRPCMessage:
    return mcp_types.JSONRPCResponse(jsonrpc="2.0", id=id, result={"text": text})


def request(id: int) -> mcp_types.JSONRPCMessage:
    return mcp_types.JSONRPCRequest(jsonrpc="2.0", id=id, method="roots/list")


class Kept:
    """A session's events, and who was hung up on."""

    def __init__(self, shelf: Shelf | None = None, **limits: Any) -> None:
        self.clock = ManualClock()
        self.shelf = shelf or Shelf(self.clock, KeptLimits(**limits))
        self.hung_up: list[str] = []
        self.events = KeptEvents(self.shelf, self.hung_up.append)

    async def after(self, id: str) -> list[EventMessage]:
        """Return what follows an event; the stream must have its end."""
        found: list[EventMessage] = []

        async def take(message: EventMessage) -> None:
            found.append(message)

        with anyio.fail_after(30):
            await self.events.replay_events_after(id, take)
        return found


async def stored(kept: Kept, key: str, *messages: mcp_types.JSONRPCMessage | None) -> list[str]:
    return [await kept.events.store_event(key, message) for message in messages]


async def test_what_followed_an_event_on_its_stream_is_sent_and_nothing_else() -> None:
    kept = Kept()
    begun, first, last = await stored(kept, "1", None, notice("a"), answer(1))
    other, *_ = await stored(kept, "2", None, notice("b"), answer(2))
    assert [each.message for each in await kept.after(begun)] == [notice("a"), answer(1)]
    assert [(each.message, each.event_id) for each in await kept.after(first)] == [
        (answer(1), last)
    ]
    assert await kept.after(last) == []
    assert [each.message for each in await kept.after(other)] == [notice("b"), answer(2)]
    assert kept.hung_up == ["1", "1", "1", "2"]
    assert len({begun, first, last, other}) == 4


async def test_an_answer_that_comes_while_it_is_waited_for_is_sent_once() -> None:
    kept = Kept()
    (begun,) = await stored(kept, "1", None)
    found: list[EventMessage] = []
    entered, go_on = anyio.Event(), anyio.Event()

    async def take(message: EventMessage) -> None:
        found.append(message)
        entered.set()
        await go_on.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(kept.events.replay_events_after, begun, take)
        await anyio.wait_all_tasks_blocked()
        await stored(kept, "1", notice("a"))
        await entered.wait()
        # While the one is being sent, others come.
        await stored(kept, "1", notice("b"), answer(1))
        go_on.set()
    assert [each.message for each in found] == [notice("a"), notice("b"), answer(1)]


async def test_who_comes_later_has_the_stream_and_who_had_it_is_sent_away() -> None:
    kept = Kept()
    (begun,) = await stored(kept, "1", None)
    heard: dict[str, list[EventMessage]] = {"first": [], "second": []}

    async def read(name: str) -> None:
        async def take(message: EventMessage) -> None:
            heard[name].append(message)

        await kept.events.replay_events_after(begun, take)

    async with anyio.create_task_group() as group:
        group.start_soon(read, "first")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(read, "second")
        await anyio.wait_all_tasks_blocked()
        await stored(kept, "1", answer(1))
    assert (len(heard["first"]), len(heard["second"])) == (0, 1)


async def test_the_sessions_own_stream_goes_on_until_another_connection_has_it() -> None:
    kept = Kept()
    (first,) = await stored(kept, GET_STREAM_KEY, notice("a"))
    assert not kept.events.awaits_answer(first)
    found: list[EventMessage] = []

    async def take(message: EventMessage) -> None:
        found.append(message)

    async with anyio.create_task_group() as group:
        group.start_soon(kept.events.replay_events_after, first, take)
        await anyio.wait_all_tasks_blocked()
        # Not even an answer ends it: none of a call belongs there.
        await stored(kept, GET_STREAM_KEY, notice("b"), answer(1))
        await anyio.wait_all_tasks_blocked()
        kept.events.release(GET_STREAM_KEY)
    assert [each.message for each in found] == [notice("b"), answer(1)]


async def test_ids_that_were_never_given_mean_nothing() -> None:
    kept, other = Kept(), Kept()
    begun, last = await stored(kept, "1", None, answer(1))
    name = begun.rpartition("-")[0]
    assert kept.events.resumable(begun)
    assert kept.events.awaits_answer(last)
    for id in (
        *("", "-", "0", "x-0", name, f"{name}-", f"{name}-2", f"{name}--1", f"{name}-x"),
        *(f"{name}-\u0661", f"{name}-{'0' * 16}", f"{name}-0-0", f" {name}-0"),
    ):
        assert not kept.events.resumable(id), id
        assert await kept.after(id) == []
    assert not other.events.resumable(begun)


async def test_what_was_answered_long_ago_is_forgotten() -> None:
    kept = Kept(answered_s=60)
    begun, _ = await stored(kept, "1", None, answer(1))
    (open_,) = await stored(kept, "2", None)
    kept.clock.advance(59)
    assert kept.events.resumable(begun)
    kept.clock.advance(1)
    assert not kept.events.resumable(begun)
    assert kept.events.resumable(open_)
    before = kept.shelf.bytes
    kept.shelf.clear_old()
    assert kept.shelf.bytes < before
    assert list(kept.shelf.streams) != []
    kept.events.close()
    assert (kept.shelf.bytes, list(kept.shelf.streams)) == (0, [])


async def test_a_request_id_that_is_used_again_has_a_stream_of_its_own() -> None:
    kept = Kept()
    first, _ = await stored(kept, "1", None, answer(1, "a"))
    second, _ = await stored(kept, "1", None, answer(1, "b"))
    # Also where streams have no beginning, and where the first has no end.
    third = (await stored(kept, "1", answer(1, "c")))[0]
    (fourth,) = await stored(kept, "1", None)
    fifth, _ = await stored(kept, "1", None, answer(1, "d"))
    texts = [[each.message for each in await kept.after(id)] for id in (first, second)]
    assert texts == [[answer(1, "a")], [answer(1, "b")]]
    assert await kept.after(third) == []
    assert await kept.after(third.replace("-1", "-0")) != []
    assert await kept.after(fourth) == []
    assert [each.message for each in await kept.after(fifth)] == [answer(1, "d")]


async def test_notices_may_be_lost_and_what_is_waited_for_may_not() -> None:
    kept = Kept(session_items=4)
    begun, *_, last = await stored(kept, "1", None, *map(notice, "abcdef"))
    assert [each.message for each in await following(kept, begun, 3)] == [*map(notice, "def")]
    second, *_ = await stored(kept, "2", None, request(9), *map(notice, "abcdef"))
    assert not kept.events.resumable(second)
    assert not kept.events.resumable(last)


async def test_an_answer_is_kept_however_much_was_said_before_it() -> None:
    kept = Kept(session_items=50)
    begun, *_ = await stored(kept, "1", None, *[notice(str(n)) for n in range(200)], answer(1))
    found = [each.message for each in await kept.after(begun)]
    assert found[-2:] == [notice("199"), answer(1)]
    assert 40 < len(found) <= 50
    # Other calls' answers come and go; the oldest goes first, and whole.
    later = [(await stored(kept, str(n), None, answer(n)))[0] for n in range(2, 40)]
    assert not kept.events.resumable(begun)
    assert kept.events.resumable(later[-1])
    large = Kept(session_bytes=50_000)
    texts = [notice("x" * 1000) for _ in range(200)]
    begun, *_ = await stored(large, "1", None, *texts, answer(1, "y" * 40_000))
    assert (await large.after(begun))[-1].message == answer(1, "y" * 40_000)


async def test_a_slow_reader_of_a_talkative_tool_hears_its_answer() -> None:
    kept = Kept(session_items=50)
    (begun,) = await stored(kept, "1", None)
    found: list[EventMessage] = []
    go_on = anyio.Event()

    async def take(message: EventMessage) -> None:
        found.append(message)
        await go_on.wait()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(kept.events.replay_events_after, begun, take)
            await anyio.wait_all_tasks_blocked()
            await stored(kept, "1", *[notice(str(n)) for n in range(500)], answer(1))
            go_on.set()
    assert found[-1].message == answer(1)
    assert len(found) <= 50


async def following(kept: Kept, id: str, count: int) -> list[EventMessage]:
    """Return the next events of a stream that goes on."""
    found: list[EventMessage] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:

            async def take(message: EventMessage) -> None:
                found.append(message)
                if len(found) == count:
                    group.cancel_scope.cancel()

            group.start_soon(kept.events.replay_events_after, id, take)
    return found


async def test_what_is_given_up_while_it_is_read_ends_the_stream_unanswered() -> None:
    kept = Kept(session_items=3)
    (begun,) = await stored(kept, "1", None)
    found: list[EventMessage] = []

    async def take(message: EventMessage) -> None:
        found.append(message)
        await stored(kept, "1", request(1), request(2), request(3), request(4))

    async with anyio.create_task_group() as group:
        group.start_soon(kept.events.replay_events_after, begun, take)
        await anyio.wait_all_tasks_blocked()
        await stored(kept, "1", notice("a"))
    assert [each.message for each in found] == [notice("a")]
    assert not kept.events.resumable(begun)


async def test_the_oldest_answers_go_first_and_a_route_has_its_own_bound() -> None:
    one = Kept(route_bytes=200_000, session_bytes=150_000)
    two = Kept(one.shelf)
    large = "x" * 60_000
    begun = [(await stored(one, str(n), None, answer(n, large)))[0] for n in range(3)]
    assert [one.events.resumable(id) for id in begun] == [False, True, True]
    others = [(await stored(two, str(n), None, answer(n, large)))[0] for n in range(2)]
    assert one.shelf.bytes < 200_000
    assert [one.events.resumable(id) for id in begun] == [False, False, True]
    assert [two.events.resumable(id) for id in others] == [True, True]


async def test_nobody_waits_at_a_session_that_is_closed() -> None:
    kept = Kept()
    (begun,) = await stored(kept, "1", None)
    async with anyio.create_task_group() as group:
        group.start_soon(kept.after, begun)
        await anyio.wait_all_tasks_blocked()
        kept.events.close()
    late = await stored(kept, "1", None, answer(1))
    assert not any(map(kept.events.resumable, [begun, *late]))
    assert kept.shelf.bytes == 0


STEPS = st.lists(
    st.tuples(st.sampled_from("123"), st.sampled_from("pnra"), st.integers(0, 4000)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, items=st.integers(2, 20), size=st.integers(1, 20_000))
async def test_bounds_hold_and_what_is_resumable_is_whole(
    steps: list[tuple[str, str, int]], items: int, size: int
) -> None:
    kept = Kept(session_items=items, session_bytes=size, route_bytes=size)
    given_out: dict[str, list[tuple[str, mcp_types.JSONRPCMessage | None]]] = {}
    for key, kind, length in steps:
        text = "x" * length
        message = {"p": None, "n": notice(text), "r": request(1), "a": answer(1, text)}[kind]
        (id,) = await stored(kept, key, message)
        given_out.setdefault(id.rpartition("-")[0], []).append((id, message))
        assert kept.shelf.bytes <= size
        assert len(kept.shelf.streams) <= items
    for events in given_out.values():
        if not isinstance(events[-1][1], mcp_types.JSONRPCResponse):
            continue
        for at, (id, _) in enumerate(events):
            if not kept.events.resumable(id):
                continue
            waited = [
                m for _, m in events[at + 1 :] if not isinstance(m, mcp_types.JSONRPCNotification)
            ]
            heard = [each.message for each in await kept.after(id)]
            assert [m for m in heard if not isinstance(m, mcp_types.JSONRPCNotification)] == waited
    kept.events.close()
    assert (kept.shelf.bytes, list(kept.shelf.streams)) == (0, [])

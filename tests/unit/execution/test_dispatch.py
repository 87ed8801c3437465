from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.dispatch import (
    Answered,
    Dispatch,
    Ended,
    Event,
    Idle,
    Other,
    Running,
    ThreadEnded,
    ToolUse,
    Verdict,
    is_id,
    read_event,
)

TOOLS = frozenset({"bash", "read"})


def use(event_id: str, name: str = "bash", **members: Any) -> ToolUse:
    return ToolUse(event_id, name, {}, **{"permission": "allow", **members})


def dispatch(*history: Event, at: float = 0.0) -> Dispatch:
    fresh = Dispatch(TOOLS)
    fresh.history(history, at)
    return fresh


def served(state: Dispatch) -> list[str]:
    """Answer every call that may run, in order."""
    order = []
    while (call := state.next_call()) is not None:
        order.append(call.event_id)
        state.answered(call.event_id, 0.0)
    return order


def test_unanswered_calls_come_in_the_order_they_were_made() -> None:
    state = dispatch(use("a"), use("b", "read"), Answered("x", "a"), use("c"))
    state.live(use("d"), 1.0)
    assert served(state) == ["b", "c", "d"]


def test_a_call_seen_twice_runs_once() -> None:
    state = dispatch(use("a"))
    state.live(use("a"), 1.0)
    assert served(state) == ["a"]
    state.live(use("a"), 2.0)
    state.history([use("a")], 3.0)
    assert served(state) == []


def test_names_that_are_not_ours_stay_pending() -> None:
    state = dispatch(use("a", "web_search"), use("b", "crm_lookup", custom=True))
    assert served(state) == []
    assert state.wanted("a")
    assert state.resting()


@pytest.mark.parametrize("permission", ["ask", "auto", "malformed", "ALLOW"])
def test_only_an_explicit_allow_releases_a_gated_call(permission: str) -> None:
    state = dispatch(use("a", permission=permission))
    assert state.next_call() is None
    state.live(Verdict("v", "a", allow=True), 1.0)
    assert served(state) == ["a"]


def test_custom_calls_without_a_permission_run() -> None:
    state = Dispatch(frozenset({"lookup"}))
    state.history([use("a", "lookup", custom=True, permission=None)], 0.0)
    assert served(state) == ["a"]


def test_a_denied_call_never_runs() -> None:
    state = dispatch(use("server", permission="deny"), use("asked", permission="ask"), use("stray"))
    state.live(Verdict("v1", "server", allow=True), 1.0)
    state.live(Verdict("v2", "asked", allow=False), 1.0)
    state.live(Verdict("v3", "stray", allow=False), 1.0)
    state.live(Verdict("v4", "asked", allow=True), 1.0)
    assert served(state) == []


def test_a_verdict_may_come_before_its_call() -> None:
    state = dispatch(Verdict("v", "a", allow=True), Verdict("w", "b", allow=False))
    state.live(use("a", permission="ask"), 1.0)
    state.live(use("b"), 1.0)
    assert served(state) == ["a"]


def test_the_servers_own_result_settles_only_what_is_not_ours() -> None:
    state = dispatch(
        use("a"),
        use("b", "web_search"),
        Answered("x", "a", by_server=True),
        Answered("y", "b", by_server=True),
    )
    assert served(state) == ["a"]
    assert not state.wanted("b")


def test_in_the_cloud_every_result_is_the_agents() -> None:
    state = Dispatch(TOOLS, hosted=True)
    state.history([use("a"), Answered("x", "a", by_server=True), use("b")], 0.0)
    assert state.wanted("b")
    assert not state.wanted("a")
    state.live(Answered("y", "b", by_server=True), 1.0)
    assert served(state) == []


def test_an_ended_thread_takes_its_calls_with_it() -> None:
    state = dispatch(use("a", thread_id="t1"), use("b", thread_id="t2"), use("c"))
    state.live(ThreadEnded("e", "t1"), 1.0)
    state.live(use("d", thread_id="t1"), 2.0)
    assert served(state) == ["b", "c"]


def test_a_refused_result_waits_for_the_next_history() -> None:
    state = dispatch(use("a"), use("b"))
    state.set_aside("a")
    assert served(state) == ["b"]
    state.history([use("a"), use("b"), Answered("x", "b")], 1.0)
    assert served(state) == ["a"]


IDLE, ASKS = Idle("i", turn_over=True), Idle("i", turn_over=False)


@pytest.mark.parametrize(
    ("history", "armed"),
    [
        ([], False),
        ([IDLE], True),
        ([ASKS], False),
        ([Idle("i", turn_over=True), Other("o")], False),
        ([IDLE, Verdict("v", "x", allow=True), ThreadEnded("t", "x")], True),
        ([use("a"), IDLE], False),
        ([use("a"), IDLE, Answered("x", "a")], False),
        ([use("a"), Answered("x", "a"), IDLE], True),
        ([use("a", "web_search"), IDLE], False),
        ([use("a", "web_search"), Answered("x", "a", by_server=True), IDLE], True),
    ],
)
def test_the_clock_after_a_history(history: list[Event], armed: bool) -> None:
    assert dispatch(*history, at=5.0).idle_deadline(60) == (65.0 if armed else None)


def test_the_clock_follows_live_events() -> None:
    state = dispatch()
    state.live(IDLE, 1.0)
    assert state.idle_deadline(60) == 61.0
    state.live(Verdict("v", "x", allow=True), 2.0)
    state.live(ThreadEnded("t", "x"), 3.0)
    assert state.idle_deadline(60) == 61.0
    state.live(Running("r"), 4.0)
    assert state.idle_deadline(60) is None
    state.live(Idle("j", turn_over=True), 5.0)
    assert state.idle_deadline(60) == 65.0


def test_an_overlapping_event_does_not_move_the_clock() -> None:
    state = dispatch(Running("r"), IDLE, at=1.0)
    state.live(Running("r"), 9.0)
    assert state.idle_deadline(60) == 61.0
    state.live(Running("r2"), 10.0)
    assert state.idle_deadline(60) is None


def test_a_held_call_postpones_the_clock_until_it_is_done() -> None:
    state = dispatch(use("a", permission="ask"))
    state.live(IDLE, 1.0)
    assert state.idle_deadline(60) is None
    state.live(Verdict("v", "a", allow=True), 2.0)
    assert state.idle_deadline(60) is None
    state.answered("a", 7.0)
    assert state.idle_deadline(60) == 67.0


def test_a_denied_held_call_starts_the_clock() -> None:
    state = dispatch(use("a", permission="ask"), IDLE, at=1.0)
    assert state.idle_deadline(60) is None
    state.live(Verdict("v", "a", allow=False), 4.0)
    assert state.idle_deadline(60) == 64.0


@pytest.mark.parametrize(
    ("history", "resting"),
    [
        ([], True),
        ([Running("r")], False),
        ([Running("r"), IDLE], True),
        ([Running("r"), ASKS], False),
        ([Running("r"), use("a"), ASKS], False),
        ([Running("r"), use("a"), Answered("x", "a"), IDLE], True),
    ],
)
def test_what_another_worker_would_have_to_go_on_with(history: list[Event], resting: bool) -> None:
    assert dispatch(*history).resting() is resting


def test_before_the_history_is_known_anything_may_be_under_way() -> None:
    assert not Dispatch(TOOLS).resting()


def test_a_result_of_ours_lets_the_agent_go_on() -> None:
    state = dispatch(use("a"), IDLE)
    state.answered("a", 1.0)
    assert not state.resting()


def test_the_end_of_a_session_is_noticed() -> None:
    state = dispatch()
    state.live(Ended("e", deleted=True), 1.0)
    assert state.ended == Ended("e", deleted=True)


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        (
            {"type": "agent.tool_use", "id": "e", "name": "bash", "input": {"command": "ls"}},
            ToolUse("e", "bash", {"command": "ls"}),
        ),
        (
            {"type": "agent.custom_tool_use", "id": "e", "name": "x", "input": {}},
            ToolUse("e", "x", {}, custom=True),
        ),
        ({"type": "agent.mcp_tool_use", "id": "e", "name": "x", "input": {}}, Other("e")),
        (
            {"type": "agent.tool_use", "id": "e", "name": "x", "input": [1]},
            ToolUse("e", "x", {"input": [1]}),
        ),
        (
            {"type": "agent.tool_use", "id": "e", "name": "x", "evaluated_permission": 5},
            ToolUse("e", "x", {"input": None}, permission="malformed"),
        ),
        ({"type": "agent.tool_use", "id": "e", "name": ""}, Other("e")),
        ({"type": "agent.tool_use", "id": 7, "name": "x"}, Other("")),
        ({"type": "user.tool_result", "id": "e", "tool_use_id": "a"}, Answered("e", "a")),
        (
            {"type": "user.custom_tool_result", "id": "e", "custom_tool_use_id": "a"},
            Answered("e", "a"),
        ),
        ({"type": "agent.tool_result", "id": "e", "tool_use_id": "a"}, Answered("e", "a", True)),
        ({"type": "user.tool_result", "id": "e"}, Other("e")),
        (
            {"type": "user.tool_confirmation", "id": "e", "tool_use_id": "a", "result": "allow"},
            Verdict("e", "a", allow=True),
        ),
        (
            {"type": "user.tool_confirmation", "id": "e", "tool_use_id": "a", "result": "later"},
            Verdict("e", "a", allow=False),
        ),
        (
            {"type": "session.thread_status_terminated", "id": "e", "session_thread_id": "t"},
            ThreadEnded("e", "t"),
        ),
        ({"type": "session.status_idle", "id": "e"}, Idle("e", turn_over=True)),
        (
            {"type": "session.status_idle", "id": "e", "stop_reason": {"type": "requires_action"}},
            Idle("e", turn_over=False),
        ),
        ({"type": "session.status_running", "id": "e"}, Running("e")),
        ({"type": "session.deleted", "id": "e"}, Ended("e", deleted=True)),
        ({"type": "session.status_terminated", "id": "e"}, Ended("e", deleted=False)),
        ({"type": {"no": "text"}, "id": "e"}, Other("e")),
        ({"type": "agent.message", "id": "x" * 300}, Other("")),
    ],
)
def test_events_are_read(raw: dict[str, Any], event: Event) -> None:
    assert read_event(raw) == event


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    [
        "id",
        "name",
        "input",
        "tool_use_id",
        "result",
        "stop_reason",
        "session_thread_id",
        "evaluated_permission",
    ]
)
TYPES = st.sampled_from(
    ["agent.tool_use", "user.tool_result", "user.tool_confirmation", "session.status_idle", "?"]
)


@given(
    raw=JSON
    | st.dictionaries(MEMBERS, JSON).flatmap(
        lambda d: st.builds(dict, st.just(d), type=TYPES | JSON)
    )
)
def test_no_foreign_event_raises(raw: Any) -> None:
    state = dispatch()
    state.live(read_event(raw), 1.0)
    state.next_call()


IDS = st.sampled_from(["a", "b", "c"])
EVENTS = st.one_of(
    st.builds(
        use,
        IDS,
        st.sampled_from(["bash", "read", "web_search"]),
        permission=st.sampled_from(["allow", "ask", "deny", None]),
    ),
    st.builds(Answered, st.just(""), IDS, st.booleans()),
    st.builds(Verdict, st.just(""), IDS, st.booleans()),
    st.builds(Idle, st.just(""), st.booleans()),
    st.builds(Running, st.just("")),
)


@given(events=st.lists(EVENTS, max_size=20), split=st.integers(0, 20))
def test_history_and_stream_agree_on_what_may_run(events: list[Event], split: int) -> None:
    whole = dispatch(*events)
    parts = dispatch(*events[:split])
    for event in events[split:]:
        parts.live(event, 1.0)
    allowed = {e.call_id for e in events if isinstance(e, Verdict) and e.allow}
    denied = {e.call_id for e in events if isinstance(e, Verdict) and not e.allow}
    for state in (whole, parts):
        ran = served(state)
        assert len(ran) == len(set(ran))
        for call_id in ran:
            first = next(e for e in events if isinstance(e, ToolUse) and e.event_id == call_id)
            assert first.name in TOOLS or state is parts
            assert call_id not in denied
            assert first.permission in (None, "allow") or call_id in allowed or state is parts


@pytest.mark.parametrize(
    "odd", ["\ud800", "../x", "a/b", "a\0", "a\nb", "é", "x" * 257, "", 7, None]
)
def test_an_id_that_is_none_names_no_call(odd: object) -> None:
    assert not is_id(odd)
    raw = {"type": "agent.tool_use", "id": odd, "name": "bash", "input": {}}
    assert read_event(raw) == Other("")
    answered = {"type": "user.tool_result", "id": "e1", "tool_use_id": odd}
    assert read_event(answered) == Other("e1")


def test_an_interrupt_is_told_once_and_only_when_it_happens() -> None:
    stopped = read_event({"type": "user.interrupt", "id": "sevt_1"})
    state = dispatch(stopped)
    assert not state.took_interrupt()
    state.live(stopped, 1.0)
    assert not state.took_interrupt()
    state.live(read_event({"type": "user.interrupt", "id": "sevt_2"}), 2.0)
    assert state.took_interrupt()
    assert not state.took_interrupt()

from collections.abc import Mapping
from typing import Any

import pytest

from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session.budget import shown
from intramuros.control.session.fold import fold
from intramuros.control.session.phase import Phase, Status
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel, Limits
from intramuros.control.store.records import Draft
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import ALLOW, ASK, CUSTOM, ROWS, away, mcp_toolset, text, toolset, use, uses

SCOUT = definition("scout", toolset(ALLOW))
CLERK = definition("clerk", CUSTOM)
CAREFUL = definition("careful", toolset(ASK))


def stop_of(band: Band, type: str = "session.status_idle") -> Mapping[str, Any]:
    found = [r for r in band.shown() if r.type == type]
    reason: Mapping[str, Any] = found[-1].body["stop_reason"]  # type: ignore[assignment]
    return reason


def begun(*names: str, agents: list[dict[str, Any]], **scripts: Any) -> Band:
    """A session whose coordinator has delegated to these agents and ended its turn."""
    band = Band(
        lead(*agents), lead=[delegate(*names), text("waiting"), *scripts.pop("lead", [])], **scripts
    )
    band.log.say("go")
    band.next()
    band.land("sthr_main")
    band.next()
    band.land("sthr_main")
    return band


@pytest.mark.rule("c10_25", "c19_11")
def test_delegated_work_runs_at_once_and_reports_back() -> None:
    band = begun(
        "scout", "scout", agents=[SCOUT], scout=[text("north"), text("south")], lead=[text("done")]
    )
    band.next()
    crew = band.log.state.crew
    assert crew is not None
    one, two = (member.state.thread_id for member in crew.members)
    assert band.flights.keys() == {one, two}, "both requests are under way at once"
    assert all(isinstance(effect, CallModel) for effect in band.flights.values())
    assert band.log.state.own_status is Status.IDLE
    assert band.log.state.status is Status.RUNNING, "running as long as one thread is"
    assert "session.status_idle" not in band.types()
    band.land(two)
    band.next()
    assert band.flights.keys() == {one, "sthr_main"}, "a report wakes the coordinator"
    band.scripts["lead"].append(text("and all is known"))
    band.run()
    assert band.log.state.status is Status.IDLE
    assert stop_of(band) == {"type": "end_turn"}
    assert band.types().count("session.status_running") == 1
    assert band.types().count("session.status_idle") == 1
    assert band.types(one) == [
        "session.thread_status_running",
        "agent.thread_message_received",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "agent.thread_message_sent",
        "session.thread_status_idle",
    ]
    received = [r for r in band.shown(one) if r.type == "agent.thread_message_received"]
    assert received[0].body["content"] == [{"type": "text", "text": "do scout"}]
    assert "from_agent_name" not in received[0].body
    main = [r for r in band.shown() if r.type == "agent.thread_message_received"]
    assert {r.body["from_session_thread_id"] for r in main} == {one, two}
    heard = band.requests[-1][1].messages
    assert any("north" in str(m["content"]) for m in heard)


@pytest.mark.rule("c17_11", "c15_2", "c15_5")
def test_the_sessions_view_is_condensed_and_in_order() -> None:
    band = begun("scout", agents=[SCOUT], scout=[text("found")], lead=[text("done")])
    band.run()
    assert band.types() == [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "span.model_request_end",
        "session.thread_created",
        "agent.thread_message_sent",
        "span.model_request_start",
        "session.thread_status_running",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.thread_status_idle",
        "session.thread_status_running",
        "agent.thread_message_received",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    idle = [r for r in band.shown() if r.type == "session.thread_status_idle"]
    assert [r.body["agent_name"] for r in idle] == ["lead", "scout", "lead"]


@pytest.mark.rule("c19_9", "c19_10", "R128")
def test_a_childs_blocking_calls_are_shown_to_the_session_with_its_thread() -> None:
    band = begun(
        "careful", "clerk",
        agents=[CAREFUL, CLERK],
        careful=[uses(use("bash", command="ls")), text("listed")],
        clerk=[uses(use("weather", "toolu_w")), text("sunny")],
        lead=[text("one"), text("two")],
    )  # fmt: skip
    band.run()
    careful, clerk = band.id_of("careful"), band.id_of("clerk")
    kinds = ("agent.tool_use", "agent.custom_tool_use")
    uses_shown = {r.type: r.public() for r in band.shown() if r.type in kinds}
    assert uses_shown["agent.tool_use"]["session_thread_id"] == careful
    assert uses_shown["agent.custom_tool_use"]["session_thread_id"] == clerk
    own = next(r for r in band.shown(careful) if r.type == "agent.tool_use")
    assert "session_thread_id" not in own.public(careful)
    ids = [uses_shown[t]["id"] for t in ("agent.tool_use", "agent.custom_tool_use")]
    assert stop_of(band) == {"type": "requires_action", "event_ids": ids}
    assert band.log.state.status is Status.IDLE
    band.answer(
        "user.custom_tool_result",
        band.child("clerk").state,
        custom_tool_use_id=ids[1],
        content=[{"type": "text", "text": "sun"}],
    )
    band.run()
    assert stop_of(band) == {"type": "requires_action", "event_ids": ids[:1]}
    band.answer(
        "user.tool_confirmation", band.child("careful").state, tool_use_id=ids[0], result="allow"
    )
    band.next()
    # Self-hosted: the worker's result is what blocks now (AMB 22).
    assert stop_of(band) == {"type": "requires_action", "event_ids": ids[:1]}
    band.answer("user.tool_result", band.child("careful").state, tool_use_id=ids[0], content=[])
    band.run()
    assert stop_of(band) == {"type": "end_turn"}


def test_a_servers_own_call_stays_with_the_child() -> None:
    asking = definition("asker", mcp_toolset(ALLOW))
    band = begun(
        "asker", agents=[asking], asker=[uses(use("mcp__db__query")), text("3")], lead=[text("ok")]
    )
    band.mcp.append(ROWS)
    band.run()
    assert "agent.mcp_tool_use" not in band.types()
    thread = next(r for r in band.log.records if r.type == "agent.mcp_tool_use").thread_id
    assert band.types(thread).count("agent.mcp_tool_result") == 1


@pytest.mark.rule("c13_14", "c15_16", "c15_17")
def test_an_interrupt_of_one_child_stops_it_alone() -> None:
    band = begun(
        "careful", "scout",
        agents=[CAREFUL, SCOUT],
        careful=[uses(use("bash", command="ls"))],
    )  # fmt: skip
    band.next()
    careful, scout = band.id_of("careful"), band.id_of("scout")
    band.land(careful)
    band.next()
    assert band.child("careful").state.phase is Phase.REQUIRES_ACTION
    since, asked = band.mark, len(band.requests)
    band.interrupt(careful)
    band.next()
    assert band.types(careful, since) == [
        "user.interrupt",
        "user.tool_result",
        "session.thread_status_idle",
    ]
    assert band.child("careful").state.stop == "end_turn"
    assert len(band.requests) == asked, "the model is not asked"
    assert band.flights.keys() == {scout}, "the other goes on"
    assert "agent.thread_message_received" not in band.types(None, since)
    result = next(r for r in band.shown(careful) if r.type == "user.tool_result")
    assert result.body["is_error"] is True
    since = band.mark
    band.interrupt(careful)
    band.next()
    assert band.types(careful, since) == ["user.interrupt"], "idle already: nothing happens"


@pytest.mark.rule("c13_14")
def test_an_interrupt_of_the_session_stops_every_thread() -> None:
    band = begun("scout", "scout", agents=[SCOUT])
    band.next()
    assert len(band.flights) == 2
    since = band.mark
    band.interrupt()
    band.next()
    assert band.flights == {}
    assert band.log.state.status is Status.IDLE
    assert [thread.phase for thread in band.log.state.threads] == [Phase.IDLE] * 3
    assert not any(thread.queued for thread in band.log.state.threads)
    shown = band.types(None, since)
    assert shown == [
        "user.interrupt",
        "session.thread_status_idle",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert not band.log.state.due


@pytest.mark.rule("c19_8")
def test_a_child_keeps_its_context_for_a_follow_up() -> None:
    band = begun("scout", agents=[SCOUT], scout=[text("north")], lead=[text("go on")])
    band.run()
    scout = band.id_of("scout")
    follow = uses(use("send_to_agent", "toolu_f", thread_id=scout, message="and east?"))
    band.scripts["lead"].extend([follow, text("asked"), text("done")])
    band.scripts["scout"].append(text("east"))
    band.log.say("more")
    band.run()
    asked = [request for name, request in band.requests if name == "scout"][-1]
    said = [m["content"][0]["text"] for m in asked.messages]
    assert said == ["do scout", "north", "and east?"]
    assert band.types().count("session.thread_created") == 1


@pytest.mark.rule("c15_21", "c19_8")
def test_a_child_that_fails_for_good_ends_and_says_so() -> None:
    band = begun("scout", agents=[SCOUT], scout=[away(retryable=False)], lead=[text("a pity")])
    band.run()
    assert band.log.state.crew is not None
    assert band.log.state.crew.members == ()
    kinds = [t for t in band.types() if t.startswith(("session.error", "session.thread_status_t"))]
    assert kinds == ["session.error", "session.thread_status_terminated"]
    heard = next(r for r in band.shown() if r.type == "agent.thread_message_received")
    assert "failed" in str(heard.body["content"])
    assert stop_of(band) == {"type": "end_turn"}


def test_a_child_waits_for_its_retry_while_others_work() -> None:
    band = begun("scout", agents=[SCOUT], scout=[away(), text("north")], lead=[text("ok")])
    band.next()
    band.land(band.id_of("scout"))
    band.next()
    assert band.log.state.status is Status.RESCHEDULING
    assert band.types()[-1] == "session.status_rescheduled"
    retry_at_us = band.child("scout").state.retry_at_us
    assert retry_at_us is not None
    band.log.now_us = retry_at_us
    band.run()
    assert stop_of(band) == {"type": "end_turn"}


@pytest.mark.rule("c15_29", "c19_14", "c19_6")
def test_the_advisor_answers_the_primary_thread() -> None:
    consult = uses(use("consult_advisor", "toolu_c"))
    band = Band(
        lead(advisor=True),
        lead=[consult, text("as advised")],
        anthropic__advisor=[text("Start with the tests.")],
    )
    band.log.say("plan this")
    band.run()
    shown = [t for t in band.types() if "thread" in t]
    assert shown == [
        "session.thread_status_running",
        "session.thread_created",
        "session.thread_status_running",
        "agent.thread_message_received",
        "session.thread_status_idle",
        "session.thread_status_terminated",
        "session.thread_status_idle",
    ]
    created = next(r for r in band.shown() if r.type == "session.thread_created")
    assert created.body["agent_name"] == "anthropic.advisor"
    assert not any(t in band.types() for t in ("agent.tool_use", "agent.thread_message_sent"))
    advice = next(r for r in band.shown() if r.type == "agent.thread_message_received")
    assert advice.body["from_agent_name"] == "anthropic.advisor"
    thread_id = str(created.body["session_thread_id"])
    assert "agent.thread_message_sent" in band.types(thread_id)
    (_, asked), (_, after) = band.requests[1:]
    assert asked.model == "wise-model"
    assert "plan this" in str(asked.messages)
    assert "Start with the tests." in str(after.messages[-1])
    assert str(after.messages).count("Start with the tests.") == 1


@pytest.mark.rule("c15_29")
def test_a_failed_or_interrupted_consultation_never_fails_the_turn() -> None:
    consult = uses(use("consult_advisor", "toolu_c"))
    failing = Band(
        lead(advisor=True),
        lead=[consult, text("alone")],
        anthropic__advisor=[away(retryable=False)],
    )
    failing.log.say("plan")
    failing.run()
    assert stop_of(failing) == {"type": "end_turn"}
    assert "go on without it" in str(failing.requests[-1][1].messages[-1])
    stopped = Band(lead(advisor=True), lead=[consult, text("alone")])
    stopped.log.say("plan")
    stopped.next()
    stopped.land("sthr_main")
    stopped.next()
    stopped.interrupt(stopped.id_of("anthropic.advisor"))
    stopped.run()
    assert stop_of(stopped) == {"type": "end_turn"}
    assert "agent.thread_message_received" not in stopped.types()
    whole = Band(lead(advisor=True), lead=[consult])
    whole.log.say("plan")
    whole.next()
    whole.land("sthr_main")
    whole.next()
    whole.interrupt()
    whole.run()
    assert stop_of(whole) == {"type": "end_turn"}
    assert whole.types()[-1] == "session.status_idle"
    assert "session.thread_status_terminated" in whole.types()
    assert whole.log.state.crew is not None
    assert whole.log.state.crew.members == ()


def test_usage_adds_up_over_threads() -> None:
    band = begun("scout", agents=[SCOUT], scout=[text("found")], lead=[text("done")])
    band.run()
    state = band.log.state
    assert state.crew is not None
    parts = [state.crew.usage, *(m.state.usage for m in state.crew.members)]
    assert state.usage.input_tokens == sum(p.input_tokens for p in parts) == 10 * 4
    assert state.running_since_us is None
    assert state.active_us >= state.crew.active_us > 0


def test_a_crash_in_mid_flight_loses_nothing() -> None:
    band = begun(
        "scout", "scout", agents=[SCOUT],
        scout=[text("north"), text("south")],
        lead=[text("ok"), text("all")],
    )  # fmt: skip
    band.next()
    assert len(band.flights) == 2
    band.crash()
    band.run()
    assert stop_of(band) == {"type": "end_turn"}
    ends = [r for r in band.log.shown if r.type == "span.model_request_end"]
    assert sum(bool(r.body["is_error"]) for r in ends) == 2
    assert band.types().count("agent.thread_message_received") == 2


def test_folding_from_any_dump_gives_the_same_state() -> None:
    band = begun(
        "careful", "scout",
        agents=[CAREFUL, SCOUT],
        careful=[uses(use("bash", command="ls"))],
        scout=[text("found")],
        lead=[text("done")],
    )  # fmt: skip
    band.run()
    band.interrupt()
    for cut in range(len(band.log.records) + 1):
        state = initial("sthr_main", self_hosted=True, crewed=True)
        for record in band.log.records[:cut]:
            state = fold(state, record)
        state = load(state.dump())
        for record in band.log.records[cut:]:
            state = fold(state, record)
        assert state == band.log.state


@pytest.mark.rule("c19_6")
def test_the_limit_of_threads_is_told_to_the_model() -> None:
    band = begun(*["scout"] * 26, agents=[SCOUT])
    band.next()
    assert len(band.flights) == 25
    refusals = [
        r for r in band.log.records if r.type == "internal.crew_result" and r.body["is_error"]
    ]
    assert len(refusals) == 1
    assert "25 threads" in str(refusals[0].body["content"])


def test_rounds_are_limited_per_thread() -> None:
    band = Band(
        lead(SCOUT),
        limits=Limits(rounds=1),
        lead=[delegate("scout"), text("a new turn")],
        scout=[text("north")],
    )
    band.log.say("go")
    band.run()
    stops = [r.body["stop_reason"] for r in band.shown() if r.type == "session.thread_status_idle"]
    assert stops == [{"type": "retries_exhausted"}, {"type": "end_turn"}, {"type": "end_turn"}]
    assert "north" in str(band.requests[-1][1].messages), "the report opens a new turn"


@pytest.mark.rule("c12_6")
def test_at_the_budgets_cap_every_thread_pauses_and_a_consultation_fails() -> None:
    consult = uses(use("consult_advisor", "toolu_c"))
    dear = ModelReply(consult.content, "tool_use", Usage(1, 1), 100 * UNITS_PER_CENT)
    band = Band(lead(advisor=True), lead=[dear])
    band.log.append(Draft("internal.budget", {"budget": shown(50)}))
    band.log.say("plan")
    band.run()
    assert stop_of(band) == {"type": "budget_reached"}
    assert band.log.state.status is Status.IDLE
    assert band.log.state.open_calls == ()
    assert band.flights == {}
    band.log.append(Draft("session.updated", {"budget": None}))
    assert band.log.state.due
    band.scripts["lead"].append(text("alone"))
    band.run()
    assert stop_of(band) == {"type": "end_turn"}


def test_children_pause_at_the_shared_cap_and_go_on() -> None:
    dear = ModelReply([use("bash", command="ls")], "tool_use", Usage(1, 1), 100 * UNITS_PER_CENT)
    band = begun("scout", agents=[SCOUT], scout=[dear])
    band.log.append(Draft("session.updated", {"budget": shown(50)}))
    band.run()
    scout = band.child("scout").state
    band.answer("user.tool_result", scout, tool_use_id=band.call(scout).id)
    band.run()
    assert band.child("scout").state.phase is Phase.PAUSED
    assert band.log.state.capped()
    assert band.log.state.status is Status.IDLE
    assert not band.log.state.due
    band.scripts["scout"].append(text("found"))
    band.scripts["lead"].append(text("done"))
    band.log.append(Draft("session.updated", {"budget": None}))
    band.run()
    assert stop_of(band) == {"type": "end_turn"}
    assert "agent.thread_message_received" in band.types()

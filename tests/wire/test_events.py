"""Sending and listing events through the official SDK."""

from datetime import timedelta
from typing import Any

import anthropic
import pytest

from tests.wire.site import MESSAGE, Site
from tests.wire.structure import check
from tests.wire.test_sessions import code_of

TEXT = [{"type": "text", "text": "out"}]


def finished(site: Site) -> tuple[str, list[Any]]:
    """A session after one turn, and its log."""
    made = site.session()
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    return made.id, site.wait(made.id, "session.status_idle")


def asking(site: Site, policy: str = "always_allow") -> tuple[str, Any]:
    """A session that waits for a shell command, and the call."""
    made = site.api.beta.sessions.create(
        agent=site.agent("shell", policy),
        environment_id=site.environment_id,
        initial_events=[MESSAGE],
    )
    log = site.wait(made.id, "session.status_idle")
    return made.id, next(e for e in log if e.type == "agent.tool_use")


def result(call: Any, **more: Any) -> Any:
    return {"type": "user.tool_result", "tool_use_id": call.id, "content": TEXT, **more}


@pytest.mark.rule("c4_3")
def test_every_event_has_the_documented_shape(site: Site) -> None:
    _, log = finished(site)
    for event in log:
        check(event, nullable=False)
        assert event.id.startswith("sevt_")
    times = [event.processed_at for event in log]
    assert times == sorted(set(times)), "strictly increasing (AMB 25)"
    assert len({event.id for event in log}) == len(log)


@pytest.mark.rule("c15_1", "c15_2", "c15_3", "c15_5", "c22_18")
def test_the_order_of_a_turn(site: Site) -> None:
    _, log = finished(site)
    assert [event.type for event in log] == [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]


@pytest.mark.rule("c13_3", "c13_4")
def test_13_1_the_reply_echoes_what_was_taken(site: Site) -> None:
    made = site.session()
    interrupt: Any = {"type": "user.interrupt"}
    echo = site.api.beta.sessions.events.send(made.id, events=[MESSAGE, interrupt])
    assert [event.type for event in echo.data] == ["user.message", "user.interrupt"]
    assert [event.processed_at for event in echo.data] == [None, None]
    listed = site.wait(made.id, "user.interrupt")
    assert {event.id for event in echo.data} <= {event.id for event in listed}
    # Whether the turn had begun or not, its end is told.
    listed = site.wait(made.id, "session.status_idle")
    assert (listed[-1].type, listed[-1].stop_reason.type) == ("session.status_idle", "end_turn")


@pytest.mark.rule("c1_28", "c1_29", "c16_1", "c16_2", "c16_3", "c16_4", "R014", "R015")
def test_16_lists(site: Site) -> None:
    session_id, log = finished(site)
    ids = [event.id for event in log]
    assert [e.id for e in site.events(session_id, order="desc")] == ids[::-1]
    assert [e.id for e in site.events(session_id, limit=2)] == ids
    assert [e.id for e in site.events(session_id, limit=1000)] == ids
    wanted = ["user.message", "session.usage"]
    assert [e.type for e in site.events(session_id, types=wanted)] == wanted
    at = log[4].processed_at
    assert [e.id for e in site.events(session_id, created_at_gt=at)] == ids[5:]
    assert [e.id for e in site.events(session_id, created_at_gte=at)] == ids[4:]
    assert [e.id for e in site.events(session_id, created_at_lt=at)] == ids[:4]
    assert [e.id for e in site.events(session_id, created_at_lte=at)] == ids[:5]
    assert site.events(session_id, created_at_gt=at + timedelta(days=1)) == []
    for limit in (0, 1001):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            site.events(session_id, limit=limit)


@pytest.mark.rule("R028")
def test_cursors_of_events_are_bound_to_their_list(site: Site) -> None:
    session_id, _ = finished(site)
    other_id, _ = finished(site)
    page = site.api.beta.sessions.events.list(session_id, limit=2)
    assert page.next_page
    for target, query in ((other_id, {}), (session_id, {"order": "desc"})):
        with pytest.raises(anthropic.BadRequestError, match="page"):
            site.events(target, page=page.next_page, **query)
    with pytest.raises(anthropic.BadRequestError, match="page"):
        site.events(session_id, page="page_forged")


@pytest.mark.rule("c2_8", "c13_8", "c14_4", "c15_7")
def test_a_tool_call_is_answered_and_the_turn_goes_on(site: Site) -> None:
    session_id, call = asking(site)
    assert site.api.beta.sessions.retrieve(session_id).status == "idle"
    idle = site.events(session_id)[-1]
    assert (idle.stop_reason.type, idle.stop_reason.event_ids) == ("requires_action", [call.id])
    output = [{"type": "text", "text": "six times seven is 42"}]
    site.worker.beta.sessions.events.send(session_id, events=[result(call, content=output)])
    log = site.wait(session_id, "session.status_idle", 2)
    said = [e.content[0].text for e in log if e.type == "agent.message"]
    assert said[-1] == "The shell says 42."
    assert log[-1].stop_reason.type == "end_turn"


def test_22_12_a_result_sent_twice_is_stored_once(site: Site) -> None:
    session_id, call = asking(site)
    first = site.worker.beta.sessions.events.send(session_id, events=[result(call)])
    again = site.worker.beta.sessions.events.send(session_id, events=[result(call)])
    assert again.data == first.data
    log = site.wait(session_id, "session.status_idle", 2)
    assert [e.type for e in log].count("user.tool_result") == 1
    late = site.worker.beta.sessions.events.send(session_id, events=[result(call)])
    assert late.data == first.data


@pytest.mark.rule("c15_8", "c15_12", "R124")
def test_confirmations_gate_results(site: Site) -> None:
    session_id, call = asking(site, "always_ask")
    assert call.evaluated_permission == "ask"
    with pytest.raises(anthropic.BadRequestError, match="not been allowed"):
        site.worker.beta.sessions.events.send(session_id, events=[result(call)])
    allow: Any = {"type": "user.tool_confirmation", "tool_use_id": call.id, "result": "allow"}
    with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
        site.worker.beta.sessions.events.send(session_id, events=[allow])
    site.api.beta.sessions.events.send(session_id, events=[allow])
    site.worker.beta.sessions.events.send(session_id, events=[result(call)])
    log = site.wait(session_id, "session.status_idle", 2)
    assert {"user.tool_confirmation", "user.tool_result"} <= {e.type for e in log}
    with pytest.raises(anthropic.BadRequestError, match="answered allow already"):
        site.api.beta.sessions.events.send(session_id, events=[{**allow, "result": "deny"}])


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ([], "events"),
        ([{"type": "agent.message", "content": TEXT}], "events"),
        ([{"type": "user.message", "content": []}], "content"),
        ([{"type": "user.message", "content": [{"type": "redacted"}]}], "content"),
        ([{**MESSAGE, "surprise": 1}], "surprise"),
        ([{"type": "user.tool_result", "tool_use_id": "sevt_none"}], "no tool use"),
        ([MESSAGE, {"type": "user.tool_result", "tool_use_id": "sevt_none"}], r"events\[1\]"),
        ([{"type": "system.message", "content": TEXT}, MESSAGE], "last"),
    ],
)
@pytest.mark.rule("c13_2", "c13_5", "c13_15")
def test_a_request_with_one_bad_event_changes_nothing(
    site: Site, events: list[Any], match: str
) -> None:
    made = site.session()
    with pytest.raises(anthropic.BadRequestError, match=match):
        site.api.beta.sessions.events.send(made.id, events=events)
    assert site.events(made.id) == []
    assert site.api.beta.sessions.retrieve(made.id).status == "idle"


@pytest.mark.rule("c13_17")
@pytest.mark.parametrize(("model", "takes"), [("claude-opus-5", True), ("claude-sonnet-5", False)])
def test_operator_text_needs_a_primary_model_that_takes_it(
    site: Site, model: str, takes: bool
) -> None:
    helper = site.api.beta.agents.create(name="H", model="claude-sonnet-5").id
    roster: Any = {"type": "coordinator", "agents": [{"type": "agent", "id": helper}]}
    agent = site.api.beta.agents.create(name="A", model=model, multiagent=roster)
    made = site.session(agent=agent.id)
    note: Any = {"type": "system.message", "content": TEXT}
    if takes:
        (stored,) = site.api.beta.sessions.events.send(made.id, events=[note]).data or []
        assert stored.type == "system.message", "the roster's models do not matter"
        return
    with pytest.raises(anthropic.BadRequestError) as refused:
        site.api.beta.sessions.events.send(made.id, events=[MESSAGE, note])
    code = "model_does_not_support_mid_conversation_system"
    assert code in refused.value.message
    assert code_of(refused.value) == code
    assert site.events(made.id) == [], "nothing of the request is taken"


@pytest.mark.rule("c2_3")
def test_amb_44_a_worker_reaches_its_own_environment_only(site: Site) -> None:
    elsewhere = site.session(environment_id=site.environment())
    sessions = site.worker.beta.sessions
    for call in (
        lambda: sessions.retrieve(elsewhere.id),
        lambda: list(sessions.events.list(elsewhere.id)),
        lambda: sessions.events.stream(elsewhere.id),
        lambda: sessions.events.send(elsewhere.id, events=[result(elsewhere)]),
    ):
        with pytest.raises(anthropic.NotFoundError):
            call()
    for call in (lambda: sessions.list(), lambda: sessions.archive(elsewhere.id)):
        with pytest.raises(anthropic.PermissionDeniedError):
            call()

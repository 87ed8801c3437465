"""Rules of sessions, their events and their work that cut across the other files."""

from typing import Any

import anthropic
import pytest

from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check
from tests.wire.test_events import asking, result
from tests.wire.test_streams import collect

PROBE: Any = {
    "type": "custom",
    "name": "probe",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {}},
}


def test_c9_3_c9_7_an_item_waits_without_troubling_its_session(site: Site) -> None:
    session_id, _ = asking(site)
    (item,) = site.worker.beta.environments.work.list(site.environment_id)
    assert (item.state, item.data.id, item.metadata) == ("queued", session_id, {})
    assert set(item.to_dict()["data"]) == {"type", "id"}
    shown = site.api.beta.sessions.retrieve(session_id)
    assert shown.status == "idle"
    assert "session.error" not in site.types(session_id)


def test_c9_1_an_item_goes_through_its_five_states(site: Site) -> None:
    site.session()
    work, where = site.worker.beta.environments.work, {"environment_id": site.environment_id}
    item = work.poll(site.environment_id)
    assert item is not None
    seen = [item.state, work.ack(item.id, **where).state]
    seen.append(work.heartbeat(item.id, **where, expected_last_heartbeat="NO_HEARTBEAT").state)
    seen.append(work.stop(item.id, **where).state)
    seen.append(work.stop(item.id, **where, force=True).state)
    assert seen == ["queued", "starting", "active", "stopping", "stopped"]


def test_c9_43_an_interrupt_queues_an_abandoned_sessions_work_again(site: Site) -> None:
    session_id, _ = asking(site)
    work, where = site.worker.beta.environments.work, {"environment_id": site.environment_id}
    item = work.poll(site.environment_id)
    assert item is not None
    work.ack(item.id, **where)
    work.stop(item.id, **where, force=True)
    assert work.poll(site.environment_id) is None
    site.api.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
    again = until(lambda: work.poll(site.environment_id))
    assert again.data.id == session_id
    assert again.id != item.id


def test_c10_8_c19_2_other_states_than_the_four_are_unknown(site: Site) -> None:
    made = site.session()
    four: Any = ["rescheduling", "running", "idle", "terminated"]
    found = site.api.beta.sessions.list(agent_id=made.agent.id, statuses=four)
    assert [session.id for session in found] == [made.id]
    threads = site.api.beta.sessions.threads.list(made.id, statuses=four)
    assert len(list(threads)) == 1
    unknown: Any = ["sleeping"]
    with pytest.raises(anthropic.BadRequestError, match="statuses"):
        site.api.beta.sessions.list(statuses=unknown)
    with pytest.raises(anthropic.BadRequestError, match="statuses"):
        site.api.beta.sessions.threads.list(made.id, statuses=unknown)


def test_c10_24_deleting_a_session_leaves_what_it_used(site: Site) -> None:
    made = site.session()
    site.api.beta.sessions.delete(made.id)
    assert site.api.beta.agents.retrieve(made.agent.id).archived_at is None
    assert site.api.beta.environments.retrieve(site.environment_id).archived_at is None


def test_c10_29_cache_usage_is_split_by_age(site: Site) -> None:
    made = site.session(initial_events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle")
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    assert site.api.beta.sessions.retrieve(made.id).usage.to_dict()["cache_creation"] == split
    (span,) = [event for event in log if event.type == "span.model_request_end"]
    assert isinstance(span.model_usage.cache_creation_input_tokens, int)


def test_c2_15_the_environment_key_answers_custom_tools_too(site: Site) -> None:
    agent = site.api.beta.agents.create(name="A", model="scripted/probe", tools=[PROBE])
    made = site.session(agent=agent.id, initial_events=[MESSAGE])
    (call,) = [
        event
        for event in site.wait(made.id, "session.status_idle")
        if event.type == "agent.custom_tool_use"
    ]
    answer: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": call.id}
    site.worker.beta.sessions.events.send(made.id, events=[answer])
    log = site.wait(made.id, "session.status_idle", 2)
    assert log[-1].stop_reason.type == "end_turn"


def test_c16_5_a_threads_list_pages(site: Site) -> None:
    made = site.session(initial_events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle")
    (thread,) = site.api.beta.sessions.threads.list(made.id)
    shown = site.api.beta.sessions.threads.events.list(thread.id, session_id=made.id, limit=2)
    assert len(shown.data) == 2
    assert [event.id for event in shown] == [event.id for event in log]


def test_c16_7_what_nobody_streamed_is_in_the_list(site: Site) -> None:
    made = site.session()
    collect(site, made.id, "session.status_idle")
    before = site.types(made.id)
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle", 2)
    assert [event.type for event in log[len(before) :]].count("agent.message") == 1


def test_c18_9_tool_calls_are_not_previewed(site: Site) -> None:
    made = site.session("shell")
    seen, _ = collect(
        site, made.id, "session.status_idle", event_deltas=["agent.message", "agent.thinking"]
    )
    (call,) = [event for event in seen if event.type == "agent.tool_use"]
    started = {event.event.id for event in seen if event.type == "event_start"}
    assert started == {event.id for event in seen if event.type == "agent.message"}
    assert call.id not in started


def test_c19_10_the_primarys_calls_name_no_thread(site: Site) -> None:
    session_id, call = asking(site)
    assert "session_thread_id" not in call.to_dict()
    echo = site.worker.beta.sessions.events.send(session_id, events=[result(call)])
    assert "session_thread_id" not in echo.data[0].to_dict()


def test_c21_2_the_worker_reads_a_complete_session(site: Site) -> None:
    made = site.session("shell")
    seen = site.worker.beta.sessions.retrieve(made.id)
    check(seen, nullable=False)
    assert seen.agent.to_dict() == made.agent.to_dict()
    assert (seen.agent.skills, seen.resources) == ([], [])


def test_c22_5_a_taken_result_is_listed_at_once(site: Site) -> None:
    for _ in range(5):
        session_id, call = asking(site)
        site.worker.beta.sessions.events.send(session_id, events=[result(call)])
        listed = site.worker.beta.sessions.events.list(session_id, types=["user.tool_result"])
        assert [event.tool_use_id for event in listed] == [call.id]


def test_R101_a_server_that_is_down_refuses_no_session(site: Site) -> None:
    agent = site.api.beta.agents.create(
        name="A",
        model="scripted/answer",
        mcp_servers=[{"type": "url", "name": "gone", "url": "https://127.0.0.1:9/mcp"}],
        tools=[{"type": "mcp_toolset", "mcp_server_name": "gone"}],
    )
    made = site.session(agent=agent.id, initial_events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle")
    (error,) = [event.error for event in log if event.type == "session.error"]
    assert (error.type, error.mcp_server_name) == ("mcp_connection_failed_error", "gone")
    assert log[-1].stop_reason.type == "end_turn"


def test_R132_a_running_sessions_policy_does_not_follow_its_agent(site: Site) -> None:
    made = site.session("shell")
    ask: Any = [
        {
            "type": "agent_toolset_20260401",
            "default_config": {"permission_policy": {"type": "always_ask"}},
        }
    ]
    site.api.beta.agents.update(made.agent.id, tools=ask)
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle")
    (call,) = [event for event in log if event.type == "agent.tool_use"]
    assert call.evaluated_permission == "allow"
    later = site.session(agent=made.agent.id, initial_events=[MESSAGE])
    log = site.wait(later.id, "session.status_idle")
    (call,) = [event for event in log if event.type == "agent.tool_use"]
    assert call.evaluated_permission == "ask"

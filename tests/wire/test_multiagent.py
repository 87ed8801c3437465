"""Agents that delegate, and their sessions, through the official SDK."""

from typing import Any

import anthropic
import anyio.to_thread
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_async_tool

from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.mark.rule("c7_1", "c7_5", "c7_6")
def test_a_coordinator_is_shown_with_references(client: Anthropic) -> None:
    worker = client.beta.agents.create(name="Worker", model="m")
    lead = client.beta.agents.create(
        name="Lead",
        model="m",
        multiagent={
            "type": "coordinator",
            "agents": [{"type": "advisor", "model": "wise"}, worker.id, {"type": "self"}],
        },
    )
    check(lead)
    assert lead.multiagent is not None
    assert [entry.type for entry in lead.multiagent.agents] == ["agent", "agent", "advisor"]
    assert [(e.id, e.version) for e in lead.multiagent.agents[:2]] == [(worker.id, 1), (lead.id, 1)]
    renamed = client.beta.agents.update(lead.id, name="Head")
    check(renamed)
    assert renamed.multiagent.agents[1].version == 2
    listed = list(client.beta.agents.versions.list(lead.id))
    assert [version.multiagent.agents[1].version for version in listed] == [2, 1]
    assert client.beta.agents.update(lead.id, multiagent=None).multiagent is None


async def test_members_are_merged_on_update(async_client: AsyncAnthropic) -> None:
    off = {"type": "disabled"}
    lead = await async_client.beta.agents.create(
        name="Lead",
        model="m",
        multiagent={
            "type": "multiagent_20261001",
            "workflows": off,
            "advisor": {"type": "enabled", "model": "wise"},
        },
    )
    check(lead)
    changed = await async_client.beta.agents.update(
        lead.id, multiagent={"type": "multiagent_20261001", "subagents": off}
    )
    check(changed)
    assert changed.multiagent.subagents.type == "disabled"
    assert changed.multiagent.advisor.model == "wise"
    assert changed.multiagent.workflows.type == "disabled"


ASK = {"permission_policy": {"type": "always_ask"}}
WEATHER: Any = {
    "type": "custom",
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {}, "required": []},
}


def hands(policy: dict[str, Any]) -> Any:
    return [{"type": "agent_toolset_20260401", "default_config": policy}]


def led(
    site: Site, lead: str = "lead", scout: str = "scout", asker: str = "asker", **more: Any
) -> Any:
    """A session whose coordinator delegates to three agents at once."""
    make = site.api.beta.agents.create
    roster = [
        make(name="Scout", model=f"scripted/{scout}").id,
        make(name="Asker", model=f"scripted/{asker}", tools=hands(ASK)).id,
        make(name="Clerk", model="scripted/clerk", tools=[WEATHER]).id,
    ]
    agent = make(
        name="Lead", model=f"scripted/{lead}", multiagent={"type": "coordinator", "agents": roster}
    )
    return site.api.beta.sessions.create(agent=agent.id, environment_id=site.environment_id, **more)


def begun(site: Site, **more: Any) -> Any:
    made = led(site, **more)
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    return made


def children(site: Site, session_id: str) -> dict[str, Any]:
    threads = site.api.beta.sessions.threads.list(session_id)
    return {t.agent.name: t for t in threads if t.parent_thread_id is not None}


def resting(site: Site, session_id: str, stop: str) -> Any:
    """Return the session's last status event once it is idle for that reason."""

    def look() -> Any:
        found = [e for e in site.events(session_id) if e.type == "session.status_idle"]
        good = found and found[-1].stop_reason.type == stop
        return found[-1] if good and status(site, session_id) == "idle" else None

    return until(look)


def status(site: Site, session_id: str) -> str:
    return site.api.beta.sessions.retrieve(session_id).status


@pytest.mark.rule("c7_5", "c10_25", "c19_2", "c19_3", "c19_4", "c19_5", "R128", "R129")
@pytest.mark.rule("c4_22", "c13_10", "c17_11", "c19_9", "c19_10", "c19_11")
def test_three_children_work_at_once_and_ask_the_client(site: Site) -> None:
    made = begun(site)
    check(made)
    assert [agent.name for agent in made.agent.multiagent.agents] == ["Scout", "Asker", "Clerk"]
    idle = until(
        lambda: (
            found
            if (found := resting(site, made.id, "requires_action"))
            and len(found.stop_reason.event_ids) == 2
            else None
        )
    )
    crew = children(site, made.id)
    for thread in crew.values():
        check(thread)
        assert thread.agent.type == "agent"
        assert (thread.status, thread.workflow_run_id) == ("idle", None)
        assert thread.usage is not None
        assert thread.stats.startup_seconds == 0
    log = site.events(made.id)
    for event in log:
        check(event, nullable=False)
    asked = {e.id: e for e in log if e.id in idle.stop_reason.event_ids}
    routes = {e.type: e.session_thread_id for e in asked.values()}
    assert routes == {
        "agent.tool_use": crew["Asker"].id,
        "agent.custom_tool_use": crew["Clerk"].id,
    }
    own = list(site.api.beta.sessions.threads.events.list(crew["Asker"].id, session_id=made.id))
    assert next(e for e in own if e.type == "agent.tool_use").session_thread_id is None
    assert own[1].type == "agent.thread_message_received"
    assert own[1].content[0].text == "Run the script."
    assert own[1].from_agent_name is None
    shell = next(e.id for e in asked.values() if e.type == "agent.tool_use")
    weather = next(e.id for e in asked.values() if e.type == "agent.custom_tool_use")
    allowed = site.api.beta.sessions.events.send(
        made.id,
        events=[{"type": "user.tool_confirmation", "tool_use_id": shell, "result": "allow"}],
    )
    assert allowed.data[0].session_thread_id == crew["Asker"].id
    told = site.api.beta.sessions.events.send(
        made.id,
        events=[
            {
                "type": "user.custom_tool_result",
                "custom_tool_use_id": weather,
                "content": [{"type": "text", "text": "sun"}],
            }
        ],
    )
    assert told.data[0].session_thread_id == crew["Clerk"].id
    ran = site.worker.beta.sessions.events.send(
        made.id,
        events=[{"type": "user.tool_result", "tool_use_id": shell, "content": []}],
    )
    assert ran.data[0].session_thread_id == crew["Asker"].id
    resting(site, made.id, "end_turn")
    log = site.events(made.id)
    reports = [e for e in log if e.type == "agent.thread_message_received"]
    assert {e.from_agent_name for e in reports} == {"Scout", "Asker", "Clerk"}
    assert not any(e.type == "agent.tool_use" and e.session_thread_id is None for e in log)
    threads = site.api.beta.sessions.threads
    assert len(list(threads.list(made.id, statuses=["idle"]))) == 4
    assert list(threads.list(made.id, statuses=["terminated", "running"])) == []
    spawned = [
        event.session_thread_id
        for event in site.events(made.id)
        if event.type == "session.thread_created"
    ]
    (primary,) = [t.id for t in threads.list(made.id) if t.parent_thread_id is None]
    assert [t.id for t in threads.list(made.id)] == [primary, *spawned]
    paged = list(threads.list(made.id, limit=1))
    assert [t.id for t in paged] == [t.id for t in threads.list(made.id)]
    assert paged[0].parent_thread_id is None
    assert {t.parent_thread_id for t in paged[1:]} == {paged[0].id}


@pytest.mark.rule("c13_14", "c15_16", "c19_7", "c19_8")
def test_a_child_is_interrupted_and_archived(site: Site) -> None:
    made = begun(site, scout="patient")
    until(lambda: ((c := children(site, made.id)) and len(c) == 3) or None)
    until(lambda: children(site, made.id)["Clerk"].status == "idle" or None)
    scout, clerk = (children(site, made.id)[name] for name in ("Scout", "Clerk"))
    api = site.api.beta.sessions
    with pytest.raises(anthropic.ConflictError, match=r"user\.interrupt"):
        api.threads.archive(scout.id, session_id=made.id)
    assert status(site, made.id) == "running"
    ended = api.threads.archive(clerk.id, session_id=made.id)
    check(ended)
    assert (ended.status, ended.archived_at is None) == ("terminated", False)
    assert api.threads.archive(clerk.id, session_id=made.id).archived_at == ended.archived_at
    weather = next(e for e in site.events(made.id) if e.type == "agent.custom_tool_use")
    with pytest.raises(anthropic.BadRequestError):
        api.events.send(
            made.id,
            events=[{"type": "user.custom_tool_result", "custom_tool_use_id": weather.id}],
        )
    stop = {"type": "user.interrupt", "session_thread_id": scout.id}
    api.events.send(made.id, events=[stop])
    until(lambda: children(site, made.id)["Scout"].status == "idle" or None)
    idle = resting(site, made.id, "requires_action")
    assert weather.id not in idle.stop_reason.event_ids
    api.events.send(made.id, events=[{"type": "user.interrupt"}])
    resting(site, made.id, "end_turn")
    closed = api.archive(made.id)
    assert closed.status == "terminated"
    assert {t.status for t in api.threads.list(made.id)} == {"terminated"}
    with pytest.raises(anthropic.NotFoundError):
        api.threads.retrieve("sthr_none", session_id=made.id)
    api.delete(made.id)


def spans(log: list[Any], kind: str) -> dict[str, float]:
    """Return the seconds that each thread, or the session, was running by the times of events."""
    since: dict[str, Any] = {}
    found: dict[str, float] = {}
    for event in log:
        key = getattr(event, "session_thread_id", "")
        if event.type == f"{kind}_running":
            since.setdefault(key, event.processed_at)
        elif event.type.startswith(kind) and key in since:
            lasted = event.processed_at - since.pop(key)
            found[key] = found.get(key, 0.0) + lasted.total_seconds()
    assert not since
    return found


def test_c10_27_the_time_of_children_side_by_side_is_summed(site: Site) -> None:
    made = begun(site, scout="patient", asker="patient")
    api = site.api.beta.sessions

    def at_work() -> int:
        return sum(t.status == "running" for t in children(site, made.id).values())

    until(lambda: at_work() == 2 or None)

    def overlap() -> float:
        shown = api.retrieve(made.id)
        return shown.stats.active_seconds - shown.usage.active_seconds

    until(lambda: overlap() > 0.1 or None)
    api.events.send(made.id, events=[{"type": "user.interrupt"}])
    resting(site, made.id, "end_turn")
    whole = api.retrieve(made.id)
    check(whole)
    parts = {t.id: t.stats.active_seconds for t in api.threads.list(made.id)}
    log = site.events(made.id)
    assert parts == pytest.approx(spans(log, "session.thread_status"), abs=1e-5)
    assert whole.stats.active_seconds == pytest.approx(sum(parts.values()), abs=1e-5)
    assert whole.usage.active_seconds == pytest.approx(spans(log, "session.status")[""], abs=1e-5)
    assert whole.stats.active_seconds > whole.usage.active_seconds
    # One that leaves has worked all the same.
    api.threads.archive(children(site, made.id)["Scout"].id, session_id=made.id)
    assert api.retrieve(made.id).stats.active_seconds == whole.stats.active_seconds
    (listed,) = (each for each in api.list() if each.id == made.id)
    assert listed.stats.active_seconds == whole.stats.active_seconds


@pytest.mark.rule("c17_11", "c19_8")
def test_a_follow_up_is_previewed_on_the_childs_own_stream(site: Site) -> None:
    made = begun(site, lead="follower")
    resting(site, made.id, "end_turn")
    child = children(site, made.id)["Scout"]
    api = site.api.beta.sessions
    with (
        api.threads.events.stream(
            child.id, session_id=made.id, event_deltas=["agent.message"]
        ) as own,
        api.events.stream(made.id, event_deltas=["agent.message"]) as main,
    ):
        api.events.send(made.id, events=[MESSAGE])
        seen = taken(own, "session.thread_status_idle")
        condensed = taken(main, "session.status_idle")
    assert [e.type for e in seen if e.type != "event_delta"] == [
        "session.thread_status_running",
        "agent.thread_message_received",
        "span.model_request_start",
        "event_start",
        "agent.message",
        "span.model_request_end",
        "agent.thread_message_sent",
        "session.thread_status_idle",
    ]
    for event in seen:
        check(event, nullable=False)
    (message,) = (e for e in seen if e.type == "agent.message")
    deltas = [e for e in seen if e.type == "event_delta"]
    assert {e.event_id for e in deltas} == {message.id}
    assert (
        "".join(e.delta.content.text for e in deltas) == message.content[0].text == "Still the sea."
    )
    assert message.id not in {getattr(e, "event_id", None) for e in condensed}
    assert message.id not in {getattr(e, "id", None) for e in condensed}
    sent = next(e for e in condensed if e.type == "agent.thread_message_sent")
    assert (sent.to_session_thread_id, sent.to_agent_name) == (child.id, "Scout")


def taken(stream: Any, last: str) -> list[Any]:
    """Take events through the first of a type."""
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == last:
            break
    return seen


@pytest.mark.rule("c15_29", "c19_3", "c19_14")
async def test_the_advisor_of_each_configuration(async_client: AsyncAnthropic, site: Site) -> None:
    for multiagent in (
        {"type": "coordinator", "agents": [{"type": "advisor", "model": "scripted/answer"}]},
        {
            "type": "multiagent_20261001",
            "workflows": {"type": "disabled"},
            "advisor": {"type": "enabled", "model": "scripted/answer"},
        },
    ):
        agent = await async_client.beta.agents.create(
            name="Lead", model="scripted/counselled", multiagent=multiagent
        )
        made = await async_client.beta.sessions.create(
            agent=agent.id, environment_id=site.environment_id, initial_events=[MESSAGE]
        )
        check(made)
        await anyio.to_thread.run_sync(resting, site, made.id, "end_turn")
        log = [e async for e in async_client.beta.sessions.events.list(made.id)]
        for event in log:
            check(event, nullable=False)
        (advice,) = (e for e in log if e.type == "agent.thread_message_received")
        assert advice.from_agent_name == "anthropic.advisor"
        assert "forty-two" in advice.content[0].text
        assert "agent.tool_use" not in [e.type for e in log]
        threads = [t async for t in async_client.beta.sessions.threads.list(made.id)]
        check(threads[1])
        assert (threads[1].agent.type, threads[1].status) == ("advisor", "terminated")
        stream = await async_client.beta.sessions.threads.events.stream(
            threads[1].id, session_id=made.id
        )
        assert [event async for event in stream] == [], "it has ended: nothing more comes"
        own = async_client.beta.sessions.threads.events.list(threads[1].id, session_id=made.id)
        assert "agent.thread_message_sent" in [e.type async for e in own]


def test_a_thread_is_of_its_session_alone(site: Site) -> None:
    made, other = begun(site), site.session()
    crew = until(lambda: children(site, made.id) or None)
    thread = next(iter(crew.values()))
    api = site.api.beta.sessions.threads
    for call in (
        lambda: api.retrieve(thread.id, session_id=other.id),
        lambda: api.archive(thread.id, session_id=other.id),
        lambda: list(api.events.list(thread.id, session_id=other.id)),
    ):
        with pytest.raises(anthropic.NotFoundError):
            call()
    with pytest.raises(anthropic.NotFoundError):
        site.api.beta.sessions.events.send(
            other.id, events=[{"type": "user.interrupt", "session_thread_id": thread.id}]
        )
    site.api.beta.sessions.events.send(made.id, events=[{"type": "user.interrupt"}])


@pytest.mark.rule("c19_9", "c19_10")
async def test_the_sdks_tool_runner_serves_the_children(
    async_client: AsyncAnthropic, site: Site
) -> None:
    @beta_async_tool
    async def weather() -> str:
        """Tell the weather."""
        return "sun"

    @beta_async_tool
    async def bash(command: str) -> str:
        """Run a command."""
        return command.removeprefix("echo ")

    made = led(site)
    runner = async_client.beta.sessions.events.tool_runner(
        made.id, tools=[weather, bash], max_idle=0.5
    )
    ran: list[Any] = []
    async with anyio.create_task_group() as group:

        async def allow() -> None:
            idle = await anyio.to_thread.run_sync(resting, site, made.id, "requires_action")
            log = {e.id: e for e in site.events(made.id)}
            for use_id in idle.stop_reason.event_ids:
                if log[use_id].type == "agent.tool_use":
                    verdict = {"tool_use_id": use_id, "result": "allow"}
                    await async_client.beta.sessions.events.send(
                        made.id, events=[{"type": "user.tool_confirmation", **verdict}]
                    )

        group.start_soon(allow)
        await async_client.beta.sessions.events.send(made.id, events=[MESSAGE])
        with anyio.fail_after(60):
            ran.extend([call async for call in runner])
    crew = children(site, made.id)
    served = {(call.name, call.event.session_thread_id, call.is_error) for call in ran}
    assert served == {("weather", crew["Clerk"].id, False), ("bash", crew["Asker"].id, False)}
    log = site.events(made.id)
    results = [e for e in log if e.type in ("user.tool_result", "user.custom_tool_result")]
    texts = {event.session_thread_id: event.content[0].text for event in results}
    assert texts == {crew["Clerk"].id: "sun", crew["Asker"].id: "from-the-child"}
    assert log[-1].stop_reason.type == "end_turn"


@pytest.mark.rule("c19_3")
def test_an_agent_that_the_coordinator_defines(site: Site) -> None:
    members: Any = {"type": "multiagent_20261001", "workflows": {"type": "disabled"}}
    agent = site.api.beta.agents.create(
        name="Maker", model="scripted/maker", tools=[WEATHER], multiagent=members
    )
    made = site.api.beta.sessions.create(
        agent=agent.id, environment_id=site.environment_id, initial_events=[MESSAGE]
    )
    check(made)
    assert made.agent.multiagent.subagents.inline_agents.type == "enabled"
    child = until(lambda: children(site, made.id).get("Helper"))
    check(child)
    assert (child.agent.type, child.agent.system) == ("inline", "Help.")
    assert child.agent.model.id == "scripted/maker"
    assert [tool.name for tool in child.agent.tools] == ["weather"]
    # The helper plays the same script, but is offered nobody to delegate to: one level is all.
    resting(site, made.id, "end_turn")
    told = [e for e in site.events(made.id) if e.type == "agent.thread_message_received"]
    assert [e.from_agent_name for e in told] == ["Helper"]
    assert "0 tools named 'send_to_agent' are offered" in told[0].content[0].text
    assert children(site, made.id)["Helper"].status == "idle"


@pytest.mark.rule("c7_11", "c19_3", "c19_11")
def test_subagents_of_the_newer_configuration(site: Site) -> None:
    make = site.api.beta.agents.create
    scout = make(name="Scout", model="scripted/scout")
    team: Any = {"type": "enabled", "predefined_agents": [scout.id, {"type": "self"}]}
    agent = make(
        name="Lead",
        model="scripted/crewed",
        tools=[WEATHER],
        multiagent={
            "type": "multiagent_20261001",
            "subagents": team,
            "workflows": {"type": "disabled"},
        },
    )
    made = site.api.beta.sessions.create(
        agent=agent.id, environment_id=site.environment_id, initial_events=[MESSAGE]
    )
    check(made)
    named = made.agent.multiagent.subagents.predefined_agents
    assert [(a.name, a.version) for a in named] == [("Scout", 1), ("Lead", 1)]
    resting(site, made.id, "end_turn")
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    until(lambda: len(children(site, made.id)) == 3 or None)
    site.wait(made.id, "agent.thread_message_received", 3)
    resting(site, made.id, "end_turn")
    crew = children(site, made.id)
    for thread in crew.values():
        check(thread)
    assert {name: thread.agent.type for name, thread in crew.items()} == {
        "Scout": "agent",
        "Lead": "agent",
        "Helper": "inline",
    }
    assert (crew["Lead"].agent.id, crew["Lead"].agent.version) == (agent.id, 1)
    assert [tool.name for tool in crew["Helper"].agent.tools] == ["weather"]
    told = [e for e in site.events(made.id) if e.type == "agent.thread_message_received"]
    assert {e.from_agent_name: e.content[0].text for e in told} == {
        "Scout": "North lies the sea, and nothing that would be of use to anyone.",
        "Lead": "Nothing to add.",
        "Helper": "Nothing to add.",
    }
    assert {thread.workflow_run_id for thread in crew.values()} == {None}

"""Workflow runs through the official SDK: their events, threads, streams, and their ends."""

from typing import Any

import anthropic
import anyio.to_thread
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_async_tool

from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check
from tests.wire.test_multiagent import ASK, WEATHER, hands, resting, status, taken

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

NEW: Any = {"type": "multiagent_20261001"}
ON, OFF = {"type": "enabled"}, {"type": "disabled"}
RUN = "workflow_run."


@pytest.mark.rule("c7_7", "c7_8", "c7_11")
def test_workflows_are_on_unless_they_are_switched_off(client: Anthropic, site: Site) -> None:
    whole = {"type": "enabled", "inline_agents": ON, "predefined_agents": []}
    lead = client.beta.agents.create(name="Lead", model="m", multiagent=NEW)
    check(lead)
    assert lead.multiagent.model_dump(mode="json") == {  # type: ignore[union-attr]
        **NEW, "subagents": whole, "workflows": whole, "advisor": OFF,
    }  # fmt: skip
    changed = client.beta.agents.update(lead.id, multiagent={**NEW, "workflows": OFF})
    check(changed)
    assert changed.multiagent.workflows.type == "disabled"
    back = client.beta.agents.update(lead.id, multiagent={**NEW, "workflows": None})
    assert back.multiagent.model_dump(mode="json")["workflows"] == whole
    fixed: Any = {"type": "enabled", "inline_agents": OFF}
    with pytest.raises(anthropic.BadRequestError, match="at least one"):
        client.beta.agents.update(lead.id, multiagent={**NEW, "workflows": fixed})
    worker = client.beta.agents.create(name="Worker", model="m")
    own: Any = {**fixed, "predefined_agents": [worker.id, {"type": "self"}]}
    named = client.beta.agents.update(lead.id, multiagent={**NEW, "workflows": own})
    check(named)
    assert [a.id for a in named.multiagent.workflows.predefined_agents] == [worker.id, lead.id]
    assert named.multiagent.subagents.predefined_agents == [], "the lists are apart"
    made = client.beta.sessions.create(agent=lead.id, environment_id=site.environment_id)
    check(made)
    full = made.agent.multiagent.workflows.predefined_agents
    assert [(a.name, a.type, a.version) for a in full] == [
        ("Worker", "agent", 1), ("Lead", "agent", named.version),
    ]  # fmt: skip
    many: Any = {"type": "enabled", "predefined_agents": [f"agent_{n}" for n in range(21)]}
    with pytest.raises(anthropic.BadRequestError, match="20"):
        client.beta.agents.update(lead.id, multiagent={**NEW, "workflows": many})


async def test_the_same_asynchronously(async_client: AsyncAnthropic) -> None:
    lead = await async_client.beta.agents.create(name="Lead", model="m", multiagent=NEW)
    check(lead)
    assert lead.multiagent.workflows.inline_agents.type == "enabled"  # type: ignore[union-attr]


def planned(site: Site, script: str, scout: str = "scout", **more: Any) -> Any:
    """A session of an agent whose runs may employ three others."""
    make = site.api.beta.agents.create
    workers = [
        make(name="Scout", model=f"scripted/{scout}").id,
        make(name="Asker", model="scripted/asker", tools=hands(ASK)).id,
        make(name="Clerk", model="scripted/clerk", tools=[WEATHER]).id,
    ]
    flows: Any = {"type": "enabled", "predefined_agents": workers}
    agent = make(
        name="Lead", model=f"scripted/{script}",
        multiagent={**NEW, "subagents": OFF, "workflows": flows},
    )  # fmt: skip
    return site.api.beta.sessions.create(
        agent=agent.id, environment_id=site.environment_id, initial_events=[MESSAGE], **more
    )


def of_run(log: list[Any]) -> list[Any]:
    return [event for event in log if event.type.startswith(RUN)]


def kinds(log: list[Any]) -> list[str]:
    return [event.type.removeprefix(RUN) for event in of_run(log)]


def steps(site: Site, session_id: str) -> dict[str, Any]:
    """The threads of runs by their agents' names."""
    threads = site.api.beta.sessions.threads.list(session_id)
    return {t.agent.name: t for t in threads if t.workflow_run_id is not None}


def asked(site: Site, session_id: str, count: int) -> list[Any]:
    """Return what the session asks for, once that is so many."""

    def look() -> list[Any] | None:
        idle = resting(site, session_id, "requires_action")
        ids = idle.stop_reason.event_ids
        found = [e for e in site.events(session_id) if e.id in ids]
        return found if len(found) == count else None

    return until(look)


def answer(site: Site, session_id: str, calls: list[Any]) -> None:
    """Allow and run what a run's threads ask for."""
    for call in calls:
        if call.type == "agent.custom_tool_use":
            event: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": call.id}
            site.api.beta.sessions.events.send(session_id, events=[event])
            continue
        verdict: Any = {"type": "user.tool_confirmation", "result": "allow"}
        told = site.api.beta.sessions.events.send(
            session_id, events=[{**verdict, "tool_use_id": call.id}]
        )
        assert told.data[0].session_thread_id == call.session_thread_id
        result: Any = {"type": "user.tool_result", "tool_use_id": call.id}
        site.worker.beta.sessions.events.send(session_id, events=[result])


@pytest.mark.rule("c14_8", "c15_28", "c17_11", "c19_9", "c19_13")
def test_a_run_from_its_plan_to_its_report(site: Site) -> None:
    made = planned(site, "planner")
    resting(site, made.id, "end_turn")
    api = site.api.beta.sessions
    with api.events.stream(made.id) as live:
        api.events.send(made.id, events=[MESSAGE])
        calls = asked(site, made.id, 2)
        (run_id,) = {thread.workflow_run_id for thread in steps(site, made.id).values()}
        crew = steps(site, made.id)
        assert crew.keys() == {"Scout", "Asker", "Clerk"}
        for thread in crew.values():
            check(thread)
            assert thread.status == "idle"
            check(api.threads.retrieve(thread.id, session_id=made.id))
        assert kinds(site.events(made.id))[-1] == "status_idle", "all that is left is to answer"
        with api.threads.events.stream(crew["Asker"].id, session_id=made.id) as own:
            answer(site, made.id, calls)
            seen = taken(own, "session.thread_status_terminated")
        streamed = taken(live, RUN + "status_ended")
        resting(site, made.id, "end_turn")
    assert "agent.message" in [event.type for event in seen]
    log = site.events(made.id)
    for event in (*log, *seen):
        check(event, nullable=False)
    events = of_run(log)
    assert {event.workflow_run_id for event in events} == {run_id}
    assert [event.id for event in of_run(streamed)] == [event.id for event in events]
    found = [kind for kind in kinds(log) if kind not in ("status_running", "status_idle")]
    phases = ["phase_started", "phase_ended"]
    assert found == ["created", *phases, *phases, "status_ended"]
    assert kinds(log)[1] == "status_running"
    created, *_, end = events
    assert (created.name, created.description) == ("Survey", "Look, ask, judge.")
    assert [(p.name, p.description) for p in created.phases] == [
        ("Gather", "All at once."), ("Judge", None),
    ]  # fmt: skip
    assert end.result.type == "completed"
    for start, close in zip(
        *([e for e in events if e.type == RUN + kind] for kind in phases), strict=True
    ):
        assert close.phase_started_id == start.id
        assert close.workflow_run_phase_id == start.workflow_run_phase_id
    threads = steps(site, made.id)
    assert {t.status for t in threads.values()} == {"terminated"}
    assert (threads["critic"].agent.type, threads["critic"].agent.system) == (
        "inline", "Find faults.",
    )  # fmt: skip
    check(threads["critic"])
    own_log = list(api.threads.events.list(threads["critic"].id, session_id=made.id))
    task = next(e for e in own_log if e.type == "agent.thread_message_received")
    assert [block.text.splitlines()[0] for block in task.content] == [
        "Judge this.", "Result of the step 'north':", "Result of the step 'shell':",
        "Result of the step 'sky':",
    ]  # fmt: skip
    assert "North lies the sea" in task.content[1].text, "it was given what the others found"
    begun = [e for e in log if e.type == "session.thread_created"]
    assert {e.workflow_run_id for e in begun} == {run_id}
    assert [e.content[0].text for e in log if e.type == "agent.message"] == [
        "Nothing to object.", "The survey is under way.", "The survey is done.",
    ]  # fmt: skip
    listed = site.events(made.id, types=[RUN + "created", RUN + "status_ended"])
    assert [e.id for e in listed] == [created.id, end.id]


@pytest.mark.rule("c19_13")
def test_the_agent_stops_a_run_with_what_is_open_in_it(site: Site) -> None:
    made = planned(site, "undoer", scout="patient")
    until(lambda: steps(site, made.id).get("Clerk"))
    weather = site.wait(made.id, "agent.custom_tool_use")
    site.wait(made.id, "agent.message")
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    log = site.wait(made.id, RUN + "status_ended")
    assert of_run(log)[-1].result.type == "stopped"
    assert kinds(log)[-2:] == ["phase_ended", "status_ended"]
    resting(site, made.id, "end_turn")
    crew = steps(site, made.id)
    assert {thread.status for thread in crew.values()} == {"terminated"}
    call = next(e for e in weather if e.type == "agent.custom_tool_use")
    result: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": call.id}
    with pytest.raises(anthropic.BadRequestError, match="takes no such result"):
        site.api.beta.sessions.events.send(made.id, events=[result])
    with pytest.raises(anthropic.NotFoundError):
        stop: Any = {"type": "user.interrupt", "session_thread_id": crew["Scout"].id}
        site.api.beta.sessions.events.send(made.id, events=[stop])
    own = list(site.api.beta.sessions.threads.events.list(crew["Scout"].id, session_id=made.id))
    ends = [e for e in own if e.type == "span.model_request_end"]
    assert [e.is_error for e in ends] == [True], "the model was cut short"
    for event in (*site.events(made.id), *own):
        check(event, nullable=False)


def test_interrupt_and_archive_stop_a_run(site: Site) -> None:
    api = site.api.beta.sessions
    made = planned(site, "undoer", scout="patient")
    site.wait(made.id, "agent.custom_tool_use")
    api.events.send(made.id, events=[{"type": "user.interrupt"}])
    log = site.wait(made.id, RUN + "status_ended")
    assert of_run(log)[-1].result.type == "stopped"
    resting(site, made.id, "end_turn")
    waits = planned(site, "undoer")
    asked(site, waits.id, 1)
    assert status(site, waits.id) == "idle"
    assert api.archive(waits.id).status == "terminated"
    assert kinds(site.events(waits.id))[-2:] == ["phase_ended", "status_ended"]
    assert of_run(site.events(waits.id))[-1].result.type == "stopped"
    assert {t.status for t in api.threads.list(waits.id)} == {"terminated"}


@pytest.mark.rule("c14_8", "c15_28")
async def test_a_step_whose_thread_is_archived_fails_the_run(
    async_client: AsyncAnthropic, site: Site
) -> None:
    made = planned(site, "undoer")
    (call,) = await anyio.to_thread.run_sync(asked, site, made.id, 1)
    ended = await async_client.beta.sessions.threads.archive(
        call.session_thread_id, session_id=made.id
    )
    check(ended)
    assert ended.status == "terminated"
    await anyio.to_thread.run_sync(site.wait, made.id, RUN + "status_ended")
    log = [e async for e in async_client.beta.sessions.events.list(made.id)]
    for event in log:
        check(event, nullable=False)
    *_, error, end = of_run(log)
    assert error.type == RUN + "error"
    assert (end.result.type, end.result.error) == ("error", error.error)
    assert error.error.type == "program_error"
    await anyio.to_thread.run_sync(resting, site, made.id, "end_turn")


@pytest.mark.rule("c14_8")
async def test_a_refused_plan_is_told_without_a_run(
    async_client: AsyncAnthropic, site: Site
) -> None:
    made = planned(site, "blunderer")
    await anyio.to_thread.run_sync(site.wait, made.id, RUN + "error")
    stream = await async_client.beta.sessions.events.stream(made.id)
    await async_client.beta.sessions.events.send(made.id, events=[{"type": "user.interrupt"}])
    log = [e async for e in async_client.beta.sessions.events.list(made.id)]
    refused = of_run(log)
    assert {event.type for event in refused} == {RUN + "error"}
    check(refused[0], nullable=False)
    assert refused[0].workflow_run_id is None
    assert refused[0].error.type == "program_error"
    assert "Nobody" not in refused[0].error.message
    await stream.close()


@pytest.mark.rule("c19_13", "c19_9")
async def test_the_sdks_tool_runner_serves_a_runs_threads(
    async_client: AsyncAnthropic, site: Site
) -> None:
    @beta_async_tool
    async def weather() -> str:
        """Tell the weather."""
        return "sun"

    made = planned(site, "undoer")
    runner = async_client.beta.sessions.events.tool_runner(made.id, tools=[weather], max_idle=0.5)
    with anyio.fail_after(60):
        ran = [call async for call in runner]
    assert [(call.name, call.posted) for call in ran] == [("weather", True)]
    assert ran[0].event.session_thread_id == steps(site, made.id)["Clerk"].id
    log = await anyio.to_thread.run_sync(site.wait, made.id, RUN + "status_ended")
    assert of_run(log)[-1].result.type == "completed"

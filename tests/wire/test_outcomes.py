"""Outcomes through the official SDK, with scripts for the agent and its grader."""

from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check

SPAN = "span.outcome_evaluation"
RUBRIC = "# Quality\n- It works.\n- It has a manual.\n"


def outcome(rubric: Any = None, **more: Any) -> Any:
    return {
        "type": "user.define_outcome",
        "description": "Build it.",
        "rubric": rubric or {"type": "text", "content": RUBRIC},
        **more,
    }


def results(log: list[Any]) -> list[str]:
    return [event.result for event in log if event.type == f"{SPAN}_end"]


def shown(site: Site, session_id: str) -> list[Any]:
    session = site.api.beta.sessions.retrieve(session_id)
    check(session, nullable=False)
    return list(session.outcome_evaluations)


@pytest.mark.rule("c13_19", "c15_27", "c20_4", "c20_7")
def test_an_outcome_is_worked_for_revised_and_satisfied(site: Site) -> None:
    made = site.session("pursuer")
    assert made.outcome_evaluations == []
    (echo,) = site.api.beta.sessions.events.send(made.id, events=[outcome()]).data or []
    assert echo.type == "user.define_outcome"
    check(echo, nullable=False)
    assert echo.processed_at is not None, "it is accepted at once (c13_4)"
    assert echo.outcome_id.startswith("outc_")
    assert (echo.max_iterations, echo.rubric.type) == (3, "text")
    log = site.wait(made.id, "session.status_idle")
    for event in log:
        check(event, nullable=False)
    evaluated = [f"{SPAN}_start", f"{SPAN}_ongoing", f"{SPAN}_end"]
    reply = ["span.model_request_start", "agent.message", "span.model_request_end"]
    assert [event.type for event in log] == [
        "user.define_outcome",
        "session.status_running",
        "session.thread_status_running",
        *reply,
        *evaluated,
        *reply,
        *evaluated,
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert results(log) == ["needs_revision", "satisfied"]
    ends = [event for event in log if event.type == f"{SPAN}_end"]
    starts = [event for event in log if event.type == f"{SPAN}_start"]
    assert [e.outcome_evaluation_start_id for e in ends] == [s.id for s in starts]
    assert [e.iteration for e in ends] == [0, 1]
    assert "There is no manual." in ends[0].explanation
    assert (ends[0].usage.input_tokens, ends[0].usage.output_tokens) == (50, 5)
    assert log[-1].stop_reason.type == "end_turn"
    (entry,) = shown(site, made.id)
    assert (entry.result, entry.iteration) == ("satisfied", 1)
    assert entry.outcome_id == echo.outcome_id
    assert entry.completed_at == ends[1].processed_at
    usage = site.api.beta.sessions.retrieve(made.id).usage
    assert (usage.input_tokens, usage.output_tokens) == (300, 30), "the grader counts"


@pytest.mark.rule("c20_2", "c20_5")
def test_the_last_evaluation_is_followed_by_one_turn(site: Site) -> None:
    made = site.session("pursuer", initial_events=[outcome(max_iterations=1)])
    assert made.status == "running"
    log = site.wait(made.id, "session.status_idle")
    assert results(log) == ["max_iterations_reached"]
    after = [event.type for event in log[[e.type for e in log].index(f"{SPAN}_end") :]]
    assert after.count("agent.message") == 1
    (entry,) = shown(site, made.id)
    assert (entry.result, entry.iteration) == ("max_iterations_reached", 0)
    assert "1 of 2 criteria met" in str(entry.explanation)


@pytest.mark.rule("c14_1", "c20_1")
def test_a_rubric_in_a_file_is_echoed_as_text(site: Site) -> None:
    file = site.api.beta.files.upload(file=("rubric.md", RUBRIC.encode(), "text/markdown"))
    rubric = {"type": "file", "file_id": file.id}
    made = site.session("pursuer", initial_events=[outcome(rubric)])
    log = site.wait(made.id, "session.status_idle")
    assert log[0].rubric.to_dict() == {"type": "text", "content": RUBRIC}
    assert results(log)[-1] == "satisfied"
    idle = site.session("pursuer")
    (echo,) = site.api.beta.sessions.events.send(idle.id, events=[outcome(rubric)]).data or []
    assert echo.type == "user.define_outcome"
    assert echo.rubric.to_dict() == {"type": "text", "content": RUBRIC}


def test_c20_1_c20_2_wrong_definitions_are_named(site: Site) -> None:
    binary = site.api.beta.files.upload(file=("x.bin", b"\xff\xfe\x00", "text/plain"))
    blank = site.api.beta.files.upload(file=("x.md", b" \n ", "text/plain"))
    long = site.api.beta.files.upload(file=("x.md", b"x" * 262_145, "text/plain"))
    made = site.session("pursuer")
    for wrong, match in (
        ({"type": "user.define_outcome", "description": "x"}, "rubric"),
        (outcome({"type": "text", "content": ""}), "rubric"),
        (outcome({"type": "text", "content": "x" * 262_145}), "262144"),
        (outcome({"type": "url", "url": "https://x"}), "rubric"),
        (outcome({"type": "file", "file_id": binary.id}), "no UTF-8 text"),
        (outcome({"type": "file", "file_id": blank.id}), "holds no text"),
        (outcome({"type": "file", "file_id": long.id}), "longer than 262144"),
        (outcome(max_iterations=0), "max_iterations"),
        (outcome(max_iterations=21), "max_iterations"),
        (outcome(max_iterations="3"), "max_iterations"),
        (outcome(outcome_id="outc_mine"), "outcome_id"),
    ):
        events: Any = [wrong]
        with pytest.raises(anthropic.BadRequestError, match=match):
            site.api.beta.sessions.events.send(made.id, events=events)
    with pytest.raises(anthropic.NotFoundError):
        missing = outcome({"type": "file", "file_id": "file_none"})
        site.api.beta.sessions.events.send(made.id, events=[missing])
    assert site.events(made.id) == []
    assert shown(site, made.id) == []


@pytest.mark.rule("c10_11")
def test_initial_events_hold_one_outcome_at_most(site: Site) -> None:
    with pytest.raises(anthropic.BadRequestError, match="at most one"):
        site.session("pursuer", initial_events=[outcome(), outcome()])


def test_a_worker_defines_no_outcomes(site: Site) -> None:
    made = site.session("pursuer")
    with pytest.raises(anthropic.PermissionDeniedError):
        site.worker.beta.sessions.events.send(made.id, events=[outcome()])


def test_c20_3_outcomes_follow_one_another(site: Site) -> None:
    two = [outcome(max_iterations=1), outcome(max_iterations=2)]
    made = site.session("pursuer")
    site.api.beta.sessions.events.send(made.id, events=two)
    log = until(lambda: done(site, made.id, 2))
    spans = [(e.type, e.outcome_id) for e in log if e.type.startswith(f"{SPAN}_")]
    first, second = [e.outcome_id for e in log if e.type == "user.define_outcome"]
    assert [about for _, about in spans] == sorted(
        [about for _, about in spans], key=[first, second].index
    )
    assert results(log)[0] == "max_iterations_reached"
    assert [e.outcome_id for e in shown(site, made.id)] == [first, second]


def done(site: Site, session_id: str, count: int) -> list[Any] | None:
    """Return the log once so many outcomes are over and the session is idle."""
    session = site.api.beta.sessions.retrieve(session_id)
    over = [entry for entry in session.outcome_evaluations if entry.completed_at]
    return site.events(session_id) if len(over) == count and session.status == "idle" else None


@pytest.mark.rule("c20_6")
def test_an_interrupt_ends_the_outcome(site: Site) -> None:
    made = site.session("braggart")
    send = site.api.beta.sessions.events.send
    send(made.id, events=[outcome()])
    send(made.id, events=[{"type": "user.interrupt"}])
    log = site.wait(made.id, f"{SPAN}_end")
    (end,) = [event for event in log if event.type == f"{SPAN}_end"]
    assert (end.result, end.outcome_evaluation_start_id) == ("interrupted", "")
    send(made.id, events=[outcome()])
    site.wait(made.id, f"{SPAN}_ongoing")
    assert shown(site, made.id)[1].result == "evaluating"
    send(made.id, events=[{"type": "user.interrupt"}])
    log = site.wait(made.id, f"{SPAN}_end", 2)
    end = [event for event in log if event.type == f"{SPAN}_end"][-1]
    (start,) = [event for event in log if event.type == f"{SPAN}_start"]
    assert (end.result, end.outcome_evaluation_start_id) == ("interrupted", start.id)
    check(end, nullable=False)
    first, second = shown(site, made.id)
    assert (first.result, second.result) == ("interrupted", "interrupted")
    assert second.completed_at == end.processed_at
    until(lambda: site.api.beta.sessions.retrieve(made.id).status == "idle" or None)
    idles = site.types(made.id).count("session.status_idle")
    send(made.id, events=[MESSAGE])
    assert site.wait(made.id, "session.status_idle", idles + 1)[-1].stop_reason.type == "end_turn"


def test_a_grader_that_never_judges_fails_the_outcome(site: Site) -> None:
    made = site.session("braggart", initial_events=[outcome()])
    log = site.wait(made.id, "session.status_idle")
    assert results(log) == ["failed"]
    assert [e.type for e in log].count(f"{SPAN}_ongoing") == 3
    (entry,) = shown(site, made.id)
    assert entry.result == "failed"
    assert "no usable answer in 3 attempts" in str(entry.explanation)


def test_archiving_ends_what_was_not_over(site: Site) -> None:
    made = site.session("nobody-wrote-this", initial_events=[outcome()])
    site.wait(made.id, "session.status_idle")
    assert shown(site, made.id)[0].result == "running"
    archived = site.api.beta.sessions.archive(made.id)
    (entry,) = archived.outcome_evaluations
    assert (entry.result, entry.completed_at is None) == ("interrupted", False)


@pytest.mark.anyio
async def test_the_asynchronous_client_streams_an_evaluation(
    async_client: AsyncAnthropic, site: Site
) -> None:
    made = site.session("pursuer")
    seen = []
    async with await async_client.beta.sessions.events.stream(made.id) as stream:
        await async_client.beta.sessions.events.send(made.id, events=[outcome()])
        async for event in stream:
            seen.append(event.type)
            if event.type == "session.status_idle":
                break
    assert seen.count(f"{SPAN}_end") == 2
    listed = async_client.beta.sessions.events.list(made.id, types=[f"{SPAN}_end"])
    assert [event.result async for event in listed] == ["needs_revision", "satisfied"]
    async for session in async_client.beta.sessions.list(agent_id=made.agent.id):
        assert [entry.result for entry in session.outcome_evaluations] == ["satisfied"]

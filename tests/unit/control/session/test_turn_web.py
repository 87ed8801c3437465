"""Web tools in a turn: this server performs them, once, whoever runs the sandbox."""

from typing import Any

import pytest

from intramuros.control.session.calls import CallKind
from intramuros.control.session.fold import IllegalRecord
from intramuros.control.session.outcome import Handed, web_answered, web_handed
from intramuros.control.session.phase import Status
from intramuros.control.session.state import load
from intramuros.control.session.turn import WEB_LOST, WEB_UNANSWERED, MakeCalls, Wait
from intramuros.control.store.records import Draft
from intramuros.web.base import Fetch, Search
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import (
    ALLOW,
    ASK,
    ROWS,
    WEB,
    Loop,
    agent,
    found,
    last,
    mcp_toolset,
    open_ids,
    stop_reason,
    text,
    toolset,
    use,
    uses,
)

URL = "https://x.com/a"
SEARCH = uses(use("web_search", query="q"))


def loop(*model: Any, policy: Any = ALLOW, self_hosted: bool = True, **more: Any) -> Loop:
    declared = agent(toolset(policy))
    return Loop(declared, model=[*model, text("ok")], self_hosted=self_hosted, served=WEB, **more)


@pytest.mark.parametrize("self_hosted", [True, False])
def test_c6_24_the_server_answers_itself_wherever_the_sandbox_is(self_hosted: bool) -> None:
    made = loop(SEARCH, self_hosted=self_hosted, web=[found("hits", searches=1)])
    made.log.say()
    made.run()
    assert stop_reason(made) == {"type": "end_turn"}, "nobody else is asked"
    shown = last(made, "agent.tool_use")
    assert (shown["name"], shown["evaluated_permission"]) == ("web_search", "allow")
    assert last(made, "agent.tool_result")["content"] == [{"type": "text", "text": "hits"}]
    assert "user.tool_result" not in [r.type for r in made.log.records]
    [result] = made.requests[1].messages[-1]["content"]
    assert result["content"] == [{"type": "text", "text": "hits"}]


def test_calls_of_all_kinds_are_made_at_once() -> None:
    calls = uses(
        use("web_search", query="q"), use("mcp__db__query", "t2"), use("web_fetch", "t3", url=URL)
    )
    made = Loop(
        agent(toolset(), mcp_toolset()),
        model=[calls, text("ok")],
        mcp=[ROWS],
        web=[found("hits"), found("page")],
        served=WEB,
    )
    made.log.say(URL)
    made.run()
    assert len(made.performed) == 3
    assert [type(asked) for asked in made.browsed] == [Search, Fetch]
    started = [r.type for r in made.log.records if r.type.endswith("call_started")]
    assert started == [
        "internal.web_call_started",
        "internal.mcp_call_started",
        "internal.web_call_started",
    ]


def test_searches_are_counted_and_charged() -> None:
    made = loop(SEARCH, SEARCH, web=[found("hits", searches=1), found("none")])
    made.log.say()
    made.run()
    usage = last(made, "session.usage")["usage"]
    assert usage["server_tool_use"] == {"web_search_requests": 1, "web_fetch_requests": 0}


def test_a_web_call_waits_for_its_confirmation() -> None:
    for result in ("allow", "deny"):
        made = loop(SEARCH, policy=ASK, web=[found("hits")])
        made.log.say()
        made.run()
        [call_id] = open_ids(made)
        assert stop_reason(made) == {"type": "requires_action", "event_ids": [call_id]}
        made.log.send("user.tool_confirmation", tool_use_id=call_id, result=result)
        made.run()
        assert bool(made.browsed) is (result == "allow")
        assert last(made, "agent.tool_result")["is_error"] is (result == "deny")


def test_a_client_cannot_answer_a_web_call() -> None:
    made = loop(SEARCH, policy=ASK)
    made.log.say()
    made.run()
    [call_id] = open_ids(made)
    with pytest.raises(IllegalRecord):
        made.log.append(Draft("user.tool_result", {"tool_use_id": call_id}))
    assert made.log.state.calls[0].kind is CallKind.WEB


def test_an_interrupt_closes_a_web_call() -> None:
    made = loop(SEARCH)
    made.log.say()
    while not isinstance(effect := made.next(), MakeCalls):
        made.perform(effect)
    made.log.send("user.interrupt")
    made.run()
    assert last(made, "agent.tool_result")["is_error"] is True
    assert open_ids(made) == []


def test_a_lost_web_call_is_never_repeated() -> None:
    made = loop(SEARCH)
    made.log.say()
    while not isinstance(effect := made.next(), MakeCalls):
        made.perform(effect)
    made.crash()
    made.run()
    assert last(made, "agent.tool_result")["content"] == [{"type": "text", "text": WEB_LOST}]
    assert made.browsed == []
    assert sum(r.type == "internal.web_call_started" for r in made.log.records) == 1


def test_a_disabled_or_unserved_tool_is_not_offered() -> None:
    for served, config in ((frozenset[str](), {}), (WEB, {"web_search": {"enabled": False}})):
        made = Loop(agent(toolset(**config)), model=[SEARCH, text("ok")], served=served)
        made.log.say()
        made.run()
        assert "web_search" not in {tool["name"] for tool in made.requests[0].tools}
        assert last(made, "agent.tool_use")["evaluated_permission"] == "deny"
        assert last(made, "user.tool_result")["is_error"] is True, "as other refused calls"


def test_a_result_keeps_what_the_audit_wants_to_itself() -> None:
    made = loop(SEARCH, policy=ASK)
    made.log.say()
    made.run()
    draft = web_answered(made.log.state.calls[0], found("x", searches=2))
    assert set(draft.body) == {"tool_use_id", "content", "is_error"}
    assert draft.private == {"web": {"hosts": ["x.com"]}, "web_searches": 2}


CHILD = definition(
    "child", toolset(web_fetch={"allowed_domains": ["docs.x.com", "y.com"]}), id="agent_2"
)


def crew(url: str, said: str, declared: Any = CHILD, **config: Any) -> Band:
    name = declared["name"]
    leader = lead(declared, tools=[toolset(web_fetch=config)])
    scripts: Any = {name: [uses(use("web_fetch", url=url)), text("done")]}
    band = Band(leader, served=WEB, lead=[delegate(name), text("wait"), text("end")], **scripts)
    band.log.say(said)
    band.run()
    return band


def test_a_child_reads_what_the_user_named_to_its_lead() -> None:
    band = crew("https://docs.x.com/a", "https://docs.x.com/a", allowed_domains=["x.com"])
    [asked] = band.browsed
    assert isinstance(asked, Fetch)
    assert not asked.rules.permits("x.com")
    assert not asked.rules.permits("y.com")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://y.com/", "https://y.com/"),  # the lead's list
        ("https://x.com/", "https://x.com/"),  # its own
        ("https://docs.x.com/a", "go"),  # its lead may say what it likes
    ],
)
def test_a_child_never_reaches_more_than_its_lead(url: str, said: str) -> None:
    assert crew(url, said, allowed_domains=["x.com"]).browsed == []


def test_a_copy_of_the_lead_follows_the_lead() -> None:
    copy = {**CHILD, "id": lead()["id"]}
    assert len(crew("https://z.com/", "https://z.com/", copy).browsed) == 1


HANDED = Handed({"name": "web_search", "asked": "q"}, 30_000_000)


def handed_over(made: Loop) -> list[Any]:
    """Hand every web call of the next effect over, as the performer does where workers make them.

    Returns:
        The calls.
    """
    while not isinstance(effect := made.next(), MakeCalls):
        made.perform(effect)
    web = [call for call in effect.calls if call.kind is CallKind.WEB]
    made.log.append(*(web_handed(call, HANDED, made.context) for call in web))
    others = [call for call in effect.calls if call not in web]
    made.log.append(*(made.answered(call) for call in others))
    return web


def test_a_call_that_is_handed_over_costs_nothing_until_it_is_answered() -> None:
    made = loop(SEARCH)
    made.log.say()
    [call] = handed_over(made)
    wait = made.run()
    assert wait.until_us == made.log.state.calls[0].until_us
    assert made.log.state.status is Status.RUNNING, "as a call that this server makes"
    assert not made.log.state.due, "nothing to do before the answer or the time"
    assert last(made, "agent.tool_use")["name"] == "web_search"
    made.crash()  # whoever holds the session next has nothing to mend
    assert isinstance(made.next(), Wait)
    made.log.append(web_answered(call, found("hits", searches=1)))
    assert made.log.state.due
    made.run()
    assert stop_reason(made) == {"type": "end_turn"}
    assert made.performed == [], "the server has made no call itself"
    assert last(made, "session.usage")["usage"]["server_tool_use"]["web_search_requests"] == 1


def test_a_call_that_nobody_answers_ends_in_time() -> None:
    made = loop(uses(use("web_search", query="q"), use("web_search", "t2", query="r")))
    made.log.say()
    first, second = handed_over(made)
    until_us = made.run().until_us
    assert until_us is not None
    made.log.append(web_answered(second, found("hits")))
    made.log.now_us = until_us - 1_000
    assert isinstance(made.next(), Wait)
    made.log.now_us = until_us
    made.run()
    [late] = [r for r in made.log.shown if r.body.get("tool_use_id") == first.id]
    assert late.body["content"] == [{"type": "text", "text": WEB_UNANSWERED}]
    assert late.body["is_error"] is True
    assert stop_reason(made) == {"type": "end_turn"}
    with pytest.raises(IllegalRecord):
        made.log.append(web_answered(first, found("too late")))


def test_an_interrupt_closes_a_call_that_was_handed_over() -> None:
    made = loop(SEARCH)
    made.log.say()
    handed_over(made)
    made.run()
    made.log.send("user.interrupt")
    made.run()
    assert last(made, "agent.tool_result")["is_error"] is True
    assert open_ids(made) == []


def test_only_a_begun_web_call_is_handed_over() -> None:
    made = loop(SEARCH, policy=ASK)
    made.log.say()
    made.run()
    [call] = made.log.state.calls
    with pytest.raises(IllegalRecord):
        made.log.append(web_handed(call, HANDED, made.context))


def test_a_question_to_a_client_and_a_call_at_a_worker_stand_side_by_side() -> None:
    made = Loop(
        agent(toolset(web_search={"permission_policy": ALLOW}, bash={"permission_policy": ASK})),
        model=[uses(use("web_search", query="q"), use("bash", "t2", command="ls")), text("ok")],
        served=WEB,
    )
    made.log.say()
    [call] = handed_over(made)
    wait = made.run()
    assert stop_reason(made)["type"] == "requires_action"
    assert wait.until_us is None, "there is time until the client has answered"
    assert load(made.log.state.dump()) == made.log.state
    made.log.append(web_answered(call, found("hits")))
    assert isinstance(made.next(), Wait)

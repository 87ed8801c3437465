"""Transcripts of the loop: what comes in, and what must go out."""

import pytest

from intramuros.control.session.phase import Status
from intramuros.control.session.turn import MakeCalls, Wait
from tests.fakes.loop import (
    ALLOW,
    ASK,
    CUSTOM,
    END,
    OPEN,
    REST,
    ROWS,
    START,
    Loop,
    agent,
    last,
    mcp_toolset,
    open_ids,
    stop_reason,
    text,
    toolset,
    unreachable,
    use,
    uses,
)


def test_nothing_to_do_is_nothing_done() -> None:
    loop = Loop(agent())
    assert loop.run() == Wait()
    assert loop.log.records == []


def test_a_message_is_answered() -> None:
    loop = Loop(agent(), model=[text("hi")])
    loop.log.say()
    assert loop.run() == Wait()
    assert loop.log.types == [*OPEN, "user.message", START, "agent.message", END, *REST]
    assert stop_reason(loop) == {"type": "end_turn"}
    assert last(loop, "session.usage")["usage"]["input_tokens"] == 10
    message = last(loop, "agent.message")
    assert message["content"] == [{"type": "text", "text": "hi"}]


def test_messages_that_wait_together_open_one_turn() -> None:
    loop = Loop(agent(), model=[text("hi")])
    loop.log.say("one")
    loop.log.say("two")
    loop.run()
    assert loop.log.types.count("session.status_running") == 1
    assert [m["role"] for m in loop.requests[0].messages] == ["user"]


def test_a_message_sent_while_running_is_the_next_turn() -> None:
    loop = Loop(agent(), model=[text("one"), text("two")])
    loop.log.say()
    effect = loop.next()
    loop.log.say("more")
    loop.perform(effect)
    loop.run()
    turn = [*OPEN, "user.message", START, "agent.message", END, *REST]
    assert loop.log.types == turn + turn


@pytest.mark.rule("c6_10", "c6_11", "c15_7", "R117", "R118", "R122")
def test_a_sandbox_call_waits_for_the_worker() -> None:
    loop = Loop(agent(toolset()), model=[uses(use("bash", command="ls")), text("done")])
    loop.log.say()
    assert loop.run() == Wait()
    (call,) = open_ids(loop)
    assert loop.log.types[3:] == [START, "agent.tool_use", END, *REST]
    assert stop_reason(loop) == {"type": "requires_action", "event_ids": [call]}
    body = last(loop, "agent.tool_use")
    assert body["evaluated_permission"] == "allow"
    assert body["evaluation"] == {"type": "always_allow"}
    assert loop.run() == Wait()  # claimed again with nothing new: nothing happens
    mark = loop.mark
    loop.log.send("user.tool_result", tool_use_id=call, content=[{"type": "text", "text": "a"}])
    loop.run()
    assert loop.since(mark) == ["user.tool_result", *OPEN, START, "agent.message", END, *REST]
    assert loop.requests[1].messages[-1]["content"][0]["tool_use_id"] == "toolu_1"


@pytest.mark.rule("c6_9", "c14_3", "R127")
def test_a_custom_call_waits_for_the_client_and_carries_no_verdict() -> None:
    loop = Loop(agent(CUSTOM), model=[uses(use("weather")), text("sunny")])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    assert last(loop, "agent.custom_tool_use") == {"name": "weather", "input": {}}
    loop.log.send("user.custom_tool_result", custom_tool_use_id=call)
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}


@pytest.mark.rule("c13_13", "c15_9")
def test_parallel_calls_are_announced_once_and_then_by_what_is_left() -> None:
    reply = uses(use("bash", "toolu_1"), use("read", "toolu_2", file_path="a"))
    loop = Loop(agent(toolset()), model=[reply, text("done")])
    loop.log.say()
    loop.run()
    first, second = open_ids(loop)
    assert stop_reason(loop)["event_ids"] == [first, second]
    mark = loop.mark
    loop.log.send("user.tool_result", tool_use_id=second)
    loop.run()
    assert loop.since(mark) == ["user.tool_result", *REST]
    assert stop_reason(loop)["event_ids"] == [first]
    loop.log.send("user.tool_result", tool_use_id=first)
    loop.run()
    results = loop.requests[1].messages[-1]["content"]
    assert [block["tool_use_id"] for block in results] == ["toolu_1", "toolu_2"]


@pytest.mark.rule("c13_12")
def test_results_that_beat_the_idle_leave_none_to_announce() -> None:
    loop = Loop(agent(toolset()), model=[uses(use("bash")), text("done")])
    loop.log.say()
    effect = loop.next()
    loop.perform(effect)
    (call,) = open_ids(loop)
    loop.log.send("user.tool_result", tool_use_id=call)
    loop.run()
    assert "requires_action" not in str([r.body for r in loop.log.records])
    assert loop.log.types.count("session.status_running") == 1


def test_c13_11_a_custom_result_may_beat_the_idle() -> None:
    loop = Loop(agent(CUSTOM), model=[uses(use("weather")), text("sunny")])
    loop.log.say()
    loop.perform(loop.next())
    (call,) = open_ids(loop)
    loop.log.send("user.custom_tool_result", custom_tool_use_id=call)
    loop.run()
    assert loop.log.types.count("session.status_idle") == 1
    assert stop_reason(loop) == {"type": "end_turn"}


def test_c13_21_R123_a_question_waits_without_limit() -> None:
    loop = Loop(agent(toolset(ASK)), model=[uses(use("bash"))])
    loop.log.say()
    assert loop.run() == Wait(None)
    mark = loop.mark
    loop.log.now_us += 365 * 24 * 3600 * 1_000_000
    assert loop.run() == Wait(None)
    assert loop.since(mark) == []


@pytest.mark.rule("c6_11", "c15_8", "c15_12", "R118", "R122")
def test_an_ask_waits_then_runs_again_then_waits_for_the_worker() -> None:
    loop = Loop(agent(toolset(ASK)), model=[uses(use("bash")), text("done")])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    assert last(loop, "agent.tool_use")["evaluation"] == {"type": "always_ask"}
    mark = loop.mark
    loop.log.send("user.tool_confirmation", tool_use_id=call, result="allow")
    loop.run()
    assert loop.since(mark) == [*OPEN, "user.tool_confirmation", *REST]
    assert stop_reason(loop)["event_ids"] == [call]
    loop.log.send("user.tool_result", tool_use_id=call)
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}


@pytest.mark.rule("c15_10", "c15_11", "R126")
def test_a_denial_reaches_the_model_with_its_reason() -> None:
    loop = Loop(agent(toolset(ASK)), model=[uses(use("bash")), text("ok")])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    mark = loop.mark
    loop.log.send("user.tool_confirmation", tool_use_id=call, result="deny", deny_message="no rm")
    loop.run()
    assert loop.since(mark)[:4] == [*OPEN, "user.tool_confirmation", START]
    (block,) = loop.requests[1].messages[-1]["content"]
    assert block["is_error"] is True
    assert "no rm" in block["content"][0]["text"]


@pytest.mark.parametrize(
    ("self_hosted", "declared", "name", "answer"),
    [
        (False, toolset(ASK), "bash", "agent.tool_result"),
        (True, mcp_toolset(ASK), "mcp__db__query", "agent.mcp_tool_result"),
    ],
)
@pytest.mark.rule("c6_14", "c15_10", "R126")
def test_a_denied_call_of_ours_gets_our_error_result(
    self_hosted: bool, declared: dict[str, object], name: str, answer: str
) -> None:
    loop = Loop(agent(declared), model=[uses(use(name)), text("ok")], self_hosted=self_hosted)
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    denial = {"tool_use_id": call, "result": "deny", "deny_message": "not today"}
    loop.log.send("user.tool_confirmation", **denial)
    loop.run()
    assert last(loop, answer)["is_error"] is True
    assert "not today" in str(last(loop, answer)["content"])
    assert loop.performed == []


@pytest.mark.rule("c15_9", "R125")
def test_partial_denial_announces_what_is_left_without_running() -> None:
    reply = uses(use("bash", "toolu_1"), use("read", "toolu_2"))
    loop = Loop(agent(toolset(ASK)), model=[reply])
    loop.log.say()
    loop.run()
    first, second = open_ids(loop)
    mark = loop.mark
    loop.log.send("user.tool_confirmation", tool_use_id=first, result="deny")
    loop.run()
    assert loop.since(mark) == ["user.tool_confirmation", *REST]
    assert stop_reason(loop)["event_ids"] == [second]


def test_an_allowed_result_may_arrive_before_its_confirmation_is_heard() -> None:
    loop = Loop(agent(toolset(ASK)), model=[uses(use("bash")), text("ok")])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    loop.log.send("user.tool_confirmation", tool_use_id=call, result="allow")
    loop.log.send("user.tool_result", tool_use_id=call)
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.queued == ()


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (use("web_search", query="x"), "web_search is not available"),
        (use("nonsense"), "no tool 'nonsense'"),
        ({"type": "tool_use", "id": "toolu_1", "name": "bash", "input": "ls"}, "not an object"),
    ],
)
@pytest.mark.rule("c6_13", "R120")
def test_an_impossible_call_is_refused_and_the_model_told(
    block: dict[str, object], why: str
) -> None:
    loop = Loop(agent(toolset()), model=[uses(block), text("sorry")])
    loop.log.say()
    loop.run()
    body = last(loop, "agent.tool_use")
    assert body["evaluated_permission"] == "deny"
    assert "evaluation" not in body
    assert last(loop, "user.tool_result")["is_error"] is True
    assert why in str(loop.requests[1].messages[-1])
    assert stop_reason(loop) == {"type": "end_turn"}


@pytest.mark.rule("c6_13", "c6_14", "R120")
def test_a_disabled_tool_is_neither_offered_nor_run() -> None:
    declared = agent(toolset(bash={"enabled": False}))
    loop = Loop(declared, model=[uses(use("bash")), text("sorry")])
    loop.log.say()
    loop.run()
    assert "bash" not in [tool["name"] for tool in loop.requests[0].tools]
    assert last(loop, "agent.tool_use")["evaluated_permission"] == "deny"


def test_a_refused_custom_or_mcp_call_shows_as_nobodys_work() -> None:
    broken = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": 3}
    wrong = {"type": "tool_use", "id": "toolu_2", "name": "mcp__db__query", "input": None}
    loop = Loop(agent(CUSTOM, mcp_toolset()), model=[uses(broken, wrong), text("ok")])
    loop.log.say()
    loop.run()
    assert last(loop, "agent.tool_use")["evaluated_permission"] == "deny"
    assert last(loop, "agent.mcp_tool_use")["evaluated_permission"] == "deny"
    assert last(loop, "agent.mcp_tool_result")["is_error"] is True
    assert loop.performed == []


def test_a_call_cut_off_by_the_output_limit_never_runs() -> None:
    reply = uses(use("read", "toolu_1"), use("bash", "toolu_2"), stop="max_tokens")
    loop = Loop(agent(toolset()), model=[reply])
    loop.log.say()
    loop.run()
    (whole,) = open_ids(loop)
    assert loop.log.state.call(whole) is not None
    assert last(loop, "agent.tool_use")["evaluated_permission"] == "deny"


@pytest.mark.rule("c14_4", "c14_5", "c15_22")
def test_a_refusal_ends_the_turn_and_leaves_the_conversation() -> None:
    loop = Loop(agent(), model=[text("I can", "refusal"), text("sure")])
    loop.log.say("bad")
    loop.run()
    assert stop_reason(loop) == {"type": "refusal"}
    details = {"type": "refusal", "category": None, "explanation": None}
    assert last(loop, "session.status_idle")["stop_details"] == details
    loop.log.say("good")
    loop.run()
    assert [m["role"] for m in loop.requests[1].messages] == ["user"]


@pytest.mark.rule("R106", "R113")
def test_mcp_tools_are_found_once_a_turn_and_called_by_the_server() -> None:
    reply = uses(use("mcp__db__query", sql="select 1"))
    loop = Loop(agent(mcp_toolset()), model=[reply, text("3"), text("bye")], mcp=[ROWS])
    loop.log.say()
    loop.run()
    use_body = last(loop, "agent.mcp_tool_use")
    assert (use_body["name"], use_body["mcp_server_name"]) == ("query", "db")
    assert use_body["input"] == {"sql": "select 1"}
    assert loop.log.types[3:] == [
        START,
        "agent.mcp_tool_use",
        END,
        "agent.mcp_tool_result",
        START,
        "agent.message",
        END,
        *REST,
    ]
    assert loop.listings == 1
    loop.log.say("again")
    loop.run()
    assert loop.listings == 2
    assert sum(r.type == "internal.mcp_tools" for r in loop.log.records) == 1  # unchanged


def test_an_mcp_call_is_in_the_log_before_it_is_made() -> None:
    loop = Loop(agent(mcp_toolset()), model=[uses(use("mcp__db__query"))], mcp=[ROWS])
    loop.log.say()
    while not isinstance(effect := loop.next(), MakeCalls):
        loop.perform(effect)
    assert loop.log.records[-1].type == "internal.mcp_call_started"


@pytest.mark.rule("c14_7", "c15_25", "R102", "R104", "R105")
def test_an_mcp_server_that_is_away_does_not_stop_the_session() -> None:
    loop = Loop(agent(mcp_toolset()), model=[text("hi"), text("hi")], tools=unreachable())
    loop.log.say()
    loop.run()
    error = last(loop, "session.error")["error"]
    assert error == {
        "type": "mcp_connection_failed_error",
        "message": "no route",
        "retry_status": {"type": "retrying"},
        "mcp_server_name": "db",
    }
    assert loop.requests[0].tools == []
    assert stop_reason(loop) == {"type": "end_turn"}
    loop.tools = ()
    loop.log.say()
    loop.run()
    assert loop.listings == 2


def test_a_failed_mcp_call_is_the_models_to_handle() -> None:
    loop = Loop(
        agent(mcp_toolset()),
        model=[uses(use("mcp__db__insert")), text("hm")],
        mcp=[unreachable()],
    )
    loop.log.say()
    loop.run()
    assert last(loop, "agent.mcp_tool_result")["is_error"] is True
    assert stop_reason(loop) == {"type": "end_turn"}


def test_server_calls_come_before_the_idle_for_the_clients_calls() -> None:
    reply = uses(use("weather", "toolu_1"), use("mcp__db__query", "toolu_2"))
    loop = Loop(agent(CUSTOM, mcp_toolset()), model=[reply], mcp=[ROWS])
    loop.log.say()
    loop.run()
    (custom,) = open_ids(loop)
    assert loop.log.types[-4:] == ["agent.mcp_tool_result", *REST]
    assert stop_reason(loop)["event_ids"] == [custom]


def test_an_allowed_mcp_call_runs_when_confirmed() -> None:
    loop = Loop(agent(mcp_toolset(ASK)), model=[uses(use("mcp__db__query")), text("3")], mcp=[ROWS])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    mark = loop.mark
    loop.log.send("user.tool_confirmation", tool_use_id=call, result="allow")
    loop.run()
    assert loop.since(mark)[:4] == [*OPEN, "user.tool_confirmation", "agent.mcp_tool_result"]


def test_a_cloud_call_keeps_the_session_running() -> None:
    loop = Loop(agent(toolset()), model=[uses(use("bash"))], self_hosted=False)
    loop.log.say()
    assert loop.run() == Wait()
    assert loop.log.state.status is Status.RUNNING


def test_a_terminated_session_does_nothing() -> None:
    from intramuros.control.store.records import Draft

    loop = Loop(agent())
    loop.log.append(Draft("session.status_terminated"))
    assert loop.run() == Wait()


@pytest.mark.rule("c6_5", "c6_10", "R097", "R117")
def test_policies_are_resolved_tool_by_tool() -> None:
    declared = agent(toolset(ALLOW, bash={"enabled": None, "permission_policy": ASK}))
    loop = Loop(declared, model=[uses(use("bash", "toolu_1"), use("read", "toolu_2"))])
    loop.log.say()
    loop.run()
    verdicts = [
        r.body["evaluated_permission"] for r in loop.log.shown if r.type == "agent.tool_use"
    ]
    assert verdicts == ["ask", "allow"]

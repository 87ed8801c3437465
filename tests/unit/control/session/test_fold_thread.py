import json

import pytest

from intramuros.control.session.fold import fold
from intramuros.control.session.fold_thread import IllegalRecord
from intramuros.control.session.phase import Phase, Status
from intramuros.control.session.state import State, initial, load
from intramuros.control.store.records import Draft
from tests.fakes.log import MemoryLog

NO_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


def idle(stop: str = "end_turn", *event_ids: str) -> Draft:
    reason: dict[str, object] = {"type": stop}
    if event_ids:
        reason["event_ids"] = list(event_ids)
    return Draft("session.status_idle", {"stop_reason": reason})


def consumed(log: MemoryLog, input_id: str) -> Draft:
    record = next(record for record in log.records if record.id == input_id)
    return Draft(record.type, record.body, id=input_id)


def sample(log: MemoryLog, *uses: Draft, usage: dict[str, int] | None = None) -> None:
    """One model request that asks for these tools."""
    start = log.append(Draft("span.model_request_start", private={"epoch": 1}))[0]
    log.append(*uses)
    body = {"model_request_start_id": start.id, "model_usage": usage or NO_USAGE}
    log.append(Draft("span.model_request_end", body))


def tool_use(permission: str = "allow", kind: str = "agent.tool_use", **more: object) -> Draft:
    return Draft(kind, {"name": "bash", "input": {}, "evaluated_permission": permission, **more})


def running() -> MemoryLog:
    log = MemoryLog()
    message = log.say()
    log.append(Draft("session.status_running"), consumed(log, message))
    return log


def reloaded(state: State) -> State:
    return load(json.loads(json.dumps(state.dump())))


def test_a_turn_from_message_to_end() -> None:
    log = MemoryLog()
    message = log.say()
    assert log.state.due
    assert [item.id for item in log.state.queued] == [message]
    log.append(Draft("session.status_running"), consumed(log, message))
    assert log.state.status is Status.RUNNING
    assert log.state.queued == ()
    assert log.state.turn == 1
    sample(log, Draft("agent.message", {"content": []}))
    assert log.state.rounds == 1
    log.append(idle())
    assert (log.state.phase, log.state.stop) == (Phase.IDLE, "end_turn")
    assert not log.state.due


def test_calls_block_until_each_is_answered() -> None:
    log = running()
    sample(log, tool_use(), Draft("agent.custom_tool_use", {"name": "c", "input": {}}))
    first, second = (call.id for call in log.state.calls)
    log.append(idle("requires_action", first, second))
    assert log.state.phase is Phase.REQUIRES_ACTION
    assert log.state.status is Status.IDLE
    assert not log.state.due
    log.send("user.tool_result", tool_use_id=first)
    assert log.state.due
    assert log.state.blocking == (second,)
    log.append(idle("requires_action", second))
    assert not log.state.due
    log.send("user.custom_tool_result", custom_tool_use_id=second)
    assert log.state.due
    log.append(Draft("session.status_running"))
    assert log.state.turn == 1  # the same turn goes on
    assert log.state.calls == ()


def test_a_confirmation_counts_on_arrival_and_works_when_consumed() -> None:
    log = running()
    sample(log, tool_use("ask"))
    (call,) = log.state.calls
    log.append(idle("requires_action", call.id))
    assert call.held
    confirmation = log.send("user.tool_confirmation", tool_use_id=call.id, result="allow")
    (call,) = log.state.calls
    assert call.confirmation_id == confirmation
    assert call.held
    assert log.state.due
    with pytest.raises(IllegalRecord):
        log.send("user.tool_confirmation", tool_use_id=call.id, result="deny")
    log.append(consumed(log, confirmation))
    (call,) = log.state.calls
    assert call.permitted
    assert log.state.blocking == (call.id,)  # now its result is awaited (contract AMB 22)


@pytest.mark.rule("c15_11")
def test_a_denial_settles_a_self_hosted_call_by_itself() -> None:
    log = running()
    sample(log, tool_use("ask"))
    (call,) = log.state.calls
    log.append(idle("requires_action", call.id))
    denial = log.send("user.tool_confirmation", tool_use_id=call.id, result="deny")
    log.append(consumed(log, denial))
    assert log.state.calls == ()


def test_a_denied_cloud_call_waits_for_the_servers_own_result() -> None:
    log = MemoryLog(self_hosted=False)
    message = log.say()
    log.append(Draft("session.status_running"), consumed(log, message))
    sample(log, tool_use("ask"))
    (call,) = log.state.calls
    log.append(idle("requires_action", call.id))
    denial = log.send("user.tool_confirmation", tool_use_id=call.id, result="deny")
    log.append(consumed(log, denial))
    assert log.state.calls[0].refused
    log.append(Draft("agent.tool_result", {"tool_use_id": call.id, "is_error": True}))
    assert log.state.calls == ()


def test_a_cloud_call_neither_blocks_nor_makes_the_loop_due() -> None:
    log = MemoryLog(self_hosted=False)
    message = log.say()
    log.append(Draft("session.status_running"), consumed(log, message))
    sample(log, tool_use())
    assert log.state.blocking == ()
    assert not log.state.due


def test_an_mcp_call_is_started_under_an_epoch() -> None:
    log = running()
    sample(log, tool_use(kind="agent.mcp_tool_use", mcp_server_name="db"))
    (call,) = log.state.calls
    assert log.state.due
    log.append(Draft("internal.mcp_call_started", {"mcp_tool_use_id": call.id, "epoch": 4}))
    assert log.state.calls[0].started_epoch == 4
    log.append(Draft("agent.mcp_tool_result", {"mcp_tool_use_id": call.id}))
    assert log.state.calls == ()


def test_usage_and_active_time_add_up() -> None:
    log = running()
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 2,
    }
    sample(log, usage=usage)
    sample(log, usage=usage)
    assert log.state.usage.input_tokens == 20
    assert log.state.usage.cache_read_input_tokens == 4
    log.now_us += 2_000_000
    assert log.state.active_s(log.now_us) == pytest.approx(2, abs=0.001)
    log.append(idle())
    log.now_us += 5_000_000
    assert log.state.active_s(log.now_us) == pytest.approx(2, abs=0.001)


def test_a_failed_request_is_rescheduled_and_goes_on_in_the_same_turn() -> None:
    log = running()
    start = log.append(Draft("span.model_request_start", private={"epoch": 1}))[0]
    body = {"model_request_start_id": start.id, "model_usage": NO_USAGE, "is_error": True}
    log.append(
        Draft("span.model_request_end", body),
        Draft("session.status_rescheduled", private={"retry_at_us": 99}),
    )
    assert log.state.status is Status.RESCHEDULING
    assert (log.state.failures, log.state.retry_at_us) == (1, 99)
    log.append(Draft("session.status_running"))
    assert (log.state.turn, log.state.failures, log.state.retry_at_us) == (1, 1, None)


def test_termination_drops_what_waited_and_takes_nothing_more() -> None:
    log = running()
    log.append(idle())
    log.say()
    log.append(Draft("session.status_terminated"))
    assert log.state.status is Status.TERMINATED
    assert log.state.queued == ()
    assert not log.state.due
    with pytest.raises(IllegalRecord):
        log.say()


@pytest.mark.rule("c15_2")
def test_the_primary_thread_is_announced_by_its_first_status() -> None:
    log = MemoryLog()
    assert not log.state.thread_announced
    log.append(Draft("session.thread_status_running", {"session_thread_id": "sthr_main"}))
    assert log.state.thread_announced
    with pytest.raises(IllegalRecord):
        log.append(Draft("session.thread_status_idle", {"session_thread_id": "sthr_other"}))


def test_illegal_records_are_refused() -> None:
    log = running()
    bad = [
        Draft("agent.message", {"content": []}),  # no open request
        Draft("session.status_running"),  # already
        Draft("no.such.type"),
        Draft("user.message", {"content": []}, id="sevt_never_queued"),
        Draft("user.tool_result", {"tool_use_id": "sevt_unknown"}),
        Draft("user.tool_result", {"tool_use_id": "sevt_unknown"}, queued=True),
        Draft("span.model_request_end", {"model_request_start_id": "x", "model_usage": NO_USAGE}),
        idle("requires_action"),
        idle("requires_action", "sevt_unknown"),
    ]
    before = log.state
    for draft in bad:
        with pytest.raises(IllegalRecord):
            log.append(draft)
    assert log.state == before


def test_a_turn_cannot_end_or_sample_with_open_calls() -> None:
    log = running()
    sample(log, tool_use())
    with pytest.raises(IllegalRecord):
        log.append(idle())
    with pytest.raises(IllegalRecord):
        log.append(Draft("span.model_request_start", private={"epoch": 1}))


def test_a_result_of_the_wrong_kind_is_refused() -> None:
    log = running()
    sample(log, tool_use())
    (call,) = log.state.calls
    with pytest.raises(IllegalRecord):
        log.send("user.custom_tool_result", custom_tool_use_id=call.id)


def test_folding_needs_a_gapless_log() -> None:
    log = running()
    with pytest.raises(IllegalRecord):
        fold(log.state, log.records[0])


def test_folding_the_whole_log_equals_folding_on_from_any_dump() -> None:
    log = running()
    sample(log, tool_use("ask"), tool_use(kind="agent.mcp_tool_use", mcp_server_name="db"))
    ask, mcp = (call.id for call in log.state.calls)
    log.append(Draft("internal.mcp_call_started", {"mcp_tool_use_id": mcp, "epoch": 2}))
    log.append(Draft("agent.mcp_tool_result", {"mcp_tool_use_id": mcp}))
    log.append(idle("requires_action", ask))
    allow = log.send("user.tool_confirmation", tool_use_id=ask, result="allow")
    log.append(Draft("session.status_running"), consumed(log, allow))
    log.append(idle("requires_action", ask))
    log.say("more")
    for cut in range(len(log.records) + 1):
        state = initial("sthr_main", self_hosted=True)
        for record in log.records[:cut]:
            state = fold(state, record)
        state = reloaded(state)
        for record in log.records[cut:]:
            state = reloaded(fold(state, record))
        assert state == log.state

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select

from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import telemetry_spans
from intramuros.control.store.records import Record
from intramuros.control.store.tables import events
from intramuros.control.tracing import destinations
from intramuros.control.tracing.destinations import Rules
from intramuros.control.tracing.recorder import Recorder
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.telemetry import DestinationCreate
from tests.engines import ignore_foreign_keys

SESSION: Any = SimpleNamespace(
    id="sesn_1",
    workspace_id="wrkspc_test",
    agent_id="agent_1",
    agent={"name": "Auditor", "model": {"id": "claude-opus-5"}},
)


class Log:
    """A session's log: appends rows as the journal does, and shows them to the recorder."""

    def __init__(self, tx: Tx, recorder: Recorder) -> None:
        self.tx, self.recorder, self.seq = tx, recorder, 0

    def write(
        self, type: str, body: dict[str, Any] | None = None, *, queued: bool = False, **private: Any
    ) -> str:
        self.seq += 1
        record = Record(
            "sesn_1",
            self.seq,
            f"sevt_{self.seq}",
            type,
            self.seq * 1_000,
            body or {},
            queued=queued,
            private=private or None,
        )
        self.tx.execute(
            insert(events).values(
                session_id="sesn_1",
                seq=self.seq,
                event_id=record.id,
                type=type,
                queued=queued,
                internal=False,
                at_us=record.at_us,
                body=record.body,
                private=record.private,
            )
        )
        self.recorder.watch(self.tx, SESSION, [record])
        return record.id

    def turn(self) -> None:
        self.write("session.status_running")
        self.write("user.message", {"content": [{"type": "text", "text": "audit it"}]})
        start = self.write("span.model_request_start")
        use = self.write("agent.tool_use", {"name": "bash", "input": {"command": "ls"}})
        usage = {"input_tokens": 3, "output_tokens": 4}
        body = {"model_request_start_id": start, "is_error": False, "model_usage": usage}
        said = [{"type": "text", "text": "I look"}]
        self.write(
            "span.model_request_end", body, model="m-1", stop_reason="tool_use", content=said
        )
        result = {"tool_use_id": use, "is_error": True, "content": [{"type": "text", "text": "no"}]}
        self.write("user.tool_result", result, queued=True)
        self.write("user.tool_result", result)
        self.write("session.status_idle", {"stop_reason": {"type": "end_turn"}})


@pytest.fixture
def log(tx: Tx, clock: ManualClock) -> Log:
    ignore_foreign_keys(tx.connection)
    recorder = Recorder(clock)
    recorder.active = True
    return Log(tx, recorder)


def destination(tx: Tx, actor: Actor, rules: Rules, **more: Any) -> None:
    body = {"endpoint_url": "https://c.example", "workspaces": {"type": "all"}, **more}
    destinations.create(tx, actor, rules, DestinationCreate.model_validate(body))


def spans(tx: Tx) -> Sequence[dict[str, Any]]:
    rows = tx.execute(select(telemetry_spans).order_by(telemetry_spans.c.seq)).all()
    return [row.span for row in rows]


def test_a_turn_is_a_trace_of_its_requests_and_calls(
    tx: Tx, actor: Actor, rules: Rules, log: Log
) -> None:
    destination(tx, actor, rules)
    log.turn()
    chat, tool, turn = spans(tx)
    assert [s["name"] for s in (chat, tool, turn)] == [
        "chat m-1",
        "execute_tool bash",
        "invoke_agent Auditor",
    ]
    assert chat["trace_id"] == tool["trace_id"] == turn["trace_id"]
    assert chat["parent_id"] == tool["parent_id"] == turn["span_id"]
    assert turn["parent_id"] == ""
    assert (chat["start_us"], chat["end_us"]) == (3_000, 5_000)
    assert (tool["start_us"], tool["end_us"]) == (4_000, 7_000)
    assert (turn["start_us"], turn["end_us"]) == (1_000, 8_000)
    assert (chat["error"], tool["error"]) == (None, "the tool reported an error")
    assert chat["attributes"]["gen_ai.usage.output_tokens"] == 4
    assert turn["attributes"]["anthropic.stop_reason"] == "end_turn"
    assert all(s["content"] == {} for s in (chat, tool, turn))
    assert "audit it" not in str(spans(tx))
    assert "ls" not in str(tool["attributes"])
    log.turn()
    assert len({s["trace_id"] for s in spans(tx)}) == 2
    assert len({s["span_id"] for s in spans(tx)}) == 6


def test_a_request_that_another_model_answered_names_both(
    tx: Tx, actor: Actor, rules: Rules, log: Log
) -> None:
    destination(tx, actor, rules)
    log.write("session.status_running")
    start = log.write("span.model_request_start")
    body = {"model_request_start_id": start, "is_error": False}
    log.write("span.model_request_end", body, model="second", asked_model="first")
    log.write("session.status_idle", {"stop_reason": {"type": "end_turn"}})
    attributes = spans(tx)[0]["attributes"]
    assert attributes["gen_ai.request.model"] == "first"
    assert attributes["gen_ai.response.model"] == "second"


def test_content_is_kept_only_if_somebody_was_granted_it(
    tx: Tx, actor: Actor, rules: Rules, log: Log
) -> None:
    destination(tx, actor, rules)
    destination(tx, actor, rules, traces={"content_mode": "content"})
    log.turn()
    chat, tool, _ = spans(tx)
    assert "audit it" in chat["content"]["gen_ai.input.messages"]
    assert "I look" in chat["content"]["gen_ai.output.messages"]
    assert '"ls"' in tool["content"]["gen_ai.tool.call.arguments"]
    assert "no" in tool["content"]["gen_ai.tool.call.result"]


@pytest.mark.parametrize(
    "more",
    [
        {"workspaces": {"type": "include"}},
        {"workspaces": {"type": "exclude", "workspace_ids": ["wrkspc_test"]}},
        {"traces": {"enabled": False, "content_mode": "content"}},
    ],
)
def test_nothing_is_written_that_nobody_gets(
    tx: Tx, actor: Actor, rules: Rules, log: Log, more: dict[str, Any]
) -> None:
    destination(tx, actor, rules, **more)
    log.turn()
    assert spans(tx) == []


def test_who_does_not_watch_writes_nothing(tx: Tx, actor: Actor, rules: Rules, log: Log) -> None:
    destination(tx, actor, rules)
    log.recorder.active = False
    log.turn()
    assert spans(tx) == []
    log.recorder.changed(tx)
    for hook in tx.hooks:
        hook()
    assert log.recorder.active


def test_beginnings_that_are_not_in_the_log_make_no_span(
    tx: Tx, actor: Actor, rules: Rules, log: Log
) -> None:
    destination(tx, actor, rules)
    log.write("session.status_idle")
    log.write("session.status_running")
    log.write("span.model_request_end", {"model_request_start_id": "sevt_no"})
    log.write("user.tool_result", {"tool_use_id": "sevt_no"})
    assert spans(tx) == []


def test_a_row_that_cannot_be_told_of_keeps_no_session_up(
    tx: Tx, actor: Actor, rules: Rules, log: Log
) -> None:
    destination(tx, actor, rules)
    log.write("session.status_running")
    start = log.write("span.model_request_start")
    usage = {"input_tokens": "many"}
    log.write("span.model_request_end", {"model_request_start_id": start, "model_usage": usage})
    log.write("span.model_request_end", {})
    log.write("session.status_idle")
    assert [s["name"] for s in spans(tx)] == ["invoke_agent Auditor"]


def test_a_message_is_a_trace_by_itself(
    tx: Tx, actor: Actor, rules: Rules, clock: ManualClock
) -> None:
    destination(tx, actor, rules)
    recorder = Recorder(clock)
    told: dict[str, Any] = {"gen_ai.request.model": "claude-opus-5"}
    recorder.message(tx, "wrkspc_test", "req_1", 5, told)
    assert spans(tx) == []
    recorder.active = True
    recorder.message(tx, "wrkspc_test", "req_1", 5, told)
    recorder.message(tx, "wrkspc_other", "req_2", 5, told)
    (one,) = spans(tx)
    assert (one["name"], one["parent_id"], one["start_us"]) == ("chat claude-opus-5", "", 5)


def test_a_judge_of_a_call_has_a_span_of_its_own(
    tx: Tx, actor: Actor, rules: Rules, log: Log
) -> None:
    destination(tx, actor, rules)
    log.write("session.status_running")
    held = log.write("internal.reply_held")
    mark = {"reply_id": held, "use_id": "sevt_9", "name": "bash", "permission": "deny", "why": "no"}
    usage = {"input_tokens": 7, "output_tokens": 2}
    log.write("internal.call_judged", {**mark, "usage": usage}, model="judge-1")
    log.write("internal.call_judged", {**mark, "reply_id": "sevt_no", "usage": usage})
    (one,) = spans(tx)
    assert (one["name"], one["start_us"], one["end_us"]) == ("judge_tool bash", 2_000, 3_000)
    told = one["attributes"]
    assert told["gen_ai.request.model"] == "judge-1"
    assert told["gen_ai.usage.input_tokens"] == 7
    assert told["gen_ai.tool.call.id"] == "sevt_9"
    assert told["anthropic.evaluated_permission"] == "deny"

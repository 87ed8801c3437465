"""What a world without a fault leaves: one session with a call of every kind. Pure."""

import hashlib
from typing import Any

from intramuros.control.session.fold import fold
from intramuros.control.session.state import initial
from intramuros.control.store.records import Record, primary_thread_id
from intramuros.protocol.audit import AuditRecord, Head, seal
from tests.torture import jobs
from tests.torture.evidence import Effect, Evidence, Lease, SessionEvidence

SESSION = "sesn_1"
TOKEN = "c0t1"
SECRET = "sk-env-secret"
BASH, DENIED, CUSTOM, MCP = "n1aa", "n2bb", "n3cc", "n4dd"
_USAGE = {
    "input_tokens": 1,
    "output_tokens": 1,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


class _Log:
    """Writes rows one after the other."""

    def __init__(self) -> None:
        self.rows: list[Record] = []

    def add(self, type: str, body: Any = None, **more: Any) -> str:
        seq = len(self.rows) + 1
        id = more.pop("id", f"sevt_{seq}")
        row = Record(SESSION, seq, id, type, 1_000_000 * seq, body or {}, **more)
        self.rows.append(row)
        return id

    def running(self) -> None:
        self.add("session.status_running")
        self.add("session.thread_status_running", _thread())

    def idle(self, reason: dict[str, Any]) -> None:
        body = {"stop_reason": reason, "stop_details": None}
        self.add("session.thread_status_idle", {**_thread(), **body})
        self.add("session.status_idle", body)

    def asks(self, epoch: int, calls: list[tuple[str, Any]], text: str = "") -> list[str]:
        """A request to the model and its reply."""
        start = self.add("span.model_request_start", private={"epoch": epoch, "message_id": "m"})
        if text:
            self.add("agent.message", {"content": [{"type": "text", "text": text}]})
        made = [self.add(type, body) for type, body in calls]
        body = {"model_request_start_id": start, "model_usage": _USAGE, "is_error": False}
        private: dict[str, Any] = {
            "content": [],
            "calls": [[f"toolu_{id}", id] for id in made],
            "ending": None if calls else "end_turn",
            "stop_reason": "tool_use" if calls else "end_turn",
        }
        self.add("span.model_request_end", body, private=private)
        return made


def _thread() -> dict[str, str]:
    return {"session_thread_id": primary_thread_id(SESSION), "agent_name": "free"}


def _bash(nonce: str, permission: str) -> tuple[str, dict[str, Any]]:
    command = f": {nonce} ; echo {nonce} $(date +%s%N) >> /effects/log; echo {nonce}"
    body = {"name": "bash", "input": {"command": command}, "evaluated_permission": permission}
    return "agent.tool_use", body


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _rows() -> tuple[list[Record], dict[str, str]]:
    """Return the log, and the id of each call by its nonce."""
    log = _Log()
    asked = {"content": _text(jobs.ask(TOKEN, ["bash"]))}
    message = log.add("user.message", asked, queued=True)
    log.running()
    log.add("user.message", asked, id=message)
    probe = {"name": "probe", "input": {"nonce": CUSTOM}}
    ran, denied, custom = log.asks(
        1, [_bash(BASH, "allow"), _bash(DENIED, "ask"), ("agent.custom_tool_use", probe)]
    )
    log.idle({"type": "requires_action", "event_ids": [ran, denied, custom]})
    said = {"custom_tool_use_id": custom, "content": _text(f"answered {CUSTOM}")}
    log.add("user.custom_tool_result", {**said, "is_error": False})
    good = {"tool_use_id": ran, "content": _text(BASH), "is_error": False}
    log.add("user.tool_result", good)
    no = {"tool_use_id": denied, "result": "deny", "deny_message": "no"}
    confirmed = log.add("user.tool_confirmation", no, queued=True)
    log.running()
    log.add("user.tool_confirmation", no, id=confirmed)
    given = {"name": "touch", "mcp_server_name": "docs", "input": {"nonce": MCP}}
    docs = {**given, "evaluated_permission": "allow"}
    (touched,) = log.asks(2, [("agent.mcp_tool_use", docs)])
    log.add("internal.mcp_call_started", {"mcp_tool_use_id": touched, "epoch": 2})
    answer = {"mcp_tool_use_id": touched, "content": _text(f"touched {MCP}"), "is_error": False}
    log.add("agent.mcp_tool_result", answer)
    log.asks(3, [], text=f"done {TOKEN}")
    log.idle({"type": "end_turn"})
    return log.rows, {BASH: ran, DENIED: denied, CUSTOM: custom, MCP: touched}


def chain(*records: tuple[str, dict[str, object]]) -> list[str]:
    """Return an audit chain that holds these kinds and fields."""
    head, lines = Head(), []
    for kind, fields in records:
        line, head = seal(head, AuditRecord("2026-01-01T00:00:00Z", kind, fields))
        lines.append(line)
    return lines


def honest() -> Evidence:
    """Return evidence in which nothing is wrong."""
    rows, calls = _rows()
    state = initial(primary_thread_id(SESSION), self_hosted=True)
    for row in rows:
        state = fold(state, row)
    shown = [row for row in rows if row.visible]
    session = SessionEvidence(
        SESSION, rows, len(rows), "idle", state.dump(), [row.public() for row in shown]
    )
    promised = {"kind": "promised", "session": SESSION}
    client = [
        {**promised, "op": "create", "about": "", "ids": [SESSION]},
        {**promised, "op": "message", "about": TOKEN, "ids": [rows[0].id]},
        *({"kind": "saw", "session": SESSION, **_seen(row)} for row in shown),
    ]
    began = ("tool.call", {"call_id": calls[BASH]})
    ended = ("tool.result", {"call_id": calls[BASH]})
    result = next(row for row in rows if row.type == "user.tool_result")
    return Evidence(
        sessions={SESSION: session},
        leases=[
            Lease(f"turn/{SESSION}", "turn", SESSION, "idle"),
            Lease("work_1", "work/env_1", SESSION, "stopped"),
        ],
        clients={"client-c0": client},
        model=[
            {"kind": "request", "nonces": {BASH: "bash", DENIED: "bash", CUSTOM: "custom"}},
            {"kind": "request", "nonces": {MCP: "mcp"}},
            {"kind": "request", "nonces": {}},
        ],
        upstream=[{"kind": "touched", "nonce": MCP}],
        effects=[Effect("worker.0", BASH, (result.at_us - 1000) * 1000)],
        chains={
            "control": chain(("mcp.call", {"call": calls[MCP]})),
            "worker.0": chain(began, ended),
            "gateway": chain(("mcp.request", {})),
        },
        relayed=[b"\x17\x03\x03ciphertext"],
        inside={"environ": "PATH=/usr/bin"},
        secrets=[SECRET],
    )


def _seen(row: Record) -> dict[str, Any]:
    digest = hashlib.sha256(jobs.dumped(row.public()).encode()).hexdigest()
    return {"seq": row.seq, "id": row.id, "sha": digest, "at_us": row.at_us + 1000}

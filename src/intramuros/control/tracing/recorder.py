"""Makes spans of what sessions did and what models were asked, as it is recorded.

A turn of a session is a trace: its root is the turn, below it are the model requests and the tool
calls. Names and attributes follow OpenTelemetry's conventions for generative AI. A span is written
in the transaction that records its end, so one is never told of anything that did not happen.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, insert, select

from intramuros.control.store import events
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.metering_tables import telemetry_destinations, telemetry_spans
from intramuros.control.store.records import Record
from intramuros.control.store.tables import events as events_table
from intramuros.control.tracing.coverage import covers
from intramuros.control.tracing.otlp import Span, cut
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.resources.telemetry import MAX_CONTENT_BYTES

log = logger("tracing")

Attributes = dict[str, str | int | bool | list[str]]

_RESULTS: Final[Mapping[str, str]] = {
    "user.tool_result": "tool_use_id",
    "user.custom_tool_result": "custom_tool_use_id",
    "agent.tool_result": "tool_use_id",
    "agent.mcp_tool_result": "mcp_tool_use_id",
}
_ENDS: Final = frozenset({"session.status_idle", "session.status_terminated"})
_MODEL_END: Final = "span.model_request_end"
_JUDGED: Final = "internal.call_judged"
_BEGINS: Final = "session.status_running"


class Recorder:
    """Writes spans for whoever wants them; costs nothing while nobody does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.active = False

    async def refresh(self, db: Database) -> None:
        """Look whether anybody wants spans; another process may have changed it."""
        self.active = await db.read(_wanted)

    def changed(self, tx: Tx) -> None:
        """Look again once this transaction is durable."""
        active = _wanted(tx)

        def known() -> None:
            self.active = active

        tx.after_commit(known)

    def watch(self, tx: Tx, session: Row[Any], written: Sequence[Record]) -> None:
        """Write the spans that ended with these rows of a session's log."""
        if not self.active:
            return
        ended = [record for record in written if not record.queued and _ends(record)]
        content = _asked(tx, session.workspace_id) if ended else None
        if content is None:
            return
        for record in ended:
            try:
                span = _span(tx, session, record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                # Telling of a session must never keep it from going on.
                log.error("no_span", session=session.id, type=record.type, exc_info=error)
                continue
            if span is not None:
                self._write(tx, session.workspace_id, span, content=content)

    def message(
        self, tx: Tx, workspace_id: str, request_id: str, start_us: int, attributes: Attributes
    ) -> None:
        """Write the span of a request of the Messages API, a trace by itself."""
        if not self.active or _asked(tx, workspace_id) is None:
            return
        shown = {"gen_ai.operation.name": "chat", "anthropic.workspace.id": workspace_id}
        span = Span(
            name=f"chat {attributes['gen_ai.request.model']}",
            kind="client",
            trace_id=_digest(request_id, 16),
            span_id=_digest(f"message/{request_id}/{start_us}", 8),
            parent_id="",
            start_us=start_us,
            end_us=max(start_us, to_micros(self._clock.now())),
            error=None,
            attributes={**shown, "anthropic.request.id": request_id, **attributes},
            content={},
        )
        self._write(tx, workspace_id, span, content=False)

    def _write(self, tx: Tx, workspace_id: str, span: Span, *, content: bool) -> None:
        span["content"] = cut(span["content"], MAX_CONTENT_BYTES) if content else {}
        row = {"workspace_id": workspace_id, "at_us": span["end_us"], "span": span}
        tx.take_turn()  # numbers are given in the order of commits, for whoever reads behind one
        tx.execute(insert(telemetry_spans).values(**row))


def _wanted(tx: Tx) -> bool:
    which = telemetry_destinations.c.disabled.is_(None)
    return tx.scalar(select(telemetry_destinations.c.id).where(which).limit(1)) is not None


def _asked(tx: Tx, workspace_id: str) -> bool | None:
    """Return whether somebody wants content of a workspace; None if nobody wants anything."""
    which = select(telemetry_destinations.c.config).where(
        telemetry_destinations.c.disabled.is_(None), covers([workspace_id])
    )
    traces = [config["traces"] for config in tx.execute(which).scalars()]
    modes = {one["content_mode"] for one in traces if one["enabled"]}
    return ("content" in modes) if modes else None


def _ends(record: Record) -> bool:
    return record.type in _RESULTS or record.type in _ENDS or record.type in (_MODEL_END, _JUDGED)


def _span(tx: Tx, session: Row[Any], record: Record) -> Span | None:
    """Return the span that a record ends, or None if its beginning is not in the log."""
    turn = _turn(tx, session.id, record.seq)
    if turn is None:
        return None
    if record.type in _ENDS:
        return _of_turn(session, turn, record)
    if record.type == _MODEL_END:
        begun = events.by_id(tx, session.id, str(record.body["model_request_start_id"]))
        return _of_model(tx, session, turn, (begun, record)) if begun else None
    if record.type == _JUDGED:
        held = events.by_id(tx, session.id, str(record.body["reply_id"]))
        return _of_judge(session, turn, (held, record)) if held else None
    use = events.by_id(tx, session.id, str(record.body[_RESULTS[record.type]]))
    return _of_tool(session, turn, use, record) if use else None


def _of_turn(session: Row[Any], turn: Row[Any], record: Record) -> Span:
    reason = record.body.get("stop_reason")
    attributes = {**_common(session), "gen_ai.operation.name": "invoke_agent"}
    if isinstance(reason, Mapping):
        attributes["anthropic.stop_reason"] = str(reason.get("type"))
    name = f"invoke_agent {session.agent.get('name', '')}".strip()
    span = _base(name, "internal", session, turn, (turn.at_us, record))
    return {**span, "span_id": _turn_id(turn), "parent_id": "", "attributes": attributes}


def _of_model(tx: Tx, session: Row[Any], turn: Row[Any], ends: tuple[Record, Record]) -> Span:
    begun, record = ends
    private = record.private or {}
    model = str(private.get("model") or session.agent["model"]["id"])
    attributes = {
        **_common(session),
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": str(private.get("asked_model") or model),
    }
    if private.get("asked_model"):
        attributes["gen_ai.response.model"] = model
    usage: Any = record.body.get("model_usage")
    if isinstance(usage, Mapping):
        attributes |= {f"gen_ai.usage.{name}": int(count) for name, count in usage.items()}
    if private.get("stop_reason"):
        attributes["gen_ai.response.finish_reasons"] = [str(private["stop_reason"])]
    span = _base(f"chat {model}", "client", session, turn, (begun.at_us, record))
    failed = "the model request failed" if record.body.get("is_error") else None
    content = {
        "gen_ai.output.messages": _text(private.get("content")),
        "gen_ai.input.messages": _text(_heard(tx, session.id, begun.seq)),
    }
    return {**span, "attributes": attributes, "error": failed, "content": content}


def _of_judge(session: Row[Any], turn: Row[Any], ends: tuple[Record, Record]) -> Span:
    held, record = ends
    private, name = record.private or {}, str(record.body["name"])
    attributes = {
        **_common(session),
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": str(private.get("model") or session.agent["model"]["id"]),
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": str(record.body["use_id"]),
        "anthropic.evaluated_permission": str(record.body["permission"]),
    }
    usage: Any = record.body["usage"]
    attributes |= {f"gen_ai.usage.{key}": int(count) for key, count in usage.items()}
    span = _base(f"judge_tool {name}", "client", session, turn, (held.at_us, record))
    content = {"gen_ai.output.messages": _text(record.body["why"])}
    return {**span, "attributes": attributes, "content": content}


def _of_tool(session: Row[Any], turn: Row[Any], use: Record, record: Record) -> Span:
    name = str(use.body.get("name"))
    attributes = {
        **_common(session),
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": use.id,
    }
    if "mcp_server_name" in use.body:
        attributes["mcp.server.name"] = str(use.body["mcp_server_name"])
    content = {
        "gen_ai.tool.call.arguments": _text(use.body.get("input")),
        "gen_ai.tool.call.result": _text(record.body.get("content")),
    }
    span = _base(f"execute_tool {name}", "internal", session, turn, (use.at_us, record))
    failed = "the tool reported an error" if record.body.get("is_error") else None
    return {**span, "attributes": attributes, "error": failed, "content": content}


def _base(
    name: str, kind: str, session: Row[Any], turn: Row[Any], time: tuple[int, Record]
) -> Span:
    start_us, record = time
    return Span(
        name=name,
        kind=kind,
        trace_id=_digest(f"{session.id}/{turn.event_id}", 16),
        span_id=_digest(record.id, 8),
        parent_id=_turn_id(turn),
        start_us=min(start_us, record.at_us),
        end_us=record.at_us,
        error=None,
        attributes={},
        content={},
    )


def _common(session: Row[Any]) -> Attributes:
    return {
        "gen_ai.conversation.id": session.id,
        "gen_ai.agent.id": session.agent_id,
        "gen_ai.agent.name": str(session.agent.get("name", "")),
        "anthropic.workspace.id": session.workspace_id,
    }


def _turn(tx: Tx, session_id: str, before_seq: int) -> Row[Any] | None:
    """Return where the turn began that a row belongs to."""
    table = events_table.c
    which = select(table.event_id, table.at_us).where(
        table.session_id == session_id, table.type == _BEGINS, table.seq < before_seq
    )
    found: Row[Any] | None = tx.execute(which.order_by(table.seq.desc()).limit(1)).first()  # type: ignore[assignment]  # of two columns
    return found


def _heard(tx: Tx, session_id: str, before_seq: int) -> list[Mapping[str, Any]]:
    """Return what was said and answered since the model was last asked."""
    table = events_table.c
    here = table.session_id == session_id
    last = select(table.seq).where(here, table.type == _MODEL_END, table.seq < before_seq)
    after_seq = tx.scalar(last.order_by(table.seq.desc()).limit(1)) or 0
    which = select(table.type, table.body).where(
        here,
        table.seq > after_seq,
        table.seq < before_seq,
        table.queued.is_(False),
        table.type.in_(("user.message", "system.message", *_RESULTS)),
    )
    rows = tx.execute(which.order_by(table.seq)).all()
    return [{"type": row.type, "content": row.body.get("content")} for row in rows]


def _text(value: object) -> str:
    return "" if not value else json.dumps(value, ensure_ascii=False)


def _turn_id(turn: Row[Any]) -> str:
    return _digest(f"turn/{turn.event_id}", 8)


def _digest(text: str, size: int) -> str:
    """Return an identifier in hexadecimal that is the same for the same text, and never zero."""
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * size]

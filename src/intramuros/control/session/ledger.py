"""What the audit keeps of the calls that this server makes outside, and of those it denies. Pure.

Names, sizes and digests, never content: of a page's address the host and the path, because a query
may hold anything.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from intramuros.control.session import judging
from intramuros.control.session.calls import CallKind, kind_of
from intramuros.control.session.view import View
from intramuros.control.store.records import Record
from intramuros.web.base import FETCH
from intramuros.web.urls import MAX_URL_CHARS, BadUrl, parse


@dataclass(frozen=True)
class Entry:
    """One audit record: its kind, and its fields."""

    kind: str
    fields: Mapping[str, object]


def entry(view: View, record: Record) -> Entry | None:
    """Return what is recorded of a row of the log, or None.

    Args:
        view: the session's, through that row.
    """
    body = record.body
    match record.type:
        case "internal.mcp_call_started":
            use = view.find([cast("str", body["mcp_tool_use_id"])])[0]
            about = {"server": use.body["mcp_server_name"]}
            return Entry("mcp.call", _begun(use, record, about))
        case "internal.web_call_started":
            use = view.find([cast("str", body["tool_use_id"])])[0]
            return Entry("web.call", _begun(use, record, _page(use)))
        case "agent.mcp_tool_result":
            return Entry("mcp.result", _done(record, "mcp_tool_use_id", {}))
        case "agent.tool_result":
            uses = view.find([cast("str", body["tool_use_id"])])
            web = any(kind_of(use.type, use.body) is CallKind.WEB for use in uses)
            return Entry("web.result", web_result(record)) if web else None
        case _:
            return _denied(record)


def _denied(record: Record) -> Entry | None:
    reason, body = judging.denied(record), record.body
    if reason is None:
        return None
    fields = {
        "call": record.id,
        "server": body.get("mcp_server_name"),
        "tool": body["name"],
        "reason": reason,
        **_digest(body["input"]),
    }
    return Entry("tool.denied", fields)


def _begun(use: Record, record: Record, about: Mapping[str, object]) -> dict[str, object]:
    return {
        "call": use.id,
        "tool": use.body["name"],
        "epoch": record.body["epoch"],
        **about,
        **_digest(use.body["input"]),
    }


def web_result(record: Record) -> dict[str, object]:
    """Return what is kept of the answer to a web call."""
    seen = cast("Mapping[str, object]", (record.private or {}).get("web", {}))
    return _done(record, "tool_use_id", seen)


def _done(record: Record, member: str, seen: Mapping[str, object]) -> dict[str, object]:
    return {
        **seen,
        "call": record.body[member],
        "is_error": record.body.get("is_error"),
        **_digest(record.body.get("content")),
    }


def _page(use: Record) -> dict[str, object]:
    if use.body["name"] != FETCH:
        return {}
    given = cast("Mapping[str, object]", use.body["input"])
    try:
        target = parse(str(given.get("url", ""))[: MAX_URL_CHARS + 1])
    except BadUrl:
        return {}
    return {"host": target.host, "path": target.bare_path}


def _digest(content: object) -> dict[str, object]:
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

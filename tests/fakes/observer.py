"""What a client can tell of a session, event by event, and what must hold of it all along.

A model of the contract that knows nothing of the loop: it reads public events alone, in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from intramuros.control.store.records import Record
from intramuros.protocol.events import SERVER_TOOLS

# tool use → (the results it may have, the member of them that names it)
_RESULTS: Final = {
    "agent.tool_use": (("user.tool_result", "agent.tool_result"), "tool_use_id"),
    "agent.mcp_tool_use": (("agent.mcp_tool_result",), "mcp_tool_use_id"),
    "agent.custom_tool_use": (("user.custom_tool_result",), "custom_tool_use_id"),
}
_NAMES: Final = {result: name for results, name in _RESULTS.values() for result in results}


@dataclass
class Use:
    """A tool use without a result."""

    type: str
    permission: str
    name: str = ""

    @property
    def sandboxed(self) -> bool:
        """Tell whether a worker makes it, in the sandbox."""
        return self.type == "agent.tool_use" and self.name not in SERVER_TOOLS

    def blocks(self, *, self_hosted: bool) -> bool:
        """Tell whether it needs a client or worker."""
        if self.type == "agent.custom_tool_use":
            return True
        if self.sandboxed and self_hosted:
            return self.permission in ("ask", "allow")
        return self.permission == "ask"


@dataclass
class Observer:
    """What the public events so far add up to."""

    self_hosted: bool
    status: str = "idle"
    request: str | None = None
    seq: int = 0
    ids: set[str] = field(default_factory=set)
    open: dict[str, Use] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    arrivals: dict[str, int] = field(default_factory=dict)
    last: str = ""
    asked: list[str] = field(default_factory=list)
    fresh: bool = True
    early: bool = False
    owed: bool = False

    def see(self, record: Record) -> None:
        """Take note of a record; fails if the contract does not let it follow."""
        assert record.seq == self.seq + 1, "the log has no gaps"
        self.seq = record.seq
        if record.internal:
            return
        if record.queued:
            assert record.id not in self.ids
            self.waiting.append(record.id)
            self.arrivals[record.id] = record.seq
            return
        assert record.id not in self.ids, f"{record.type} {record.id} stands there twice"
        self.ids.add(record.id)
        self._public(record.type, record.id, record.body)
        self.last = record.type

    def _public(self, type: str, id: str, body: Mapping[str, Any]) -> None:
        if type in _RESULTS:
            assert self.request, "a call is part of a reply"
            permission = body.get("evaluated_permission", "allow")
            self.open[id] = Use(type, permission, str(body.get("name", "")))
        elif type in _NAMES:
            self._settle(str(body[_NAMES[type]]), type)
        elif type.startswith("user.") or type == "system.message":
            self._hear(type, id, body)
        elif type.startswith("span.model_request"):
            self._span(type, id, body)
        elif type.startswith("session.status"):
            self._move(type, body)
        elif type in ("agent.message", "agent.thinking"):
            assert self.request, f"{type} outside a request"

    def _settle(self, use_id: str, type: str) -> None:
        assert use_id not in self.closed, "a call has one result"
        assert type in _RESULTS[self.open[use_id].type][0]
        self.closed.add(use_id)
        del self.open[use_id]

    def _hear(self, type: str, id: str, body: Mapping[str, Any]) -> None:
        """Input is heard once, when its turn has come, and never by a model at work."""
        assert id in self.waiting, "only what arrived is heard"
        assert self.request is None
        self.waiting.remove(id)
        if type == "user.message":
            self.heard.append(id)
            self.owed = True
            self.unasked.append(id)
            self.early = self.early or not self.fresh
        if type == "user.interrupt":
            # What was said before it needs no answer; what was said behind it does.
            at = self.arrivals[id]
            self.unasked = [other for other in self.unasked if self.arrivals[other] > at]
        if type != "user.tool_confirmation":
            return
        use = self.open.get(body["tool_use_id"])
        if use is None:
            return  # an interrupt closed it first
        assert use.permission == "ask"
        use.permission = body["result"]
        if body["result"] == "deny" and use.sandboxed and self.self_hosted:
            self._settle(body["tool_use_id"], "user.tool_result")

    def _span(self, type: str, id: str, body: Mapping[str, Any]) -> None:
        if type == "span.model_request_start":
            assert self.status == "running"
            assert self.request is None
            assert not self.open, "a model is asked when every call has its result"
            assert not self.early, "what is said while the agent works is the next turn's"
            self.request = id
            self.fresh = False
            self.unasked.clear()
        else:
            assert body["model_request_start_id"] == self.request
            self.request = None

    def _move(self, type: str, body: Mapping[str, Any]) -> None:
        before, self.status = self.status, type.removeprefix("session.status_")
        assert self.request is None
        if self.status == "idle":
            assert self.last == "session.usage"
            asks = self.asks()
            stop = body["stop_reason"]
            self.fresh, self.early = stop["type"] != "requires_action", False
            self.owed = False
            self.asked = asks
            if stop["type"] == "retries_exhausted":
                assert not self.waiting, "a turn that is given up hears what waited"
                self.unasked.clear()
            assert not self.unasked, "a model is asked about what was said"
            assert (stop["type"] == "requires_action") == bool(self.open)
            assert stop.get("event_ids", []) == asks
        else:
            assert self.status != before, f"{type} is said once"

    def asks(self) -> list[str]:
        """The calls that need a client or worker."""
        return [i for i, use in self.open.items() if use.blocks(self_hosted=self.self_hosted)]

    def waits(self) -> None:
        """Check what must hold when the session has been given back."""
        assert self.status != "idle" or self.asked == self.asks(), "what is needed is said"
        assert self.status != "idle" or not self.owed, "who was heard is told of the end"

    def rests(self) -> None:
        """Check what must hold once everybody has done what was asked of them."""
        assert self.status == "idle"
        assert self.request is None
        assert not self.open, "every call has its result"
        assert not self.waiting, "everything that was said was heard"

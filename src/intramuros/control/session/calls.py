"""Tool calls that have no result yet. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from intramuros.protocol.events import SERVER_TOOLS


class CallKind(StrEnum):
    """Who performs a tool call."""

    SANDBOX = "sandbox"  # a worker, in the session's sandbox
    MCP = "mcp"  # this server, at an MCP server
    CUSTOM = "custom"  # the client's own program
    CREW = "crew"  # this server, at another thread of the session
    WEB = "web"  # this server, on the web


class Permission(StrEnum):
    """What the policy said of a call (contract 6.10)."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


USES: Final[Mapping[str, CallKind]] = {
    "agent.tool_use": CallKind.SANDBOX,
    "agent.mcp_tool_use": CallKind.MCP,
    "agent.custom_tool_use": CallKind.CUSTOM,
    "internal.crew_use": CallKind.CREW,
}

# What this server performs outside of itself.
OUTSIDE: Final = frozenset({CallKind.MCP, CallKind.WEB})

# result type → (kind it answers, member that names the call)
RESULTS: Final[Mapping[str, tuple[CallKind, str]]] = {
    "user.tool_result": (CallKind.SANDBOX, "tool_use_id"),
    "agent.tool_result": (CallKind.SANDBOX, "tool_use_id"),
    "user.custom_tool_result": (CallKind.CUSTOM, "custom_tool_use_id"),
    "agent.mcp_tool_result": (CallKind.MCP, "mcp_tool_use_id"),
    "internal.crew_result": (CallKind.CREW, "use_id"),
}


@dataclass(frozen=True)
class Call:
    """A tool call without a result.

    Args:
        id: the event id of the tool use.
        kind: who performs it.
        permission: what the policy said.
        confirmation_id: the confirmation that has arrived, consumed or not.
        decision: what the consumed confirmation said.
        started_epoch: the lease epoch under which this server began the call (``OUTSIDE`` only).
        until_us: the call was handed to a worker, whose answer is waited for until then.
    """

    id: str
    kind: CallKind
    permission: Permission = Permission.ALLOW
    confirmation_id: str | None = None
    decision: Permission | None = None
    started_epoch: int | None = None
    until_us: int | None = None

    @property
    def held(self) -> bool:
        """True while the call waits for a confirmation."""
        return self.permission is Permission.ASK and self.decision is None

    @property
    def permitted(self) -> bool:
        """True if the call may be performed."""
        return Permission.ALLOW in (self.permission, self.decision)

    @property
    def refused(self) -> bool:
        """True if the call must never be performed."""
        return Permission.DENY in (self.permission, self.decision)


def kind_of(type: str, body: Mapping[str, object]) -> CallKind:
    """Return who performs the call of a tool-use event.

    A web tool is a built-in tool that runs here (contract 6.24); a call of one that was refused
    before any policy is nobody's, and answered like every built-in tool's.
    """
    refused = body.get("evaluated_permission") == Permission.DENY.value
    if type == "agent.tool_use" and body.get("name") in SERVER_TOOLS and not refused:
        return CallKind.WEB
    return USES[type]


def answers(type: str, kind: CallKind) -> bool:
    """Tell whether a result of that type answers a call of that kind."""
    return RESULTS[type][0] is kind or (type == "agent.tool_result" and kind is CallKind.WEB)


def dump_call(call: Call) -> dict[str, object]:
    """Return a call as JSON values, without what is None, as most of a call is."""
    return {name: value for name, value in vars(call).items() if value is not None}


def load_call(dumped: Mapping[str, object]) -> Call:
    """Return the call that :func:`dump_call` wrote."""
    values = dict(dumped)
    values["kind"] = CallKind(cast("str", values["kind"]))
    values["permission"] = Permission(cast("str", values["permission"]))
    if "decision" in values:
        values["decision"] = Permission(cast("str", values["decision"]))
    return Call(**values)  # type: ignore[arg-type]  # dump wrote them

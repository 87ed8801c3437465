"""Which tools a model is offered, and what the policy says of a call. Pure.

The model knows a tool by one name: a built-in tool or custom tool by its own, an MCP tool as
``mcp__<server>__<tool>`` with what the Messages API forbids in names replaced. Custom tools cannot
start with ``mcp__`` (contract 6.16), so the three kinds never meet.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from intramuros.control.mcp.base import McpTool
from intramuros.control.session import web_config
from intramuros.control.session.builtin import DEFINITIONS
from intramuros.control.session.calls import CallKind, Permission
from intramuros.control.session.plans import workflow_tools
from intramuros.control.session.roster import delegation_tools
from intramuros.protocol.events import SERVER_TOOLS
from intramuros.protocol.resources.tools import AGENT_TOOLSET

# The Messages API's limit on tool names.
NAME_LIMIT: Final = 128
_FORBIDDEN: Final = re.compile(r"[^a-zA-Z0-9_-]")
# Long enough that nobody finds a name with the digest of another.
_DIGEST_CHARS: Final = 24
_DIGESTED: Final = re.compile(rf"(?:^|_)[0-9a-f]{{{_DIGEST_CHARS}}}\Z")

Json = Mapping[str, Any]
# MCP server name → its tools, as discovered.
Discovered = Mapping[str, Sequence[McpTool]]


@dataclass(frozen=True)
class Tool:
    """A tool as the model is offered it.

    Args:
        name: what the model calls it.
        kind: who performs it.
        policy: the permission policy's type; None where none applies (contract 6.9).
        description: what the model reads.
        input_schema: JSON Schema of the input.
        server: the MCP server's name, or None.
        bare_name: the name in events and at the MCP server.
        repeatable: whether recovery may call it again (contract-neutral; MCP hints).
    """

    name: str
    kind: CallKind
    policy: str | None
    description: str
    input_schema: Json
    server: str | None = None
    bare_name: str = ""
    repeatable: bool = False

    def definition(self) -> dict[str, object]:
        """Return the tool as the Messages API takes it."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": dict(self.input_schema),
        }


@dataclass(frozen=True)
class Verdict:
    """What the policy says of one call (contract 6.10 to 6.13).

    ``evaluation`` is None for calls refused before any policy applied and for custom tools.
    """

    permission: Permission
    evaluation: Json | None = None


def toolset(
    agent: Json,
    discovered: Discovered,
    served: Collection[str] = (),
    bound_by: Sequence[Json] = (),
) -> dict[str, Tool]:
    """Return the enabled tools by the name that the model uses, in a stable order.

    Args:
        agent: the session's agent snapshot.
        discovered: the tools of the MCP servers that answered.
        served: the web tools that this server runs (contract 6.24).
        bound_by: the agents whose domain lists bind those.
    """
    # These come first: nothing else can take their names.
    tools = {tool.name: tool for tool in crew_tools(agent.get("multiagent"))}
    for declared in agent.get("tools") or ():
        found = [*_expand(declared, discovered), *_web_tools(declared, served, bound_by)]
        for tool in found:
            if tool.name not in tools:
                tools[tool.name] = tool
    return tools


def crew_tools(multiagent: Json | None) -> list[Tool]:
    """Return the tools with which an agent employs others; none without a configuration."""
    return [
        Tool(name, CallKind.CREW, None, description, schema, bare_name=name)
        for name, (description, schema) in {
            **delegation_tools(multiagent),
            **workflow_tools(multiagent),
        }.items()
    ]


def used_servers(agent: Json) -> list[str]:
    """Return the names of the MCP servers that a toolset uses, in order."""
    return [
        cast("str", declared["mcp_server_name"])
        for declared in agent.get("tools") or ()
        if declared["type"] == "mcp_toolset"
    ]


def judge(tool: Tool) -> Verdict:
    """Return what the tool's policy says of a call.

    ``auto`` wants a judge's opinion of the call (``judging.py``); until there is one it asks.
    """
    match tool.policy:
        case None:
            return Verdict(Permission.ALLOW)
        case "always_allow":
            return Verdict(Permission.ALLOW, {"type": "always_allow"})
        case "auto":
            opinion = {"type": "ask", "reason_code": "indeterminate"}
            return Verdict(Permission.ASK, {"type": "auto", "evaluated_permission": opinion})
        case _:
            # A policy that we do not know must not let anything through.
            return Verdict(Permission.ASK, {"type": "always_ask"})


def model_name(server: str, tool: str) -> str:
    """Return the name by which a model calls an MCP tool: legal, bounded and unambiguous."""
    plain = f"mcp__{server}__{tool}"
    legal = _FORBIDDEN.sub("_", plain)
    # A server names its tools as it likes; it must not get the name of another server's tool.
    unclear = "__" in server or server.endswith("_") or tool.startswith("_")
    if legal == plain and len(plain) <= NAME_LIMIT and not unclear and not _DIGESTED.search(tool):
        return plain
    # Replaced characters may make two names equal; a digest of the true name keeps them apart.
    digest = hashlib.sha256(f"{server}\n{tool}".encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{legal[: NAME_LIMIT - 1 - _DIGEST_CHARS]}_{digest}"


def _expand(declared: Json, discovered: Discovered) -> Iterator[Tool]:
    match declared["type"]:
        case "agent_toolset_20260401":
            for name, (description, schema) in DEFINITIONS.items():
                enabled, policy = _setting(declared, name, "always_allow")
                if enabled:
                    yield Tool(name, CallKind.SANDBOX, policy, description, schema, bare_name=name)
        case "mcp_toolset":
            server = cast("str", declared["mcp_server_name"])
            for found in discovered.get(server, ()):
                enabled, policy = _setting(declared, found.name, "always_ask")
                if enabled:
                    yield _mcp_tool(server, found, policy)
        case "custom":
            name = cast("str", declared["name"])
            description = cast("str", declared["description"])
            schema = cast("Json", declared["input_schema"])
            yield Tool(name, CallKind.CUSTOM, None, description, schema, bare_name=name)


def _web_tools(declared: Json, served: Collection[str], bound_by: Sequence[Json]) -> Iterator[Tool]:
    """Yield the web tools of a toolset; those that this server does not run are not offered."""
    if declared["type"] != AGENT_TOOLSET:
        return
    for name in SERVER_TOOLS:
        enabled, policy = _setting(declared, name, "always_allow")
        if enabled and name in served:
            description, schema = web_config.definition(bound_by, name)
            yield Tool(name, CallKind.WEB, policy, description, schema, bare_name=name)


def _mcp_tool(server: str, found: McpTool, policy: str) -> Tool:
    return Tool(
        model_name(server, found.name),
        CallKind.MCP,
        policy,
        found.description or found.name,
        found.input_schema,
        server=server,
        bare_name=found.name,
        repeatable=found.read_only or found.idempotent,
    )


def _setting(declared: Json, name: str, default_policy: str) -> tuple[bool, str]:
    """Return whether a tool is enabled and its policy: own entry, else default (contract 6.5)."""
    default = declared.get("default_config") or {}
    own: Json = next((c for c in declared.get("configs") or () if c["name"] == name), {})
    enabled = _first(own.get("enabled"), default.get("enabled"), True)
    policy = _first(own.get("permission_policy"), default.get("permission_policy"), None)
    return bool(enabled), cast("Json", policy)["type"] if policy else default_policy


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)

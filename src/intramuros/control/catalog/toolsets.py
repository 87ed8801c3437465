"""From tools as sent to tools as stored and shown: every default resolved (contract section 6).

Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, assert_never

from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.agents import MAX_TOOLS, McpServer
from intramuros.protocol.resources.tools import (
    BUILTIN_TOOLS,
    AgentToolset,
    BuiltinToolConfig,
    CustomTool,
    McpToolConfig,
    McpToolset,
    PermissionPolicy,
    Tool,
    ToolsetDefault,
    UrlSources,
    UrlSourceSwitch,
    UrlSourceTools,
    WebFetchConfig,
    WebSearchConfig,
)

# Our own tools act inside the sandbox; a server's act on other people's systems (contract 6.6).
_DEFAULT_POLICY: Final = {"agent": "always_allow", "mcp": "always_ask"}


def resolve_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return the tools as answers show them, with defaults filled in (contract 6.4)."""
    return [_resolve(tool) for tool in tools]


def check_tools(tools: Sequence[Tool]) -> None:
    """Check what one list of tools must hold to by itself.

    Raises:
        InvalidRequest: too many tools, a toolset twice, a name twice, or a reference to a tool
            that is not in the list.
    """
    if _count(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools: at most {MAX_TOOLS} tools across all toolsets")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        name = _identity(tool)
        if name in seen:
            raise InvalidRequest(f"tools[{index}]: {name} appears twice")
        seen.add(name)
    _check_references(tools)


def check_servers(tools: Iterable[dict[str, Any]], servers: Iterable[dict[str, Any]]) -> None:
    """Check that toolsets and MCP servers name each other (contract 5.23).

    Args:
        tools: resolved tools.
        servers: MCP servers as stored.

    Raises:
        InvalidRequest: naming the server that is missing or that nothing uses.
    """
    declared = {server["name"] for server in servers}
    used = {tool["mcp_server_name"] for tool in tools if tool["type"] == "mcp_toolset"}
    for name in sorted(used - declared):
        raise InvalidRequest(f"tools: mcp_toolset names {name!r}, which mcp_servers does not hold")
    for name in sorted(declared - used):
        raise InvalidRequest(f"mcp_servers: no mcp_toolset in tools uses {name!r}")


def check_skills(tools: Iterable[dict[str, Any]], skills: Sequence[object]) -> None:
    """Check that an agent with skills can read them (contract 5.27).

    Args:
        tools: resolved tools.

    Raises:
        InvalidRequest: there are skills and no enabled ``read``.
    """
    if skills and not any(_reads(tool) for tool in tools):
        raise InvalidRequest("skills: need the `read` tool; enable it in agent_toolset_20260401")


def resolve_servers(servers: Iterable[McpServer]) -> list[dict[str, Any]]:
    """Return MCP servers as stored and shown."""
    return [{"type": "url", "name": server.name, "url": server.url} for server in servers]


def _reads(tool: dict[str, Any]) -> bool:
    if "configs" not in tool or "mcp_server_name" in tool:
        return False
    named = [c["enabled"] for c in tool["configs"] if c["name"] == "read"]
    return bool(named[0] if named else tool["default_config"]["enabled"])


def _resolve(tool: Tool) -> dict[str, Any]:
    match tool:
        case AgentToolset():
            default = _default(tool.default_config, "agent")
            return {
                "type": tool.type,
                "default_config": default,
                "configs": [_builtin(config, default) for config in tool.configs],
            }
        case McpToolset():
            default = _default(tool.default_config, "mcp")
            return {
                "type": tool.type,
                "mcp_server_name": tool.mcp_server_name,
                "default_config": default,
                "configs": [
                    {"name": config.name, **_settings(config, default)} for config in tool.configs
                ],
            }
        case CustomTool():
            return {
                "type": tool.type,
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.input_schema,
            }
        case _:
            assert_never(tool)


def _default(sent: ToolsetDefault | None, family: str) -> dict[str, Any]:
    enabled = None if sent is None else sent.enabled
    policy = None if sent is None else sent.permission_policy
    return {
        "enabled": True if enabled is None else enabled,
        "permission_policy": _policy(policy) or {"type": _DEFAULT_POLICY[family]},
    }


def _settings(config: BuiltinToolConfig | McpToolConfig, default: dict[str, Any]) -> dict[str, Any]:
    return {
        "enabled": default["enabled"] if config.enabled is None else config.enabled,
        "permission_policy": _policy(config.permission_policy) or default["permission_policy"],
    }


def _policy(policy: PermissionPolicy | None) -> dict[str, str] | None:
    return None if policy is None else {"type": policy.type}


def _builtin(config: BuiltinToolConfig, default: dict[str, Any]) -> dict[str, Any]:
    shown = {"type": config.name, "name": config.name, **_settings(config, default)}
    if isinstance(config, WebFetchConfig | WebSearchConfig):
        shown["allowed_domains"] = config.allowed_domains
        shown["blocked_domains"] = config.blocked_domains
    if isinstance(config, WebFetchConfig):
        shown["max_content_tokens"] = config.max_content_tokens
        shown["url_sources"] = _url_sources(config.url_sources)
    if isinstance(config, WebSearchConfig):
        location = config.user_location
        shown["user_location"] = None if location is None else location.model_dump()
    return shown


def _url_sources(sources: UrlSources | None) -> dict[str, Any] | None:
    if sources is None:
        return None
    return {
        "user_input": _source(sources.user_input),
        "client_tool_results": _source(sources.client_tool_results),
        "server_tool_results": _source(sources.server_tool_results),
    }


def _source(source: str | UrlSourceSwitch | UrlSourceTools | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"type": source} if isinstance(source, str) else source.model_dump()


def _count(tools: Iterable[Tool]) -> int:
    sizes = {AgentToolset: len(BUILTIN_TOOLS), CustomTool: 1}
    return sum(
        len(tool.configs) if isinstance(tool, McpToolset) else sizes[type(tool)] for tool in tools
    )


def _identity(tool: Tool) -> str:
    match tool:
        case AgentToolset():
            return f"toolset {tool.type}"
        case McpToolset():
            return f"the toolset of MCP server {tool.mcp_server_name!r}"
        case CustomTool():
            return f"custom tool {tool.name!r}"
        case _:
            assert_never(tool)


def _check_references(tools: Sequence[Tool]) -> None:
    custom = {tool.name for tool in tools if isinstance(tool, CustomTool)}
    for index, tool in enumerate(tools):
        for config in tool.configs if isinstance(tool, AgentToolset) else ():
            sources = config.url_sources if isinstance(config, WebFetchConfig) else None
            names = sources.client_tool_results if sources is not None else None
            for reference in names.tools if isinstance(names, UrlSourceTools) else ():
                if reference.name not in custom:
                    raise InvalidRequest(
                        f"tools[{index}]: url_sources.client_tool_results names "
                        f"{reference.name!r}, which is no custom tool of this agent"
                    )

"""What a Messages request says of MCP servers behind tunnels, and what the provider gets. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints, ValidationError

from intramuros.control.inference.history import to_provider
from intramuros.control.mcp.base import McpServer, McpTool
from intramuros.control.session.toolset import model_name
from intramuros.kernel.errors import InvalidRequest

Json = Mapping[str, Any]
Tunnels = Callable[[str], bool]

# Its toolset stands in the server's own entry.
OLD_BETA: Final = "mcp-client-2025-04-04"
MAX_SERVERS: Final = 20


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _OldConfig(_Entry):
    enabled: bool | None = None
    allowed_tools: list[str] | None = None


class _Server(_Entry):
    type: str
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    url: Annotated[str, StringConstraints(max_length=2048)]
    authorization_token: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$")] | None = None
    tool_configuration: _OldConfig | None = None


class _Config(_Entry):
    enabled: bool | None = None
    defer_loading: bool | None = None


class _Toolset(_Entry):
    type: str
    mcp_server_name: str
    default_config: _Config | None = None
    configs: dict[str, _Config] | None = None
    cache_control: JsonValue = None


@dataclass(frozen=True)
class TokenServer(McpServer):
    """A server and the caller's own token for it."""

    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Wanted:
    """One server behind a tunnel, and which of its tools the caller wants."""

    server: TokenServer
    toolset: _Toolset
    allowed: frozenset[str] | None = None

    def offer(self, tools: Sequence[McpTool]) -> "list[Offered]":
        """Return the enabled tools as the provider is told of them."""
        offered = []
        default = self.toolset.default_config or _Config()
        for tool in tools:
            own = (self.toolset.configs or {}).get(tool.name) or _Config()
            enabled = default.enabled if own.enabled is None else own.enabled
            allowed = self.allowed is None or tool.name in self.allowed
            if enabled is False or not allowed:
                continue
            deferred = default.defer_loading if own.defer_loading is None else own.defer_loading
            definition: dict[str, Any] = {
                "name": model_name(self.server.name, tool.name),
                "description": tool.description,
                "input_schema": dict(tool.input_schema),
            }
            if deferred:
                definition["defer_loading"] = True
            offered.append(Offered(self.server, tool.name, definition))
        if offered and self.toolset.cache_control is not None:
            offered[-1].definition["cache_control"] = self.toolset.cache_control
        return offered


@dataclass(frozen=True)
class Offered:
    """One tool: where it is, and its definition for the provider."""

    server: TokenServer
    tool: str
    definition: dict[str, Any]

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return str(self.definition["name"])


def wanted(body: Json, tunnels: Tunnels, betas: frozenset[str]) -> list[Wanted]:
    """Return the servers of a request that are behind tunnels; the others are the provider's.

    Args:
        tunnels: tells whether a URL is that of a tunnel.

    Raises:
        InvalidRequest: an entry for such a server is not as the API wants it.
    """
    entries = body.get("mcp_servers")
    if not isinstance(body.get("tools") or [], list):
        raise InvalidRequest("tools: expected a list")
    found = []
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        url = entry.get("url") if isinstance(entry, Mapping) else None
        if isinstance(url, str) and tunnels(url):
            path = f"mcp_servers[{index}]"
            found.append(_wanted(_parse(_Server, entry, path), path, body, betas))
    if len(found) > MAX_SERVERS:
        raise InvalidRequest(f"mcp_servers: at most {MAX_SERVERS}, got {len(found)}")
    if len({one.server.name for one in found}) < len(found):
        raise InvalidRequest("mcp_servers: two servers have the same name")
    return found


def rewritten(body: Json, servers: Sequence[Wanted], tools: Sequence[Offered]) -> dict[str, Any]:
    """Return the request as a provider gets it: plain tools in the place of each toolset."""
    names = {one.server.name for one in servers}
    out = dict(body)
    kept = [
        entry
        for entry in body["mcp_servers"]
        if not (isinstance(entry, Mapping) and entry.get("name") in names)
    ]
    out["mcp_servers"] = kept
    if not kept:
        del out["mcp_servers"]
    out["tools"] = list(_tools(body, names, tools))
    if not out["tools"]:
        del out["tools"]
    messages = body.get("messages")
    if isinstance(messages, list):
        out["messages"] = to_provider(messages, names)
    return out


def _tools(body: Json, names: set[str], tools: Sequence[Offered]) -> Iterator[Any]:
    placed = set()
    for entry in body.get("tools") or ():
        name = _toolset_of(entry)
        if name in names:
            placed.add(name)
            yield from (tool.definition for tool in tools if tool.server.name == name)
        else:
            yield entry
    yield from (tool.definition for tool in tools if tool.server.name not in placed)


def _wanted(server: _Server, path: str, body: Json, betas: frozenset[str]) -> Wanted:
    if server.type != "url":
        raise InvalidRequest(f"{path}.type: expected 'url'")
    at = TokenServer(server.name, server.url, server.authorization_token)
    listed = body.get("tools")
    toolsets = [
        (index, entry)
        for index, entry in enumerate(listed if isinstance(listed, list) else ())
        if _toolset_of(entry) == server.name
    ]
    if len(toolsets) == 1 and server.tool_configuration is None:
        index, entry = toolsets[0]
        return Wanted(at, _parse(_Toolset, entry, f"tools[{index}]"))
    if toolsets or OLD_BETA not in betas:
        raise InvalidRequest(
            f"{path}.name: exactly one mcp_toolset in tools must name {server.name[:80]!r}"
        )
    old = server.tool_configuration or _OldConfig()
    toolset = _Toolset(
        type="mcp_toolset",
        mcp_server_name=server.name,
        default_config=_Config(enabled=old.enabled),
    )
    return Wanted(at, toolset, None if old.allowed_tools is None else frozenset(old.allowed_tools))


def _toolset_of(entry: object) -> str | None:
    if isinstance(entry, Mapping) and entry.get("type") == "mcp_toolset":
        name = entry.get("mcp_server_name")
        return name if isinstance(name, str) else None
    return None


def _parse(model: Any, entry: object, path: str) -> Any:  # noqa: ANN401  whichever model it is
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join([path, *(str(part) for part in first["loc"])])
        raise InvalidRequest(f"{where}: {first['msg']}") from None

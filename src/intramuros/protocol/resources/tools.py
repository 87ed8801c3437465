"""Toolsets, permission policies and custom tools, as callers send them (contract section 6)."""

import re
from typing import Annotated, Final, Literal, Protocol, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from intramuros.protocol.resources.base import JsonObject, Request
from intramuros.protocol.resources.domains import check_domains, check_search_domains

AGENT_TOOLSET: Final = "agent_toolset_20260401"
BUILTIN_TOOLS: Final = (
    "bash",
    "read",
    "write",
    "edit",
    "glob",
    "grep",
    "web_fetch",
    "web_search",
)
SERVER_URL_TOOLS: Final = ("web_search", "web_fetch")

_REFERENCE_KEYWORDS: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_TOP_LEVEL_BANNED: Final = ("oneOf", "anyOf", "allOf")
# Keywords whose value is data, in which a member named `$ref` refers to nothing.
_DATA_KEYWORDS: Final = frozenset({"const", "default", "enum", "examples"})
_PROPERTY: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=_Named)

PolicyType = Literal["always_allow", "always_ask", "auto"]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


class PermissionPolicy(Request):
    """Whether a call runs at once, waits for a person, or is judged by the server."""

    type: PolicyType


class ToolsetDefault(Request):
    """What holds for every tool of a set that has no entry of its own."""

    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


class _ToolConfig(Request):
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


class _BuiltinConfig(_ToolConfig):
    name: str
    type: str | None = None

    @model_validator(mode="after")
    def _type_is_name(self) -> Self:
        if self.type is not None and self.type != self.name:
            raise ValueError(f"type must equal name ({self.name!r})")
        return self


class PlainToolConfig(_BuiltinConfig):
    """An entry for a tool that has no settings of its own."""

    name: Literal["bash", "read", "write", "edit", "glob", "grep"]


class ToolReference(Request):
    """Names one tool in an only or except list."""

    type: Literal["tool_reference"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class UrlSourceSwitch(Request):
    """Every or no URL of a source."""

    type: Literal["all", "none"]


class UrlSourceTools(Request):
    """URLs from the results of some tools only."""

    type: Literal["only", "except"]
    tools: Annotated[list[ToolReference], Field(min_length=1, max_length=128)]

    @field_validator("tools")
    @classmethod
    def _distinct(cls, tools: list[ToolReference]) -> list[ToolReference]:
        if len({tool.name for tool in tools}) != len(tools):
            raise ValueError("names must be distinct")
        return tools


Shorthand = Literal["all", "none"]
UrlSourceFilter = Annotated[UrlSourceSwitch | UrlSourceTools, Field(discriminator="type")]


class UrlSources(Request):
    """Which parts of the conversation contribute URLs that web_fetch may fetch."""

    user_input: Shorthand | UrlSourceSwitch | None = None
    client_tool_results: Shorthand | UrlSourceFilter | None = None
    server_tool_results: Shorthand | UrlSourceFilter | None = None

    @model_validator(mode="after")
    def _something_is_allowed(self) -> Self:
        sources = (self.user_input, self.client_tool_results, self.server_tool_results)
        if all(source_type(source) == "none" for source in sources):
            raise ValueError("all three sources are 'none', so nothing could ever be fetched")
        if isinstance(self.server_tool_results, UrlSourceTools):
            for tool in self.server_tool_results.tools:
                if tool.name not in SERVER_URL_TOOLS:
                    raise ValueError(f"server_tool_results: {tool.name!r} is no server tool")
        return self


def source_type(
    source: Literal["all", "none"] | UrlSourceSwitch | UrlSourceTools | None,
) -> str | None:
    """Return the kind of a URL source in either of its forms."""
    return source if source is None or isinstance(source, str) else source.type


Domains = Annotated[list[str], AfterValidator(check_domains)]
SearchDomains = Annotated[list[str], AfterValidator(check_search_domains)]


class _WebConfig(_BuiltinConfig):
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.allowed_domains is not None and self.blocked_domains is not None:
            raise ValueError("allowed_domains and blocked_domains exclude each other")
        return self


class WebFetchConfig(_WebConfig):
    """The entry of web_fetch."""

    name: Literal["web_fetch"]
    allowed_domains: Domains | None = None
    blocked_domains: Domains | None = None
    max_content_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    url_sources: UrlSources | None = None


class UserLocation(Request):
    """Roughly where the user is, for search results."""

    type: Literal["approximate"]
    city: Annotated[str, StringConstraints(max_length=255)] | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    region: Annotated[str, StringConstraints(max_length=255)] | None = None
    timezone: Annotated[str, StringConstraints(max_length=255)] | None = None


class WebSearchConfig(_WebConfig):
    """The entry of web_search."""

    name: Literal["web_search"]
    allowed_domains: SearchDomains | None = None
    blocked_domains: SearchDomains | None = None
    user_location: UserLocation | None = None


BuiltinToolConfig = Annotated[
    PlainToolConfig | WebFetchConfig | WebSearchConfig, Field(discriminator="name")
]


class AgentToolset(Request):
    """The built-in tools."""

    type: Literal["agent_toolset_20260401"]
    default_config: ToolsetDefault | None = None
    configs: list[BuiltinToolConfig] = []

    @field_validator("configs")
    @classmethod
    def _distinct(cls, configs: list[BuiltinToolConfig]) -> list[BuiltinToolConfig]:
        return _distinct_names(configs)


class McpToolConfig(_ToolConfig):
    """An entry for one tool of an MCP server, by its bare name."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class McpToolset(Request):
    """The tools of one declared MCP server."""

    type: Literal["mcp_toolset"]
    mcp_server_name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    default_config: ToolsetDefault | None = None
    configs: list[McpToolConfig] = []

    @field_validator("configs")
    @classmethod
    def _distinct(cls, configs: list[McpToolConfig]) -> list[McpToolConfig]:
        return _distinct_names(configs)


class CustomTool(Request):
    """A tool that the API's client runs."""

    type: Literal["custom"]
    name: ToolName
    description: Annotated[str, StringConstraints(min_length=1)]
    input_schema: JsonObject

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name in BUILTIN_TOOLS:
            raise ValueError(f"{name!r} is a built-in tool")
        if name.startswith("mcp__"):
            raise ValueError("names starting with 'mcp__' are reserved")
        return name

    @field_validator("input_schema")
    @classmethod
    def _schema(cls, schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return check_schema(schema)


Tool = Annotated[AgentToolset | McpToolset | CustomTool, Field(discriminator="type")]


def check_schema(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a custom tool's schema if models can use it; other keywords are kept (contract 6.17).

    Raises:
        ValueError: not an object schema, references, or an unusable property name.
    """
    if schema.get("type") != "object":
        raise ValueError("type must be 'object'")
    for keyword in _TOP_LEVEL_BANNED:
        if keyword in schema:
            raise ValueError(f"{keyword} is not allowed at the top level")
    properties = schema.get("properties")
    if properties is not None and not isinstance(properties, dict):
        raise ValueError("properties must be an object")
    for name in properties or {}:
        if not _PROPERTY.match(name):
            raise ValueError(
                f"property {name[:80]!r}: names are 1 to 64 letters, digits, '_', '.' or '-'"
            )
    required = schema.get("required")
    if required is not None and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        raise ValueError("required must be a list of names")
    _refuse_references(schema)
    return schema


def _refuse_references(value: JsonValue) -> None:
    if isinstance(value, list):
        for child in value:
            _refuse_references(child)
    elif isinstance(value, dict):
        for key, child in value.items():
            if key in _REFERENCE_KEYWORDS:
                raise ValueError(f"{key} is not allowed anywhere in the schema")
            if key not in _DATA_KEYWORDS:
                _refuse_references(child)


def _distinct_names(configs: list[C]) -> list[C]:
    seen: set[str] = set()
    for config in configs:
        if config.name in seen:
            raise ValueError(f"{config.name!r} appears twice")
        seen.add(config.name)
    return configs

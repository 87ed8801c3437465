"""Agents and their versions (contract section 5)."""

from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from intramuros.protocol.resources.base import (
    Description,
    Metadata,
    MetadataPatch,
    Name,
    Request,
    Response,
    Timestamp,
)
from intramuros.protocol.resources.multiagent import MultiagentParam
from intramuros.protocol.resources.skills import MAX_SKILLS
from intramuros.protocol.resources.tools import Tool

MAX_MCP_SERVERS: Final = 20
MAX_TOOLS: Final = 256
MAX_SYSTEM_CHARS: Final = 100_000
MAX_VERSION: Final = 2**31 - 1

EffortLevel = Literal["low", "medium", "high", "xhigh", "max"]
Geo = Literal["us", "global"]
Speed = Literal["standard", "fast"]
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^\S+$")]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
System = Annotated[str, StringConstraints(max_length=MAX_SYSTEM_CHARS)]


def _text_or_object(value: object) -> str:
    return "text" if isinstance(value, str) else "object"


class Effort(Request):
    """How hard the model works on each call, in its object form."""

    type: EffortLevel


class ModelConfig(Request):
    """A model with its settings."""

    id: ModelId
    effort: (
        Annotated[
            Annotated[EffortLevel, Tag("text")] | Annotated[Effort, Tag("object")],
            Discriminator(_text_or_object),
        ]
        | None
    ) = None
    inference_geo: Geo | None = None
    speed: Speed | None = None

    @property
    def effort_level(self) -> EffortLevel | None:
        """The effort in its short form, or None when it was not sent."""
        return self.effort.type if isinstance(self.effort, Effort) else self.effort


ModelParam = Annotated[
    Annotated[ModelId, Tag("text")] | Annotated[ModelConfig, Tag("object")],
    Discriminator(_text_or_object),
]


class McpServer(Request):
    """An MCP server by its URL."""

    type: Literal["url"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    url: Annotated[str, StringConstraints(max_length=2048)]

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        parts = urlsplit(url)  # a ValueError for a broken one
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("expected an absolute http or https URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError("credentials do not belong in a URL; keep them in a vault")
        if not url.isprintable() or " " in url:
            raise ValueError("must not contain blanks or control characters")
        _ = parts.port  # a ValueError when out of range
        return url


class ExecutionIdentity(Request):
    """As whom the agent's runs act towards a cloud."""

    type: Literal["service_account", "aws_role"]
    role_arn: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None

    @model_validator(mode="after")
    def _role(self) -> Self:
        if (self.type == "aws_role") != (self.role_arn is not None):
            raise ValueError("role_arn belongs to type 'aws_role', which needs it")
        return self


class Skill(Request):
    """A skill by id, at a version or its latest."""

    type: Literal["anthropic", "custom"]
    skill_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None


Skills = Annotated[list[Skill], Field(max_length=MAX_SKILLS)]


def distinct_servers(servers: list[McpServer] | None) -> list[McpServer] | None:
    """Return the servers if no two have the same name (contract 5.22).

    Raises:
        ValueError: naming one that appears twice.
    """
    names = [server.name for server in servers or ()]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} appears twice")
    return servers


McpServers = Annotated[list[McpServer], Field(max_length=MAX_MCP_SERVERS)]


class AgentCreate(Request):
    """``POST /v1/agents``."""

    name: Name
    model: ModelParam
    description: Description | None = None
    system: System | None = None
    tools: list[Tool] | None = None
    mcp_servers: McpServers | None = None
    skills: Skills | None = None
    metadata: Metadata | None = None
    multiagent: MultiagentParam | None = None
    execution_identity: ExecutionIdentity | None = None

    _servers = field_validator("mcp_servers")(distinct_servers)


class AgentUpdate(Request):
    """``POST /v1/agents/{id}``: what is not sent stays (contract 5.9 to 5.14)."""

    version: Version | None = None
    name: Name = ""
    model: ModelParam = ""
    description: Description | None = None
    system: System | None = None
    tools: list[Tool] | None = None
    mcp_servers: McpServers | None = None
    skills: Skills | None = None
    metadata: MetadataPatch | None = None
    multiagent: MultiagentParam | None = None
    execution_identity: ExecutionIdentity | None = None

    _servers = field_validator("mcp_servers")(distinct_servers)


class AgentReference(Request):
    """An agent at a version, or at its newest."""

    type: Literal["agent"]
    id: Annotated[str, StringConstraints(min_length=1)]
    version: Version | None = None


class AgentOverrides(Request):
    """An agent with some of its configuration replaced for one session (contract 10.2 to 10.6)."""

    type: Literal["agent_with_overrides"]
    id: Annotated[str, StringConstraints(min_length=1)]
    version: Version | None = None
    model: ModelParam | None = None
    system: System | None = None
    tools: list[Tool] | None = None
    mcp_servers: McpServers | None = None
    skills: Skills | None = None

    _servers = field_validator("mcp_servers")(distinct_servers)


def _agent_param(value: object) -> str:
    if isinstance(value, str):
        return "text"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else "agent"


AgentParam = Annotated[
    Annotated[str, StringConstraints(min_length=1), Tag("text")]
    | Annotated[AgentReference, Tag("agent")]
    | Annotated[AgentOverrides, Tag("agent_with_overrides")],
    Discriminator(_agent_param),
]


class ModelAnswer(Response):
    """A model as answers show it."""

    id: str
    effort: dict[str, str]
    inference_geo: str | None
    speed: Speed


class Agent(Response):
    """An agent at one of its versions."""

    id: str
    type: Literal["agent"]
    version: int
    name: str
    description: str | None
    model: ModelAnswer
    system: str | None
    tools: list[dict[str, Any]]
    mcp_servers: list[dict[str, Any]]
    skills: list[dict[str, Any]]
    multiagent: dict[str, Any] | None
    execution_identity: dict[str, str]
    metadata: dict[str, str]
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None

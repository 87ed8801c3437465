"""How an agent may work with others (contract section 7)."""

from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from intramuros.protocol.resources.base import Request

MAX_ROSTER: Final = 20
MAX_VERSION: Final = 2**31 - 1
# The name under which an advisor appears; no agent beside it may have it (contract 7.6).
ADVISOR_NAME: Final = "anthropic.advisor"

# What the tools are called with which a model works with others; custom tools have other names.
LIST_TOOL: Final = "list_agents"
SEND_TOOL: Final = "send_to_agent"
CONSULT_TOOL: Final = "consult_advisor"
RUN_TOOL: Final = "run_workflow"
STOP_TOOL: Final = "stop_workflow"

AgentId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
AdvisorModel = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^\S+$")]


class RosterAgent(Request):
    """A saved agent at a version, or at its newest when the roster is saved."""

    type: Literal["agent"]
    id: AgentId
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)] | None = None


class RosterSelf(Request):
    """A copy of the agent whose roster this is."""

    type: Literal["self"]


class RosterAdvisor(Request):
    """A model that the primary thread may consult."""

    type: Literal["advisor"]
    model: AdvisorModel


def _entry(value: object) -> str:
    if isinstance(value, str):
        return "text"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else "agent"


MemberEntry = Annotated[
    Annotated[AgentId, Tag("text")]
    | Annotated[RosterAgent, Tag("agent")]
    | Annotated[RosterSelf, Tag("self")],
    Discriminator(_entry),
]
RosterEntry = Annotated[
    Annotated[AgentId, Tag("text")]
    | Annotated[RosterAgent, Tag("agent")]
    | Annotated[RosterSelf, Tag("self")]
    | Annotated[RosterAdvisor, Tag("advisor")],
    Discriminator(_entry),
]


class Coordinator(Request):
    """A roster; the older of the two configurations."""

    type: Literal["coordinator"]
    agents: Annotated[list[RosterEntry], Field(min_length=1, max_length=MAX_ROSTER)]


class Switch(Request):
    """Something that is on or off."""

    type: Literal["enabled", "disabled"]


class Disabled(Request):
    """A member that is off, and has no settings."""

    type: Literal["disabled"]


class Team(Request):
    """Whom a member may employ: saved agents, and agents that it makes up."""

    type: Literal["enabled"]
    inline_agents: Switch | None = None
    predefined_agents: Annotated[list[MemberEntry], Field(max_length=MAX_ROSTER)] | None = None


class Advisor(Request):
    """The model to consult."""

    type: Literal["enabled"]
    model: AdvisorModel


TeamParam = Annotated[Team | Disabled, Field(discriminator="type")]
AdvisorParam = Annotated[Advisor | Disabled, Field(discriminator="type")]


class Members(Request):
    """Three members, each on or off by itself; the newer of the two configurations."""

    type: Literal["multiagent_20261001"]
    subagents: TeamParam | None = None
    workflows: TeamParam | None = None
    advisor: AdvisorParam | None = None


MultiagentParam = Annotated[Coordinator | Members, Field(discriminator="type")]

"""Deployments and their runs (contract-2 sections 10 and 11)."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, field_validator

from intramuros.protocol.events import SystemMessage, UserDefineOutcome, UserMessage
from intramuros.protocol.resources.agents import AgentReference
from intramuros.protocol.resources.base import (
    Description,
    Metadata,
    MetadataPatch,
    Name,
    Request,
)
from intramuros.protocol.resources.budgets import BudgetLimit
from intramuros.protocol.resources.sessions import Id, ResourceParam

MAX_INITIAL_EVENTS: Final = 50
MAX_VAULTS: Final = 50

Status = Literal["active", "paused"]
TriggerType = Literal["schedule", "manual"]
InitialEvent = Annotated[
    UserMessage | UserDefineOutcome | SystemMessage, Field(discriminator="type")
]


def _one_outcome(events: list[InitialEvent]) -> list[InitialEvent]:
    if sum(isinstance(event, UserDefineOutcome) for event in events) > 1:
        raise ValueError("at most one user.define_outcome")
    return events


InitialEvents = Annotated[
    list[InitialEvent],
    Field(min_length=1, max_length=MAX_INITIAL_EVENTS),
    AfterValidator(_one_outcome),
]
# Files, repositories and memory stores together (contract-2 R207).
MAX_RESOURCES: Final = 500
Resources = Annotated[list[ResourceParam], Field(max_length=MAX_RESOURCES)]
VaultIds = Annotated[list[Id], Field(max_length=MAX_VAULTS)]


def _text_or_reference(value: object) -> str:
    return "text" if isinstance(value, str) else "agent"


# An agent's id, which is pinned to the newest version, or an agent at a version.
PinnedAgent = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=128), Tag("text")]
    | Annotated[AgentReference, Tag("agent")],
    Discriminator(_text_or_reference),
]


class Schedule(Request):
    """When a deployment runs by itself; the expression is checked where it is stored."""

    type: Literal["cron"]
    expression: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class DeploymentCreate(Request):
    """``POST /v1/deployments``."""

    agent: PinnedAgent
    environment_id: Id
    initial_events: InitialEvents
    name: Name
    budget: BudgetLimit | None = None
    description: Description | None = None
    metadata: Metadata | None = None
    resources: Resources | None = None
    schedule: Schedule | None = None
    vault_ids: VaultIds | None = None


class DeploymentUpdate(Request):
    """``POST /v1/deployments/{id}``: what is not sent stays (contract-2 R212, R213)."""

    agent: PinnedAgent | None = None
    environment_id: Id | None = None
    initial_events: InitialEvents | None = None
    name: Name | None = None
    budget: BudgetLimit | None = None
    description: Description | None = None
    metadata: MetadataPatch | None = None
    resources: Resources | None = None
    schedule: Schedule | None = None
    vault_ids: VaultIds | None = None

    @field_validator("agent", "environment_id", "initial_events", "name")
    @classmethod
    def _kept(cls, value: object) -> object:
        if value is None:
            raise ValueError("cannot be cleared; leave it out to keep it")
        return value

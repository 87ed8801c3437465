"""Webhook endpoints of the organization and, in the same shape, of workspaces (Q22)."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from intramuros.protocol.resources.base import Description, Request
from intramuros.protocol.webhooks import OrganizationKind, WorkspaceKind

State = Literal["disabled", "enabled"]
Label = Annotated[str, StringConstraints(max_length=256)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class WorkspaceEndpointCreate(Request):
    """``POST /v1/webhooks``."""

    enabled_events: Annotated[list[WorkspaceKind], Field(min_length=1, max_length=1000)]
    url: Url
    description: Description = ""
    name: Label = ""


class WorkspaceEndpointUpdate(Request):
    """``POST /v1/webhooks/{id}``: what is not sent stays; the defaults stand for that."""

    description: Description = ""
    enabled_events: Annotated[list[WorkspaceKind], Field(max_length=1000)] = []
    name: Label = ""
    state: State = "enabled"
    url: Url = ""


class OrganizationEndpointCreate(Request):
    """``POST /v1/organizations/webhooks``."""

    enabled_events: Annotated[list[OrganizationKind], Field(min_length=1, max_length=1000)]
    url: Url
    description: Description = ""
    name: Label = ""


class OrganizationEndpointUpdate(Request):
    """``POST /v1/organizations/webhooks/{id}``, likewise."""

    description: Description = ""
    enabled_events: Annotated[list[OrganizationKind], Field(max_length=1000)] = []
    name: Label = ""
    state: State = "enabled"
    url: Url = ""

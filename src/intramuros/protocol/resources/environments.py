"""Environments and the keys of their workers (contract section 8)."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from intramuros.protocol.resources.base import (
    Description,
    Metadata,
    MetadataPatch,
    Name,
    Request,
    Response,
    Timestamp,
)
from intramuros.protocol.resources.domains import check_allowed_hosts

PACKAGE_MANAGERS: Final = ("apt", "cargo", "gem", "go", "npm", "pip")
MAX_ALLOWED_HOSTS: Final = 1000
MAX_PACKAGES: Final = 1000

Package = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f-][^\s\x00-\x1f]{0,254}$")]
PackageList = Annotated[list[Package], Field(max_length=MAX_PACKAGES)]
Scope = Literal["organization", "account"]


class Unrestricted(Request):
    """Any host."""

    type: Literal["unrestricted"]


class Limited(Request):
    """Listed hosts only."""

    type: Literal["limited"]
    allowed_hosts: (
        Annotated[
            list[str], Field(max_length=MAX_ALLOWED_HOSTS), AfterValidator(check_allowed_hosts)
        ]
        | None
    ) = None
    allow_mcp_servers: bool | None = None
    allow_package_managers: bool | None = None


class Packages(Request):
    """Packages by manager; a version in the manager's own syntax."""

    type: Literal["packages"] | None = None
    apt: PackageList | None = None
    cargo: PackageList | None = None
    gem: PackageList | None = None
    go: PackageList | None = None
    npm: PackageList | None = None
    pip: PackageList | None = None


class Cloud(Request):
    """A sandbox that the server provides."""

    type: Literal["cloud"]
    networking: Annotated[Unrestricted | Limited, Field(discriminator="type")] | None = None
    packages: Packages | None = None


class SelfHosted(Request):
    """Sandboxes of the customer's own workers."""

    type: Literal["self_hosted"]


Config = Annotated[Cloud | SelfHosted, Field(discriminator="type")]


class EnvironmentCreate(Request):
    """``POST /v1/environments``."""

    name: Name
    description: Description | None = None
    config: Config | None = None
    metadata: Metadata | None = None
    scope: Scope | None = None


class EnvironmentUpdate(Request):
    """``POST /v1/environments/{id}``: what is not sent stays (contract 8.7 to 8.9)."""

    name: Name | None = None
    description: Description | None = None
    config: Config | None = None
    metadata: MetadataPatch | None = None
    scope: Scope | None = None


class EnvironmentKeyCreate(Request):
    """``POST /x/environments/{id}/keys``."""

    name: Name = "worker"


class CloudAnswer(Response):
    """A cloud configuration with everything resolved."""

    type: Literal["cloud"]
    networking: dict[str, object]
    packages: dict[str, object]


class SelfHostedAnswer(Response):
    """A self-hosted configuration."""

    type: Literal["self_hosted"]


class Environment(Response):
    """An environment."""

    id: str
    type: Literal["environment"]
    name: str
    description: str | None
    config: Annotated[CloudAnswer | SelfHostedAnswer, Field(discriminator="type")]
    metadata: dict[str, str]
    scope: Scope
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None


class EnvironmentKey(Response):
    """A worker's key, without its secret."""

    id: str
    type: Literal["environment_key"]
    environment_id: str
    name: str
    created_at: Timestamp
    revoked_at: Timestamp | None


class NewEnvironmentKey(EnvironmentKey):
    """A worker's key with its secret, which is shown only once."""

    key: str

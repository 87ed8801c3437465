"""The organization, its workspaces and its view of API keys (contract-2 section 20)."""

from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints

from intramuros.protocol.resources.base import Name, Request, Response, Timestamp, check_metadata

V = TypeVar("V")

RESERVED_TAG_PREFIX: Final = "anthropic"

Color = Annotated[str, StringConstraints(pattern=r"^#[0-9A-Fa-f]{6}$")]
Geo = Literal["global", "us"]
Geos = Annotated[list[Geo], Field(min_length=1, max_length=2)] | Literal["unrestricted"]
KeyStatus = Literal["active", "archived", "expired", "inactive"]


def check_tags(tags: dict[str, V]) -> dict[str, V]:
    """Return tags whose keys a user may choose (contract-2 R367).

    Raises:
        ValueError: a reserved key.
    """
    taken = [key for key in tags if key.lower().startswith(RESERVED_TAG_PREFIX)]
    if taken:
        raise ValueError(f"key {taken[0][:80]!r} may not start with {RESERVED_TAG_PREFIX!r}")
    return tags


Tags = Annotated[dict[str, str], AfterValidator(check_metadata), AfterValidator(check_tags)]
TagsPatch = Annotated[dict[str, str | None], AfterValidator(check_tags)]


class ResidencyCreate(Request):
    """Where a new workspace's data stays and where its models may run."""

    allowed_inference_geos: Geos | None = None
    default_inference_geo: Geo | None = None
    workspace_geo: Literal["us"] | None = None


class ResidencyUpdate(Request):
    """What may change of it later."""

    allowed_inference_geos: Geos | None = None
    default_inference_geo: Geo | None = None


class WorkspaceCreate(Request):
    """``POST /v1/organizations/workspaces``."""

    name: Name
    data_residency: ResidencyCreate | None = None
    display_color: Color | None = None
    external_key_id: str | None = None
    tags: Tags | None = None
    user_profile_id: str | None = None


class WorkspaceUpdate(Request):
    """``POST /v1/organizations/workspaces/{id}``: what is not sent stays."""

    name: Name | None = None
    data_residency: ResidencyUpdate | None = None
    display_color: Color | None = None
    external_key_id: str | None = None
    tags: TagsPatch | None = None
    user_profile_id: str | None = None


class KeyUpdate(Request):
    """``POST /v1/organizations/api_keys/{id}``: what is not sent, or null, stays."""

    name: Name | None = None
    status: Literal["active", "archived", "inactive"] | None = None


class Residency(Response):
    """Where a workspace's data stays and where its models may run."""

    allowed_inference_geos: list[Geo] | Literal["unrestricted"]
    default_inference_geo: Geo
    workspace_geo: Literal["us"]


class Workspace(Response):
    """A workspace."""

    id: str
    type: Literal["workspace"]
    name: str
    created_at: Timestamp
    archived_at: Timestamp | None
    compartment_id: str
    data_residency: Residency
    display_color: str
    external_key_id: None
    tags: dict[str, str]
    user_profile_id: str | None


class KeyScope(Response):
    """The workspace an API key belongs to."""

    type: Literal["workspace"]
    workspace_id: str


class KeyCreator(Response):
    """Who made an API key."""

    id: str
    type: Literal["service_account", "user"]


class UserActor(Response):
    """A key acts as a user, and does only what their roles allow."""

    type: Literal["user_actor"]
    user_id: str


class ServiceAccountActor(Response):
    """A key acts as a service account."""

    type: Literal["service_account_actor"]
    service_account_id: str


class OrganizationKey(Response):
    """An API key as the organization's administrator sees it."""

    id: str
    type: Literal["api_key"]
    name: str
    created_at: Timestamp
    created_by: KeyCreator | None
    expires_at: Timestamp | None
    partial_key_hint: str | None
    principal: UserActor | ServiceAccountActor | None
    scope: KeyScope
    status: KeyStatus

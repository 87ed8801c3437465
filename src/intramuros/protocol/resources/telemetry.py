"""Telemetry destinations: collectors that get traces over OTLP/HTTP (contract-2 R378 to R381)."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from intramuros.protocol.resources.base import Request, Response, Timestamp

MAX_URL_CHARS: Final = 2048
MAX_IDS: Final = 100
# One span's content at most, in bytes; collectors refuse much larger ones.
MAX_CONTENT_BYTES: Final = 65_536

Url = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARS)]
DisplayName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Ids = Annotated[list[str], Field(max_length=MAX_IDS)]
ContentMode = Literal["metadata_only", "content"]
ContentBytes = Annotated[int, Field(ge=1)]


def _check_bytes(value: int | None) -> int | None:
    if value is not None and value > MAX_CONTENT_BYTES:
        raise ValueError(f"must be at most {MAX_CONTENT_BYTES}")
    return value


class TracesRequest(Request):
    """Which traces a destination gets, and how; what is not sent stays, or takes its default."""

    enabled: bool = True
    content_mode: ContentMode | None = None
    max_content_bytes: ContentBytes | None = None
    endpoint_url: Url | None = None

    _bytes = field_validator("max_content_bytes")(_check_bytes)


class CoverAll(Request):
    """Every workspace."""

    type: Literal["all"]


class CoverInclude(Request):
    """The workspaces on the list, and no others."""

    type: Literal["include"]
    workspace_ids: Ids | None = None


class CoverExclude(Request):
    """Every workspace but those on the list."""

    type: Literal["exclude"]
    workspace_ids: Ids | None = None


Coverage = Annotated[CoverAll | CoverInclude | CoverExclude, Field(discriminator="type")]


class StateRequest(Request):
    """Whether a destination gets anything."""

    type: Literal["enabled", "disabled"]


class DestinationCreate(Request):
    """``POST /v1/organizations/telemetry_destinations``."""

    endpoint_url: Url
    workspaces: Coverage
    display_name: DisplayName | None = None
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    traces: TracesRequest = Field(default_factory=TracesRequest)


class DestinationUpdate(Request):
    """``POST …/telemetry_destinations/{id}``: what is not sent stays."""

    display_name: DisplayName | None = None
    endpoint_url: Url = ""
    headers: dict[str, str | None] = Field(default_factory=dict, repr=False)
    state: StateRequest = StateRequest(type="enabled")
    traces: TracesRequest | None = None
    workspaces: Coverage = CoverAll(type="all")


class Traces(Response):
    """A destination's settings for traces."""

    content_mode: ContentMode
    enabled: bool
    endpoint_url: str | None
    max_content_bytes: int | None


class Health(Response):
    """How deliveries went."""

    last_error: str | None
    last_error_at: Timestamp | None
    last_success_at: Timestamp | None


class Destination(Response):
    """A telemetry destination."""

    id: str
    type: Literal["telemetry_destination"]
    created_at: Timestamp
    updated_at: Timestamp
    delivery_health: Health
    display_name: str | None
    endpoint_url: str
    header_names: list[str]
    state: dict[str, Any]
    traces: Traces
    workspaces: dict[str, str]

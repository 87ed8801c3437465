"""Rate limits and spend limits of the organization (contract-2 R370 to R372)."""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from intramuros.protocol.resources.base import Request, Response, Timestamp

# Beyond this a limit limits nothing, and sums stay within what databases count.
MAX_RATE: Final = 10**12
MAX_CENTS_DIGITS: Final = 10

Period = Literal["daily", "monthly", "weekly"]
LimiterType = Literal[
    "fast_itpmca",
    "fast_otpm",
    "input_tokens_per_minute",
    "input_tokens_per_minute_cache_aware",
    "output_tokens_per_minute",
    "requests_per_minute",
    "tokens_per_day",
    "tokens_per_minute",
    "tool_uses_per_second",
]
Cents = Annotated[str, StringConstraints(pattern=rf"^(0|[1-9][0-9]{{0,{MAX_CENTS_DIGITS - 1}}})$")]


class LimitChange(Request):
    """One limiter to set, or with null to clear."""

    type: LimiterType
    value: Annotated[int, Field(ge=0, le=MAX_RATE)] | None


class RateLimitUpdate(Request):
    """``POST …/workspaces/{id}/rate_limits/{id}``: what is not named stays."""

    limits: Annotated[list[LimitChange], Field(max_length=32)]

    @field_validator("limits")
    @classmethod
    def _once(cls, limits: list[LimitChange]) -> list[LimitChange]:
        names = [change.type for change in limits]
        if len(set(names)) < len(names):
            raise ValueError("a limiter is named twice")
        return limits


class OrganizationScope(Request):
    """All of the organization's spending."""

    type: Literal["organization"]


class WorkspaceScope(Request):
    """The spending of one workspace."""

    type: Literal["workspace"]
    workspace_id: str


class UserScope(Request):
    """The spending of one member, which installations of one's own do not know."""

    type: Literal["user"]
    user_id: str


class SpendLimitSet(Request):
    """``POST /v1/organizations/spend_limits``: an amount of null is no limit, said on purpose."""

    amount: Cents | None
    scope: Annotated[OrganizationScope | WorkspaceScope | UserScope, Field(discriminator="type")]
    period: Period = "monthly"


class SpendLimitShown(Response):
    """A spend limit."""

    id: str
    type: Literal["spend_limit"]
    amount: str | None
    currency: Literal["USD"]
    is_enabled: bool
    period: Period
    scope: dict[str, str]
    created_at: Timestamp
    updated_at: Timestamp

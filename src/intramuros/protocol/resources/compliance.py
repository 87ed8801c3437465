"""The compliance settings and the query of the activity feed (contract-2 R373 to R375, Q32)."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from intramuros.protocol.resources.base import Request

MAX_ACTIVITIES = 5000
DEFAULT_ACTIVITIES = 100
MAX_VALUES = 100

TypeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,80}$")]
Types = Annotated[list[TypeName] | None, Field(max_length=500)]
Ids = Annotated[list[str] | None, Field(max_length=MAX_VALUES)]


def _spelled_out(value: object) -> object:
    """Return the object form of a state; bare words are its shorthand."""
    return {"type": value} if isinstance(value, str) else value


class State(Request):
    """Whether activities are captured."""

    type: Literal["enabled", "disabled"]


class SettingsUpdate(Request):
    """``POST /v1/organizations/compliance_settings``."""

    state: Annotated[State, BeforeValidator(_spelled_out)]


class ActivityQuery(BaseModel):
    """The parameters of ``GET /v1/compliance/activities``.

    Times are written with dots, as the guide does, or with brackets, as the reference does.
    ``user_ids[]`` is another name of ``actor_ids[]``.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=False)

    limit: int | None = None
    order: Literal["asc", "desc"] = "desc"
    after_id: str | None = None
    before_id: str | None = None
    types: Types = Field(None, alias="activity_types[]")
    not_types: Types = Field(None, alias="exclude_activity_types[]")
    actor_ids: Ids = Field(None, alias="actor_ids[]")
    user_ids: Ids = Field(None, alias="user_ids[]")
    organization_ids: Ids = Field(None, alias="organization_ids[]")
    dotted_gte: str | None = Field(None, alias="created_at.gte")
    dotted_gt: str | None = Field(None, alias="created_at.gt")
    dotted_lte: str | None = Field(None, alias="created_at.lte")
    dotted_lt: str | None = Field(None, alias="created_at.lt")
    bracketed_gte: str | None = Field(None, alias="created_at[gte]")
    bracketed_gt: str | None = Field(None, alias="created_at[gt]")
    bracketed_lte: str | None = Field(None, alias="created_at[lte]")
    bracketed_lt: str | None = Field(None, alias="created_at[lt]")

    def bounds(self) -> list[tuple[str, str, str]]:
        """Return the time bounds that were sent: comparison, name as written, and text."""
        found = []
        for comparison in ("gte", "gt", "lte", "lt"):
            for style, name in (("dotted", f".{comparison}"), ("bracketed", f"[{comparison}]")):
                text: str | None = getattr(self, f"{style}_{comparison}")
                if text is not None:
                    found.append((comparison, f"created_at{name}", text))
        return found

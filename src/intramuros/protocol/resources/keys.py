"""API keys, an extension of ours under ``/x/keys``."""

from typing import Annotated, Literal

from pydantic import Field

from intramuros.protocol.resources.base import Name, Request, Response, Timestamp

KeyScope = Literal[
    "workspace:developer", "workspace:inference", "workspace:manage_tunnels", "org:admin"
]


# Ten years: longer is for ever, and then it should say so.
MAX_LIFETIME_S = 10 * 366 * 24 * 3600


class ApiKeyCreate(Request):
    """``POST /x/keys``; without scopes a key may use agents and models, but administer nothing.

    A key that acts as a user does only what the user's roles allow, too.
    """

    name: Name = "key"
    scopes: Annotated[list[KeyScope], Field(min_length=1)] = [
        "workspace:developer",
        "workspace:inference",
    ]
    user_id: str | None = None
    expires_in_seconds: Annotated[int, Field(ge=60, le=MAX_LIFETIME_S)] | None = None


class ApiKey(Response):
    """An API key, without its secret."""

    id: str
    type: Literal["api_key"]
    name: str
    scopes: list[str]
    created_at: Timestamp
    revoked_at: Timestamp | None


class NewApiKey(ApiKey):
    """An API key with its secret, which is shown only once."""

    key: str

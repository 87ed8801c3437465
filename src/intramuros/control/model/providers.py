"""Model providers of the models file: where they are, and where their keys lie.

A key never stands in the file: it names an environment variable or a file of its own.
"""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

ProviderId = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]


class Provider(BaseModel):
    """One provider.

    Args:
        kind: what it speaks; ``openai`` is Chat Completions.
        base_url: with ``/v1`` where it has that.
        key_env, key_file: where its key lies; neither for servers that ask for none.
        limit_parameter: the parameter that bounds a reply; older servers know ``max_tokens`` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: ProviderId
    kind: Literal["openai"]
    base_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    key_env: (
        Annotated[str, StringConstraints(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
        | None
    ) = None
    key_file: Annotated[Path, Field()] | None = None
    limit_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"

    @field_validator("base_url")
    @classmethod
    def _address(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST or https://HOST")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("credentials, a query and a fragment have no place in it")
        return text

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.key_env and self.key_file:
            raise ValueError("key_env and key_file exclude each other")
        return self

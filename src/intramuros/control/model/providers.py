"""Model providers of the models file: what they speak, where they are, where their keys lie.

A key never stands in the file: it names an environment variable or a file of its own.
"""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

ProviderId = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST or https://HOST")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("credentials, a query and a fragment have no place in it")
    return text


Address = Annotated[str, StringConstraints(min_length=1, max_length=2048), AfterValidator(_address)]
# Regions and projects become parts of host names and paths.
_Place = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]*$")]


class _Provider(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: ProviderId


class _Keyed(_Provider):
    """Args:
    key_env, key_file: where the key lies; neither where none is asked for.
    """

    key_env: (
        Annotated[str, StringConstraints(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
        | None
    ) = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.key_env and self.key_file:
            raise ValueError("key_env and key_file exclude each other")
        return self


class ChatProvider(_Keyed):
    """A server that speaks Chat Completions.

    Args:
        base_url: with ``/v1`` where it has that.
        limit_parameter: the parameter that bounds a reply; older servers know ``max_tokens`` only.
        usage: whether the server counts tokens in its streams. Where it does not, they are
            ``estimated`` from the text, and the server is not asked for counts.
        reasoning_parameter: the member in which the server wants a model's own reasoning back, for
            models that go on with it between their calls; None for servers that refuse that.
    """

    kind: Literal["openai"]
    base_url: Address
    limit_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    usage: Literal["reported", "estimated"] = "reported"
    reasoning_parameter: Literal["reasoning_content", "reasoning"] | None = None


class MessagesProvider(_Keyed):
    """A server that speaks the Messages API.

    Args:
        base_url: without ``/v1``.
    """

    kind: Literal["anthropic"]
    base_url: Address = "https://api.anthropic.com"


class BedrockProvider(_Keyed):
    """Claude on Amazon Bedrock.

    Args:
        base_url: Bedrock's own of the region when None.
        key_env, key_file: where a Bedrock API key lies. Without one the requests are signed with
            what the AWS SDK finds: environment, profile, or the role of the machine.
        profile: of the AWS configuration files.
    """

    kind: Literal["bedrock"]
    region: _Place
    base_url: Address | None = None
    profile: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.profile and (self.key_env or self.key_file):
            raise ValueError("profile and a key exclude each other")
        return self


class VertexProvider(_Provider):
    """Claude on Google Vertex AI, with the application default credentials.

    Args:
        region: such as ``europe-west1`` or ``global``.
        base_url: Vertex's own of the region when None.
    """

    kind: Literal["vertex"]
    region: _Place
    project: _Place
    base_url: Address | None = None


KeyedProvider = ChatProvider | MessagesProvider | BedrockProvider
Provider = Annotated[KeyedProvider | VertexProvider, Field(discriminator="kind")]

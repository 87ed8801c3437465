"""Claude on Amazon Bedrock and on Google Vertex AI, by the clients of the official SDK.

Their credentials are the clouds' own: what their SDKs find in the environment, in a profile, or on
the machine. Both need libraries that only the extras ``bedrock`` and ``vertex`` install.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Final

import anyio
from anthropic import AsyncAnthropicBedrock, AsyncAnthropicVertex

from intramuros.control.model.anthropic import Account, AnthropicModel, timeout
from intramuros.control.model.providers import BedrockProvider, VertexProvider
from intramuros.kernel.errors import OperatorError

# For one token of Google's, its library's own tries included; that waits for minutes otherwise.
TOKEN_S: Final = 30.0


class PatientVertex(AsyncAnthropicVertex):
    """Fetches one token at a time, for all requests that need one, and not for ever.

    The SDK fetches it on a thread that nothing can stop; one for each request that waits would
    take all of the threads on which this process looks up names.
    """

    _fetching: anyio.Lock | None = None

    async def _ensure_access_token(self) -> str:
        if self._fetching is None:
            self._fetching = anyio.Lock()
        async with self._fetching:
            with anyio.fail_after(TOKEN_S):
                return await super()._ensure_access_token()


def bedrock(
    provider: BedrockProvider, key: str | None, upstream: Callable[[str], str]
) -> AnthropicModel:
    """Return the models of one region of Bedrock; nothing is sent yet.

    Args:
        key: a Bedrock API key; None to sign requests.
        upstream: Bedrock's name of a model, such as that of an inference profile.

    Raises:
        OperatorError: the AWS libraries are missing.
    """
    errors = _needed(provider.id, "botocore.exceptions", "bedrock")
    network = (errors("HTTPClientError"), errors("MetadataRetrievalError"))
    frames = _needed(provider.id, "botocore.eventstream", "bedrock")
    parsers = _needed(provider.id, "botocore.parsers", "bedrock")
    base_url = provider.base_url or f"https://bedrock-runtime.{provider.region}.amazonaws.com"
    client = AsyncAnthropicBedrock(
        api_key=key,
        # Every address is given, so that no variable of the SDK's leads elsewhere.
        base_url=base_url,
        aws_region=provider.region,
        aws_profile=provider.profile,
        max_retries=0,
        timeout=timeout(),
    )
    return AnthropicModel(
        client,
        Account(
            key,
            f"the AWS credentials of the provider {provider.id!r}",
            upstream,
            plain=False,
            refusals=(errors("BotoCoreError"), RuntimeError),
            passing=network,
            breaks=(frames("ParserError"), parsers("ResponseParserError")),
        ),
    )


def vertex(provider: VertexProvider, upstream: Callable[[str], str]) -> AnthropicModel:
    """Return the models of one region of Vertex AI; nothing is sent yet.

    Raises:
        OperatorError: Google's library is missing.
    """
    errors = _needed(provider.id, "google.auth.exceptions", "vertex")
    client = PatientVertex(
        region=provider.region,
        project_id=provider.project,
        base_url=provider.base_url or _vertex_address(provider.region),
        max_retries=0,
        timeout=timeout(),
    )
    return AnthropicModel(
        client,
        Account(
            None,
            f"the Google credentials of the provider {provider.id!r}",
            upstream,
            plain=False,
            refusals=(errors("GoogleAuthError"), TimeoutError, RuntimeError),
            passing=(errors("TransportError"), TimeoutError),
        ),
    )


def _vertex_address(region: str) -> str:
    if region == "global":
        return "https://aiplatform.googleapis.com/v1"
    if region in {"us", "eu"}:
        return f"https://aiplatform.{region}.rep.googleapis.com/v1"
    return f"https://{region}-aiplatform.googleapis.com/v1"


def _needed(provider_id: str, module: str, extra: str) -> Callable[[str], type[Exception]]:
    """Return a look-up of a library's exceptions."""
    try:
        found = import_module(module)
    except ImportError as error:
        raise OperatorError(
            f"the model provider {provider_id!r} needs the library {module.partition('.')[0]}",
            f"pip install 'intramuros[{extra}]'",
        ) from error

    def look_up(name: str) -> type[Exception]:
        named: type[Exception] = getattr(found, name)
        return named

    return look_up

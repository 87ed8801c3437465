"""Connects the providers that the models file names."""

from collections.abc import Callable, Mapping
from typing import Protocol

from intramuros.control.model.anthropic import Account, AnthropicModel
from intramuros.control.model.base import Delta, ModelReply, ModelRequest
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.chat_request import Reader
from intramuros.control.model.clouds import bedrock, vertex
from intramuros.control.model.keys import provider_key
from intramuros.control.model.providers import (
    BedrockProvider,
    ChatProvider,
    Provider,
    VertexProvider,
)
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError


class Host(Protocol):
    """A model with connections of its own."""

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Send the request; see :class:`~intramuros.control.model.base.Model`."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def connect(known: Catalogue, env: Mapping[str, str] | None = None) -> dict[str, Host]:
    """Return an adapter for each provider, by its id; nothing is sent yet.

    Raises:
        OperatorError: a key is missing, or the adapter's library.
    """
    env = environment() if env is None else env
    return {provider.id: _host(provider, known, env) for provider in known.providers}


def _host(provider: Provider, known: Catalogue, env: Mapping[str, str]) -> Host:
    def upstream(model: str) -> str:
        entry = known.find(model)
        return model if entry is None else entry.upstream_model or entry.id

    if isinstance(provider, VertexProvider):
        return vertex(provider, upstream)
    key = provider_key(provider, env)
    if isinstance(provider, BedrockProvider):
        return bedrock(provider, key, upstream)
    if isinstance(provider, ChatProvider):
        return _chat(provider, key, _reader(provider, known))
    account = Account(key, f"the key of the provider {provider.id!r}", upstream)
    return AnthropicModel.connect(provider.base_url, key, account)


def _chat(provider: ChatProvider, key: str | None, reader: Callable[[str], Reader]) -> Host:
    # Only servers that need the library load it: it is large.
    try:
        from intramuros.control.model.openai import OpenAIModel
    except ImportError as error:
        raise OperatorError(
            f"the model provider {provider.id!r} needs the openai library",
            "pip install 'intramuros[openai]'",
        ) from error
    return OpenAIModel.connect(provider.base_url, key, f"the provider {provider.id!r}", reader)


def _reader(provider: ChatProvider, known: Catalogue) -> Callable[[str], Reader]:
    def reader(model: str) -> Reader:
        entry = known.find(model)
        features = None if entry is None else entry.features
        return Reader(
            model if entry is None else entry.upstream_model or entry.id,
            images=features is None or "image_input" in features,
            pdfs=features is not None and "pdf_input" in features,
            limit=provider.limit_parameter,
            counts=provider.usage == "reported",
            reasoning=provider.reasoning_parameter,
        )

    return reader

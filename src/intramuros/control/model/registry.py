"""Which adapter serves which model id, and which model answers when another cannot."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from intramuros.control.model.anthropic import DEFAULT_BASE_URL, AnthropicModel
from intramuros.control.model.base import (
    Delta,
    Failure,
    ModelError,
    ModelReply,
    ModelRequest,
)
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.model.chain import Chain
from intramuros.control.model.chat_reply import without_unsigned
from intramuros.control.model.cost import tokens_cost
from intramuros.control.model.hosts import Host, connect
from intramuros.control.model.scripted import PREFIX, ScriptedModel


class Models:
    """All models of a server, behind the one ``Model`` protocol.

    Args:
        base_url: a Messages-compatible provider; Anthropic's own when only a key is given.
        api_key: the provider's key.
        scripts: directory of scripts for ``scripted/<name>``.
        known: what models take and who serves them; a setting that a model lacks is left out of
            its requests.
        env: where the keys of further providers lie; the process's environment when None.

    Raises:
        OperatorError: a provider's key is missing, or its adapter is not installed.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        scripts: Path | None = None,
        known: Catalogue | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.known = known or shipped_catalogue()
        self._chain = Chain(self._priced, self.known)
        self._scripted = ScriptedModel(scripts)
        self._hosts: Mapping[str, Host] = connect(self.known, env)
        self._anthropic: AnthropicModel | None = None
        if base_url or api_key:
            self._anthropic = AnthropicModel.connect(base_url or DEFAULT_BASE_URL, api_key)

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Send the request to the model's adapter, or to those that answer in its place.

        The reply names, and is priced as, the model that answered (``chain.py``).

        Raises:
            ModelError: no adapter serves this model, or the adapter's own; of several models, the
                first one's.
        """
        return await self._chain.run(request, on_delta)

    async def _priced(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        reply = await self._run(request, on_delta)
        price = self.known.price(request.model)
        if price is None:
            return reply
        return replace(reply, cost=tokens_cost(price, reply.usage.tokens))

    async def _run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        if request.model.startswith(PREFIX):
            return await self._scripted.run(request, on_delta)
        host = self.host(request.model)
        if host is not None and request.inference_geo not in (None, "global"):
            raise ModelError(
                Failure.REQUEST_FAILED,
                f"{request.model!r} is served by a provider that cannot be pinned to "
                f"{request.inference_geo!r}: take the agent's inference_geo away, or its model",
                retryable=False,
            )
        adapter = host or self._anthropic
        if adapter is None:
            raise ModelError(
                Failure.REQUEST_FAILED,
                f"no model provider is configured for {request.model!r}: "
                "set ANTHROPIC_UPSTREAM_API_KEY or start the server with --model-base-url",
                retryable=False,
            )
        if self._hosts and isinstance(adapter, AnthropicModel):
            # Another provider's model may have thought earlier in this conversation.
            request = replace(request, messages=without_unsigned(request.messages))
        return await adapter.run(fitting(request, self.known), on_delta)

    def host(self, model: str) -> Host | None:
        """Return the adapter of a model that the models file gives to a provider of its own."""
        entry = self.known.find(model)
        return None if entry is None or entry.provider is None else self._hosts[entry.provider]

    def window(self, model: str) -> int | None:
        """Return how many tokens a model can read at once, or None where nobody knows."""
        entry = self.known.find(model)
        return None if entry is None else entry.max_input_tokens

    async def aclose(self) -> None:
        """Close the adapters' connections."""
        if self._anthropic is not None:
            await self._anthropic.aclose()
        for host in self._hosts.values():
            await host.aclose()


def fitting(request: ModelRequest, known: Catalogue) -> ModelRequest:
    """Return the request without what its model is known to lack.

    Of models behind other providers nothing is promised: an effort goes out only to those whose
    entry lists it, since most of these servers refuse parameters that they do not know.
    """
    entry = known.find(request.model)
    if entry is None:
        return request
    levels = entry.effort.levels if entry.effort else None
    if levels is None:
        lacks = entry.provider is not None
    else:
        lacks = not levels or (entry.provider is not None and request.effort not in levels)
    most = entry.max_tokens or request.max_tokens
    return replace(
        request,
        effort=None if lacks else request.effort,
        max_tokens=min(request.max_tokens, most),
    )

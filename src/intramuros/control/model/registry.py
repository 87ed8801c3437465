"""Which adapter serves which model id."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from intramuros.control.model.anthropic import DEFAULT_BASE_URL, AnthropicModel
from intramuros.control.model.base import Delta, Failure, ModelError, ModelReply, ModelRequest
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.model.cost import tokens_cost
from intramuros.control.model.scripted import PREFIX, ScriptedModel


class Models:
    """All models of a server, behind the one ``Model`` protocol.

    Args:
        base_url: a Messages-compatible provider; Anthropic's own when only a key is given.
        api_key: the provider's key.
        scripts: directory of scripts for ``scripted/<name>``.
        known: what models take; a setting that a model lacks is left out of its requests.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        scripts: Path | None = None,
        known: Catalogue | None = None,
    ) -> None:
        self._known = known or shipped_catalogue()
        self._scripted = ScriptedModel(scripts)
        self._anthropic: AnthropicModel | None = None
        if base_url or api_key:
            self._anthropic = AnthropicModel.connect(base_url or DEFAULT_BASE_URL, api_key)

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Send the request to the model's adapter, and price the reply.

        Raises:
            ModelError: no adapter serves this model, or the adapter's own.
        """
        reply = await self._run(request, on_delta)
        price = self._known.price(request.model)
        if price is None:
            return reply
        return replace(reply, cost=tokens_cost(price, reply.usage.tokens))

    async def _run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        if request.model.startswith(PREFIX):
            return await self._scripted.run(request, on_delta)
        if self._anthropic is None:
            raise ModelError(
                Failure.REQUEST_FAILED,
                f"no model provider is configured for {request.model!r}: "
                "set ANTHROPIC_UPSTREAM_API_KEY or start the server with --model-base-url",
                retryable=False,
            )
        if request.effort and not self._known.takes_effort(request.model):
            request = replace(request, effort=None)
        return await self._anthropic.run(request, on_delta)

    def window(self, model: str) -> int | None:
        """Return how many tokens a model can read at once, or None where nobody knows."""
        entry = self._known.find(model)
        return None if entry is None else entry.max_input_tokens

    async def aclose(self) -> None:
        """Close the adapters' connections."""
        if self._anthropic is not None:
            await self._anthropic.aclose()

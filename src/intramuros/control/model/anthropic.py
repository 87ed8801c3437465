"""Anthropic's Messages API, or any server that speaks it, through the official SDK."""

import json
from collections.abc import Callable, Mapping
from typing import Final

import anthropic
import httpx2
from anthropic import AsyncAnthropic, AsyncStream

from intramuros.control.model.assemble import Assembler, BadStream
from intramuros.control.model.base import Delta, Failure, ModelError, ModelReply, ModelRequest
from intramuros.control.model.failures import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    clean,
    retry_after_s,
)
from intramuros.control.model.keys import checked_key

DEFAULT_BASE_URL: Final = "https://api.anthropic.com"

_FAILURES: Final[Mapping[str, tuple[Failure, bool]]] = {
    "overloaded_error": (Failure.OVERLOADED, True),
    "rate_limit_error": (Failure.RATE_LIMITED, True),
    "api_error": (Failure.REQUEST_FAILED, True),
    "timeout_error": (Failure.REQUEST_FAILED, True),
    "billing_error": (Failure.BILLING, False),
}
_CACHE: Final = {"type": "ephemeral"}
_ADVICE: Final[Mapping[int, str]] = {
    401: "the model provider refused our key; set ANTHROPIC_UPSTREAM_API_KEY to a valid one",
    402: "the model provider wants payment; check the account behind our key",
    403: "the model provider does not let our key use this model",
    404: "the model provider does not know this model or address",
    413: "the conversation is larger than the model provider accepts",
}


class AnthropicModel:
    """A :class:`~intramuros.control.model.base.Model` over one pooled client."""

    def __init__(self, client: AsyncAnthropic, key: str | None = None) -> None:
        """Take a client, and its key so that no message to a session repeats it."""
        self._client = client
        self._key = key

    @classmethod
    def connect(cls, base_url: str, api_key: str | None) -> "AnthropicModel":
        """Make a model with a client of its own; nothing is sent yet.

        Args:
            base_url: the provider, without ``/v1``.
            api_key: its key; None for servers that ask for none.

        Raises:
            OperatorError: the key cannot be sent.
        """
        key = checked_key(api_key, "ANTHROPIC_UPSTREAM_API_KEY")
        # Base URL and key are always given, so that the SDK never looks at its own environment
        # variables: they may point at this very server. Retries are the loop's, which logs them.
        return cls(
            AsyncAnthropic(
                base_url=base_url,
                api_key=key or "none",
                max_retries=0,
                timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            ),
            key,
        )

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Stream one request.

        Raises:
            ModelError: the provider refused, failed or broke off.
        """
        assembler = Assembler()
        try:
            # The SDK's own door for plain data: its typed one walks the whole conversation once
            # more, and makes objects of events that the assembler checks anyhow.
            stream = await self._client.post(
                "/v1/messages",
                cast_to=object,
                content=_body(request),
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with stream:
                async for event in stream:
                    delta = assembler.feed(_members(event))
                    if delta is not None:
                        on_delta(delta)
            return assembler.reply
        except anthropic.APIStatusError as error:
            raise _refused(error, self._clean) from error
        except (anthropic.APIError, httpx2.HTTPError, BadStream, ValueError) as error:
            raise ModelError(
                Failure.REQUEST_FAILED,
                f"the model provider's answer broke off ({self._clean(_why(error))})",
                retryable=True,
            ) from error

    def _clean(self, text: str) -> str:
        return clean(text, self._key)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _members(event: object) -> Mapping[str, object]:
    if not isinstance(event, dict):
        raise BadStream("an event is no JSON object")
    return event


def _body(request: ModelRequest) -> bytes:
    parameters: dict[str, object] = {
        "model": request.model,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "stream": True,
    }
    if request.system:
        # Tools and system prompt outlive a conversation that was compacted.
        parameters["system"] = [{"type": "text", "text": request.system, "cache_control": _CACHE}]
    if request.tools:
        parameters["tools"] = request.tools
    if request.must_call:
        forced = {"type": "tool", "name": request.must_call, "disable_parallel_tool_use": True}
        parameters["tool_choice"] = forced
    if request.effort:
        parameters["output_config"] = {"effort": request.effort}
    return json.dumps(
        parameters, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode()


def _refused(error: anthropic.APIStatusError, cleaned: Callable[[str], str]) -> ModelError:
    """Classify an error answer, or an error event in a stream that began with status 200."""
    status = error.status_code
    failure, retryable = _FAILURES.get(error.type or "", (Failure.REQUEST_FAILED, False))
    if status == 429:
        failure, retryable = Failure.RATE_LIMITED, True
    elif status == 529:
        failure, retryable = Failure.OVERLOADED, True
    elif status == 402:
        failure, retryable = Failure.BILLING, False
    elif status >= 500 or status in {408, 409}:
        retryable = failure is not Failure.BILLING
    elif status in {400, 401, 403, 404, 413}:
        retryable = False
    verdict = error.response.headers.get("x-should-retry")
    if verdict in {"true", "false"} and status != 200:
        retryable = verdict == "true"
    said = error.api_message or f"status {status}"
    advice = _ADVICE.get(status)
    message = f"{advice} ({said})" if advice else f"the model provider answered: {said}"
    return ModelError(
        failure,
        cleaned(message),
        retryable=retryable,
        retry_after_s=retry_after_s(error.response.headers) if retryable else None,
        too_long=status == 413,
    )


def _why(error: Exception) -> str:
    if isinstance(error, anthropic.APITimeoutError | httpx2.TimeoutException):
        return "timeout"
    if isinstance(error, anthropic.APIConnectionError | httpx2.HTTPError):
        cause = error.__cause__ or error
        if isinstance(cause, httpx2.LocalProtocolError):
            return "our request could not be sent"  # its text may quote a header
        return str(cause) or type(cause).__name__
    return str(error)

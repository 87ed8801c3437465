"""Anthropic's Messages API, or any server or cloud that speaks it, through the official SDK."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anthropic
import httpx2
from anthropic import AsyncAnthropic, AsyncAnthropicBedrock, AsyncAnthropicVertex, AsyncStream

from intramuros.control.model import places
from intramuros.control.model.assemble import Assembler, BadStream
from intramuros.control.model.base import Delta, Failure, ModelError, ModelReply, ModelRequest
from intramuros.control.model.failures import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    clean,
    retry_after_s,
)
from intramuros.control.model.keys import checked_key
from intramuros.control.model.places import Place

Json = Mapping[str, Any]
Client = AsyncAnthropic | AsyncAnthropicBedrock | AsyncAnthropicVertex

DEFAULT_BASE_URL: Final = "https://api.anthropic.com"
DEFAULT_KEY: Final = "ANTHROPIC_UPSTREAM_API_KEY"

# By the type of an error: the API's own, then those that Bedrock sends within streams.
_FAILURES: Final[Mapping[str, tuple[Failure, bool]]] = {
    "overloaded_error": (Failure.OVERLOADED, True),
    "rate_limit_error": (Failure.RATE_LIMITED, True),
    "api_error": (Failure.REQUEST_FAILED, True),
    "timeout_error": (Failure.REQUEST_FAILED, True),
    "billing_error": (Failure.BILLING, False),
    "throttlingException": (Failure.RATE_LIMITED, True),
    "serviceUnavailableException": (Failure.OVERLOADED, True),
    "internalServerException": (Failure.REQUEST_FAILED, True),
    "modelStreamErrorException": (Failure.REQUEST_FAILED, True),
    "modelTimeoutException": (Failure.REQUEST_FAILED, True),
}
_OURS: Final = frozenset({"invalid_request_error", "validationException"})
# No code tells a conversation that is too long from any other refused request; these words do.
_TOO_LONG: Final = (
    "prompt is too long",
    "input is too long",
    "exceed context limit",
    "too many total text bytes",
)
_BREAKS: Final = (anthropic.APIError, httpx2.HTTPError, BadStream, ValueError)
_CACHE: Final = {"type": "ephemeral"}
_ADVICE: Final[Mapping[int, str]] = {
    401: "the model provider refused our key; check {where}",
    402: "the model provider wants payment; check the account behind {where}",
    403: "the model provider does not let our key use this model; check {where}",
    404: "the model provider does not know this model or address",
    413: "the conversation is larger than the model provider accepts",
}


@dataclass(frozen=True)
class Account:
    """On whose account requests go out.

    Args:
        key: so that no message to a session repeats it.
        where: what errors call the place of the credential.
        upstream: the provider's name of a model that is asked for; None where they are the same.
        plain: whether requests go out as they are; clouds move parts of them.
        refusals: what looking for credentials may raise.
        passing: those of them that may pass, because somebody could not be reached.
        breaks: what reading a broken stream may raise, besides what the SDK raises.
    """

    key: str | None = field(default=None, repr=False)
    where: str = DEFAULT_KEY
    upstream: Callable[[str], str] | None = None
    plain: bool = True
    refusals: tuple[type[Exception], ...] = ()
    passing: tuple[type[Exception], ...] = ()
    breaks: tuple[type[Exception], ...] = ()

    def model(self, name: str) -> str:
        """Return the provider's name of a model."""
        return self.upstream(name) if self.upstream else name


class AnthropicModel:
    """A :class:`~intramuros.control.model.base.Model` over one pooled client."""

    def __init__(self, client: Client, account: Account | None = None) -> None:
        """Take a client, which must not retry."""
        self._client = client
        self._account = account or Account()

    @classmethod
    def connect(
        cls, base_url: str, api_key: str | None, account: Account | None = None
    ) -> "AnthropicModel":
        """Make a model with a client of its own; nothing is sent yet.

        Args:
            base_url: the provider, without ``/v1``.
            api_key: its key; None for servers that ask for none.
            account: the server's main one if None.

        Raises:
            OperatorError: the key cannot be sent.
        """
        key = checked_key(api_key, DEFAULT_KEY)
        # Base URL and key are always given, so that the SDK never looks at its own environment
        # variables: they may point at this very server. Retries are the loop's, which logs them.
        return cls(
            AsyncAnthropic(
                base_url=base_url,
                api_key=key or "none",
                max_retries=0,
                timeout=timeout(),
            ),
            account or Account(key),
        )

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Stream one request.

        Raises:
            ModelError: the provider refused, failed or broke off.
        """
        assembler = Assembler(strict=False)
        async with self._events(_parameters(request)) as stream:
            async for event in stream:
                delta = assembler.feed(_members(event))
                if delta is not None:
                    on_delta(delta)
            return assembler.reply

    async def relay(
        self, body: Json, headers: Mapping[str, str], emit: Callable[[Json], Awaitable[None]]
    ) -> None:
        """Send a request of the Messages API as it is, and pass on each event of its stream.

        Args:
            headers: the caller's that matter to the provider; never its credential.

        Raises:
            ModelError: the provider refused, failed or broke off.
        """
        async with self._events({**body, "stream": True}, headers) as stream:
            async for event in stream:
                await emit(_members(event))

    async def count(self, body: Json, headers: Mapping[str, str]) -> int | None:
        """Return how many input tokens a request has; None where the provider cannot count.

        Raises:
            ModelError: the provider refused or failed.
        """
        if isinstance(self._client, AsyncAnthropicBedrock):
            return None
        with self._told():
            answer: object = await self._client.post(
                "/v1/messages/count_tokens",
                cast_to=object,
                body={**body, "model": self._account.model(str(body["model"]))},
                options={"headers": dict(headers)},
            )
            count = _members(answer).get("input_tokens")
            if not isinstance(count, int):
                raise BadStream("the answer holds no count")
            return count

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    @asynccontextmanager
    async def _events(
        self, parameters: Json, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncStream[object]]:
        body = {**parameters, "model": self._account.model(str(parameters["model"]))}
        with self._told():
            # The SDK's own door for plain data: its typed one walks the whole conversation once
            # more, and makes objects of events that the assembler checks anyhow.
            stream = await self._client.post(
                "/v1/messages",
                cast_to=object,
                content=_encoded(body) if self._account.plain else None,
                body=None if self._account.plain else body,
                options={"headers": dict(headers or {})},
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with stream:
                yield stream

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell whatever goes wrong inside as a ModelError."""
        breaks: tuple[type[Exception], ...] = (*_BREAKS, *self._account.breaks)
        try:
            yield
        except anthropic.APIStatusError as error:
            raise self._refused(error) from error
        except self._account.refusals as error:
            raise ModelError(
                Failure.REQUEST_FAILED,
                self._clean(f"no credentials for {self._account.where}: {_why(error)}"),
                retryable=self._passes(error),
            ) from error
        except breaks as error:
            raise ModelError(
                Failure.REQUEST_FAILED,
                f"the model provider's answer broke off ({self._clean(_why(error))})",
                retryable=True,
            ) from error

    def _refused(self, error: anthropic.APIStatusError) -> ModelError:
        """Classify an error answer, or an error event in a stream that began with status 200."""
        status, said = error.status_code, _said(error)
        failure, retryable = _verdict(error)
        refused = status in {400, 422} or (status == 200 and error.type in _OURS)
        too_long = status == 413 or (refused and any(w in said.lower() for w in _TOO_LONG))
        advice = _ADVICE.get(status, "").format(where=self._account.where)
        ours = refused and not retryable and failure is not Failure.BILLING
        place = _place(error, said, ours=ours and not too_long, failure=failure)
        return ModelError(
            failure,
            self._clean(f"{advice} ({said})" if advice else f"the model provider answered: {said}"),
            retryable=retryable,
            retry_after_s=retry_after_s(error.response.headers) if retryable else None,
            too_long=too_long,
            ours=ours,
        ).at(place, thoughts=ours and place is not None and places.of_thoughts(said))

    def _passes(self, error: Exception) -> bool:
        """Tell whether credentials that were not to be had may be, a little later."""
        passing = self._account.passing
        return (
            bool(getattr(error, "retryable", False))
            or isinstance(error, passing)
            or isinstance(error.__cause__, passing)
        )

    def _clean(self, text: str) -> str:
        return clean(text, self._account.key)


def timeout() -> httpx2.Timeout:
    """Return the limits on waiting of every client."""
    return httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)


def _members(event: object) -> Mapping[str, object]:
    if not isinstance(event, dict):
        raise BadStream("an event is no JSON object")
    return event


def _parameters(request: ModelRequest) -> dict[str, object]:
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
    if request.inference_geo:
        parameters["inference_geo"] = request.inference_geo
    if request.effort:
        parameters["output_config"] = {"effort": request.effort}
    return parameters


def _encoded(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _verdict(error: anthropic.APIStatusError) -> tuple[Failure, bool]:
    """Return what kind of failure it is, and whether it may pass."""
    status = error.status_code
    failure, retryable = _FAILURES.get(error.type or "", (Failure.REQUEST_FAILED, False))
    if status == 429:
        failure, retryable = Failure.RATE_LIMITED, True
    elif status == 529:
        failure, retryable = Failure.OVERLOADED, True
    elif status == 402:
        failure, retryable = Failure.BILLING, False
    elif status >= 500 or status in {408, 409, 424}:
        retryable = failure is not Failure.BILLING
    elif status in {400, 401, 403, 404, 413, 422}:
        retryable = False
    verdict = error.response.headers.get("x-should-retry")
    if verdict in {"true", "false"} and status != 200:
        retryable = verdict == "true"
    return failure, retryable


def _place(
    error: anthropic.APIStatusError, said: str, *, ours: bool, failure: Failure
) -> Place | None:
    if ours:
        return places.named(said)
    broke = error.status_code >= 500 and failure is Failure.REQUEST_FAILED
    return places.hinted(said) if broke else None


def _said(error: anthropic.APIStatusError) -> str:
    """Return the provider's own words; the clouds have bodies of their own."""
    body = error.body
    if isinstance(body, list) and body:
        body = body[0]
    members = body if isinstance(body, dict) else {}
    inner = members.get("error")
    said = (inner if isinstance(inner, dict) else members).get("message")
    said = said or error.api_message
    return said if isinstance(said, str) and said else f"status {error.status_code}"


def _why(error: Exception) -> str:
    if isinstance(error, anthropic.APITimeoutError | httpx2.TimeoutException | TimeoutError):
        return "timeout"
    if isinstance(error, anthropic.APIConnectionError | httpx2.HTTPError):
        cause = error.__cause__ or error
        if isinstance(cause, httpx2.LocalProtocolError):
            return "our request could not be sent"  # its text may quote a header
        return str(cause) or type(cause).__name__
    return str(error)

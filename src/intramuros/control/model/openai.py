"""Chat Completions of OpenAI, or of any server that speaks them, through the official SDK."""

import json
import secrets
from collections.abc import Callable, Mapping, Set
from typing import Final

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream

from intramuros.control.model import places
from intramuros.control.model.assemble import BadStream
from intramuros.control.model.base import Delta, Failure, ModelError, ModelReply, ModelRequest
from intramuros.control.model.chat_reply import ChatAssembler
from intramuros.control.model.chat_request import (
    Reader,
    body,
    call_ids,
    estimated_tokens,
    origin,
    tool_names,
)
from intramuros.control.model.failures import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    clean,
    retry_after_s,
)
from intramuros.control.model.places import Place

# Codes, types and words by which servers say that the conversation is too long.
_TOO_LONG: Final = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "maximum context length",
    "context window",
    "context size",
)
_UNPAID: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_ADVICE: Final[Mapping[int, str]] = {
    401: "the model provider refused our key; check the key of {where}",
    402: "the model provider wants payment; check the account behind {where}",
    403: "the model provider does not let the key of {where} use this model",
    404: "{where} does not know this model or address; check them in the models file",
    413: "the conversation is larger than the model provider accepts",
}
_NO_STATUS: Final = 0


class OpenAIModel:
    """A :class:`~intramuros.control.model.base.Model` over one pooled client.

    Args:
        client: sends the requests; it must not retry.
        key: its key, so that no message to a session repeats it.
        where: what errors call the provider.
        reader: what the model of an id can be shown.
    """

    def __init__(
        self, client: AsyncOpenAI, key: str | None, where: str, reader: Callable[[str], Reader]
    ) -> None:
        self._client = client
        self._key = key
        self._where = where
        self._reader = reader

    @classmethod
    def connect(
        cls, base_url: str, key: str | None, where: str, reader: Callable[[str], Reader]
    ) -> "OpenAIModel":
        """Make a model with a client of its own; nothing is sent yet.

        Args:
            base_url: the provider, with ``/v1`` where it has that.
        """
        # Everything is given, so that the SDK's own environment variables decide nothing: an
        # installation may know several providers. Retries are the loop's, which logs them.
        client = AsyncOpenAI(
            base_url=base_url,
            api_key=key or "none",
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            default_headers={"Authorization": f"Bearer {key or 'none'}"},
            max_retries=0,
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )
        client.organization = client.project = None
        client.admin_api_key = client.webhook_secret = None
        return cls(client, key, where, reader)

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Stream one request.

        Raises:
            ModelError: the provider refused, failed or broke off.
        """
        reader = self._reader(request.model)
        parameters = body(request, reader)
        assembler = ChatAssembler(
            tool_names(request),
            call_ids(request),
            lambda: f"call_{secrets.token_hex(12)}",
            None if reader.counts else estimated_tokens(parameters),
        )
        try:
            # Plain data, as in the adapter of the Messages API: the assembler checks it.
            stream = await self._client.post(
                "/chat/completions",
                cast_to=object,
                body=parameters,
                stream=True,
                stream_cls=AsyncStream[object],
            )
            async with stream:
                async for chunk in stream:
                    if not isinstance(chunk, Mapping):
                        raise BadStream("a chunk is no JSON object")
                    for delta in assembler.feed(chunk):
                        on_delta(delta)
            return assembler.reply
        except openai.APIConnectionError as error:
            raise self._broken(error) from error
        except openai.APIError as error:
            if error.code == "content_filter":
                return ModelReply((), "refusal")  # the prompt itself was filtered, at no cost
            refused = self._refused(error)
            if refused.place:
                refused.at(origin(request, reader, refused.place))
            raise refused from error
        except (openai.OpenAIError, httpx2.HTTPError, BadStream, ValueError) as error:
            raise self._broken(error) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _broken(self, error: Exception) -> ModelError:
        return ModelError(
            Failure.REQUEST_FAILED,
            f"the model provider's answer broke off ({clean(_why(error), self._key)})",
            retryable=True,
        )

    def _refused(self, error: openai.APIError) -> ModelError:
        """Classify an error answer, or an error in a stream that began with status 200."""
        status = _status(error)
        said = _said(error)
        named = f"{error.code} {error.type} {said}".lower()
        too_long = status == 413 or (
            status in {_NO_STATUS, 400, 422} and any(words in named for words in _TOO_LONG)
        )
        failure, retryable = _verdict(status, error)
        headers: Mapping[str, str] = {}
        if isinstance(error, openai.APIStatusError):
            headers = error.response.headers
            verdict = headers.get("x-should-retry")
            if verdict in {"true", "false"} and failure is not Failure.BILLING:
                retryable = verdict == "true"
        advice = _ADVICE.get(status, "").format(where=self._where)
        message = f"{advice} ({said})" if advice else f"the model provider answered: {said}"
        retryable = retryable and not too_long
        ours = _is_ours(status, error) and not retryable and failure is not Failure.BILLING
        return ModelError(
            failure,
            clean(message, self._key),
            retryable=retryable,
            retry_after_s=retry_after_s(headers) if retryable else None,
            too_long=too_long,
            ours=ours,
        ).at(_place(status, error, said, ours=ours and not too_long, failure=failure))


def _status(error: openai.APIError) -> int:
    if isinstance(error, openai.APIStatusError):
        return error.status_code
    # Within a stream some servers give the status as the error's code.
    code = error.code or ""
    return int(code) if code.isascii() and code.isdigit() and len(code) == 3 else _NO_STATUS


def _verdict(status: int, error: openai.APIError) -> tuple[Failure, bool]:
    """Return what kind of failure it is, and whether it may pass."""
    names = {error.code, error.type}
    if status == 402 or names & _UNPAID:
        return Failure.BILLING, False
    if status == _NO_STATUS:
        return _named(names)
    if status == 429:
        return Failure.RATE_LIMITED, True
    if status in {503, 529}:
        return Failure.OVERLOADED, True
    return Failure.REQUEST_FAILED, status >= 500 or status in {408, 409, 425}


def _named(names: Set[str | None]) -> tuple[Failure, bool]:
    """Return the verdict on an error without a status: one within a stream."""
    if "rate_limit_exceeded" in names:
        return Failure.RATE_LIMITED, True
    if "overloaded_error" in names:
        return Failure.OVERLOADED, True
    return Failure.REQUEST_FAILED, "invalid_request_error" not in names


def _is_ours(status: int, error: openai.APIError) -> bool:
    """Return whether the request itself was refused."""
    named = status == _NO_STATUS and "invalid_request_error" in {error.code, error.type}
    return named or status in {400, 422}


def _place(
    status: int, error: openai.APIError, said: str, *, ours: bool, failure: Failure
) -> Place | None:
    if ours:
        return places.named(said, error.param if isinstance(error.param, str) else None)
    broke = status >= 500 and failure is Failure.REQUEST_FAILED
    return places.hinted(said) if broke else None


def _said(error: openai.APIError) -> str:
    """Return the provider's own words; the SDK wraps them into its own where it can."""
    found = error.body.get("message") if isinstance(error.body, Mapping) else None
    if isinstance(found, str) and found:
        return found
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}"
    return error.message


def _why(error: Exception) -> str:
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return "timeout"
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        cause = error.__cause__ or error
        if isinstance(cause, httpx2.LocalProtocolError):
            return "our request could not be sent"  # its text may quote a header
        return str(cause) or type(cause).__name__
    if isinstance(error, json.JSONDecodeError):
        return "a chunk is no JSON"
    return str(error)

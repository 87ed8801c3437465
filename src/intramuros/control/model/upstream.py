"""The model provider over plain HTTP: bytes in, bytes out, our key on the way, errors renamed."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2

from intramuros.kernel.errors import (
    DomainError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
    Unavailable,
)
from intramuros.kernel.telemetry import logger, mask_text

log = logger("upstream")

CONNECT_TIMEOUT_S: Final = 10.0
# Providers answer a request without streaming only when all of it is done.
READ_TIMEOUT_S: Final = 600.0
MAX_ERROR_BYTES: Final = 64 * 1024
MESSAGE_LIMIT: Final = 2_000

_KINDS: Final[Mapping[int, type[DomainError]]] = {
    400: InvalidRequest,
    404: NotFound,
    413: TooLarge,
    422: InvalidRequest,
    429: RateLimited,
    529: Overloaded,
}
# Error types inside a stream that began with status 200.
_STATUSES: Final[Mapping[object, int]] = {
    "invalid_request_error": 400,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
# What only the operator can cure; the caller's own key has nothing to do with it.
_OURS: Final[Mapping[int, str]] = {
    401: "the model provider refused this server's key",
    402: "the model provider wants payment for this server's key",
    403: "the model provider does not allow this server's key to do that",
}


class Upstream:
    """One pooled connection to a Messages-compatible provider.

    Args:
        base_url: the provider, without ``/v1``; None when there is none.
        api_key: its key; None for servers that ask for none.
    """

    def __init__(self, base_url: str | None, api_key: str | None) -> None:
        self._base_url = base_url.rstrip("/") if base_url else None
        self._key = {"x-api-key": api_key} if api_key else {}
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_connections=None),
            # The operator names the provider; nothing in the environment changes the way to it.
            trust_env=False,
        )

    @asynccontextmanager
    async def send(
        self, path: str, content: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        """Send a JSON body and give the answer, whose body is still to be read.

        Leaving the block ends the request, so a caller that left costs no more tokens.

        Args:
            path: such as ``/v1/messages``.
            headers: the caller's that matter to the provider; never its credential.

        Raises:
            DomainError: there is no provider, it is away, or it refused.
        """
        if self._base_url is None:
            raise Unavailable(
                "no model provider is configured: set ANTHROPIC_UPSTREAM_API_KEY or start the "
                "server with --model-base-url",
                should_retry=False,
            )
        sent = {
            **headers,
            **self._key,
            "content-type": "application/json",
            # What comes back is handed on as it is.
            "accept-encoding": "identity",
        }
        request = self._http.build_request(
            "POST", f"{self._base_url}{path}", content=content, headers=sent
        )
        try:
            response = await self._http.send(request, stream=True)
        except httpx2.TimeoutException as error:
            raise Unavailable("the model provider did not answer in time") from error
        except httpx2.HTTPError as error:
            raise Unavailable("the model provider cannot be reached") from error
        try:
            if response.status_code != 200:
                raise await _refusal(response)
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def broken(error: Mapping[str, Any]) -> DomainError:
    """Return the error that a provider's stream ended with; ``error`` is its ``error`` member."""
    return _named(_STATUSES.get(error.get("type"), 500), error, {})


async def _refusal(response: httpx2.Response) -> DomainError:
    data = b""
    try:
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > MAX_ERROR_BYTES:
                break
        parsed = json.loads(data)
    except (ValueError, RecursionError, httpx2.HTTPError):
        parsed = None
    inner = parsed.get("error") if isinstance(parsed, dict) else None
    log.info(
        "provider_refused",
        status=response.status_code,
        provider_request=response.headers.get("request-id", "")[:80],
    )
    return _named(response.status_code, inner if isinstance(inner, dict) else {}, response.headers)


def _named(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> DomainError:
    said = error.get("message")
    said = mask_text(said)[:MESSAGE_LIMIT] if isinstance(said, str) else f"status {status}"
    if status in _OURS:
        log.error("provider_refuses_us", status=status, said=said)
        return Unavailable(f"{_OURS[status]}; its operator has to see to it", should_retry=False)
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    kind = _KINDS.get(status, Unavailable)
    return kind(
        said if kind is not Unavailable else f"the model provider failed: {said}",
        code=code if isinstance(code, str) else None,
        retry_after_s=_seconds(headers),
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
    )


def _seconds(headers: Mapping[str, str]) -> float | None:
    try:
        wish = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return wish if 0 <= wish < 86_400 else None

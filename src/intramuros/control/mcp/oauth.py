"""One exchange of a refresh token for a new access token (RFC 6749 section 6, RFC 8707)."""

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import quote_plus

import anyio
import httpx2

from intramuros.control.mcp.answer import Answer, read_answer
from intramuros.kernel.errors import IntramurosError

EXCHANGE_TIMEOUT_S: Final = 20.0
# Longer lifetimes are a mistake of the server; so is a token that no header could carry.
_MAX_LIFETIME_S: Final = 10 * 365 * 24 * 3600
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}\Z")


@dataclass(frozen=True)
class Grant:
    """What a token endpoint is told; ``auth`` is the contract's kind of client authentication."""

    token_endpoint: str
    client_id: str
    auth: str
    refresh_token: str = field(repr=False)
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None
    resource: str | None = None


@dataclass(frozen=True)
class Tokens:
    """What a token endpoint gave; the refresh token is None unless it was replaced."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime_s: float | None


class RefreshFailed(IntramurosError):
    """No new access token was had.

    ``gone`` tells that the grant itself is refused, which no retry cures; ``answer`` is what the
    endpoint said, or None if it could not be asked.
    """

    def __init__(self, message: str, *, gone: bool = False, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.gone = gone
        self.answer = answer


async def exchange(transport: httpx2.AsyncBaseTransport, grant: Grant) -> Tokens:
    """Ask the token endpoint once.

    Args:
        transport: leads to the endpoint; closed afterwards.

    Raises:
        RefreshFailed: it refused, answered nonsense, or could not be reached in time.
    """
    answer: Answer | None = None
    try:
        with anyio.move_on_after(EXCHANGE_TIMEOUT_S):
            async with httpx2.AsyncClient(transport=transport, timeout=EXCHANGE_TIMEOUT_S) as http:
                request = http.build_request(
                    "POST", grant.token_endpoint, data=_form(grant), headers=_headers(grant)
                )
                answer = await read_answer(await http.send(request, stream=True))
    except httpx2.HTTPError as error:
        raise RefreshFailed("the token endpoint cannot be reached") from error
    if answer is None:
        raise RefreshFailed("the token endpoint did not answer in time")
    said = _json(answer)
    if answer.status != 200:
        gone = answer.status in (400, 401) and said.get("error") == "invalid_grant"
        why = "the grant is gone (invalid_grant)" if gone else f"HTTP {answer.status}"
        raise RefreshFailed(f"the token endpoint refused: {why}", gone=gone, answer=answer)
    return _tokens(said, answer)


def _form(grant: Grant) -> dict[str, str]:
    form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
    if grant.scope:
        form["scope"] = grant.scope
    if grant.resource:
        form["resource"] = grant.resource
    if grant.auth != "client_secret_basic":
        form["client_id"] = grant.client_id
    if grant.auth == "client_secret_post":
        form["client_secret"] = grant.client_secret or ""
    return form


def _headers(grant: Grant) -> dict[str, str]:
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    if grant.auth == "client_secret_basic":
        # RFC 6749 section 2.3.1: both halves are form-encoded before they are joined.
        pair = f"{quote_plus(grant.client_id)}:{quote_plus(grant.client_secret or '')}"
        headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return headers


def _json(answer: Answer) -> dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _tokens(said: dict[str, Any], answer: Answer) -> Tokens:
    access, fresh, lifetime = (
        said.get(name) for name in ("access_token", "refresh_token", "expires_in")
    )
    if not isinstance(access, str) or not _TOKEN.match(access):
        raise RefreshFailed("the token endpoint gave no usable access token", answer=answer)
    usable = isinstance(lifetime, (int, float)) and 0 < lifetime <= _MAX_LIFETIME_S
    return Tokens(
        access,
        fresh if isinstance(fresh, str) and 0 < len(fresh) <= 16_384 else None,
        float(cast("float", lifetime)) if usable and lifetime is not True else None,
    )

"""Answers of token endpoints; real exchanges are in tests/wire/test_vault_mcp.py."""

import json
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.mcp.oauth import Grant, RefreshFailed, Tokens, exchange

pytestmark = pytest.mark.anyio

GRANT = Grant("https://t.example/token", "client", "none", "rt")


async def asked(status: int, body: bytes, grant: Grant = GRANT) -> Tokens:
    def answer(request: httpx2.Request) -> httpx2.Response:
        elsewhere = {"location": "https://evil.example"}
        return httpx2.Response(status, stream=httpx2.ByteStream(body), headers=elsewhere)

    return await exchange(httpx2.MockTransport(answer), grant)


async def test_R082_tokens_and_their_lifetime() -> None:
    body = {"access_token": "at", "refresh_token": "rt2", "expires_in": 60}
    tokens = await asked(200, json.dumps(body).encode())
    assert (tokens.access_token, tokens.refresh_token, tokens.lifetime_s) == ("at", "rt2", 60.0)
    assert "at'" not in repr(tokens)
    assert "rt" not in repr(GRANT)


@pytest.mark.parametrize(
    ("status", "body", "gone"),
    [
        (400, b'{"error": "invalid_grant"}', True),
        (401, b'{"error": "invalid_grant"}', True),
        (401, b'{"error": "invalid_client"}', False),
        (403, b"no", False),
        (500, b'{"error": "invalid_grant"}', False),
        (302, b"", False),
        (200, b"[]", False),
        (200, b'{"access_token": "a b"}', False),
        (200, b'{"access_token": 1}', False),
        (200, b"[" * 60_000, False),
    ],
)
async def test_Q10_only_a_lost_grant_is_final(status: int, body: bytes, *, gone: bool) -> None:
    with pytest.raises(RefreshFailed) as refused:
        await asked(status, body)
    assert (refused.value.gone, refused.value.answer is None) == (gone, False)


async def test_R092_an_endpoint_out_of_reach_gave_no_answer() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(RefreshFailed) as refused:
        await exchange(httpx2.MockTransport(fail), GRANT)
    assert refused.value.answer is None


@given(lifetime=st.one_of(st.none(), st.booleans(), st.text(), st.just(-1), st.just(1e99)))
async def test_odd_lifetimes_are_unknown_ones(lifetime: Any) -> None:
    body = json.dumps({"access_token": "at", "expires_in": lifetime}).encode()
    assert (await asked(200, body)).lifetime_s is None


@given(body=st.binary(max_size=200))
async def test_noise_is_a_failure(body: bytes) -> None:
    with pytest.raises(RefreshFailed):
        await asked(200, body)

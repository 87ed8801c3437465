import socket

import pytest

from intramuros.control.model.upstream import Upstream, broken
from intramuros.kernel.errors import (
    DomainError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
    Unavailable,
)
from tests.fakes.messages_server import FakeMessages, Fault

pytestmark = pytest.mark.anyio


async def refused(upstream: Upstream, path: str = "/v1/messages") -> DomainError:
    with pytest.raises(DomainError) as caught:
        async with upstream.send(path, b'{"messages": []}', {}):
            pass
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unavailable),
        (403, Unavailable),
        (404, NotFound),
        (413, TooLarge),
        (418, Unavailable),
        (429, RateLimited),
        (500, Unavailable),
        (529, Overloaded),
    ],
)
async def test_statuses_become_our_errors(status: int, kind: type[DomainError]) -> None:
    fake = FakeMessages.saying([])
    fake.faults.append(Fault("status", status=status, headers={"retry-after": "3"}))
    async with fake.running() as base_url:
        upstream = Upstream(base_url + "/", "sk-provider")
        error = await refused(upstream)
        await upstream.aclose()
    assert type(error) is kind
    assert "as ordered" in error.message or "operator" in error.message
    if status == 429:
        assert error.hints.retry_after_s == 3


async def test_a_provider_that_is_away_or_absent_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}", None)
    assert "cannot be reached" in (await refused(upstream)).message
    await upstream.aclose()
    absent = Upstream(None, None)
    error = await refused(absent)
    assert "--model-base-url" in error.message
    assert error.hints.should_retry is False
    await absent.aclose()


async def test_our_key_goes_along_and_wins_over_a_callers_header() -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "hello"}])
    async with fake.running() as base_url:
        upstream = Upstream(base_url, "sk-provider")
        data = b'{"model": "m", "messages": []}'
        async with upstream.send("/v1/messages", data, {"x-api-key": "theirs"}) as response:
            assert (await response.aread()).startswith(b"{")
        await upstream.aclose()
    assert fake.headers[0]["x-api-key"] == "sk-provider"
    assert fake.headers[0]["accept-encoding"] == "identity"


def test_errors_in_a_stream_keep_their_kind() -> None:
    assert isinstance(broken({"type": "overloaded_error", "message": "full"}), Overloaded)
    assert isinstance(broken({"type": "novel"}), Unavailable)
    assert isinstance(broken({}), Unavailable)

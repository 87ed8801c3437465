import json

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client import Client
from mcp_types import JSONRPCRequest

from intramuros.execution.wrapped.pipes import Lines, TooLong, over

PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"


@given(st.lists(st.integers(min_value=1, max_value=len(PING)), max_size=20))
def test_messages_are_whole_however_they_come(cuts: list[int]) -> None:
    lines, data, found = Lines(1000), PING * 3, []
    for cut in cuts:
        found += lines.feed(data[:cut])
        data = data[cut:]
    found += lines.feed(data)
    assert [type(one.message) for one in found] == [JSONRPCRequest] * 3


@given(st.binary(max_size=500))
def test_whatever_comes_is_a_message_or_nothing(data: bytes) -> None:
    assert Lines(1000).feed(data.replace(b"{", b"[") + b"\n") == []


@pytest.mark.parametrize("data", [b"x" * 1001, b"x" * 1001 + b"\n", PING + b"x" * 1001])
def test_a_message_has_a_size(data: bytes) -> None:
    with pytest.raises(TooLong):
        Lines(1000).feed(data)


def test_many_small_pieces_are_one_long_message() -> None:
    lines = Lines(1000)
    for _ in range(10):
        assert lines.feed(b"x" * 100) == []
    with pytest.raises(TooLong):
        lines.feed(b"x")


@pytest.mark.anyio
async def test_a_program_that_ends_at_once_gives_no_session() -> None:
    async def receive() -> bytes | None:
        return None

    async def send(data: bytes) -> None:
        assert data.endswith(b"\n")

    with anyio.fail_after(60), pytest.raises(BaseException):  # noqa: B017  a group of them
        async with Client(over(receive, send, 1000), mode="auto"):
            raise AssertionError("there is a session with nobody")

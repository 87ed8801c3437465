import json

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client import Client
from mcp_types import JSONRPCRequest

from intramuros.execution.wrapped.pipes import over

PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"


@given(st.binary(max_size=500))
def test_what_is_no_message_is_left_out(data: bytes) -> None:
    async def heard() -> list[object]:
        given = [data.replace(b"{", b"[") + b"\n" + PING, None]

        async def receive() -> bytes | None:
            return given.pop(0)

        async def send(_: bytes) -> None:
            raise AssertionError("nothing was to be sent")

        async with over(receive, send, 1000) as (coming, _):
            return [one.message async for one in coming]  # type: ignore[union-attr]

    assert [type(one) for one in anyio.run(heard)] == [JSONRPCRequest]


@pytest.mark.anyio
async def test_a_program_that_ends_at_once_gives_no_session() -> None:
    async def receive() -> bytes | None:
        return None

    async def send(data: bytes) -> None:
        assert data.endswith(b"\n")

    with anyio.fail_after(60), pytest.raises(BaseException):  # noqa: B017  a group of them
        async with Client(over(receive, send, 1000), mode="auto"):
            raise AssertionError("there is a session with nobody")

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage

from intramuros.execution.wrapped.bounds import (
    MAX_ASKED,
    Marks,
    TooMany,
    Until,
    judged,
    limited,
    size_of,
)
from intramuros.protocol.events import MAX_BLOCKS

JSON = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def values(said: object) -> int:
    """Commas, braces and brackets outside of strings."""
    if isinstance(said, dict):
        return max(len(said), 1) + sum(map(values, said.values()))
    if isinstance(said, list):
        return max(len(said), 1) + sum(map(values, said))
    return 0


async def counted(marks: Marks, data: bytes, cuts: list[int]) -> int:
    for cut in cuts:
        await marks.feed(data[:cut])
        data = data[cut:]
    await marks.feed(data)
    return marks._count


@given(JSON, st.lists(st.integers(1, 9), max_size=40), st.booleans(), st.sampled_from([None, 2]))
def test_only_what_stands_outside_of_strings_counts(
    said: object, cuts: list[int], plain: bool, indent: int | None
) -> None:
    data = json.dumps(said, ensure_ascii=plain, indent=indent).encode("utf-8", "surrogatepass")
    assert anyio.run(counted, Marks(Until.BODY), data, cuts) == values(said)


@pytest.mark.parametrize(
    ("until", "end"),
    [
        (Until.LINE, b"\n"),
        (Until.LINE, b"\r\n"),
        (Until.EVENT, b"\n\n"),
        (Until.EVENT, b"\r\r"),
        (Until.EVENT, b"\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
@pytest.mark.anyio
async def test_each_message_is_counted_by_itself(until: Until, end: bytes, piece: int) -> None:
    marks = Marks(until, 10)
    stream = (b'data: [1,2,3,"\\"[[[[[[[[[[[["]' + end) * 9
    for at in range(0, len(stream), piece):
        await marks.feed(stream[at : at + piece])
    with pytest.raises(TooMany):
        await marks.feed(b"[" * 11)


@pytest.mark.parametrize(
    "said",
    [
        b"data: [1,\r\ndata: 2,\r\n" * 6,  # one event in many lines
        b'data: [1,\ndata: 2,\n: "\n' * 6,
        b': it"s\rdata: ' + b"[" * 11,  # a comment opens no string
        b': \\"\ndata: ' + b"[" * 11,
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.anyio
async def test_an_event_cannot_hide_what_it_holds(said: bytes, piece: int) -> None:
    marks = Marks(Until.EVENT, 10)
    with pytest.raises(TooMany):
        for at in range(0, len(said), piece):
            await marks.feed(said[at : at + piece])


@pytest.mark.anyio
async def test_a_body_is_one_message_and_others_run_meanwhile() -> None:
    marks, turns = Marks(Until.BODY, 10**9), 0

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        await marks.feed(b"[1,\n\n2,\r\n\r\n3]" * 100_000)
        group.cancel_scope.cancel()
    assert marks._count == 300_000
    assert turns > 50


def response(result: dict[str, Any]) -> SessionMessage:
    return SessionMessage(mcp_types.JSONRPCResponse(jsonrpc="2.0", id=7, result=result))


def test_a_result_with_too_many_blocks_is_an_error_for_its_own_call() -> None:
    block = {"type": "text", "text": "x"}
    fits = response({"content": [block] * MAX_BLOCKS})
    assert judged(fits) is fits
    refused = judged(response({"content": [block] * (MAX_BLOCKS + 1)}))
    assert isinstance(refused, SessionMessage)
    assert isinstance(refused.message, mcp_types.JSONRPCError)
    assert refused.message.id == 7
    assert refused.message.error.message.startswith("The result has 1001 content blocks")


def test_what_is_no_result_passes() -> None:
    problem = ValueError()
    assert judged(problem) is problem
    for result in ({"content": "x"}, {"tools": "x"}, {"tools": ["x", {"name": "a"}]}, {}):
        said = response(result)
        assert judged(said) is said


@pytest.mark.anyio
async def test_messages_pass_both_ways_and_results_are_not_held_against_schemas() -> None:
    from_server, read = anyio.create_memory_object_stream[Any](3)
    write, to_server = anyio.create_memory_object_stream[Any](3)
    left = []

    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        yield read, write
        left.append(True)

    with from_server, read, write, to_server:
        async with limited(transport()) as (coming, going):
            await from_server.send(response({"tools": [{"name": "a", "outputSchema": {}}]}))
            assert (await coming.receive()).message.result == {"tools": [{"name": "a"}]}
            answer = response({})
            await going.send(answer)
            assert await to_server.receive() is answer
            from_server.close()
            with pytest.raises(anyio.EndOfStream):
                await coming.receive()
    assert left == [True]


def test_sizes_are_those_of_what_is_sent() -> None:
    assert size_of({"type": "text", "text": "abc", "n": 1, "source": {"data": "de"}}) == 28


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.anyio
async def test_a_server_that_asks_without_end_is_given_up(answered: bool) -> None:
    """However it is reached: over HTTP its requests come by a stream that stays open."""
    from_server, read = anyio.create_memory_object_stream[Any](0)
    write, to_server = anyio.create_memory_object_stream[Any](1)

    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        yield read, write

    async def ask() -> None:
        for number in range(3 * MAX_ASKED):
            asked = mcp_types.JSONRPCRequest(jsonrpc="2.0", id=number, method="ping")
            await from_server.send(SessionMessage(asked))
        await from_server.aclose()

    seen = 0
    with from_server, read, write, to_server:
        async with limited(transport()) as (coming, going), anyio.create_task_group() as group:
            group.start_soon(ask)
            async for message in coming:
                seen += 1
                if answered:
                    said = mcp_types.JSONRPCResponse(
                        jsonrpc="2.0", id=message.message.id, result={}
                    )
                    await going.send(SessionMessage(said))
                    await to_server.receive()
            group.cancel_scope.cancel()
    assert seen == (3 * MAX_ASKED if answered else MAX_ASKED)

import json
from collections.abc import Sequence
from typing import Any

import pytest

from intramuros.control.inference.rounds import Emit, Json, Rounds
from intramuros.control.inference.servers import Offered, TokenServer
from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import Block
from intramuros.kernel.errors import Unavailable
from tests.fakes.messages_server import frames

pytestmark = pytest.mark.anyio

LOOK = Offered(TokenServer("docs", "https://x"), "look", {"name": "mcp__docs__look"})
CALL = {"type": "tool_use", "id": "toolu_1", "name": LOOK.name, "input": {"page": "7"}}


class Played:
    """A source that plays replies in order."""

    def __init__(self, *replies: list[dict[str, Any]], cut: int | None = None) -> None:
        self.replies = list(replies)
        self.bodies: list[Json] = []
        self._cut = cut

    async def run(self, body: Json, emit: Emit) -> None:
        reply = self.replies[len(self.bodies)]
        self.bodies.append(body)
        for raw in frames(reply, "m")[: self._cut]:
            await emit(json.loads(raw.split(b"data: ", 1)[1]))


async def play(source: Played) -> tuple[dict[str, Any], list[Json]]:
    seen: list[Json] = []

    async def emit(event: Json) -> None:
        seen.append(event)

    async def perform(calls: Sequence[tuple[Offered, Block]]) -> list[McpResult]:
        return [McpResult([{"type": "text", "text": str(block["input"])}]) for _, block in calls]

    message = await Rounds(source, {LOOK.name: LOOK}, perform, emit).run({"messages": [{"a": 1}]})
    return message, seen


async def test_indexes_run_on_and_counts_add_up() -> None:
    source = Played([{"type": "text", "text": "one"}, CALL], [{"type": "text", "text": "two"}])
    message, seen = await play(source)
    starts = [e["index"] for e in seen if e["type"] == "content_block_start"]
    assert starts == [0, 1, 2, 3]
    assert [e["type"] for e in seen].count("message_start") == 1
    assert [e["type"] for e in seen if e["type"].startswith("message_")] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    assert message["usage"] == seen[-2]["usage"]
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (22, 14)
    assert [m.get("role") for m in source.bodies[1]["messages"]] == [None, "assistant", "user"]


async def test_a_stream_that_breaks_off_is_no_message() -> None:
    with pytest.raises(Unavailable, match="broke off"):
        await play(Played([{"type": "text", "text": "one"}], cut=4))

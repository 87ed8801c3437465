from collections.abc import Callable
from typing import Any

import pytest

from intramuros.control.inference.hosted import ChatSource, RelaySource, told
from intramuros.control.inference.rounds import Json
from intramuros.control.model.anthropic import AnthropicModel
from intramuros.control.model.assemble import Assembler
from intramuros.control.model.base import (
    Delta,
    Failure,
    ModelError,
    ModelReply,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingStarted,
    Usage,
)
from intramuros.control.model.catalogue import shipped_catalogue
from intramuros.kernel.errors import (
    DomainError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    Unavailable,
)
from tests.fakes.messages_server import FakeMessages, Fault

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "go"}],
}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": ""}
TEXT = {"type": "text", "text": "Yes."}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1]}}
BROKEN = {**CALL, "id": "b", "input": '{"x": '}
REPLY = ModelReply((THOUGHT, TEXT, CALL, BROKEN), "tool_use", Usage(11, 7, 3, 5))
DELTAS = [ThinkingStarted(0), ThinkingDelta(0, "hm"), TextDelta(1, "Ye"), TextDelta(1, "s.")]


class Says:
    """A model that says its deltas, then replies or fails."""

    def __init__(self, deltas: list[Delta], end: ModelReply | ModelError) -> None:
        self.deltas, self.end = deltas, end
        self.requests: list[ModelRequest] = []

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        self.requests.append(request)
        for delta in self.deltas:
            on_delta(delta)
        if isinstance(self.end, ModelError):
            raise self.end
        return self.end


async def collect(source: Any, body: Json, seen: list[Json]) -> None:
    async def emit(event: Json) -> None:
        seen.append(event)

    await source.run(body, emit)


async def spoken(body: Json) -> tuple[ModelReply, list[Json]]:
    seen: list[Json] = []
    source = ChatSource(Says(list(DELTAS), REPLY), shipped_catalogue(), lambda: "msg_1")
    await collect(source, body, seen)
    assembler = Assembler()
    for event in seen:
        assembler.feed(event)
    return assembler.reply, seen


async def test_a_reply_is_told_in_the_apis_events() -> None:
    reply, seen = await spoken({**ASK, "thinking": {"type": "enabled", "budget_tokens": 1024}})
    thought, text, call, broken = reply.content
    assert (thought, text["text"], call) == (THOUGHT, "Yes.", CALL)
    assert broken["input"] == {"INVALID_JSON": '{"x": '}
    assert (reply.stop_reason, reply.usage) == ("tool_use", REPLY.usage)
    assert seen[0]["message"]["id"] == "msg_1"
    assert seen[0]["message"]["model"] == "m"


async def test_thinking_is_told_to_those_who_asked_for_it() -> None:
    reply, _ = await spoken(ASK)
    assert [block["type"] for block in reply.content] == ["text", "tool_use", "tool_use"]


async def test_a_failure_before_the_first_word_leaves_nothing() -> None:
    seen: list[Json] = []
    away = ModelError(Failure.OVERLOADED, "away", retryable=True)
    with pytest.raises(Overloaded):
        await collect(ChatSource(Says([], away), shipped_catalogue(), str), ASK, seen)
    assert seen == []


async def test_another_messages_api_is_passed_on_under_the_callers_name() -> None:
    fake, seen = FakeMessages.saying([TEXT]), []  # type: tuple[FakeMessages, list[Json]]
    async with fake.running() as base_url:
        host = AnthropicModel.connect(base_url, "k")
        body = {**ASK, "top_k": 3}
        await collect(RelaySource(host, {"anthropic-beta": "b-1"}), body, seen)
        assert await host.count(body, {}) == 42
        fake.faults = [Fault("error", at=2)]
        with pytest.raises(Overloaded):
            await collect(RelaySource(host, {}), body, [])
        await host.aclose()
    assert seen[0]["message"]["model"] == "m"
    assert seen[-1]["type"] == "message_stop"
    assert (fake.bodies[0]["top_k"], fake.bodies[0]["stream"]) == (3, True)
    assert fake.headers[0]["anthropic-beta"] == "b-1"


@pytest.mark.parametrize(
    ("members", "kind", "again"),
    [
        ({"failure": Failure.RATE_LIMITED, "retry_after_s": 7.0}, RateLimited, None),
        ({"failure": Failure.OVERLOADED}, Overloaded, None),
        ({"ours": True, "retryable": False}, InvalidRequest, None),
        ({"too_long": True, "retryable": False}, InvalidRequest, None),
        ({"retryable": False}, Unavailable, False),
        ({}, Unavailable, None),
    ],
)
def test_failures_as_callers_read_them(
    members: dict[str, Any], kind: type[DomainError], again: bool | None
) -> None:
    plain = {"failure": Failure.REQUEST_FAILED, "message": "m", "retryable": True}
    found = told(ModelError(**{**plain, **members}))
    assert type(found) is kind
    assert found.hints.should_retry is again
    assert found.hints.retry_after_s == members.get("retry_after_s")

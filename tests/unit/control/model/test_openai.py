from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from intramuros.control.model import openai as adapter
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
from intramuros.control.model.chat_request import Reader
from intramuros.control.model.openai import OpenAIModel
from tests.fakes.chat_server import FakeChat, frames
from tests.fakes.messages_server import Fault

pytestmark = pytest.mark.anyio

CONTENT = [
    {"type": "thinking", "thinking": "Let me see.", "signature": ""},
    {"type": "text", "text": "I will look."},
    {"type": "tool_use", "id": "call_1", "name": "bash", "input": {"command": "ls"}},
    {"type": "tool_use", "id": "call_2", "name": "bash", "input": {"command": "pwd"}},
]
KEY = "a-key-of-no-known-form-0123456789"


def request(**members: object) -> ModelRequest:
    said = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    return ModelRequest("house", said, **members)  # type: ignore[arg-type]  test brevity


@asynccontextmanager
async def connected(fake: FakeChat) -> AsyncIterator[OpenAIModel]:
    async with fake.running() as base_url:
        model = OpenAIModel.connect(f"{base_url}/v1", KEY, "the provider 'house'", Reader)
        try:
            yield model
        finally:
            await model.aclose()


async def run(fake: FakeChat, deltas: list[Delta] | None = None) -> ModelReply:
    async with connected(fake) as model:
        return await model.run(request(), (deltas if deltas is not None else []).append)


async def test_a_reply_streams_and_is_whole() -> None:
    deltas: list[Delta] = []
    reply = await run(FakeChat.saying(CONTENT), deltas)
    assert list(reply.content) == CONTENT
    assert reply.stop_reason == "tool_use"
    assert reply.usage == Usage(11, 7, 3, 5)
    assert deltas == [
        ThinkingStarted(0),
        ThinkingDelta(0, "Let m"),
        ThinkingDelta(0, "e see."),
        TextDelta(1, "I will"),
        TextDelta(1, " look."),
    ]


async def test_the_request_holds_what_the_protocol_knows() -> None:
    fake = FakeChat.saying(CONTENT)
    tools = [{"name": "bash", "description": "d", "input_schema": {"type": "object"}}]
    async with connected(fake) as model:
        await model.run(
            request(system="be brief", tools=tools, max_tokens=99, effort="low"), lambda _: None
        )
    assert fake.bodies == [
        {
            "model": "house",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hi"},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "bash",
                        "description": "d",
                        "parameters": {"type": "object"},
                    },
                }
            ],
            "max_completion_tokens": 99,
            "reasoning_effort": "low",
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert fake.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_the_environment_of_the_sdk_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "of-another-provider")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: of-another-provider")
    fake = FakeChat.saying(CONTENT)
    async with fake.running() as base_url:
        model = OpenAIModel.connect(f"{base_url}/v1", None, "it", Reader)
        await model.run(request(), lambda _: None)
        await model.aclose()
    assert "of-another-provider" not in str(fake.headers)
    assert not [name for name in fake.headers[0] if name.startswith("openai-")]


CASES: list[tuple[Fault, Failure, bool, float | None, str]] = [
    (Fault("status"), Failure.OVERLOADED, True, None, "as ordered"),
    (Fault("status", status=503, type="busy"), Failure.OVERLOADED, True, None, "as ordered"),
    (
        Fault("status", status=429, type="rate_limit_exceeded", headers={"retry-after": "7"}),
        Failure.RATE_LIMITED,
        True,
        7.0,
        "as ordered",
    ),
    (
        Fault("status", status=429, type="insufficient_quota", headers={"x-should-retry": "true"}),
        Failure.BILLING,
        False,
        None,
        "as ordered",
    ),
    (Fault("status", status=500, type="x"), Failure.REQUEST_FAILED, True, None, "as ordered"),
    (
        Fault("status", status=500, type="x", headers={"x-should-retry": "false"}),
        Failure.REQUEST_FAILED,
        False,
        None,
        "as ordered",
    ),
    (Fault("status", status=402, type="x"), Failure.BILLING, False, None, "payment"),
    (Fault("status", status=401, type="x"), Failure.REQUEST_FAILED, False, None, "'house'"),
    (Fault("status", status=404, type="x"), Failure.REQUEST_FAILED, False, None, "models file"),
    (Fault("status", status=400, type="x"), Failure.REQUEST_FAILED, False, None, "as ordered"),
    (Fault("error", at=3, type="server_error"), Failure.REQUEST_FAILED, True, None, "as ordered"),
    (Fault("status", status=401), Failure.REQUEST_FAILED, False, None, "'house'"),
    (Fault("error", at=3), Failure.OVERLOADED, True, None, "as ordered"),
    (
        Fault("error", at=3, type="rate_limit_exceeded"),
        Failure.RATE_LIMITED,
        True,
        None,
        "as ordered",
    ),
    (Fault("error", at=3, type="429"), Failure.RATE_LIMITED, True, None, "as ordered"),
    (
        Fault("error", at=3, type="invalid_request_error"),
        Failure.REQUEST_FAILED,
        False,
        None,
        "as ordered",
    ),
]


@pytest.mark.parametrize(("fault", "failure", "retryable", "wait_s", "says"), CASES)
async def test_refusals(
    fault: Fault, failure: Failure, retryable: bool, wait_s: float | None, says: str
) -> None:
    fake = FakeChat.saying(CONTENT)
    fake.faults = [fault]
    with pytest.raises(ModelError, match=says) as caught:
        await run(fake)
    error = caught.value
    assert (error.failure, error.retryable, error.retry_after_s) == (failure, retryable, wait_s)
    assert not error.too_long
    assert len(fake.bodies) == 1, "the SDK must not retry by itself"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=400, type="context_length_exceeded"),
        Fault("status", status=400, type="x", message="This model's maximum context length is 9"),
        Fault("status", status=413, type="x"),
        Fault("error", at=2, type="exceed_context_size_error"),
    ],
)
async def test_a_conversation_that_is_too_long_is_told_apart(fault: Fault) -> None:
    fake = FakeChat.saying(CONTENT)
    fake.faults = [fault]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert caught.value.too_long
    assert not caught.value.retryable


async def test_a_filtered_prompt_is_a_refusal() -> None:
    fake = FakeChat.saying(CONTENT)
    fake.faults = [Fault("status", status=400, type="content_filter")]
    assert await run(fake) == ModelReply((), "refusal")


PLACES = range(len(frames(CONTENT, "m")) - 1)


@pytest.mark.parametrize("kind", ["cut", "garbage"])
async def test_a_stream_that_breaks_anywhere_may_be_asked_again(kind: str) -> None:
    fake = FakeChat.saying(CONTENT)
    async with connected(fake) as model:
        for at in PLACES:
            fake.faults = [Fault(kind, at=at)]  # type: ignore[arg-type]  a parametrised literal
            with pytest.raises(ModelError, match="broke off") as caught:
                await model.run(request(), lambda _: None)
            assert caught.value.retryable
            assert list((await model.run(request(), lambda _: None)).content) == CONTENT


async def test_an_error_may_come_at_any_place() -> None:
    fake = FakeChat.saying(CONTENT)
    async with connected(fake) as model:
        for at in PLACES:
            fake.faults = [Fault("error", at=at)]
            with pytest.raises(ModelError, match="as ordered") as caught:
                await model.run(request(), lambda _: None)
            assert (caught.value.failure, caught.value.retryable) == (Failure.OVERLOADED, True)


async def test_silence_ends_in_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "READ_TIMEOUT_S", 0.1)
    fake = FakeChat.saying(CONTENT)
    async with connected(fake) as model:
        for at in PLACES:
            fake.faults = [Fault("silence", at=at)]
            with pytest.raises(ModelError, match="timeout") as caught:
                await model.run(request(), lambda _: None)
            assert caught.value.retryable


async def test_nobody_there() -> None:
    model = OpenAIModel.connect("http://127.0.0.1:1/v1", KEY, "it", Reader)
    with pytest.raises(ModelError, match="broke off") as caught:
        await model.run(request(), lambda _: None)
    assert caught.value.retryable
    await model.aclose()


async def test_cancelling_ends_the_request() -> None:
    fake = FakeChat.saying(CONTENT)
    fake.faults = [Fault("silence", at=2)]
    async with connected(fake) as model:
        with anyio.move_on_after(0.3) as scope:
            await model.run(request(), lambda _: None)
        assert scope.cancelled_caught


async def test_a_provider_that_repeats_our_key_tells_nobody() -> None:
    fake = FakeChat.saying(CONTENT)
    fake.faults = [Fault("status", status=401, message=f"wrong key {KEY}")]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert "wrong key [our key]" in caught.value.message


async def test_a_reply_that_was_cut_short_says_so() -> None:
    fake = FakeChat.saying([{"type": "text", "text": "and then"}])
    fake.reason = "length"
    assert (await run(fake)).stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("status", "message", "place"),
    [
        (500, "Failed to load image", ()),
        (500, "out of memory", None),
        (503, "Failed to load image", None),
        (429, "too many images", None),
    ],
)
async def test_a_server_may_fail_where_others_refuse(
    status: int, message: str, place: tuple[int, ...] | None
) -> None:
    fake = FakeChat.saying(CONTENT)
    fake.faults = [Fault("status", status=status, type="x", message=message)]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert caught.value.place == place
    assert caught.value.retryable


async def test_a_refused_image_is_told_by_its_place_in_our_request() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    picture = {"type": "image", "source": source}
    call = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [picture]}
    said = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, picture]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    fake = FakeChat.saying(CONTENT)
    # user, assistant, tool, and the picture of the result behind words about it
    fake.refuses = lambda _: "Invalid image in messages[3].content[1].image_url"
    async with connected(fake) as model:
        with pytest.raises(ModelError) as named:
            await model.run(ModelRequest("house", said), lambda _: None)
        fake.refuses = lambda _: "You uploaded an unsupported image."
        with pytest.raises(ModelError) as unnamed:
            await model.run(ModelRequest("house", said), lambda _: None)
    assert fake.bodies[0]["messages"][3]["content"][1]["type"] == "image_url"
    assert (named.value.place, unnamed.value.place) == ((2, 0, 0), ())

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from anthropic import AsyncAnthropic

from intramuros.control.model import anthropic as adapter
from intramuros.control.model.anthropic import Account, AnthropicModel
from intramuros.control.model.base import (
    Delta,
    Failure,
    ModelError,
    ModelReply,
    ModelRequest,
    TextDelta,
    Usage,
)
from intramuros.kernel.errors import OperatorError
from tests.fakes.messages_server import FakeMessages, Fault, frames

pytestmark = pytest.mark.anyio

CONTENT = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
    {"type": "text", "text": "I will look."},
    {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
]
KEY = "sk-ant-api03-abcdefgh-very-secret-part"


def request(**members: object) -> ModelRequest:
    said = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    return ModelRequest("claude-x", said, **members)  # type: ignore[arg-type]  test brevity


@asynccontextmanager
async def connected(fake: FakeMessages) -> AsyncIterator[AnthropicModel]:
    async with fake.running() as base_url:
        model = AnthropicModel.connect(base_url, KEY)
        try:
            yield model
        finally:
            await model.aclose()


async def run(fake: FakeMessages, deltas: list[Delta] | None = None) -> ModelReply:
    async with connected(fake) as model:
        return await model.run(request(), (deltas if deltas is not None else []).append)


async def test_a_reply_streams_and_is_whole() -> None:
    deltas: list[Delta] = []
    reply = await run(FakeMessages.saying(CONTENT), deltas)
    assert list(reply.content) == CONTENT
    assert reply.stop_reason == "tool_use"
    assert reply.usage == Usage(11, 7, 3, 5)
    assert [d.text for d in deltas if isinstance(d, TextDelta)] == ["I will", " look."]


async def test_the_request_is_passed_on_as_it_is() -> None:
    fake = FakeMessages.saying(CONTENT)
    marked = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    said = [
        {"role": "user", "content": [marked]},
        {"role": "assistant", "content": CONTENT},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]},
    ]
    tools = [{"name": "bash", "description": "d", "input_schema": {"type": "object"}}]
    async with connected(fake) as model:
        await model.run(
            ModelRequest("claude-x", said, "be brief", tools, 99, "high"), lambda _: None
        )
    assert fake.bodies == [
        {
            "model": "claude-x",
            "messages": said,
            "system": [
                {"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}
            ],
            "tools": tools,
            "max_tokens": 99,
            "output_config": {"effort": "high"},
            "stream": True,
        }
    ]
    assert fake.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_a_reply_that_must_call_a_tool_is_made_to() -> None:
    fake = FakeMessages.saying(CONTENT)
    said = [{"role": "user", "content": "x"}]
    request = ModelRequest("claude-x", said, must_call="verdict", inference_geo="us")
    async with connected(fake) as model:
        await model.run(request, lambda _: None)
    forced = {"type": "tool", "name": "verdict", "disable_parallel_tool_use": True}
    assert fake.bodies[0]["tool_choice"] == forced
    assert fake.bodies[0]["inference_geo"] == "us"


async def test_our_own_environment_is_not_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "a-client-key-of-ours")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    fake = FakeMessages.saying(CONTENT)
    async with fake.running() as base_url:
        model = AnthropicModel.connect(base_url, None)
        await model.run(request(), lambda _: None)
        await model.aclose()
    assert "a-client-key-of-ours" not in str(fake.headers)


@pytest.mark.parametrize(
    ("fault", "failure", "retryable", "retry_after_s", "says"),
    [
        (Fault("status"), Failure.OVERLOADED, True, None, "as ordered"),
        (
            Fault("status", status=429, type="rate_limit_error", headers={"retry-after": "7"}),
            Failure.RATE_LIMITED,
            True,
            7.0,
            "as ordered",
        ),
        (
            Fault("status", status=503, type="api_error", headers={"retry-after-ms": "250"}),
            Failure.REQUEST_FAILED,
            True,
            0.25,
            "as ordered",
        ),
        (
            Fault("status", status=500, type="api_error", headers={"x-should-retry": "false"}),
            Failure.REQUEST_FAILED,
            False,
            None,
            "as ordered",
        ),
        (
            Fault("status", status=401, type="authentication_error"),
            Failure.REQUEST_FAILED,
            False,
            None,
            "ANTHROPIC_UPSTREAM_API_KEY",
        ),
        (
            Fault("status", status=402, type="billing_error"),
            Failure.BILLING,
            False,
            None,
            "payment",
        ),
        (
            Fault("status", status=403, type="permission_error"),
            Failure.REQUEST_FAILED,
            False,
            None,
            "key",
        ),
        (
            Fault("status", status=400, type="invalid_request_error"),
            Failure.REQUEST_FAILED,
            False,
            None,
            "as ordered",
        ),
        (
            Fault("status", status=404, type="not_found_error"),
            Failure.REQUEST_FAILED,
            False,
            None,
            "know",
        ),
        (Fault("error", at=3), Failure.OVERLOADED, True, None, "as ordered"),
        (
            Fault("error", at=3, type="invalid_request_error"),
            Failure.REQUEST_FAILED,
            False,
            None,
            "as ordered",
        ),
    ],
    ids=lambda value: f"{value.status}-{value.kind}" if isinstance(value, Fault) else None,
)
async def test_refusals(
    fault: Fault, failure: Failure, retryable: bool, retry_after_s: float | None, says: str
) -> None:
    fake = FakeMessages.saying(CONTENT)
    fake.faults = [fault]
    with pytest.raises(ModelError, match=says) as caught:
        await run(fake)
    error = caught.value
    assert (error.failure, error.retryable, error.retry_after_s) == (
        failure,
        retryable,
        retry_after_s,
    )
    assert len(fake.bodies) == 1, "the SDK must not retry by itself"


PLACES = range(len(frames(CONTENT, "m")))


@pytest.mark.parametrize("kind", ["cut", "garbage"])
async def test_a_stream_that_breaks_anywhere_may_be_asked_again(kind: str) -> None:
    fake = FakeMessages.saying(CONTENT)
    async with connected(fake) as model:
        for at in PLACES:
            fake.faults = [Fault(kind, at=at)]  # type: ignore[arg-type]  a parametrised literal
            with pytest.raises(ModelError, match="broke off") as caught:
                await model.run(request(), lambda _: None)
            assert caught.value.retryable
            assert list((await model.run(request(), lambda _: None)).content) == CONTENT


@pytest.mark.parametrize("given", ['{"command": "l', "ls", '{"a": NaN}', "[1]"])
async def test_a_calls_input_that_is_no_object_is_no_broken_stream(given: str) -> None:
    """The same request would bring the same again; its model can be told, and do better."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": given}
    reply = await run(FakeMessages.saying([call]))
    assert list(reply.content) == [call]


async def test_an_error_may_come_at_any_place() -> None:
    fake = FakeMessages.saying(CONTENT)
    async with connected(fake) as model:
        for at in PLACES:
            fake.faults = [Fault("error", at=at)]
            with pytest.raises(ModelError, match="as ordered") as caught:
                await model.run(request(), lambda _: None)
            assert (caught.value.failure, caught.value.retryable) == (Failure.OVERLOADED, True)


async def test_silence_ends_in_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "READ_TIMEOUT_S", 0.1)
    fake = FakeMessages.saying(CONTENT)
    async with connected(fake) as model:
        for at in PLACES:
            fake.faults = [Fault("silence", at=at)]
            with pytest.raises(ModelError, match="timeout") as caught:
                await model.run(request(), lambda _: None)
            assert caught.value.retryable


async def test_nobody_there() -> None:
    model = AnthropicModel.connect("http://127.0.0.1:1", KEY)
    with pytest.raises(ModelError, match="broke off") as caught:
        await model.run(request(), lambda _: None)
    assert caught.value.retryable
    await model.aclose()


async def test_cancelling_ends_the_request() -> None:
    fake = FakeMessages.saying(CONTENT)
    fake.faults = [Fault("silence", at=2)]
    async with connected(fake) as model:
        with anyio.move_on_after(0.3) as scope:
            await model.run(request(), lambda _: None)
        assert scope.cancelled_caught


async def test_messages_never_show_a_key() -> None:
    def policy(_: dict[str, object]) -> object:
        raise AssertionError("not reached")

    fake = FakeMessages(policy)
    fake.faults = [Fault("status", status=400, type=KEY)]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert "very-secret-part" not in caught.value.message


async def test_a_provider_that_repeats_our_key_tells_nobody() -> None:
    key = "a-key-of-no-known-form-0123456789"
    fake = FakeMessages.saying(CONTENT)
    fake.faults = [Fault("status", status=401, message=f"wrong key {key}")]
    async with fake.running() as base_url:
        model = AnthropicModel.connect(base_url, f" {key}\n")
        with pytest.raises(ModelError) as caught:
            await model.run(request(), lambda _: None)
        await model.aclose()
    assert "wrong key [our key]" in caught.value.message


@pytest.mark.parametrize(
    "key", ["two\nlines-0123456789", "curly\u2019-0123456789", "a b", "a\x01b"]
)
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(OperatorError) as caught:
        AnthropicModel.connect("http://127.0.0.1:1", key)
    assert key[-3:] not in str(caught.value)


async def test_an_event_that_is_no_object_breaks_the_request_off() -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=b"event: message_start\ndata: []\n\n")

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        client = AsyncAnthropic(api_key=KEY, base_url="http://model", http_client=http)
        with pytest.raises(ModelError, match="broke off") as failed:
            await AnthropicModel(client, Account(KEY)).run(request(), lambda _: None)
    assert failed.value.retryable


@pytest.mark.parametrize(
    ("fault", "too_long", "ours"),
    [
        (Fault("status", status=413, type="request_too_large"), True, False),
        (
            Fault(
                "status",
                status=400,
                type="invalid_request_error",
                message="prompt is too long: 210000 tokens > 200000 maximum",
            ),
            True,
            True,
        ),
        (Fault("status", status=400, type="invalid_request_error"), False, True),
        (Fault("error", at=1, type="invalid_request_error"), False, True),
        (Fault("status", status=401, type="authentication_error"), False, False),
        (Fault("status", status=404, type="not_found_error"), False, False),
        (Fault("status", status=529), False, False),
    ],
)
async def test_whose_fault_it_is(fault: Fault, too_long: bool, ours: bool) -> None:
    fake = FakeMessages.saying(CONTENT)
    fake.faults = [fault]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert (caught.value.too_long, caught.value.ours) == (too_long, ours)


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("messages.0.content.0.image.source.base64: image exceeds 5 MB maximum", (0, 0)),
        ("messages.1.content.0: Invalid `signature` in `thinking` block", (1, 0)),
        ("Could not process image", ()),
        ("max_tokens: 9 > 8", None),
        ("prompt is too long: 210000 tokens > 200000 maximum", None),
    ],
)
async def test_where_the_refused_block_is(message: str, place: tuple[int, ...] | None) -> None:
    fake = FakeMessages.saying(CONTENT)
    fake.refuses = lambda _: message
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert caught.value.place == place
    assert caught.value.thoughts == ("thinking` block" in message)


async def test_a_server_may_fail_where_others_refuse() -> None:
    fake = FakeMessages.saying(CONTENT)
    fake.faults = [Fault("status", status=500, type="api_error", message="bad image")]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert (caught.value.place, caught.value.retryable) == ((), True)


@pytest.mark.parametrize("fault", [Fault("status"), Fault("status", status=401)])
async def test_no_block_is_blamed_for_what_is_no_fault_of_the_request(fault: Fault) -> None:
    fake = FakeMessages.saying(CONTENT)
    fake.faults = [fault]
    with pytest.raises(ModelError) as caught:
        await run(fake)
    assert caught.value.place is None

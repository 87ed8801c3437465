import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from intramuros.control.model.anthropic import AnthropicModel
from intramuros.control.model.base import Failure, ModelError, ModelReply, ModelRequest, Usage
from intramuros.control.model.clouds import bedrock, vertex
from intramuros.control.model.providers import BedrockProvider, VertexProvider
from intramuros.kernel.errors import OperatorError
from tests.fakes.event_stream import chunk, exception
from tests.fakes.messages_server import frames

pytestmark = pytest.mark.anyio

CONTENT = [
    {"type": "text", "text": "I will look."},
    {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
]
ASKED = ModelRequest("opus", [{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
EVENTS = [json.loads(f.partition(b"data: ")[2]) for f in frames(CONTENT, "m")]
WHOLE = ModelReply(tuple(CONTENT), "tool_use", Usage(11, 7, 3, 5))
Answer = Callable[[httpx2.Request], httpx2.Response]


def names(model: str) -> str:
    return f"eu.anthropic.{model}-v1:0"


class Cloud:
    """Answers whatever is asked, and keeps the requests."""

    def __init__(self, model: AnthropicModel, answer: Answer) -> None:
        self.model, self.answer = model, answer
        self.requests: list[httpx2.Request] = []
        # The clients are built as in production; only the way out is ours.
        client: Any = model._client
        client._client = httpx2.AsyncClient(
            base_url=str(client.base_url), transport=httpx2.MockTransport(self.take)
        )

    def take(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.answer(request)

    async def run(self) -> ModelReply:
        try:
            return await self.model.run(ASKED, lambda _: None)
        finally:
            await self.model.aclose()


def streamed(*pieces: bytes, kind: str = "application/vnd.amazon.eventstream") -> Answer:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return lambda _: httpx2.Response(200, headers={"content-type": kind}, content=body())


def refusing(status: int, body: Any) -> Answer:
    return lambda _: httpx2.Response(status, json=body)


def on_bedrock(answer: Answer, key: str | None = "b-key", **members: Any) -> Cloud:
    provider = BedrockProvider(id="aws", kind="bedrock", region="eu-west-1", **members)
    return Cloud(bedrock(provider, key, names), answer)


def on_vertex(answer: Answer) -> Cloud:
    provider = VertexProvider(id="gcp", kind="vertex", region="europe-west1", project="p-1")
    return Cloud(vertex(provider, names), answer)


async def test_bedrock_answers_in_its_own_frames() -> None:
    cloud = on_bedrock(streamed(*map(chunk, EVENTS)))
    assert await cloud.run() == WHOLE
    (sent,) = cloud.requests
    assert sent.url.host == "bedrock-runtime.eu-west-1.amazonaws.com"
    assert sent.url.path == "/model/eu.anthropic.opus-v1:0/invoke-with-response-stream"
    assert sent.headers["authorization"] == "Bearer b-key"
    body = json.loads(sent.content)
    assert body["messages"] == ASKED.messages
    assert not {"model", "stream"} & set(body)


async def test_requests_to_bedrock_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-part")
    cloud = on_bedrock(streamed(*map(chunk, EVENTS)), None)
    assert await cloud.run() == WHOLE
    signed = cloud.requests[0].headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "eu-west-1/bedrock" in signed


@pytest.mark.parametrize("at", range(len(EVENTS)))
async def test_a_bedrock_stream_may_end_anywhere(at: int) -> None:
    kept = list(map(chunk, EVENTS[:at]))
    for rest in (b"", chunk(EVENTS[at])[:-5], b"\x00" * 64):
        with pytest.raises(ModelError) as caught:
            await on_bedrock(streamed(*kept, rest)).run()
        assert caught.value.retryable


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("throttlingException", Failure.RATE_LIMITED),
        ("serviceUnavailableException", Failure.OVERLOADED),
        ("modelStreamErrorException", Failure.REQUEST_FAILED),
        ("internalServerException", Failure.REQUEST_FAILED),
    ],
)
async def test_bedrock_breaks_off_with_an_exception(name: str, failure: Failure) -> None:
    with pytest.raises(ModelError, match="try later") as caught:
        await on_bedrock(streamed(chunk(EVENTS[0]), exception(name, "try later"))).run()
    assert (caught.value.failure, caught.value.retryable) == (failure, True)


REFUSALS: list[tuple[int, Any, Failure, str]] = [
    (429, {"message": "Too many tokens"}, Failure.RATE_LIMITED, "retryable"),
    (403, {"message": "no access"}, Failure.REQUEST_FAILED, "final"),
    (400, {"message": "malformed"}, Failure.REQUEST_FAILED, "ours"),
    (400, {"message": "Input is too long for requested model."}, Failure.REQUEST_FAILED, "long"),
    (424, {"message": "model error"}, Failure.REQUEST_FAILED, "retryable"),
    (404, [{"error": {"code": 404, "message": "not here"}}], Failure.REQUEST_FAILED, "final"),
]


@pytest.mark.parametrize(("status", "body", "failure", "verdict"), REFUSALS)
async def test_refusals_of_clouds(status: int, body: Any, failure: Failure, verdict: str) -> None:
    said = body["message"] if isinstance(body, dict) else body[0]["error"]["message"]
    with pytest.raises(ModelError, match=said) as caught:
        await on_bedrock(refusing(status, body)).run()
    error = caught.value
    assert error.failure is failure
    assert error.retryable == (verdict == "retryable")
    assert error.too_long == (verdict == "long")
    assert error.ours == (verdict in {"ours", "long"})


async def test_credentials_that_are_not_there_are_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    cloud = on_bedrock(streamed(), None, profile="nobody")
    with pytest.raises(ModelError, match=r"no credentials for the AWS credentials.*'aws'") as aws:
        await cloud.run()
    assert not aws.value.retryable
    assert not aws.value.ours, "another model may answer"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"no credentials for the Google.*'gcp'") as google:
        await on_vertex(streamed()).run()
    assert not google.value.retryable


async def test_vertex_is_asked_in_its_own_words() -> None:
    cloud = on_vertex(streamed(*frames(CONTENT, "m"), kind="text/event-stream"))
    client: Any = cloud.model._client
    client.access_token = "a-token"
    assert await cloud.run() == WHOLE
    (sent,) = cloud.requests
    assert sent.url.host == "europe-west1-aiplatform.googleapis.com"
    assert sent.url.path.endswith(
        "/projects/p-1/locations/europe-west1/publishers/anthropic/models/"
        "eu.anthropic.opus-v1:0:streamRawPredict"
    )
    assert sent.headers["authorization"] == "Bearer a-token"
    assert "model" not in json.loads(sent.content)


@pytest.mark.parametrize("at", range(len(EVENTS)))
async def test_a_vertex_stream_may_end_anywhere(at: int) -> None:
    kept = frames(CONTENT, "m")[:at]
    broken = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n'
    for rest in (b"", b"event: content_block_delta\ndata: {no\n\n", broken):
        cloud = on_vertex(streamed(*kept, rest, kind="text/event-stream"))
        client: Any = cloud.model._client
        client.access_token = "a-token"
        with pytest.raises(ModelError) as caught:
            await cloud.run()
        assert caught.value.retryable


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("us-east5", "us-east5-aiplatform.googleapis.com"),
    ],
)
async def test_every_region_of_vertex_has_its_address(region: str, host: str) -> None:
    model = vertex(VertexProvider(id="g", kind="vertex", region=region, project="p"), names)
    client: Any = model._client
    assert client.base_url.host == host
    await model.aclose()


async def test_no_variable_of_the_sdk_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BEDROCK_BASE_URL", "http://elsewhere")
    monkeypatch.setenv("ANTHROPIC_VERTEX_BASE_URL", "http://elsewhere")
    for cloud in (on_bedrock(streamed()), on_vertex(streamed())):
        client: Any = cloud.model._client
        assert "elsewhere" not in str(client.base_url)
        await cloud.model.aclose()


def test_libraries_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    monkeypatch.setitem(sys.modules, "google.auth.exceptions", None)
    with pytest.raises(OperatorError, match="botocore"):
        on_bedrock(streamed())
    with pytest.raises(OperatorError, match="google"):
        on_vertex(streamed())

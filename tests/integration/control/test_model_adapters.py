"""Recorded answers of providers through each adapter, fed whole and byte by byte."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from intramuros.control.model.anthropic import AnthropicModel
from intramuros.control.model.base import Model, ModelError, ModelReply, ModelRequest
from intramuros.control.model.chat_request import Reader
from intramuros.control.model.openai import OpenAIModel
from tests.fakes.transcripts import CHAT, MESSAGES, Transcript

pytestmark = pytest.mark.anyio

CASES = [
    *(pytest.param("chat", one, id=f"chat: {name}") for name, one in CHAT.items()),
    *(pytest.param("messages", one, id=f"messages: {name}") for name, one in MESSAGES.items()),
]
ASKED = ModelRequest("m", [{"role": "user", "content": [{"type": "text", "text": "hi"}]}])


@pytest.mark.parametrize("step", [1, 7, 1_000_000])
@pytest.mark.parametrize(("kind", "transcript"), CASES)
async def test_a_transcript_comes_to_its_reply(
    kind: str, transcript: Transcript, step: int
) -> None:
    async with httpx2.AsyncClient(transport=playing(transcript, step)) as http:
        model = adapter(kind, http)
        if transcript.failure is None:
            assert await model.run(ASKED, lambda _: None) == ModelReply(
                tuple(transcript.content), transcript.stop, transcript.usage
            )
            return
        with pytest.raises(ModelError) as caught:
            await model.run(ASKED, lambda _: None)
    assert (caught.value.failure, caught.value.retryable) == (transcript.failure, True)


def adapter(kind: str, http: httpx2.AsyncClient) -> Model:
    if kind == "messages":
        messages = AsyncAnthropic(api_key="k", base_url="http://m", http_client=http, max_retries=0)
        return AnthropicModel(messages)
    chat = AsyncOpenAI(api_key="k", base_url="http://m/v1", http_client=http, max_retries=0)
    return OpenAIModel(chat, "k", "it", Reader)


def playing(transcript: Transcript, step: int) -> httpx2.MockTransport:
    whole = "".join(f"{frame}\n\n" for frame in transcript.frames).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), step):
            yield whole[start : start + step]

    headers = {"content-type": "text/event-stream"}
    return httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=pieces()))

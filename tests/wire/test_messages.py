"""Messages through the official SDK, over a provider of our own."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anyio.from_thread import start_blocking_portal

from tests.engines import opened
from tests.fakes.messages_server import FakeMessages, Fault
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import until
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

PROVIDER_KEY = "sk-provider-5a1f0c2e9b7d"
SAY_HELLO: Any = {
    "model": "claude-opus-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hello"}],
}
SCRIPTED = b'{"model": "scripted/answer", "mcp_servers": 5, "messages": []}'
REPLY = [
    {"type": "thinking", "thinking": "A greeting.", "signature": "c2ln"},
    {"type": "text", "text": "Good morning to you."},
]


@pytest.fixture(scope="module")
def fake() -> FakeMessages:
    return FakeMessages.saying(REPLY)


@pytest.fixture(scope="module")
def relay(fake: FakeMessages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose provider is the fake."""
    data_dir = tmp_path_factory.mktemp("relay") / "data"
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake.running()) as base_url,
        running(
            data_dir,
            model_base_url=base_url,
            model_api_key=PROVIDER_KEY,
            model_scripts=str(SCRIPTS),
        ) as started,
    ):
        yield started


@pytest.fixture
def api(relay: Server, fake: FakeMessages) -> Iterator[Anthropic]:
    fake.faults.clear()
    fake.bodies.clear()
    fake.headers.clear()
    with Anthropic(base_url=relay.base_url, api_key=relay.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_api(api: Anthropic, relay: Server) -> AsyncIterator[AsyncAnthropic]:
    made = AsyncAnthropic(base_url=relay.base_url, api_key=relay.api_key, max_retries=0)
    async with made:
        yield made


def test_a_message_comes_back_as_the_provider_made_it(api: Anthropic, fake: FakeMessages) -> None:
    message = api.messages.create(**SAY_HELLO)
    check(message, nullable=False)
    assert [block.to_dict() for block in message.content] == REPLY
    assert message.usage.cache_read_input_tokens == 5
    raw = api.beta.messages.with_raw_response.create(**SAY_HELLO)
    assert raw.headers["request-id"].startswith("req_")
    assert raw.parse().id == "msg_fake"
    assert [body["messages"] for body in fake.bodies] == [SAY_HELLO["messages"]] * 2


async def test_a_stream_passes_through_sync_and_async(
    api: Anthropic, async_api: AsyncAnthropic
) -> None:
    with api.messages.stream(**SAY_HELLO) as stream:
        assert "".join(stream.text_stream) == "Good morning to you."
        final = stream.get_final_message()
    check(final, nullable=False)
    async with async_api.beta.messages.stream(**SAY_HELLO) as astream:
        kinds = [event.type async for event in astream]
        whole = await astream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 7)


def test_bytes_and_betas_go_as_they_came_and_keys_do_not(
    api: Anthropic, fake: FakeMessages, relay: Server
) -> None:
    odd = b'{ "model":"claude-opus-5", "max_tokens" : 1e1,"messages":[], "x": {"\\u00e9":1.50} }'
    answer = httpx2.post(
        f"{relay.base_url}/v1/messages",
        content=odd,
        headers={
            "x-api-key": relay.api_key,
            "content-type": "application/json",
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "context-1m-2025-08-07,oauth-2025-04-20",
        },
    )
    assert answer.status_code == 200
    assert fake.bodies == [json.loads(odd)]
    sent = fake.headers[-1]
    assert sent["content-length"] == str(len(odd))
    assert sent["x-api-key"] == PROVIDER_KEY
    assert "authorization" not in sent
    assert (sent["anthropic-version"], sent["anthropic-beta"]) == (
        "2023-06-01",
        "context-1m-2025-08-07",
    )
    assert relay.api_key not in str(fake.headers)
    assert PROVIDER_KEY not in answer.text + str(answer.headers)
    assert PROVIDER_KEY not in relay.log


def test_tokens_are_counted_by_the_provider(api: Anthropic) -> None:
    body: Any = {"model": "claude-opus-5", "messages": [{"role": "user", "content": "hello"}]}
    for counted in (api.messages.count_tokens(**body), api.beta.messages.count_tokens(**body)):
        check(counted, nullable=False)
        assert counted.input_tokens == 42


@pytest.mark.parametrize(
    ("status", "kind", "caught"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.RequestTooLargeError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.OverloadedError),
    ],
)
def test_the_providers_refusals_come_in_our_envelope(
    api: Anthropic, fake: FakeMessages, status: int, kind: str, caught: type[Exception]
) -> None:
    for stream in (False, True):
        fake.faults.append(Fault("status", status=status, type=kind, headers={"retry-after": "7"}))
        with pytest.raises(caught, match="as ordered") as raised:
            api.messages.create(**SAY_HELLO, stream=stream)
        error = raised.value
        assert isinstance(error, anthropic.APIStatusError)
        assert error.response.headers["retry-after"] == "7"
        assert error.body["request_id"] == error.response.headers["request-id"]  # type: ignore[index]


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refusal_of_our_key_is_not_the_callers_fault(
    api: Anthropic, fake: FakeMessages, status: int
) -> None:
    fake.faults.append(Fault("status", status=status, type="authentication_error"))
    with pytest.raises(anthropic.InternalServerError, match="this server's key") as raised:
        api.messages.create(**SAY_HELLO)
    assert raised.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("kind", ["cut", "error"])
def test_a_stream_that_breaks_ends_in_an_error(
    api: Anthropic, fake: FakeMessages, kind: Any
) -> None:
    fake.faults.append(Fault(kind, at=4))
    with (
        pytest.raises(anthropic.APIStatusError, match=r"broke off|as ordered"),
        api.messages.stream(**SAY_HELLO) as stream,
    ):
        stream.until_done()


def test_a_client_that_leaves_ends_the_providers_work(api: Anthropic, fake: FakeMessages) -> None:
    left = threading.Event()
    fake.on_left = left.set
    fake.faults.append(Fault("silence", at=4))
    with api.messages.create(**SAY_HELLO, stream=True) as stream:
        assert next(iter(stream)).type == "message_start"  # it arrived while the rest is held back
    assert left.wait(60)


def test_a_script_answers_whole_and_streamed(api: Anthropic, fake: FakeMessages) -> None:
    body = {**SAY_HELLO, "model": "scripted/answer"}
    message = api.messages.create(**body)
    check(message, nullable=False)
    assert message.content[0].text.startswith("The answer is forty-two")
    with api.messages.stream(**body) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 5
    assert "".join(pieces) == message.content[0].text
    counted = api.messages.count_tokens(model="scripted/answer", messages=body["messages"])
    assert counted.input_tokens == 0
    assert fake.bodies == []
    with pytest.raises(anthropic.NotFoundError, match="no script"):
        api.messages.create(**{**body, "model": "scripted/nobody"})


def test_wrong_requests_are_refused_here(api: Anthropic, relay: Server) -> None:
    headers = {"x-api-key": relay.api_key, "content-type": "application/json"}
    for content in (b"", b"[]", b"{", b"{}", b'{"model": 1}', SCRIPTED, b"[" * 100_000):
        answer = httpx2.post(f"{relay.base_url}/v1/messages", content=content, headers=headers)
        assert answer.status_code == 400, content[:20]
    made = httpx2.post(
        f"{relay.base_url}/x/keys", headers=headers, json={"scopes": ["workspace:developer"]}
    ).json()
    with (
        Anthropic(base_url=relay.base_url, api_key=made["key"], max_retries=0) as narrow,
        pytest.raises(anthropic.PermissionDeniedError, match="workspace:inference"),
    ):
        narrow.messages.create(**SAY_HELLO)


@pytest.mark.parametrize(
    "model", ["a\u0000", "\ud800", "a\nb", "m" * 257], ids=["nul", "surrogate", "line", "long"]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_model_that_cannot_be_written_down_is_not_asked(
    relay: Server, fake: FakeMessages, path: str, model: str
) -> None:
    headers = {"x-api-key": relay.api_key, "content-type": "application/json"}
    content = json.dumps({**SAY_HELLO, "model": model})
    before = len(fake.bodies)
    answer = httpx2.post(relay.base_url + path, content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("model: ")
    assert len(fake.bodies) == before


def test_other_peoples_mcp_servers_stay_the_providers_business(
    api: Anthropic, fake: FakeMessages
) -> None:
    servers: Any = [{"type": "url", "name": "crm", "url": "https://crm.example.com/mcp"}]
    tools: Any = [{"type": "mcp_toolset", "mcp_server_name": "crm"}]
    api.beta.messages.create(
        **SAY_HELLO,
        mcp_servers=servers,
        tools=tools,
        betas=["mcp-client-2025-11-20"],
    )
    assert (fake.bodies[0]["mcp_servers"], fake.bodies[0]["tools"]) == (servers, tools)
    assert fake.headers[0]["anthropic-beta"] == "mcp-client-2025-11-20"


def test_what_leaves_is_on_record(api: Anthropic, relay: Server) -> None:
    api.messages.create(**SAY_HELLO)

    def recorded() -> bool | None:
        with opened(relay.data_dir) as database:
            rows = database.execute("SELECT line FROM audit WHERE kind = 'messages.create'")
            lines = [line for (line,) in rows]
        assert all("hello" not in line for line in lines)
        return bool(lines) or None

    assert until(recorded)


def test_without_a_provider_the_answer_says_what_to_set(client: Anthropic) -> None:
    with pytest.raises(anthropic.InternalServerError, match="ANTHROPIC_UPSTREAM_API_KEY"):
        client.messages.create(**SAY_HELLO)

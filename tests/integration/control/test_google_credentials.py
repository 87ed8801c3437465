"""Claude on Vertex with real tokens: Google's own library fetches them over HTTP, from a fake."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
from anthropic import AsyncAnthropic
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from intramuros.control.model import clouds
from intramuros.control.model.anthropic import AnthropicModel
from intramuros.control.model.base import ModelError, ModelReply, ModelRequest
from intramuros.control.model.providers import VertexProvider
from tests.fakes.messages_server import frames
from tests.fakes.website import Answer, Asked, Origin, page, raw, serving
from tests.wire.host import running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

SAID = [{"type": "text", "text": "from Vertex"}]
ASKED = ModelRequest("opus", [{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
MODEL = "/v1/projects/p-1/locations/here/publishers/anthropic/models/opus:streamRawPredict"
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
HANG_UP = raw(b"")


@pytest.fixture
def google() -> Iterator[Origin]:
    with serving() as origin:
        origin.pages[MODEL] = page(b"".join(frames(SAID, "m")), "text/event-stream")
        yield origin


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2048)


@pytest.fixture
def account(
    google: Origin, key: rsa.RSAPrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The key file of a service account, where Google's library looks for it."""
    file = tmp_path / "account.json"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    about = {
        "type": "service_account",
        "client_email": "agent@p-1.iam.gserviceaccount.com",
        "private_key": pem,
        "private_key_id": "k1",
        "token_uri": f"{google.url}/token",
    }
    file.write_text(json.dumps(about))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


@pytest.fixture
def secret(account: Path) -> str:
    return str(json.loads(account.read_text())["private_key"])


class Tokens:
    """Hands out ``token-1``, ``token-2`` and so on."""

    def __init__(self, lifetime_s: int = 3600) -> None:
        self.lifetime_s = lifetime_s
        self.given = 0

    def __call__(self, asked: Asked, sock: Any) -> None:
        self.given += 1
        token = {"access_token": f"token-{self.given}", "expires_in": self.lifetime_s}
        page(json.dumps({**token, "token_type": "Bearer"}), "application/json")(asked, sock)


def opened(token: str, key: rsa.RSAPublicKey) -> Any:
    """The claims of a token that this key has signed."""
    signed, _, signature = token.rpartition(".")
    key.verify(_bytes(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return json.loads(_bytes(signed.partition(".")[2]))


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def connect(google: Origin) -> AnthropicModel:
    provider = VertexProvider(
        id="gcp", kind="vertex", region="here", project="p-1", base_url=f"{google.url}/v1"
    )
    return clouds.vertex(provider, lambda model: model)


async def run(model: AnthropicModel) -> ModelReply:
    return await model.run(ASKED, lambda _: None)


def shown(google: Origin) -> list[str]:
    """The tokens that the model was asked with."""
    return [asked.headers["authorization"] for asked in google.asked if asked.path == MODEL]


@pytest.mark.usefixtures("account")
async def test_a_service_account_is_exchanged_for_a_token_that_is_kept(
    google: Origin, key: rsa.RSAPrivateKey
) -> None:
    google.pages["/token"] = Tokens()
    model = connect(google)
    for _ in range(2):
        assert (await run(model)).content == tuple(SAID)
    await model.aclose()
    asked, *models = google.asked
    form = parse_qs(asked.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = opened(form["assertion"][0], key.public_key())
    assert claims["iss"] == "agent@p-1.iam.gserviceaccount.com"
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert [each.path for each in models] == [MODEL, MODEL]
    assert shown(google) == ["Bearer token-1"] * 2


@pytest.mark.usefixtures("account")
async def test_a_token_that_has_run_out_is_fetched_anew(google: Origin) -> None:
    # Google's library counts a token as gone some minutes before it is.
    google.pages["/token"] = Tokens(lifetime_s=60)
    model = connect(google)
    for _ in range(3):
        await run(model)
    await model.aclose()
    assert len(set(shown(google))) == len(shown(google)) == 3


@pytest.mark.usefixtures("account")
async def test_many_requests_at_once_fetch_one_token(google: Origin) -> None:
    tokens = google.pages["/token"] = Tokens()
    model = connect(google)
    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(run, model)
    await model.aclose()
    assert tokens.given == 1
    assert shown(google) == ["Bearer token-1"] * 12


FAILURES: list[tuple[str, Answer, bool]] = [
    ("the token server has a bad day", page('{"error": "internal_failure"}', status=503), True),
    ("nobody answers", HANG_UP, True),
    ("the account is gone", page('{"error": "invalid_grant"}', status=400), False),
]


@pytest.mark.parametrize(
    ("answer", "passes"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES]
)
async def test_what_may_pass_is_tried_again(
    google: Origin,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: Answer,
    passes: bool,
) -> None:
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)
    google.pages["/token"] = answer
    model = connect(google)
    with pytest.raises(ModelError, match="credentials of the provider 'gcp'") as caught:
        await run(model)
    assert caught.value.retryable is passes
    assert not caught.value.ours, "another model may answer"
    assert secret[30:90] not in str(caught.value)
    assert not shown(google), "nothing is asked without a token"
    google.pages["/token"] = Tokens()
    assert (await run(model)).content == tuple(SAID)
    await model.aclose()


@pytest.mark.usefixtures("account")
async def test_a_token_server_that_says_nothing_holds_nobody_for_long(
    google: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def wait(asked: Asked, sock: Any) -> None:
        over.wait(240)

    google.pages["/token"] = wait
    monkeypatch.setattr(clouds, "TOKEN_S", 0.2)
    model = connect(google)
    with pytest.raises(ModelError, match="timeout") as caught:
        await run(model)
    assert caught.value.retryable
    # An interrupt does not wait for the thread either.
    monkeypatch.setattr(clouds, "TOKEN_S", 3600.0)
    with anyio.move_on_after(0.2) as scope:
        began_s = time.monotonic()
        await run(model)
    assert scope.cancelled_caught
    assert time.monotonic() - began_s < 60
    over.set()
    await model.aclose()


FILE = """
providers: [{{id: gcp, kind: vertex, region: here, project: p-1, base_url: "{url}/v1"}}]
models: [{{id: opus, display_name: Opus, provider: gcp}}]
"""


async def test_a_session_goes_on_once_the_machine_has_a_token_again(
    google: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata server of a machine in Google's cloud: its first answer is no token."""
    tokens = Tokens()
    google.pages["/"] = google_says("")
    google.pages["/computeMetadata/v1/instance/service-accounts/default/"] = google_says(
        json.dumps({"aliases": ["default"], "email": "vm@p-1", "scopes": []})
    )

    def first_fails(asked: Asked, sock: Any) -> None:
        google.pages[TOKEN] = tokens
        google_says('{"error": "no"}', status=404)(asked, sock)

    google.pages[TOKEN] = first_fails
    host = f"127.0.0.1:{google.port}"
    for name, value in {
        "GCE_METADATA_HOST": host,
        "GCE_METADATA_IP": host,
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    (tmp_path / "models.yaml").write_text(FILE.format(url=google.url))
    with running(tmp_path / "data", models_file=str(tmp_path / "models.yaml")) as server:
        made = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
        async with made as client:
            agent = await client.beta.agents.create(name="a", model="opus")
            place = await client.beta.environments.create(
                name="place", config={"type": "self_hosted"}
            )
            session = await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
            events = await said(client, session.id)
    (error,) = [event for event in events if event.type == "session.error"]
    assert "Google credentials of the provider 'gcp'" in error.error.message
    assert error.error.retry_status.type == "retrying"
    assert "session.status_rescheduled" in {event.type for event in events}
    assert [e.content[0].text for e in events if e.type == "agent.message"] == ["from Vertex"]
    assert shown(google) == ["Bearer token-1"]


def google_says(body: str, status: int = 200) -> Answer:
    head = f"HTTP/1.1 {status} X\r\nmetadata-flavor: Google\r\ncontent-type: application/json\r\n"
    return raw(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode())


async def said(client: AsyncAnthropic, session_id: str) -> list[Any]:
    """Say something, and return the log once the session rests."""
    message: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
    await client.beta.sessions.events.send(session_id, events=[message])
    with anyio.fail_after(60):
        while True:
            listed = client.beta.sessions.events.list(session_id, limit=1000)
            events = [event async for event in listed]
            if events[-1].type == "session.status_idle":
                return events
            await anyio.sleep(0.05)

"""Attempts over real sockets, against receivers that behave and that do not."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx2
import pytest
from anthropic import Anthropic
from standardwebhooks import Webhook, WebhookVerificationError

from intramuros.control.mcp.guard import Threads
from intramuros.control.webhooks.post import Message, Outcome, Post
from intramuros.kernel.addresses import Network
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.webhooks import payload
from tests.fakes.receiver import Delivery, Receiver, receiving, status

pytestmark = pytest.mark.anyio

LOOPBACK: list[Network] = [ipaddress.ip_network("127.0.0.0/8")]
SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ=="
BODY = payload(
    "whe_1",
    "2026-03-18T14:05:22.000000Z",
    "org",
    {"type": "vault.created", "id": "vlt_1", "workspace_id": "w"},
)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as made:
        yield made


def post(
    receiver: Receiver,
    networks: Sequence[Network] = LOOPBACK,
    timeout_s: float = 5.0,
    **more: object,
) -> Post:
    context = httpx2.create_ssl_context()
    context.load_verify_locations(cafile=receiver.ca_file)
    return Post(networks, context, timeout_s, **more)


def message(url: str, secret: str = SECRET) -> Message:
    return Message(url, "whe_1", BODY, secret, SystemClock().now())


async def test_R267_R268_c26_2_an_attempt_is_signed_as_the_sdk_checks_it(
    receiver: Receiver,
) -> None:
    result = await post(receiver).send(message(receiver.url + "?a=b"))
    assert result.outcome is Outcome.DELIVERED
    [got] = receiver.deliveries()
    assert got.target == "/hooks?a=b"
    assert got.headers["webhook-id"] == "whe_1"
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 30
    assert got.headers["content-type"] == "application/json"
    event = Anthropic(api_key="x").beta.webhooks.unwrap(got.body, headers=got.headers, key=SECRET)
    assert (event.id, event.data.type, event.data.id) == ("whe_1", "vault.created", "vlt_1")
    for spoilt in (got.body.replace("vlt_1", "vlt_2"), got.body + " "):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(spoilt, got.headers)


def test_a_message_does_not_show_its_secret() -> None:
    assert "whsec_" not in repr(message("https://hooks.example/"))


async def test_R269_the_signature_is_one_token_with_one_comma(receiver: Receiver) -> None:
    await post(receiver).send(message(receiver.url))
    signature = receiver.deliveries()[0].headers["webhook-signature"]
    assert signature.startswith("v1,")
    assert (signature.count(","), signature.count(" ")) == (1, 0)


@pytest.mark.rule("R272")
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((code, Outcome.DELIVERED) for code in (200, 201, 202, 204, 299)),
        *((code, Outcome.REDIRECTED) for code in (300, 301, 302, 303, 304, 307, 308, 399)),
        *((code, Outcome.FAILED) for code in (400, 404, 408, 410, 429, 500, 503, 599)),
    ],
)
async def test_what_a_status_means(receiver: Receiver, code: int, outcome: Outcome) -> None:
    receiver.answer = status(code, f"location: https://127.0.0.1:{receiver.port}/elsewhere")
    result = await post(receiver).send(message(receiver.url))
    assert (result.outcome, result.seen) == (outcome, str(code))
    assert [d.target for d in receiver.deliveries()] == ["/hooks"]


async def test_the_body_of_an_answer_is_not_read(receiver: Receiver) -> None:
    sent = 0
    ended = threading.Event()

    def endless(_delivery: Delivery, sock: ssl.SSLSocket) -> None:
        nonlocal sent
        try:
            sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while sent < 1 << 30:
                sock.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent += 65_536
        finally:
            ended.set()

    receiver.answer = endless
    result = await post(receiver).send(message(receiver.url))
    assert result.outcome is Outcome.DELIVERED
    assert await anyio.to_thread.run_sync(ended.wait, 10)
    assert sent < 64 << 20


async def test_endless_headers_are_cut_off(receiver: Receiver) -> None:
    sent = 0

    def endless(_delivery: Delivery, sock: ssl.SSLSocket) -> None:
        nonlocal sent
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while sent < 1 << 28:
            sock.sendall(b"x: " + b"y" * 8_000 + b"\r\n")
            sent += 8_000

    receiver.answer = endless
    result = await post(receiver).send(message(receiver.url))
    assert result.outcome is Outcome.FAILED
    assert sent < 1 << 28


@pytest.mark.parametrize(
    "drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 103 Early Hints\r\n\r\n"]
)
async def test_a_slow_answer_ends_at_the_deadline(receiver: Receiver, drip: bytes) -> None:
    hung_up = threading.Event()

    def slow(_delivery: Delivery, sock: ssl.SSLSocket) -> None:
        sock.settimeout(0.05)
        sock.sendall(drip)
        try:
            while True:
                sock.sendall(drip if drip.endswith(b"\r\n\r\n") else drip[-1:])
                with suppress(TimeoutError):
                    if not sock.recv(1):
                        return
        finally:
            hung_up.set()

    receiver.answer = slow
    result = await post(receiver, timeout_s=0.5).send(message(receiver.url))
    assert (result.outcome, result.seen) == (Outcome.FAILED, "timeout")
    assert await anyio.to_thread.run_sync(hung_up.wait, 60), "the connection is not kept"


def open_sockets() -> int:
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(link).startswith("socket:") for link in links)


async def test_a_handshake_that_never_ends_keeps_nothing_beyond_the_deadline(
    receiver: Receiver,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        sender, before = post(receiver, timeout_s=0.3), open_sockets()
        for _ in range(3):
            result = await sender.send(message(url))
            assert (result.outcome, result.seen) == (Outcome.FAILED, "timeout")
        # The other side has not hung up.
        await anyio.lowlevel.checkpoint()
        assert open_sockets() == before


async def test_who_hangs_up_or_talks_nonsense_has_failed(receiver: Receiver) -> None:
    receiver.answer = lambda _delivery, _sock: None
    assert (await post(receiver).send(message(receiver.url))).outcome is Outcome.FAILED
    receiver.answer = lambda _delivery, sock: sock.sendall(b"220 smtp.example ESMTP\r\n\r\n")
    assert (await post(receiver).send(message(receiver.url))).outcome is Outcome.FAILED


async def test_a_certificate_that_nobody_trusts_gets_nothing(receiver: Receiver) -> None:
    strict = Post(LOOPBACK, httpx2.create_ssl_context(), 5.0)
    assert (await strict.send(message(receiver.url))).outcome is Outcome.FAILED
    wrong_name = receiver.url.replace("127.0.0.1", "127.0.0.2")
    assert (await post(receiver).send(message(wrong_name))).outcome is Outcome.FAILED
    assert receiver.deliveries() == []


class Names:
    """A name service that says something else each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        return self.answers.pop(0)


@pytest.mark.rule("R273")
@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
        ["93.184.215.14", "127.0.0.1"],
        ["127.0.0.1", "93.184.215.14"],
    ],
)
async def test_one_address_that_is_not_public_is_one_too_many(
    receiver: Receiver, answer: list[str]
) -> None:
    guarded = post(receiver, networks=(), resolver=Names(answer))
    url = f"https://hooks.example:{receiver.port}/"
    assert (await guarded.send(message(url))).outcome is Outcome.NOT_PUBLIC
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost"])
async def test_spellings_that_the_system_resolves_to_loopback_are_refused_there(
    receiver: Receiver, host: str
) -> None:
    guarded = post(receiver, networks=())
    result = await guarded.send(message(f"https://{host}:{receiver.port}/"))
    assert result.outcome is not Outcome.DELIVERED
    assert receiver.connections == 0


async def test_the_connection_goes_to_the_address_that_was_checked(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    url = f"https://localhost:{receiver.port}/"
    guarded = post(receiver, resolver=names)
    assert (await guarded.send(message(url))).outcome is Outcome.DELIVERED
    assert names.answers == [["10.0.0.1"]]
    # The next attempt asks anew, and what was allowed a moment ago is not any more.
    assert (await guarded.send(message(url))).outcome is Outcome.NOT_PUBLIC


async def test_a_name_that_does_not_resolve_has_failed_and_is_not_disabled(
    receiver: Receiver,
) -> None:
    async def none(_host: str, _port: int) -> Sequence[str]:
        raise OSError

    for resolver in (none, Names([])):
        guarded = post(receiver, resolver=resolver)
        result = await guarded.send(message("https://no-such-name.invalid/"))
        assert result.outcome is Outcome.FAILED


async def test_a_name_that_never_answers_keeps_no_attempt_beyond_its_deadline(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, answered = threading.Event(), []

    def slow(*_args: object, **_kwargs: object) -> list[object]:
        answered.append(answer.wait(240))
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        sender = post(receiver, timeout_s=0.3, resolver=Threads(2))
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(sender.send, message("https://slow.example/"))
        assert not answered
    finally:
        answer.set()

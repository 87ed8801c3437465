"""Deliveries to real collectors over TLS, hostile ones among them."""

import ipaddress
import socket
from collections.abc import Iterator, Sequence

import anyio
import pytest

from intramuros.control.tracing.deliver import Courier, NotDelivered
from tests.fakes.collector import Collector, running_collector

pytestmark = pytest.mark.anyio

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as started:
        yield started


@pytest.fixture
def courier(collector: Collector) -> Courier:
    return Courier(LOOPBACK, collector.ca_pem, timeout_s=60.0)


async def failure(courier: Courier, url: str) -> NotDelivered:
    with pytest.raises(NotDelivered) as failed:
        await courier.post(url, {"x-key": "secret"}, b"", "x/y")
    assert "secret" not in str(failed.value)
    return failed.value


async def test_a_body_arrives_with_its_headers(collector: Collector, courier: Courier) -> None:
    await courier.post(f"{collector.url}/v1/traces", {"X-Key": "v"}, b"", "application/x-protobuf")
    (got,) = collector.got
    assert (got.path, got.body) == ("/v1/traces", b"")
    assert got.headers["x-key"] == "v"
    assert got.headers["content-type"] == "application/x-protobuf"
    assert got.headers["user-agent"] == "intramuros-otlp"


@pytest.mark.parametrize(
    ("status", "says", "retryable", "reason"),
    [
        (400, "HTTP error (status 400)", False, "sustained_failure"),
        (403, "HTTP error (status 403)", False, "sustained_failure"),
        (429, "HTTP error (status 429)", True, "sustained_failure"),
        (503, "HTTP error (status 503)", True, "sustained_failure"),
        (307, "redirect (status 307)", False, "redirect"),
    ],
)
async def test_what_a_collector_answers_is_told_in_fixed_words(
    collector: Collector, courier: Courier, status: int, says: str, retryable: bool, reason: str
) -> None:
    collector.status, collector.location = status, f"{collector.url}/trap"
    collector.body = b"a secret of the collector"
    failed = await failure(courier, collector.url)
    assert (failed.error, failed.retryable, failed.reason) == (says, retryable, reason)
    assert len(collector.got) == 1


async def test_a_giant_answer_is_not_read(collector: Collector, courier: Courier) -> None:
    collector.body = b"x" * 50_000_000
    with anyio.fail_after(60):
        await courier.post(collector.url, {}, b"", "x/y")


async def test_a_slow_collector_holds_nobody_up(collector: Collector) -> None:
    collector.pause_s = 3
    courier = Courier(LOOPBACK, collector.ca_pem, timeout_s=0.3)
    with anyio.fail_after(60):
        assert (await failure(courier, collector.url)).error == "timeout"


async def test_a_certificate_of_nobody_is_a_tls_failure(collector: Collector) -> None:
    failed = await failure(Courier(LOOPBACK, timeout_s=60.0), collector.url)
    assert failed.error == "TLS failure"
    assert collector.got == []


async def test_a_server_without_tls_is_one_too() -> None:
    async def plain(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, plain)
            failed = await failure(Courier(LOOPBACK, timeout_s=60.0), f"https://localhost:{port}")
            group.cancel_scope.cancel()
    assert failed.error in ("TLS failure", "connection failure")


async def test_nobody_listening_is_a_connection_failure() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"https://localhost:{held.getsockname()[1]}"
        assert (await failure(Courier(LOOPBACK, timeout_s=60.0), url)).error == "connection failure"


@pytest.mark.parametrize(
    "addresses",
    [
        [],
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        ["64:ff9b::a00:1"],
        ["8.8.8.8", "10.0.0.1"],
        ["0.0.0.0"],
    ],
)
async def test_addresses_inside_are_never_dialled(addresses: list[str]) -> None:
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return addresses

    failed = await failure(Courier(resolver=resolve, timeout_s=60.0), "https://evil.example")
    assert (failed.error, failed.reason) == ("invalid address", "invalid_address")
    assert asked == [("evil.example", 443)]


async def test_a_name_is_resolved_once_so_a_second_answer_changes_nothing(
    collector: Collector,
) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    courier = Courier(LOOPBACK, collector.ca_pem, resolve, timeout_s=60.0)
    await courier.post(collector.url, {}, b"", "x/y")
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no such name"), "invalid address"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "temporary DNS failure"),
        (socket.gaierror(socket.EAI_FAIL, "broken"), "temporary DNS failure"),
        (OSError("no resolver"), "temporary DNS failure"),
    ],
)
async def test_names_that_do_not_resolve(error: OSError, says: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    failed = await failure(Courier(resolver=resolve, timeout_s=60.0), "https://c.example")
    assert failed.error == says

import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel
import h11
import httpcore2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.kernel.timing import ManualClock
from intramuros.protocol.tickets import CALL_HEADER, CallTicket, VerifyingKey
from intramuros.tunnel.bound_sessions import Binder
from intramuros.tunnel.destinations import Destinations
from intramuros.tunnel.ledger import Ledger
from intramuros.tunnel.reach import Reach
from intramuros.tunnel.relay import IdleConnections, Relay, RelayLimits
from intramuros.tunnel.routes import RouteTable, Upstream
from intramuros.tunnel.upstream import UpstreamRefused
from tests.integration.tunnel.rig import signing_key
from tests.unit.tunnel.streams import Below, connection

if TYPE_CHECKING:
    from intramuros.tunnel.link import LinkStream

pytestmark = pytest.mark.anyio
DOMAIN = "t.example"
HOST = f"docs.{DOMAIN}"
ROUTES = RouteTable({"docs": Upstream("http", "10.0.0.5", 8080)}, DOMAIN)
CLOCK = ManualClock()
SIGNER = signing_key()
KEY = VerifyingKey(SIGNER.public_pem())
TICKET = SIGNER.mint_call_ticket(CallTicket("tnl_1", HOST, "sesn_1", "t"), CLOCK.now().timestamp())
BINDER = Binder(lambda: [b"k" * 32])
PROOF = f"{CALL_HEADER}: {TICKET}"
LIMITS = RelayLimits(max_body_bytes=1000)
HURRIED = RelayLimits(max_body_bytes=1000, head_s=0.2, idle_s=0.2)


class Pool:
    """An upstream that answers at once and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[httpcore2.Request] = []
        self.answer: Callable[[], httpcore2.Response] = lambda: httpcore2.Response(
            200, headers=[("content-length", "2")], content=b"ok"
        )
        self.error: Exception | None = None

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return self.answer()


class Bench:
    """A relay, what is under it and what it writes."""

    def __init__(self, home: Path, limits: RelayLimits = LIMITS) -> None:
        self.path = home / "audit.jsonl"
        self.pool = Pool()
        self.ledger = Ledger(self.path, ManualClock())
        self.reach = Reach(ROUTES, Destinations(self.pool, {}))
        self.relay = Relay(self.reach, self.ledger, KEY, CLOCK, BINDER, limits)
        self.below = Below()
        self.idle = IdleConnections()

    async def talk(self, *said: bytes, close: bool = True) -> bytes:
        """Say something on a new connection; return all that comes back."""
        client, server = connection()
        for part in said:
            await client.send(part)
        if close:
            await client.send_eof()
        with anyio.fail_after(30):
            await self.relay.serve(server, cast("LinkStream", self.below), HOST, self.idle)
        await server.aclose()
        held = b""
        try:
            while True:
                held += await client.receive()
        except anyio.EndOfStream:
            await client.aclose()
            return held

    def audit(self) -> list[dict[str, object]]:
        """Return the record; outcomes are written when the ledger closes at the latest."""
        self.ledger.close()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> "Bench":
    return Bench(tmp_path)


def request(method: str = "GET", target: str = "/", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", PROOF, *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def statuses(said: bytes, count: int) -> list[int]:
    client = h11.Connection(h11.CLIENT)
    found: list[int] = []
    client.receive_data(said)
    for number in range(count):
        client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                found.append(event.status_code)
            if isinstance(event, h11.EndOfMessage) or event is h11.NEED_DATA:
                break
        if number + 1 < count:
            client.start_next_cycle()
    return found


async def test_two_requests_on_one_connection_even_when_sent_at_once(bench: Bench) -> None:
    said = await bench.talk(request() + request("POST", "/mcp?x=1", body=b"hello"))
    assert statuses(said, 2) == [200, 200]
    assert [bytes(r.url.target) for r in bench.pool.requests] == [b"/", b"/mcp?x=1"]
    assert [r["kind"] for r in bench.audit()] == ["mcp.request", "mcp.response"] * 2


async def test_byte_by_byte(bench: Bench) -> None:
    data = request("POST", "/mcp", body=b'{"method":"tools/list"}')
    said = await bench.talk(*[data[i : i + 1] for i in range(len(data))])
    assert statuses(said, 1) == [200]
    fields = bench.audit()[0]["fields"]
    assert isinstance(fields, dict)
    assert (fields["method"], fields["request_bytes"]) == ("tools/list", 23)


async def test_t12_chunked_requests_are_sent_on_with_a_length(bench: Bench) -> None:
    head = request("POST", "/", "Transfer-Encoding: chunked")
    said = await bench.talk(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert statuses(said, 1) == [200]
    assert (b"content-length", b"5") in bench.pool.requests[0].headers
    names = [name.lower() for name, _ in bench.pool.requests[0].headers]
    assert b"transfer-encoding" not in names


async def test_expect_100_continue_is_answered_here(bench: Bench) -> None:
    said = await bench.talk(request("POST", "/", "Expect: 100-continue", body=b"abc"))
    assert statuses(said, 1) == [200]
    head = request("POST", "/", "Expect: 100-continue", "Content-Length: 3")
    client_first = await bench.talk(head, b"abc")
    assert client_first.startswith(b"HTTP/1.1 100")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (request("POST", "/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"abc", 400),
        (request("POST", "/", "Content-Length: 3", "Content-Length: 4") + b"abcd", 400),
        (request("POST", "/", "Transfer-Encoding: chunked, identity"), 400),
        (request("GET", "http://10.0.0.1/"), 400),
        (request("GET", "/", "Host: other"), 400),
        (request("GET", "/", "X: a", " folded"), 400),
        (request("GET", "/", "X: a\nSmuggled: b"), 400),
        (request("GET", "/", "Bad Name: a"), 400),
        (request("CONNECT", "10.0.0.1:22"), 405),
        (request("GET", "/", "Upgrade: websocket", "Connection: upgrade"), 400),
        (request().replace(HOST.encode(), b"wiki.t.example"), 421),
        (request("GET", "/", "X: " + "a" * 40_000), 431),
        (request("GET", "/", *[f"X{n}: a" for n in range(200)]), 431),
        (request("POST", "/", body=b"a" * 1001), 413),
        (request("POST", "/", body=b'{"method":"a","method":"b"}'), 400),
        (request("POST", "/", body=b'[{"method":"a"}]'), 400),
        (request("POST", "/", "Mcp-Method: tools/list", body=b'{"method":"tools/call"}'), 400),
        (request("POST", "/", body=b"[" * 999), 400),
        (request("POST", "/", "Content-Encoding: gzip", body=gzip.compress(b"0" * 100_000)), 415),
        (request("POST", "/", "Content-Length: 9") + b"short", 400),
        (b"\x16\x03\x01 this is TLS\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
    ],
)
async def test_t28_what_could_be_misread_is_refused_before_anything_is_dialled(
    bench: Bench, said: bytes, status: int
) -> None:
    back = await bench.talk(said)
    assert back.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in back.lower()
    assert bench.pool.requests == []
    assert bench.audit() == []


async def test_t07_slow_callers_are_timed_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HURRIED)
    assert await bench.talk(b"GET / HT", close=False) != b""
    assert (await bench.talk(request("POST", "/", "Content-Length: 9"), close=False)).startswith(
        b"HTTP/1.1 408"
    )
    assert await bench.talk(close=False) == b""


async def test_many_large_bodies_at_once_are_bounded_and_small_ones_pass(tmp_path: Path) -> None:
    limits = RelayLimits(max_body_bytes=200_000, max_held_bytes=250_000)
    bench = Bench(tmp_path, limits)
    arrived, goes_on = anyio.Event(), anyio.Event()

    async def slowly(request: httpcore2.Request) -> httpcore2.Response:
        arrived.set()
        await goes_on.wait()
        return httpcore2.Response(200, headers=[("content-length", "2")], content=b"ok")

    at_once = bench.pool.handle_async_request
    bench.pool.handle_async_request = slowly  # type: ignore[method-assign]  # for the first
    said: list[bytes] = []
    large, small = (request("POST", body=b"x" * size) for size in (150_000, 10_000))

    async def first() -> None:
        said.append(await bench.talk(large))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        with anyio.fail_after(30):
            await arrived.wait()
        bench.pool.handle_async_request = at_once  # type: ignore[method-assign]  # again
        refused = await bench.talk(large)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"overloaded"' in refused
        assert statuses(await bench.talk(small), 1) == [200]
        goes_on.set()
    assert statuses(said[0], 1) == [200]
    # What is done with, refused ones included, is held no more.
    assert statuses(await bench.talk(large), 1) == [200]
    assert bench.relay._held_bytes == 0


async def test_idle_connections_are_closed_by_a_drain(bench: Bench) -> None:
    client, server = connection()
    async with anyio.create_task_group() as group:
        group.start_soon(
            bench.relay.serve, server, cast("LinkStream", bench.below), HOST, bench.idle
        )
        while not bench.idle.scopes:
            await anyio.lowlevel.checkpoint()
        bench.idle.drain()
    await client.aclose()
    await server.aclose()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamRefused("10.0.0.5 is not allowed"), "address_refused"),
        (httpcore2.ConnectError("refused"), "upstream_unreachable"),
        (httpcore2.ReadTimeout("slow"), "upstream_unreachable"),
        (httpcore2.RemoteProtocolError("odd"), "upstream_unreachable"),
    ],
)
async def test_an_upstream_that_fails_is_named_by_its_route(
    bench: Bench, error: Exception, code: str
) -> None:
    bench.pool.error = error
    back = await bench.talk(request())
    assert back.startswith(b"HTTP/1.1 502")
    assert code.encode() in back
    assert b"'docs'" in back
    assert b"10.0.0.5" not in back
    outcome = bench.audit()[1]["fields"]
    assert isinstance(outcome, dict)
    assert outcome["ended"] == code


async def test_an_upstream_that_breaks_off_breaks_the_answer(bench: Bench) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise httpcore2.ReadError("gone")

    bench.pool.answer = lambda: httpcore2.Response(200, headers=[], content=body())
    back = await bench.talk(request() + request())
    # No last chunk, so the client knows; and the connection is not used again.
    assert back.count(b"HTTP/1.1") == 1
    assert b"half" in back
    assert not back.endswith(b"0\r\n\r\n")
    outcome = bench.audit()[1]["fields"]
    assert isinstance(outcome, dict)
    assert (outcome["ended"], outcome["response_bytes"]) == ("upstream_failed", 4)


async def test_a_caller_that_leaves_cancels_the_call_and_is_recorded_once(bench: Bench) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        assert bench.below.callback is not None
        bench.below.callback()
        await anyio.sleep_forever()

    bench.pool.answer = lambda: httpcore2.Response(200, headers=[], content=body())
    await bench.talk(request())
    records = bench.audit()
    assert [r["kind"] for r in records] == ["mcp.request", "mcp.response"]
    outcome = records[1]["fields"]
    assert isinstance(outcome, dict)
    assert outcome["ended"] == "caller_gone"


async def test_head_requests_have_no_body(bench: Bench) -> None:
    bench.pool.answer = lambda: httpcore2.Response(
        200, headers=[("content-length", "9")], content=b""
    )
    back = await bench.talk(request("HEAD"))
    assert back.endswith(b"\r\n\r\n")
    bench.pool.error = httpcore2.ConnectError("refused")
    assert (await bench.talk(request("HEAD"))).endswith(b"\r\n\r\n")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"GET ", request()[:-4]]))
def test_arbitrary_bytes_never_reach_the_upstream_as_anything_odd(
    bench: Bench, data: bytes, start: bytes
) -> None:
    async def run() -> None:
        await bench.talk(start + data)

    anyio.run(run)
    for sent in bench.pool.requests:
        assert sent.url.host == b"10.0.0.5"
        assert [v for n, v in sent.headers if n == b"host"] == [b"10.0.0.5:8080"]

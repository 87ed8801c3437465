"""A tunnel whose ends are slow, silent, cut off or wrong about the time.

Numbers are those of docs/reference/tunnel-tests.toml. The long forms of these tests are
``python -m benchmarks.soak``.
"""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs

from intramuros.kernel.timing import SystemClock
from intramuros.tunnel import edge, edge_app, gateway_app, relay
from intramuros.tunnel.edge import EdgeParts
from intramuros.tunnel.gateway import GatewayParts
from intramuros.tunnel.link import Keepalive
from intramuros.tunnel.relay import RelayLimits
from tests.integration.tunnel.faults import FaultyPath
from tests.integration.tunnel.middlebox import ConnectProxy, serving
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_tunnel,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
HOST = f"docs.{DOMAIN}"
JSON = {"content-type": "application/json"}
ROUNDS = 6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def tasks() -> int:
    return len(anyio.get_running_tasks())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both ends ask each other every 0.2 s instead of every 5 s."""
    keepalive = Keepalive(every_s=0.2, dead_s=30)
    monkeypatch.setattr(edge_app, "EdgeParts", partial(EdgeParts, keepalive=keepalive))
    monkeypatch.setattr(gateway_app, "GatewayParts", partial(GatewayParts, keepalive=keepalive))


@pytest.mark.parametrize("who", ["the caller's", "the gateway's"])
async def test_t05_a_server_that_never_answers_costs_a_deadline_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    rig = Rig(tmp_path)
    held: list[anyio.abc.SocketStream] = []
    gone = anyio.Event()

    async def swallow(stream: anyio.abc.SocketStream) -> None:
        held.append(stream)
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            gone.set()

    if who == "the gateway's":
        short = partial(RelayLimits, silence_s=0.3)
        monkeypatch.setattr(relay, "RelayLimits", short)
    async with (
        serving(swallow) as upstream_port,
        running_edge(rig) as port,
        running_gateway(rig.config([port], upstream_port)),
        client_of(rig, port) as client,
    ):
        before = open_files()
        if who == "the gateway's":
            answer = await client.post(url("/"), content=b"x")
            assert (answer.status_code, answer.json()["error"]["type"]) == (
                502,
                "upstream_unreachable",
            )
        else:
            with pytest.raises(httpx2.ReadTimeout):
                await client.post(url("/"), content=b"x", timeout=httpx2.Timeout(30, read=2))
        with anyio.fail_after(30):
            await gone.wait()
        await client.aclose()

        async def closed() -> bool:
            return open_files() <= before

        await eventually(closed, 30)
    assert len(held) == 1
    kinds = [record["kind"] for record in rig.audit("gateway-audit.jsonl")]
    assert kinds == ["mcp.request", "mcp.response"]


async def test_t07_uploads_by_the_byte_are_given_up_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RelayLimits", partial(RelayLimits, head_s=1))
    monkeypatch.setattr(edge, "PREAMBLE_S", 1)
    rig, upstream = Rig(tmp_path), Upstream()

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await anyio.sleep(0.05)

    async with running_tunnel(rig, upstream.app) as (client, port):
        assert (await client.get(url("/echo"))).status_code == 200
        before, files = tasks(), open_files()
        async with anyio.create_task_group() as group:

            async def upload() -> None:
                async with client_of(rig, port) as slow:
                    try:
                        answer = await slow.post(url("/echo"), content=trickle())
                        assert answer.status_code == 408
                    except httpx2.TransportError:
                        # Cut off in the middle of its upload, it may not see the answer.
                        pass

            async def dawdle() -> None:
                wire = await rig.dialer(port).connect(HOST)
                with anyio.fail_after(30):
                    await wire.wait_lost()
                wire.abort()

            for _ in range(5):
                group.start_soon(upload)
                group.start_soon(dawdle)

        async def all_gone() -> bool:
            return tasks() <= before and open_files() <= files

        await eventually(all_gone, 30)
    assert [method for method, _, _ in upstream.requests] == ["GET"]


@pytest.mark.usefixtures("hurried")
async def test_t10_silence_is_no_reason_for_a_proxy_to_hang_up(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        serving(ConnectProxy(idle_s=2.0).handle) as proxy_port,
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
    ):
        way = {"edge_proxy": f"http://127.0.0.1:{proxy_port}"}
        config = replace(rig.config([port], upstream_port), **way)
        with capture_logs() as logs:
            async with (
                running_gateway(config),
                client_of(rig, port) as client,
                client.stream("GET", url("/events")) as answer,
            ):
                chunks = answer.aiter_raw()
                for number in range(2):
                    with anyio.fail_after(30):
                        assert await anext(chunks) == f"data: {number}\n\n".encode()
                    # A tool that says nothing for longer than the proxy's patience.
                    await anyio.sleep(2.5)
                    upstream.step.set()
    assert "link_lost" not in [entry["event"] for entry in logs]


async def test_t11_a_stream_goes_on_where_its_edge_was_killed(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    other = Rig(tmp_path / "other", key=rig.key)
    other.edge_ca = rig.edge_ca
    for name in ("edge.crt", "edge.key"):
        other.write(name, (rig.home / name).read_bytes())
    heard: list[int] = []

    async def listen(client: httpx2.AsyncClient) -> None:
        """Read events, as clients do: after a cut ask for what follows the last one."""
        while len(heard) < 60:
            headers = {"last-event-id": str(heard[-1])} if heard else {}
            try:
                async with client.stream("GET", url("/resumable"), headers=headers) as answer:
                    async for line in answer.aiter_lines():
                        heard.extend(int(n) for n in line.split("data: ")[1:])
            except httpx2.TransportError:
                await anyio.sleep(0.05)

    kill = anyio.Event()

    async def doomed(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        async with running_edge(rig) as port:
            task_status.started(port)
            await kill.wait()

    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(other) as second,
        anyio.create_task_group() as group,
    ):
        first = await group.start(doomed)
        async with (
            running_gateway(rig.config([first, second], upstream_port), links=2),
            client_of(rig, first, second) as client,
            anyio.create_task_group() as listening,
        ):
            listening.start_soon(listen, client)
            await eventually(partial(at_least, heard, 10), 30)
            assert len(heard) < 60
            # The edge is gone with everything on it, in the middle of the stream.
            kill.set()
            await eventually(partial(at_least, heard, 60), 30)
    assert heard == list(range(60))
    assert "dial.opened" in [record["kind"] for record in other.audit("edge-audit.jsonl")]


async def at_least(heard: list[int], count: int) -> bool:
    return len(heard) >= count


async def test_t12_an_upload_without_a_length_arrives_whole(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()

    async def parts() -> AsyncIterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 5000
            await anyio.lowlevel.checkpoint()

    async with running_tunnel(rig, upstream.app) as (client, _):
        answer = await client.post(url("/echo"), content=parts())
        assert answer.json()["size"] == 1_000_000
    _, headers, body = upstream.requests[0]
    assert body == b"".join(bytes([number]) * 5000 for number in range(200))
    assert headers["content-length"] == "1000000"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
async def test_t13_whatever_is_cut_each_call_is_answered_or_fails_once(
    tmp_path: Path, seed: int
) -> None:
    rig, upstream, dice = Rig(tmp_path), Upstream(), random.Random(seed)
    told: Counter[str] = Counter()
    calls = 0

    async def call(client: httpx2.AsyncClient, number: int) -> None:
        nonlocal calls
        while True:
            calls += 1
            body = json.dumps({"method": "tools/call", "id": f"{number}-{calls}"}).encode()
            try:
                answer = await client.post(url("/echo"), content=body, headers=JSON, timeout=5)
                told[f"status {answer.status_code}"] += 1
            except httpx2.TransportError:
                told["failed"] += 1
            await anyio.sleep(dice.random() * 0.02)

    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
        FaultyPath(port).serving() as path,
        running_gateway(rig.config([path.port], upstream_port)),
        client_of(rig, port) as client,
    ):
        before = tasks()
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(call, client, number)
            for _ in range(ROUNDS):
                await path.hurt(dice)
                await anyio.sleep(dice.random() * 0.4)
                await path.heal()
                before_this = told["status 200"]
                # However it was hurt, calls work again before long.
                await eventually(partial(more, told, before_this), 30)
            group.cancel_scope.cancel()
        # Nothing is stuck: the tunnel works, and the tasks of the dead calls are gone. Connections
        # that are well stay in the client's pool, each with its tasks, until they are closed.
        await eventually(partial(answers, client), 30)
        await client.aclose()
        await eventually(partial(at_most, before), 30)
    assert told["status 200"] >= ROUNDS
    assert set(told) <= {"status 200", "failed", "status 502"}
    records = rig.audit("gateway-audit.jsonl")
    intents = Counter(digests(records, "mcp.request"))
    assert intents == Counter(digests(records, "mcp.response"))
    served = Counter(body for method, _, body in upstream.requests if method == "POST")
    assert set(served.values()) == {1}
    assert len(served) <= intents.total()


async def more(told: Counter[str], than: int) -> bool:
    return told["status 200"] > than


async def at_most(count: int) -> bool:
    return tasks() <= count


def digests(records: list[dict[str, object]], kind: str) -> list[str]:
    found = []
    for record in records:
        fields = record["fields"]
        assert isinstance(fields, dict)
        if record["kind"] == kind:
            found.append(fields["request_sha256"])
    return found


async def answers(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get(url("/echo"))).status_code == 200
    except httpx2.TransportError:
        return False


class Wrong(SystemClock):
    """A clock that is some minutes off."""

    def __init__(self, minutes: int) -> None:
        self._off = timedelta(minutes=minutes)

    def now(self) -> datetime:
        return super().now() + self._off


@pytest.mark.parametrize(("minutes", "word"), [(-5, "clock_skew"), (5, "expired")])
async def test_t14_a_gateway_with_a_wrong_clock_says_so_and_serves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, word: str
) -> None:
    monkeypatch.setattr(gateway_app, "SystemClock", lambda: Wrong(minutes))
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, _):
        answer = await client.get(url("/echo"))
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "caller_unknown")
    message = answer.json()["error"]["message"]
    assert f"({word})" in message
    assert "clock" in message
    assert upstream.requests == []
    assert "mcp.refused" in [record["kind"] for record in rig.audit("gateway-audit.jsonl")]


@pytest.mark.parametrize(("minutes", "code"), [(-5, "clock_skew"), (5, "expired")])
async def test_t14_an_edge_with_a_wrong_clock_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, code: str
) -> None:
    monkeypatch.setattr(edge_app, "SystemClock", lambda: Wrong(minutes))
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, _):
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get(url("/echo"))
    cause = caught.value.__cause__
    assert code in str(getattr(cause, "hints", ""))
    assert "clock" in str(cause)


async def test_t16_calls_leave_no_task_and_no_file_behind(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, port):

        async def several() -> None:
            async with client_of(rig, port) as other, anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(other.get, url("/echo"))

        # The connections to the server stay; they are as many as there are calls at once.
        await several()
        await client.get(url("/echo"))
        before, files = tasks(), open_files()
        for _ in range(5):
            await several()
        for _ in range(60):
            assert (await client.get(url("/echo"))).status_code == 200

        async def all_gone() -> bool:
            return tasks() <= before and open_files() <= files

        await eventually(all_gone, 30)

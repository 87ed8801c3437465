import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trustme

from intramuros.kernel.timing import SystemClock
from intramuros.kernel.wire import Wire, connect_tls, serve_tls
from intramuros.protocol.mux import MAX_WINDOW, Event, LinkFull, Ponged, Side
from intramuros.protocol.mux_frames import (
    MAX_DATA_SHARED,
    Code,
    FrameType,
    Open,
    encode_open,
    encode_u32,
    frame,
)
from intramuros.tunnel import link
from intramuros.tunnel.link import Keepalive, Link, LinkStream, StreamReset

pytestmark = pytest.mark.anyio
AUTHORITY = trustme.CA()
REQUEST = Open("docs.t.example", 10_000)
MIB = 1024 * 1024


@dataclass
class Ends:
    """Both ends of a link, and the wires under them."""

    edge: Link
    gateway: Link
    edge_wire: Wire
    gateway_wire: Wire
    accepted: list[LinkStream] = field(default_factory=list)

    async def stream(self) -> tuple[LinkStream, LinkStream]:
        """Open a stream; gives the edge's end and the gateway's."""
        count = len(self.accepted)
        near = self.edge.open(REQUEST)
        with anyio.fail_after(30):
            while len(self.accepted) == count:
                await anyio.lowlevel.checkpoint()
        return near, self.accepted[-1]


@asynccontextmanager
async def linked(keepalive: Keepalive | None = None) -> AsyncIterator[Ends]:
    """Run both ends of one link over TLS on loopback."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    AUTHORITY.configure_trust(client)
    keepalive = keepalive or Keepalive()
    found: list[Wire] = []
    done = anyio.Event()

    async def handler(wire: Wire) -> None:
        found.append(wire)
        await done.wait()

    async with anyio.create_task_group() as group:

        async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            await serve_tls(
                handler, host="127.0.0.1", port=0, context=server, task_status=task_status
            )

        port = await group.start(serve)
        far = await connect_tls("127.0.0.1", port, client, server_name="localhost", timeout_s=5)
        with anyio.fail_after(30):
            while not found:
                await anyio.lowlevel.checkpoint()
        accepted: list[LinkStream] = []
        clock = SystemClock()
        gateway = Link(
            far,
            Side.GATEWAY,
            clock,
            on_stream=lambda stream, _: accepted.append(stream),
            keepalive=keepalive,
        )
        edge = Link(found[0], Side.EDGE, clock, keepalive=keepalive)
        ready = anyio.Event()
        group.start_soon(gateway.run)
        group.start_soon(edge.run, ready.set)
        with anyio.fail_after(30):
            await ready.wait()
        yield Ends(edge, gateway, found[0], far, accepted)
        done.set()
        group.cancel_scope.cancel()


async def read_all(stream: LinkStream) -> bytes:
    held = b""
    try:
        while True:
            held += await stream.receive()
    except anyio.EndOfStream:
        return held


async def test_t12_each_direction_ends_by_itself() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        await near.send(b"question")
        await near.send_eof()
        assert await read_all(far) == b"question"
        assert far.gone
        await far.send(b"a late answer")
        await far.send_eof()
        assert await read_all(near) == b"a late answer"
        await near.aclose()
        await far.aclose()
        assert ends.edge.load == ends.gateway.load == 0
        with pytest.raises(anyio.ClosedResourceError):
            await near.send(b"x")
        with pytest.raises(anyio.ClosedResourceError):
            await near.receive()


async def test_large_transfers_in_both_directions_at_once() -> None:
    block = bytes(range(256)) * 4096
    async with linked() as ends:
        near, far = await ends.stream()

        async def send(stream: LinkStream) -> None:
            for _ in range(8):
                await stream.send(block)
            await stream.send_eof()

        async with anyio.create_task_group() as group:
            group.start_soon(send, near)
            group.start_soon(send, far)
            assert await read_all(far) == block * 8
            assert await read_all(near) == block * 8


async def test_t06_a_slow_reader_stops_its_sender_and_nobody_else() -> None:
    async with linked() as ends:
        slow_near, slow_far = await ends.stream()
        near, far = await ends.stream()
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                await slow_near.send(b"x" * 65536)
                sent += 65536

        async with anyio.create_task_group() as group:
            group.start_soon(pour)
            stuck, looks = -1, 0
            with anyio.fail_after(30):
                while looks < 10:
                    looks = looks + 1 if stuck == sent else 0
                    stuck = sent
                    await anyio.sleep(0.05)
            # One first window at most is in flight or unread; credit comes with consumption.
            assert sum(map(len, slow_far._chunks)) <= 64 * 1024
            with anyio.fail_after(30):
                for _ in range(20):
                    await near.send(b"ping")
                    assert await far.receive() == b"ping"
            assert stuck == sent
            with anyio.fail_after(30):
                taken = 0
                while taken < 4 * MIB:
                    taken += len(await slow_far.receive())
            group.cancel_scope.cancel()


async def test_closing_early_resets_the_other_end() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        await far.send(b"never read")
        far.close(Code.NO_ROUTE)
        with pytest.raises(StreamReset, match="no_route") as caught:
            await near.receive()
        assert caught.value.code == Code.NO_ROUTE
        with pytest.raises(StreamReset):
            await near.send(b"x")
        await near.aclose()
        assert ends.edge.load == 0


async def test_what_came_before_a_fin_survives_a_reset() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        await far.send(b"last words")
        await far.send_eof()
        await far.aclose()
        await ends.stream()
        assert await read_all(near) == b"last words"


async def test_gone_is_told_at_once_and_when_it_happens() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        calls: list[int] = []
        far.when_gone(lambda: calls.append(1))
        await near.aclose()
        with anyio.fail_after(30):
            while not calls:
                await anyio.lowlevel.checkpoint()
        far.when_gone(lambda: calls.append(2))
        assert calls == [1, 2]


async def test_a_lost_link_breaks_all_its_streams() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        ends.gateway_wire.abort()
        for stream in (near, far):
            with anyio.fail_after(30), pytest.raises(StreamReset):
                await stream.receive()
        assert not ends.edge.accepts_streams
        assert ends.edge.end_reason
        await ends.edge.drained()


async def test_a_silent_peer_is_given_up() -> None:
    async with linked(Keepalive(every_s=0.1, dead_s=1.5)) as ends:
        near, _ = await ends.stream()
        await anyio.sleep(2)
        # PING and PONG keep an idle link alive.
        assert ends.edge.accepts_streams
        ends.gateway_wire.subscribe(lambda _: None, lambda _: None, lambda: None)
        with anyio.fail_after(30), pytest.raises(StreamReset):
            await near.receive()
        # The deaf end gives up as well; whichever is first takes the link down.
        assert "no sign of life" in ends.edge.end_reason + ends.gateway.end_reason


async def test_nonsense_from_the_peer_ends_the_link() -> None:
    async with linked() as ends:
        near, _ = await ends.stream()
        ends.gateway_wire.write_now((b"\xff" * 9,))
        with anyio.fail_after(30), pytest.raises(StreamReset):
            await near.receive()
        assert "protocol violation" in ends.edge.end_reason


async def test_going_away_lets_open_streams_finish() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        ends.gateway.go_away(Code.DRAIN)
        with anyio.fail_after(30):
            while ends.edge.going_away is None:
                await anyio.lowlevel.checkpoint()
        assert ends.edge.going_away == Code.DRAIN
        with pytest.raises(LinkFull):
            ends.edge.open(REQUEST)
        async with anyio.create_task_group() as group:
            group.start_soon(ends.gateway.drained)
            await near.send(b"finish")
            await near.send_eof()
            assert await read_all(far) == b"finish"
            await far.aclose()


async def test_a_gateway_that_opens_streams_is_cut_off() -> None:
    async with linked() as ends:
        near, _ = await ends.stream()

        ends.gateway_wire.write_now((encode_open(7, REQUEST),))
        with anyio.fail_after(30), pytest.raises(StreamReset):
            await near.receive()
        assert "may not open" in ends.edge.end_reason


async def test_t08_many_idle_streams_are_cheap_to_open() -> None:
    async with linked() as ends:
        for _ in range(2000):
            ends.edge.open(REQUEST)
        with anyio.fail_after(30):
            while len(ends.accepted) < 2000:
                await anyio.lowlevel.checkpoint()
        near, far = await ends.stream()
        await near.send(b"still quick")
        assert await far.receive() == b"still quick"


@pytest.mark.parametrize("kind", ["ping", "crumbs", "ended", "resets"])
async def test_t25_a_flood_of_frames_that_move_nothing_is_cut_off(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a busy machine can still send in a second.
    monkeypatch.setattr(link, "MAX_NOISE_PER_S", 6000)
    async with linked() as ends:
        near, far = await ends.stream()
        gone, gone_far = await ends.stream()
        await gone.aclose()
        with anyio.fail_after(30):
            while not gone_far.gone:
                await anyio.lowlevel.checkpoint()
        flood = {
            "ping": frame(FrameType.PING, 0, b"12345678"),
            "crumbs": encode_u32(FrameType.WINDOW, 1, 1),
            "ended": frame(FrameType.DATA, 2, b"x"),
            "resets": encode_u32(FrameType.RST, 2, 0),
        }[kind]
        # Honest traffic of the same kind is nothing to cut for.
        ends.gateway_wire.write_now((flood * 100,))
        await near.send(b"still here")
        assert await far.receive() == b"still here"
        with anyio.fail_after(30):
            while not ends.edge.end_reason:
                ends.gateway_wire.write_now((flood * 1000,))
                await anyio.sleep(0.005)
        assert "flood" in ends.edge.end_reason
        with pytest.raises(StreamReset):
            await near.receive()


async def test_t09_small_talk_waits_for_a_window_of_bulk_at_most_and_pings_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with linked() as ends:
        bulk_near, bulk_far = await ends.stream()
        near, far = await ends.stream()
        taken = 0
        ponged = anyio.Event()
        handle = ends.edge._handle

        def heard(event: Event) -> None:
            if isinstance(event, Ponged):
                ponged.set()
            handle(event)

        monkeypatch.setattr(ends.edge, "_handle", heard)

        async def drain() -> None:
            nonlocal taken
            while True:
                taken += len(await bulk_far.receive())

        async with anyio.create_task_group() as group:
            group.start_soon(pour_into, bulk_near)
            group.start_soon(drain)
            group.start_soon(echo, far)
            with anyio.fail_after(30):
                while taken < 8 * MIB:
                    await anyio.lowlevel.checkpoint()
            for _ in range(20):
                before = taken
                with anyio.fail_after(30):
                    await near.send(b"x" * 1024)
                    assert await near.receive() == b"x" * 1024
                # What was under way when we spoke, and what came while we listened.
                assert taken - before <= 2 * MAX_WINDOW
            ends.edge._mux.ping(b"12345678")
            ends.edge._schedule_flush()
            with anyio.fail_after(30):
                await ponged.wait()
            assert max(map(len, bulk_far._chunks), default=0) <= MAX_DATA_SHARED
            group.cancel_scope.cancel()


async def pour_into(stream: LinkStream) -> None:
    while True:
        await stream.send(b"x" * 256 * 1024)


async def echo(stream: LinkStream) -> None:
    while True:
        await stream.send(await stream.receive())

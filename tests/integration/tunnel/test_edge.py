from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.control.mcp.dial import outer_context
from intramuros.kernel.wire import ConnectFailed, Wire, connect_tls
from intramuros.protocol.dial import LINK_ALPN, LinkHello, encode_link_hello, parse_reply
from intramuros.protocol.mux import Mux, Side
from intramuros.protocol.mux_frames import Code, FrameType, Open, encode_goaway, encode_open
from intramuros.protocol.tickets import TunnelToken
from intramuros.tunnel.link import LinkStream
from intramuros.tunnel.recorder import Recording
from tests.integration.tunnel.rig import (
    DOMAIN,
    TUNNEL,
    Rig,
    client_of,
    running_edge,
    running_gateway,
    running_tunnel,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(rig: Rig, port: int, alpn: str = LINK_ALPN) -> AsyncIterator[Wire]:
    context = outer_context(rig.edge_ca.decode())
    context.set_alpn_protocols([alpn])
    wire = await connect_tls("127.0.0.1", port, context, server_name="127.0.0.1", timeout_s=5)
    try:
        yield wire
    finally:
        await wire.aclose()


async def said_until_closed(wire: Wire) -> bytes:
    held = b""
    try:
        with anyio.fail_after(30):
            while True:
                held += await wire.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return held


def hello(rig: Rig, tunnel: str = TUNNEL, version: int = 1) -> bytes:
    token = rig.key.mint_tunnel_token(TunnelToken(tunnel, DOMAIN, version))
    return encode_link_hello(LinkHello(token, "test"))


async def test_first_lines_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    rig, stranger = Rig(tmp_path), Rig(tmp_path / "stranger")
    lines = {
        b"GET / HTTP/1.1\r\n": b"ERR bad_request",
        hello(stranger): b"ERR bad_signature",
        b"x" * 5000: b"ERR bad_request",
    }
    async with running_edge(rig) as port:
        for line, answer in lines.items():
            async with connected(rig, port) as wire:
                await wire.send(line)
                assert (await said_until_closed(wire)).startswith(answer)
        for request, answer in (
            (b"anything\r\n\r\n", b""),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404 "),
            (b"GET /link HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 426 "),
        ):
            async with connected(rig, port, "http/1.1") as wire:
                await wire.send(request)
                assert (await said_until_closed(wire)).startswith(answer)
    refused = rig.audit("edge-audit.jsonl")
    assert [record["kind"] for record in refused] == ["link.refused"] * 3


async def test_t25_a_gateway_that_breaks_the_rules_is_cut_off_and_others_stay(
    tmp_path: Path,
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    gateway_hello = b"".join(Mux(Side.GATEWAY).data_to_send())
    async with running_tunnel(rig, upstream.app) as (client, port):
        for data in (
            encode_open(1, Open(f"docs.{DOMAIN}", 1)),
            b"\x03\0\0\0\x01\xff\xff\xff\xff",
            b"\x63" * 9,
        ):
            async with connected(rig, port) as wire:
                await wire.send(hello(rig, "tnl_other"))
                assert parse_reply(await wire.read_line(4096)) is None
                await wire.send(gateway_hello + data)
                said = await said_until_closed(wire)
                assert encode_goaway(0, Code.PROTOCOL)[:1] in said
                assert said[-17] == FrameType.GOAWAY
        assert (await client.get(url("/echo"))).status_code == 200


async def test_t25_a_tunnel_cannot_hoard_links(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running_edge(rig) as port, anyio.create_task_group() as group:
        full = anyio.Event()
        waiting = 0

        async def hold() -> None:
            nonlocal waiting
            async with connected(rig, port) as wire:
                await wire.send(hello(rig))
                await wire.read_line(4096)
                await wire.send(b"".join(Mux(Side.GATEWAY).data_to_send()))
                await wire.receive()
                waiting += 1
                if waiting == 32:
                    full.set()
                await anyio.sleep_forever()

        for _ in range(32):
            group.start_soon(hold)
        with anyio.fail_after(30):
            await full.wait()
        async with connected(rig, port) as wire:
            await wire.send(hello(rig))
            assert (await said_until_closed(wire)).startswith(b"ERR too_many_links")
        group.cancel_scope.cancel()


async def test_older_tls_and_untrusted_edges_do_not_connect(tmp_path: Path) -> None:
    rig, other = Rig(tmp_path), Rig(tmp_path / "other")
    async with running_edge(rig) as port:
        with pytest.raises(ConnectFailed) as caught:
            async with connected(other, port):
                pass
        assert caught.value.reason == "certificate"


@contextmanager
def tampering(direction: str) -> Iterator[None]:
    """Make the edge flip one bit of the next chunk that it relays in a direction."""
    original = getattr(Recording, direction)
    send = {"up": LinkStream.send, "down": Wire.send}[direction]
    owner = {"up": LinkStream, "down": Wire}[direction]
    flip: list[bytes] = []

    def seen(self: Recording, data: bytes) -> None:
        original(self, data)
        flip.append(data)

    async def changed(self: Wire | LinkStream, item: bytes) -> None:
        if flip and flip[-1] is item:
            item = item[:-1] + bytes([item[-1] ^ 1])
        await send(self, item)  # type: ignore[operator]  # the owner's own method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, direction, seen)
        patch.setattr(owner, "send", changed)
        yield


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_tampered_ciphertext_breaks_the_call_and_gives_no_answer(
    tmp_path: Path, direction: str
) -> None:
    """A dishonest edge changes one byte; inner TLS notices and nothing false is delivered."""
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port, running_edge(rig) as edge_port:
        config = rig.config([edge_port], upstream_port)
        async with running_gateway(config), client_of(rig, edge_port) as client:
            assert (await client.get(url("/echo"))).status_code == 200
            with tampering(direction), pytest.raises(httpx2.TransportError):
                await client.post(url("/echo"), content=b"x" * 1000)
            assert (await client.get(url("/echo"))).status_code == 200
    bodies = [body for method, _, body in upstream.requests if method == "POST"]
    assert bodies == ([] if direction == "up" else [b"x" * 1000])


@pytest.mark.parametrize("size", [1, 100, 600])
async def test_a_caller_that_speaks_no_tls_is_not_connected(tmp_path: Path, size: int) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (_, port):
        wire = await rig.dialer(port).connect(f"docs.{DOMAIN}")
        await wire.send(b"G" * size)
        assert await said_until_closed(wire) == b""
        await wire.aclose()
    assert [r["kind"] for r in rig.audit("edge-audit.jsonl")].count("dial.opened") == 0

"""What a caller, an edge or a name may not reach through a tunnel.

Numbers are those of docs/reference/tunnel-tests.toml.
"""

import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from anyio.streams.tls import TLSStream

from intramuros.control.mcp.dial import TunnelDialer
from intramuros.kernel.errors import DomainError
from intramuros.tunnel.dialer import Transport
from tests.integration.tunnel.middlebox import ConnectProxy, serving
from tests.integration.tunnel.rig import (
    DOMAIN,
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
HOST = f"docs.{DOMAIN}"
MIB = 1024 * 1024


@dataclass
class Silent:
    """A private server that only counts who connects."""

    connections: list[object] = field(default_factory=list)

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        self.connections.append(stream)
        await anyio.sleep_forever()


@asynccontextmanager
async def guarded(rig: Rig) -> AsyncIterator[tuple[TunnelDialer, Silent]]:
    """Run a tunnel to a server that must not be reached."""
    silent = Silent()
    async with (
        serving(silent.handle) as upstream_port,
        running_edge(rig) as port,
        running_gateway(rig.config([port], upstream_port)),
    ):
        yield rig.dialer(port), silent


async def said_to(dialer: TunnelDialer, data: bytes) -> bytes:
    """Say something on an inner connection of its own; return all that comes back."""
    wire, tls = await dialer.open(HOST)
    said = b""
    try:
        with anyio.fail_after(30):
            for start in range(0, len(data), MIB):
                await tls.send(data[start : start + MIB])
            while b"connection: close" not in said.lower():
                said += await tls.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
        pass
    finally:
        wire.abort()
    return said


async def request(rig: Rig, *lines: str, first: str = "GET / HTTP/1.1", host: str = HOST) -> bytes:
    head = [first, f"Host: {host}", f"Intramuros-Call: {await rig.vouch(HOST)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


async def test_t23_a_request_for_another_name_than_the_connections_goes_nowhere(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    async with guarded(rig) as (dialer, silent):
        for host in (
            f"docs.{DOMAIN}.",
            f"DOCS.{DOMAIN}",
            f"docs.{DOMAIN}:443",
            f"wiki.{DOMAIN}",
            "docs.other.tunnel.intramuros.internal",
            f"xn--dcs-5cd.{DOMAIN}",
            "10.0.0.1",
            "",
        ):
            said = await said_to(dialer, await request(rig, host=host))
            assert said[:13] in (b"HTTP/1.1 421 ", b"HTTP/1.1 400 "), (host, said)
        for said in (
            await said_to(dialer, await request(rig, first=f"GET http://{HOST}/ HTTP/1.1")),
            await said_to(dialer, await request(rig, first="GET http://10.0.0.1/ HTTP/1.1")),
            await said_to(dialer, await request(rig, f"Host: {HOST}")),
            await said_to(dialer, await request(rig, "Host: 10.0.0.1")),
        ):
            assert said.startswith(b"HTTP/1.1 400 "), said
    assert silent.connections == []


async def test_t23_names_that_are_none_or_not_ours_are_not_told_apart(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with guarded(rig) as (dialer, silent):
        codes = set()
        for host in (f"docs.{DOMAIN}.", f"DOCS.{DOMAIN}", f"docs.{DOMAIN}:443", "docs..x"):
            with pytest.raises(DomainError) as caught:
                await dialer.open(host)
            codes.add(caught.value.hints.code)
        assert codes == {"bad_host"}
        # Routes that are not there and tunnels that are not there differ to nobody but their owner.
        answers = []
        for host in (f"wiki.{DOMAIN}", f"xn--dcs-5cd.{DOMAIN}"):
            wire, tls = await dialer.open(host)
            proof = await rig.vouch(host)
            await tls.send(
                f"GET / HTTP/1.1\r\nHost: {host}\r\nIntramuros-Call: {proof}\r\n\r\n".encode()
            )
            answers.append(await tls.receive())
            wire.abort()
        assert answers[0] == answers[1]
        assert answers[0].startswith(b"HTTP/1.1 404 ")
    assert silent.connections == []


async def test_t28_what_is_too_much_or_ambiguous_reaches_no_server(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    post = "POST / HTTP/1.1"
    bomb = gzip.compress(b"\0" * MIB)
    deep = b"[" * 10_000
    cases = {
        "a header of 64 KiB": (431, await request(rig, "X: " + "a" * 65536)),
        "1,000 headers": (431, await request(rig, *[f"X{n}: a" for n in range(1000)])),
        "10,000 levels": (
            400,
            await request(rig, f"Content-Length: {len(deep)}", first=post) + deep,
        ),
        "packed": (
            415,
            await request(rig, f"Content-Length: {len(bomb)}", "Content-Encoding: gzip", first=post)
            + bomb,
        ),
        "two lengths": (
            400,
            await request(rig, "Content-Length: 3", "Transfer-Encoding: chunked", first=post)
            + b"0\r\n\r\n",
        ),
        "bare LF": (400, (await request(rig, "X: a")).replace(b"X: a\r\n", b"X: a\nY: b\r\n")),
        "folded": (400, await request(rig, "X: a", " b")),
        "100 MB": (
            413,
            await request(rig, f"Content-Length: {100 * MIB}", first=post) + b"x" * (9 * MIB),
        ),
    }
    async with guarded(rig) as (dialer, silent):
        for name, (status, data) in cases.items():
            said = await said_to(dialer, data)
            assert said.startswith(f"HTTP/1.1 {status} ".encode()), (name, said[:200])
    assert silent.connections == []


@pytest.mark.parametrize("transport", [Transport.DIRECT, Transport.WEBSOCKET])
async def test_t29_a_tap_at_the_edge_and_at_the_proxy_sees_nothing_that_is_said(
    tmp_path: Path, transport: Transport
) -> None:
    rig, upstream, seen = Rig(tmp_path), Upstream(), []
    marker = b"v4lu4ble-m4rker"

    class Tapped(ConnectProxy):
        async def handle(self, stream: anyio.abc.SocketStream) -> None:
            receive, send = stream.receive, stream.send

            async def heard(size: int = 65536) -> bytes:
                seen.append(await receive(size))
                return seen[-1]

            async def told(item: bytes) -> None:
                seen.append(item)
                await send(item)

            stream.receive, stream.send = heard, told  # type: ignore[method-assign]  # the tap
            await super().handle(stream)

    async with (
        serving(Tapped().handle) as proxy_port,
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
    ):
        way = {"edge_proxy": f"http://127.0.0.1:{proxy_port}", "edge_transport": transport}
        async with (
            running_gateway(replace(rig.config([port], upstream_port), **way)),
            client_of(rig, port) as client,
        ):
            answer = await client.post(url(f"/echo?{marker.decode()}"), content=marker * 100)
            assert answer.json()["query"].startswith(marker.decode())
    tapped, relayed = b"".join(seen), rig.recorded()
    assert len(tapped) > 3000
    assert len(relayed) > 1500
    for plain in (marker, answer.json()["sha256"].encode(), b"HTTP/1.1 200 OK"):
        assert plain not in relayed
        assert plain not in tapped
    assert b"tunnel-token" not in tapped


@pytest.mark.parametrize("wrong", ["tls 1.2", "another protocol", "no protocol"])
async def test_t30_the_inner_tls_is_not_talked_down(tmp_path: Path, wrong: str) -> None:
    rig = Rig(tmp_path)
    async with guarded(rig) as (dialer, silent):
        context = ssl.create_default_context(cadata=rig.ca.cert_pem.decode())
        if wrong == "tls 1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
        elif wrong == "another protocol":
            context.set_alpn_protocols(["h2"])
        wire = await dialer.connect(HOST)
        with pytest.raises((ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError)):
            with anyio.fail_after(30):
                tls = await TLSStream.wrap(
                    wire, hostname=HOST, ssl_context=context, standard_compatible=False
                )
                await tls.send(await request(rig))
                await tls.receive()
        wire.abort()
    assert silent.connections == []


async def test_t30_no_ticket_lets_anyone_send_early_or_resume(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (_, port):
        wire, tls = await rig.dialer(port).open(HOST)
        await tls.send(await request(rig, first="GET /echo HTTP/1.1"))
        assert b" 200 " in await tls.receive()
        session = tls._ssl_object.session
        assert session is None or not session.has_ticket
        wire.abort()

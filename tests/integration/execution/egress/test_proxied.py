"""Programs that ask a proxy, through a real gate to a real host."""

import ssl
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from intramuros.execution.egress.policy import Networking, Policy, parse_hosts
from intramuros.execution.egress.secrets import Secrets
from tests.integration.execution.egress.rig import (
    MARK,
    NAME,
    VALUE,
    Rig,
    get,
    got,
    own,
    rig,
    secret,
)

pytestmark = pytest.mark.anyio


def url(site: Rig, path: str = "/", name: str = NAME, *lines: str) -> bytes:
    return get(f"http://{name}:{site.port}{path}", *lines, host=f"{name}:{site.port}")


async def tunnel(site: Rig, stream: ByteStream, name: str = NAME) -> None:
    await stream.send(f"CONNECT {name}:{site.port} HTTP/1.1\r\n\r\n".encode())
    assert await stream.receive() == b"HTTP/1.1 200 Connection established\r\n\r\n"


def trusting(site: Rig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=site.authority.pem.decode())
    return context


async def test_urls_of_several_hosts_go_over_one_connection_each_judged(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        async with site.connect(None) as stream:
            token = f"X-Key: {MARK.decode()}"
            lines = (token, "Proxy-Authorization: Basic eDp5", "Proxy-Connection: keep-alive")
            assert (await site.ask(stream, url(site, "/a", NAME, *lines))).status == 200
            assert (await site.ask(stream, url(site, "/b", "other.test", token))).status == 200
            assert (await site.ask(stream, url(site, "/c"))).status == 200
        first, second, third = site.origin.visits
        assert first.first == "GET /a HTTP/1.1"
        assert first.header("x-key") == [VALUE]
        assert first.header("proxy-authorization") == first.header("proxy-connection") == []
        assert second.header("x-key") == [MARK.decode()]
        assert second.header("host") == [f"other.test:{site.port}"]
        assert third.first == "GET /c HTTP/1.1"
        # A connection leads to one name, whatever its address.
        assert site.origin.connections == 3
        assert [r["host"] for r in site.records("egress.request")] == [NAME, "other.test", NAME]


async def test_a_tunnel_is_a_connection_to_its_name(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        site.set(secret())
        async with site.connect(None) as stream:
            await tunnel(site, stream)
            inner = await TLSStream.wrap(
                stream, hostname=NAME, ssl_context=trusting(site), standard_compatible=False
            )
            token = f"X-Key: {MARK.decode()}"
            assert (await site.ask(inner, get("/a", token))).status == 200
            # What is inside is for that name too.
            assert (await site.ask(inner, get(host="evil.test"))).rule == "host_mismatch"
        assert site.origin.visits[0].header("x-key") == [VALUE]
        assert len(site.origin.visits) == 1


async def test_tls_inside_a_tunnel_is_for_its_name(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site, site.connect(None) as stream:
        await tunnel(site, stream)
        with pytest.raises(ssl.SSLError):
            await TLSStream.wrap(stream, hostname="evil.test", ssl_context=trusting(site))
        assert site.origin.connections == 0


async def test_a_tunnel_in_a_tunnel_is_none(tmp_path: Path) -> None:
    async with rig(tmp_path) as site, site.connect(None) as stream:
        await tunnel(site, stream)
        asked = f"CONNECT {NAME}:{site.port} HTTP/1.1\r\nHost: {NAME}:{site.port}\r\n\r\n".encode()
        assert (await site.ask(stream, asked)).rule == "connect"


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (b"CONNECT denied.test:%d HTTP/1.1\r\n\r\n", "worker_denies"),
        (b"GET http://denied.test:%d/ HTTP/1.1\r\nHost: denied.test\r\n\r\n", "worker_denies"),
        (b"CONNECT api.test:22 HTTP/1.1\r\n\r\n", "port_not_allowed"),
        (b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", "malformed_name"),
        (b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: api.test\r\n\r\n", "malformed_name"),
        (b"GET http://api.test:%d/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", "host_mismatch"),
        (b"GET http://pinned.test:%d/ HTTP/1.1\r\nHost: pinned.test\r\n\r\n", "pass_through"),
        (b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", "absolute_form"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "malformed"),
        (b"\x05\x01\x00\r\n\r\n", "malformed"),  # SOCKS
    ],
)
async def test_whoever_asks_a_proxy_gains_nothing(tmp_path: Path, asked: bytes, rule: str) -> None:
    async with rig(tmp_path) as site:
        rules = own(
            site.port, deny=parse_hosts(["denied.test"]), pass_through=parse_hosts(["pinned.test"])
        )
        site.gate.renew(Policy(rules, Networking()), Secrets())
        async with site.connect(None) as stream:
            raw = asked % site.port if b"%d" in asked else asked
            await stream.send(raw)
            answered = await got(stream)
        assert answered.rule == rule
        assert answered.status >= 400
        assert site.origin.connections == 0
        assert site.verdicts()[-1] == ("deny", rule)


async def test_a_pinned_host_is_tunnelled_unseen(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True, pass_through=parse_hosts([NAME])) as site:
        context = ssl.create_default_context(cafile=str(tmp_path / "upstream.pem"))
        async with site.connect(None) as stream:
            await tunnel(site, stream)
            inner = await TLSStream.wrap(stream, hostname=NAME, ssl_context=context)
            await inner.send(get())
            assert (await got(inner)).status == 200
        assert site.verdicts() == [("allow", "pass_through")]


async def test_a_head_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.limit(head_s=0.05)
        async with site.connect(None) as stream:
            await stream.send(b"CONNECT api.test:443 HTTP/1.1\r\n")
            answered = await got(stream)
            assert answered.rule == "head_time"
        async with site.connect(None) as stream:
            with anyio.fail_after(60):
                await stream.send(b"CONNECT " + b"a" * 70_000)
                assert (await got(stream)).status == 431

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import httpcore2
import pytest
import trustme

from intramuros.kernel.wire import READ_HIGH
from intramuros.tunnel.routes import AddressRule
from intramuros.tunnel.upstream import (
    PinnedBackend,
    UpstreamRefused,
    UpstreamStream,
    upstream_pool,
)
from tests.integration.tunnel.rig import running_upstream
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
LOOPBACK = AddressRule((ipaddress.ip_network("127.0.0.1"),))


def answer(*addresses: str) -> list[tuple[object, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in addresses]


class Resolver:
    """A resolver that changes its mind, as a rebinding one does."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, *_args: object, **_kwargs: object) -> list[tuple[object, ...]]:
        self.asked += 1
        return answer(*self.answers.pop(0))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "127.0.0.2",
        "::1",
        "0.0.0.0",
        "::ffff:127.0.0.2",
        "100.64.0.1",
        "10.0.0.1",
        "2130706434",
        "0x7f000002",
        "0177.0.0.2",
    ],
)
async def test_t26_addresses_outside_the_rule_are_refused_however_they_are_spelled(
    host: str,
) -> None:
    with pytest.raises(UpstreamRefused):
        await PinnedBackend(LOOPBACK).connect_tcp(host, 80, 1)


async def test_t27_the_checked_address_is_dialled_without_a_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_upstream(Upstream().app) as port:
        resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
        monkeypatch.setattr(anyio, "getaddrinfo", resolver)
        backend = PinnedBackend(LOOPBACK)
        stream = await backend.connect_tcp("private.example", port, 5)
        await stream.aclose()
        assert resolver.asked == 1
        with pytest.raises(UpstreamRefused, match=r"169\.254\.169\.254"):
            await backend.connect_tcp("private.example", port, 5)


async def test_t27_one_bad_address_among_good_ones_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio, "getaddrinfo", Resolver(["127.0.0.1", "8.8.8.8"]))
    with pytest.raises(UpstreamRefused):
        await PinnedBackend(LOOPBACK).connect_tcp("private.example", 80, 1)


async def test_nothing_there_is_a_connect_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpcore2.ConnectError):
        await PinnedBackend(LOOPBACK).connect_tcp("127.0.0.1", 1, 1)

    async def fail(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(anyio, "getaddrinfo", fail)
    with pytest.raises(httpcore2.ConnectError, match="resolve"):
        await PinnedBackend(LOOPBACK).connect_tcp("private.example", 80, 1)


async def test_t26_the_pool_keeps_connections_and_follows_no_redirect() -> None:
    async with running_upstream(Upstream().app) as port:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with upstream_pool(LOOPBACK, context) as pool:
            for _ in range(2):
                found = await pool.request("GET", f"http://127.0.0.1:{port}/redirect")
                assert found.status == 307
            assert len(pool.connections) == 1
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop, as gateways run"]
)
async def test_t06_what_nobody_reads_is_left_with_the_server() -> None:
    async with running_upstream(Upstream().app) as port:
        stream = await PinnedBackend(LOOPBACK).connect_tcp("127.0.0.1", port, 30)
        assert isinstance(stream, UpstreamStream)
        await stream.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n", 30)
        assert (await stream.read(65536, 30)).startswith(b"HTTP/1.1 200 ")
        # Megabytes are in the kernel's buffers by then.
        await anyio.sleep(0.5)
        assert await stream.read(1, 30)
        assert stream._wire._unread <= 2 * READ_HIGH
        await stream.aclose()
        with pytest.raises(httpcore2.WriteError):
            await stream.write(b"x", 30)


@pytest.mark.parametrize("believed", [True, False])
async def test_a_server_with_tls_is_kept_if_it_is_believed(tmp_path: Path, believed: bool) -> None:
    authority, serving = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    context = ssl.create_default_context()
    if believed:
        authority.configure_trust(context)
    async with (
        running_upstream(Upstream().app, serving) as port,
        upstream_pool(LOOPBACK, context) as pool,
    ):
        if not believed:
            with pytest.raises(httpcore2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await pool.request("GET", f"https://127.0.0.1:{port}/echo")
            return
        for _ in range(2):
            found = await pool.request("GET", f"https://127.0.0.1:{port}/big/3000000")
            assert len(found.content) == 3_000_000
        assert len(pool.connections) == 1
        sent = b"y" * 3_000_000
        assert (
            await pool.request("POST", f"https://127.0.0.1:{port}/echo", content=sent)
        ).status == 200
        async with (
            pool.stream("GET", f"https://127.0.0.1:{port}/endless") as half,
            aclosing(half.aiter_stream()) as chunks,
        ):
            assert await anext(chunks)


async def test_a_silent_server_and_one_that_closed_are_told_apart() -> None:
    quiet = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = quiet.extra(anyio.abc.SocketAttribute.local_port)

    async def answer_once(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.receive()
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.receive(1)

    async with quiet, anyio.create_task_group() as group:
        group.start_soon(quiet.serve, answer_once)
        stream = await PinnedBackend(LOOPBACK).connect_tcp("127.0.0.1", port, 30)
        with pytest.raises(httpcore2.ReadTimeout):
            await stream.read(10, 0.3)
        await stream.write(b"x", 30)
        assert (await stream.read(100, 30)).startswith(b"HTTP/1.1 200")
        assert not stream.get_extra_info("is_readable")
        await stream.write(b"y", 30)
        # The server hangs up, which the pool must see before it sends the next request there.
        with anyio.fail_after(30):
            while not stream.get_extra_info("is_readable"):
                await anyio.lowlevel.checkpoint()
        assert await stream.read(10, 30) == b""
        assert stream.get_extra_info("is_readable")
        await stream.aclose()
        group.cancel_scope.cancel()

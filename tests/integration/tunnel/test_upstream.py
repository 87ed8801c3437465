import ipaddress
import socket
import ssl
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import httpcore2
import pytest

from intramuros.tunnel.routes import AddressRule
from intramuros.tunnel.upstream import PinnedBackend, UpstreamRefused, upstream_pool
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

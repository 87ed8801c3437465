import ipaddress
from collections.abc import Sequence

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.mcp.guard import GuardedBackend, is_allowed

pytestmark = pytest.mark.anyio

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "0.0.0.0",
    "100.64.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "fec0::1",
    "5f00::1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public_are_refused(text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text), ())


@pytest.mark.parametrize(
    "text",
    [
        "93.184.215.14",
        "2606:4700::6810:84e5",
        "::ffff:93.184.215.14",
        "64:ff9b::93.184.215.14",
    ],
)
def test_public_addresses_pass(text: str) -> None:
    assert is_allowed(ipaddress.ip_address(text), ())


def test_the_operators_networks_pass() -> None:
    own = [ipaddress.ip_network("10.0.0.0/8")]
    assert is_allowed(ipaddress.ip_address("10.1.2.3"), own)
    assert is_allowed(ipaddress.ip_address("::ffff:10.1.2.3"), own)
    assert not is_allowed(ipaddress.ip_address("192.168.1.1"), own)


@given(st.ip_addresses(v=4, network="10.0.0.0/8"))
def test_an_ipv4_address_inside_ipv6_is_judged_as_ipv4(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    assert not is_allowed(mapped, ())


class Answers:
    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0)


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    backend = GuardedBackend(resolver=Answers(["93.184.215.14", "127.0.0.1"]))
    with pytest.raises(httpcore2.ConnectError, match="public addresses only"):
        await backend.connect_tcp("rebind.test", 443)


async def test_a_name_without_addresses_is_refused() -> None:
    with pytest.raises(httpcore2.ConnectError):
        await GuardedBackend(resolver=Answers([])).connect_tcp("empty.test", 443)


async def test_a_name_that_cannot_be_resolved_is_a_connect_error() -> None:
    async def fails(host: str, port: int) -> Sequence[str]:
        raise OSError("no such host")

    with pytest.raises(httpcore2.ConnectError, match="cannot be resolved"):
        await GuardedBackend(resolver=fails).connect_tcp("nowhere.test", 443)


async def test_the_connection_goes_to_the_checked_address_and_asks_once() -> None:
    answers = Answers(["127.0.0.1"], ["10.0.0.1"])
    backend = GuardedBackend([ipaddress.ip_network("127.0.0.0/8")], answers)
    with pytest.raises(httpcore2.ConnectError):
        await backend.connect_tcp("local.test", 1, timeout=2)
    assert answers.asked == 1

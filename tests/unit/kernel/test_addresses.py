import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel.addresses import is_allowed, is_private, is_public

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
    "168.63.129.16",
    "100.100.100.200",
    "2001::1",
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


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3",
        "172.31.0.1",
        "192.168.0.9",
        "127.0.0.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.1",
    ],
)
def test_private_addresses_are_somebodys_own(text: str) -> None:
    assert is_private(ipaddress.ip_address(text))
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "240.0.0.1",
        "93.184.215.14",
        "2606:4700::6810:84e5",
        "64:ff9b::169.254.169.254",
        "::ffff:169.254.169.254",
        "192.0.0.192",
        "168.63.129.16",
    ],
)
def test_metadata_and_addresses_of_no_server_are_not_private_either(text: str) -> None:
    assert not is_private(ipaddress.ip_address(text))
